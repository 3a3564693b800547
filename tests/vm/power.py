"""Power cuts: a machine that can lose its power at any moment of a boot, and what must hold when it has it again.

The console stands outside the machine, so what it showed is what really happened.  There each script says that it
begins (its `start` was durable before, and so was the `end` of the script before it), and each `anchor` names a record
and its hash.  All that must be on the disk after the cut.

`CONTROL` machines have the same agent with flushes that do nothing (`nofsync.c`); the same checks must find them out.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.hold.arena import SITE_SCRIPTS, USER_SCRIPTS, Arena
from tests.hold.invariants import (
    chain_violations,
    effect_runs,
    once_violations,
    order_violations,
    parsed,
    place_violations,
    result_violations,
    trace_runs,
)
from tests.machine import make_iso
from tests.vm.guest import Cut, Guest, Setup
from tests.vm.parts import HERE, run
from tests.vm.sysv import SYSV

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.vm.guest import Boot

LAZY = "rootflags=commit=300 sysctl.vm.dirty_writeback_centisecs=0 sysctl.vm.dirty_expire_centisecs=360000"
"""Kernel words: what nobody asks to be flushed stays in memory for as long as a boot takes."""
QUICK = "lab.udev=none"
"""Kernel word: a third of the time of these many boots would go into finding devices that are known."""
USERADDS = r"etc/(?:passwd|group|shadow|gshadow|subuid|subgid)[.+-]"
"""What the machine's own useradd leaves where its power is cut; the agent asks it for the user's account."""
LOGS = "/var/log/contextagent"
REPORT = f"""
cd /run/lab/out
contextagent status --format json > status.json
mkdir traces; cp {LOGS}/trace-* traces
cat /proc/[0-9]*/mounts 2>/dev/null | grep iso9660 > mounts
find /etc /home /opt /root /srv /tmp /var \\
    \\( -type f -empty ! -name 'trace-*' -printf '%p %m-empty\\n' \\) -o -printf '%p %m\\n' > tree
"""
"""A test's text. A trace may be empty: its first record was not durable yet."""
SAID = re.compile(r"POWER ([0-9a-f-]{36}) (begin|done) (\S+)")
ANCHOR = re.compile(r"trace: anchor ([0-9a-f-]{36}) (\d+) ([0-9a-f]{64})")
UPTIME = re.compile(r"^LAB-(?:RUNLEVEL 3|UP) ([0-9.]+)$", re.MULTILINE)
WRAPPER = '#!/bin/sh\nexec /usr/local/sbin/nofsync /usr/libexec/contextagent/contextagent "$@"\n'


EVENTS = (
    ("LAB-RUNLEVEL 3", 6, 0.6),  # the agent starts, searches, and stages what it found
    ("LAB-NETWORK", 3, 0.3),
    ("trace: anchor", 2, 0.1),
    *((f"POWER .* {word} {each}", 1, 0.05) for word in ("begin", "done") for each in (*USER_SCRIPTS, *SITE_SCRIPTS)),
)
"""What the console shows in a boot, how often a cut is to come after it, and how much of a boot's time at most."""


class Moment(NamedTuple):
    """When the power is cut: by what the console shows, since a loaded machine is not twice as quick in the same way.

    Attributes:
        event: A regular expression for the console.
        share: How long after that, as a share of what a boot takes.
    """

    event: str
    share: float


def moment(draw: random.Random, *events: str) -> Moment:
    """Draw a moment; if events are named, one of these."""
    drawn = [each for each in EVENTS if not events or each[0].startswith(events)]
    event, _, most = draw.choices(drawn, [weight for _, weight, _ in drawn])[0]
    return Moment(event, round(draw.uniform(0, most), 3))


class Context(Arena):
    """Both owners' context, with scripts that speak on the console, and wait until the last byte has left."""

    def script(self, script_id: str, more: str = "") -> str:
        """Return a script that says when it begins and when it is done; at the machine's end it says nothing."""
        tell = f'tell() {{ echo "POWER $boot $1 {script_id}" >/dev/ttyS0; stty -F /dev/ttyS0 -echo; }}'
        boot = "boot=$(cat /proc/sys/kernel/random/boot_id)"
        return f'#!/bin/sh\n[ "$1" = start ] || exit 0\n{boot}\n{tell}\ntell begin\n{more}\ntell done\n'


def burn_context(folder: Path) -> Path:
    """Return an ISO with the context."""
    context = Context(folder)
    context.both_owners()
    return make_iso(context.disk, folder / "context.iso")


class Clean(NamedTuple):
    """What a machine is like that had power all the time, in its second boot.

    Attributes:
        tree: Its files.
        result: Of its boot.
        work_s: How long a first boot takes from the runlevel's begin to its end.
    """

    tree: Mapping[str, str]
    result: str
    work_s: float


class PoweredMachine:
    """A machine with a disk of its own and the context in its drive.

    Args:
        folder: Where its parts are put.
        iso: The context.
        is_control: Its agent's flushes do nothing.
    """

    def __init__(self, folder: Path, iso: Path, *, is_control: bool = False) -> None:
        self._guest = Guest(folder, SYSV)
        self._setup = Setup(cd=iso, words=f"{LAZY} {QUICK}", cache="writeback")
        self.consoles: list[str] = []
        self.durable: dict[str, bytes] = {}
        self.lost: list[str] = []
        if is_control:
            self._put_control()

    def _put_control(self) -> None:
        program = self._guest.folder / "nofsync"
        run("gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "nofsync.c")
        words = f"write {program} /usr/local/sbin/nofsync\nsif /usr/local/sbin/nofsync mode 0100755\n"
        run("debugfs", "-w", "-f", "-", self._guest.disk, stdin=words)
        self._guest.put({"/usr/bin/contextagent": WRAPPER}, 0o755)

    def boot(self) -> Boot:
        """Boot to the end, and shut down in order."""
        boot = self._guest.boot(REPORT, self._setup)
        self.consoles.append(boot.console)
        return boot

    def cut(self, moment: Moment, clean: Clean) -> None:
        """Boot, cut the power at this moment (when all is done if it does not come), note what of the known is lost."""
        cut = Cut(f"{moment.event}|LAB-UP", moment.share * clean.work_s)
        boot = self._guest.boot("sleep 600", self._setup, cut=cut)
        self.consoles.append(boot.console)
        self.durable = self._traces_on_disk()
        self.lost += missing(boot.console, self.durable)

    def _traces_on_disk(self) -> dict[str, bytes]:
        """Return the traces as the next boot will find them, from a copy: the kernel is to replay its own journal."""
        copy, out = self._guest.folder / "copy.ext4", self._guest.folder / "rescued"
        run("cp", "--sparse=always", "--reflink=auto", self._guest.disk, copy)
        run("e2fsck", "-y", "-E", "journal_only", copy)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        run("debugfs", "-R", f"rdump {LOGS} {out}", copy)
        copy.unlink()
        return {path.name: path.read_bytes() for path in sorted(out.rglob("trace-*.jsonl"))}

    def violations(self, whole: Boot, clean: Clean) -> list[str]:
        """Return what does not hold after the boot that followed the cuts, one sentence each."""
        traces = {path.name: path.read_bytes() for path in sorted((whole.results / "traces").iterdir())}
        records = [record for data in traces.values() for record in parsed(data)]
        status = json.loads(whole.read("status.json"))
        lines = [line for console in self.consoles for line in effects(console)]
        return [
            *self.lost,
            *chain_violations(traces, self.durable),
            *once_violations(lines, records, is_traced=True),
            *order_violations("in effect", effect_runs(lines)),
            *order_violations("in the trace", started(trace_runs(traces, self.durable))),
            *place_violations(tree(whole), clean.tree),
            *([f"I6: still mounted: {whole.read('mounts')}"] if whole.read("mounts") else []),
            *result_violations(lines, status, clean.result),
        ]


def powered(folder: Path, iso: Path) -> Clean:
    """Return what a machine is like that never lost its power."""
    machine = PoweredMachine(folder, iso)
    first, second = machine.boot(), machine.boot()
    began, ended = map(float, UPTIME.findall(first.console))
    result = json.loads(second.read("status.json"))["result"]
    assert machine.violations(second, Clean(tree(second), result, 0)) == []
    return Clean(tree(second), result, ended - began)


def tree(boot: Boot) -> dict[str, str]:
    """Return the modes of all files that may change, and which are empty; but for what is no fault of a cut."""
    modes = dict(line.removeprefix("/").rsplit(" ", 1) for line in boot.read("tree").splitlines())
    where_users_run = "var/run/contextagent/scripts"  # made by whichever boot comes to it
    told_at_the_end = "etc/joboutputs/shutdown_message"  # by the first boot that came to its end
    others = re.compile(f"{where_users_run}$|{told_at_the_end}$|.*/left-by-user$|{USERADDS}")
    return {path: mode for path, mode in modes.items() if not others.match(path)}


def effects(console: str) -> list[str]:
    """Return what the scripts of a boot did, as `tests.hold.arena` writes it."""
    return ["-- run", *(f"{word} {script_id}" for _, word, script_id in SAID.findall(console))]


def started(runs: list[list[str]]) -> list[list[str]]:
    """Return the runs of the boots: at their end, which only a boot with power has, the order is another."""
    return [[script_id for script_id in run if script_id.split("/")[1] != "stop"] for run in runs]


def missing(console: str, traces: Mapping[str, bytes]) -> Iterator[str]:
    """I1: yield what a console proves to have been durable, and is in no trace."""
    said = SAID.findall(console)
    begun = [script_id for _, word, script_id in said if word == "begin"]
    records = parsed(traces.get(f"trace-{said[0][0]}.jsonl", b"")) if said else []
    for ev, known in (("start", begun), ("end", begun[:-1])):
        held = {record["id"] for record in records if record["ev"] == ev}
        yield from (f"I1: lost: {ev} of {script_id}" for script_id in known if script_id not in held)
    for boot_id, seq, head in ANCHOR.findall(console):
        lines: list[Any] = traces.get(f"trace-{boot_id}.jsonl", b"").split(b"\n")[:-1]
        if len(lines) < int(seq) or hashlib.sha256(lines[int(seq) - 1]).hexdigest() != head:
            yield f"I1: lost: record {seq}, which was an anchor; {len(lines)} are there"
