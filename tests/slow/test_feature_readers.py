"""The programs that read features, themselves, over what we publish: each errs where `readers.check` says, only there.

The clock of a program stands at a moment that the test chooses.  Of the DIRAC Pilot, which is in no package index, the
one expression by which it reads is here; glideinWMS's scripts were asked by hand.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import urlopen

import pytest

from contextagent.features.readers import NOT_READ, USES, check
from contextagent.features.vocabulary import FEATURES, kind_of, published, value_problem
from tests.machine import run
from tests.slow.environments import python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from contextagent.features.readers import Form, Reader, Use

    Values = Mapping[str, str]

PANDA = "panda-pilot==3.7.0.36"
DIRAC = "DIRAC==8.0.60"
DIRAC_NEEDS = (*("diraccfg", "psutil", "typing_extensions", "importlib_metadata", "importlib_resources"),)
NOW = 1_800_000_000
JOBSTART = NOW - 1000

_TOLD = """
import json, os, sys, time
def told(ask):
    try:
        return ask()
    except Exception as error:
        return type(error).__name__
"""
_TOLD = """
import json, os, sys, time
def told(ask):
    try:
        return ask()
    except Exception as error:
        return type(error).__name__
"""
_ASK_ALL = """
with open(sys.argv[1]) as cases, open(sys.argv[2], "w") as answers:
    for case in json.load(cases):
        child = os.fork()  # none sees what an earlier one left in its reader's memory
        if not child:
            os.environ.update(MACHINEFEATURES=case["machine"], JOBFEATURES=case["job"])
            time.time = lambda: case["now"] + 0.25
            answers.write(json.dumps(answer(case)) + chr(10))
            answers.close()
            os._exit(0)
        os.waitpid(child, 0)
"""
PANDA_ASKS = """
from pilot.control import monitor
from pilot.util.features import JobFeatures, MachineFeatures
def answer(case):
    read = {f"machine/{key}": value for key, value in MachineFeatures().get().items()}
    read |= {f"job/{key}": value for key, value in JobFeatures().get().items()}
    def stops_at(now):
        time.time = lambda: now
        return monitor.run_shutdowntime_minute_check(now - case["now"])
    return {"features.py": read, "monitor.py": [told(lambda now=now: stops_at(now)) for now in case["moments"]]}
"""
DIRAC_ASKS = """
import DIRAC.Core.Security.Locations  # the caller of MJF.py has it loaded
from DIRAC.Core.Utilities.MJF import MJF
from DIRAC.Resources.Computing.BatchSystems.TimeLeft.MJFResourceUsage import MJFResourceUsage
from DIRAC.WorkloadManagementSystem.Utilities import JobParameters
def left():
    mjf = MJF()
    mjf.updateConfig()
    return mjf.getWallClockSecondsLeft()
def usage():
    found = MJFResourceUsage("1", {}).getResourceUsage()
    return [found["Value"][key] for key in ("WallClock", "WallClockLimit", "CPULimit")] if found["OK"] else "error"
def answer(case):
    numbers = [told(JobParameters.getNumberOfProcessors), told(JobParameters.getMemoryFromMJF)]
    return {"MJF.py": told(left), "MJFResourceUsage": told(usage), "JobParameters": numbers}
"""


class Case(NamedTuple):
    """What is written, what was meant by it, and the key that has a mistake."""

    written: Values
    meant: Values
    key: str = ""

    def known_to(self, uses: Iterable[Use], part: str) -> Values:
        """Return what was meant; without the mistaken value for a program that does not look at it anyway."""
        read = {use.key for use in uses if use.part == part}
        if not read or self.key in read:
            return self.meant
        return {
            key: text
            for key, text in self.meant.items()
            if not value_problem(key, self.written[key].strip().removeprefix("+"))
        }


def good(**changed: int | str) -> dict[str, str]:
    """Return what a VM of 4 CPUs publishes: both vocabularies, every end of it at the same second."""
    said: dict[str, int | str] = {
        "machine/total_cpu": 4,
        "machine/hs06": "40.5",
        "machine/shutdowntime": JOBSTART + 9000,
        "machine/grace_secs": 3600,
        "job/allocated_cpu": 4,
        "job/hs06_job": "40.5",
        "job/shutdowntime_job": JOBSTART + 9000,
        "job/grace_secs_job": 3600,
        "job/jobstart_secs": JOBSTART,
        "job/job_id": "4c4c4544-0000-4000-8000-00000000cafe",
        "job/wall_limit_secs": 9000,
        "job/cpu_limit_secs": 36000,
        "job/max_rss_bytes": 8 * 10**9,
        "job/max_swap_bytes": 9 * 10**9,
        "job/scratch_limit_bytes": 20 * 10**9,
    }
    values, problems = published({key: str(value) for key, value in (said | changed).items()})
    assert not problems
    return values


def mistakes(form: Form) -> Iterator[Case]:
    """Yield cases with one mistake in one key, whose value would have counted, and some that are as good as right."""
    nearer: dict[str, dict[str, int | str]] = {
        "machine/shutdowntime": {"machine/shutdowntime": JOBSTART + 8000},
        "job/shutdowntime_job": {"job/shutdowntime_job": JOBSTART + 8000, "machine/shutdowntime": JOBSTART + 8500},
    }
    if form == "path":  # by URL none sees this end as the only one
        nearer |= {key: {"job/wall_limit_secs": 8000} for key in ("job/wall_limit_secs", "job/jobstart_secs")}
    for key in FEATURES:
        meant = good(**nearer.get(key, {}))
        without = {name: text for name, text in meant.items() if name != key}
        yield Case(without, without, key)
        for text in ("", "none", "-5", "1.5", "0x10", "1_000", "4 4", "4,0", "1e9", "\n", "a\tb", "\u0664"):
            if value_problem(key, text):
                yield Case({**meant, key: text}, meant, key)
        yield Case({**meant, key: meant[key] + "\n"}, meant, key)
        if kind_of(key) not in ("text", "number"):
            yield Case({**meant, key: f" +{meant[key]}\r\n"}, meant, key)


def ends(_form: Form) -> Iterator[Case]:
    """Yield every order of the three ends, now and the start, each of the four values once there and once not."""
    yield Case(good(), good())
    names = ("machine/shutdowntime", "job/shutdowntime_job", "job/jobstart_secs", "job/wall_limit_secs")
    moments = (None, NOW - 500, NOW + 8000, NOW + 8500)
    for values in itertools.product(moments, moments, (None, NOW, JOBSTART), (None, 0, 400, 9200, 20000)):
        written = {name: text for name, text in good().items() if name not in names}
        written |= {name: str(value) for name, value in zip(names, values, strict=True) if value is not None}
        written, _ = published({name: text for name, text in written.items() if name in (*FEATURES,)})
        yield Case(written, written)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Serve a folder on loopback; yield it and its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is its parent's
            pass

    folder = tmp_path_factory.mktemp("features")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def write(folder: Path, cases: Iterable[Case]) -> None:
    for number, case in enumerate(cases):
        for kind in ("machine", "job"):
            (folder / str(number) / kind).mkdir(parents=True, exist_ok=True)
        for old in (folder / str(number)).glob("*/*"):
            old.unlink()
        for key, text in case.written.items():
            (folder / str(number) / key).write_bytes(text.encode())


def first_end(values: Values) -> int | None:
    found = [int(values[key]) for key in ("machine/shutdowntime", "job/shutdowntime_job") if key in values]
    if "job/jobstart_secs" in values and "job/wall_limit_secs" in values:
        found.append(int(values["job/jobstart_secs"]) + int(values["job/wall_limit_secs"]))
    return min(found, default=None)


def moments(values: Values) -> list[int]:
    """Return when PanDA is asked: at its start, and on both sides of 600 s before the end."""
    end = first_end(values)
    return [NOW] if end is None else [NOW, max(NOW, end - 600), max(NOW, end - 599)]


def panda_right(part: str, meant: Values, asked: list[int]) -> Any:
    if part == "features.py":
        return {key: meant.get(key, "") for key in FEATURES}
    end = first_end(meant)
    return [end is not None and now > end - 600 for now in asked]


def dirac_right(part: str, meant: Values, _asked: list[int]) -> Any:
    end = first_end(meant)
    if part == "JobParameters":
        return [int(meant.get("job/allocated_cpu", "4")), int(meant.get("job/max_rss_bytes", "0"))]
    if part == "MJF.py":
        return end if end is None else end - NOW
    if end is None or not {"job/jobstart_secs", "job/wall_limit_secs", "job/cpu_limit_secs"} <= meant.keys():
        return None
    start = int(meant["job/jobstart_secs"])
    return [NOW - start, end - start, int(meant["job/cpu_limit_secs"])]


def hold(reader: Reader, form: Form, cases: list[Case], answers: list[dict], right: Callable[..., Any]) -> None:
    """Every program's answer is wrong in the cases of which `check` complains, and in no other."""
    assert len(answers) == len(cases)
    uses = USES[reader, form]
    blind = {part for part, _ in NOT_READ.get((reader, form), ())}  # right by luck where there is nothing to see
    for case, answer in zip(cases, answers, strict=True):
        problems = check(reader, form, case.written, NOW)
        said = {problem.message.split("'")[1] for problem in problems}
        expected = {part: right(part, case.known_to(uses, part), moments(case.meant)) for part in answer}
        wrong = {part for part in answer if answer[part] != expected[part]}
        assert wrong <= said, (case, answer, expected, problems)
        assert said <= wrong | blind, (case, answer, expected, problems)


def ask(program: str, interpreter: Path, cases: list[Case], base: str, folder: Path) -> list[dict]:
    places = [
        {
            "machine": f"{base}/{number}/machine",
            "job": f"{base}/{number}/job",
            "now": NOW,
            "moments": moments(case.meant),
        }
        for number, case in enumerate(cases)
    ]
    asked, answered = folder / "cases.json", folder / "answers.json"
    asked.write_text(json.dumps(places))
    done = run(
        (
            str(interpreter),
            "-c",
            _TOLD + program + _ASK_ALL,
            str(asked),
            str(answered),
        ),
        environment={"HOME": str(folder), "X509_CERT_DIR": str(folder), "no_proxy": "*"},
        cwd=str(folder),
    )
    assert done.code == 0, done.err
    return [json.loads(line) for line in answered.read_text().splitlines()]


@pytest.mark.parametrize("make", [mistakes, ends])
@pytest.mark.parametrize("form", ["path", "url"])
def test_panda_errs_where_the_check_says(
    form: Form, make: Callable[[Form], Iterator[Case]], base: tuple[Path, str], tmp_path: Path
) -> None:
    interpreter = python(PANDA, "pilot.control.monitor")
    cases = list(make(form))
    write(base[0], cases)
    answers = ask(PANDA_ASKS, interpreter, cases, base[1] if form == "url" else str(base[0]), tmp_path)
    hold("panda", form, cases, answers, panda_right)


@pytest.mark.parametrize("make", [mistakes, ends])
@pytest.mark.parametrize("form", ["path", "url"])
def test_the_dirac_pilot_errs_where_the_check_says(
    form: Form, make: Callable[[Form], Iterator[Case]], base: tuple[Path, str]
) -> None:
    cases = list(make(form))
    write(base[0], cases)
    places = [f"{base[1] if form == 'url' else base[0]}/{number}/job" for number in range(len(cases))]
    answers = [{"pilotTools.py": processors(place)} for place in places]
    hold("dirac-pilot", form, cases, answers, lambda _part, meant, _asked: int(meant.get("job/allocated_cpu", "4")))


def processors(job_features: str) -> int:
    """Return what the DIRAC Pilot takes for its number of processors."""
    try:
        return int(urlopen(os.path.join(job_features, "allocated_cpu")).read())
    except (OSError, ValueError):
        return 1


@pytest.mark.parametrize("make", [mistakes, ends])
@pytest.mark.parametrize("form", ["path", "url"])
def test_dirac_errs_where_the_check_says(
    form: Form, make: Callable[[Form], Iterator[Case]], base: tuple[Path, str], tmp_path: Path
) -> None:
    assert not os.path.exists("/var/run/shutdown_time"), "DIRAC would read it"
    interpreter = python(DIRAC, "DIRAC.Core.Utilities.MJF", *DIRAC_NEEDS)
    cases = list(make(form))
    write(base[0], cases)
    answers = ask(DIRAC_ASKS, interpreter, cases, base[1] if form == "url" else str(base[0]), tmp_path)
    hold("dirac", form, cases, answers, dirac_right)
