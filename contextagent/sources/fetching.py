"""The confined child's side of the metadata service: one connection, one request at a time, one answer to each.

It runs without rights (see `host.confine`) and is killed when its time is over; what it answers, `service` judges.
"""

from __future__ import annotations

import errno
import os
import time

from contextagent import __version__, jsontext
from contextagent.errors import BrokenSourceError
from contextagent.host.wire import Connection, left_ns
from contextagent.payloads.http import Chunks, head_end, read_head
from contextagent.sources.crossing import packed
from contextagent.sources.service import CONNECTED, END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from contextagent.host.confine import Channel
    from contextagent.model import Reading
    from contextagent.payloads.address import Address
    from contextagent.payloads.http import Head

_PIECE_BYTES = 1 << 16
"""Larger ones make the kernel look for runs of free pages that long, which costs more than the calls that they save."""
_HEAD_PIECE_BYTES = 1 << 14
_MAX_INTERIM = 5
_MS_NS = 10**6
_ATTEMPT_NS = 1000 * _MS_NS
"""For one attempt to connect where it is repeated: a link that comes up late is met by a fresh one, not by the kernel's
retransmissions, which stand ever further apart."""
_PAUSES_NS = (20 * _MS_NS, 40 * _MS_NS, 80 * _MS_NS, 160 * _MS_NS, 320 * _MS_NS)
"""Between attempts that were refused at once; the last one for all the others, each ± a half by chance."""
_DRAIN_NS = 500 * _MS_NS
_DRAIN_BYTES = 64 << 10
"""What is read of a body that nobody wants, so that the connection can be kept; a longer or later one ends it."""
_MAX_RETRY_AFTER_S = 30.0
_OK = 200
_UNAUTHORISED, _FORBIDDEN, _NOT_FOUND, _GONE, _TOO_MANY = 401, 403, 404, 410, 429
_HTML = ("text/html", "application/xhtml+xml")
_HTML_STARTS = (b"<!doctype html", b"<html")
_BLANK = b"\xef\xbb\xbf \t\r\n"
_START_BYTES = 100
"""Where an answer does not say what it is, its beginning does."""


class _Failed(Exception):  # noqa: N818  # no error of ours: one of the outcomes
    def __init__(self, outcome: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.reason = reason
        self.detail = detail


class Fetcher:
    """What asks the service.

    Args:
        channel: To the parent.
        address: Where it is.
        readers: Name to what reads a body.
        sink_fd: Where a body to the sink goes; None when there is no such place.
    """

    def __init__(
        self,
        channel: Channel,
        address: Address,
        readers: Mapping[str, Callable[[bytes], Reading]],
        sink_fd: int | None,
    ) -> None:
        self._channel = channel
        self._address = address
        self._readers = readers
        self._sink_fd = sink_fd
        self._connection: Connection | None = None
        self._is_connected = False
        self._requests = 0
        self._buffer = bytearray(_PIECE_BYTES)

    def serve(self) -> None:
        """Answer the parent's questions until it hangs up; the child's whole life."""
        while (question := self._channel.receive()) is not None:
            said = self._answer(jsontext.loads(question))
            self._channel.send(END)
            self._channel.send(jsontext.dumps(said).encode())

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        self._requests = 0
        self._is_connected = self._is_connected or question["is_connected"]
        said: dict[str, Any]
        try:
            said = self._fetch(question)
        except _Failed as failure:
            said = {"outcome": failure.outcome, "reason": failure.reason, "detail": failure.detail}
            self._drop()
        except BrokenSourceError as error:
            said = {"outcome": "broken", "reason": error.reason, "detail": str(error).partition(": ")[2]}
            self._drop()
        except TimeoutError:
            said = {"outcome": "retry", "reason": "timeout", "detail": "it took too long"}
            self._drop()
        except OSError as error:
            said = {"outcome": "retry", "reason": "reset", "detail": error.strerror or str(error)}
            self._drop()
        return {**said, "requests": self._requests}

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fetch(self, question: dict[str, Any]) -> dict[str, Any]:
        if question["method"] == "GET" and not question["to_sink"] and self._sink_fd is not None:
            # from here on a user's bytes may be read: whoever takes this child over by them must not reach the site's
            os.close(self._sink_fd)
            self._sink_fd = None
        head, rest, end_ns = self._exchange(question)
        said = {"status": head.status, "content_type": head.header("content-type")[:100], "size_bytes": 0}
        said |= _judged(head)
        if head.status != _OK:
            self._drain(head, rest)
            return said
        kind = head.header("content-type").partition(";")[0].strip().lower()
        if question["refuse_html"] and kind in _HTML:
            raise _html()
        size, data = self._body(head, rest, question, end_ns)
        said["size_bytes"] = size
        if not size:
            return {**said, "outcome": "absent", "reason": "empty", "detail": "its answer is empty"}
        start = data[:_START_BYTES].lstrip(_BLANK).lower()
        if question["refuse_html"] and not kind and start.startswith(_HTML_STARTS):
            raise _html()
        return {**said, "reading": self._read(question["reader"], data)} if question["reader"] else said

    def _read(self, reader: str, body: bytes) -> dict[str, Any]:
        try:
            return packed(self._readers[reader](body))
        except BrokenSourceError:
            raise
        except Exception as error:  # foreign bytes can raise anything in a parser; all of it means broken
            raise _Failed("broken", "bad-format", f"{type(error).__name__}: {error}"[:300]) from error

    def _exchange(self, question: dict[str, Any]) -> tuple[Head, bytes, int]:
        """Send a request and return the answer's head, what came behind it, and until when the rest may come.

        A kept connection that the server has given up meanwhile is no failure: it is asked once more on a fresh one.
        """
        words = [f"{question['method']} {question['target']} HTTP/1.1", f"Host: {self._address.authority}"]
        words += [f"User-Agent: contextagent/{__version__}", "Accept: */*", "Accept-Encoding: identity"]
        words += [f"{name}: {value}" for name, value in question["headers"]]
        if question["method"] == "PUT":
            words.append("Content-Length: 0")
        request = "\r\n".join([*words, "Connection: keep-alive", "\r\n"]).encode("ascii")
        if self._connection is not None:
            end_ns = min(time.monotonic_ns() + question["try_ns"], question["end_ns"])
            try:
                if self._connection.is_idle():
                    return *self._head(self._connection, request, end_ns), end_ns
            except ConnectionError:
                pass
            self._drop()
        self._connection = self._connect(question)
        end_ns = min(time.monotonic_ns() + question["try_ns"], question["end_ns"])
        return *self._head(self._connection, request, end_ns), end_ns

    def _connect(self, question: dict[str, Any]) -> Connection:
        """Return a new connection: the very first one is tried for until its time is over, a later one once."""
        try_end_ns = min(time.monotonic_ns() + question["try_ns"], question["end_ns"])
        if self._is_connected:
            try:
                return self._open(try_end_ns)
            except TimeoutError:
                raise _Failed("retry", "timeout", "it took too long to let us connect") from None
            except OSError as error:
                raise _Failed("retry", "down", error.strerror or str(error)) from error
        end_ns = min(question["connect_end_ns"], question["end_ns"])
        cause = "no answer"
        attempt = 0
        while left_ns(end_ns):
            try:
                connection = self._open(min(end_ns, time.monotonic_ns() + _by_chance(_ATTEMPT_NS)))
            except TimeoutError:
                cause = "no answer"
            except OSError as error:
                cause = (error.strerror or str(error)).lower()
                pause_ns = _by_chance(_PAUSES_NS[min(attempt, len(_PAUSES_NS) - 1)])
                time.sleep(min(pause_ns, left_ns(end_ns)) / 1e9)
            else:
                self._is_connected = True
                self._channel.send(CONNECTED)
                return connection
            attempt += 1
        raise _Failed("unreachable", "unreachable", f"no connection in time ({cause})")

    def _open(self, end_ns: int) -> Connection:
        return Connection(self._address.host, self._address.port, end_ns=end_ns)

    def _head(self, connection: Connection, request: bytes, end_ns: int) -> tuple[Head, bytes]:
        self._requests += 1
        connection.send(request, end_ns=end_ns)
        data = bytearray()
        interim = 0
        view = memoryview(self._buffer)[:_HEAD_PIECE_BYTES]
        while True:
            while not data or not (end := head_end(data)):
                size = connection.receive_into(view, end_ns=end_ns)
                if not size:
                    raise ConnectionResetError(errno.ECONNRESET, "it closed the connection without an answer")
                data += view[:size]
            head = read_head(data[:end])
            del data[:end]
            if not head.is_interim:
                return head, bytes(data)
            interim += 1
            if interim > _MAX_INTERIM:
                raise _Failed("broken", "bad-http", "it sends one interim answer after the other")

    def _body(self, head: Head, rest: bytes, question: dict[str, Any], end_ns: int) -> tuple[int, bytes]:
        """Pass the body on, and return its size, and the body itself for a reader or its beginning for a look at it."""
        allowed = question["max_bytes"]
        if head.length is not None and head.length > allowed:
            raise _too_large(allowed)
        if head.header("content-encoding").lower() not in ("", "identity"):
            raise _Failed("broken", "encoded", "it packs what was to be sent as it is (Content-Encoding)")
        pieces = self._pieces(head, rest, end_ns)
        size = 0
        kept = bytearray()
        if question["to_sink"]:
            os.ftruncate(self._sink(), 0)
        for piece in pieces:
            if size + len(piece) > allowed:
                raise _too_large(allowed)
            if question["to_sink"]:
                _write(self._sink(), piece, size)
            elif piece and not question["reader"]:
                self._channel.send(piece)
            if question["reader"] or size < _START_BYTES:
                kept += piece
            size += len(piece)
        if not head.is_kept:
            self._drop()
        return size, bytes(kept)

    def _sink(self) -> int:
        if self._sink_fd is None:
            raise _Failed("retry", "no-sink", "there is no place for it")
        return self._sink_fd

    def _pieces(self, head: Head, rest: bytes, end_ns: int) -> Iterator[bytes | memoryview]:
        """Yield a body as it comes; each piece is gone when the next one is asked for.

        Raises:
            BrokenSourceError: It is not as long as its head or its chunks say.
            TimeoutError: It did not come to its end in time.
            OSError: The connection was reset.
        """
        if head.is_chunked:
            yield from self._chunked(rest, end_ns)
            return
        if head.length is None:
            yield rest
            while size := self._more(end_ns):
                yield memoryview(self._buffer)[:size]
            return
        if len(rest) > head.length:
            raise _wrong_length("more than it says")
        left = head.length - len(rest)
        yield rest
        while left:
            size = self._more(end_ns)
            if not size:
                raise _cut_short(f"{left} bytes before its end")
            if size > left:
                raise _wrong_length("more than it says")
            left -= size
            yield memoryview(self._buffer)[:size]
        self._look_behind()

    def _chunked(self, rest: bytes, end_ns: int) -> Iterator[bytes]:
        chunks = Chunks()
        yield from chunks.feed(rest)
        while not chunks.is_done:
            size = self._more(end_ns)
            if not size:
                raise _cut_short("before its last chunk")
            yield from chunks.feed(memoryview(self._buffer)[:size])
        if chunks.rest:
            raise _wrong_length("more than its chunks say")
        self._look_behind()

    def _look_behind(self) -> None:
        """Refuse what has come behind the body: it is longer than its head says."""
        if self._connection is None or self._connection.is_idle():
            return
        try:
            size = self._more(time.monotonic_ns() + _MS_NS)
        except OSError:
            size = 0
        self._drop()
        if size:
            raise _wrong_length("more than it says")

    def _more(self, end_ns: int) -> int:
        if self._connection is None:
            return 0
        return self._connection.receive_into(self._buffer, end_ns=end_ns)

    def _drain(self, head: Head, rest: bytes) -> None:
        """Read a body that nobody wants, if it is small and there, so that the connection can be kept."""
        end_ns = time.monotonic_ns() + _DRAIN_NS
        left = _DRAIN_BYTES
        try:
            if head.is_kept and (head.length or 0) <= left:
                for piece in self._pieces(head, rest, end_ns):
                    left -= len(piece)
                    if left < 0:
                        break
                else:
                    return
        except (OSError, BrokenSourceError, _Failed):
            pass  # its status said it all
        self._drop()


def _judged(head: Head) -> dict[str, Any]:
    """Return the outcome that a status means (docs/reference/context.md), and the words for it."""
    status = head.status
    match status:
        case 200:
            outcome, reason = "found", ""
        case 404 | 410:
            outcome, reason = "absent", "not-found"
        case 401:
            outcome, reason = "unauthorised", "unauthorised"
        case 429:
            outcome, reason = "retry", "rate-limited"
        case 403:
            outcome, reason = "broken", "forbidden"
        case _:
            outcome, reason = {
                2: ("broken", "bad-status"),
                3: ("broken", "redirect"),
                4: ("broken", "refused"),
                5: ("retry", "server-error"),
            }[status // 100]
    return {
        "outcome": outcome,
        "reason": reason,
        "detail": f"its status is {status}",
        "retry_after_s": _retry_after(head.header("retry-after")),
    }


def _retry_after(text: str) -> float:
    """Return the seconds that a server asks us to wait, at most 30; 0 for a date: this machine's may be any."""
    return min(float(text[:10]), _MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def _write(fd: int, piece: bytes | memoryview, offset: int) -> None:
    view = memoryview(piece)
    while view:
        try:
            size = os.pwrite(fd, view, offset)
        except OSError as error:
            raise _Failed("broken", "no-room", f"there is no room for it: {error.strerror}") from error
        view = view[size:]
        offset += size


def _by_chance(duration_ns: int) -> int:
    """Return a duration ± a half: a thousand machines that start together must not ask together."""
    return duration_ns // 2 + duration_ns * int.from_bytes(os.urandom(2), "big") // 65536


def _html() -> _Failed:
    return _Failed("broken", "html", "it answers with an HTML page")


def _too_large(allowed: int) -> _Failed:
    return _Failed("broken", "too-large", f"it is larger than {allowed} bytes")


def _wrong_length(what: str) -> _Failed:
    return _Failed("broken", "wrong-length", f"it sends {what}")


def _cut_short(where: str) -> _Failed:
    return _Failed("broken", "cut-short", f"it closed the connection {where}")
