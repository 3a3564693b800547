"""Media: a context's file tree, read without following a link or opening anything but regular files and folders.

One rule for foreign names, whatever the medium: a name that is not UTF-8, has a control character or could be taken for
a path is passed over with a warning, and the rest of the medium is read.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits

from contextagent.errors import BrokenSourceError
from contextagent.host.files import CHUNK_BYTES, entry_kind
from contextagent.model import Entry, Problem, Value
from contextagent.payloads.names import component_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_NAMES = 20_000
"""Names in one folder; a context has a few dozen, and caps.members bounds what is taken."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file of somebody else's is opened: no link is followed, and no fifo waited for."""
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Ours(Value):
    """A file that the agent itself has written and digested, and may move: its real path, SHA-512 and size."""

    path: str
    sha512: str
    size_bytes: int


class NamedMedium:
    """What all media share: a name, remembered listings, and the rule for foreign names.

    Attributes:
        name: What a person calls it: `/dev/sr0`, or the path given with `--disk`.
        reader: How it is read: `folder`, `mount` or `library`.
        warnings: Names passed over so far.
        are_links_inside: Whether every link is known to lead to something else on the medium, so that it may be
            resolved by name; else a link in a script's place is refused.
    """

    are_links_inside = False

    def __init__(self, name: str, reader: str = "folder") -> None:
        self.name = name
        self.reader = reader
        self.warnings: list[Problem] = []
        self._listings: dict[str, tuple[Entry, ...]] = {}

    def folder(self, path: str) -> tuple[Entry, ...]:
        """Return one folder's entries in C-locale order (`""`: the root); empty where there is no such folder.

        Raises:
            BrokenSourceError: The medium can't be read there.
        """
        known = self._listings.get(path)
        if known is None:
            known = self._listings[path] = self._fit(path, self._list(path))
        return known

    def entry(self, path: str) -> Entry | None:
        """Return what stands at `path`, or None where there is nothing.

        Raises:
            BrokenSourceError: The medium can't be read there.
        """
        return next((entry for entry in self.folder(path.rpartition("/")[0]) if entry.path == path), None)

    def read(self, path: str, *, max_bytes: int) -> bytes:
        """Return a regular file's bytes.

        Raises:
            BrokenSourceError: It is no regular file, larger than `max_bytes`, or can't be read.
        """
        return b"".join(self.chunks(path, max_bytes=max_bytes))

    def chunks(self, path: str, *, max_bytes: int) -> Iterator[bytes]:
        """Yield a regular file's bytes in pieces of at most 64 KiB; raises as `read` does."""
        raise NotImplementedError

    def ours(self, path: str) -> Ours | None:  # noqa: ARG002  # most media are others'
        """Return a regular file that may be moved away instead of copied; None where the medium is foreign."""
        return None

    def close(self) -> None:
        """Let go of the medium; a second call does nothing."""
        raise NotImplementedError

    def _list(self, path: str) -> list[Entry]:
        """Return a folder's entries as the medium has them, in any order."""
        raise NotImplementedError

    def _fit(self, path: str, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Return the entries whose names can be used, sorted and with their whole paths."""
        fit: dict[str, Entry] = {}
        for entry in entries:
            if cause := component_problem(entry.path):
                message = f"cannot use the name '{ascii(entry.path)[1:-1]}' in '{path or '/'}': {cause}, ignoring it"
                self.warnings.append(Problem(reason="bad-name", message=message, path=self.name))
            else:
                fit.setdefault(entry.path, entry)
        if len(fit) > MAX_NAMES:
            raise self.broken(path, "too-many-names", f"more than {MAX_NAMES} names in one folder")
        prefix = f"{path}/" if path else ""
        return tuple(fit[name].replace(path=prefix + name) for name in sorted(fit, key=lambda name: name.encode()))

    def broken(self, path: str, reason: str, cause: str) -> BrokenSourceError:
        """Return the error that says what can't be read where, and why."""
        where = f"{self.name}: {path}" if path else self.name
        return BrokenSourceError(f"cannot read '{where}': {cause}", reason=reason)

    def too_large(self, path: str, max_bytes: int) -> BrokenSourceError:
        """Return the error for a file past its cap."""
        return self.broken(path, "too-large", f"larger than {max_bytes} bytes")


class FolderMedium(NamedMedium):
    """A real folder: a mounted disk, a folder given with `--disk`, an unpacked bundle.

    Every component is opened by itself below the one before and never through a link, so nothing that changes the tree
    meanwhile can lead outside.  The folder itself is the caller's word, and may be a link.

    Args:
        root: The folder's path on this machine.
        name: What to call it.
        reader: `mount` where the kernel put a disk there.

    Raises:
        BrokenSourceError: It can't be opened.
    """

    def __init__(self, root: str, name: str, reader: str = "folder") -> None:
        super().__init__(name, reader)
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._fault("", error) from error

    def close(self) -> None:
        """Let go of the folder; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def chunks(self, path: str, *, max_bytes: int) -> Iterator[bytes]:
        """Yield a regular file's bytes in pieces of at most 64 KiB; raises as `read` does."""
        try:
            fd = self._open(path, FILE)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self.broken(path, "link", "a link is not followed") from None
            raise self._fault(path, error) from error
        try:
            if not stat_bits.S_ISREG(os.fstat(fd).st_mode):
                raise self.broken(path, "no-file", "it is no regular file")
            left = max_bytes
            while data := os.read(fd, CHUNK_BYTES):
                left -= len(data)
                if left < 0:
                    raise self.too_large(path, max_bytes)
                yield data
        except OSError as error:
            raise self._fault(path, error) from error
        finally:
            os.close(fd)

    def _list(self, path: str) -> list[Entry]:
        try:
            fd = self._open(path, _FOLDER) if path else os.dup(self._fd)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return []
            raise self._fault(path, error) from error
        try:
            names = os.listdir(fd)
            if len(names) > MAX_NAMES:
                raise self.broken(path, "too-many-names", f"more than {MAX_NAMES} names in one folder")
            return [_entry(fd, name) for name in names]
        except OSError as error:
            raise self._fault(path, error) from error
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        """Open `path` component by component.

        Raises:
            OSError: As the kernel says it; ELOOP for a link anywhere in the path.
        """
        *folders, last = path.split("/")
        if "" in (*folders, last) or ".." in (*folders, last):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return open_beneath(os.dup(self._fd), folders, last, flags)

    def _fault(self, path: str, error: OSError) -> BrokenSourceError:
        reason = "missing" if error.errno in _NOTHING_THERE else "read-error"
        return self.broken(path, reason, error.strerror or str(error))


def open_beneath(at: int, folders: Sequence[str], last: str, flags: int) -> int:
    """Open what stands below an open folder, which is closed: component by component, never through a link.

    Args:
        at: The open folder.
        folders: The folders on the way.
        last: What to open.
        flags: How; no link is followed as long as `O_NOFOLLOW` is one of them.

    Raises:
        OSError: As the kernel says it; ELOOP or ENOTDIR for a link.
    """
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(last, flags, dir_fd=at)
    finally:
        os.close(at)


def _entry(folder: int, name: str) -> Entry:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    kind = entry_kind(found.st_mode)
    target = os.readlink(name, dir_fd=folder) if kind == "link" else ""
    return Entry(path=name, kind=kind, size_bytes=found.st_size, mode=found.st_mode & 0o7777, target=target)
