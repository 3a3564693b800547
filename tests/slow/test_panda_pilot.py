"""The PanDA pilot itself, started by the agent on machines that boot: without work, with a job, and until their end.

On each machine's loopback link a small server speaks as PanDA's does.  The three live at the same time.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import REPOSITORY
from tests.slow.environments import source
from tests.slow.panda_server import QUEUE, job
from tests.slow.piloted import Piloted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PANDA = "panda-pilot==3.7.0.36"
SERVER = "http://127.0.0.1:25080"
STOPS_ITSELF_S = 600
"""How long before `shutdowntime` the pilot stops (`run_shutdowntime_minute_check`)."""
_FIRST = f"""
mkdir -p /store && chown contextuser /store
/usr/bin/python3 {REPOSITORY}/tests/slow/panda_server.py 25080 /jobs.json /requests.jsonl &
"""
_PAYLOAD = """#!/bin/sh
echo "$(id -un) $* $MACHINEFEATURES $(cat "$JOBFEATURES/allocated_cpu")" >/store/payload
exec sleep {sleep}
"""


class Cloud(Piloted):
    """A machine with a PanDA pilot."""

    def __init__(self, folder: Path, *, jobs: list[Any], left_s: int, sleep: int = 0) -> None:
        pages = f"--queuedata-url {SERVER}/queue.json --storagedata-url {SERVER}/storages.json"
        site = {
            "lifetime": {"shutdowntime": int(time.time()) + left_s},
            "pilot": {
                "framework": "panda",
                "command": ["/usr/bin/python3", "/opt/panda-pilot/pilot.py"],
                "args": f"-q {QUEUE} -j managed --url {SERVER} {pages} -x 1 --output-dir /store".split(),
                "env": {"LOCAL_AGIS_SCHEDCONF": f"{SERVER}/queues.json", "HARVESTER_WORKDIR": "/opt/payload"},
            },
        }
        remaining = "contextagent remaining >/left"
        super().__init__(folder, site, first=_FIRST, last=remaining, folders={"/opt/panda-pilot": source(PANDA)})
        self.guest.put("jobs.json", json.dumps(jobs))
        self.guest.put("opt/payload/payload.sh", _PAYLOAD.format(sleep=sleep), 0o755)
        self.start()

    def asked(self) -> list[dict[str, Any]]:
        """Return what the pilot asked the server."""
        return [json.loads(line) for line in self.text("requests.jsonl").splitlines()]


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cloud]]:
    """Boot three machines; each ends by itself."""
    folder = tmp_path_factory.mktemp("clouds")
    made = {
        "without work": Cloud(folder / "0", jobs=[], left_s=7200),
        "with a job": Cloud(folder / "1", jobs=[job("payload.sh")], left_s=7200),
        "until its end": Cloud(folder / "2", jobs=[job("payload.sh")], left_s=STOPS_ITSELF_S - 20, sleep=900),
    }
    yield made
    for each in made.values():
        each.close()


def test_a_pilot_without_work_ends_its_machine_with_300(clouds: dict[str, Cloud]) -> None:
    cloud = clouds["without work"]
    cloud.end()
    (asked,) = cloud.asked()
    assert (asked["ask"], asked["siteName"], asked["prodSourceLabel"]) == ("getJob", QUEUE, "managed")
    assert cloud.message == "300 no work", cloud.console
    assert cloud.text("left-behind") == ""


def test_a_pilot_with_a_job_runs_it_and_its_machine_has_done_its_work(clouds: dict[str, Cloud]) -> None:
    cloud = clouds["with a job"]
    cloud.end()
    updates = [each for each in cloud.asked() if each["ask"] == "updateJob"]
    assert [each["state"] for each in updates] == ["starting", "running", "finished"], cloud.console
    assert cloud.text("store/payload") == f"contextuser one two /etc/machinefeatures {os.cpu_count()}\n"
    assert cloud.message == "200 the pilot has ended"
    assert cloud.states() == ["running", "ended"]


def test_a_pilot_stops_itself_in_time_before_the_end_that_the_agent_tells_it(clouds: dict[str, Cloud]) -> None:
    cloud = clouds["until its end"]
    cloud.end()
    updates = [each for each in cloud.asked() if each["ask"] == "updateJob"]
    told = {(each["state"], each["pilotErrorCode"]) for each in updates if each["state"] not in ("starting", "running")}
    assert told <= {("failed", "1213")}, told  # "reached maximum time"; its threads race for telling it, and may not
    assert cloud.text("store/payload"), cloud.console
    assert cloud.message == "100 no time left"
    assert cloud.states() == ["running", "ended"], "the agent had to stop it"
    assert STOPS_ITSELF_S / 2 < int(cloud.text("left")) < STOPS_ITSELF_S
    assert cloud.text("left-behind") == ""
