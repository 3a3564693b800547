"""The two services of a Vac factory: a machine's metadata at 169.254.169.254, its features and outputs at …253.

Both speak HTTP/1.0 and end each connection; no answer tells its length, and one without a body is 404, 201 or 403.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.network import SERVICE
from tests.servers import listening
from tests.vac.factory import write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vac.factory import Factory, Machine

FEATURES = f"{SERVICE[:-1]}3"
"""Where features and outputs are."""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZhY3RvcnlmYWN0b3J5ZmFjdG9yeWZhY3RvcnlmYWN0 root@factory1.example.org\n"
_DATED = re.compile(r"/\d{4}-\d\d-\d\d/")
_VERSIONED = r"(?:/openstack)?/\d{4}-\d\d-\d\d"


class Asked(NamedTuple):
    """A request: to which of the two (`metadata`, `features`), how, what for, and the answer's status."""

    service: str
    method: str
    path: str
    status: int


class Services:
    """Both services for the newest machine of a factory.

    Args:
        factory: Whose machines ask.
        hosts: Where the metadata is, and where the features are.
        port: 0 for any.
        namespace: File of the network namespace where they listen; None for this one.
        bundle: A site's bundle, which a factory itself has not; empty: it has none.

    Attributes:
        features_url: Where the features' service listens, without a slash at its end.
        metadata_url: Where the metadata service listens.
        asked: Every request, in the order of their answers.
    """

    def __init__(
        self, factory: Factory, *, hosts: tuple[str, str] = (SERVICE, FEATURES), port: int = 80,
        namespace: Path | None = None, bundle: bytes = b"",
    ) -> None:  # fmt: skip
        self.factory = factory
        self.bundle = bundle
        self.asked: list[Asked] = []
        self._servers = [
            _server(handler, self, host, port, namespace)
            for handler, host in zip((_Metadata, _Features), hosts, strict=True)
        ]
        self.metadata_url, self.features_url = (
            f"http://{host}:{server.socket.getsockname()[1]}" for host, server in zip(hosts, self._servers, strict=True)
        )
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def base(self) -> str:
        """What the meta map puts before the names of features and outputs: port 80 stands in no URL."""
        return self.features_url.removesuffix(":80")

    def paths(self, service: str, method: str = "GET") -> list[str]:
        """Return what one of the two was asked for, in order."""
        return [each.path for each in self.asked if (each.service, each.method) == (service, method)]

    def close(self) -> None:
        """End both."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    services: Services
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Let a client go that did not wait for its answer: it may have been killed."""


class _Handler(BaseHTTPRequestHandler):
    """What both have in common."""

    server: _Server
    name = ""

    def body(self, machine: Machine, path: str) -> str | bytes | None:
        """Return what stands at a path; None where nothing does."""
        raise NotImplementedError

    def do_GET(self) -> None:
        body = self.body(self.server.services.factory.machine, self.path.replace("//", "/"))
        data = body.encode() if isinstance(body, str) else body
        kind = "text/html" if data and data.startswith(b"<html>") else "text/plain"
        self._answer(404 if data is None else 200, data, kind)

    def _answer(self, status: int, body: bytes | None = None, kind: str = "") -> None:
        self.server.services.asked.append(Asked(self.name, self.command, self.path, status))
        self.send_response(status)
        if body is not None:
            self.send_header("Content-type", kind)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing: what was asked is kept."""


class _Metadata(_Handler):
    name = "metadata"
    server_version = "Vac metadata server"

    def body(self, machine: Machine, path: str) -> str | bytes | None:
        if path == "/context/default.tgz":
            return self.server.services.bundle or None
        path = path.replace("/latest/", "/0000-00-00/")
        if re.fullmatch(_VERSIONED + "/user-data", path):
            return machine.machinetype.user_data
        if re.fullmatch(_VERSIONED + r"/meta-data\.json", path):
            base = self.server.services.base
            meta = {key: f"{base}/{key}" for key in ("machinefeatures", "jobfeatures", "joboutputs")}
            said = {"availability_zone": "factory1.example.org", "public_keys": {"0": KEY}, "uuid": machine.uuid}
            said |= {"hostname": machine.hostname, "name": machine.hostname}
            return json.dumps({**said, "meta": {**meta, "machinetype": machine.machinetype.name}})
        if re.fullmatch(_VERSIONED + "/meta-data/?", path):
            return "public-keys/0/openssh-key\nami-id\ninstance-id\n"
        leaf = _DATED.sub("", path, count=1) if _DATED.match(path) else ""
        return {
            "meta-data/public-keys/0/openssh-key": KEY,
            "meta-data/ami-id": machine.uuid,
            "meta-data/instance-id": machine.uuid,
        }.get(leaf)


class _Features(_Handler):
    name = "features"
    server_version = "Vac mjf server"

    def body(self, machine: Machine, path: str) -> str | None:
        folder, *below = path.removeprefix("/").split("/")
        if folder not in {"machinefeatures", "jobfeatures"} or len(below) > 1:
            return None
        place = machine.folder / folder
        if below in ([], [""]):
            names = sorted(each.name for each in place.iterdir() if not each.name.startswith("."))
            rows = "".join(f'<li><a href="{name}">{name}</a></li>' for name in names)
            return f"<html><body><ul>{rows}</ul></body></html>"
        return (place / below[0]).read_text() if (place / below[0]).is_file() else None

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(int(length)) if length.isdecimal() else None
        parts = self.path.replace("//", "/").split("/")
        is_taken = body is not None and parts[:2] == ["", "joboutputs"] and len(parts) == 3 and parts[2] != ""
        if body is not None and is_taken:
            write(self.server.services.factory.machine.folder / "joboutputs" / parts[2], body)
        self._answer(201 if is_taken else 403)


def _server(
    handler: type[_Handler], services: Services, host: str, port: int, namespace: Path | None
) -> _Server:  # fmt: skip
    server = _Server((host, port), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening(host, port, namespace)
    server.services = services
    return server
