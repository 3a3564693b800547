"""Lines of a collector's file: where the record starts behind the header that a syslog daemon put before it."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_LINE_BYTES = 1 << 16
"""A longer line is nobody's record; its rest is dropped as it comes."""

RECORD_START = b'{"v":1,"seq":'
_HEADER = re.compile(
    rb"(?:\d+ )?(?:<\d{1,3}>)?(?:1 )?"  # frame length, priority, version of RFC 5424
    rb"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) "
)


def record_bytes(line: bytes) -> bytes | None:
    """Return a line's record, as the bytes that the chain is made of; None for a foreign line.

    A line that is not a record from its first byte needs a whole syslog header (RFC 3164, RFC 5424, rsyslog's file
    formats) before it: anything else there is a changed line.
    """
    if line.startswith(b"{"):
        return line
    start = line.find(RECORD_START)
    return line[start:] if start > 0 and _HEADER.match(line, 0, start) else None


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a byte stream without their LF, in constant memory.

    An overlong line comes cut; a last one that was not written whole (a trace read while it grows) does not come.
    """
    rest = b""
    for data in chunks:
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        rest = rest[: MAX_LINE_BYTES + 1]
    if rest.endswith(b"}"):
        yield rest
