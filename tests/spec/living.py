"""What the contract's tests of a machine that lives share: its watch as a real process, its features by HTTP."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.machine import AGENT, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine import Machine

MACHINE, JOB, OUTPUTS = "etc/machinefeatures", "etc/jobfeatures", "etc/joboutputs"
MESSAGE = f"{OUTPUTS}/shutdown_message"
PATIENCE_S = 30


def free_port() -> int:
    """Return a port that nobody has just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def features(machine: Machine) -> dict[str, str]:
    """Return all that stands in the folders: `machine/KEY` or `job/KEY` to the file's text."""
    folders = {"machine": machine.root / MACHINE, "job": machine.root / JOB}
    return {
        f"{half}/{path.name}": path.read_text()
        for half, folder in folders.items()
        if folder.is_dir()
        for path in folder.iterdir()
    }


def until(is_so: Callable[[], object], why: str = "") -> Any:
    """Return what a condition gives as soon as it holds."""
    end = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < end, why or "it never came"
        time.sleep(0.02)
    return found


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


class Living:
    """A machine whose watch runs, as a process of its own.

    Args:
        machine: The machine; it has booted already.
        port: Where its policy says that features are served; 0 where that is off.
    """

    def __init__(self, machine: Machine, port: int = 0) -> None:
        self.machine = machine
        self.port = port
        self._log: Path = machine.root.parent / "watch.log"
        self._start()

    def _start(self) -> None:
        with self._log.open("ab") as log:
            words = (*AGENT, "--root", str(self.machine.root), "watch")
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(lambda: self.process.poll() is not None or _is_ready(self.process.pid), "it never began")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> int:
        """End the watch as init does, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)

    def kill(self) -> None:
        """End the watch as a bug would."""
        self.process.kill()
        self.process.wait(TIMEOUT_S)

    def again(self) -> None:
        """Start another watch, as init does when one has ended."""
        self._start()

    def log(self) -> str:
        """Return what the watch said so far."""
        return self._log.read_text()

    def ask(self, path: str, method: str = "GET") -> Answer:
        """Return the answer to one request; the watch is waited for."""

        def asked() -> Answer | None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
            try:
                connection.request(method, path)
                found = connection.getresponse()
                headers = {name.lower(): value for name, value in found.getheaders()}
                return Answer(found.status, headers, found.read().decode())
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.log()
                return None
            finally:
                connection.close()

        answer: Answer = until(asked, "it does not listen")
        return answer


def _is_ready(pid: int) -> bool:
    """Return whether a process takes SIGTERM by itself, as the kernel tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def policy(machine: Machine, text: str = "", *, is_served: bool = True) -> int:
    """Give the machine a policy whose HTTP port is free, and return that port; 0 where it is to be off."""
    port = free_port() if is_served else 0
    http = f"127.0.0.1:{port}" if port else "off"
    machine.put("etc/contextagent/policy.yaml", f"watch: {{http: '{http}'}}\n{text}")
    return port
