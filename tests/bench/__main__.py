"""`make bench`: what a boot costs, beside a bare shell, a bare Python and Debian's cloud-init; tables, and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from contextagent import __version__
from tests.bench import bundle, collector, lab, live, storm, suites, watch
from tests.machine import REPOSITORY, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.report import Report

RESULTS = lab.CACHE / "results.json"
PARTS: dict[str, Callable[[int], Report]] = {
    "disk": suites.disk,
    "metadata": suites.metadata,
    "none": suites.none,
    "dead": suites.dead_service,
    "scripts": suites.scripts,
    "output": suites.output,
    "bundle": bundle.bundle,
    "storm": storm.storm,
    "verify": collector.collector,
    "watch": watch.watch,
    "live": live.live,
}


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
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    options = parser.parse_args()
    lab.prepare()
    results: dict[str, object] = {"facts": facts()}
    is_right = True
    for name, measured in PARTS.items():
        if options.only in (None, name):
            report = measured(options.rounds)
            results[name] = report.figures
            is_right &= report.is_right
            print(f"\n{report.text}", flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nevery single figure: {RESULTS}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
