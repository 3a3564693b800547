"""FAT12, FAT16 and FAT32 with long names, read-only.  Runs in a confined child only.

A context on VFAT is small and rare, and a kernel without vfat (or an agent that may not mount) has no other way to it
that needs neither a loop device nor a mount.  Names are those that Linux's own vfat shows.
"""

from __future__ import annotations

import os

from contextagent.errors import BrokenSourceError

_ENTRY_BYTES = 32
_MAX_FOLDER_BYTES = 2 << 20
"""A folder has at most 65,536 entries."""
_LONG, _LABEL, _FOLDER = 0x0F, 0x08, 0x10
_DELETED, _LAST_LONG = 0xE5, 0x40
_LOWER_BASE, _LOWER_ENDING = 0x08, 0x10

Found = tuple[str, bool, int, int]
"""Name, whether it is a folder, first cluster, size in bytes."""


def prepare() -> None:
    """Import all that parsing will need, while the child may still open files."""
    "".encode("utf-16-le")


class VfatTree:
    """A FAT image.

    Args:
        fd: The image, open for reading.

    Raises:
        BrokenSourceError: Its boot sector makes no sense.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        boot = os.pread(fd, 512, 0)
        sector_bytes = _number(boot, 11, 2)
        fat_sectors = _number(boot, 22, 2) or _number(boot, 36, 4)
        sectors = _number(boot, 19, 2) or _number(boot, 32, 4)
        self._fat_at = _number(boot, 14, 2) * sector_bytes
        self._root_at = self._fat_at + boot[16] * fat_sectors * sector_bytes
        self._root_bytes = _number(boot, 17, 2) * _ENTRY_BYTES
        self._data_at = self._root_at + -(-self._root_bytes // (sector_bytes or 1)) * sector_bytes
        self._cluster_bytes = boot[13] * sector_bytes
        if not self._cluster_bytes or not fat_sectors or self._data_at >= sectors * sector_bytes:
            raise BrokenSourceError("the boot sector makes no sense", reason="bad-filesystem")
        self._clusters = (sectors * sector_bytes - self._data_at) // self._cluster_bytes
        # by the count of clusters alone, as Microsoft's specification has it
        self._bits = 12 if self._clusters < 4085 else 16 if self._clusters < 65525 else 32  # noqa: PLR2004  # see above
        self._folders: dict[str, dict[str, Found]] = {}
        self._chains: dict[int, list[int]] = {}
        if self._bits == 32:  # noqa: PLR2004  # FAT32
            root = self._folder_bytes(_number(boot, 44, 4))
        else:
            root = os.pread(fd, self._root_bytes, self._root_at)
        self._folders[""] = _names(root)

    def entries(self, path: str) -> list[tuple[str, str, int, int, str]]:
        """Return what is in a folder; empty where there is no folder."""
        return [
            (name, "folder" if is_folder else "file", size, 0o755, "")
            for name, is_folder, _, size in self._folder(path).values()
        ]

    def piece(self, path: str, offset: int, size: int) -> bytes:
        """Return at most `size` bytes of a file, from `offset` on.

        Raises:
            BrokenSourceError: Its clusters or the image end before the file does.
        """
        folder, _, name = path.rpartition("/")
        _, is_folder, first, size_bytes = self._folder(folder).get(name, ("", True, 0, 0))
        end = min(offset + size, size_bytes)
        data = bytearray()
        if is_folder or offset >= end:
            return b""
        chain = self._chain(first, -(-size_bytes // self._cluster_bytes))
        while offset + len(data) < end:
            index, start = divmod(offset + len(data), self._cluster_bytes)
            if index >= len(chain):
                raise BrokenSourceError("its clusters end before the file does", reason="truncated")
            data += self._cluster(chain[index])[start : start + end - offset - len(data)]
        return bytes(data)

    def _folder(self, path: str) -> dict[str, Found]:
        known = self._folders.get(path)
        if known is None:
            parent, _, name = path.rpartition("/")
            found = self._folder(parent).get(name)
            known = self._folders[path] = _names(self._folder_bytes(found[2])) if found and found[1] else {}
        return known

    def _folder_bytes(self, first: int) -> bytes:
        most = _MAX_FOLDER_BYTES // self._cluster_bytes + 1
        return b"".join([self._cluster(cluster) for cluster in self._chain(first, most)])

    def _chain(self, first: int, most: int) -> list[int]:
        """Return at most so many of a file's clusters, in order; a loop in them ends there.

        Raises:
            BrokenSourceError: They lead outside.
        """
        if first in self._chains:
            return self._chains[first]
        chain: list[int] = []
        cluster = first
        while len(chain) < most and not self._is_end(cluster):
            if not 2 <= cluster < self._clusters + 2:  # noqa: PLR2004  # the first cluster is number 2
                raise BrokenSourceError("its clusters lead outside the disk", reason="bad-filesystem")
            chain.append(cluster)
            cluster = self._next(cluster)
        self._chains[first] = chain
        return chain

    def _next(self, cluster: int) -> int:
        at = self._fat_at + cluster * self._bits // 8
        number = int.from_bytes(os.pread(self._fd, max(2, self._bits // 8), at), "little")
        if self._bits == 12:  # noqa: PLR2004  # FAT12
            return number >> 4 if cluster % 2 else number & 0xFFF
        return number & 0x0FFFFFFF

    def _is_end(self, cluster: int) -> bool:
        return cluster >= min(1 << self._bits, 1 << 28) - 8

    def _cluster(self, cluster: int) -> bytes:
        data = os.pread(self._fd, self._cluster_bytes, self._data_at + (cluster - 2) * self._cluster_bytes)
        if len(data) < self._cluster_bytes:
            raise BrokenSourceError("the image ends before the file does", reason="truncated")
        return data


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _names(data: bytes) -> dict[str, Found]:
    """Return a folder's entries by name."""
    names: dict[str, Found] = {}
    long: dict[int, bytes] = {}
    checksum = 0
    for at in range(0, len(data) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        entry = data[at : at + _ENTRY_BYTES]
        if not entry[0]:
            break
        if entry[0] == _DELETED:
            long.clear()
        elif entry[11] & 0x3F == _LONG:
            if entry[0] & _LAST_LONG:
                long.clear()
                checksum = entry[13]
            if entry[13] == checksum:
                long[entry[0] & 0x1F] = entry[1:11] + entry[14:26] + entry[28:32]
        else:
            name = _long_name(long) if long and checksum == _checksum(entry[:11]) else _short_name(entry)
            long.clear()
            if not entry[11] & _LABEL and name not in (".", ".."):
                first = _number(entry, 26, 2) | _number(entry, 20, 2) << 16
                names.setdefault(name, (name, bool(entry[11] & _FOLDER), first, _number(entry, 28, 4)))
    return names


def _long_name(parts: dict[int, bytes]) -> str:
    text = b"".join(parts[index] for index in sorted(parts)).decode("utf-16-le", "surrogatepass")
    return text.partition("\0")[0]


def _short_name(entry: bytes) -> str:
    base = (b"\xe5" + entry[1:8] if entry[0] == 0x05 else entry[:8]).rstrip().decode("latin-1")  # noqa: PLR2004  # FAT's
    ending = entry[8:11].rstrip().decode("latin-1")
    base = base.lower() if entry[12] & _LOWER_BASE else base
    ending = ending.lower() if entry[12] & _LOWER_ENDING else ending
    return f"{base}.{ending}" if ending else base


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total
