"""The head of an HTTP request as a small server takes it: strict, and with the target as plain path components."""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD_BYTES = 16 << 10
"""Of the request line and all fields together; what a client of a metadata service sends has a few hundred."""
MAX_BODY_BYTES = 64 << 10
"""Of a body that is read and thrown away: nothing here is ever uploaded."""
HEAD_END = b"\r\n\r\n"

_VERSIONS = ("HTTP/1.1", "HTTP/1.0")
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HEX = frozenset("0123456789abcdefABCDEF")


class Request(Value):
    """One request.

    Attributes:
        method: `GET`, `HEAD`, `PUT`, …, as sent.
        target: The request's target, as sent.
        parts: The path's components, decoded; empty ones are left out.
        headers: Field names in lower case to their values; a field that came twice has both, with a comma.
        is_kept: Whether the client wants the connection kept.
        body_bytes: How many bytes of a body follow.
        client: The client's address, without its port.
    """

    method: str
    target: str
    parts: tuple[str, ...]
    headers: Mapping[str, str]
    is_kept: bool
    body_bytes: int = 0
    client: str = ""

    @property
    def path(self) -> str:
        """The path in its shortest form, decoded, without a slash at its end."""
        return "/" + "/".join(self.parts)


class BadRequest(Value):
    """A head that is no request, or none that is answered: the status to say so with, and why."""

    status: int
    cause: str


def read_request(head: bytes, *, client: str = "") -> Request | BadRequest:
    """Return the request that a head holds, or what is wrong with it (RFC 9112).

    Args:
        head: Everything up to and with the empty line.
        client: The address that it came from.
    """
    lines = head.removesuffix(HEAD_END).decode("latin-1").split("\r\n")
    if any(char < " " and char != "\t" for line in lines for char in line):
        return BadRequest(status=400, cause="a control character in the head")
    words = lines[0].split(" ")
    if len(words) != len(("method", "target", "version")) or not _is_token(words[0]) or not words[1].isascii():
        return BadRequest(status=400, cause="no request line")
    method, target, version = words
    if version not in _VERSIONS:
        return BadRequest(status=505, cause="neither HTTP/1.0 nor HTTP/1.1")
    headers = _fields(lines[1:])
    if isinstance(headers, BadRequest):
        return headers
    if version == "HTTP/1.1" and ("host" not in headers or "," in headers["host"]):
        return BadRequest(status=400, cause="not one field Host")
    body = _body_bytes(headers)
    if isinstance(body, BadRequest):
        return body
    parts = path_parts(target)
    if isinstance(parts, BadRequest):
        return parts
    wanted = headers.get("connection", "").lower().replace(" ", "").split(",")
    is_kept = "close" not in wanted and (version == "HTTP/1.1" or "keep-alive" in wanted)
    return Request(
        method=method, target=target, parts=parts, headers=headers, is_kept=is_kept, body_bytes=body, client=client
    )


def path_parts(target: str) -> tuple[str, ...] | BadRequest:
    """Return the decoded path components of a target in origin or absolute form, or why there are none.

    A component that is `.` or `..`, or that holds a slash, a NUL or anything but UTF-8, is refused, not resolved: no
    client of a metadata service writes one.
    """
    for scheme in ("http://", "https://"):
        if target.lower().startswith(scheme):
            target = "/" + target[len(scheme) :].partition("/")[2]
    if not target.startswith("/"):
        return BadRequest(status=400, cause="the target is no path")
    parts = []
    for written in target.partition("?")[0].partition("#")[0].split("/"):
        part = _decoded(written)
        if part is None or part in (".", "..") or "/" in part or any(char < " " or char == "\x7f" for char in part):
            return BadRequest(status=400, cause="a path component that stands for none")
        if part:
            parts.append(part)
    return tuple(parts)


def _is_token(text: str) -> bool:
    return bool(text) and _TOKEN.issuperset(text)


def _fields(lines: list[str]) -> dict[str, str] | BadRequest:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _is_token(name):  # this refuses a folded line and a blank before the colon, too
            return BadRequest(status=400, cause="a line that is no field")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _body_bytes(headers: Mapping[str, str]) -> int | BadRequest:
    if "transfer-encoding" in headers:
        return BadRequest(status=501, cause="a transfer encoding")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        return BadRequest(status=400, cause="a length that is no number")
    if len(length) > len(str(MAX_BODY_BYTES)) or int(length) > MAX_BODY_BYTES:
        return BadRequest(status=413, cause=f"a body of more than {MAX_BODY_BYTES} bytes")
    return int(length)


def _decoded(written: str) -> str | None:
    """Return a component with its escapes resolved; None where they stand for no text."""
    first, *rest = written.split("%")
    data = bytearray(first.encode())
    for piece in rest:
        digits = piece[:2]
        if len(digits) != len("00") or not _HEX.issuperset(digits):
            return None
        data.append(int(digits, 16))
        data += piece[2:].encode()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
