"""One tar header: 512 bytes, read so strictly that no two programs could take it for two different members.

The formats are v7, ustar (POSIX), and GNU's, old and new.  `tarfile` reads them all, but guesses where they contradict
themselves, and its import takes longer than a whole bundle (ADR 0008).
"""

from __future__ import annotations

from contextagent.model import Value

BLOCK_BYTES = 512
_POSIX, _GNU, _V7 = b"ustar\0", b"ustar ", bytes(6)
_SIZE = slice(124, 136)
_SUM = slice(148, 156)
_UNUSED = (slice(108, 116), slice(116, 124), slice(136, 148), slice(329, 337), slice(337, 345))
"""Owner, group, time, and a device's two numbers."""
_MAGIC = slice(257, 263)
_PREFIX = slice(345, 500)
_OCTAL = frozenset(b"01234567")
_POSITIVE, _NEGATIVE = 0x80, 0xFF
"""First bytes of GNU's numbers in binary, for those that octal digits have no room for."""


class Header(Value):
    """What a header says of its member.

    Attributes:
        name: Path, as it stands.
        kind: The type flag.
        size_bytes: Of the contents behind it; may be negative.
        mode: Permission bits.
        target: A link's.
    """

    name: str
    kind: bytes
    size_bytes: int
    mode: int
    target: str


class HeaderError(ValueError):
    """A block is no header, or one that can be read in two ways.

    Attributes:
        reason: `bad-checksum`, `bad-header` or `ambiguous-header`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_header(block: bytes) -> Header:
    """Return what a block of 512 bytes says, of which not all are zero.

    Raises:
        HeaderError: It is no header, or ambiguous.
    """
    if not _has_right_sum(block):
        raise HeaderError("bad-checksum")
    name = _string(block[:100])
    magic = block[_MAGIC]
    if magic == _POSIX:
        prefix = _string(block[_PREFIX])
        name = prefix + b"/" + name if prefix else name
    elif magic not in (_GNU, _V7):
        raise HeaderError("bad-header")
    elif block[_PREFIX].strip(b"\0"):
        raise HeaderError("ambiguous-header")  # times to some programs, to others a part of the name
    for field in _UNUSED:
        _number(block[field])  # one that is damaged ends the archive for some programs
    size_field = block[_SIZE]
    if not size_field.strip(b"\0 "):
        raise HeaderError("bad-header")
    return Header(
        name=as_path(name),
        kind=block[156:157],
        size_bytes=_number(size_field),
        mode=_number(block[100:108]),
        target=as_path(_string(block[157:257])),
    )


def as_path(name: bytes) -> str:
    """Return a name as text; what is no UTF-8 in it comes as surrogates, and no name with such is taken."""
    return name.decode("utf-8", "surrogateescape")


def _string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _has_right_sum(block: bytes) -> bool:
    """Whether the sum of all bytes is the one given, its own field counted as blanks; some programs add signed ones."""
    field = block[_SUM]
    expected = _octal(field)
    plain = sum(block) - sum(field) + len(field) * ord(" ")
    if plain == expected:
        return True
    rest = block[: _SUM.start] + block[_SUM.stop :]
    return plain - 256 * sum(byte > 127 for byte in rest) == expected  # noqa: PLR2004  # the largest signed byte


def _number(field: bytes) -> int:
    """Return a field's number: octal digits, or binary after GNU's mark; 0 where there is none."""
    if field[0] in (_POSITIVE, _NEGATIVE):
        number = int.from_bytes(field[1:], "big")
        return number if field[0] == _POSITIVE else number - (1 << 8 * len(field) - 8)
    number = _octal(field)
    if number < 0 and field.strip(b"\0 "):
        raise HeaderError("bad-header")
    return max(number, 0)


def _octal(field: bytes) -> int:
    """Return a field of octal digits, blanks before them and NULs or blanks behind; -1 where it is something else."""
    digits = field.lstrip(b" ").rstrip(b"\0 ")
    return int(digits, 8) if digits and _OCTAL.issuperset(digits) else -1
