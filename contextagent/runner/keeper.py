"""Pilots and their keepers, as the watch, a stop and the command line see them: started, looked at, told to stop.

What is known of a pilot stands in a folder of its own, `pilot/N` below `Host.run_folder`, 0700.  Its keeper
(`runner.keeping`) writes `started` and `ended` there; whether it lives is known by its lock alone.
"""

from __future__ import annotations

import os

from contextagent import jsontext
from contextagent.host import kept, program
from contextagent.model import Value
from contextagent.pilots.course import ALIVE, Slot
from contextagent.runner.state import instance_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    from contextagent.host import Host

    KeptState = Literal["starting", "running", "stopping", "ended", "lost"]

FOLDER = "pilot"
"""Its name below `Host.run_folder`."""
ORDER, TAKEN, STARTED, ENDED, STOPPING = "order", "taken", "started", "ended", "stopping"
STOP, KILL = b"stop", b"kill"
MARGIN_S = 25.0
"""What it may take, beside the time that a pilot has to end, until its whole tree is dead and its keeper has gone."""
COURSE = "course.json"
TRACED: Mapping[str, str] = {
    "exit_code": "exit",
    **{name: name for name in ("signal", "wall_s", "out_bytes", "out_sha512")},
}
"""What a keeper says of an end to the key under which the trace has it."""
_MAX_BYTES = 1 << 20
_STEP_S = 0.02
_MAX_LOG_BYTES, _TAIL_BYTES = 4 << 20, 1 << 16
_START = "import sys; sys.path.insert(0, sys.argv[1]); from contextagent.runner.keeping import main; main(sys.argv[2:])"


class Order(Value):
    """What a keeper is to do; all paths are the guest's.

    Attributes:
        number: Which of the pilots on this machine, from 1.
        framework: As in the settings.
        pilot: The settings `pilot.*`, less that word.
        instance_id: Of this instance.
        boot_id: Of this boot.
        account: The fields of its account; None for the caller's rights.
        is_alone: Whether nothing else runs as that account.
        is_users: Whether the user chose its folder or its credential, so that neither can be root's.
        script: What is started in the place of what the framework says: the `epilog.sh` that a user left.
        environment: What its variables are made of, beside what is the same for every pilot.
        workdir: Folder it runs in.
        home: Its account's home.
        remaining_s: Seconds until the machine's end; None where none is known.
        features: `machine/KEY` and `job/KEY` to text, as published.
        machine_features: What `MACHINEFEATURES` is for it: a real folder, or a URL.
        job_features: What `JOBFEATURES` is for it.
        job_outputs: What `JOBOUTPUTS` is for it.
        hostname: The machine's name.
        log: Where its output is kept.
    """

    number: int
    framework: str
    pilot: Mapping[str, Any]
    instance_id: str
    boot_id: str
    account: Mapping[str, Any] | None
    workdir: str
    home: str
    machine_features: str
    job_features: str
    job_outputs: str
    log: str
    is_alone: bool = True
    is_users: bool = False
    script: str = ""
    environment: Mapping[str, str] = {}
    remaining_s: int | None = None
    features: Mapping[str, str] = {}
    hostname: str = ""


class Kept(Value):
    """How a pilot stands.

    Attributes:
        number: Which one.
        state: `starting` before it runs; `lost` when its keeper was killed, and the pilot's whole tree with it.
        pid: Of its own process, as this machine sees it; None before, and where it can't be known.
        started: What the keeper wrote when it had started it; empty before.
        ended: What it wrote when it had ended: `reason` (`exit`, `abort`, or why it was not even started), `detail`,
            `exit_code`, `signal`, `stopped` (by whom, or empty), `wall_s`, `out_bytes`, `out_sha512`, `killed`.
    """

    number: int
    state: KeptState
    pid: int | None = None
    started: Mapping[str, Any] = {}
    ended: Mapping[str, Any] = {}

    @property
    def workdir(self) -> str:
        """The folder it runs in; empty where it was never started."""
        return str(self.started.get("workdir", ""))

    @property
    def account(self) -> str | None:
        """Name of its account; None for the caller's rights."""
        return self.started.get("account")

    @property
    def is_alive(self) -> bool:
        """Whether its keeper lives."""
        return self.state in ALIVE


def folder(host: Host, number: int) -> str:
    """Return where a pilot's keeper writes."""
    return f"{host.run_folder}/{FOLDER}/{number}"


def start(host: Host, order: Order) -> None:
    """Start a keeper, which starts the pilot; this does not wait for either.

    Raises:
        CannotWriteError: The order can't be written.
        OSError: No process could be had, or this pilot has a keeper already.
    """
    place = folder(host, order.number)
    host.files.make_folder(f"{host.run_folder}/{FOLDER}")
    lock = kept.lay_out(host.files, place)
    try:
        host.files.write(f"{place}/{ORDER}", jsontext.dumps(dict(order.fields())).encode())
        kept.spawn(("-c", _START, program.path(), host.root, str(order.number)), lock)
    finally:
        os.close(lock)


def look(host: Host) -> tuple[Kept, ...]:
    """Return every pilot that this boot has had a keeper for, by number."""
    names = [entry.name for entry in host.files.folder(f"{host.run_folder}/{FOLDER}") if entry.kind == "folder"]
    return tuple(look_at(host, number) for number in sorted(int(name) for name in names if name.isdecimal()))


def look_at(host: Host, number: int) -> Kept:
    """Return how one pilot stands."""
    place = folder(host, number)
    # in this order: what a keeper writes last is there once it has gone
    is_alive = kept.is_alive(host.files, place)
    started, ended = _said(host, f"{place}/{STARTED}"), _said(host, f"{place}/{ENDED}")
    state: KeptState
    if not is_alive:
        state = "ended" if ended else "lost"
    elif host.files.exists(f"{place}/{STOPPING}"):
        state = "stopping"
    else:
        state = "running" if started else "starting"
    pid = started.get("pid") if is_alive else None
    return Kept(number=number, state=state, pid=pid or None, started=started, ended=ended)


def ask_stop(host: Host, number: int, *, why: str) -> bool:
    """Tell a keeper to stop its pilot as its settings say; return whether there was one to be told.

    Args:
        host: The machine.
        number: Which pilot.
        why: One word, which its end will tell: `lifetime`, `stop`, `asked`.
    """
    return kept.order(host.files, folder(host, number), STOP + b" " + why.encode())


def stop_all(host: Host, *, why: str) -> tuple[Kept, ...]:
    """Stop all pilots, and wait until nothing of them is left: at most the time that they have to end, and a little.

    Returns:
        Those whose keepers live on all the same; none as a rule.
    """
    waiting: dict[int, float] = {}
    now_s = host.mono_ns() / 1e9
    for each in look(host):
        if each.is_alive and _tell(host, each.number, why):
            waiting[each.number] = now_s + each.started.get("stop_s", 0) + MARGIN_S
    for number, end_s in waiting.items():
        if not kept.wait_gone(host.files, folder(host, number), end_s):
            kept.order(host.files, folder(host, number), KILL)
    for number in waiting:
        kept.wait_gone(host.files, folder(host, number), host.mono_ns() / 1e9 + MARGIN_S)
    return tuple(each for each in look(host) if each.is_alive)


def _tell(host: Host, number: int, why: str) -> bool:
    """Tell a keeper to stop its pilot, as soon as it hears: one that was just started does not yet."""
    end_s = host.mono_ns() / 1e9 + MARGIN_S
    while not ask_stop(host, number, why=why):
        if not kept.is_alive(host.files, folder(host, number)) or host.mono_ns() / 1e9 >= end_s:
            return False
        kept.wait_gone(host.files, folder(host, number), host.mono_ns() / 1e9 + _STEP_S)
    return True


def is_taken_up(host: Host, number: int) -> bool:
    """Return whether a keeper has read its order: then it may have done anything."""
    return host.files.exists(f"{folder(host, number)}/{TAKEN}")


def log_path(instance_id: str, number: int) -> str:
    """Return where a pilot's output is kept."""
    return f"{instance_folder(instance_id)}/output/pilot-{number}.log"


def state_changed_ns(host: Host, instance_id: str) -> int:
    """Return when what is remembered of an instance was last written."""
    return host.files.changed_ns(f"{instance_folder(instance_id)}/state.json")


def log_tail(host: Host, path: str) -> bytes:
    """Return the end of a pilot's log, in which its last words are looked for."""
    try:
        return host.files.read(path, max_bytes=_MAX_LOG_BYTES)[-_TAIL_BYTES:]
    except OSError:
        return b""


def is_empty(host: Host, kept: Kept, name: str) -> bool:
    """Return whether a file of a pilot's, named below its folder or from the root, is empty or not there."""
    try:
        return os.lstat(host.files.real(os.path.join(kept.workdir or "/", name))).st_size == 0
    except OSError:
        return True


def load_course(host: Host) -> dict[int, Slot]:
    """Return what is remembered of this boot's pilots, by number; nothing where it can't be read."""
    plain = _said(host, f"{host.run_folder}/{FOLDER}/{COURSE}")
    try:
        return {int(number): Slot(**slot) for number, slot in plain.items()}
    except (TypeError, ValueError):
        return {}


def store_course(host: Host, slots: Mapping[int, Slot]) -> None:
    """Remember it, for a watch that comes after this one.

    Raises:
        CannotWriteError: It can't be written.
    """
    host.files.make_folder(f"{host.run_folder}/{FOLDER}")
    plain = {str(number): dict(slot.fields()) for number, slot in slots.items()}
    host.files.write(f"{host.run_folder}/{FOLDER}/{COURSE}", jsontext.dumps(plain).encode())


def _said(host: Host, path: str) -> Mapping[str, Any]:
    try:
        said = jsontext.loads(host.files.read(path, max_bytes=_MAX_BYTES))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
