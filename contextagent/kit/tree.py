"""A folder as a person keeps it on their own machine: every file, links resolved, all faults at once.

This reads the caller's own files with the caller's rights, as any packer does, so it goes past the door that guards a
guest; what it can't take into a context is named, and nothing is changed.
"""

from __future__ import annotations

import os
import stat

from contextagent.errors import InvalidInputError, UsageError
from contextagent.host.files import CHUNK_BYTES
from contextagent.model import Entry, Problem, Value
from contextagent.payloads.names import component_problem
from contextagent.sources.media import NamedMedium

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from contextagent.model import EntryKind


class Item(Value):
    """A file or folder to be packed.

    Attributes:
        path: Where it stands in the context, without a leading slash.
        kind: `file` or `folder`; links have been followed.
        real: Where its bytes are on this machine.
        size_bytes: Its size; 0 for a folder.
        is_executable: Whether its owner may execute it.
        mtime_ns: When it was last changed.
    """

    path: str
    kind: EntryKind
    real: str
    size_bytes: int = 0
    is_executable: bool = False
    mtime_ns: int = 0

    @property
    def mode(self) -> int:
        """The mode that everything of its kind gets, so that a umask changes no packed byte."""
        return 0o755 if self.kind == "folder" or self.is_executable else 0o644


class Tree(Value):
    """A folder's items, parents first and each folder in C-locale order; the links followed; what can't be taken."""

    items: tuple[Item, ...]
    dereferenced: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def files(self) -> tuple[Item, ...]:
        """The regular files."""
        return tuple(item for item in self.items if item.kind == "file")


def read_tree(folder: str) -> Tree:
    """Return everything below `folder`, and every problem with it.

    Raises:
        UsageError: It is no folder.
        InvalidInputError: It can't be read at all.
    """
    if not os.path.isdir(folder):
        cause = "no such folder" if not os.path.lexists(folder) else "not a folder"
        raise UsageError(f"cannot read '{folder}': {cause}")
    try:
        os.listdir(folder)
    except OSError as error:
        raise InvalidInputError(f"cannot read '{folder}': {error.strerror}") from error
    walk = _Walk(folder)
    walk.enter(folder, "", (os.path.realpath(folder),))
    return Tree(items=tuple(walk.items), dereferenced=tuple(walk.dereferenced), problems=tuple(walk.problems))


class _Walk:
    """One pass over a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._top = os.path.realpath(folder)
        self.items: list[Item] = []
        self.dereferenced: list[tuple[str, str]] = []
        self.problems: list[Problem] = []

    def enter(self, real: str, path: str, above: tuple[str, ...]) -> None:
        """Take in one folder; `above` holds the real paths of the folders being walked, against links in a circle."""
        try:
            names = sorted(os.listdir(os.fsencode(real)))
        except OSError as error:
            self._refuse(path, "unreadable", f"cannot read '{path}': {error.strerror}")
            return
        self._check_twins([os.fsdecode(name) for name in names], path)
        for raw in names:
            name = os.fsdecode(raw)
            inner = f"{path}/{name}" if path else name
            if fault := component_problem(name):
                self._refuse(printable_name(inner), "name-refused", f"cannot take '{printable_name(inner)}': {fault}")
            else:
                self._take(f"{real}/{name}", inner, above)

    def _take(self, real: str, path: str, above: tuple[str, ...]) -> None:
        if os.path.islink(real):
            target = os.readlink(real)
            resolved = os.path.realpath(real)
            if resolved != self._top and not resolved.startswith(self._top + "/"):
                self._refuse(path, "link-leaves", f"cannot take the link '{path}': '{target}' is outside the folder")
                return
            if not os.path.exists(resolved):
                self._refuse(path, "link-dangling", f"cannot take the link '{path}': there is no '{target}'")
                return
            if resolved in above:
                self._refuse(path, "link-circle", f"cannot take the link '{path}': '{target}' holds the link itself")
                return
            self.dereferenced.append((path, target))
            real = resolved
        self._take_resolved(real, path, above)

    def _take_resolved(self, real: str, path: str, above: tuple[str, ...]) -> None:
        found = os.lstat(real)
        if stat.S_ISDIR(found.st_mode):
            self.items.append(Item(path=path, kind="folder", real=real))
            self.enter(real, path, (*above, os.path.realpath(real)))
        elif not stat.S_ISREG(found.st_mode):
            self._refuse(path, "special-file", f"cannot take '{path}': neither a file nor a folder nor a link")
        elif not os.access(real, os.R_OK):
            self._refuse(path, "unreadable", f"cannot read '{path}': permission denied")
        else:
            self.items.append(
                Item(
                    path=path,
                    kind="file",
                    real=real,
                    size_bytes=found.st_size,
                    is_executable=bool(found.st_mode & stat.S_IXUSR),
                    mtime_ns=found.st_mtime_ns,
                )
            )

    def _check_twins(self, names: Iterable[str], path: str) -> None:
        seen: dict[str, str] = {}
        for name in names:
            twin = seen.setdefault(name.casefold(), name)
            if twin != name:
                inner = f"{path}/{name}" if path else name
                self._refuse(inner, "name-twice", f"cannot take '{inner}': only letter case tells it from '{twin}'")

    def _refuse(self, path: str, reason: str, message: str) -> None:
        shown = os.path.join(self._folder, path) if path else self._folder
        self.problems.append(Problem(reason=reason, message=message, path=shown))


def printable_name(name: str) -> str:
    """Return a name for a message: bytes that are no text, and control characters, escaped."""
    return "".join(
        char
        if char.isprintable()
        else char.encode("utf-8", "surrogateescape").decode("latin-1").encode("unicode_escape").decode()
        for char in name
    )


class TreeMedium(NamedMedium):
    """A folder as the disk that `pack` would make of it: links replaced by what they point to."""

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name)
        self._real = {item.path: item.real for item in tree.files}
        self._folders: dict[str, list[Entry]] = {}
        for item in tree.items:
            parent, _, last = item.path.rpartition("/")
            entry = Entry(path=last, kind=item.kind, size_bytes=item.size_bytes, mode=item.mode)
            self._folders.setdefault(parent, []).append(entry)

    def chunks(self, path: str, *, max_bytes: int) -> Iterator[bytes]:
        """Yield a regular file's bytes in pieces of at most 64 KiB; raises as `read` does."""
        if path not in self._real:
            raise self.broken(path, "no-file", "it is no regular file")
        left = max_bytes
        try:
            with open(self._real[path], "rb") as file:
                while data := file.read(CHUNK_BYTES):
                    left -= len(data)
                    if left < 0:
                        raise self.too_large(path, max_bytes)
                    yield data
        except OSError as error:
            raise self.broken(path, "read-error", error.strerror or str(error)) from error

    def close(self) -> None:
        """Do nothing: each file is opened by itself."""

    def _list(self, path: str) -> list[Entry]:
        return self._folders.get(path, [])
