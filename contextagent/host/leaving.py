"""What goes out of the machine, and what is had from beyond its metadata service: by children that end in time.

A child makes one errand: it is a confined one (see `confine`), and the kernel ends it when its time is over, so that
whoever sent it may do something else meanwhile.  A plain `http://` URL with a literal address is spoken to by the
agent's own exchange; for everything else (TLS, names) the child alone loads `requests` (ADR 0017).  No proxy, `.netrc`,
cookie or redirect has a say in either.
"""

from __future__ import annotations

import time

from contextagent.errors import BrokenSourceError
from contextagent.host import confine
from contextagent.host.exchange import Exchange, Failed
from contextagent.host.outgoing import GRACE_S, TOO_LONG, Body, Source, Unanswered, end_in, open_as
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from contextagent.host.confine import Channel, Child
    from contextagent.payloads.weburl import WebUrl

_OK = 200
_SECOND_NS = 10**9
CONNECT_S = 5.0
"""How long a server may take to let us connect, as the metadata service may: one that is not there must not cost all
the time that is left to a machine which goes down."""


class Reply(Value):
    """An answer: its status, its content type in lower case, and its body where one was wanted and the status 200."""

    status: int
    kind: str
    body: bytes


class Means(Value):
    """What a child is given for its way.

    Attributes:
        credential: Real path of a file with a certificate and its key, in PEM; empty for none.
        account: Uid and gid with whose rights that is opened; None for the agent's own.
        ca_dirs: Real paths of folders of authorities, by their hashes, beside those that the machine trusts.
    """

    credential: str = ""
    account: tuple[int, int] | None = None
    ca_dirs: tuple[str, ...] = ()


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

            means = self._means
            fd = open_as(means.credential, means.account) if means.credential else -1
            self._library = library.Library(fd, means.credential, means.ca_dirs)

    def close(self) -> None:
        """Close the plain connections; a child that ends closes its own."""
        for exchange in self._exchanges.values():
            exchange.drop()

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
                method, url.below(name), headers, body, max_bytes=max_bytes, connect_s=CONNECT_S, end_ns=end_ns
            )
            return Reply(status=status, kind=kind, body=data)
        exchange = self._exchanges.get(url.authority)
        if exchange is None:
            exchange = self._exchanges[url.authority] = Exchange(url.address, lambda: None)
        question = {"method": method, "target": url.target(name), "headers": list(headers), "end_ns": end_ns}
        question |= {"try_ns": end_ns, "connect_end_ns": time.monotonic_ns() + int(CONNECT_S * _SECOND_NS)}
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
        end_in(total_s + GRACE_S)
        try:
            if source is not None:
                source.open()
            client.prepare(urls)
        except Unanswered as unanswered:
            causes.append(unanswered.cause)
        except Exception as error:  # noqa: BLE001  # an interpreter without TLS, say: whoever sent it is to hear of it
            causes.append(f"it can't be tried: {type(error).__name__}: {error}")

    def serve(channel: Channel) -> None:
        channel.send(failed(causes[0]) if causes else work(client))

    keep = () if source is None else (source.fd,)
    try:
        return confine.start(serve, timeout_s=total_s + 2 * GRACE_S, keep=keep, prepare=prepare)
    finally:
        if source is not None:
            source.close()
