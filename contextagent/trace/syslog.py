"""Lines of a collector's file: where the record starts behind the header that a syslog daemon put before it."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_LINE_BYTES = 1 << 16
"""A longer line is nobody's record; its rest is dropped as it comes."""

RECORD_START = b'{"v":1,"seq":'
USUAL_HEADER = (
    rb"(?:(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^ ]*|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) [^ {\"\[]+ [^ {\"\[]+ )?"
)
"""Expression for what rsyslog and syslog-ng write before a line unless they are told otherwise, or nothing."""
_HEADER = re.compile(
    rb"""(?:
        (?:\d{1,6}\ )?(?:<\d{1,3}>)?(?:1\ )?                                    # length of a frame, priority, RFC 5424
        (?:
            (?:[A-Z][a-z]{2}\ )?\d{4}-\d\d-\d\d[T\ ]\d\d:\d\d:\d\d\S*           # RFC 3339, and as people write it
            |(?:\d{4}\ )?[A-Z][a-z]{2}\ [\ \d]\d(?:\ \d{4})?\ \d\d:\d\d:\d\d\S* # RFC 3164, with a year or parts of one
            |\d{10}(?:\.\d+)?                                                   # seconds since 1970
        )
        (?:\ +[^\ {"\[]+(?:\[\d*\]:?)?){0,4}                                    # host, tag[pid]:, and what else
        (?:\ +(?:-|(?:\[(?:[^\]"\\]|\\.|"(?:[^"\\]|\\.)*")*\])+)\ ?)?           # structured data
        (?:[ ]|(?<=:))(?:\xef\xbb\xbf)?                                         # RFC 5424 may mark its text as UTF-8
        |MESSAGE=                                                               # journalctl -o export
    )""",
    re.VERBOSE | re.DOTALL,
)
"""Headers of RFC 3164, RFC 5424, rsyslog's and syslog-ng's file formats and `journalctl`.

Between header and record stands one blank (behind RFC 5424's structured data sometimes a second one, behind a tag's
colon by some templates none), and nothing else but a mark of UTF-8:
`message repeated 2 times: [ …]` is no record, and what was put before one changes its line.
"""


def record_bytes(line: bytes) -> bytes | None:
    """Return a line's record, as the bytes that the chain is made of; None for a foreign line.

    A line that is not a record from its first byte needs a whole syslog header before it: anything else there is a
    changed line.
    """
    if line.startswith(b"{"):
        return line
    start = line.find(RECORD_START)
    return line[start:] if start > 0 and _HEADER.fullmatch(line, 0, start) else None


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
