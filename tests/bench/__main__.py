"""`make bench`: what a boot costs, beside a bare shell, a bare Python and Debian's cloud-init; a table, and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from contextagent import __version__
from tests.bench import lab
from tests.bench.measure import Case, Run, measure, median, noise
from tests.machine import REPOSITORY, run

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = lab.CACHE / "results.json"
PYTHON = ["python3", "-I", "-S"]
AGENT = "python3 -I -S /opt/agent/contextagent/__main__.py run"
CODE = f"{REPOSITORY / 'contextagent'}:/opt/agent/contextagent"
CLOUD_INIT = (
    "cloud-init init --local; cloud-init init; cloud-init modules --mode=config; cloud-init modules --mode=final"
)


class Suite(NamedTuple):
    """Cases that do the same work; figures are set against the first one's."""

    title: str
    rounds: int
    cases: list[Case]


def floor(work: lab.Work, name: str = "dash: unpack, run") -> Case:
    """Return the bare shell at this work."""
    return Case(name, ["sh", "/opt/bench/floor.sh"], _floor_binds(work), work.by_phase)


def python_floor(work: lab.Work) -> Case:
    """Return the bare Python at this work."""
    return Case("Python: unpack, run", [*PYTHON, "/opt/bench/floor.py"], _floor_binds(work), work.by_phase)


def _floor_binds(work: lab.Work) -> list[str]:
    return [f"{work.folder / 'seed'}:/seed", f"{lab.HERE}:/opt/bench"]


def agent(work: lab.Work, name: str = "contextagent") -> Case:
    """Return the agent at this work: both phases, with trace, state and confinement."""
    words = f"{AGENT} pre-network --disk /disk && {AGENT} post-network --disk /disk"
    return Case(name, ["sh", "-c", words], [CODE, f"{work.folder / 'disk'}:/disk"], work.by_phase)


def cloud_init(work: lab.Work, kind: str) -> Case:
    """Return Debian's cloud-init at this work: all four stages, tuned for it or as the distribution sets it up."""
    place = "cloud.cfg" if kind == "tuned" else "cloud.cfg.d/99-bench.cfg"
    binds = [f"{work.folder / 'nocloud'}:/var/lib/cloud/seed/nocloud", f"{lab.CACHE / kind}.cfg:/etc/cloud/{place}"]
    return Case(f"cloud-init, {kind}", ["sh", "-c", CLOUD_INIT], binds, work.by_owner, is_overlaid=True)


def disk(rounds: int) -> Suite:
    """The boot that everything is about: 2 user and 4 site scripts."""
    work = lab.work(2, 4)
    cases = [floor(work), python_floor(work), agent(work), cloud_init(work, "tuned"), cloud_init(work, "default")]
    return Suite("a boot from a disk, both phases: 2 user and 4 site scripts", rounds, cases)


def none(rounds: int) -> Suite:
    """A machine that was given nothing."""
    words = f"{AGENT} pre-network --disk none"
    cases = [
        Case("Python: nothing", [*PYTHON, "-c", "pass"], [], []),
        Case("contextagent, no context", words.split(), [CODE], []),
    ]
    return Suite("no context at all, pre-network", rounds, cases)


def scripts(rounds: int) -> Suite:
    """Many scripts: what one more of them costs."""
    cases = []
    for count in (10, 100, 1000):
        work = lab.work(count // 5, count - count // 5)
        cases += [floor(work, f"dash: {count} scripts"), agent(work, f"contextagent: {count} scripts")]
    return Suite("many scripts", max(rounds // 3, 1), cases)


def output(rounds: int) -> Suite:
    """One script that prints 100 MB."""
    work = lab.work(2, 4, output_bytes=100_000_000)
    return Suite("100 MB of output", max(rounds // 3, 1), [floor(work), agent(work)])


SUITES: tuple[Callable[[int], Suite], ...] = (disk, none, scripts, output)


def table(suite: Suite, runs: dict[str, list[Run]]) -> str:
    """Return a suite's figures as aligned text."""
    base = runs[suite.cases[0].name]
    rows = [["", "CPU ms", "least", "x first", "wall ms", "least", "x first", "peak MiB", "right"]]
    for name, each in runs.items():
        cpu, wall = median(each, "cpu_s"), median(each, "wall_s")
        rows.append([
            name,
            f"{cpu * 1e3:.1f}",
            f"{min(run.cpu_s for run in each) * 1e3:.1f}",
            f"{cpu / median(base, 'cpu_s'):.1f}",
            f"{wall * 1e3:.1f}",
            f"{min(run.wall_s for run in each) * 1e3:.1f}",
            f"{wall / median(base, 'wall_s'):.1f}",
            f"{median(each, 'peak_kib') / 1024:.1f}",
            f"{sum(run.is_right for run in each)}/{len(each)}",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([f"{suite.title} (medians of {len(base)}, one after another in turn)", *lines])


def per_script_ms(runs: dict[str, list[Run]], who: str) -> float:
    """Return what one more script costs, ms of CPU, between 10 of them and 1000."""
    few, many = (median(runs[f"{who}: {count} scripts"], "cpu_s") for count in (10, 1000))
    return (many - few) / 990 * 1e3


def facts() -> dict[str, object]:
    """Return what the figures depend on."""
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    version = run(
        ["chroot", str(lab.ROOT), "dpkg-query", "-W", "-f", "${Package} ${Version}\n", "cloud-init", "python3"]
    )
    describe = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    return {
        "agent": run(describe).out.strip() if shutil.which("git") else __version__,
        "kernel": platform.release(),
        "processors": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "packages": version.out.splitlines(),
        "load_before": os.getloadavg()[0],
        "began_epoch_s": int(time.time()),
    }


def main() -> int:
    """Measure and print; 1 only when a competitor did not do the work, whatever the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="boots of each case (default: 11)")
    parser.add_argument("--only", choices=[suite.__name__ for suite in SUITES], help="one part alone")
    options = parser.parse_args()
    lab.prepare()
    results: dict[str, object] = {"facts": facts()}
    is_right = True
    for make in SUITES:
        if options.only in (None, make.__name__):
            suite = make(options.rounds)
            runs = measure(suite.cases, suite.rounds)
            is_right &= all(each.is_right for case in runs.values() for each in case)
            results[make.__name__] = {name: [each._asdict() for each in case] for name, case in runs.items()}
            print(f"\n{table(suite, runs)}")
            print(f"noise of the first: {noise(runs[suite.cases[0].name]):.0%} of its CPU time")
            for who in ("dash", "contextagent") if make is scripts else ():
                print(f"one more script, {who}: {per_script_ms(runs, who):.2f} ms CPU")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nevery single figure: {RESULTS}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
