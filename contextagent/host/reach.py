"""Whether log collectors can be reached: each is tried in a child of its own, and all together have a second.

A child may hang in a name server, in a handshake or in a full queue: when the time is over it is killed.  Nothing is
sent to a collector but what a TLS handshake needs.
"""

from __future__ import annotations

import _socket
import os
import select
import time

from contextagent.host.guestos import native
from contextagent.host.wire import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from contextagent.collectors import Endpoint

_TLS_FAILURES = ("its certificate is", "no TLS can be", "it closes the connection")
MAX_ENDS = 8
"""Tried at once; a site that names more has those tried that come first."""
_MAX_ANSWER_BYTES = 512
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_REFUSAL_S = 0.1
"""How long a collector may take to say that it does not like our certificate: in TLS 1.3 it says so afterwards."""
_NO_ANSWER = "it did not answer in time"


def reach(ends: Sequence[Endpoint], *, timeout_s: float) -> list[str]:
    """Return for each collector why it can't be reached; an empty text where a connection was made and its TLS is good.

    Args:
        ends: Where to connect.
        timeout_s: For all of them together.
    """
    end_s = time.monotonic() + timeout_s
    children = [_start(end, end_s) for end in ends[:MAX_ENDS]]
    answers = [_answer(pid, fd, end_s) for pid, fd in children]
    return [*answers, *("it was not tried: there are too many" for _ in ends[MAX_ENDS:])]


def is_tls_failure(cause: str) -> bool:
    """Return whether a collector was reached, and either side refused the other's TLS."""
    return any(sign in cause for sign in _TLS_FAILURES)


def _start(end: Endpoint, end_s: float) -> tuple[int, int]:
    """Return the id of a child that tries one collector, and where its answer comes from."""
    answer_read, answer_write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(end, end_s, answer_write, parent)
    os.close(answer_write)
    return pid, answer_read


def _answer(pid: int, fd: int, end_s: float) -> str:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    answer = b""
    try:
        if poll.poll(max(0.0, end_s - time.monotonic()) * 1000):
            answer = os.read(fd, _MAX_ANSWER_BYTES)
    finally:
        os.close(fd)
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)
    return answer[1:].decode("utf-8", "replace") if answer else _NO_ANSWER


def _child(end: Endpoint, end_s: float, answer: int, parent: int) -> NoReturn:
    """Try one collector, say how it went, and end: nothing of the parent's may run on in its copy."""
    try:
        native.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        if os.getppid() == parent:
            os.write(answer, _said(end, end_s))
    finally:
        os._exit(0)


def _said(end: Endpoint, end_s: float) -> bytes:
    """Return the answer: a dot, so that it is never empty, and why the collector can't be reached."""
    try:
        cause = _tried(end, end_s)
    except Exception as error:  # noqa: BLE001  # an interpreter without TLS, say: the boot is to hear of it, too
        cause = f"it can't be tried: {type(error).__name__}: {error}"
    return f".{cause}".encode("utf-8", "replace")[:_MAX_ANSWER_BYTES]


def _tried(end: Endpoint, end_s: float) -> str:
    """Return why a collector can't be reached, or nothing."""
    try:
        found = _socket.getaddrinfo(end.host, end.port, 0, _socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return f"its name can't be resolved: {getattr(error, 'strerror', None) or error}"
    causes: list[str] = []
    for _, _, _, _, address in found:
        try:
            cause = _connected(end, str(address[0]), end_s)
        except TimeoutError:
            cause = _NO_ANSWER
        except OSError as error:
            cause = error.strerror or str(error)
        if not cause:
            return ""
        causes.append(cause)
    return "; ".join(dict.fromkeys(causes))


def _connected(end: Endpoint, address: str, end_s: float) -> str:
    if end.ca:
        return _handshaken(end, address, end_s)
    Connection(address, end.port, end_ns=int(end_s * 1e9)).close()
    return ""


def _handshaken(end: Endpoint, address: str, end_s: float) -> str:
    """Return what is wrong with the TLS of a collector, or with ours in its eyes; nothing where it is good."""
    import socket  # noqa: PLC0415  # in the child alone, and only for TLS
    import ssl  # noqa: PLC0415  # as above

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # it can't judge a name that stands in the subject alone: see `has_name`
        context.load_verify_locations(end.ca)
        if end.cert:
            context.load_cert_chain(end.cert, end.key or None, password="")
    except (OSError, ValueError) as error:
        return f"our own certificates can't be used: {getattr(error, 'strerror', None) or error}"
    with socket.create_connection((address, end.port), timeout=max(0.01, end_s - time.monotonic())) as plain:
        try:
            wrapped = context.wrap_socket(plain, server_hostname=end.peer or end.host)
            if not has_name(wrapped.getpeercert() or {}, end.peer or end.host):
                return f"its certificate is not that of '{end.peer or end.host}'"
            wrapped.settimeout(_REFUSAL_S)
            return _refused(wrapped)
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is refused: {error.verify_message}"
        except ssl.SSLError as error:
            return f"no TLS can be agreed on: {error.reason or error}"


def _refused(wrapped: Any) -> str:  # noqa: ANN401  # an ssl.SSLSocket, whose module is not loaded here
    try:
        is_over = not wrapped.recv(1)
    except TimeoutError:
        return ""  # it waits for us, as it should
    return "it closes the connection as soon as it knows our certificate" if is_over else ""


def has_name(certificate: Mapping[str, Any], wanted: str) -> bool:
    """Return whether a certificate (as `SSLSocket.getpeercert` gives it) is that of a name or an address.

    As rsyslog judges it: an alternative name of any kind, else the common name; `*` stands for a whole first label.
    """
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    if not names:
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return any(_is_name(name.lower(), wanted.lower()) for name in names)


def _is_name(pattern: str, name: str) -> bool:
    if pattern.startswith("*."):
        return "." in name and pattern[1:] == name[name.index(".") :]
    return pattern == name
