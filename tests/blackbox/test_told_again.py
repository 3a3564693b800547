"""What init asks after each phase, `run PHASE --resume`: one line where the phase is complete, else the run itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, Done, Guest, Machine

if TYPE_CHECKING:
    from pathlib import Path

BAD = "#!/bin/sh\nexit 1\n"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk with a script before the network and one after it, which fails."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/prolog.sh").write_text(f"#!/bin/sh\necho ran >> {tmp_path}/ran\n")
    (tmp_path / "disk/epilog.sh").write_text(BAD)
    return tmp_path / "disk"


def again(machine: Machine, phase: str, *words: str) -> Done:
    """Ask as init does."""
    return machine.run("run", phase, "--resume", *words)


@pytest.mark.parametrize("phase", ["pre-network", "post-network"])
def test_a_complete_phase_is_told_of_in_the_same_line_with_the_same_code(
    machine: Machine, disk: Path, phase: str
) -> None:
    words = ["run", "--disk", str(disk)] if phase == "post-network" else ["run", phase, "--disk", str(disk)]
    first = machine.run(*words)
    records = machine.trace()
    second = again(machine, phase)
    assert second == first
    assert first.code == (1 if phase == "post-network" else 0)
    assert machine.trace() == records


def test_a_source_that_was_broken_is_named_again(machine: Machine, disk: Path) -> None:
    (disk / "context.sh").write_text("A='x")
    assert machine.run("run", "--disk", str(disk)).err
    assert "disk" in again(machine, "post-network").err


def test_a_phase_that_has_not_been_is_run(machine: Machine, disk: Path) -> None:
    machine.run("run", "pre-network", "--disk", str(disk))
    assert again(machine, "post-network").code == 1
    assert machine.status()["phases"]["post-network"]["state"] == "failed"


def test_another_boots_phase_is_none_of_this_one(machine: Machine, disk: Path) -> None:
    machine.run("run", "pre-network", "--disk", str(disk))
    status = machine.text("run/contextagent/status.json")
    machine.reboot()
    machine.put("run/contextagent/status.json", status)
    again(machine, "pre-network", "--disk", str(disk))
    assert (disk.parent / "ran").read_text() == "ran\nran\n"


@pytest.mark.parametrize(
    "spoiled",
    [
        "",
        "[]",
        '{"schema": 1}',
        '{"schema": 1, "boot_id": "BOOT", "phases": [], "result": "ok"}',
        '{"schema": 1, "boot_id": "BOOT", "phases": {"pre-network": {"state": "ok"}}, "result": "ok", "scripts": 7}',
        '{"schema": 1, "boot_id": "BOOT", "phases": {"pre-network": {"state": "ok"}}, "result": "x", "scripts": []}',
    ],
)
def test_a_status_that_was_spoiled_is_not_believed(machine: Machine, disk: Path, spoiled: str) -> None:
    first = machine.run("run", "pre-network", "--disk", str(disk))
    machine.put("run/contextagent/status.json", spoiled.replace("BOOT", machine.status()["boot_id"]))
    assert again(machine, "pre-network") == first


def test_an_image_policy_that_was_spoiled_since_does_not_matter_any_more(machine: Machine, disk: Path) -> None:
    first = machine.run("run", "pre-network", "--disk", str(disk))
    machine.put("etc/contextagent/policy.yaml", "nonsense")
    assert again(machine, "pre-network") == first


def test_a_policy_that_the_caller_names_is_read(machine: Machine, disk: Path) -> None:
    machine.run("run", "pre-network", "--disk", str(disk))
    assert again(machine, "pre-network", "--policy", "/nonexistent").code == 64


def test_a_machine_that_is_switched_off_by_now_says_so(machine: Machine, disk: Path) -> None:
    machine.run("run", "pre-network", "--disk", str(disk))
    machine.put("etc/contextagent/disabled", "")
    done = again(machine, "pre-network")
    assert (done.code, done.out) == (0, "contextagent: switched off by '/etc/contextagent/disabled'\n")


def test_nobody_but_root_is_told_of_the_machine_itself(guest: Guest) -> None:
    guest.put("disk/prolog.sh", "#!/bin/sh\n")
    somebody = "setpriv --reuid=990 --regid=990 --clear-groups"
    text = f'"$@" --disk /disk && {somebody} "$@" --resume; echo $?'
    done = guest.shell("sh", "-c", text, "sh", *AGENT, "run", "pre-network", "--metadata", "none")
    assert done.out.splitlines()[-1] == "77"


SYSTEMCTL = "#!/bin/sh\necho {}\n"
KILLER = '#!/bin/sh\nif [ -e /agent ]; then read -r pid </agent; rm /agent; kill -9 "$pid"; sleep 60; fi\n'


@pytest.mark.parametrize(("says", "goes_on"), [("running", True), ("stopping", False)])
def test_a_phase_is_not_gone_on_with_while_the_machine_goes_down(guest: Guest, says: str, *, goes_on: bool) -> None:
    guest.put("disk/prolog.sh", KILLER)
    guest.put("disk/pre-network.d/99-last", "#!/bin/sh\necho ran > /last\n")
    guest.put("usr/bin/systemctl", SYSTEMCTL.format(says), 0o755)
    words = [*AGENT, "run", "pre-network", "--metadata", "none", "--disk", "/disk"]
    guest.shell("sh", "-c", 'echo $$ >/agent; exec "$@"', "sh", *words)
    guest.put("run/systemd/system/here", "")
    done = guest.shell(*words, "--resume")
    assert (guest.root / "last").exists() == goes_on
    assert (done.code == 75) == (not goes_on)
    assert guest.run("run", "stop").code <= 2
