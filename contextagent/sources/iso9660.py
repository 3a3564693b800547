"""ISO9660 by pycdlib: its directory tree, named as the kernel would name it.  Runs in a confined child only.

Rock Ridge names where there are any, else Joliet's, else the plain ones in lower case and without their version, as
Linux's own isofs maps them (`map=normal`): a disk has the same names through either reader.  File data is read here, by
the extents that the library found, with every bound checked against the image.
"""

from __future__ import annotations

import os
import stat as stat_bits
import time

from contextagent.errors import BrokenSourceError
from contextagent.host.files import entry_kind
from contextagent.thirdparty import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SECTOR_BYTES = 2048
_ENCODINGS = ("ascii", "utf-16_be", "utf-8", "latin-1")


def prepare() -> None:
    """Import all that parsing will need, while the child may open files; a missing library is told by `IsoTree`."""
    try:
        load("pycdlib")
    except ImportError:
        return
    time.strptime("1970", "%Y")  # imports its helper at the first call
    for encoding in _ENCODINGS:
        "".encode(encoding)


class _Image:
    """The image as the library's file object, said to be longer than it is by a sector and one byte.

    The library cuts a file that passes the image's end, and tells nobody.  So it cuts where no file can end, and
    `piece` meets the true end.  (A device can't be sought past its end, so this is no `FileIO`.)
    """

    mode = "rb"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        end = os.lseek(fd, 0, os.SEEK_END)
        self._end = end - end % -_SECTOR_BYTES + _SECTOR_BYTES + 1
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, all that is left for a negative size; fewer at the true end."""
        data = os.pread(self._fd, size if size >= 0 else self._end, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at


class IsoTree:
    """An ISO9660 image.

    Args:
        fd: The image, open for reading.

    Raises:
        Exception: Whatever the library raises for an image that is none.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        iso = load("pycdlib").PyCdlib()
        iso.open_fp(_Image(fd))
        self._is_rock_ridge = iso.has_rock_ridge()
        self._is_joliet = not self._is_rock_ridge and iso.has_joliet()
        descriptor = iso.joliet_vd if self._is_joliet else iso.pvd
        self._folders: dict[str, dict[str, Any]] = {"": self._names(descriptor.root_directory_record())}

    def entries(self, path: str) -> list[tuple[str, str, int, int, str]]:
        """Return what is in a folder; empty where there is no folder."""
        return [self._entry(name, record) for name, record in self._folder(path).items()]

    def piece(self, path: str, offset: int, size: int) -> bytes:
        """Return at most `size` bytes of a file, from `offset` on.

        Raises:
            BrokenSourceError: The image ends before the file does.
        """
        folder, _, name = path.rpartition("/")
        data = bytearray()
        for start, length in _extents(self._folder(folder).get(name)):
            if length < 0:
                raise BrokenSourceError("the image ends before the file begins", reason="truncated")
            if offset < length and len(data) < size:
                wanted = min(length - offset, size - len(data))
                found = os.pread(self._fd, wanted, start + offset)
                if len(found) < wanted:
                    raise BrokenSourceError("the image ends before the file does", reason="truncated")
                data += found
                offset = 0
            else:
                offset = max(0, offset - length)
        return bytes(data)

    def _folder(self, path: str) -> dict[str, Any]:
        known = self._folders.get(path)
        if known is None:
            parent, _, name = path.rpartition("/")
            record = self._folder(parent).get(name)
            known = self._folders[path] = {} if record is None or not record.is_dir() else self._names(record)
        return known

    def _names(self, folder: Any) -> dict[str, Any]:  # noqa: ANN401  # the library has no types
        """Return a folder's records by name; the first of a name stands (the others are its further extents)."""
        names: dict[str, Any] = {}
        for child in folder.children:
            if child.is_dot() or child.is_dotdot() or child.is_associated_file():
                continue
            record = child
            rock_ridge = child.rock_ridge if self._is_rock_ridge else None
            if rock_ridge is not None:
                if rock_ridge.relocated_record():
                    continue  # a deep folder moved here; its own place links to it
                if rock_ridge.child_link_record_exists():
                    record = rock_ridge.cl_to_moved_dr
            names.setdefault(self._name(child), record)
        return names

    def _name(self, record: Any) -> str:  # noqa: ANN401  # the library has no types
        if self._is_rock_ridge and record.rock_ridge is not None and record.rock_ridge.name():
            return os.fsdecode(record.rock_ridge.name())
        if self._is_joliet:
            return _without_version(record.file_identifier().decode("utf-16_be", "surrogatepass"))
        return _without_version(os.fsdecode(record.file_identifier()).lower())

    def _entry(self, name: str, record: Any) -> tuple[str, str, int, int, str]:  # noqa: ANN401  # the library has no types
        if self._is_rock_ridge and record.rock_ridge is not None:
            mode: int = record.rock_ridge.get_file_mode()
            if record.is_symlink():
                return name, "link", 0, mode, os.fsdecode(record.rock_ridge.symlink_path())
        else:
            mode = stat_bits.S_IFDIR | 0o555 if record.is_dir() else stat_bits.S_IFREG | 0o555
        kind = "folder" if record.is_dir() else entry_kind(mode)
        size = sum(length for _, length in _extents(record)) if kind == "file" else 0
        return name, kind if record.is_dir() or kind != "folder" else "other", size, mode, ""


def _without_version(name: str) -> str:
    """Return a name without `;1`, and without the dot that ISO9660 puts before an ending that is not there."""
    name = name.removesuffix(";1")
    return name.removesuffix(".") or name


def _extents(record: Any) -> list[tuple[int, int]]:  # noqa: ANN401  # the library has no types
    """Return where a file's bytes are: offset and length of each extent, in order."""
    found: list[tuple[int, int]] = []
    while record is not None and record.is_file():
        start = (record.extent_location() + record.xattr_len) * _SECTOR_BYTES
        found.append((start, record.data_length))
        record = record.data_continuation
    return found
