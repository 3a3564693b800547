"""What a throw-away view's layers say would have changed on this machine: every file, folder and link.

A layer's own folder only says where to look.  What is there is then compared, as the view showed it, with this machine:
the same bytes, owner and mode are no change, however they came to be written again.
"""

from __future__ import annotations

import errno
import os
import stat

from contextagent.host.files import entry_kind
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from os import stat_result
    from typing import Literal

    from contextagent.host.layers import Layer
    from contextagent.model import EntryKind

    ChangeName = Literal["created", "changed", "removed"]

_CHUNK_BYTES = 1 << 20
_MOVED = ("trusted.overlay.opaque", "trusted.overlay.redirect")
"""What the kernel puts on a layer's folder that is not simply laid over this machine's of the same name."""


class Change(Value):
    """One path that would have changed.

    Attributes:
        path: As this machine has it.
        change: `created`, `changed` or `removed`.
        kind: What it would have been; what it was, where it would have been removed.
        mode: Permission bits, set-uid and its like included.
        uid: Its owner.
        gid: Its group.
        size_bytes: A file's size.
        target: Where a link would have led.
        what: Of something changed, what: `content`, `kind`, `mode`, `owner`, `attributes`.
    """

    path: str
    change: ChangeName
    kind: EntryKind
    mode: int
    uid: int
    gid: int
    size_bytes: int = 0
    target: str = ""
    what: tuple[str, ...] = ()


def find_changes(layer: Layer, *, made: Collection[str], anew: Collection[str]) -> Iterator[Change]:
    """Yield what would have changed in one file system, in C-locale order below each folder.

    Args:
        layer: The file system.
        made: Paths that the view had from the beginning.
        anew: Paths that the view began without, though this machine has them.
    """
    walk = _Walk(layer, made, anew)
    yield from walk.folder("" if layer.point == "/" else layer.point, is_whole=not layer.upper, has_before=True)


class _Walk:
    """One pass over a file system."""

    def __init__(self, layer: Layer, made: Collection[str], anew: Collection[str]) -> None:
        self._layer = layer
        self._made = made
        self._anew = anew
        self._strip = len(layer.point.rstrip("/"))

    def folder(self, path: str, *, is_whole: bool, has_before: bool) -> Iterator[Change]:
        """Yield what changed in a folder.

        Args:
            path: The folder, as this machine has it.
            is_whole: The layer does not say where to look, so everything is looked at.
            has_before: The folder as it was counts.
        """
        upper = self._layer.upper + path[self._strip :]
        if is_whole:
            names = _names(self._seen(path)) | (_names(path) if has_before and self._layer.upper else set())
        else:
            names = _names(upper)
        for name in sorted(names):
            yield from self._entry(f"{path}/{name}", is_whole=is_whole, has_before=has_before)

    def _entry(self, path: str, *, is_whole: bool, has_before: bool) -> Iterator[Change]:
        now = _look(self._seen(path))
        has_before = has_before and bool(self._layer.upper) and path not in self._anew
        before = _look(path) if has_before else None
        if now is None:
            if before is not None:
                yield from self._gone(path, before)
            return
        yield from self._judge(path, before, now)
        is_folder, was_folder = stat.S_ISDIR(now.st_mode), before is not None and stat.S_ISDIR(before.st_mode)
        if was_folder and before is not None and not is_folder:
            yield from self._inside(path)
        if is_folder and not os.path.ismount(self._seen(path)):
            is_whole = is_whole or not was_folder or self._is_moved(path)
            yield from self.folder(path, is_whole=is_whole, has_before=was_folder)

    def _judge(self, path: str, before: stat_result | None, now: stat_result) -> Iterator[Change]:
        if before is None:
            if path not in self._made:
                yield _change(path, "created", now, self._seen(path))
        elif what := tuple(_differences(path, before, self._seen(path), now)):
            yield _change(path, "changed", now, self._seen(path)).replace(what=what)

    def _gone(self, path: str, before: stat_result) -> Iterator[Change]:
        yield _change(path, "removed", before, path)
        if stat.S_ISDIR(before.st_mode):
            yield from self._inside(path)

    def _inside(self, path: str) -> Iterator[Change]:
        """Yield everything in a folder that is there no more; another file system in it is another layer's."""
        for name in sorted(_names(path)):
            inner = f"{path}/{name}"
            before = _look(inner)
            if before is not None and inner not in self._anew and not os.path.ismount(inner):
                yield from self._gone(inner, before)

    def _is_moved(self, path: str) -> bool:
        try:
            names = os.listxattr(self._layer.upper + path[self._strip :], follow_symlinks=False)
        except OSError:
            return False
        return any(name in _MOVED for name in names)

    def _seen(self, path: str) -> str:
        """Return where a path of this machine is in the view."""
        return self._layer.root + path[self._strip :]


def _names(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _look(path: str) -> stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _change(path: str, change: ChangeName, found: stat_result, real: str) -> Change:
    kind = entry_kind(found.st_mode)
    return Change(
        path=path,
        change=change,
        kind=kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        size_bytes=found.st_size if kind == "file" else 0,
        target=os.readlink(real) if kind == "link" else "",
    )


def _differences(old: str, before: stat_result, new: str, now: stat_result) -> Iterator[str]:
    if stat.S_IFMT(before.st_mode) != stat.S_IFMT(now.st_mode):
        yield "kind"
    elif (stat.S_ISREG(now.st_mode) and not _is_same(old, before, new, now)) or (
        stat.S_ISLNK(now.st_mode) and os.readlink(old) != os.readlink(new)
    ):
        yield "content"
    if stat.S_IMODE(before.st_mode) != stat.S_IMODE(now.st_mode):
        yield "mode"
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        yield "owner"
    if _attributes(old) != _attributes(new):
        yield "attributes"


def _is_same(old: str, before: stat_result, new: str, now: stat_result) -> bool:
    if before.st_size != now.st_size:
        return False
    with open(old, "rb") as one, open(new, "rb") as other:
        while data := one.read(_CHUNK_BYTES):
            if data != other.read(_CHUNK_BYTES):
                return False
    return True


def _attributes(path: str) -> dict[str, bytes]:
    """Return a file's extended attributes; none where the file system has none."""
    try:
        names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.overlay.")]
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.ENOENT):
            raise
        return {}
