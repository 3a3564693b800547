"""A body on its way from the child that fetched it: held in memory, or in a nameless file where it is large."""

from __future__ import annotations

import os

from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.host.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host


class Body:
    """A body as it comes from the child: held, or in a file once it is too large for that.

    Args:
        host: The machine.
        folder: Where the file is made, as for `Files.nameless`.
        max_bytes: How large it may become.
        max_held_bytes: How much of it is held.
    """

    def __init__(self, host: Host, folder: str, max_bytes: int, max_held_bytes: int) -> None:
        self._host = host
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._held = bytearray()
        self._fd: int | None = None
        self.size_bytes = 0

    def add(self, piece: bytes) -> None:
        """Take in one piece.

        Raises:
            BrokenSourceError: The child sends more than it was asked for, or there is no room for it.
        """
        self.size_bytes += len(piece)
        if self.size_bytes > self._max_bytes:
            raise BrokenSourceError("cannot read 'answer': its reader answered nonsense", reason="reader-died")
        if self._fd is None and self.size_bytes <= self._max_held_bytes:
            self._held += piece
            return
        try:
            if self._fd is None:
                self._fd = self._host.files.nameless(self._folder)
                write_all(self._fd, self._held)
                self._held = bytearray()
            write_all(self._fd, piece)
        except (OSError, CannotWriteError) as error:
            raise BrokenSourceError(f"cannot keep 'user data': {error}", reason="reader-too-much") from error

    def held(self) -> bytes:
        """Return what is held."""
        return bytes(self._held)

    def taken(self) -> int | None:
        """Return the file, which is the caller's from now on."""
        fd, self._fd = self._fd, None
        return fd

    def close(self) -> None:
        """Let go of what nobody took."""
        self._held = bytearray()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
