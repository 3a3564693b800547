"""Measuring boots in turn: A B A B …, each a first boot, and each checked for what it did."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.bench.lab import BOOT, CACHE, ROOT
from tests.bench.network import Asked, Service

STATE_FOLDERS = ("tmp", "var/log", "var/lib")
HOME = "var/lib/contextuser"
MEMORY = "/dev/shm"
"""Where /run lives, as on a machine."""


class Case(NamedTuple):
    """One competitor at one piece of work.

    Attributes:
        name: As the table shows it.
        argv: What is run in the tree.
        binds: `SOURCE:TARGET`, what it finds there.
        order: Scripts that must have run, in their order.
        is_overlaid: Whether it writes all over the tree, so that an overlay must take it.
        network: The file of the network namespace that it boots in; `-` for one with nothing but loopback.
        service: The metadata service there, to be asked what the boot asked.
        state: A folder that `/var/lib` begins as a copy of: what an image carries there.
    """

    name: str
    argv: list[str]
    binds: list[str]
    order: list[str]
    is_overlaid: bool = False
    network: str = "-"
    service: Service | None = None
    state: Path | None = None


class Run(NamedTuple):
    """What one boot cost: seconds, KiB of the largest process, requests and connections; and if it did the work."""

    cpu_s: float
    wall_s: float
    peak_kib: int
    is_right: bool
    requests: int = 0
    connections: int = 0


def boot(case: Case) -> Run:
    """Run one first boot, and return its cost.

    Raises:
        CalledProcessError: The place could not be prepared; the boot itself may fail, and is then not right.
    """
    state = Path(tempfile.mkdtemp(dir=CACHE))
    run_folder = Path(tempfile.mkdtemp(dir=MEMORY))
    run_folder.chmod(0o755)
    order = run_folder / "bench.order"
    order.touch()
    order.chmod(0o666)
    binds = [*case.binds, f"{run_folder}:/run"]
    upper = state / "upper"
    upper.mkdir()
    if not case.is_overlaid:
        for name in STATE_FOLDERS:
            (state / name).mkdir(parents=True)
            binds.append(f"{state / name}:/{name}")
        (state / "tmp").chmod(0o1777)
        if case.state:
            shutil.copytree(case.state, state / "var/lib", dirs_exist_ok=True)
        (state / HOME).mkdir(mode=0o700)
        owner = (ROOT / HOME).stat()
        shutil.chown(state / HOME, owner.st_uid, owner.st_gid)
    where = str(upper) if case.is_overlaid else "-"
    command = [str(BOOT), str(ROOT), where, str(CACHE / "last-output.txt"), case.network]
    command += [*binds, "--", *case.argv]
    try:
        figures = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        is_right = figures[0] == "0" and order.read_text().split() == case.order
    finally:
        shutil.rmtree(state)
        shutil.rmtree(run_folder)
    asked = case.service.take() if case.service else Asked([], 0)
    wall, user, system = map(float, figures[1:4])
    return Run(user + system, wall, int(figures[4]), is_right, len(asked.requests), asked.connections)


def measure(cases: list[Case], rounds: int) -> dict[str, list[Run]]:
    """Boot every case once a round; a round before the first fills the caches and is not counted."""
    runs: dict[str, list[Run]] = {case.name: [] for case in cases}
    for number in range(rounds + 1):
        for case in cases:
            run = boot(case)
            if number:
                runs[case.name].append(run)
    return runs


def median(runs: list[Run], field: str) -> float:
    """Return the median of one figure."""
    return float(statistics.median(getattr(run, field) for run in runs))


def noise(runs: list[Run]) -> float:
    """Return how far CPU time strays: the middle half's width as a part of the median."""
    figures = [run.cpu_s for run in runs]
    if len(figures) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(figures, n=4)
    return (high - low) / middle
