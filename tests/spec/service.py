"""A metadata service for tests: raw sockets, every request and connection recorded, any answer scripted by path."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOT_FOUND = 404
TOKEN = "token-of-the-service"  # it opens nothing
_LONGEST_S = 30
_REASONS = {200: "OK", 301: "Moved", 302: "Found", 307: "Temporary Redirect", 401: "Unauthorized", 404: "Not Found"}


class Request(NamedTuple):
    """One request as it came: `connection` counts from 1; `seen` is what the service's `look` said at that time."""

    method: str
    path: str
    headers: dict[str, str]
    connection: int
    seconds: float
    seen: object


class Page(NamedTuple):
    """What is answered.

    Attributes:
        body: The body; its length is told, unless the headers tell another or the page is chunked or `old`.
        status: The status code.
        headers: More header lines, or others in their place; an empty one is not sent.
        fault: `reset`, `close`, `hang`, `stall` (the head, then nothing), `drip` (the body, a byte each `pause_s`),
            `slow head`, `leave` (a whole answer, then closed without a word), or none.
        old: Answered as HTTP/1.0, without a length, and closed.
        raw: These bytes instead of all the above, then the connection is closed.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    fault: str = ""
    pause_s: float = 0.1
    old: bool = False
    is_chunked: bool = False
    raw: bytes = b""


if TYPE_CHECKING:
    Answer: TypeAlias = bytes | str | int | Page | list[Any] | Callable[[Request], Any]


class Service:
    """A service on a port of its own, answering 404 where it was told nothing.

    Attributes:
        pages: The answers by path, or by `METHOD path`; a list gives one after the other, the last for ever.
        requests: All requests so far.
        connections: How many connections were taken so far.
        look: Called at each request; what it says is kept with the request.
        only: Whoever lacks this header with this value gets 401 for a GET.
    """

    def __init__(self, pages: Mapping[str, Answer] | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.pages: dict[str, Answer] = dict(pages or {})
        self.requests: list[Request] = []
        self.connections = 0
        self.look: Callable[[], object] = lambda: None
        self.only: tuple[str, str] | None = None
        self.dies_at = -1
        self._told: dict[str, int] = {}
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
        for thread in self._threads:
            thread.join(_LONGEST_S)

    def close(self) -> None:
        """Stop listening, and cut every connection: the service is dead from here on."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            for each in self._open:
                _reset(each)

    def forget(self) -> None:
        """Forget the requests so far, and start lists of answers afresh."""
        self.requests.clear()
        self._told.clear()
        self.connections = 0

    def paths(self, prefix: str = "") -> list[str]:
        """Return the paths asked for so far, in order."""
        return [each.path for each in self.requests if each.path.startswith(prefix)]

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            self._start(self._serve, connection, self.connections)

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_LONGEST_S)
        held = b""
        try:
            while True:
                while b"\r\n\r\n" not in held:
                    data = connection.recv(65536)
                    if not data:
                        return
                    held += data
                head, _, held = held.partition(b"\r\n\r\n")
                request = self._parse(head.decode("latin-1"), number)
                self.requests.append(request)
                if len(self.requests) == self.dies_at:
                    self.close()
                    return
                if not self._answer(connection, request, self._page(request)):
                    return
        except OSError:
            return
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _parse(self, head: str, number: int) -> Request:
        line, *rest = head.split("\r\n")
        method, path, _ = line.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
        return Request(method, path, headers, number, time.monotonic(), self.look())

    def _page(self, request: Request) -> Page:
        name = f"{request.method} {request.path}"
        if name not in self.pages:
            if request.method != "GET":
                return Page(status=405)
            name = request.path
        if self.only and request.method == "GET" and request.headers.get(self.only[0]) != self.only[1]:
            return Page(status=401)
        answer = self.pages.get(name, NOT_FOUND)
        while not isinstance(answer, Page):
            if isinstance(answer, list):
                place = self._told.get(name, 0)
                self._told[name] = place + 1
                answer = answer[min(place, len(answer) - 1)]
            elif isinstance(answer, int):
                answer = Page(b"" if answer == 200 else b"no\n", status=answer)
            elif isinstance(answer, str):
                answer = Page(answer.encode())
            elif isinstance(answer, bytes):
                answer = Page(answer)
            else:
                answer = answer(request)
        return answer

    def _answer(self, connection: socket.socket, request: Request, page: Page) -> bool:
        """Return whether the connection goes on."""
        if page.raw:
            connection.sendall(page.raw)
            return False
        if page.fault in ("reset", "close", "hang"):
            self._fail(connection, page.fault)
            return False
        body = page.body if request.method != "HEAD" else b""
        headers = {"Content-Type": "text/plain", "Content-Length": str(len(body)), **page.headers}
        if page.old or page.is_chunked:
            headers.pop("Content-Length")
        if page.is_chunked:
            headers["Transfer-Encoding"] = "chunked"
            body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (body[:7], body[7:]) if each) + b"0\r\n\r\n"
        version = "HTTP/1.0" if page.old else "HTTP/1.1"
        head = f"{version} {page.status} {_REASONS.get(page.status, 'Something')}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value) + "\r\n"
        if page.fault == "slow head":
            self._drip(connection, head.encode("latin-1"), page.pause_s)
            return False
        connection.sendall(head.encode("latin-1"))
        if page.fault == "drip":
            self._drip(connection, body, page.pause_s)
        elif page.fault == "stall":
            self._ended.wait(_LONGEST_S)
        else:
            connection.sendall(body)
        if page.fault:
            return False
        return not page.old and (page.is_chunked or headers["Content-Length"] == str(len(body)))

    def _fail(self, connection: socket.socket, fault: str) -> None:
        if fault == "reset":
            _reset(connection)
        elif fault == "hang":
            self._ended.wait(_LONGEST_S)

    def _drip(self, connection: socket.socket, data: bytes, pause_s: float) -> None:
        for place in range(len(data)):
            connection.sendall(data[place : place + 1])
            if self._ended.wait(pause_s):
                return


def _reset(connection: socket.socket) -> None:
    """Have a connection cut by a reset when its thread, which is woken, closes it."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
