"""Faults that a metadata service can have, each asked for by name, so that its clients can be tried."""

from __future__ import annotations

import gzip

from contextagent.errors import UsageError
from contextagent.host.serving import Reply, refusal
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from contextagent.host.serving import WireFault
    from contextagent.payloads.http_request import Request

FAULTS = {
    "404": "not found",
    "500": "internal server error",
    "503": "service unavailable",
    "hang": "the request is read and never answered",
    "drip": "one byte a second, for ever",
    "truncate": "half of the bytes that were announced",
    "html": "200 with a web page, as a captive portal has it",
    "redirect": "302 to another host",
    "reset": "the connection is reset after the head",
    "gzip": "the content is encoded, though nobody asked for that",
}
"""Name to what happens."""
ELSEWHERE = "http://192.0.2.1"
"""Where a redirect leads: an address that is nobody's (RFC 5737)."""
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><h1>Please log in</h1></body></html>\n"
_ON_THE_WIRE: dict[str, WireFault] = {"hang": "hang", "drip": "drip", "truncate": "truncate", "reset": "reset"}


class Fault(Value):
    """One fault: which, for which paths (empty: all; a `*` at its end: all that begin so), how often (0: always)."""

    name: str
    path: str = ""
    times: int = 0

    def fits(self, path: str) -> bool:
        """Return whether this fault is one of a path's, which has no slash at its end."""
        if self.path.endswith("*"):
            return path.startswith(self.path[:-1]) or f"{path}/" == self.path[:-1]
        return not self.path or path == (self.path.rstrip("/") or "/")


def read_fault(text: str) -> Fault:
    """Return what `NAME[:PATH][@N]` asks for.

    Raises:
        UsageError: It is no such thing.
    """
    wanted, at, times = text.rpartition("@")
    if not (at and times.isascii() and times.isdecimal()):
        wanted, times = text, ""
    name, colon, path = wanted.partition(":")
    if name not in FAULTS:
        raise UsageError(f"cannot serve '{text}': no such fault", hint=f"faults: {', '.join(FAULTS)}")
    if colon and not path:
        raise UsageError(f"cannot serve '{text}': the fault's path is empty", hint=f"as in {name}:/latest/*")
    if times and not int(times):
        raise UsageError(f"cannot serve '{text}': a fault that comes 0 times is none")
    path = path if path.startswith(("/", "*")) or not colon else f"/{path}"
    return Fault(name=name, path=path, times=int(times or 0))


class Faults:
    """The faults asked for, and how often each came."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._left = [(fault, fault.times) for fault in faults]

    def next(self, request: Request) -> str:
        """Return the name of the first fault that fits a request, and count it; empty where it goes well."""
        for index, (fault, left) in enumerate(self._left):
            if fault.fits(request.path):
                if fault.times:
                    self._left[index : index + 1] = [(fault, left - 1)] if left > 1 else []
                return fault.name
        return ""


def spoiled(name: str, reply: Reply, request: Request) -> Reply:
    """Return a reply as a fault makes it."""
    note = f"fault {name}"
    if name in _ON_THE_WIRE:
        return reply.replace(fault=_ON_THE_WIRE[name], note=note)
    if name == "gzip":
        body = reply.body if reply.file is None else reply.file.read()
        reply.close()
        packed = gzip.compress(body, mtime=0)
        headers = (*reply.headers, ("Content-Encoding", "gzip"))
        return reply.replace(body=packed, file=None, headers=headers, note=note)
    reply.close()
    if name == "html":
        return Reply(status=200, body=_PAGE, content_type="text/html; charset=utf-8", note=note)
    if name == "redirect":
        return refusal(302, "found elsewhere", ("Location", ELSEWHERE + request.path)).replace(note=note)
    return refusal(int(name), FAULTS[name]).replace(note=note)
