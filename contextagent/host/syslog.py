"""Lines to the machine's syslog: one datagram a line, and never any waiting that a boot would feel.

The daemon may be absent, stopped, or slower than a script was: what it does not take is dropped and counted.
"""

from __future__ import annotations

import _socket
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SOCKET = "/dev/log"
NOTICE, WARNING = 5, 4
_DAEMON = 3 << 3
_MAX_LINE_BYTES = 1000
"""Of a datagram: what every daemon takes whole (RFC 3164)."""
_PATIENCE_S = 0.3
"""How long one process waits for a daemon that is slow, in all: its queue may be ten lines short."""
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class Syslog:
    """The way to `/dev/log`, opened with the first line.

    Attributes:
        dropped: How many lines were not taken.
    """

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: _socket.socket | None = None
        self._patience_s = _PATIENCE_S
        self.dropped = 0

    def send(self, tag: str, lines: Iterable[str], *, severity: int = NOTICE) -> None:
        """Send lines of printable text under a tag; what can't be sent is counted in `dropped`."""
        head = f"<{_DAEMON | severity}>{_stamp()} {tag}[{os.getpid()}]: "
        for line in lines:
            if not self._put((head + line).encode("utf-8", "replace")[:_MAX_LINE_BYTES]):
                self.dropped += 1

    def close(self) -> None:
        """Close it; a second call does nothing, and a line that is sent opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _put(self, datagram: bytes) -> bool:
        while True:
            try:
                if self._socket is None:
                    self._socket = self._open()
                self._socket.send(datagram, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if not self._is_ready():
                    return False
            except OSError:
                self.close()  # the daemon is not there, or another by now: the next line asks again
                return False
            else:
                return True

    def _open(self) -> _socket.socket:
        made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            made.connect(self._path)
        except BaseException:
            made.close()
            raise
        return made

    def _is_ready(self) -> bool:
        """Return whether the daemon takes more, after some of the patience."""
        if self._socket is None or self._patience_s <= 0:
            return False
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLOUT)
        began_s = time.monotonic()
        is_ready = bool(poll.poll(self._patience_s * 1000))
        self._patience_s -= max(time.monotonic() - began_s, 0.0001)
        return is_ready


def _stamp() -> str:
    """Return the time as syslog(3) puts it, whatever the locale is."""
    now = time.localtime()
    return f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
