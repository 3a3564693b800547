"""One exchange after the other with a server over one connection, kept where the server keeps it.

Every step has the same absolute deadline; whatever goes wrong is one of the outcomes of a request.
"""

from __future__ import annotations

import errno
import os
import time

from contextagent import __version__
from contextagent.errors import BrokenSourceError
from contextagent.host.wire import Connection, left_ns
from contextagent.payloads.http import Chunks, head_end, read_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

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


class Failed(Exception):  # noqa: N818  # no error of ours: one of the outcomes
    """A request that came to nothing: outcome and reason as `service.Answer` has them, and the rest of its sentence."""

    def __init__(self, outcome: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.reason = reason
        self.detail = detail


class Exchange:
    """What speaks HTTP with the service.

    Args:
        address: Where it is.
        on_connected: Called once, when the very first connection stands.

    Attributes:
        is_connected: Whether there has ever been a connection, also one of another child.
        requests: How many have been sent; whoever counts them sets it back.
    """

    def __init__(self, address: Address, on_connected: Callable[[], None]) -> None:
        self._address = address
        self._on_connected = on_connected
        self._connection: Connection | None = None
        self._buffer = bytearray(_PIECE_BYTES)
        self.is_connected = False
        self.requests = 0

    def drop(self) -> None:
        """Close the connection, if there is one; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(
        self, question: dict[str, Any], body: Callable[[], Iterable[bytes]] = tuple, size_bytes: int = 0
    ) -> tuple[Head, bytes, int]:
        """Send a request and return the answer's head, what came behind it, and until when the rest may come.

        A kept connection that the server has given up meanwhile is no failure: it is asked once more on a fresh one.

        Args:
            question: Method, target, headers and deadlines, as `service` says them.
            body: Returns what a PUT sends, from its beginning.
            size_bytes: How much that is.

        Raises:
            Failed: No connection could be had.
            BrokenSourceError: What came is no answer.
            TimeoutError: Nothing came in time.
            OSError: The connection broke.
        """
        words = [f"{question['method']} {question['target']} HTTP/1.1", f"Host: {self._address.authority}"]
        words += [f"User-Agent: contextagent/{__version__}", "Accept: */*", "Accept-Encoding: identity"]
        words += [f"{name}: {value}" for name, value in question["headers"]]
        if question["method"] == "PUT":
            words.append(f"Content-Length: {size_bytes}")
        request = "\r\n".join([*words, "Connection: keep-alive", "\r\n"]).encode("ascii")
        end_ns = _try_end(question)
        if self._connection is not None:
            try:
                if self._connection.is_idle():
                    return *self._head(self._connection, request, body(), end_ns), end_ns
            except ConnectionError:
                pass
            self.drop()
        if not self.is_connected:
            self._connection = self._first_connection(question)
            end_ns = _try_end(question)
        else:
            self._connection = self._next_connection(end_ns)
        return *self._head(self._connection, request, body(), end_ns), end_ns

    def _next_connection(self, end_ns: int) -> Connection:
        """Return another connection to a service that had one before: it is tried for once."""
        try:
            return self._open(end_ns)
        except TimeoutError:
            raise Failed("retry", "timeout", "it took too long to let us connect") from None
        except OSError as error:
            raise Failed("retry", "down", error.strerror or str(error)) from error

    def _first_connection(self, question: dict[str, Any]) -> Connection:
        """Return the very first connection: it is tried for until its time is over, and a try begins only then."""
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
                self.is_connected = True
                self._on_connected()
                return connection
            attempt += 1
        raise Failed("unreachable", "unreachable", f"no connection in time ({cause})")

    def _open(self, end_ns: int) -> Connection:
        return Connection(self._address.host, self._address.port, end_ns=end_ns)

    def _head(self, connection: Connection, request: bytes, body: Iterable[bytes], end_ns: int) -> tuple[Head, bytes]:
        self.requests += 1
        connection.send(request, end_ns=end_ns)
        try:
            for piece in body:
                connection.send(piece, end_ns=end_ns)
        except ConnectionError:
            pass  # who wants no more of it may have said why; if not, there is nothing to read
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
                raise Failed("broken", "bad-http", "it sends one interim answer after the other")

    def pieces(self, head: Head, rest: bytes, end_ns: int) -> Iterator[bytes | memoryview]:
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
        self.drop()
        if size:
            raise _wrong_length("more than it says")

    def _more(self, end_ns: int) -> int:
        if self._connection is None:
            return 0
        return self._connection.receive_into(self._buffer, end_ns=end_ns)

    def drain(self, head: Head, rest: bytes) -> None:
        """Read a body that nobody wants, if it is small and there, so that the connection can be kept."""
        end_ns = time.monotonic_ns() + _DRAIN_NS
        left = _DRAIN_BYTES
        try:
            if head.is_kept and (head.length or 0) <= left:
                for piece in self.pieces(head, rest, end_ns):
                    left -= len(piece)
                    if left < 0:
                        break
                else:
                    return
        except (OSError, BrokenSourceError, Failed):
            pass  # its status said it all
        self.drop()


def _try_end(question: dict[str, Any]) -> int:
    """Return when a try that begins now is over."""
    return min(time.monotonic_ns() + int(question["try_ns"]), int(question["end_ns"]))


def _by_chance(duration_ns: int) -> int:
    """Return a duration ± a half: a thousand machines that start together must not ask together."""
    return duration_ns // 2 + duration_ns * int.from_bytes(os.urandom(2), "big") // 65536


def _wrong_length(what: str) -> Failed:
    return Failed("broken", "wrong-length", f"it sends {what}")


def _cut_short(where: str) -> Failed:
    return Failed("broken", "cut-short", f"it closed the connection {where}")
