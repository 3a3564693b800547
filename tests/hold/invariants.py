"""What must hold after any fault and the next whole run: I1 to I7.

Each check is written against the promises and reads files only; it shares no code with the agent.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hold.arena import REFUSED_MARK, SITE_SCRIPTS, USER_SCRIPTS, Arena

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DECLARED = (
    "etc/contextagent", "run/contextagent", "var/lib/contextagent", "var/log/contextagent", "var/lib/hepix",
    "var/lib/contextuser", "etc/machinefeatures", "etc/jobfeatures", "etc/joboutputs", "etc/profile.d",
    "var/run/shutdown_time", "var/lib/amiconfig", "var/lock/subsys", "etc/site.conf",
)  # fmt: skip
ONCE = (*USER_SCRIPTS, "site/post-network/post-network.d/10-once")
TRACE_GAP = "putting its records on the console"
CHANGING_NAMES = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{16,}")


def violations(
    arena: Arena, *, durable: Mapping[str, bytes], said: str, clean: Mapping[str, str], clean_result: str
) -> list[str]:
    """Return every invariant that does not hold, one sentence each; empty when all do.

    Args:
        arena: After the faulty run and a whole run after it.
        durable: The traces as they stood right after the faulty run.
        said: What the faulty run and the one after it printed.
        clean: The tree of a machine that went the same way without a fault.
        clean_result: The result on that machine.
    """
    traces = arena.traces()
    records = [record for data in traces.values() for record in parsed(data)]
    status = arena.status()
    lines = arena.effect_lines()
    return [
        *chain_violations(traces, durable),
        *once_violations(lines, records, is_traced=TRACE_GAP not in said),
        *(["I3: a script of a refused payload ran"] if REFUSED_MARK in lines else []),
        *order_violations("in effect", effect_runs(lines)),
        *order_violations("in the trace", trace_runs(traces, durable)),
        *place_violations(arena.tree(), clean),
        *left_over_violations(arena),
        *result_violations(lines, status, clean_result),
    ]


def parsed(data: bytes) -> list[dict[str, Any]]:
    """Return a trace's records; a line that is no JSON ends them."""
    records = []
    for line in data.split(b"\n")[:-1]:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def chain_violations(traces: Mapping[str, bytes], durable: Mapping[str, bytes]) -> Iterator[str]:
    """I1: every chain verifies, and what was in a file stays in it."""
    for name, data in traces.items():
        head = "0" * 64
        if data and not data.endswith(b"\n"):
            yield f"I1: {name} ends in half a line"
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
            except ValueError:
                yield f"I1: {name}:{number} is no JSON: {line[:80]!r}"
                break
            if (record["seq"], record["prev"]) != (number, head):
                yield f"I1: {name}:{number} breaks the chain: seq {record['seq']}, prev {record['prev']} not {head}"
                break
            head = hashlib.sha256(line).hexdigest()
    for name, before in durable.items():
        whole = before[: before.rfind(b"\n") + 1]
        if not traces.get(name, b"").startswith(whole):
            yield f"I1: {name} lost records that it had"


def once_violations(lines: list[str], records: list[dict[str, Any]], *, is_traced: bool) -> Iterator[str]:
    """I2: a `once` script ran at most once; one that did not come to its end is recorded as interrupted.

    Where the trace could not be written and that was said (`trace.on_full: degrade`), it need not tell of every script.
    """
    for script_id in ONCE:
        begun = lines.count(f"begin {script_id}")
        if begun > 1:
            yield f"I2: {script_id} ran {begun} times"
        if not is_traced:
            continue
        ends = [record for record in records if record["ev"] == "end" and record["id"] == script_id]
        starts = [record for record in records if record["ev"] == "start" and record["id"] == script_id]
        began = len(starts) - sum(record["reason"] == "abort" for record in ends)
        if begun and not ends:
            yield f"I2: {script_id} ran, and no record says how it ended"
        if began > 1 or len(ends) > len(starts):
            yield f"I2: {script_id} has {len(starts)} start and {len(ends)} end records"
        if begun and f"done {script_id}" not in lines and not any(end["reason"] == "agent-restart" for end in ends):
            yield f"I2: {script_id} was cut off, and is not recorded as interrupted"


def effect_runs(lines: list[str]) -> list[list[str]]:
    """Return, per run of the agent, the ids of the scripts that began, in order."""
    runs: list[list[str]] = []
    for line in lines:
        if line == "-- run":
            runs.append([])
        elif line.startswith("begin "):
            runs[-1].append(line.removeprefix("begin "))
    return runs


def trace_runs(traces: Mapping[str, bytes], durable: Mapping[str, bytes]) -> list[list[str]]:
    """Return the ids of the `start` records in order: per boot those up to the fault, and those since."""
    runs = []
    for name, data in traces.items():
        records = parsed(data)
        until = durable.get(name, b"").count(b"\n")
        runs += [records[:until], records[until:]]
    return [[record["id"] for record in run if record["ev"] == "start"] for run in runs]


def order_violations(where: str, runs: Iterable[list[str]]) -> Iterator[str]:
    """I4: in each phase of each run no script of the user begins after one of the site; phases do not mix."""
    for run in runs:
        groups = [f"{phase}/{owner}" for owner, phase, *_ in (script_id.split("/") for script_id in run)]
        rank = ["pre-network/user", "pre-network/site", "post-network/user", "post-network/site"]
        if [rank.index(group) for group in groups] != sorted(rank.index(group) for group in groups):
            yield f"I4: out of order {where}: {run}"


def place_violations(tree: Mapping[str, str], clean: Mapping[str, str]) -> Iterator[str]:
    """I5, I6: what is there is what a machine without faults has; nothing else, no temporary name, no other mode."""
    expected = normalised(clean)
    # An agent that could read neither the disk nor the machine's identity has rightly booted another instance, and one
    # that could not reserve the trace's room in its own file keeps it in another.  Where the site's part has failed by
    # the fault, whoever waits for the machine is told so.
    others = re.compile(
        r"var/lib/contextagent/instances/local-|var/log/contextagent/\.reserve$"
        r"|etc/joboutputs/(receipt\.json|shutdown_message)$|run/contextagent/end(ed|ing)\.(json|lock)$"
    )
    for path, mode in sorted(normalised(tree).items()):
        if others.match(path):
            continue
        if path not in expected:
            is_inside = any(path == place or path.startswith(f"{place}/") for place in DECLARED)
            yield f"{'I6: left over' if is_inside else 'I5: changed outside the declared places'}: {path}"
        elif expected[path] != mode:
            yield f"I5: {path} has mode {mode}, not {expected[path]}"
    for path in sorted(set(expected) - set(normalised(tree))):
        if not re.search(r"/output/|left-by-user|/trace-|/receipt-", path):
            yield f"I7: missing: {path}"


def normalised(tree: Mapping[str, str]) -> dict[str, str]:
    """Return a tree with the names that no two machines share made equal."""
    return {CHANGING_NAMES.sub("*", path): mode for path, mode in tree.items()}


def left_over_violations(arena: Arena) -> Iterator[str]:
    """I6: no mount, loop device or held lock is left; processes are for the first of the namespace to count."""
    table = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [line for line in table if f" {arena.root}" in line]
    if mounts:
        yield f"I6: still mounted: {mounts}"
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if backing.read_text().startswith(str(arena.folder)):
            yield f"I6: still attached: {backing}"
    lock = arena.root / "run/contextagent/lock"
    if lock.exists():
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield "I6: the lock is still held"


def result_violations(lines: list[str], status: Mapping[str, Any], clean_result: str) -> Iterator[str]:
    """I7: the boot came to its end with the right result, and in the last run the site's scripts to theirs."""
    interrupted = [each["id"] for each in status["scripts"] if "interrupted" in (each["state"], each["reason"])]
    owners = {script_id.split("/")[0] for script_id in interrupted}
    # whoever can't know that a script of the site did its work must not start a pilot
    expected = "failed" if "site" in owners else "degraded" if owners else clean_result
    if status["result"] != expected:
        yield f"I7: result {status['result']}, not {expected}: {interrupted} {status['errors']} {status['warnings']}"
    last = lines[max(number for number, line in enumerate(lines) if line == "-- run") :]
    for script_id in SITE_SCRIPTS:
        ran = lines if script_id in ONCE else last
        if f"done {script_id}" not in ran and script_id not in interrupted:
            yield f"I7: {script_id} never came to its end"
    if status["pilot"] is not None:
        yield f"I7: a pilot appeared: {status['pilot']}"
