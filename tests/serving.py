"""The real metadata service, `contextagent serve`, for tests that ask it."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.machine import AGENT, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Answered(NamedTuple):
    """An answer: its status, its fields (names in lower case), its body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Serving:
    """A folder served by the program itself.

    Args:
        folder: The folder.
        words: Further words of the command.
        bind: Where; any free port of the loopback link if nothing else is said.
        prefix: What stands before the command, to run it in another namespace.

    Attributes:
        line: What it printed when it listened.
        host: Its address.
        port: Its port.
    """

    def __init__(self, folder: Path, *words: str, bind: str = "127.0.0.1:0", prefix: Sequence[str] = ()) -> None:
        argv = [*prefix, *AGENT, "serve", str(folder), "--bind", bind, *words]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout
        assert self._process.stderr
        self._log: list[str] = []
        self._reader = threading.Thread(target=self._log.extend, args=(self._process.stderr,))
        self._reader.start()
        self.line = self._process.stdout.readline().rstrip("\n")
        found = re.search(r" at http://\[?([^] ]*?)\]?:(\d+) ", self.line)
        if found is None:
            self.stop()
        assert found, self._log
        self.host, self.port = found[1], int(found[2])
        self.pid = self._process.pid

    @property
    def url(self) -> str:
        """The service's URL, without a slash at its end."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answered:
        """Return the answer to one request, over a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Answered(answer.status, fields, answer.read())
        finally:
            connection.close()

    def text(self, path: str) -> str:
        """Return the body at a path, which is there."""
        answer = self.ask(path)
        assert answer.status == 200, answer
        return answer.body.decode()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop, and return its exit code."""
        self._process.send_signal(number)
        code = self._process.wait(TIMEOUT_S)
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream
            stream.close()
        return code

    def log(self) -> list[str]:
        """Stop it, and return the lines that it logged."""
        assert self.stop() == 0
        return [line.rstrip("\n") for line in self._log]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.stop()
