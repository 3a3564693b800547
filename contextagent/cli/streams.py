"""What `trace` reads: this machine's own traces, a collector's files, plain or packed, and files that grow."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import sys
import time
import zlib

from contextagent.errors import RefusedError, UnknownError, UsageError
from contextagent.runner.journal import LOGS
from contextagent.trace.syslog import MAX_LINE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, BinaryIO

    from contextagent.host import Host

_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2
_PACKED: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
"""First bytes of a packed file, and what reads it."""
STDIN = "-"


def sources(files: Sequence[str], host: Host) -> list[str]:
    """Return the files to read, oldest first: those named, in and below a named folder all, or the machine's own.

    Raises:
        UnknownError: None was named, and the machine has none.
        RefusedError: The caller may not read the machine's own.
    """
    if files:
        paths = [path for named in files for path in (_below(named) if os.path.isdir(named) else [named])]
        return sorted(paths, key=_written_s)
    names = [name for name in log_names(host) if name.startswith("trace-") and name.endswith(".jsonl")]
    own = [host.files.real(f"{LOGS}/{name}") for name in names]
    if not own:
        message = f"cannot read '{LOGS}': there is no trace"
        raise UnknownError(message, hint="the agent writes one at boot; a collector's file can be named")
    return sorted(own, key=_written_s)


def _written_s(path: str) -> float:
    """Return when a file was written last; rotated ones are then in the order of what they hold."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0  # stdin; what can't be read is named when its turn comes


def _below(folder: str) -> Iterator[str]:
    """Yield the regular files of a collector's tree, folder by folder in the order of their names.

    Raises:
        UsageError: A folder can't be read.
    """

    def refuse(error: OSError) -> None:
        message = f"cannot read '{error.filename}': {error.strerror}"
        raise UsageError(message) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for path in (os.path.join(place, name) for name in sorted(names)):
            if os.path.isfile(path):
                yield path


def log_names(host: Host) -> list[str]:
    """Return the names of the agent's logs; none where it has not run.

    Raises:
        RefusedError: The caller may not read them.
    """
    try:
        return [entry.name for entry in host.files.folder(LOGS) if entry.kind == "file"]
    except PermissionError as error:
        message = f"cannot read '{LOGS}': {error.strerror}"
        raise RefusedError(message, hint="what ran on a machine is for root to read") from error


def _open(path: str) -> io.FileIO:
    """Return a file to read.

    Raises:
        UsageError: It can't be opened.
    """
    if path == STDIN:
        return io.FileIO(sys.stdin.fileno(), closefd=False)
    try:
        return io.FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        message = f"cannot read '{path}': {error.strerror}"
        raise UsageError(message) from error


def chunks(path: str, tell: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked where it is packed by gzip, bzip2 or xz, as its first bytes say.

    Args:
        path: The file; `-` is stdin.
        tell: Called after each piece with how many bytes of the file were read so far.

    Raises:
        UsageError: It can't be read, or is packed and damaged.
    """
    with _open(path) as raw, io.BufferedReader(raw, _CHUNK_BYTES) as plain:
        count = 0
        try:
            unpack = _unpacker(plain.peek(8))
            stream = unpack(plain) if unpack else plain
            while data := stream.read1(_CHUNK_BYTES):
                yield data
                count += len(data)
                if tell:
                    tell(raw.tell() if raw.seekable() else count)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            message = f"cannot read '{path}': packed, and damaged or cut off: {error}"
            raise UsageError(message, hint=f"as far as it goes: zcat '{path}' | contextagent trace verify -") from error
        except OSError as error:
            message = f"cannot read '{path}': {error.strerror or error}"
            raise UsageError(message) from error


def _unpacker(begin: bytes) -> Callable[[BinaryIO], Any] | None:
    return next((unpack for magic, unpack in _PACKED if begin.startswith(magic)), None)


def follow(paths: Sequence[str]) -> Iterator[bytes]:
    """Yield the lines of files that grow, for as long as somebody listens.

    A file that was renamed is read to its end, and then the one that has its name; one that was cut is read from its
    beginning.

    Raises:
        UsageError: One can't be read, is a folder, or is packed.
    """
    tails = [_Tail(path) for path in paths]
    while True:
        for tail in tails:
            yield from tail.lines()
        sys.stdout.flush()
        if all(tail.is_over for tail in tails):
            return
        time.sleep(_POLL_S)


class _Tail:
    """A file that grows, where it was read to.

    Attributes:
        is_over: Nothing more will come: it was stdin, and has ended.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._raw = _open(path)
        self._rest = b""
        self.is_over = False
        begin = os.pread(self._raw.fileno(), 8, 0) if self._raw.seekable() and path != STDIN else b""
        if _unpacker(begin):
            raise UsageError(f"cannot follow '{path}': it is packed")

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines that have come since."""
        yield from self._more()
        if self._path == STDIN:
            self.is_over = True  # its reads wait for more, so there is none
        elif self._is_replaced():
            yield from self._more()  # what was written between the last look and the new file
            self._raw.close()
            self._raw, self._rest = _open(self._path), b""
            yield from self._more()

    def _more(self) -> Iterator[bytes]:
        try:
            while data := self._raw.read(_CHUNK_BYTES):
                *lines, rest = (self._rest + data).split(b"\n")
                self._rest = rest[:MAX_LINE_BYTES]
                yield from lines
        except OSError as error:
            message = f"cannot read '{self._path}': {error.strerror}"
            raise UsageError(message) from error

    def _is_replaced(self) -> bool:
        """Return whether another file has the name now; begin this one again where it was cut."""
        mine = os.fstat(self._raw.fileno())
        try:
            named = os.stat(self._path)
        except OSError:
            return False  # between the old one's renaming and the new one's making
        if (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino):
            return True
        if stat.S_ISREG(mine.st_mode) and mine.st_size < self._raw.tell():
            self._raw.seek(0)
            self._rest = b""
        return False
