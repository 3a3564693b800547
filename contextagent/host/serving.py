"""A small HTTP/1.1 server: one thread, bounded in connections, memory and time, whoever its clients are.

One event loop instead of one thread a client: a connection that hangs or drips, on purpose or not, costs a descriptor
and a few KiB, so a thousand machines that boot at once are a thousand small objects.  What is answered is not decided
here, but by the function that is handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from email.utils import formatdate
from http import HTTPStatus

from contextagent import __version__
from contextagent.errors import CannotWriteError, ContextAgentError
from contextagent.model import Value
from contextagent.payloads.http_request import HEAD_END, MAX_HEAD_BYTES, BadRequest, Request, read_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, Literal

    WireFault = Literal["", "hang", "drip", "truncate", "reset"]
    Respond = Callable[[Request], "Reply | Callable[[], Reply]"]

BACKLOG = 4096
"""Connections that the kernel holds until they are taken; it cuts this to net.core.somaxconn."""
MAX_CONNECTIONS = 4096
HEAD_S = 30.0
"""From the end of one answer (or the connection's start) to the end of the next head."""
SEND_S = 60.0
"""For each MiB of an answer that a client has to take."""
LINGER_S = 2.0
"""For a client to read why it was refused before the connection goes."""
STOP_S = 5.0
"""For answers under way when the server is told to stop."""
_SPARE_FILES = 64
_SEND_BYTES = 1 << 20
_WHOLE_BYTES = 1 << 18
"""A file up to this size leaves in one piece with its head."""
_DRIP_S = 1.0
_FILLER = b"."
_LOG_BYTES = 1000
"""Of one line of the log; less than what a pipe takes without a wait."""


class Reply(Value):
    """What is answered.

    Attributes:
        status: The status code.
        body: The body, where `file` is None.
        file: An open file of its own to send from its beginning; it is closed with the answer.
        size_bytes: Of the file.
        content_type: Of the body.
        headers: More fields, name and value.
        fault: What goes wrong on the wire.
        note: For the log.
    """

    status: int
    body: bytes = b""
    file: BinaryIO | None = None
    size_bytes: int = 0
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    fault: WireFault = ""
    note: str = ""

    @property
    def length(self) -> int:
        """The body's size."""
        return len(self.body) if self.file is None else self.size_bytes

    def head(self, *, is_kept: bool, has_length: bool = True) -> bytes:
        """Return the head to send."""
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Server: contextagent/{__version__}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Type: {self.content_type}",
            *(f"{name}: {value}" for name, value in self.headers),
            *([f"Content-Length: {self.length}"] if has_length else []),
            f"Connection: {'keep-alive' if is_kept else 'close'}",
        ]
        return "\r\n".join(lines).encode("latin-1", "replace") + HEAD_END

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def refusal(status: int, cause: str, *headers: tuple[str, str]) -> Reply:
    """Return a reply that says only why there is none."""
    return Reply(status=status, body=f"{status} {cause}\n".encode(), headers=headers)


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens at a literal address.

    Raises:
        CannotWriteError: The address is in use, not this machine's, or not permitted.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        place = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4]
        made.bind(place)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        cause = str(error.strerror or error).lower()
        raise CannotWriteError(f"cannot serve '{shown}': {cause}", reason="cannot-listen") from error
    return made


def serve(
    listening: socket.socket,
    respond: Respond,
    *,
    ready: Callable[[], None],
    is_quiet: bool = False,
    head_s: float = HEAD_S,
) -> None:
    """Answer requests until SIGTERM or SIGINT; then let answers under way end, and return.

    Args:
        listening: As `listen` returns it; closed at the end.
        respond: Says what is answered. Work that takes long is returned as a function without arguments, which is then
            called in a thread; no two at once.
        ready: Called once, when the first request would be answered.
        is_quiet: Whether no line is written to stderr for each request.
        head_s: How long a client has for the head of a request, and its body.
    """
    log = _Log(is_quiet=is_quiet)
    asyncio.run(_Server(respond, log, _most_connections(), head_s).run(listening, ready))


def _most_connections() -> int:
    """Raise the number of open files as far as it goes, and return how many connections that leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + _SPARE_FILES  # each may have a file open
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // 2 - _SPARE_FILES))


class _Log:
    """One line a request on stderr, which never makes a client wait: what a full pipe does not take is counted."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)
        self._lost = 0

    def write(self, line: str) -> None:
        if self._lost and self._put(f"contextagent: {self._lost} lines of the log are lost: nobody read them\n"):
            self._lost = 0
        if not self._put(line[:_LOG_BYTES] + "\n"):
            self._lost += 1

    def request(self, client: str, request: Request | None, reply: Reply, sent: int) -> None:
        if self._is_quiet:
            return
        now = time.time()
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
        method, target = (request.method, request.target) if request else ("-", "-")
        agent = _plain(request.headers.get("user-agent", "") if request else "")[:200] or "-"
        note = f" [{reply.note}]" if reply.note else ""
        self.write(f"{when} {client} {method} {_plain(target)[:500]} {reply.status} {sent} {agent}{note}")

    def _put(self, line: str) -> bool:
        try:
            if not any(event & select.POLLOUT for _, event in self._poll.poll(0)):
                return False
            os.write(2, line.encode("ascii", "backslashreplace"))
        except OSError:
            return False
        return True


def _plain(text: str) -> str:
    return "".join(char if " " <= char < "\x7f" else char.encode("unicode_escape").decode() for char in text)


class _Server:
    """Every connection, and the one place where slow work is done."""

    def __init__(self, respond: Respond, log: _Log, most: int, head_s: float) -> None:
        self.head_s = head_s
        self._respond = respond
        self._log = log
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """Connections without an answer under way, the one that waits longest first."""
        self._slow = asyncio.Lock()

    async def run(self, listening: socket.socket, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        server = await asyncio.start_server(self._accept, sock=listening, backlog=BACKLOG, limit=MAX_HEAD_BYTES)
        ready()
        await stop.wait()
        server.close()
        for writer in self._waiting.values():
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in tuple(self._tasks):
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs this function as one
        if len(self._tasks) >= self._most:
            self._make_room()
        if len(self._tasks) >= self._most:
            writer.transport.abort()
            return
        self._tasks.add(task)
        writer.transport.set_write_buffer_limits(high=0)  # so that `drain` is the end of an answer
        try:
            await _Connection(self, task, reader, writer).converse()
            writer.close()
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()  # the client went away, took too long, or the server stops
        except Exception as error:  # noqa: BLE001  # one client's request must not end the service of all others
            self._log.write(f"contextagent: cannot answer: {type(error).__name__}: {_plain(str(error))} (a bug)")
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self._waiting.pop(task, None)

    def _make_room(self) -> None:
        """End the connection that waits longest, so that idle ones keep nobody out."""
        task, writer = next(iter(self._waiting.items()), (None, None))
        if task is not None and writer is not None:
            writer.transport.abort()
            del self._waiting[task]
            self._tasks.discard(task)

    def wait(self, task: asyncio.Task[None], writer: asyncio.StreamWriter, *, is_waiting: bool) -> None:
        """Note that a connection waits for its client, or no longer."""
        self._waiting.pop(task, None)
        if is_waiting:
            self._waiting[task] = writer

    async def answer(self, request: Request) -> Reply:
        """Return what is answered; an error of what is served is a reply, too."""
        try:
            reply = self._respond(request)
            if isinstance(reply, Reply):
                return reply
            async with self._slow:
                return await asyncio.to_thread(reply)
        except ContextAgentError as error:
            for line in (*(problem.text() for problem in error.problems), str(error)):
                self._log.write(f"contextagent: {_plain(line)}")
            return refusal(500, "this can't be served; the server's log says why")

    def note(self, client: str, request: Request | None, reply: Reply, sent: int) -> None:
        """Log one answer."""
        self._log.request(client, request, reply, sent)


class _Connection:
    """One client's connection."""

    def __init__(
        self, server: _Server, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._task = task
        self._reader = reader
        self._writer = writer
        self._client = str(writer.get_extra_info("peername", ("-",))[0])

    async def converse(self) -> None:
        """Answer one request after the other, until either side has enough."""
        is_kept = True
        while is_kept:
            self._server.wait(self._task, self._writer, is_waiting=True)
            head = await self._head()
            if head is None:
                return
            request = read_request(head, client=self._client) if isinstance(head, bytes) else head
            if isinstance(request, BadRequest):
                await self._refuse(request)
                return
            async with asyncio.timeout(self._server.head_s):
                await self._reader.readexactly(request.body_bytes)
            self._server.wait(self._task, self._writer, is_waiting=False)
            reply = await self._server.answer(request)
            try:
                is_kept = await self._send(request, reply)
            finally:
                reply.close()

    async def _head(self) -> bytes | BadRequest | None:
        """Return the next head; None where the client has nothing more to say."""
        first = b""
        try:
            async with asyncio.timeout(self._server.head_s):
                first = await self._reader.read(1)
                return first + await self._reader.readuntil(HEAD_END) if first else None
        except asyncio.LimitOverrunError:
            return BadRequest(status=431, cause=f"a head of more than {MAX_HEAD_BYTES} bytes")
        except asyncio.IncompleteReadError:
            return BadRequest(status=400, cause="half a head")
        except TimeoutError:
            # where nothing came the connection was only kept, and an answer would be taken for the next request's
            return BadRequest(status=408, cause=f"no head within {self._server.head_s:g} s") if first else None

    async def _refuse(self, bad: BadRequest) -> None:
        reply = refusal(bad.status, bad.cause).replace(note=bad.cause)
        self._writer.write(reply.head(is_kept=False) + reply.body)
        self._writer.write_eof()
        self._server.note(self._client, None, reply, reply.length)
        with contextlib.suppress(TimeoutError):  # what is left unread would make the kernel reset, and lose the answer
            async with asyncio.timeout(LINGER_S):
                while await self._reader.read(MAX_HEAD_BYTES):
                    pass

    async def _send(self, request: Request, reply: Reply) -> bool:
        """Send one answer, and return whether the connection is kept."""
        has_body = request.method != "HEAD"
        is_kept = request.is_kept and not reply.fault
        if reply.fault in ("hang", "drip"):
            self._server.note(self._client, request, reply, 0)
            self._server.wait(self._task, self._writer, is_waiting=True)
            await (self._hang() if reply.fault == "hang" else self._drip(reply))
            return False
        size = reply.length if has_body else 0
        if reply.fault:
            size = size // 2 if reply.fault == "truncate" else 0
        self._server.note(self._client, request, reply, size)
        head = reply.head(is_kept=is_kept)
        if reply.file is None or size <= _WHOLE_BYTES:
            body = reply.body if reply.file is None else reply.file.read(size)
            self._writer.write(head + body[:size])
            size = 0
        else:
            self._writer.write(head)
        async with asyncio.timeout(SEND_S):
            await self._writer.drain()
        if size and reply.file is not None:
            await self._send_file(reply.file, size)
        if reply.fault == "reset":
            self._reset()
        return is_kept

    async def _send_file(self, file: BinaryIO, size: int) -> None:
        loop, done = asyncio.get_running_loop(), 0
        while done < size:
            async with asyncio.timeout(SEND_S):
                sent = await loop.sendfile(self._writer.transport, file, done, min(_SEND_BYTES, size - done))
            if not sent:
                raise ConnectionAbortedError  # the file is shorter now than its length that was announced
            done += sent

    async def _hang(self) -> None:
        while await self._reader.read(MAX_HEAD_BYTES):
            pass

    async def _drip(self, reply: Reply) -> None:
        """Send the body, and then more, a byte a second and without a length: only the client can end it."""
        self._writer.write(reply.head(is_kept=False, has_length=False))
        body = reply.body if reply.file is None else reply.file.read(_WHOLE_BYTES)
        for index in range(sys.maxsize):
            self._writer.write(body[index : index + 1] or _FILLER)
            await self._writer.drain()
            await asyncio.sleep(_DRIP_S)

    def _reset(self) -> None:
        """End the connection with a RST instead of a FIN."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
