"""As much of a PanDA server as its pilot asks for: a queue's description, a storage's, and the jobs that it is given.

    panda_server.py PORT JOBS REQUESTS

JOBS is a JSON list of job definitions, handed out in this order; then there are none.  Every request is a line of JSON
in the file REQUESTS.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

QUEUE = "CLOUD"
NO_JOB = 20
"""The pilot's and the server's word for it (`StatusCode`)."""
QUEUEDATA = {
    "nickname": QUEUE,
    "panda_resource": QUEUE,
    "atlas_site": QUEUE,
    "state": "ACTIVE",
    "status": "online",
    "type": "production",
    "acopytools": {"pr": ["mv"], "pw": ["mv"], "pl": ["mv"]},
    "astorages": {"pr": ["LOCALDISK"], "pw": ["LOCALDISK"], "pl": ["LOCALDISK"]},
    "params": {"internet_protocol_version": "IPv4"},
}
STORAGES = {
    "LOCALDISK": {
        "name": "LOCALDISK",
        "type": "DISK",
        "state": "ACTIVE",
        "is_deterministic": True,
        "arprotocols": {"write_lan": [{"endpoint": "file:///store", "path": "/", "settings": {}}]},
    }
}
PAGES = {"/queue.json": QUEUEDATA, "/queues.json": {QUEUE: QUEUEDATA}, "/storages.json": STORAGES}


def job(script: str) -> dict[str, Any]:
    """Return the definition of a job that runs a script, has no input, and of output a log alone."""
    texts = """
        jobsetID cmtConfig dispatchDBlockTokenForOut destinationDBlockToken homepackage maxWalltime prodDBlockToken
        transferType dispatchDBlockToken swRelease nucleus sourceSite dispatchDblock
    """
    nothing = "prodDBlocks GUID realDatasetsIn inFiles fsize scopeOut scopeIn checksum ddmEndPointIn"
    return {
        **dict.fromkeys(texts.split(), "NULL"),
        **dict.fromkeys(nothing.split(), ""),
        **dict.fromkeys(("nSent", "minRamCount", "maxDiskCount", "attemptNr", "maxCpuCount", "StatusCode"), 0),
        "PandaID": "4242",
        "taskID": "77",
        "jobName": "job",
        "jobDefinitionID": 1,
        "prodUserID": "nobody",
        "prodSourceLabel": "managed",
        "processingType": "test",
        "cloud": "XX",
        "coreCount": 1,
        "currentPriority": 1000,
        "transformation": f"http://pandaserver-doma.cern.ch:25080/trf/user/{script}",
        "jobPars": "one two",
        "logGUID": "deadbeef",
        "logFile": "job.log.tgz",
        "outFiles": "job.log.tgz",
        "scopeLog": "panda",
        "realDatasets": "panda.job.1",
        "destinationDblock": "panda.job.1",
        "destinationSE": QUEUE,
        "ddmEndPointOut": "LOCALDISK",
        "fileDestinationSE": "LOCALDISK",
    }


class Panda(BaseHTTPRequestHandler):
    """One request of a pilot."""

    jobs: list[Any]
    requests: Path

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is its parent's
        pass

    def do_GET(self) -> None:
        self._answer(PAGES.get(self.path))

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        said = dict(parse_qsl(self.rfile.read(size).decode(), keep_blank_values=True))
        ask = self.path.rpartition("/")[2]
        with self.requests.open("a") as log:
            log.write(json.dumps({"ask": ask, **said}) + "\n")
        if ask == "getJob":
            self._answer(self.jobs.pop(0) if self.jobs else {"StatusCode": NO_JOB})
        else:
            self._answer({"StatusCode": 0, "command": "NULL"})

    def _answer(self, what: object) -> None:
        body = json.dumps(what).encode()
        self.send_response(404 if what is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Panda.jobs = json.loads(Path(sys.argv[2]).read_text())
    Panda.requests = Path(sys.argv[3])
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Panda).serve_forever()
