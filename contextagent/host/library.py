"""The way over TLS and by names: `requests`, in a short-lived child alone (see `leaving`, and ADR 0017)."""

from __future__ import annotations

import os
import socket
import ssl
import time

from contextagent import __version__
from contextagent.host.outgoing import TOO_LONG, Unanswered
from contextagent.thirdparty import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from contextagent.host.outgoing import Body

_OK = 200
_DRAIN_BYTES = 64 << 10
_HASH_CHARACTERS = 8


class Library:
    """A session without proxies, `.netrc`, cookies of before, and redirects; certificates are read here and now.

    Args:
        fd: Of a file with certificate and key; -1 for none.
        credential: Its path, to be named.
        ca_dirs: Real paths of folders of authorities; those that are not there don't matter.

    Raises:
        Unanswered: The credential can't be used.
    """

    def __init__(self, fd: int, credential: str, ca_dirs: Sequence[str]) -> None:
        requests = load("requests")
        # not `create_default_context`: from Python 3.13 on that refuses authorities as old as many of the grid's
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        if os.path.exists(bundle := requests.certs.where()):
            context.load_verify_locations(bundle)
        for folder in ca_dirs:
            _trust(context, folder)
        if fd >= 0:
            _load(context, fd, credential)
        adapter = requests.adapters.HTTPAdapter()
        adapter.cert_verify = lambda *_: None  # the context does it: nothing can be read from files later on
        adapter.init_poolmanager(1, 1, ssl_context=context)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.clear()
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        "x".encode("idna")  # what a name needs is loaded while files can be read

    def ask(  # a request's own words
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: Body,
        *,
        max_bytes: int,
        connect_s: float,
        end_ns: int,
    ) -> tuple[int, str, bytes]:
        """Return status, content type and body; see `leaving.Client.ask`.

        Raises:
            Unanswered: As there.
        """
        usual = {"User-Agent": f"contextagent/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        left_s = max(0.01, (end_ns - time.monotonic_ns()) / 1e9)
        body.rewind()
        try:
            with self._session.request(
                method,
                url,
                data=body if body.size_bytes else None,
                headers={**usual, **dict(headers)},
                timeout=(min(connect_s, left_s), left_s),
                allow_redirects=False,
                stream=True,
            ) as answer:
                kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
                if not max_bytes:
                    return answer.status_code, kind, b""  # it was taken, whatever is said of that
                if answer.status_code != _OK:
                    answer.raw.read(_DRAIN_BYTES)  # nobody wants it, but the connection
                    return answer.status_code, kind, b""
                data = answer.raw.read(max_bytes + 1, decode_content=False)
        except Exception as error:  # noqa: BLE001  # requests' own, urllib3's from a body, and what is below both
            raise _unanswered(error) from None
        if len(data) > max_bytes:
            raise Unanswered(f"it is larger than {max_bytes} bytes", may_pass=False)
        return answer.status_code, kind, data


def _trust(context: ssl.SSLContext, folder: str) -> None:
    """Trust the authorities in a folder, by their hashes: now, since an account without rights may not read it later.

    One that can't be read as a certificate is passed over: it signs nothing that is then taken.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return  # most machines have none
    for name in names:
        stem, _, number = name.rpartition(".")
        if number.isdecimal() and len(stem) == _HASH_CHARACTERS:
            try:
                context.load_verify_locations(f"{folder}/{name}")
            except OSError:  # ssl's own errors are such, too
                continue


def _load(context: ssl.SSLContext, fd: int, credential: str) -> None:
    """Load certificate and key; nothing of either is ever shown."""
    try:
        context.load_cert_chain(f"/proc/self/fd/{fd}", password="")
    except (OSError, ValueError):
        cause = f"our certificate '{credential}' can't be used: it has no certificate, no key, or another's key"
        raise Unanswered(cause, may_pass=False) from None


def _unanswered(error: BaseException) -> Unanswered:
    """Return what a library's exception comes to; its own words may hold more than should be shown."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unanswered(f"its certificate is refused: {cause.verify_message}", may_pass=False)
        if isinstance(cause, ssl.SSLError):
            return Unanswered(f"no TLS can be agreed on: {cause.reason or 'it ends amid'}", may_pass=False)
        if isinstance(cause, socket.gaierror):
            return Unanswered(f"its name can't be resolved: {cause.strerror}")
    if any("Timeout" in type(cause).__name__ for cause in causes):
        return Unanswered(TOO_LONG)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return Unanswered(cause.strerror.lower())
    return Unanswered("it closed the connection without an answer")


def _causes(error: Any) -> Sequence[BaseException]:  # noqa: ANN401  # whatever a library puts into its exceptions
    """Return an exception and those inside it, the innermost first."""
    found: list[BaseException] = []
    queue = [error]
    while queue and len(found) < 20:  # noqa: PLR2004  # no library nests deeper
        each = queue.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            queue += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
    return found[::-1]
