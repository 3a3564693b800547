"""The watch's one event loop: it sleeps until something happens or is due, and all that is due shares a wake-up.

A loop on poll(2) and not asyncio, whose import alone costs as much memory as all the rest of this process.
"""

from __future__ import annotations

import math
import os
import signal
from importlib import import_module

from contextagent.errors import ContextAgentError
from contextagent.watch.room import TICK_S, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Literal

    from contextagent.features.lifetime import Now
    from contextagent.watch.room import Part

    Outcome = Literal["end", "again"]

PARTS = ("lifetime", "served", "pilot", "requests", "heartbeat", "receipt", "onegate")
"""Modules of this room that are parts of the watch, in the order in which they are called; each has a `begin`."""
_ENDING = (signal.SIGTERM, signal.SIGINT)
_AGAIN = signal.SIGHUP
_NEWS = (signal.SIGIO, signal.SIGCHLD)
_MOST_BYTES = 256
_LEAST_S = 0.01
"""Between two calls of a part that always says it is due."""


def begin_parts(watch: Watch, names: Sequence[str] = PARTS) -> list[Part]:
    """Return the parts that have something to do on this machine."""
    begun = (import_module(f"contextagent.watch.{name}").begin(watch) for name in names)
    return [part for part in begun if part is not None]


class Signals:
    """What other processes and the kernel say by signal, as bytes in a pipe that the loop reads."""

    def __init__(self) -> None:
        self.fd, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _note) for number in (*_ENDING, _AGAIN, *_NEWS)}
        os.register_at_fork(after_in_child=self._disown)

    def numbers(self) -> bytes:
        """Return the numbers of the signals that came since the last call."""
        try:
            return os.read(self.fd, _MOST_BYTES)
        except BlockingIOError:
            return b""

    def _disown(self) -> None:
        """In a child that goes on with this program: let signals do again what they do to any process.

        The pipe is the watch's; where the child has closed it, a signal's byte would go into whatever it opens next.
        """
        if self._handlers:
            signal.set_wakeup_fd(-1)
            for number in self._handlers:
                signal.signal(number, signal.SIG_DFL)

    def close(self) -> None:
        """Put back what was there before."""
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before)
        os.close(self.fd)
        os.close(self._writing)


def _note(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the signal's number is in the pipe."""


class Loop:
    """One run of the watch, from what it heard when it began until it is ended, or is to begin anew.

    Attributes:
        wake_ups: How often it was woken.
    """

    def __init__(self, watch: Watch, parts: Sequence[Part], signals: Signals) -> None:
        self._watch = watch
        self._parts = parts
        self._signals = signals
        self._outcome: Outcome | None = None
        self._said: dict[int, str] = {}
        self.wake_ups = 0

    def run(self, ready: Callable[[], object] | None = None) -> Outcome:
        """Wait and act until SIGTERM (`end`), or SIGHUP or news of another process (`again`).

        Args:
            ready: Called once, when every part has begun its work.
        """
        watch = self._watch
        watch.at_readable(self._signals.fd, self._heard)
        try:
            self._wake(watch.now())
            if ready is not None:
                ready()
            while self._outcome is None:
                now = watch.now()
                if watch.is_poked or now.boot_s >= watch.due_s:
                    self._wake(now)
                    # whoever always has more to do keeps nobody else from being heard
                    if watch.is_poked or watch.now().boot_s >= watch.due_s:
                        self._hear(0.0)
                else:
                    self.wake_ups += 1
                    self._hear(watch.due_s - now.boot_s)
            watch.flush()
            return self._outcome
        finally:
            watch.at_readable(self._signals.fd, None)
            for part in self._parts:
                part.close()
            watch.close()

    def _hear(self, most_s: float) -> None:
        """Sleep, and then call those whose descriptors have something for them."""
        for fd, _ in self._watch.poller.poll(math.ceil(most_s * 1000)):
            if call := self._watch.readers.get(fd):  # the call before this one may have let go of it
                call()

    def _wake(self, now: Now) -> None:
        """Call every part, and note when the first of them wants to be called again."""
        watch = self._watch
        watch.is_poked, watch.due_s = False, now.boot_s + TICK_S
        watch.note_clock(now)
        watch.flush()
        watch.look_again()
        watch.reread()
        if watch.is_stale:  # what the parts would publish is older than what stands there
            self._outcome = self._outcome or "again"
            return
        for part in self._parts:
            due_s = self._due_s(part, now)
            if due_s is not None:
                watch.wake_by(max(due_s, now.boot_s + _LEAST_S))

    def _due_s(self, part: Part, now: Now) -> float | None:
        """Call one part; what it can't do keeps no other from doing its own, and is tried again with the next tick."""
        try:
            return part.wake(now)
        except (ContextAgentError, OSError) as error:
            if self._said.get(id(part)) != str(error):
                self._said[id(part)] = str(error)
                self._watch.say(f"{error}, trying again every minute")
            return None

    def _heard(self) -> None:
        numbers = self._signals.numbers()
        if any(number in numbers for number in _ENDING):
            self._outcome = "end"
        elif _AGAIN in numbers and self._outcome is None:
            self._outcome = "again"
        self._watch.poke()
