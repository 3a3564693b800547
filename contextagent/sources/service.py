"""The metadata service, as its parent asks it: one confined child speaks HTTP, and what it brings is judged here.

The child is killed when the time of a try is over, whatever it does; so neither a server that drips nor a parser that
loops holds the boot up.  Nothing it says is an exception: every outcome is a value.
"""

from __future__ import annotations

import os
import time

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.model import Value
from contextagent.sources.body import Body
from contextagent.sources.crossing import unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Literal

    from contextagent.host import Host
    from contextagent.host.confine import Channel, Child
    from contextagent.model import Reading
    from contextagent.payloads.address import Address

    Outcome = Literal["found", "absent", "retry", "broken", "unreachable", "unauthorised"]

OUTCOMES = ("found", "absent", "retry", "broken", "unreachable", "unauthorised")
END = b""
"""What the child sends between the pieces of a body and what it says of it."""
CONNECTED = b"connected"
"""What the child says once, as soon as the first connection stands: from then on a try has its own time."""
_NS = 10**9
_CONNECT_SHARE = 0.97
"""Of the time to connect, what is waited: the rest is for what a phase without a service has left to do."""
_GRACE_S = 1.0
"""How long after its deadline a child that keeps it itself is waited for, on a machine that has other things to do."""
_MAX_SAID_BYTES = 64 << 20
_MAX_PIECE_BYTES = 1 << 20
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._~")
_MAX_WORD_CHARS = 256
_REASON = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class Answer(Value):
    """What one request came to.

    Attributes:
        outcome: `retry` means that it may do later, `unreachable` that no connection could be had from the beginning.
        reason: A fixed word: `not-found`, `empty`, `forbidden`, `redirect`, `html`, `wrong-length`, `timeout`, …
        message: A sentence that names the URL; empty when it was found.
        status: Of HTTP; 0 when there was none.
        body: Empty when it went to the sink, to a reader, or to a file.
        file_fd: Of the file that a body went to which was too large to be held; the caller closes it; None for no file.
        size_bytes: Of the body, wherever it went.
        reading: What the reader made of it.
        retry_after_s: What the server asks to wait, at most 30.
        content_type: As sent, at most 100 characters.
    """

    outcome: Outcome
    reason: str = ""
    message: str = ""
    status: int = 0
    body: bytes = b""
    file_fd: int | None = None
    size_bytes: int = 0
    reading: Reading | None = None
    retry_after_s: float = 0.0
    content_type: str = ""


class Service:
    """A metadata service.

    Args:
        host: The machine.
        address: Where it is.
        connect_s: Seconds from `start_ns` within which the first connection must stand.
        try_s: Seconds for one request and its answer.
        total_s: Seconds from `start_ns` for everything.
        start_ns: The phase's start, on the monotonic clock.
        sink_fd: An open file for a body that is too large to be held; the caller closes it.
        max_sink_bytes: How large that may become.
        folder: Guest path of a folder of the agent's own for bodies that are not held; empty for this machine's /tmp.
        readers: Name to what reads a body in the child.

    Attributes:
        requests: How many have been sent.
    """

    def __init__(  # noqa: PLR0913  # three deadlines, a clock and a place: each is its own word
        self,
        host: Host,
        address: Address,
        *,
        connect_s: float,
        try_s: float,
        total_s: float,
        start_ns: int,
        sink_fd: int | None = None,
        max_sink_bytes: int = 0,
        folder: str = "",
        readers: Mapping[str, Callable[[bytes], Reading]] | None = None,
    ) -> None:
        self._address = address
        self._host = host
        self._try_s = try_s
        self._connect_end_ns = start_ns + int(connect_s * _CONNECT_SHARE * _NS)
        self._end_ns = start_ns + int(total_s * _NS)
        self._sink_fd = sink_fd
        self._max_sink_bytes = max_sink_bytes
        self._folder = folder
        self._readers = readers or {}
        self._child: Child | None = None
        self._is_connected = False
        self._has_sink = False
        self.requests = 0

    def url(self, path: str) -> str:
        """Return the URL of a path below the service."""
        return self._address.url(_quoted(path))

    def left_s(self) -> float:
        """Return the seconds that are left of the whole; never negative."""
        return max(0, self._end_ns - time.monotonic_ns()) / _NS

    def close(self) -> None:
        """End the child; a second call does nothing."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def get(
        self,
        path: str,
        *,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        reader: str = "",
        to_sink: bool = False,
        refuse_html: bool = False,
        max_held_bytes: int | None = None,
    ) -> Answer:
        """Ask once for what is at `path`.

        Args:
            path: Below the service, from its slash on, not quoted.
            max_bytes: How large the body may be.
            headers: Beside the usual ones.
            reader: Which reader gets the body, in the child.
            to_sink: The body is written to the sink, from its start.
            refuse_html: An HTML page is none of what can be there.
            max_held_bytes: A body larger than this goes to a file; None for no bound but `max_bytes`.
        """
        return self._ask(
            path,
            {
                "method": "GET",
                "headers": list((headers or {}).items()),
                "max_bytes": max_bytes,
                "reader": reader,
                "to_sink": to_sink,
                "refuse_html": refuse_html,
            },
            max_bytes if max_held_bytes is None else max_held_bytes,
        )

    def put(self, path: str, *, headers: Mapping[str, str], max_bytes: int) -> Answer:
        """Send an empty body to `path`, once; the answer is what came back."""
        question = {"method": "PUT", "headers": list(headers.items()), "max_bytes": max_bytes}
        return self._ask(path, {**question, "reader": "", "to_sink": False, "refuse_html": True}, max_bytes)

    def _ask(self, path: str, question: dict[str, Any], max_held_bytes: int) -> Answer:
        def failed(outcome: Outcome, reason: str, detail: str) -> Answer:
            return Answer(outcome=outcome, reason=reason, message=self._message(path, detail))

        if not self.left_s():
            return failed("retry", "timeout", "the time for the service is over")
        if not all(_is_field(name) and _is_field(value) for name, value in question["headers"]):
            return failed("broken", "bad-header", "what it gave can't be put in a header")
        try:
            is_tokens = question["method"] == "PUT"
            child = self._ready_child(may_have_sink=is_tokens or question["to_sink"], needs_sink=question["to_sink"])
            body = Body(self._host, self._folder, question["max_bytes"], max_held_bytes)
            try:
                said = self._asked(child, path, question, body)
                return self._judged(path, question, said, body)
            finally:
                body.close()
        except BrokenSourceError as error:
            self.close()
            detail = str(error).partition(": ")[2]
            if question["reader"] or error.reason == "reader-too-much":
                return failed("broken", error.reason, detail)
            return failed("retry", "timeout" if error.reason == "reader-timeout" else error.reason, detail)

    def _asked(self, child: Child, path: str, question: dict[str, Any], body: Body) -> dict[str, Any]:
        """Return what the child says, and take in the body; the child is killed when it does not say so in time."""
        question = {
            **question,
            "target": f"{self._address.prefix}{_quoted(path)}",
            "connect_end_ns": self._connect_end_ns,
            "try_ns": int(self._try_s * _NS),
            "end_ns": self._end_ns,
            "is_connected": self._is_connected,
        }
        end_s = self._try_end_s() if self._is_connected else self._connect_end_ns / _NS + _GRACE_S
        piece = child.ask(jsontext.dumps(question).encode(), max_bytes=_MAX_PIECE_BYTES, end_s=end_s)
        if piece == CONNECTED and not self._is_connected:
            self._is_connected = True
            end_s = self._try_end_s()
            piece = child.hear(max_bytes=_MAX_PIECE_BYTES, end_s=end_s)
        while piece != END:
            body.add(piece)
            piece = child.hear(max_bytes=_MAX_PIECE_BYTES, end_s=end_s)
        said = child.hear(max_bytes=_MAX_SAID_BYTES, end_s=end_s)
        try:
            answer = jsontext.loads(said)
        except ValueError:
            raise _nonsense() from None
        if not isinstance(answer, dict):
            raise _nonsense()
        return answer

    def _try_end_s(self) -> float:
        """Return the moment at which a child that has not answered a try from now on is killed."""
        return min(time.monotonic_ns() + int(self._try_s * _NS), self._end_ns) / _NS + _GRACE_S

    def _judged(self, path: str, question: dict[str, Any], said: dict[str, Any], body: Body) -> Answer:
        """Return what a child said, after a look at every part of it: whoever took it over could say anything."""
        outcome: Any = said.get("outcome")
        reason: Any = said.get("reason")
        detail: Any = said.get("detail")
        requests: Any = said.get("requests")
        status, size = said.get("status", 0), said.get("size_bytes", 0)
        wait_s, kind = said.get("retry_after_s", 0.0), said.get("content_type", "")
        is_sound = (
            outcome in OUTCOMES
            and all(isinstance(text, str) for text in (reason, detail, kind))
            and all(isinstance(number, int) and number >= 0 for number in (status, size, requests))
            and isinstance(wait_s, float)
            and len(reason) <= 40  # noqa: PLR2004  # longer than every word of ours
            and _REASON.issuperset(reason)
        )
        if not is_sound:
            raise _nonsense()
        self.requests += requests
        reading = None
        if outcome == "found":
            reading = self._found(question, said, body)
        return Answer(
            outcome=outcome,
            reason=reason,
            message="" if outcome == "found" else self._message(path, detail[:300]),
            status=status,
            body=body.held() if outcome == "found" else b"",
            file_fd=body.taken() if outcome == "found" else None,
            size_bytes=size,
            reading=reading,
            retry_after_s=max(0.0, min(wait_s, 30.0)),
            content_type=kind[:100],
        )

    def _found(self, question: dict[str, Any], said: dict[str, Any], body: Body) -> Reading | None:
        """Return the reading of what was found, if it was to be read; the size that was said must be the true one."""
        if question["reader"]:
            packed = said.get("reading")
            reading = unpacked(packed) if isinstance(packed, dict) else None
            if reading is None or not _is_meta_data(reading):
                raise _nonsense()
            return reading
        if question["to_sink"] and self._sink_fd is not None:
            is_true = os.fstat(self._sink_fd).st_size == said["size_bytes"]
        else:
            is_true = body.size_bytes == said["size_bytes"]
        if not is_true:
            raise _nonsense()
        return None

    def _ready_child(self, *, may_have_sink: bool, needs_sink: bool) -> Child:
        """Return the child; one that may have read a user's bytes is never given the sink again."""
        if needs_sink and not self._has_sink:
            self.close()
        if self._child is None:
            self._has_sink = may_have_sink and self._sink_fd is not None
            sink_fd = self._sink_fd if self._has_sink else None
            self._child = self._host.confined(
                self._work(sink_fd),
                timeout_s=self.left_s() + _GRACE_S,
                keep=() if sink_fd is None else (sink_fd,),
                max_file_bytes=self._max_sink_bytes,
                prepare=_prepare,
            )
        self._has_sink = self._has_sink and may_have_sink
        return self._child

    def _work(self, sink_fd: int | None) -> Callable[[Channel], None]:
        def work(channel: Channel) -> None:
            from contextagent.sources.fetching import Fetcher  # noqa: PLC0415  # see _prepare

            Fetcher(channel, self._address, self._readers, sink_fd).serve()

        return work

    def _message(self, path: str, detail: str) -> str:
        return f"cannot fetch '{self.url(path)}': {detail}"


def _prepare() -> None:
    """Import what the child alone needs, while it may still read files."""
    from contextagent.sources import fetching  # noqa: F401, PLC0415  # the parent never opens a socket


def _is_meta_data(reading: Reading) -> bool:
    """Whether a reading gives nothing but what meta data may: nothing of the site's, and ids that are ids."""
    return (
        all(offer.owner == "user" and isinstance(offer.data, bytes) and not offer.path for offer in reading.offers)
        and isinstance(reading.ids, dict)
        and all(_is_word(word) for word in (reading.layout, *reading.ids.keys(), *reading.ids.values()))
        and not reading.variables
        and reading.bundle is None
        and all(_is_text(each.message) and _is_word(each.reason) for each in reading.warnings)
    )


def _is_text(text: object) -> bool:
    return isinstance(text, str)


def _is_word(text: object) -> bool:
    return isinstance(text, str) and text.isprintable() and 0 < len(text) <= _MAX_WORD_CHARS


def _quoted(path: str) -> str:
    return "".join(
        letter if letter in _SAFE else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "replace"))
        for letter in path
    )


def _is_field(text: str) -> bool:
    return text.isascii() and text.isprintable() and text.strip() == text and bool(text)


def _nonsense() -> BrokenSourceError:
    return BrokenSourceError("cannot read 'answer': its reader answered nonsense", reason="reader-died")
