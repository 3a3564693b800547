"""The watch as a process of its own, and inside a test where an hour takes no time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from contextagent.host import Host
from contextagent.runner.live import load_live
from contextagent.watch.entry import gather
from contextagent.watch.loop import Loop, Signals, begin_parts
from tests.machine import AGENT, REPOSITORY

if TYPE_CHECKING:
    import select
    from collections.abc import Callable, Sequence

    from contextagent.watch.room import Part, Watch
    from tests.machine import Machine

PATIENCE_S = 30.0
_STEP_S = 0.01
_IDLE_READERS = 2
"""What an idle watch listens to: signals, and its port."""


def until(is_so: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(_STEP_S)


def free_port() -> int:
    """Return a port that nobody on the loopback link has just now."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class Watching:
    """`contextagent watch` on a machine, for as long as the block lasts; its end is a SIGTERM.

    Attributes:
        process: The process.
    """

    def __init__(self, machine: Machine, *words: str) -> None:
        self._machine = machine
        self._words = words
        self._log = machine.root.parent / f"{machine.root.name}.watch.log"

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*AGENT, "--root", str(self._machine.root), "watch", *self._words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
                cwd=str(REPOSITORY),
            )
        pid_file = self._machine.root / "run/contextagent/watch.pid"
        mine = f"{self.process.pid}\n"
        until(
            lambda: self.process.poll() is not None or (pid_file.exists() and pid_file.read_text() == mine),
            "the watch has begun",
        )
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    @property
    def log(self) -> str:
        """All that it has said, to stdout and stderr."""
        return self._log.read_text()

    def memory_mib(self) -> float:
        """Return the most memory that it has had resident."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) / 1024


class SlowHost(Host):
    """A machine whose clocks stand still until a test moves them."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.utc_s = Host.utc_ns() / 1e9
        self.boot_s = Host.boot_ns() / 1e9

    def utc_ns(self) -> int:  # type: ignore[override]  # a real machine's clocks belong to no object
        return int(self.utc_s * 1e9)

    def boot_ns(self) -> int:  # type: ignore[override]  # as above
        return int(self.boot_s * 1e9)

    def move(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        self.utc_s += seconds
        self.boot_s += seconds


class Hurried:
    """A poller that has no patience: where nothing happens at once, the machine's time moves on instead.

    Attributes:
        naps_s: How long each wait was to be.
        at: Second on the clock since boot to what a test does then; the last of them ends the loop.
    """

    def __init__(self, host: SlowHost, real: select.poll, is_busy: Callable[[], bool]) -> None:
        self._host = host
        self._real = real
        self._is_busy = is_busy
        self.naps_s: list[float] = []
        self.at: dict[float, Callable[[], object]] = {}

    def register(self, fd: int, mask: int) -> None:
        self._real.register(fd, mask)

    def unregister(self, fd: int) -> None:
        self._real.unregister(fd)

    def poll(self, most_ms: float) -> list[tuple[int, int]]:
        """Return what has happened; a child that is at work is waited for in real time."""
        happened = self._real.poll(PATIENCE_S * 1000 if self._is_busy() else 0)
        if happened:
            return happened
        self.naps_s.append(most_ms / 1000)
        due_s = min([self._host.boot_s + most_ms / 1000, *self.at])
        self._host.move(max(due_s - self._host.boot_s, 0.0))
        if due_s in self.at:
            self.at.pop(due_s)()
            return []
        return []


class Hour:
    """A watch inside a test, and as much of its time as the test wants.

    Attributes:
        watch: What the parts share.
        poller: What it waits with.
        loop: The loop; `loop.wake_ups` counts.
    """

    def __init__(self, host: SlowHost, parts: Sequence[Part] | None = None) -> None:
        live = load_live(host)
        assert live is not None, "nothing was published"
        self.host = host
        self.watch: Watch = gather(host, None, live)
        self.poller = Hurried(host, self.watch.poller, self._is_busy)
        self.watch.poller = self.poller  # type: ignore[assignment]  # as far as the watch uses one, it is one
        self._signals = Signals()
        self.parts: list[Part] = begin_parts(self.watch) if parts is None else list(parts)
        self.loop = Loop(self.watch, self.parts, self._signals)

    def _is_busy(self) -> bool:
        """Whether a child is at work: whatever is listened to beside the signals and the port is one's."""
        return len(self.watch.readers) > _IDLE_READERS

    def run(self, seconds: float) -> None:
        """Let that much time pass, and end the watch."""
        self.poller.at[self.host.boot_s + seconds] = lambda: os.kill(os.getpid(), signal.SIGTERM)
        try:
            assert self.loop.run() == "end"
        finally:
            self._signals.close()
