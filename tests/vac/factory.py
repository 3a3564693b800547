"""What a Vac factory does with its machines: makes them, looks at them in cycles, ends them, and draws conclusions.

    factory = Factory(folder, Machinetype(user_data))
    machine = factory.create()
    machine.start(vm)          # anything with `is_running`, `press_power` and `cut`
    factory.run_until_ended()
    machine.message, factory.is_backing_off

A factory knows nothing of what is in a machine but what was put to its job outputs.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MESSAGE = "shutdown_message"
ABORT = 300
"""From this code on, a machine's message tells its factory to make no other one for a while."""
ACPI_S = 30.0
"""How long a machine has after its power button was pressed."""
_CYCLE_S = 0.05
_PATIENCE_S = 300.0


class Machinetype(NamedTuple):
    """A kind of machine, as the factory's configuration has it.

    Attributes:
        user_data: What its machines get as user data.
        name: Its name.
        processors: How many each has.
        max_wallclock_s: The longest that one may live.
        fizzle_s: What ends sooner, without a word, found no work; and a heartbeat is asked for only later than this.
        backoff_s: For how long no other one is made after one that aborted.
        heartbeat_file: The job output that says that a machine is well; empty: none is asked for.
        heartbeat_s: How old that may be; 0: it only has to be there.
        extras: Further machine features of the site.
    """

    user_data: str
    name: str = "gds-prod"
    processors: int = 1
    max_wallclock_s: int = 86400
    fizzle_s: int = 600
    backoff_s: int = 600
    heartbeat_file: str = ""
    heartbeat_s: int = 0
    extras: Mapping[str, str] = {}


class VM(Protocol):
    """What a factory can do with a virtual machine, once it runs."""

    @property
    def is_running(self) -> bool:
        """Whether it has not gone yet."""
        ...

    def press_power(self) -> None:
        """Press its power button."""
        ...

    def cut(self) -> None:
        """Take it away."""
        ...


class Message(NamedTuple):
    """A shutdown message: its three digits, None where it has none; the rest; when it was written."""

    code: int | None
    text: str
    at_s: float


class Machine:
    """One machine of a factory, from its making to what it left.

    Attributes:
        folder: With `machinefeatures/`, `jobfeatures/` and `joboutputs/`.
        uuid: Its own, which is the job's id.
        hostname: Its name.
        shutdown_s: When the factory ends it, seconds since 1970.
        started_s: When its VM was started; None: not yet.
        seen_s: When it was last seen running.
        is_over: Whether it has gone.
        destroyed: Why the factory itself ended it; None: it went by itself.
    """

    def __init__(self, folder: Path, machinetype: Machinetype, *, shutdown_s: int, now_s: float) -> None:
        self.folder = folder
        self.machinetype = machinetype
        self.uuid = str(uuid.uuid4())
        self.hostname = "factory1-00.example.org"
        self.shutdown_s = shutdown_s
        self.started_s: float | None = None
        self.seen_s = now_s
        self.is_over = False
        self.destroyed: str | None = None
        self.vm: VM | None = None
        for name in ("machinefeatures", "jobfeatures", "joboutputs"):
            (folder / name).mkdir(parents=True)
        for key, value in self._features(machinetype, int(now_s)).items():
            write(folder / key, value)

    def _features(self, kind: Machinetype, now_s: int) -> dict[str, str]:
        wall_s, count = max(self.shutdown_s - now_s, 0), kind.processors
        memory_bytes = count * 2048 * 1024**2
        machine = {"total_cpu": count, "phys_cores": count, "log_cores": count, "jobslots": 1}
        machine |= {"shutdowntime": self.shutdown_s}
        limits = {"cpu_limit_secs": wall_s * count, "wall_limit_secs": wall_s}
        job = {**limits, **{f"{name}_lrms": value for name, value in limits.items()}, "cpufactor_lrms": "1.0"}
        job |= {"shutdowntime_job": self.shutdown_s, "jobstart_secs": now_s, "job_id": self.uuid}
        job |= {"max_rss_bytes": memory_bytes, "mem_limit_MB": memory_bytes // 1000**2}
        job |= {"allocated_cpu": f"{count}\n", "allocated_CPU": f"{count}\n"}  # these two alone end with a line's end
        every = {f"machinefeatures/{key}": value for key, value in {**machine, **kind.extras}.items()}
        every |= {f"jobfeatures/{key}": value for key, value in job.items()}
        return {key: str(value) for key, value in every.items()}

    def start(self, vm: VM, now_s: float | None = None) -> None:
        """Take a VM that runs now."""
        self.vm, self.started_s = vm, time.time() if now_s is None else now_s
        self.seen_s = self.started_s

    def output(self, name: str) -> str | None:
        """Return a job output; None where there is none."""
        path = self.folder / "joboutputs" / name
        return path.read_text(errors="backslashreplace") if path.exists() else None

    @property
    def message(self) -> Message | None:
        """What it said at its end, or what the factory said for it."""
        path = self.folder / "joboutputs" / MESSAGE
        if not path.exists():
            return None
        line = path.read_text(errors="backslashreplace").partition("\n")[0].strip()
        found = re.match(r"\d{3}", line, re.ASCII)
        code, text = (int(found[0]), line[3:].strip()) if found else (None, line)
        return Message(code, text, path.stat().st_mtime)

    def lower(self, shutdown_s: int) -> None:
        """Tell it of an earlier end: by two features, while its wall-clock limit stays what it was."""
        self.shutdown_s = shutdown_s
        for key in ("machinefeatures/shutdowntime", "jobfeatures/shutdowntime_job"):
            write(self.folder / key, str(shutdown_s))

    def destroy(self, why: str, message: str = "") -> None:
        """End its VM: the power button, some time for it, the end; the message counts only where it left none."""
        self.destroyed = why
        assert self.vm
        if self.vm.is_running:
            self.vm.press_power()
            _wait_gone(self.vm)
            self.vm.cut()
        if message and self.message is None:
            write(self.folder / "joboutputs" / MESSAGE, message)
        self.is_over = True

    def heartbeat_fault(self, now_s: float) -> str:
        """Return the message with which its heartbeat, or the want of one, ends it; empty where all is well."""
        kind = self.machinetype
        if not kind.heartbeat_file or not kind.fizzle_s or self.started_s is None:
            return ""
        if now_s <= self.started_s + kind.fizzle_s:
            return ""
        path = self.folder / "joboutputs" / kind.heartbeat_file
        if not path.exists():
            return "700 Heartbeat file not created"
        if kind.heartbeat_s and now_s > path.stat().st_mtime + kind.heartbeat_s:
            return "700 Heartbeat file not updated"
        return ""


class Factory:
    """A factory with one kind of machine.

    Args:
        folder: Where its machines' folders are made.
        machinetype: The kind.
        clock: Seconds since 1970.

    Attributes:
        machines: All that it made, oldest first.
        shutdown_s: When all of its machines are to be gone, as its administrator says; None: nothing is planned.
    """

    def __init__(self, folder: Path, machinetype: Machinetype, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.machinetype = machinetype
        self.machines: list[Machine] = []
        self.shutdown_s: int | None = None
        self._clock = clock

    @property
    def machine(self) -> Machine:
        """The newest one, for which the services speak."""
        return self.machines[-1]

    def create(self) -> Machine:
        """Make what a new machine is told; it is not asked here whether one may be made."""
        now_s = self._clock()
        end_s = int(now_s) + self.machinetype.max_wallclock_s
        end_s = end_s if self.shutdown_s is None else min(end_s, self.shutdown_s)
        folder = self.folder / f"machine-{len(self.machines)}"
        self.machines.append(Machine(folder, self.machinetype, shutdown_s=end_s, now_s=now_s))
        return self.machine

    def cycle(self) -> None:
        """Look once at all machines, and do what is due."""
        now_s = self._clock()
        for machine in self.machines:
            if machine.is_over or machine.vm is None:
                continue
            if not machine.vm.is_running:
                machine.is_over = True
                continue
            machine.seen_s = now_s
            if self.shutdown_s is not None and self.shutdown_s < machine.shutdown_s:
                machine.lower(self.shutdown_s)
            if now_s > machine.shutdown_s:
                machine.destroy("lifetime")
            elif fault := machine.heartbeat_fault(now_s):
                machine.destroy("heartbeat", fault)

    def run_until_ended(self, is_so: Callable[[], object] | None = None) -> Machine:
        """Go on with cycles until the newest machine has gone, or until something else is so."""
        end = time.monotonic() + _PATIENCE_S
        while not (self.machine.is_over or (is_so and is_so())):
            assert time.monotonic() < end, f"a machine that is still there after {_PATIENCE_S:.0f} s"
            self.cycle()
            time.sleep(_CYCLE_S)
        return self.machine

    def outcome(self, machine: Machine) -> Message | None:
        """Return what the factory makes of a machine that has gone: its message, or a fizzle; None: nothing at all."""
        message = machine.message
        if message and message.code is not None:
            return message
        assert machine.started_s is not None
        lived_s = int(machine.seen_s - machine.started_s)
        if lived_s < self.machinetype.fizzle_s:
            return Message(ABORT, f"Vac detects fizzle after {lived_s} seconds", machine.seen_s)
        return None

    @property
    def next_s(self) -> float:
        """When another machine may be made, seconds since 1970; 0: there is nothing to wait for.

        After one that aborted, `backoff_s` have to go by; while another one is so young that it might fizzle, as many
        seconds more.
        """
        over = [machine for machine in self.machines if machine.is_over]
        last = self.outcome(over[-1]) if over else None
        if last is None or last.code is None or last.code < ABORT:
            return 0
        now_s, fizzle_s = self._clock(), self.machinetype.fizzle_s
        young = [each for each in self.machines if not each.is_over and now_s < (each.started_s or now_s) + fizzle_s]
        return last.at_s + self.machinetype.backoff_s + (fizzle_s if young else 0)

    @property
    def is_backing_off(self) -> bool:
        """Whether no other machine may be made yet."""
        return self._clock() <= self.next_s


def _wait_gone(vm: VM) -> None:
    end = time.monotonic() + ACPI_S
    while vm.is_running and time.monotonic() < end:
        time.sleep(_CYCLE_S)


def write(path: Path, text: str | bytes) -> None:
    """Write a file so that nobody reads half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as new:
        new.write(text if isinstance(text, bytes) else text.encode())
    os.rename(new.name, path)
