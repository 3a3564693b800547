"""What goes out of the machine, and what is had from beyond its metadata service: by children that end in time.

A child makes one errand: it is a confined one (see `confine`), and the kernel ends it when its time is over, so that
whoever sent it may do something else meanwhile.  A plain `http://` URL with a literal address is spoken to by the
agent's own exchange; for everything else (TLS, names) the child alone loads `requests` (ADR 0017).  No proxy, `.netrc`,
cookie or redirect has a say in either.
"""

from __future__ import annotations

import os
import stat
import time

from contextagent.errors import BrokenSourceError
from contextagent.host import confine
from contextagent.host.exchange import Exchange, Failed
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from contextagent.host.confine import Channel, Child
    from contextagent.payloads.weburl import WebUrl

GRACE_S = 1.0
"""How long after its deadline a child that keeps it itself is let be, on a machine that has other things to do."""
PATIENCE_S = 0.05
"""How long is waited for the rest of an answer that has begun: it comes in one piece, or from nobody that is ours."""
_PIECE_BYTES = 1 << 16
_OK = 200
_SECOND_NS = 10**9


class Unanswered(Exception):  # noqa: N818  # no error of ours: one of the outcomes of a request
    """A request that got no answer: why, in words; `may_pass` says that it may get one later."""

    def __init__(self, cause: str, *, may_pass: bool = True) -> None:
        super().__init__(cause)
        self.cause = cause
        self.may_pass = may_pass


class Reply(Value):
    """An answer: its status, its content type in lower case, and its body where one was wanted and the status 200."""

    status: int
    kind: str
    body: bytes


class Means(Value):
    """What a child is given for its way.

    Attributes:
        credential: Real path of a file with a certificate and its key, in PEM; empty for none.
        ca_dirs: Real paths of folders of authorities, by their hashes, beside those that the machine trusts.
    """

    credential: str = ""
    ca_dirs: tuple[str, ...] = ()


class Body:
    """What a PUT sends: bytes, or an open file as long as it is now.

    Args:
        content: The bytes, or a descriptor.
        max_bytes: How much of a file is sent at most.
    """

    def __init__(self, content: bytes | int, max_bytes: int = 1 << 62) -> None:
        self._content = content
        self._at = 0
        size = len(content) if isinstance(content, bytes) else os.fstat(content).st_size
        self.size_bytes = min(size, max_bytes)

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, from the beginning."""
        self.rewind()
        while piece := self.read(_PIECE_BYTES):
            yield piece

    def rewind(self) -> None:
        """Begin again."""
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            OSError: The file became shorter.
        """
        left = self.size_bytes - self._at
        size = left if size < 0 else min(size, left)
        if isinstance(self._content, bytes):
            piece = self._content[self._at : self._at + size]
        else:
            piece = os.pread(self._content, min(size, _PIECE_BYTES), self._at)
        if size and not piece:
            raise OSError("the file became shorter while it was sent")
        self._at += len(piece)
        return piece

    def __len__(self) -> int:
        """Return how many bytes it has: by this `requests` knows that they need no chunks."""
        return self.size_bytes


class Client:
    """What asks, in the child: one connection to each plain server, one session for all others.

    Args:
        means: For TLS.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self._exchanges: dict[str, Exchange] = {}
        self._library: Any = None

    def prepare(self, urls: Sequence[WebUrl]) -> None:
        """Load what these URLs need, while files may still be read.

        Raises:
            Unanswered: Our own certificate can't be used.
        """
        if not all(url.is_plain for url in urls):
            from contextagent.host import library  # noqa: PLC0415  # in the child alone, and only for what needs it

            self._library = library.Library(self._means.credential, self._means.ca_dirs)

    def ask(  # a request's own words
        self,
        method: str,
        url: WebUrl,
        name: str,
        *,
        end_ns: int,
        headers: Sequence[tuple[str, str]] = (),
        body: Body | None = None,
        max_bytes: int = 0,
    ) -> Reply:
        """Ask once for what is called `name` below a URL; no redirect is followed.

        Args:
            method: `GET` or `PUT`.
            url: Below what.
            name: Quoted as it needs to be.
            end_ns: Until when, on the monotonic clock.
            headers: Beside the usual ones.
            body: What is sent.
            max_bytes: How large the answer's body may be; 0: it is not wanted.

        Raises:
            Unanswered: There was none in time, or none that is one.
        """
        body = body or Body(b"")
        if url.address is None or not url.is_plain:
            status, kind, data = self._library.ask(
                method, url.below(name), headers, body, max_bytes=max_bytes, end_ns=end_ns
            )
            return Reply(status=status, kind=kind, body=data)
        exchange = self._exchanges.get(url.authority)
        if exchange is None:
            exchange = self._exchanges[url.authority] = Exchange(url.address, lambda: None)
        question = {"method": method, "target": url.target(name), "headers": list(headers), "end_ns": end_ns}
        question |= {"try_ns": 3600 * _SECOND_NS, "connect_end_ns": end_ns}
        try:
            return _plain(exchange, question, body, max_bytes)
        except Failed as failure:
            cause, may_pass = failure.detail, failure.outcome != "broken"
        except BrokenSourceError as error:
            cause, may_pass = str(error).partition(": ")[2], False
        except TimeoutError:
            cause, may_pass = TOO_LONG, True
        except OSError as error:
            cause, may_pass = (error.strerror or str(error)).lower(), True
        exchange.drop()
        raise Unanswered(cause, may_pass=may_pass)


TOO_LONG = "it took too long"


def _plain(exchange: Exchange, question: dict[str, Any], body: Body, max_bytes: int) -> Reply:
    head, rest, end_ns = exchange.ask(question, body.pieces, body.size_bytes)
    kind = head.header("content-type").partition(";")[0].strip().lower()
    if not max_bytes or head.status != _OK:
        exchange.drain(head, rest)
        return Reply(status=head.status, kind=kind, body=b"")
    if head.header("content-encoding").lower() not in ("", "identity"):
        raise Failed("broken", "encoded", "it packs what was to be sent as it is")
    data = bytearray()
    for piece in exchange.pieces(head, rest, end_ns):
        data += piece
        if len(data) > max_bytes:
            raise Failed("broken", "too-large", f"it is larger than {max_bytes} bytes")
    if not head.is_kept:
        exchange.drop()
    return Reply(status=head.status, kind=kind, body=bytes(data))


def send_out(
    work: Callable[[Client], bytes],
    urls: Sequence[WebUrl],
    means: Means,
    *,
    total_s: float,
    failed: Callable[[str], bytes],
    source: Source | None = None,
) -> Child:
    """Start a child that does an errand beyond the machine, and says one thing at its end.

    Args:
        work: The errand; what it returns is said.
        urls: All that it asks.
        means: For those with TLS.
        total_s: Seconds after which the kernel ends it, whatever it does (and `GRACE_S`).
        failed: Returns what is said instead where the errand can't even begin, from the cause.
        source: The file that it sends.
    """
    client = Client(means)
    causes: list[str] = []

    def prepare() -> None:
        _end_in(total_s + GRACE_S)
        try:
            if source is not None:
                source.open()
            client.prepare(urls)
        except Unanswered as unanswered:
            causes.append(unanswered.cause)

    def serve(channel: Channel) -> None:
        channel.send(failed(causes[0]) if causes else work(client))

    keep = () if source is None else (source.fd,)
    try:
        return confine.start(serve, timeout_s=total_s + 2 * GRACE_S, keep=keep, prepare=prepare)
    finally:
        if source is not None:
            source.close()


class Source:
    """A file that is sent, opened only in the child, and with the rights of the account that it belongs to.

    So no link that the account makes leads to what it could not read itself.

    Args:
        path: Real path.
        account: Uid and gid; None for the agent's own.
    """

    def __init__(self, path: str, account: tuple[int, int] | None) -> None:
        self._path = path
        self._account = account
        self.fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # the child's file takes its number

    def open(self) -> None:
        """Open it, in the child.

        Raises:
            Unanswered: It can't be opened, or is no file.
        """
        is_switched = self._account is not None and os.geteuid() == 0
        if self._account is not None and is_switched:
            os.setgroups([])
            os.setegid(self._account[1])
            os.seteuid(self._account[0])
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise Unanswered(f"'{self._path}' can't be opened: {error.strerror}", may_pass=False) from None
        finally:
            if is_switched:
                os.seteuid(0)
                os.setegid(0)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unanswered(f"'{self._path}' is no file", may_pass=False)
        os.dup2(fd, self.fd)
        os.close(fd)

    def close(self) -> None:
        """Close it, in the parent."""
        os.close(self.fd)


def put_into(
    folder: str, name: str, content: bytes | Source, *, mode: int, total_s: float, failed: Callable[[str], bytes]
) -> Child:
    """Start a child that puts a file into a folder by rename, with the rights of the folder's owner.

    Whatever the owner has made of the name (a link, a fifo, a device) is replaced, never followed or opened.

    Args:
        folder: Real path; it exists, and is no link.
        name: One component.
        content: What is written.
        mode: Of the file.
        total_s: As for `send_out`.
        failed: Returns what is said, from the cause; an empty cause when it was written.

    Raises:
        OSError: There is no such folder.
    """
    fd = _opened(folder, content)
    owner = os.fstat(fd)
    causes: list[str] = []

    def prepare() -> None:
        _end_in(total_s + GRACE_S)
        try:
            if isinstance(content, Source):
                content.open()
        except Unanswered as unanswered:
            causes.append(unanswered.cause)

    def serve(channel: Channel) -> None:
        if not causes:
            try:
                _put(fd, name, Body(content.fd if isinstance(content, Source) else content), mode)
            except OSError as error:
                causes.append(error.strerror or str(error))
        channel.send(failed(causes[0] if causes else ""))

    keep = (fd, content.fd) if isinstance(content, Source) else (fd,)
    try:
        return confine.start(
            serve,
            timeout_s=total_s + 2 * GRACE_S,
            keep=keep,
            max_file_bytes=1 << 40,
            prepare=prepare,
            account=(owner.st_uid, owner.st_gid),
        )
    finally:
        os.close(fd)
        if isinstance(content, Source):
            content.close()


def _opened(folder: str, content: bytes | Source) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        if isinstance(content, Source):
            content.close()
        raise


def _put(folder: int, name: str, body: Body, mode: int) -> None:
    """Write beside the name and rename, as whoever this process is."""
    # always the same name, so that what a killed child left is replaced; made with O_EXCL, it can't be prepared for us
    temporary = f".{name}.contextagent-new"
    try:
        os.unlink(temporary, dir_fd=folder)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, mode, dir_fd=folder)
    try:
        for piece in body.pieces():
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        os.fchmod(fd, mode)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(fd)


def _end_in(seconds: float) -> None:
    """Let the kernel end this process in so many seconds, whatever handlers and masks it has from its parent."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415  # no Python handler is needed, nor the slow module

    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGALRM,))
    _signal.setitimer(_signal.ITIMER_REAL, seconds)


def heard(child: Child, *, max_bytes: int) -> bytes | None:
    """Return what a child said at its end, None if it said nothing; it is gone afterwards.

    Call it when `child.fd` is readable, or its time is over: it waits for no more than `PATIENCE_S`.
    """
    try:
        return child.hear(max_bytes=max_bytes, end_s=time.monotonic() + PATIENCE_S)
    except BrokenSourceError:
        return None
    finally:
        child.close()


def wait(child: Child, *, timeout_s: float) -> None:
    """Wait until a child says something or goes, but no longer than that."""
    import select  # noqa: PLC0415  # the watch has a loop of its own

    poll = select.poll()
    poll.register(child.fd, select.POLLIN)
    poll.poll(timeout_s * 1000)
