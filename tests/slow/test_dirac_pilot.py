"""What DIRAC's pilots are given by a machine that boots: a stand-in looks at it, and DIRAC's own readers read it.

The Pilot is in no package index.  The stand-in has its list of options, and its way to its number of processors.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import REPOSITORY
from tests.slow.environments import python
from tests.slow.piloted import HOME, Piloted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRAC = "DIRAC==8.0.60"
DIRAC_NEEDS = (*("diraccfg", "psutil", "typing_extensions", "importlib_metadata", "importlib_resources"),)
SERVER = "dips://dirac.example.org:9135/Configuration/Server"
ARGS = [
    "-N",
    "cloud.example.org",
    "-Q",
    "default",
    "-n",
    "CLOUD.Example.org",
    "-S",
    "Prod",
    "-C",
    SERVER,
    "--wnVO",
    "vo",
]
LIFE_S = 7200
CPU_S = 36000
_FIRST = """
mkdir -p /etc/grid-security/certificates /etc/grid-security/vomsdir /etc/grid-security/vomses
for folder in /etc/grid-security/*; do : >$folder/one; done
echo secret >/etc/grid-security/proxy.pem; chmod 600 /etc/grid-security/proxy.pem
: >/report.json; chown contextuser /report.json
"""
_CHECKS = """
for words in "dirac" "dirac-pilot" "dirac --form path" "dirac-pilot --form path" "panda" "glideinwms"; do
    contextagent features check --as $words >/checked 2>&1 && echo "$words: right" || sed "s/^/$words: /" /checked
done >/checks
"""
# DIRAC's own readers, as it calls them, then its own words for a queue that is empty: of JobAgent.py, which needs more
# than there is here to be imported, the two functions that say them
_READERS = """
import ast, importlib.util, json, os, time
from types import SimpleNamespace
import DIRAC.Core.Security.Locations
from DIRAC import S_ERROR, S_OK, gLogger
from DIRAC.Core.Utilities import DErrno
from DIRAC.Core.Utilities.MJF import MJF
from DIRAC.Resources.Computing.BatchSystems.TimeLeft.MJFResourceUsage import MJFResourceUsage
from DIRAC.WorkloadManagementSystem.Utilities import JobParameters

time.sleep(1.1) # in the very second of jobstart_secs MJFResourceUsage gives an error, which features check says
found = {"machine": os.environ["MACHINEFEATURES"], "usage": MJFResourceUsage("1", {}).getResourceUsage()}
found["numbers"] = [JobParameters.getNumberOfProcessors(), JobParameters.getMemoryFromMJF()]
for form in ("url", "path"):
    mjf = MJF()
    mjf.updateConfig()
    found["MJF.py by " + form] = mjf.getWallClockSecondsLeft() + int(time.time())
    os.environ.update(MACHINEFEATURES="/etc/machinefeatures", JOBFEATURES="/etc/jobfeatures")
with open("/report.json", "w") as report:
    json.dump(found, report)

path = importlib.util.find_spec("DIRAC").submodule_search_locations[0] + "/WorkloadManagementSystem/Agent/JobAgent.py"
theirs = {"S_OK": S_OK, "S_ERROR": S_ERROR, "DErrno": DErrno}
with open(path) as text:
    functions = [node for node in ast.walk(ast.parse(text.read())) if isinstance(node, ast.FunctionDef)]
for name in ("_finish", "_checkMatchingIssues"):
    exec(compile(ast.Module([node for node in functions if node.name == name], []), path, "exec"), theirs)
agent = SimpleNamespace(log=gLogger.getSubLogger("JobAgent"), matchFailedCount=10, stopAfterFailedMatches=10)
agent.am_stopExecution = lambda: None
agent._finish = lambda *words: theirs["_finish"](agent, *words)
theirs["_checkMatchingIssues"](agent, {"OK": False, "Errno": DErrno.EWMSNOMATCH, "Message": "none"})
"""


def site(end_s: int, **pilot: Any) -> dict[str, Any]:
    return {
        "lifetime": {"shutdowntime": end_s},
        "features": {"job": {"cpu_limit_secs": str(CPU_S), "max_rss_bytes": "8000000000"}},
        "pilot": {"framework": "dirac", **pilot},
    }


@pytest.fixture(scope="module")
def end_s() -> int:
    return int(time.time()) + LIFE_S


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory, end_s: int) -> Iterator[Piloted]:
    """Boot a machine whose pilot is the stand-in; wait for its end."""
    settings = site(
        end_s,
        command=["/usr/bin/python3", "/opt/dirac-pilot/dirac-pilot.py"],
        args=ARGS,
        files={"pilot.json": '{"CEs": {}}\n'},
        credential={"path": "/etc/grid-security/proxy.pem", "env": "X509_USER_PROXY"},
        ca_dir="/etc/grid-security/certificates",
        voms_dir="/etc/grid-security/vomsdir",
        vomses="/etc/grid-security/vomses",
    )
    made = Piloted(tmp_path_factory.mktemp("stand-in"), settings, first=_FIRST, last=_CHECKS)
    program = (REPOSITORY / "tests/slow/dirac_stand_in.py").read_text()
    made.guest.put("opt/dirac-pilot/dirac-pilot.py", program)
    made.start()
    made.end()
    yield made
    made.close()


def report(machine: Piloted) -> Any:
    text = machine.text("report.json")
    assert text, machine.console
    return json.loads(text)


def test_the_stand_in_gets_the_words_of_the_site_and_those_that_the_agent_knows(stand_in: Piloted) -> None:
    found = report(stand_in)
    stamp = found["environment"]["DIRAC_PILOT_STAMP"]
    assert found["argv"] == [*ARGS, "-P", str(os.cpu_count()), "--pilotUUID", stamp]
    assert found["rest"] == []


def test_the_stand_in_sees_an_environment_that_is_made_from_nothing(stand_in: Piloted) -> None:
    found = report(stand_in)
    said = found["environment"]
    instance = stand_in.guest.status()["instance_id"]
    grid = "/etc/grid-security"
    assert {name: text for name, text in said.items() if name not in ("DIRAC_PILOT_STAMP", "LC_CTYPE")} == {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "HOME": HOME,
        "USER": "contextuser",
        "LOGNAME": "contextuser",
        "CONTEXTAGENT_INSTANCE_ID": instance,
        "MACHINEFEATURES": "http://127.0.0.1:253/machinefeatures",
        "JOBFEATURES": "http://127.0.0.1:253/jobfeatures",
        "JOBOUTPUTS": "/etc/joboutputs",
        "PILOT_UUID": f"cloud://{instance}",
        "JOB_ID": "4c4c4544-0000-4000-8000-00000000cafe",
        "X509_USER_PROXY": said["X509_USER_PROXY"],
        "X509_CERT_DIR": f"{grid}/certificates",
        "X509_VOMS_DIR": f"{grid}/vomsdir",
        "X509_VOMSES": f"{grid}/vomses",
    }


def test_the_stand_in_has_its_files_in_its_folder_and_a_credential_of_its_own(stand_in: Piloted) -> None:
    found = report(stand_in)
    assert (found["folder"], found["uid"]) == (f"{HOME}/pilot-1", 990)
    assert (found["settings"], found["mode"]) == ({"CEs": {}}, 0o600)
    assert (found["proxy"], found["proxy mode"]) == ("secret\n", 0o600)


def test_the_stand_in_reads_its_processors_by_url_as_the_pilot_does(stand_in: Piloted) -> None:
    assert report(stand_in)["processors"] == os.cpu_count()


def test_a_queue_without_work_ends_the_machine_with_300(stand_in: Piloted) -> None:
    assert stand_in.message == "300 no work", stand_in.console
    assert stand_in.states() == ["running", "ended"]
    assert stand_in.text("left-behind") == ""


def test_the_check_says_of_each_program_what_the_program_itself_makes_of_it(stand_in: Piloted) -> None:
    said = stand_in.text("checks").splitlines()
    assert {line.partition(":")[0] for line in said if line.endswith(": right")} == {
        "dirac",
        "dirac-pilot",
        "panda",
        "glideinwms",
    }, said
    wrong = [line for line in said if not line.endswith(": right")]
    assert any(line.startswith("dirac --form path: ") and "MJFResourceUsage" in line for line in wrong)
    assert any(line.startswith("dirac-pilot --form path: ") and "takes 1 CPU" in line for line in wrong)


def test_diracs_own_readers_read_what_a_boot_has_published(tmp_path: Path, end_s: int) -> None:
    interpreter = python(DIRAC, "DIRAC.Core.Utilities.MJF", *DIRAC_NEEDS)
    command = [str(interpreter), "/opt/readers"]  # that interpreter is root's here
    settings = site(end_s, user="root", command=command, ca_dir="/etc/grid-security/certificates")
    machine = Piloted(tmp_path / "vm", settings, first=_FIRST)
    machine.guest.put("opt/readers", _READERS)
    machine.start()
    machine.end()
    found = report(machine)
    start_s = int(machine.text("etc/jobfeatures/jobstart_secs"))
    assert found["machine"] == "http://127.0.0.1:253/machinefeatures"
    assert found["numbers"] == [os.cpu_count(), 8000000000]
    assert found["usage"]["OK"], found
    assert found["usage"]["Value"]["WallClockLimit"] == end_s - start_s
    assert found["usage"]["Value"]["CPULimit"] == CPU_S
    assert [abs(found[f"MJF.py by {form}"] - end_s) <= 1 for form in ("url", "path")] == [True, True], found
    assert machine.message == "300 no work", machine.console
    machine.close()
