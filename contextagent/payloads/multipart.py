"""Messages as mailers write them (RFC 2045, 2046, 2231), taken apart: what a part is, and its bytes.

A message is read as leniently as the library's `email` reads it, which is not used because it brings in thirty modules:
they take longer than a whole phase of a boot.  What a part's headers say beside its type and its encoding is of no use.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, a2b_qp, a2b_uu
from bisect import bisect_left

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = bytes(set(range(33, 127)) - {ord(":")})
_LINE_ENDS = (b"\n", b"\r\n", b"\r")
MAX_HEADERS_BYTES = 64 << 10
"""Of one part: a mailer writes a hundredth of it."""
MAX_PARAMETERS = 32
_MAX_DIGITS = 4
_UU = ("x-uuencode", "uuencode", "uue", "x-uue")


class TooLargeError(ValueError):
    """A message has more of something than any mailer writes; `reason` is a fixed word."""

    def __init__(self, cause: str, *, reason: str) -> None:
        super().__init__(cause)
        self.reason = reason


class Part(Value):
    """A part that holds no other parts.

    Attributes:
        kind: Its type, in lower case, without parameters.
        encoding: Its transfer encoding, in lower case; empty where it names none.
        body: As it stands in the message.
    """

    kind: str
    encoding: str
    body: bytes

    def content(self) -> bytes:
        """Return the body without its transfer encoding.

        Raises:
            ValueError: It is no base64, though it should be.
        """
        if self.encoding == "quoted-printable":
            return a2b_qp(self.body)
        if self.encoding == "base64":
            try:
                return a2b_base64(b"".join(self.body.splitlines()), strict_mode=True)
            except Error as error:
                raise ValueError(str(error)) from error
        return _from_uu(self.body) if self.encoding in _UU else self.body


class Parts(Value):
    """The leaf parts of a message in their order.

    Attributes:
        parts: They.
        has_boundaries: False where a multipart names no boundary, or where it never comes.
        is_closed: False where a multipart's last boundary is missing.
    """

    parts: tuple[Part, ...]
    has_boundaries: bool
    is_closed: bool


def read_message(data: bytes, *, max_parts: int) -> Parts:
    """Return the leaf parts of a message; any bytes are one, of type text/plain where nothing says another.

    Raises:
        TooLargeError: It has more than `max_parts`, or too large a head.
    """
    reader = _Reader(data.splitlines(keepends=True), max_parts)
    reader.message(0, len(reader.lines), "text/plain")
    return Parts(parts=tuple(reader.parts), has_boundaries=reader.has_boundaries, is_closed=reader.is_closed)


class _Reader:
    """A message as lines, and what has been found in it.

    Each line is looked at a fixed number of times, however many multiparts are inside each other: what could be a
    boundary is found by its text.
    """

    def __init__(self, lines: list[bytes], max_parts: int) -> None:
        self.lines = lines
        self.parts: list[Part] = []
        self.has_boundaries = True
        self.is_closed = True
        self._max_parts = max_parts
        self._dashed: dict[bytes, list[int]] = {}
        for number, line in enumerate(lines):
            if line.startswith(b"--"):
                self._dashed.setdefault(line[2:].rstrip(b"\r\n").rstrip(b" \t"), []).append(number)

    def message(self, begin: int, end: int, default_kind: str, *, is_part: bool = False) -> None:
        """Take in the message in a range of lines, and whatever it holds."""
        while True:
            headers, begin = self._headers(begin, end)
            kind = headers.get("content-type", default_kind).partition(";")[0].strip().lower()
            if not kind.startswith("message/") or kind.count("/") != 1:
                break
            default_kind = "text/plain"  # of the message in the message, which begins with headers of its own
        if kind.startswith("multipart/") and kind.count("/") == 1:
            inner_kind = "message/rfc822" if kind == "multipart/digest" else "text/plain"
            self._multipart(begin, end, _boundary(headers["content-type"]), inner_kind)
            return
        if len(self.parts) >= self._max_parts:
            raise TooLargeError(f"it has more than {self._max_parts} parts", reason="too-many-members")
        body = b"".join(self.lines[begin:end])
        if is_part:  # the line end before a boundary is the boundary's
            body = body.removesuffix(b"\n").removesuffix(b"\r") if body.endswith(b"\n") else body.removesuffix(b"\r")
        kind = kind if kind.count("/") == 1 else "text/plain"
        encoding = headers.get("content-transfer-encoding", "").strip().lower()
        self.parts.append(Part(kind=kind, encoding=encoding, body=body))

    def _headers(self, begin: int, end: int) -> tuple[dict[str, str], int]:
        """Return the first value of each header by its name in lower case, and where the body begins."""
        found: dict[str, list[bytes]] = {}
        folded: list[bytes] = []
        after = end
        size_bytes = 0
        for number in range(begin, end):
            line = self.lines[number]
            if line in _LINE_ENDS:
                after = number + 1
                break
            key, colon, value = line.partition(b":")
            if line[:1] in (b" ", b"\t"):
                folded.append(line)
            elif colon and not key.translate(None, _NAME):
                folded = [value]
                found.setdefault(key.decode("ascii").lower(), folded)
            elif not (number == begin and line.startswith(b"From ")):
                after = number  # a body without the empty line before it
                break
            size_bytes += len(line)
            if size_bytes > MAX_HEADERS_BYTES:
                raise TooLargeError("the headers of a part are too large", reason="bad-mime")
        return {name: b"".join(pieces).decode("latin-1") for name, pieces in found.items()}, after

    def _multipart(self, begin: int, end: int, boundary: bytes, default_kind: str) -> None:
        """Take in the parts between the lines that are boundaries; what stands before and behind them is for nobody."""
        if not boundary:
            self.has_boundaries = False
            return
        first = None
        is_closed = False
        closing = self._marks(begin, end, boundary + b"--")
        closed = closing[0] if closing else end
        for number in self._marks(begin, closed, boundary) + closing[:1]:
            if first is not None and first < number:
                self.message(first, number, default_kind, is_part=True)
            if number == closed:
                is_closed = True
                break
            first = number + 1
        if first is None:
            self.has_boundaries = False
        elif not is_closed:
            self.is_closed = False
            self.message(first, end, default_kind, is_part=True)

    def _marks(self, begin: int, end: int, mark: bytes) -> list[int]:
        """Return the lines in a range that are this mark, with two hyphens before it."""
        numbers = self._dashed.get(mark, [])
        return numbers[bisect_left(numbers, begin) : bisect_left(numbers, end)]


def _boundary(typed: str) -> bytes:
    """Return the boundary that a content type names; empty where there is none."""
    plain, pieces = "", {}
    for name, value in _parameters(typed):
        if name == "boundary":
            plain = plain or value
        elif name.startswith("boundary*"):  # RFC 2231: in pieces, or with a character set
            number = name[len("boundary*") :].rstrip("*")
            pieces[int(number) if number.isdecimal() and len(number) < _MAX_DIGITS else 0] = (
                _unescaped(value) if name.endswith("*") else value
            )
    text = plain or "".join(pieces[number] for number in sorted(pieces))
    return text.rstrip().encode("latin-1", "replace")


def _parameters(typed: str) -> Iterator[tuple[str, str]]:
    """Tell the parameters of a content type: name in lower case, and value without its quotes."""
    pieces: list[str] = []
    is_quoted = False
    count = 0
    for piece in typed.split(";")[1:]:
        pieces.append(piece)
        is_quoted ^= bool((piece.count('"') - piece.count('\\"')) % 2)
        if is_quoted:
            continue
        count += 1
        if count > MAX_PARAMETERS:
            raise TooLargeError("a content type has too many parameters", reason="bad-mime")
        yield _parameter(";".join(pieces))
        pieces = []
    if pieces:
        yield _parameter(";".join(pieces))


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1].replace("\\\\", "\\").replace('\\"', '"')
    elif value.startswith("<") and value.endswith(">"):
        value = value[1:-1]
    return name.strip().lower(), value


def _unescaped(value: str) -> str:
    """Return a value of RFC 2231 without its character set, language and escapes."""
    text = value.rpartition("'")[2]
    first, *escaped = text.split("%")
    made = first
    for piece in escaped:
        try:
            made += chr(int(piece[:2], 16)) + piece[2:]
        except ValueError:
            made += f"%{piece}"
    return made


def _from_uu(body: bytes) -> bytes:
    """Return what is between `begin` and `end`; the body as it is where that can't be read."""
    lines = iter(body.splitlines())
    made: list[bytes] = []
    if not any(line.startswith(b"begin ") for line in lines):
        return body
    for line in lines:
        if line.strip() == b"end":
            break
        try:
            made.append(a2b_uu(line))
        except Error:  # some programs fill the last line up
            size = (((line[0] - 32) & 63) * 4 + 5) // 3 if line else 0
            try:
                made.append(a2b_uu(line[:size]))
            except Error:
                return body
    return b"".join(made)
