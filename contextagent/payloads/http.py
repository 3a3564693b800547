"""HTTP/1.x answers, read strictly: what two readers could understand differently is refused.

A metadata service is asked in the clear, over links that a tenant may share.  So an answer either says without doubt
where it ends, or it is no answer.  The rules are those of RFC 9112, without what it lets a reader forgive (ADR 0007).
"""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HEAD_BYTES = 32 << 10
MAX_FIELDS = 100
MAX_LENGTH_DIGITS = 15
"""Of a length: a petabyte, more than any cap, and far from any overflow."""
_END = b"\r\n\r\n"
_START = b"HTTP/1."
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset(b"0123456789")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_MAX_SIZE_LINE_BYTES = 256
_MAX_SIZE_DIGITS = 12
_MAX_TRAILER_BYTES = 8 << 10
_NO_BODY = (204, 304)
_SWITCHING = 101


class Head(Value):
    """What stands before an answer's body.

    Attributes:
        status: 100 to 599.
        headers: Names in lower case, and values, in the order sent.
        length: Of the body, in bytes; None when it is chunked, or ends with the connection.
        is_chunked: Whether the body comes in chunks.
        is_kept: Whether the connection can carry another answer after this one.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    is_chunked: bool = False
    is_kept: bool = False

    def header(self, name: str) -> str:
        """Return the first value of a header, or an empty text."""
        return next((value for each, value in self.headers if each == name), "")

    @property
    def is_interim(self) -> bool:
        """Whether this is a 1xx, after which the answer itself follows."""
        return self.status < 200  # noqa: PLR2004  # the classes of status codes are their hundreds


def head_end(data: bytes | bytearray) -> int:
    """Return where the head at the start of `data` ends (behind its empty line); 0 when more must be read.

    Raises:
        BrokenSourceError: What has come is no HTTP/1.x, or its head grows past 32 KiB; the server's fault.
    """
    if not _START.startswith(data[: len(_START)]):
        raise _bad("it is no HTTP/1.x")
    line = data.find(b"\n", 0, MAX_HEAD_BYTES)
    if line >= 0 and data[line - 1 : line] != b"\r":
        raise _bad("its lines do not end in CR LF")
    end = data.find(_END, 0, MAX_HEAD_BYTES)
    if end >= 0:
        return end + len(_END)
    if len(data) >= MAX_HEAD_BYTES:
        raise _bad(f"its head is longer than {MAX_HEAD_BYTES} bytes", "too-large")
    return 0


def read_head(data: bytes | bytearray) -> Head:
    """Return what a head says.

    Args:
        data: The whole head, from the first byte to the empty line.

    Raises:
        BrokenSourceError: It breaks the rules of HTTP/1.x, or does not say for certain where the body ends; the
            server's fault.
    """
    first, *lines = bytes(data[: -len(_END)]).split(b"\r\n")
    minor, status = _status(first)
    if len(lines) > MAX_FIELDS:
        raise _bad(f"it has more than {MAX_FIELDS} headers")
    headers = tuple(_field(line) for line in lines)
    length = _length([value for name, value in headers if name == "content-length"])
    codings = [value.lower() for name, value in headers if name == "transfer-encoding"]
    if codings:
        if codings != ["chunked"] or not minor:
            raise _bad("it has a Transfer-Encoding other than chunked")
        if length is not None:
            raise _bad("it has both Content-Length and Transfer-Encoding", "length-conflict")
    options = [option.strip().lower() for name, value in headers if name == "connection" for option in value.split(",")]
    if status == _SWITCHING:
        raise _bad("it switches to another protocol")
    if status in _NO_BODY or status < 200:  # noqa: PLR2004  # see Head
        length, codings = 0, []
    is_open = "close" not in options if minor else options == ["keep-alive"]
    return Head(
        status=status,
        headers=headers,
        length=length,
        is_chunked=bool(codings),
        is_kept=is_open and (bool(codings) or length is not None),
    )


def _status(line: bytes) -> tuple[int, int]:
    """Return the minor version and the status of `HTTP/1.1 200 OK`; the words after the number may be missing."""
    version, code, reason = line[:8], line[8:12], line[12:]
    minor = {b"HTTP/1.0": 0, b"HTTP/1.1": 1}.get(version)
    if minor is None or code[:1] != b" " or len(code) != 4 or not _DIGITS.issuperset(code[1:]):  # noqa: PLR2004  # " 200"
        raise _bad("its first line is no status line")
    if reason and (reason[:1] != b" " or not _is_text(reason)):
        raise _bad("its first line is no status line")
    status = int(code)
    if not 100 <= status <= 599:  # noqa: PLR2004  # RFC 9110, 15: the first digit is one of 1 to 5
        raise _bad(f"its status {status} is none")
    return minor, status


def _field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not name or not _TOKEN.issuperset(name):
        raise _bad("a line of its head is no header")
    value = value.strip(b" \t")
    if not _is_text(value):
        raise _bad("a header holds control characters")
    return name.decode("ascii").lower(), value.decode("latin-1")


def _is_text(data: bytes) -> bool:
    return all((byte >= 32 and byte != 127) or byte == 9 for byte in data)  # noqa: PLR2004  # blank, DEL and tab in ASCII


def _length(values: list[str]) -> int | None:
    if not values:
        return None
    if any(value != values[0] for value in values):
        raise _bad("it has two Content-Lengths", "length-conflict")
    value = values[0]
    if not value or len(value) > MAX_LENGTH_DIGITS or not _DIGITS.issuperset(value.encode("latin-1")):
        raise _bad("its Content-Length is no number")
    return int(value)


class Chunks:
    """A chunked body as it comes in.

    Attributes:
        is_done: Whether the last chunk and its trailer have been read.
        rest: What came after the body's end.
    """

    def __init__(self) -> None:
        self.is_done = False
        self.rest = b""
        self._data = bytearray()
        self._left = 0
        self._is_behind = False
        self._trailer_bytes = -1

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Yield the pieces of the body that have become whole with `data`.

        Raises:
            BrokenSourceError: The chunks break the rules; the server's fault.
        """
        self._data += data
        while not self.is_done and self._data:
            if self._left:
                piece = bytes(self._data[: self._left])
                del self._data[: len(piece)]
                self._left -= len(piece)
                self._is_behind = not self._left
                yield piece
            elif not self._next_line():
                return
        if self.is_done:
            self.rest = bytes(self._data)

    def _next_line(self) -> bool:
        """Take one line between two pieces; return whether it was there in whole."""
        allowed = _MAX_SIZE_LINE_BYTES if self._trailer_bytes < 0 else _MAX_TRAILER_BYTES - self._trailer_bytes
        end = self._data.find(b"\n", 0, allowed)
        if self._is_behind and not b"\r\n".startswith(self._data[:2]):
            raise _bad("a chunk is longer than it says", "wrong-length")
        if end < 0:
            if len(self._data) >= allowed:
                raise _bad("a line between its chunks is too long")
            return False
        line = bytes(self._data[: end + 1])
        del self._data[: end + 1]
        if line[-2:-1] != b"\r" or not _is_text(line[:-2]):
            raise _bad("a line between its chunks is no such line")
        if self._is_behind:
            self._is_behind = False
        elif self._trailer_bytes < 0:
            self._start(line[:-2])
        else:
            self._trail(line[:-2])
        return True

    def _start(self, line: bytes) -> None:
        digits, _, _ = line.partition(b";")
        digits = digits.rstrip(b" \t")
        if not digits or len(digits) > _MAX_SIZE_DIGITS or not _HEX.issuperset(digits):
            raise _bad("the size of a chunk is no number")
        self._left = int(digits, 16)
        if not self._left:
            self._trailer_bytes = 0

    def _trail(self, line: bytes) -> None:
        if not line:
            self.is_done = True
            return
        _field(line)
        self._trailer_bytes += len(line) + 2


def _bad(cause: str, reason: str = "bad-http") -> BrokenSourceError:
    return BrokenSourceError(f"cannot read 'HTTP answer': {cause}", reason=reason)
