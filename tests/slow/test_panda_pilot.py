"""The PanDA pilot itself, started by the agent on machines that boot: without work, with a job, and until their end.

Each machine is a view of this one with processes, files and a network of its own; on its loopback link a small server
speaks as PanDA's does.  The three live at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import AGENT, REPOSITORY, Guest
from tests.slow.environments import source
from tests.slow.panda_server import QUEUE, job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PANDA = "panda-pilot==3.7.0.36"
PORT = 25080
PATIENCE_S = 170
HOME = "/var/lib/contextuser"
STOPS_ITSELF_S = 600
"""How long before `shutdowntime` the pilot stops (`run_shutdowntime_minute_check`)."""
_INIT = f"""#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
mkdir -p /store && chown contextuser /store
/usr/bin/python3 {REPOSITORY}/tests/slow/panda_server.py {PORT} /jobs.json /requests.jsonl &
contextagent run --disk /context --metadata none
contextagent watch &
while [ ! -e /run/down ]; do sleep 0.1; done
contextagent remaining >/left
ps -u contextuser -o args= >/left-behind
"""
_PAYLOAD = """#!/bin/sh
echo "$(id -un) $* $MACHINEFEATURES $(cat "$JOBFEATURES/allocated_cpu")" >/store/payload
exec sleep {sleep}
"""


class Cloud:
    """A machine with a PanDA pilot, from its boot to its end."""

    def __init__(self, folder: Path, *, jobs: list[Any], left_s: int, sleep: int = 0) -> None:
        self._guest = guest = Guest(folder)
        home = guest.root / HOME.strip("/")
        home.parent.mkdir(parents=True)
        os.mknod(home, stat.S_IFCHR, 0)  # the overlay's word for "not there", whatever this machine has
        guest.put("usr/bin/contextagent", f'#!/bin/sh\nexec {" ".join(AGENT)} "$@"\n', 0o755)
        guest.put("usr/sbin/down", "#!/bin/sh\n: >/run/down\n", 0o755)
        guest.put("sbin-init", _INIT, 0o755)
        guest.put("jobs.json", json.dumps(jobs))
        guest.put("opt/payload/payload.sh", _PAYLOAD.format(sleep=sleep), 0o755)
        guest.put("context/site.json", json.dumps(self._site(left_s)))
        shutil.copytree(source(PANDA), guest.root / "opt/panda-pilot")
        self._console = folder / "console"
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "x", *guest.words("/sbin-init")),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                env={"PATH": os.environ["PATH"]},
                umask=0o022,
            )

    @staticmethod
    def _site(left_s: int) -> dict[str, Any]:
        server = f"http://127.0.0.1:{PORT}"
        args = f"-q {QUEUE} -j managed --url {server} --queuedata-url {server}/queue.json"
        return {
            "lifetime": {"shutdowntime": int(time.time()) + left_s},
            "features": {"machine": {"shutdown_command": "/usr/sbin/down"}},
            "pilot": {
                "framework": "panda",
                "command": ["/usr/bin/python3", "/opt/panda-pilot/pilot.py"],
                "args": [
                    *args.split(),
                    "--storagedata-url",
                    f"{server}/storages.json",
                    "-x",
                    "1",
                    "--output-dir",
                    "/store",
                ],
                "env": {"LOCAL_AGIS_SCHEDCONF": f"{server}/queues.json", "HARVESTER_WORKDIR": "/opt/payload"},
            },
        }

    def end(self) -> None:
        """Wait until the machine has ended itself."""
        self._process.wait(PATIENCE_S)

    def close(self) -> None:
        """Kill what there is of it: its first process takes all others along."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def console(self) -> str:
        """What all of it said."""
        return self._console.read_text(errors="backslashreplace")

    @property
    def message(self) -> str:
        """What it left for whoever made it."""
        return self._guest.text("etc/joboutputs/shutdown_message")

    def text(self, path: str) -> str:
        """Return a file's text, once the machine has ended."""
        return self._guest.text(path)

    def asked(self) -> list[dict[str, Any]]:
        """Return what the pilot asked the server."""
        return [json.loads(line) for line in self.text("requests.jsonl").splitlines()]

    def states(self) -> list[str]:
        """Return the pilot's states, as the trace has them."""
        return [each["state"] for each in self._guest.trace() if each["ev"] == "pilot"]


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
    last = cloud.asked()[-1]
    assert (last["state"], last["pilotErrorCode"]) == ("failed", "1213"), cloud.console
    assert cloud.message == "100 no time left"
    assert cloud.states() == ["running", "ended"], "the agent had to stop it"
    assert STOPS_ITSELF_S / 2 < int(cloud.text("left")) < STOPS_ITSELF_S
    assert cloud.text("left-behind") == ""
