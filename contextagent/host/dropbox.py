"""A folder into which an account may put files for root, and out of which only root can see them.

Such a file is foreign: it may be a link, a pipe, somebody else's by a hard link, or endless.  It is judged by its
descriptor, once it is open, so that it can't be another file by the time that it is read.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
import time

from contextagent.host.files import NEW, random_name
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from contextagent.host.files import Files

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


_WRITING_NS = 60 * 10**9
"""How long a few bytes may take to be written."""


class Dropped(Value):
    """One thing that lies in the folder.

    Attributes:
        name: Its name there.
        uid: Whose it is; -1 where that can't be told.
        data: What it holds; empty where there is a problem.
        problem: Why it is not what it should be; empty where it is.
    """

    name: str
    uid: int = -1
    data: bytes = b""
    problem: str = ""


def drop(files: Files, folder: str, data: bytes) -> None:
    """Put a file into the folder, under a name of its own that nobody can guess, whole or not at all.

    The name begins with the moment, since those on which files change are hundredths of a second.

    Raises:
        CannotWriteError: It could not be put there.
    """
    files.write(f"{folder}/{random_name(f'{time.monotonic_ns():020}-')}", data)


def look(files: Files, folder: str, *, max_bytes: int, most: int, without: Container[str] = ()) -> tuple[Dropped, ...]:
    """Return what lies there, the oldest first; of very much only `most`, the rest when those are gone.

    A file that is being written (`Files.write`) is not there yet, unless that takes too long, or it is too large; nor
    are the names of `without`.
    """
    found: list[tuple[int, str]] = []
    now_ns = time.time_ns()
    try:
        with os.scandir(files.real(folder)) as entries:
            for entry in entries:
                if len(found) >= most:
                    break
                if entry.name in without:
                    continue
                changed_ns, size_bytes = _seen(entry)
                is_new = entry.name.startswith(NEW) and size_bytes <= max_bytes
                if not is_new or abs(now_ns - changed_ns) > _WRITING_NS:
                    found.append((changed_ns, entry.name))
    except OSError:
        return ()  # not made yet
    return tuple(_opened(files.real(folder), name, max_bytes) for _, name in sorted(found))


def _seen(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Return when the file came to its name, a moment that its owner can't set, and its size."""
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return 0, 0
    return found.st_ctime_ns, found.st_size


def _opened(real: str, name: str, max_bytes: int) -> Dropped:
    if name.startswith(NEW):
        return Dropped(name=name, problem="it was never finished")
    try:
        fd = os.open(f"{real}/{name}", _READ)
    except OSError as error:
        cause = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
        return Dropped(name=name, problem=cause)
    try:
        return _judged(fd, name, max_bytes)
    except OSError as error:
        return Dropped(name=name, problem=error.strerror or str(error))
    finally:
        os.close(fd)


def _judged(fd: int, name: str, max_bytes: int) -> Dropped:
    """Return what an open file holds, or why it does not count.

    Raises:
        OSError: It can't be read.
    """
    found = os.fstat(fd)
    if not stat_bits.S_ISREG(found.st_mode):
        return Dropped(name=name, uid=found.st_uid, problem="it is no regular file")
    if found.st_nlink != 1:
        return Dropped(name=name, uid=found.st_uid, problem="it has another name elsewhere")
    data = b""
    while len(data) <= max_bytes and (piece := os.read(fd, max_bytes + 1 - len(data))):
        data += piece
    if len(data) > max_bytes:
        return Dropped(name=name, uid=found.st_uid, problem=f"it is larger than {max_bytes} bytes")
    return Dropped(name=name, uid=found.st_uid, data=data)
