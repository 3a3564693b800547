"""Work that takes its time, done by a child of a process that must not wait."""

from __future__ import annotations

import os
import signal

from contextagent.host.guestos import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_FIRST_OTHER = 3
_MAX_BYTES = 1 << 16
_DEFAULTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO)


class Aside:
    """A child that is at work.

    Attributes:
        fd: It can be read when the child has ended.
    """

    def __init__(self, pid: int, fd: int) -> None:
        self.fd = fd
        self._pid = pid

    def result(self) -> str:
        """Return what the child says at its end, and wait for that; empty where it was killed."""
        said = b""
        try:
            while piece := os.read(self.fd, _MAX_BYTES):
                said += piece
        finally:
            self.leave()
        os.waitpid(self._pid, 0)
        return said.decode("utf-8", "replace")

    def leave(self) -> None:
        """Let the child go on alone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """End the child, whose answer nobody waits for any more."""
        self.leave()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def start(work: Callable[[], str]) -> Aside:
    """Have `work` done by a child in a session of its own, which outlives this process and holds nothing of it open.

    Raises:
        OSError: There is no process to be had.
    """
    ours, theirs = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(ours)
        os.close(theirs)
        raise
    if pid == 0:
        _work(work, theirs)
    os.close(theirs)
    return Aside(pid, ours)


def _work(work: Callable[[], str], fd: int) -> NoReturn:
    """Do it, say what came out, and end, whatever happens: this process must never become a second parent."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        for number in _DEFAULTS:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(fd, _FIRST_OTHER)
        native.close_from(_FIRST_OTHER + 1)
        os.write(_FIRST_OTHER, work().encode("utf-8", "replace")[:_MAX_BYTES])
        code = 0
    except BaseException as error:  # noqa: BLE001  # see above
        os.write(_FIRST_OTHER, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_MAX_BYTES])
    finally:
        os._exit(code)
