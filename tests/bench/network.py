"""A link between two network namespaces, with a metadata service, or none, at its real address on the far side.

Nothing here has a name in the system: a namespace lives as long as the process that holds it, and the kernel ends each
of these with the bench, so that one which is killed leaves nothing behind.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = "169.254.169.254"
CLIENT = "169.254.10.2"
CLIENT_MAC = "02:00:0a:fe:0a:02"
FarSide = Literal["refuses", "silent", "swallows"]
"""What is at the service's address: a machine where nothing listens; no machine; one that answers no packet."""
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class Asked(NamedTuple):
    """What a service was asked: `METHOD PATH STATUS` for each request, and over how many connections."""

    requests: list[str]
    connections: int


class Service:
    """A metadata service that listens, and tells what it was asked.

    Attributes:
        network: The namespace in which its clients live, as a file.
    """

    def __init__(self, network: str, log: Path) -> None:
        self.network = network
        self._log = log
        self._seen = 0

    def take(self) -> Asked:
        """Return what was asked since the last call."""
        lines = self._log.read_text().splitlines()[self._seen :]
        self._seen += len(lines)
        told = [line.split(" ", 1) for line in lines]
        return Asked([request for _, request in told], len({connection for connection, _ in told}))


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program that says a line when it is ready; end it at the end.

    Raises:
        OSError: It did not say so.
    """
    with subprocess.Popen([*_DIES_WITH_US, *words], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        try:
            if not process.stdout or not process.stdout.readline():
                raise OSError(f"cannot start '{' '.join(words)}': it ended at once")
            yield process
        finally:
            process.kill()


@contextmanager
def namespace() -> Iterator[int]:
    """Hold a new network namespace with a loopback link; return the process that holds it."""
    with started(["unshare", "--net", "sh", "-c", "ip link set lo up && echo held && exec sleep infinity"]) as holder:
        yield holder.pid


def within(pid: int) -> list[str]:
    """Return the words that run a program in the namespace that this process holds."""
    return ["nsenter", f"--net={file_of(pid)}"]


def file_of(pid: int) -> str:
    """Return the file of the namespace that this process holds."""
    return f"/proc/{pid}/ns/net"


def _ip(pid: int, *lines: str) -> None:
    batch = "".join(f"{line}\n" for line in lines)
    subprocess.run([*within(pid), "ip", "-batch", "-"], input=batch, check=True, text=True)


@contextmanager
def _link() -> Iterator[tuple[int, int]]:
    """Hold two namespaces, the client's and the service's, and a link between them."""
    with namespace() as near, namespace() as far:
        _ip(near, f"link add eth0 address {CLIENT_MAC} type veth peer name eth0 netns {far}")
        _ip(far, "link set eth0 up")
        _ip(near, "link set eth0 up", f"address add {CLIENT}/16 dev eth0")
        yield near, far


@contextmanager
def dead(kind: FarSide) -> Iterator[str]:
    """Hold a namespace whose metadata service is dead; return its file."""
    with _link() as (near, far):
        if kind == "refuses":
            _ip(far, f"address add {SERVICE}/16 dev eth0")
        elif kind == "swallows":
            _ip(near, f"neighbour add {SERVICE} lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
        yield file_of(near)


@contextmanager
def serving(folder: Path, *, imds: Literal["v1", "v2"] = "v1") -> Iterator[Service]:
    """Serve a folder's tree at the real address.

    Args:
        folder: Its files are the service's paths.
        imds: With `v2`, only who shows a token is answered.
    """
    with ExitStack() as stack:
        near, far = stack.enter_context(_link())
        _ip(far, f"address add {SERVICE}/16 dev eth0")
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "asked"
        log.touch()
        words = [sys.executable, "-m", "tests.bench.service", f"{SERVICE}:80", str(folder), str(log), imds]
        stack.enter_context(started([*within(far), *words]))
        yield Service(file_of(near), log)
