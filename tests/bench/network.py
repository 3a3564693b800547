"""Metadata services for measurements, each at its real address in a network of its own: well, or dead in some way."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from tests.bench.lab import CACHE
from tests.machine import REPOSITORY
from tests.network import SERVICE, Network

if TYPE_CHECKING:
    from collections.abc import Iterator

FarSide = Literal["refuses", "silent", "swallows"]
"""What is at the service's address: a machine where nothing listens; no machine; one that answers no packet."""
ERRORS = CACHE / "servers.log"
"""What the servers say on stderr."""
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
    argv = [*_DIES_WITH_US, *words]
    with (
        ERRORS.open("a") as errors,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=REPOSITORY) as process,
    ):
        try:
            if not process.stdout or not process.stdout.readline():
                raise OSError(f"cannot start '{' '.join(words)}': see {ERRORS}")
            yield process
        finally:
            process.kill()


@contextmanager
def dead(kind: FarSide) -> Iterator[str]:
    """Hold a network whose metadata service is dead; return the file of the client's namespace."""
    with Network() as network:
        if kind != "refuses":
            network.sides[0].ip(f"address delete {SERVICE}/16 dev eth0")
        if kind == "swallows":
            network.near.ip(f"neighbour add {SERVICE} lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
        yield str(network.near.file)


@contextmanager
def serving(folder: Path, *, imds: Literal["v1", "v2"] = "v1") -> Iterator[Service]:
    """Serve a folder's tree at the real address.

    Args:
        folder: Its files are the service's paths.
        imds: With `v2`, only who shows a token is answered.
    """
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "asked"
        log.touch()
        words = [sys.executable, "-m", "tests.bench.service", f"{SERVICE}:80", str(folder), str(log), imds]
        stack.enter_context(started([*network.sides[0].prefix, *words]))
        yield Service(str(network.near.file), log)
