"""Where the state of a boot is: below `/run` where that is in memory, else below `/var/run`, emptied at each boot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, Done, Guest, Machine

if TYPE_CHECKING:
    from pathlib import Path

USER = 990
_AS_BEFORE_RUN = """
umount /run
[ ! -L /var/run ] || rm /var/run
mkdir -p -m 0755 /var/run
exec "$@"
"""
"""The view's `/run` is an ordinary folder then, and `/var/run` another, as on machines that know no `/run`."""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk with one script, which tells where it was."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/prolog.sh").write_text(SCRIPT)
    return tmp_path / "disk"


BOOT = ("run", "--disk", "/disk", "--metadata", "none")
SCRIPT = "#!/bin/sh\nexit 0\n"


@pytest.fixture
def guest(guest: Guest) -> Guest:
    """Return a guest with such a disk."""
    guest.put("disk/prolog.sh", SCRIPT)
    return guest


def old(guest: Guest, *argv: str) -> Done:
    """Run a program on a guest without `/run` in memory."""
    return guest.shell("sh", "-c", _AS_BEFORE_RUN, "old", *argv)


def names(folder: Path) -> set[str]:
    """Return what is in a folder."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_machine_whose_run_is_no_memory_has_its_state_below_var_run(guest: Guest) -> None:
    done = old(guest, *AGENT, *BOOT)
    assert (done.code, done.err) == (0, "")
    ours = {"boot_id", "lock", "status.json", "status.lock", "live.json", "finish"}
    assert names(guest.root / "var/run/contextagent") == ours
    assert "contextagent" not in names(guest.root / "run")


def test_anybody_there_may_ask_for_the_status(guest: Guest) -> None:
    assert old(guest, *AGENT, *BOOT).code == 0
    somebody = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
    done = old(guest, *somebody, *AGENT, "status", "--format", "json")
    assert (done.code, json.loads(done.out)["result"]) == (0, "ok")


def test_a_run_there_keeps_another_one_out(guest: Guest) -> None:
    guest.put("disk/prolog.sh", "#!/bin/sh\nflock -n /var/run/contextagent/lock true; echo $? > /answer\n")
    assert old(guest, *AGENT, *BOOT).code == 0
    assert guest.text("answer") == "1\n"


@pytest.fixture
def without_run(machine: Machine) -> Machine:
    """Return a machine below a root that has `/var/run` and no `/run`."""
    (machine.root / "var/run").mkdir(parents=True)
    return machine


def test_below_a_root_it_is_where_the_root_has_a_place_for_it(without_run: Machine, disk: Path) -> None:
    assert without_run.run("run", "--disk", str(disk)).code == 0
    assert names(without_run.root / "var/run") == {"contextagent"}
    assert "run" not in names(without_run.root)
    assert without_run.facts("status")["result"] == "ok"


def test_what_another_boot_left_there_tells_nobody_anything(without_run: Machine, disk: Path) -> None:
    folder = without_run.root / "var/run/contextagent"
    assert without_run.run("run", "--disk", str(disk)).code == 0
    lock = (folder / "lock").stat().st_ino
    without_run.put("var/run/contextagent/finish/request", "0")
    without_run.reboot()
    assert without_run.run("status").code == 3
    assert without_run.run("run", "pre-network", "--disk", str(disk)).code == 0
    assert names(folder) == {"boot_id", "lock", "status.json", "status.lock", "live.json"}
    assert (folder / "lock").stat().st_ino == lock, "who waits for the lock waits for this file"


def test_what_is_of_this_boot_stays_through_all_its_phases(without_run: Machine, disk: Path) -> None:
    assert without_run.run("run", "pre-network", "--disk", str(disk)).code == 0
    without_run.put("var/run/contextagent/finish/request", "0")
    assert without_run.run("run", "post-network", "--disk", str(disk)).code == 0
    assert without_run.text("var/run/contextagent/finish/request") == "0"
