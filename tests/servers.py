"""A server of canned bytes for tests: what is sent, how slowly, and how it ends is scripted to the byte.

It listens on a port of its own, also in another network namespace, and tells which requests came over which connection.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_CLONE_NEWNET = 0x40000000
_REASONS = {200: "OK", 302: "Found", 401: "Unauthorized", 404: "Not Found", 503: "Service Unavailable"}
_LONGEST_S = 30
_RST = struct.pack("ii", 1, 0)

RESET = "reset"
"""An act: the connection ends with a TCP reset."""
CLOSE = "close"
"""An act: the connection ends in order."""
HANG = "hang"
"""An act: nothing more comes, and the connection stays."""


class Drip(NamedTuple):
    """An act: bytes in small pieces with a pause after each; `is_endless`: over and over."""

    data: bytes
    pause_s: float = 0.05
    piece_bytes: int = 1
    is_endless: bool = False


if TYPE_CHECKING:
    Act = bytes | Drip | str
    Play = Sequence[Act]
    Script = bytes | Play | list[Play] | Callable[["Request"], Play]


class Request(NamedTuple):
    """A request as it came; the connection is a number from 1."""

    method: str
    path: str
    headers: dict[str, str]
    connection: int


def head(status: int = 200, *headers: str) -> bytes:
    """Return a head with these header lines."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Some Words')}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def answer(body: bytes | str = b"", status: int = 200, *headers: str) -> bytes:
    """Return a whole answer as it should be."""
    data = body.encode() if isinstance(body, str) else body
    return head(status, f"Content-Length: {len(data)}", *headers) + data


def chunked(*pieces: bytes, headers: Sequence[str] = ()) -> bytes:
    """Return a whole answer in these chunks."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))
    return head(200, "Transfer-Encoding: chunked", *headers) + body


class Server:
    """A server that plays.

    Args:
        scripts: What is answered at a path (`METHOD path`, else `path`): bytes, or acts one after the other, or what
            says them for a request.  A list of plays (lists) is played one a request, the last one for ever.  A path
            without a script is answered 404.
        host: Where it listens.
        port: 0 for any.
        namespace: File of the network namespace where it listens; None for this one.
    """

    def __init__(
        self, scripts: Mapping[str, Any], *, host: str = "127.0.0.1", port: int = 0,
        namespace: Path | None = None,
    ) -> None:  # fmt: skip
        self.scripts: dict[str, Script] = dict(scripts)
        self.requests: list[Request] = []
        self.connections = 0
        self._played: dict[str, int] = {}
        self._lock = threading.Lock()
        self._done = threading.Semaphore(0)
        self._is_over = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = listening(host, port, namespace)
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def paths(self) -> list[str]:
        """Return what was asked for, in order."""
        return [request.path for request in self.requests]

    def stop_listening(self) -> None:
        """Take no further connection; those that stand go on."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def wait_played(self) -> None:
        """Wait until one more play has come to its end, or the client has gone."""
        assert self._done.acquire(timeout=_LONGEST_S)

    def close(self) -> None:
        """End it and all its connections."""
        self._is_over.set()
        self.stop_listening()
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while not self._is_over.is_set():
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._talk, args=(connection, self.connections), daemon=True).start()

    def _talk(self, connection: socket.socket, number: int) -> None:
        data = b""
        with connection, suppress(OSError):
            while not self._is_over.is_set():
                while b"\r\n\r\n" not in data:
                    piece = connection.recv(1 << 16)
                    if not piece:
                        return
                    data += piece
                asked, _, data = data.partition(b"\r\n\r\n")
                request = _parsed(asked.decode("latin-1"), number)
                with self._lock:
                    self.requests.append(request)
                    play = self._play(request)
                try:
                    is_kept = self._act(connection, play)
                finally:
                    self._done.release()
                if not is_kept:
                    return

    def _play(self, request: Request) -> Play:
        key = f"{request.method} {request.path}"
        script = self.scripts.get(key if key in self.scripts else request.path, answer(b"no such thing\n", 404))
        if callable(script):
            return script(request)
        if isinstance(script, bytes):
            return [script]
        if script and isinstance(script[0], list):
            turn = self._played.get(key, 0)
            self._played[key] = turn + 1
            play = script[min(turn, len(script) - 1)]
            return play if isinstance(play, list) else []
        return script  # type: ignore[return-value]  # a list whose first is no list is one play

    def _act(self, connection: socket.socket, play: Play) -> bool:
        """Play; return whether the connection can carry another request."""
        for act in play:
            match act:
                case bytes():
                    connection.sendall(act)
                case Drip():
                    self._drip(connection, act)
                case "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                    return False
                case "hang":
                    self._is_over.wait()
                    return False
                case _:
                    return False
        return True

    def _drip(self, connection: socket.socket, drip: Drip) -> None:
        while True:
            for start in range(0, len(drip.data), drip.piece_bytes):
                connection.sendall(drip.data[start : start + drip.piece_bytes])
                if self._is_over.wait(drip.pause_s):
                    return
            if not drip.is_endless:
                return


def _parsed(text: str, connection: int) -> Request:
    first, *lines = text.split("\r\n")
    method, path, _ = first.split(" ")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Request(method, path, headers, connection)


def listening(host: str, port: int = 0, namespace: Path | None = None) -> socket.socket:
    """Return a listening socket of this network namespace, or of another one: a socket stays where it was made."""

    def make() -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=64)

    return make() if namespace is None else entered(namespace, make)


def entered(namespace: Path, make: Callable[[], socket.socket]) -> socket.socket:
    """Return a socket that is made in another network namespace."""
    made: list[socket.socket] = []

    def work() -> None:
        fd = os.open(namespace, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(namespace))
        finally:
            os.close(fd)
        made.append(make())

    thread = threading.Thread(target=work)  # a namespace that is entered is the thread's own, and ends with it
    thread.start()
    thread.join()
    return made[0]
