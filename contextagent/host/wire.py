"""One TCP connection to a literal address, with absolute deadlines on a clock that only goes forward.

No resolver, no proxy, no library between: whoever can change this machine's `hosts`, `resolv.conf` or environment
changes nothing here.  A peer that drips bytes does not stretch a deadline, since none of them starts it again.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

_MS_NS = 10**6
_PENDING = (errno.EINPROGRESS, errno.EAGAIN, errno.EINTR)


def left_ns(end_ns: int) -> int:
    """Return the nanoseconds until a moment of the monotonic clock; never negative."""
    return max(0, end_ns - time.monotonic_ns())


class Connection:
    """A TCP connection.

    Args:
        host: A literal IPv4 or IPv6 address.
        port: 1 to 65535.
        end_ns: Until when the other side may take to answer, on the monotonic clock.

    Raises:
        TimeoutError: It did not answer until then.
        OSError: It, or the way there, refused.
    """

    def __init__(self, host: str, port: int, *, end_ns: int) -> None:
        family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
        self._socket = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)
        try:
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            code = self._socket.connect_ex((host, port))
            if code in _PENDING:
                self._wait(select.POLLOUT, end_ns)
                code = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))  # noqa: TRY301  # one way out for every failure: closed
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._socket.close()

    def is_idle(self) -> bool:
        """Return whether the connection stands and nothing has come: whatever came unasked would be no answer."""
        try:
            return not self._poll.poll(0)
        except (OSError, ValueError):
            return False

    def send(self, data: bytes, *, end_ns: int) -> None:
        """Send it all.

        Raises:
            TimeoutError: The other side did not take it in time.
            OSError: The connection is gone.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view, _socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, end_ns)

    def receive_into(self, buffer: bytearray | memoryview, *, end_ns: int) -> int:
        """Read what has come into a buffer and return how many bytes; 0 when the other side has ended.

        Raises:
            TimeoutError: Nothing came in time, or the time is over though something came.
            OSError: The connection is gone.
        """
        while True:
            self._wait(select.POLLIN, end_ns)
            try:
                return self._socket.recv_into(buffer)
            except BlockingIOError:
                continue

    def _wait(self, event: int, end_ns: int) -> None:
        fd = self._socket.fileno()
        if event != select.POLLIN:
            self._poll.modify(fd, event)
        # a deadline is looked at before the socket: who keeps sending must not get past it
        while left := left_ns(end_ns):
            if self._poll.poll(-(-left // _MS_NS)):
                break
        else:
            raise TimeoutError
        if event != select.POLLIN:
            self._poll.modify(fd, select.POLLIN)
