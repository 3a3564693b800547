"""The features over HTTP on 127.0.0.1, for programs that read no folder: the DIRAC Pilot, DIRAC's MJFResourceUsage.

By default the port is below 1024, so that no payload can take it first and serve features of its own.  Whoever asks is
an account of this machine, and may be a hostile one: connections, their time and their memory are bounded, and an
answer is one small write.
"""

from __future__ import annotations

import time

from contextagent import __version__
from contextagent.errors import CannotWriteError
from contextagent.features.pages import page
from contextagent.host.listening import Listener
from contextagent.payloads.http_request import HEAD_END, MAX_HEAD_BYTES, BadRequest, read_request
from contextagent.watch.room import TICK_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.features.lifetime import Now
    from contextagent.host.listening import Client
    from contextagent.watch.room import Watch

MAX_CLIENTS = 64
"""At once; the next one ends the one that has been there longest."""
CLIENT_S = 10.0
"""All the time that one client has."""
_PAUSE_S = 1.0
_AT_ONCE = 16
"""Fewer than `MAX_CLIENTS`, so that whoever has sent a request is heard before a flood can put it out."""
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
_REASONS |= {413: "Content Too Large", 414: "URI Too Long", 431: "Request Header Fields Too Large"}
_REASONS |= {501: "Not Implemented", 505: "HTTP Version Not Supported"}


def begin(watch: Watch) -> Served | None:
    """Return the part; None where the policy switches it off."""
    http: str = watch.settings["watch.http"]
    return None if http == "off" else Served(watch, int(http.rpartition(":")[2]))


class Served:
    """The listening socket and the clients that are there."""

    def __init__(self, watch: Watch, port: int) -> None:
        self._watch = watch
        self._port = port
        self._listener: Listener | None = None
        self._said = ""
        self._resume_s: float | None = None
        self._visits: dict[int, _Visit] = {}

    @property
    def port(self) -> int | None:
        """The port that is listened at; None where it could not be had yet."""
        return self._listener.port if self._listener else None

    def wake(self, now: Now) -> float | None:
        """Listen, if that did not succeed before, and end the connections that have had their time."""
        if self._listener is None:
            self._listen()
        elif self._resume_s is not None and now.boot_s >= self._resume_s:
            self._resume_s = None
            self._watch.at_readable(self._listener.fd, self._accept)
        for visit in list(self._visits.values()):
            if now.boot_s >= visit.end_s:
                self._end(visit)
        due = [visit.end_s for visit in self._visits.values()]
        if self._resume_s is not None:
            due.append(self._resume_s)
        if self._listener is None:
            due.append(now.boot_s + TICK_S)
        return min(due, default=None)

    def close(self) -> None:
        """Give the port back; the next watch can have it at once."""
        for visit in list(self._visits.values()):
            self._end(visit)
        if self._listener is not None:
            self._watch.at_readable(self._listener.fd, None)
            self._listener.close()
            self._listener = None

    def _listen(self) -> None:
        try:
            self._listener = Listener(self._port)
        except CannotWriteError as error:
            if self._said != str(error):
                self._said = str(error)
                self._watch.say(f"{error}, trying again every minute")
            return
        self._said = ""
        self._watch.at_readable(self._listener.fd, self._accept)

    def _accept(self) -> None:
        """Take the clients that are there, but not all of a flood: the loop comes back for the rest."""
        assert self._listener is not None  # noqa: S101  # it is what called
        now = self._watch.now()
        for _ in range(_AT_ONCE):
            try:
                client = self._listener.accept()
            except OSError as error:
                self._watch.say(f"cannot serve '127.0.0.1:{self._port}': {error.strerror}, trying again in a second")
                self._watch.at_readable(self._listener.fd, None)
                self._resume_s = now.boot_s + _PAUSE_S
                self._watch.wake_by(self._resume_s)
                return
            if client is None:
                return
            self._begin(client, now)

    def _begin(self, client: Client, now: Now) -> None:
        if len(self._visits) >= MAX_CLIENTS:
            self._end(next(iter(self._visits.values())))
        visit = _Visit(client, now.boot_s + CLIENT_S)
        self._visits[client.fd] = visit
        self._watch.at_readable(client.fd, lambda: self._hear(visit))
        self._watch.wake_by(visit.end_s)

    def _hear(self, visit: _Visit) -> None:
        """Take what a client sent, and answer once its head is whole; then wait for it to go."""
        data = visit.client.receive()
        if data is None:
            return
        if not data:
            self._end(visit)
            return
        if visit.is_answered:
            return  # thrown away: unread, it would make the kernel reset the connection, and lose the answer
        visit.head += data
        if HEAD_END in visit.head or len(visit.head) > MAX_HEAD_BYTES:
            visit.is_answered = True
            if not visit.client.send_last(self._answer(visit.head)):
                self._end(visit)

    def _answer(self, head: bytes) -> bytes:
        """Return the whole answer to what came."""
        before, end, _ = head.partition(HEAD_END)
        if not end or len(before) > MAX_HEAD_BYTES:
            return _reply(431, f"431 a head of more than {MAX_HEAD_BYTES} bytes\n".encode())
        request = read_request(before + end)
        if isinstance(request, BadRequest):
            return _reply(request.status, f"{request.status} {request.cause}\n".encode())
        self._watch.reread()
        found = page(request.method, request.parts, self._watch.live.features)
        return _reply(found.status, found.body, is_head=request.method == "HEAD")

    def _end(self, visit: _Visit) -> None:
        self._watch.at_readable(visit.client.fd, None)
        del self._visits[visit.client.fd]
        visit.client.close()


class _Visit:
    """One client: what it sent so far, and when its time is over (clock since boot)."""

    def __init__(self, client: Client, end_s: float) -> None:
        self.client = client
        self.end_s = end_s
        self.head = b""
        self.is_answered = False


def _reply(status: int, body: bytes, *, is_head: bool = False) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Refused')}",
        f"Server: contextagent/{__version__}",
        time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        "Content-Type: text/plain; charset=utf-8",
        *(["Allow: GET, HEAD"] if status == 405 else []),  # noqa: PLR2004  # as in `features.pages`
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + HEAD_END + (b"" if is_head else body)
