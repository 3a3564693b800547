"""A socket on the loopback link whose clients are served between other things: nothing here ever waits.

`serving` is a server of its own with an event loop that costs 10 MiB; this one is for a process that has a loop already
and sends answers of a few hundred bytes.
"""

from __future__ import annotations

import _socket
import errno

from contextagent.errors import CannotWriteError

LOOPBACK = "127.0.0.1"
_BACKLOG = 512
_GONE = (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR, errno.EPERM, errno.EPROTO)
"""What `accept` says of clients that went away, and of none (accept(2))."""
_READ_BYTES = 1 << 14


class Client:
    """One client's connection.

    Attributes:
        fd: Readable when the client has sent something, or has gone.
    """

    def __init__(self, fd: int) -> None:
        self._socket = _socket.socket(fileno=fd)
        self._socket.setblocking(False)  # noqa: FBT003  # its only argument
        self.fd = self._socket.fileno()

    def receive(self) -> bytes | None:
        """Return what has come, None where nothing has yet; empty: nothing more will come."""
        try:
            return self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def send_last(self, data: bytes) -> bool:
        """Send the answer, behind which nothing follows, and return whether the kernel has taken all of it.

        What is sent here is smaller than any socket's buffer, so a client that does not read has chosen so.
        """
        try:
            is_whole = self._socket.send(data) == len(data)
            self._socket.shutdown(_socket.SHUT_WR)
        except OSError:
            return False
        return is_whole

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._socket.close()


class Listener:
    """A socket that listens on 127.0.0.1, and nowhere else.

    Attributes:
        fd: Readable when there is a client.

    Args:
        port: 1 to 65535; 0 for any that is free.

    Raises:
        CannotWriteError: The port is in use, or not permitted.
    """

    def __init__(self, port: int) -> None:
        flags = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        self._socket = _socket.socket(_socket.AF_INET, flags)
        try:
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            self._socket.bind((LOOPBACK, port))
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            cause = str(error.strerror or error).lower()
            raise CannotWriteError(f"cannot serve '{LOOPBACK}:{port}': {cause}", reason="cannot-listen") from error
        self.fd = self._socket.fileno()
        self.port: int = self._socket.getsockname()[1]

    def accept(self) -> Client | None:
        """Return the next client; None where there is none.

        Raises:
            OSError: This process has no descriptor left (EMFILE, ENFILE), or the kernel no memory.
        """
        try:
            fd, _ = self._socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001  # `socket` builds on it as well
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        return Client(fd)

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._socket.close()
