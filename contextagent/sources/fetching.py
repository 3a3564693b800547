"""The confined child's side of the metadata service: one connection, one request at a time, one answer to each.

It runs without rights (see `host.confine`) and is killed when its time is over; what it answers, `service` judges.
"""

from __future__ import annotations

import os

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.host.exchange import Exchange, Failed
from contextagent.sources.crossing import packed
from contextagent.sources.service import CONNECTED, END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from contextagent.host.confine import Channel
    from contextagent.model import Reading
    from contextagent.payloads.address import Address
    from contextagent.payloads.http import Head

_MAX_RETRY_AFTER_S = 30.0
_OK = 200
_HTML = ("text/html", "application/xhtml+xml")
_HTML_STARTS = (b"<!doctype html", b"<html")
_BLANK = b"\xef\xbb\xbf \t\r\n"
_START_BYTES = 100
"""Where an answer does not say what it is, its beginning does."""


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
        self._readers = readers
        self._sink_fd = sink_fd
        self._exchange = Exchange(address, lambda: channel.send(CONNECTED))

    def serve(self) -> None:
        """Answer the parent's questions until it hangs up; the child's whole life."""
        while (question := self._channel.receive()) is not None:
            said = self._answer(jsontext.loads(question))
            self._channel.send(END)
            self._channel.send(jsontext.dumps(said).encode())

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        self._exchange.requests = 0
        self._exchange.is_connected = self._exchange.is_connected or question["is_connected"]
        said: dict[str, Any]
        try:
            said = self._fetch(question)
        except Failed as failure:
            said = {"outcome": failure.outcome, "reason": failure.reason, "detail": failure.detail}
            self._exchange.drop()
        except BrokenSourceError as error:
            said = {"outcome": "broken", "reason": error.reason, "detail": str(error).partition(": ")[2]}
            self._exchange.drop()
        except TimeoutError:
            said = {"outcome": "retry", "reason": "timeout", "detail": "it took too long"}
            self._exchange.drop()
        except OSError as error:
            said = {"outcome": "retry", "reason": "reset", "detail": error.strerror or str(error)}
            self._exchange.drop()
        return {**said, "requests": self._exchange.requests}

    def _fetch(self, question: dict[str, Any]) -> dict[str, Any]:
        if question["method"] == "GET" and not question["to_sink"] and self._sink_fd is not None:
            # from here on a user's bytes may be read: whoever takes this child over by them must not reach the site's
            os.close(self._sink_fd)
            self._sink_fd = None
        head, rest, end_ns = self._exchange.ask(question)
        said = {"status": head.status, "content_type": head.header("content-type")[:100], "size_bytes": 0}
        said |= _judged(head)
        if head.status != _OK:
            self._exchange.drain(head, rest)
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
            raise Failed("broken", "bad-format", f"{type(error).__name__}: {error}"[:300]) from error

    def _body(self, head: Head, rest: bytes, question: dict[str, Any], end_ns: int) -> tuple[int, bytes]:
        """Pass the body on, and return its size, and the body itself for a reader or its beginning for a look at it."""
        allowed = question["max_bytes"]
        if head.length is not None and head.length > allowed:
            raise _too_large(allowed)
        if head.header("content-encoding").lower() not in ("", "identity"):
            raise Failed("broken", "encoded", "it packs what was to be sent as it is (Content-Encoding)")
        pieces = self._exchange.pieces(head, rest, end_ns)
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
            self._exchange.drop()
        return size, bytes(kept)

    def _sink(self) -> int:
        if self._sink_fd is None:
            raise Failed("retry", "no-sink", "there is no place for it")
        return self._sink_fd


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
            raise Failed("broken", "no-room", f"there is no room for it: {error.strerror}") from error
        view = view[size:]
        offset += size


def _html() -> Failed:
    return Failed("broken", "html", "it answers with an HTML page")


def _too_large(allowed: int) -> Failed:
    return Failed("broken", "too-large", f"it is larger than {allowed} bytes")
