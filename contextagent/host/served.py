"""A metadata service for the length of a trial: a child that ends with this program, and what it was asked."""

from __future__ import annotations

import contextlib
import os

from contextagent.host.guestos import native
from contextagent.host.serving import serve
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from contextagent.host.serving import Respond

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_MAX_LOG_BYTES = 16 << 20
_LOG_FIELDS = 6


class Asked(Value):
    """One request that was answered."""

    method: str
    target: str
    status: int
    size_bytes: int


@contextlib.contextmanager
def served(listening: socket.socket, respond: Respond) -> Iterator[list[Asked]]:
    """Answer requests in a child for as long as the context lasts; what it yields holds them when that is over.

    Args:
        listening: A socket that listens; closed at the end.
        respond: As `serving.serve` has it.
    """
    log = os.memfd_create("requests")
    asked: list[Asked] = []
    pid = os.fork()
    if pid == 0:
        _serve(listening, respond, log)
    listening.close()
    try:
        yield asked
    finally:
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)
        asked += _read(os.pread(log, _MAX_LOG_BYTES, 0))
        os.close(log)


def _serve(listening: socket.socket, respond: Respond, log: int) -> None:
    """Be the server until the end."""
    try:
        native.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        os.dup2(log, 2)
        serve(listening, respond, ready=lambda: None)
    finally:
        os._exit(0)


def _read(log: bytes) -> list[Asked]:
    """Return the requests in a server's log; its other lines are none."""
    asked = []
    for line in log.decode("ascii", "replace").splitlines():
        fields = line.split(" ", _LOG_FIELDS)
        if len(fields) > _LOG_FIELDS - 1 and fields[4].isdecimal() and fields[5].isdecimal():
            method, target, status, size = fields[2:6]
            asked.append(Asked(method=method, target=target, status=int(status), size_bytes=int(size)))
    return asked
