"""Locks between processes: one run at a time, and none left behind by one that was killed."""

from __future__ import annotations

import errno
import fcntl
import os

from contextagent.errors import CannotWriteError, TryLaterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from contextagent.host.files import Files


class Lock:
    """A lock that is held until `release`, or until this process ends, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it would let two processes hold two files."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        """Return the lock, already held."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Give the lock back."""
        self.release()


def take(files: Files, path: str) -> Lock:
    """Return a lock held on the file at `path`.

    Raises:
        TryLaterError: Another process holds it.
        CannotWriteError: The file can't be made.
    """
    try:
        fd = os.open(files.real(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot lock '{path}': {error.strerror}"
        raise CannotWriteError(message) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            message = f"cannot lock '{path}': another run holds it"
            raise TryLaterError(message, hint="wait for it with `contextagent status --wait`") from error
        message = f"cannot lock '{path}': {error.strerror}"
        raise CannotWriteError(message) from error
    return Lock(fd)
