"""A reader of packages as rpm 4.4 (EL5) reads them, with none of rpm's own code: what it can't read raises."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_LEAD_BYTES = 96
_HEADER = b"\x8e\xad\xe8\x01\x00\x00\x00\x00"
_MAX_ENTRIES, _MAX_BYTES = 1 << 16, 1 << 24
_INTEGERS = {2: "B", 3: "H", 4: "I"}
_STRING, _BINARY, _STRINGS, _TRANSLATED = 6, 7, 8, 9

Value = str | bytes | list[str] | list[int]

SIGNATURE = {"sha1": 269, "sha256": 273, "size": 1000, "md5": 1004, "payload_size": 1007}
HEADER = {
    "name": 1000, "version": 1001, "release": 1002, "modes": 1030, "digests": 1035, "links": 1036, "flags": 1037,
    "requires": 1049, "requires_versions": 1050, "folder_of": 1116, "names": 1117, "folders": 1118,
    "payload_format": 1124, "payload_compressor": 1125, "digest_algorithm": 5011,
}  # fmt: skip


class Header(NamedTuple):
    """One header: its values by tag, and the types that occur in it."""

    values: dict[int, Value]
    types: set[int]
    end: int


class Member(NamedTuple):
    """A file of the payload: its mode with the type, and its bytes."""

    mode: int
    data: bytes


class Package(NamedTuple):
    """A package as it was read.

    Attributes:
        data: All bytes.
        signature: The signature header, by name.
        header: The header, by name.
        header_at: Where the header begins.
        payload_at: Where the payload begins.
        types: The types that occur in either header.
        files: The payload's files by absolute path.
        payload_bytes: Size of the unpacked payload.
    """

    data: bytes
    signature: dict[str, Value]
    header: dict[str, Value]
    header_at: int
    payload_at: int
    types: set[int]
    files: dict[str, Member]
    payload_bytes: int

    def strings(self, name: str) -> list[str]:
        """Return a value that is a list of strings."""
        value = self.header.get(name, [])
        assert isinstance(value, list)
        return [str(item) for item in value]

    def numbers(self, name: str) -> list[int]:
        """Return a value that is a list of numbers."""
        value = self.header.get(name, [])
        assert isinstance(value, list)
        return [int(item) for item in value]

    def paths(self) -> list[str]:
        """Return the paths of all files, in the header's order."""
        folders = self.strings("folders")
        return [
            folders[index] + name for index, name in zip(self.numbers("folder_of"), self.strings("names"), strict=True)
        ]


def read(path: Path) -> Package:
    """Return a package.

    Raises:
        AssertionError: The rpm of EL5 could not read it.
    """
    data = path.read_bytes()
    magic, major, kind = struct.unpack_from(">4sBxH", data)
    assert (magic, major, kind) == (b"\xed\xab\xee\xdb", 3, 0)
    signature = _header(data, _LEAD_BYTES)
    header_at = (signature.end + 7) // 8 * 8
    header = _header(data, header_at)
    packed = data[header.end :]
    assert packed[:2] == b"\x1f\x8b", "only gzip is known to it"
    payload = zlib.decompressobj(31).decompress(packed)
    return Package(
        data,
        {name: signature.values[tag] for name, tag in SIGNATURE.items() if tag in signature.values},
        {name: header.values[tag] for name, tag in HEADER.items() if tag in header.values},
        header_at,
        header.end,
        signature.types | header.types,
        _files(payload),
        len(payload),
    )


def _header(data: bytes, at: int) -> Header:
    assert data[at : at + 8] == _HEADER
    count, size = struct.unpack_from(">II", data, at + 8)
    assert count < _MAX_ENTRIES
    assert size < _MAX_BYTES
    store = at + 16 + 16 * count
    values: dict[int, Value] = {}
    types = set()
    for index in range(count):
        tag, kind, offset, number = struct.unpack_from(">IIiI", data, at + 16 + 16 * index)
        values[tag] = _value(data, kind, store + offset, number)
        types.add(kind)
    return Header(values, types, store + size)


def _value(data: bytes, kind: int, at: int, count: int) -> Value:
    if kind == _STRING:
        return data[at : data.index(b"\0", at)].decode()
    if kind == _BINARY:
        return data[at : at + count]
    if kind in (_STRINGS, _TRANSLATED):
        found = []
        for _ in range(count):
            end = data.index(b"\0", at)
            found.append(data[at:end].decode())
            at = end + 1
        return found
    code = _INTEGERS[kind]  # type 5, of 64 bits, is none that it knows
    assert at % struct.calcsize(code) == 0 or kind == 2
    return list(struct.unpack_from(f">{count}{code}", data, at))


def _files(payload: bytes) -> dict[str, Member]:
    """Return the members of a cpio archive of the `newc` format."""
    files: dict[str, Member] = {}
    at = 0
    while True:
        assert payload[at : at + 6] == b"070701"
        fields = [int(payload[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        mode, size, name_bytes = fields[1], fields[6], fields[11]
        name = payload[at + 110 : at + 110 + name_bytes - 1].decode()
        at = (at + 110 + name_bytes + 3) // 4 * 4
        if name == "TRAILER!!!":
            return files
        assert name.startswith("./"), "PayloadFilesHavePrefix"
        files[name[1:]] = Member(mode, payload[at : at + size])
        at = (at + size + 3) // 4 * 4
