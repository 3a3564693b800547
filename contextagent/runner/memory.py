"""What the agent knows when a phase begins: the last checkpoint, and what the trace says has happened since."""

from __future__ import annotations

from contextagent.model import Ending, Problem, Value
from contextagent.runner.journal import LOGS, last_record, read_records
from contextagent.runner.state import State, fold, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from contextagent.host import Host
    from contextagent.runner.journal import Journal


class Memory(Value):
    """The instance as remembered.

    Attributes:
        state: Of this boot where the agent has run in it already, else cleared of what spoke of the boot before.
        unfinished: `start` records that no `end` follows: the agent was killed while the script ran.
        begun: Id to ending of the scripts that the killed agent began in this boot; None where it was interrupted.
    """

    state: State
    unfinished: tuple[Mapping[str, Any], ...] = ()
    begun: Mapping[str, Ending | None] = {}


def recall(host: Host) -> Memory:
    """Return what is remembered, repaired from the traces where the checkpoint is behind, damaged or gone."""
    state = load(host) or State(instance_id="")
    boot_id = host.boot_id()
    was_killed = any(phase.get("state") == "running" for phase in state.phases.values())
    unfinished: tuple[Mapping[str, Any], ...] = ()
    begun: dict[str, Ending | None] = {}
    if state.damage or was_killed or _has_grown(host, state, boot_id):
        records = list(_records_since(host, state))
        state = state.replace(once=fold(state.once, records))
        unfinished = tuple(_unfinished(records))
        begun = _begun(records, boot_id)
    if state.damage:
        damaged = Problem(
            reason="state-damaged",
            message=f"cannot use the state of instance '{state.instance_id}': {state.damage}, using the traces instead",
        )
        state = state.replace(warnings=(damaged,), damage="")
    if state.boot_id != boot_id:
        state = state.replace(
            boot_id=boot_id,
            phases={},
            verdicts=(),
            errors=(),
            reports=(),
            late=(),
            logging={},
            read={},
            warnings=state.warnings if not state.boot_id else (),
        )
    return Memory(state=state, unfinished=unfinished, begun=begun)


def _has_grown(host: Host, state: State, boot_id: str) -> bool:
    """Whether the trace knows more than the checkpoint: it could be written where the state could not."""
    if not state.last:
        return False
    last = last_record(host, state.last["boot"])
    is_longer = last is not None and last["seq"] != state.last["seq"]
    return is_longer or (state.last["boot"] != boot_id and last_record(host, boot_id) is not None)


def _records_since(host: Host, state: State) -> Iterator[Mapping[str, Any]]:
    """Yield the trace's records that the checkpoint does not know; all of the instance's where it is damaged."""
    if state.damage:
        yield from _records_of(host, state.instance_id)
        return
    for boot_id in dict.fromkeys((state.boot_id, host.boot_id())):
        after = state.last.get("seq", 0) if state.last.get("boot") == boot_id else 0
        yield from (
            record
            for record in read_records(host, boot_id)
            if record["seq"] > after and record.get("inst") == state.instance_id
        )


def once_in_traces(host: Host, instance_id: str) -> dict[str, tuple[str, str]]:
    """Return the once-markers of an instance of which nothing but traces is left; empty where there are none."""
    return fold({}, _records_of(host, instance_id))


def _records_of(host: Host, instance_id: str) -> Iterator[Mapping[str, Any]]:
    for entry in sorted(host.files.folder(LOGS), key=lambda entry: entry.path):
        if entry.name.startswith("trace-") and entry.name.endswith(".jsonl"):
            boot_id = entry.name[len("trace-") : -len(".jsonl")]
            yield from (record for record in read_records(host, boot_id) if record.get("inst") == instance_id)


def _unfinished(records: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the `start` records that are not followed by an `end` of the same script, in order."""
    open_starts: dict[tuple[str, str], Mapping[str, Any]] = {}
    for record in records:
        if record["ev"] == "start":
            open_starts[record["boot"], record["id"]] = record
        elif record["ev"] == "end":
            for key in [key for key in open_starts if key[1] == record["id"]]:
                del open_starts[key]
    yield from open_starts.values()


def _begun(records: list[Mapping[str, Any]], boot_id: str) -> dict[str, Ending | None]:
    begun: dict[str, Ending | None] = {}
    for record in records:
        if record["boot"] == boot_id and record["ev"] in ("start", "end"):
            is_over = record["ev"] == "end" and record["reason"] != "agent-restart"
            begun[record["id"]] = _ending(record) if is_over else None
    return begun


def _ending(record: Mapping[str, Any]) -> Ending:
    is_ok = record["exit"] == 0 and record["reason"] == "exit"
    return Ending(
        state="ok" if is_ok else "timeout" if record["reason"] == "timeout" else "failed",
        reason=record["reason"],
        exit_code=record["exit"],
        signal=record["signal"],
        wall_s=record["wall_s"],
    )


def close_interrupted(journal: Journal, memory: Memory) -> State:
    """Record an `end` for each script that a killed agent left open, and return the state with them as interrupted."""
    once = dict(memory.state.once)
    for record in memory.unfinished:
        journal.record("end", id=record["id"], exit=None, signal=None, reason="agent-restart")
        once[record["id"]] = (record["sha512"], "interrupted")
    return memory.state.replace(once=once)
