"""What `status` and `explain` tell of what changes while a machine lives: its lifetime, its pilot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from contextagent.cli.report import _ENDS
from contextagent.features.lifetime import BOUNDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

PATH = "run/contextagent/status.json"


def told(machine: Machine, disk: Path, **facts: object) -> tuple[str, str]:
    """Return what both verbs print of a boot of whose status these keys are different."""
    (disk / "epilog.sh").write_text("#!/bin/sh\nexit 0\n")
    machine.run("run", "--disk", str(disk))
    machine.put(PATH, json.dumps({**machine.status(), **facts}))
    return machine.run("status").out, machine.run("explain").out


def test_a_boot_without_an_end_and_a_pilot_is_told_without_them(machine: Machine, disk: Path) -> None:
    status, explained = told(machine, disk, lifetime=None, pilot=None)
    assert "lifetime" not in status + explained
    assert "pilot" not in status + explained


@pytest.mark.parametrize("bound_by", BOUNDS)
def test_the_end_and_what_binds_it_are_told(machine: Machine, disk: Path, bound_by: str) -> None:
    status, explained = told(machine, disk, lifetime={"shutdown_epoch_s": 1_800_000_000, "bound_by": bound_by})
    assert f"lifetime  until 2027-01-15T08:00:00Z ({bound_by})\n" in status
    assert f"the machine ends at 2027-01-15T08:00:00Z: {_ENDS[bound_by]}\n" in explained


@pytest.mark.parametrize(
    ("facts", "line", "why"),
    [
        ({"state": "waiting"}, "panda: waiting", "the pilot (panda) has not started yet"),
        ({"state": "running", "pid": 4711}, "panda: running (pid 4711)", "the pilot (panda) runs (pid 4711)"),
        (
            {"state": "refused", "reason": "banned"},
            "panda: refused (banned)",
            "the pilot (panda) was refused: the site's settings say 'ban.pilot'",
        ),
        (
            {"state": "stopping", "reason": "lifetime", "pid": 4711},
            "panda: stopping (lifetime, pid 4711)",
            "the pilot (panda) is being stopped: this machine is about to end (contextagent remaining) (pid 4711)",
        ),
        (
            {"state": "ended", "reason": "no \x1bwork", "code": 300},
            "panda: ended (no \\x1bwork, code 300)",
            "the pilot (panda) has ended: no \\x1bwork (code 300)",
        ),
    ],
)
def test_the_pilot_is_told_with_its_reason(
    machine: Machine, disk: Path, facts: dict[str, object], line: str, why: str
) -> None:
    pilot = {"framework": "panda", "reason": None, "pid": None, "code": None, **facts}
    status, explained = told(machine, disk, pilot=pilot)
    assert f"pilot     {line}\n" in status
    assert f"{why}\n" in explained


def test_explain_tells_them_as_json_too(machine: Machine, disk: Path) -> None:
    told(machine, disk, lifetime={"shutdown_epoch_s": 1_800_000_000, "bound_by": "ttl"})
    assert machine.facts("explain")["lifetime"]["bound_by"] == "ttl"
