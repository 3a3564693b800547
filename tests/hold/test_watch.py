"""C1, C2 of the watch: killed, or refused by the disk, at calls that change something; the next one puts all right."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, run
from tests.watching import PATIENCE_S, Watching, free_port, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="other processes can be traced by root alone"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

CALLS = "write rename fsync fdatasync ftruncate mkdir unlink unlinkat chmod fchmod fallocate".split()
SEED = 20101026
MOST = 400 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 24
"""So many of the calls of a start and its first publication are struck."""


@pytest.fixture
def booted(machine: Machine, disk: Path) -> Machine:
    _policy(machine, 86_400)
    (disk / "prolog.sh").write_text("#!/bin/sh\n")
    assert machine.run("run", "--disk", str(disk)).code == 0
    return machine


def _policy(machine: Machine, max_s: int) -> None:
    machine.put(
        "etc/contextagent/policy.yaml",
        f"watch:\n  http: 127.0.0.1:{free_port()}\nlifetime:\n  max_s: {max_s}\n  grace_s: 60\n",
    )


def _start(machine: Machine, *strace: str) -> subprocess.Popen[bytes]:
    """Return a watch that is a child of strace."""
    return subprocess.Popen(
        ["strace", "-f", "-qq", *strace, *AGENT, "--root", str(machine.root), "watch"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    )


def _await(machine: Machine, watch: subprocess.Popen[bytes], number: int) -> bool:
    """Wait until the watch has published and said so, or has ended; send a signal to one that is up, return if so."""
    mark = machine.root / "run/contextagent/watch.pid"
    until(lambda: watch.poll() is not None or (mark.exists() and mark.read_text().endswith("\n")), "it ends, or is up")
    is_up = watch.poll() is None
    if is_up:
        os.kill(int(mark.read_text()), number)
    watch.wait(PATIENCE_S)
    mark.unlink(missing_ok=True)
    return is_up


def _points(machine: Machine, folder: Path) -> list[tuple[str, int]]:
    """Return some of the calls that change something, from a start until everything is published: name and number."""
    _policy(machine, 85_000)
    log = folder / "calls"
    watch = _start(machine, "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    assert _await(machine, watch, signal.SIGKILL)
    names = [call for line in log.read_text().splitlines() for call in CALLS if f" {call}(" in line]
    found = [(name, names[: index + 1].count(name)) for index, name in enumerate(names)]
    return random.Random(SEED).sample(found, min(MOST, len(found)))


def _inject(call: str, fault: str) -> tuple[str, ...]:
    return ("-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{fault}")


def _check_whole(machine: Machine, places: tuple[str, ...]) -> None:
    """Hold every reader's view to the rule that nothing is ever half there."""
    ends = [machine.text(place) for place in places]
    assert all(end.isdigit() for end in ends), ends
    for name in ("live.json", "status.json"):
        json.loads(machine.text(f"run/contextagent/{name}"))


PLACES = ("etc/machinefeatures/shutdowntime", "etc/jobfeatures/shutdowntime_job", "var/run/shutdown_time")


def _check_right(machine: Machine, max_s: int) -> None:
    """A watch with no faults has everybody told of the same end, and a trace that verifies."""
    with Watching(machine):
        until(lambda: max_s - 60 < machine.facts("remaining")["remaining_s"] <= max_s, "the new end is published")
        end = machine.facts("remaining")["shutdown_epoch_s"]
        until(lambda: {int(machine.text(place)) for place in PLACES} == {end}, "everybody is told of it")
        until(lambda: machine.status()["lifetime"]["shutdown_epoch_s"] == end, "the status has it")
    checked = run([*AGENT, "trace", "verify", str(machine.root / "var/log/contextagent")])
    assert checked.code in (0, 2), checked.out


def test_a_watch_that_is_killed_anywhere_leaves_nothing_half_and_its_successor_puts_all_right(
    booted: Machine, tmp_path: Path
) -> None:
    killed, max_s = 0, 80_000
    points = _points(booted, tmp_path)
    for call, number in points:
        max_s -= 100
        _policy(booted, max_s)
        watch = _start(booted, *_inject(call, f"signal=SIGKILL:when={number}"))
        killed += not _await(booted, watch, signal.SIGKILL)
        _check_whole(booted, PLACES)
        if killed % 6 == 1:
            _check_right(booted, max_s)
    _check_right(booted, max_s)
    assert killed >= len(points) * 3 // 4, f"{killed} of {len(points)} were struck: is no start like the one before?"


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EROFS"])
def test_a_disk_that_refuses_one_call_costs_nothing_but_time(booted: Machine, tmp_path: Path, error: str) -> None:
    max_s = 80_000
    for call, number in _points(booted, tmp_path)[::2]:
        max_s -= 100
        _policy(booted, max_s)
        watch = _start(booted, *_inject(call, f"error={error}:when={number}"))
        _await(booted, watch, signal.SIGTERM)
        assert watch.returncode in (0, 73), f"{call} {number}: {watch.returncode}"
        _check_whole(booted, PLACES)
    _check_right(booted, max_s)
