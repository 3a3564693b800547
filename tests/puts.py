"""A strict server for what a machine hands over: by PUT, in the clear or over TLS with certificates for both sides."""

from __future__ import annotations

import http.server
import select
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.certificates import Authority, Certificate

_LONGEST_S = 30
_TICK_S = 0.01


class Taken(NamedTuple):
    """A PUT that was taken whole: its path, fields (names in lower case), body, and the client's subject."""

    path: str
    headers: dict[str, str]
    body: bytes
    subject: str


class Puts:
    """A server that takes what is put, and answers each path as it is told to.

    Args:
        certificate: Its own, for TLS; None for plain HTTP.
        clients: Who signs its clients' certificates; None where it wants none.
        statuses: Path to the statuses of its answers, one after the other, the last one for ever; 201 for the others.
        listening: Makes the socket that it listens at, in another network namespace, say.

    Attributes:
        taken: What was put, in order, whatever the answer was.
        asked: How many requests came, those that were broken off included.
        held: Paths that get no answer.
        most_waiting: How many clients ever waited for one at once.
    """

    def __init__(
        self,
        *,
        certificate: Certificate | None = None,
        clients: Authority | None = None,
        statuses: dict[str, list[int]] | None = None,
        listening: Callable[[], socket.socket] | None = None,
    ) -> None:
        self.taken: list[Taken] = []
        self.asked = 0
        self.held: set[str] = set()
        self.most_waiting = 0
        self.waiting: list[socket.socket] = []
        self.statuses = statuses or {}
        self._server = _Server(self, listening() if listening else socket.create_server(("127.0.0.1", 0)))
        self.host, self.port = self._server.socket.getsockname()[:2]
        self._scheme = "http"
        if certificate is not None:
            self._scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.cert, certificate.key)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients.cert)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(_TICK_S,), daemon=True).start()

    def url(self, path: str = "/joboutputs", host: str = "") -> str:
        """Return a URL here; without a host by the address."""
        return f"{self._scheme}://{host or self.host}:{self.port}{path}"

    def bodies(self) -> dict[str, bytes]:
        """Return the last body of each path."""
        return {each.path: each.body for each in self.taken}

    def status(self, path: str) -> int:
        """Return what to answer now."""
        left = self.statuses.get(path, [201])
        return left.pop(0) if len(left) > 1 else left[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, puts: Puts, listening: socket.socket) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.puts = puts

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients here break off on purpose."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _LONGEST_S
    server: _Server

    def do_PUT(self) -> None:
        puts = self.server.puts
        puts.asked += 1
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            self._answer(411)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return
        peer: Any = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        subject = ",".join(f"{key}={value}" for part in (peer or {}).get("subject", ()) for key, value in part)
        headers = {name.lower(): value for name, value in self.headers.items()}
        puts.taken.append(Taken(self.path, headers, body, subject))
        if self.path in puts.held:
            self._hold(puts)
        else:
            self._answer(puts.status(self.path))

    def do_GET(self) -> None:
        self.server.puts.asked += 1
        self._answer(405)

    def _hold(self, puts: Puts) -> None:
        """Answer nothing until the client goes."""
        there = [each for each in puts.waiting if not select.select([each], [], [], 0)[0]]  # the others are gone
        puts.waiting.append(self.connection)
        puts.most_waiting = max(puts.most_waiting, len(there) + 1)
        select.select([self.connection], [], [], _LONGEST_S)
        puts.waiting.remove(self.connection)
        self.close_connection = True

    def _answer(self, status: int) -> None:
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", self.server.puts.url("/elsewhere"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
