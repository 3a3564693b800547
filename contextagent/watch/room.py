"""What every part of the watch has in its hands: the machine, what holds, what is known of it, and one event loop.

A part never waits: it does what is due, says when it is to be called again, and long work goes to a child process whose
descriptor it hands to `Watch.at_readable`.
"""

from __future__ import annotations

import fcntl
import os
import select

from contextagent.errors import CannotWriteError
from contextagent.features.lifetime import Now
from contextagent.runner import status
from contextagent.runner.appending import append
from contextagent.runner.live import load_live, store_live
from contextagent.runner.status import LIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from contextagent.host import Host
    from contextagent.policy.settings import Settings
    from contextagent.runner.live import Live
    from contextagent.runner.state import State

    class Part(Protocol):
        """One thing that the watch does."""

        def wake(self, now: Now) -> float | None:
            """Do what is due, within some 50 ms.

            Called at every wake-up, whoever it is meant for, so what is not due yet is passed over.

            Returns:
                The second on the clock since boot (`now.boot_s`) by which to be called again at the latest; None where
                only something that happens needs this part again.
            """

        def close(self) -> None:
            """Let go of everything, since the watch ends or begins anew; a pilot lives on."""


TICK_S = 60.0
"""How often what can change is looked at; all parts that do so in the same wake-up cost one."""
_MOST_QUEUED = 1000
"""Records that wait for the trace; what comes on top goes to the console."""
_PATIENCE_S = 0.02
"""How long the trace's lock is waited for; records take microseconds, so who holds it for longer was stopped."""
_RETRY_S = 1.0
_STEP_S = 5.0
"""By how much the wall clock moves within a wake-up if somebody set it, and it was not only kept."""
_NEWS = fcntl.DN_CREATE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT


class Watch:
    """What the parts share.

    Attributes:
        host: The machine.
        settings: What holds, as heard when the watch began.
        state: The instance as remembered then.
        live: What is known right now; changed by `change` alone.
        poller: What the loop waits on; `at_readable` sets it up.
        readers: Descriptor to what is called when it can be read, or its other side is gone.
        is_poked: Whether all parts are to be called at once.
        answers: What is asked for in the folder for requests (`drain`) to what is called with its words and the asker's
            uid; a part puts its own there when it begins.
        due_s: When they are to be called at the latest, on the clock since boot.
        is_stale: Whether another process of ours published meanwhile: state and settings may be others by now.
        is_trace_full: Whether the last record could not be made durable.
    """

    def __init__(self, host: Host, settings: Settings, state: State, live: Live) -> None:
        self.host = host
        self.settings = settings
        self.state = state
        self.live = live
        self.poller = select.poll()
        self.readers: dict[int, Callable[[], None]] = {}
        self.is_poked = False
        self.answers: dict[str, Callable[[Mapping[str, Any], int], None]] = {}
        self.due_s = float("inf")
        self.is_trace_full = False
        self._offset_s = float(live.boot_epoch_s) or self.now().utc_s - self.now().boot_s
        self._steady_s = float("-inf")
        self._queue: list[tuple[str, dict[str, object]]] = []
        self._folders: dict[str, int] = {}
        self.is_stale = False
        self._stored = (0, 0)

    def now(self) -> Now:
        """Return this moment on both clocks."""
        return Now(utc_s=self.host.utc_ns() / 1e9, boot_s=self.host.boot_ns() / 1e9)

    def reread(self) -> None:
        """Take up what another process of ours (a `run` by hand) wrote of this boot."""
        written = self._written()
        if written == self._stored:
            return
        self._stored = written
        live = load_live(self.host)
        if live is not None and live != self.live:
            self.live = live
            self.is_stale = True

    def _written(self) -> tuple[int, int]:
        """Return what tells one writing of the file from another: its clock alone is too coarse."""
        try:
            found = os.lstat(self.host.files.real(f"{self.host.run_folder}/{LIVE}"))
        except OSError:
            return (0, 0)
        return found.st_mtime_ns, found.st_ino

    def change(self, **fields: object) -> None:
        """Replace fields of `live`, and store it, for this watch's successor and for everybody who asks."""
        self.reread()
        live = self.live.replace(**fields)
        if live == self.live:
            return
        try:
            store_live(self.host, live)
        except CannotWriteError as error:
            self.say(f"{error}, going on without it")
        self.adopt(live)

    def adopt(self, live: Live) -> None:
        """Go on with what was stored just now, and bring the status up to it."""
        is_news = live != self.live
        self.live = live
        self._stored = self._written()
        if not is_news:
            return
        try:
            status.refresh(self.host)
        except CannotWriteError as error:
            self.say(f"{error}, going on without it")

    def note_clock(self, now: Now) -> None:
        """Note, once a wake-up, how the wall clock stands against the clock since boot."""
        offset_s = now.utc_s - now.boot_s
        if abs(offset_s - self._offset_s) > _STEP_S:
            self._steady_s = now.boot_s
        self._offset_s = offset_s

    def is_clock_steady(self, now: Now) -> bool:
        """Return whether nobody has set the wall clock for a tick.

        An end on that clock which comes only because somebody set it wrongly, for a moment, must not be acted on: a
        machine that is off does not come back when the clock does.
        """
        self.note_clock(now)
        return now.boot_s - self._steady_s >= TICK_S

    def record(self, ev: str, **facts: object) -> bool:
        """Put one record into the trace, behind those that wait.

        Returns:
            Whether it is durable now.  Where another process holds the trace it waits in a queue, in order; where the
            trace can't be written it went to the console.
        """
        self._queue.append((ev, facts))
        return self.flush()

    def flush(self) -> bool:
        """Write the records that wait, and return whether all were, durably."""
        is_durable = True
        while self._queue:
            ev, facts = self._queue[0]
            written = append(
                self.host,
                ev,
                facts,
                instance_id=self.state.instance_id,
                on_full=self.settings["trace.on_full"],
                patience_s=_PATIENCE_S,
            )
            if written == "busy":
                self._give_up_oldest()
                self.wake_by(self.now().boot_s + _RETRY_S)
                return False
            is_durable = written == "durable"
            self.is_trace_full = not is_durable
            del self._queue[0]
        return is_durable

    def _give_up_oldest(self) -> None:
        while len(self._queue) > _MOST_QUEUED:
            ev, _ = self._queue.pop(0)
            self.host.announce(f"trace: {ev} is lost: another process holds the trace")

    @staticmethod
    def say(text: str) -> None:
        """Print one line on stderr, which is the init system's log; nobody has to read it."""
        line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
        try:
            os.write(2, f"contextagent: {line}\n".encode("utf-8", "backslashreplace"))
        except OSError:
            return

    def at_readable(self, fd: int, call: Callable[[], None] | None) -> None:
        """Call `call` whenever the descriptor can be read or its other side is gone; None: no more.

        Whoever closes a descriptor takes it out before.
        """
        if call is not None:
            self.readers[fd] = call
            self.poller.register(fd, select.POLLIN)
        elif self.readers.pop(fd, None) is not None:
            self.poller.unregister(fd)

    def at_change(self, folder: str) -> None:
        """Wake all parts whenever a name comes into a folder of the guest; one that is not there yet is tried again.

        Where the kernel does not tell (dnotify), the folder is only looked at with every tick.
        """
        self._folders.setdefault(folder, -1)
        self.look_again()

    def look_again(self) -> None:
        """Hold the folders that were not there before, or were put there anew."""
        for folder, fd in self._folders.items():
            real = self.host.files.real(folder)
            if fd >= 0 and _is_same(fd, real):
                continue
            if fd >= 0:
                os.close(fd)
            self._folders[folder] = _told_of(real)

    def poke(self) -> None:
        """Have all parts called as soon as what is being done is done."""
        self.is_poked = True

    def wake_by(self, boot_s: float) -> None:
        """Have all parts called by that second on the clock since boot, from outside of `Part.wake`."""
        self.due_s = min(self.due_s, boot_s)

    def close(self) -> None:
        """Let go of the folders."""
        for folder, fd in self._folders.items():
            if fd >= 0:
                os.close(fd)
            self._folders[folder] = -1


def _is_same(fd: int, real: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(real, follow_symlinks=False))
    except OSError:
        return False


def _told_of(real: str) -> int:
    """Return a descriptor of a folder of whose new names the kernel tells by SIGIO; -1 where it can't be had."""
    try:
        fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.fcntl(fd, fcntl.F_NOTIFY, _NEWS)
    except OSError:
        os.close(fd)
        return -1
    return fd
