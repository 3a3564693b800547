"""A metadata service for measurements, as a process of its own.

    python -m tests.bench.service ADDRESS:PORT FOLDER LOG v1|v2

It serves a folder's files at their paths.  A folder is answered with a listing in the manner of EC2, unless its file
`.list` says another.  Each request is one line of the log, `CONNECTION METHOD PATH STATUS`, written before the answer.
"""

from __future__ import annotations

import itertools
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "bench-token"
_LISTING = ".list"


class Server(ThreadingHTTPServer):
    """What the command line said, and how many connections there have been."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: str, folder: Path, log: Path, imds: str) -> None:
        host, _, port = address.rpartition(":")
        super().__init__((host, int(port)), Handler)
        self.folder = folder
        self.needs_token = imds == "v2"
        self.numbers = itertools.count(1)
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body of each answer waits 40 ms for the client to acknowledge the head
    wbufsize = 1 << 16
    server: Server

    def setup(self) -> None:
        super().setup()
        self.number = next(self.server.numbers)

    def log_message(self, *_words: object) -> None:
        """Say nothing on stderr."""

    def do_PUT(self) -> None:
        """Hand out a token."""
        if self.path == "/latest/api/token":
            self._answer(200, TOKEN.encode())
        else:
            self._answer(404, b"")

    def do_GET(self) -> None:
        """Answer with a file, or with a folder's listing."""
        if self.server.needs_token and self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            self._answer(401, b"")
            return
        path = self.server.folder / self.path.strip("/")
        if ".." not in self.path and path.is_dir():
            self._answer(200, _listing(path))
        elif ".." not in self.path and path.is_file():
            self._send(path)
        else:
            self._answer(404, b"")

    def _head(self, status: int, size_bytes: int) -> None:
        line = f"{self.number} {self.command} {self.path} {status}\n"
        os.write(self.server.log, line.encode())
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if status == 200 else "application/octet-stream")
        self.send_header("Content-Length", str(size_bytes))
        self.end_headers()

    def _answer(self, status: int, body: bytes) -> None:
        self._head(status, len(body))
        self.wfile.write(body)

    def _send(self, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._head(200, size)
            self.wfile.flush()
            self.connection.sendfile(file)


def _listing(folder: Path) -> bytes:
    """Return what a folder holds: folders end in a slash."""
    if (folder / _LISTING).exists():
        return (folder / _LISTING).read_bytes()
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    return "\n".join(names).encode()


def main() -> None:
    """Serve until killed."""
    address, folder, log, imds = sys.argv[1:]
    with Server(address, Path(folder), Path(log), imds) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
