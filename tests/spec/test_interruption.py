"""Runs that meet, are ended, or are killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, TIMEOUT_S
from tests.spec.scenes import boot, effects, ids, lay, reports, says

if TYPE_CHECKING:
    from tests.machine import Machine


def start(machine: Machine, disk: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a run whose script `hold` says through a fifo that it has begun."""
    gate = machine.root / "gate"
    if not gate.exists():
        os.mkfifo(gate)
    fd = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
    argv = [*AGENT, "--root", str(machine.root), "run", "--metadata", "none", *words, "--disk", str(disk)]
    running = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert select.select([fd], [], [], TIMEOUT_S)[0], "the script that holds has not begun"
        os.read(fd, 1)
    finally:
        os.close(fd)
    return running


def holding(machine: Machine, name: str) -> dict[str, str]:
    """Return a script that opens the gate, and at its first run waits for ever."""
    body = f"[ -e {machine.root}/held ] || {{ touch {machine.root}/held; echo 1<>{machine.root}/gate; sleep 1000; }}"
    return says(machine, name, body=body)


def test_a_run_beside_another_is_told_to_try_later_and_does_nothing(machine: Machine, disk: Path) -> None:
    lay(disk, holding(machine, "epilog.sh"))
    running = start(machine, disk)
    before = machine.trace()
    done = boot(machine, disk)
    assert done.code == 75
    assert done.err.startswith("contextagent: cannot ")
    assert machine.trace() == before
    assert machine.status()["result"] == "running"
    running.kill()
    running.wait(TIMEOUT_S)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
@pytest.mark.parametrize("words", [(), ("--resume",)], ids=["plain", "resume"])
def test_after_a_killed_run_the_next_one_closes_what_was_open_and_runs_the_sites_part(
    machine: Machine, disk: Path, sig: signal.Signals, words: tuple[str, ...]
) -> None:
    lay(disk, {**says(machine, "user/prolog.sh", "prolog.sh", "epilog.sh"), **holding(machine, "user/epilog.sh")})
    running = start(machine, disk)
    running.send_signal(sig)
    running.wait(TIMEOUT_S)
    assert boot(machine, disk, "post-network", *words).code == 2
    assert effects(machine).count("user/epilog.sh start") == 1, "a once script is not begun twice"
    assert effects(machine)[-1] == "epilog.sh start"
    assert reports(machine)["user/post-network/epilog.sh"]["state"] == "interrupted"
    ends = [record for record in machine.trace() if record["ev"] == "end"]
    assert [each["reason"] for each in ends if each["id"] == "user/post-network/epilog.sh"] == ["agent-restart"]
    assert machine.run("trace", "verify").code == 2


def test_a_resumed_phase_begins_nothing_twice_and_is_ok_where_all_is_well(machine: Machine, disk: Path) -> None:
    lay(disk, {**says(machine, "post-network.d/1", "post-network.d/3"), **holding(machine, "post-network.d/2")})
    lay(disk, {"site.yaml": "scripts: {site/post-network/post-network.d/2: {rerun: safe}}\n"})
    running = start(machine, disk)
    running.kill()
    running.wait(TIMEOUT_S)
    done = machine.run("run", "post-network", "--resume")
    assert effects(machine) == [f"post-network.d/{number} start" for number in (1, 2, 2, 3)]
    assert (done.code, machine.status()["result"]) == (0, "ok")
    assert list(reports(machine)) == [f"site/post-network/post-network.d/{number}" for number in (1, 2, 3)]


def test_a_failure_before_a_kill_is_not_forgotten_by_the_resumed_run(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "post-network.d/1", body="exit 5"))
    lay(disk, {**holding(machine, "user/post-network.d/2"), **says(machine, "post-network.d/3")})
    lay(disk, {"user/post-network.d/1": "true"})
    lay(disk, {"site.yaml": "scripts: {site/post-network/post-network.d/1: {on_error: no-pilot}}\n"})
    (disk / "user/post-network.d/2").rename(disk / "post-network.d/2")
    running = start(machine, disk)
    running.kill()
    running.wait(TIMEOUT_S)
    done = machine.run("run", "post-network", "--resume")
    assert done.code == 1
    assert reports(machine)["site/post-network/post-network.d/1"]["exit_code"] == 5


def test_a_resumed_phase_that_is_complete_only_reports(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "epilog.sh", body="exit 1"))
    boot(machine, disk)
    assert machine.run("run", "post-network", "--resume").code == 1
    assert len(effects(machine)) == 1


def test_rerun_safe_runs_an_interrupted_once_script_again_at_the_next_boot(machine: Machine, disk: Path) -> None:
    lay(disk, holding(machine, "user/epilog.sh"))
    lay(disk, {"user/user.yaml": "scripts: {user/post-network/epilog.sh: {rerun: safe}}\n"})
    running = start(machine, disk)
    running.kill()
    running.wait(TIMEOUT_S)
    machine.reboot()
    assert boot(machine, disk).code == 0
    assert effects(machine) == ["user/epilog.sh start"] * 2
    assert ids(machine) == ["user/post-network/epilog.sh"] * 2


def test_a_run_leaves_no_process_and_no_temporary_name_behind_when_it_is_killed_and_run_again(
    machine: Machine, disk: Path
) -> None:
    lay(disk, holding(machine, "user/epilog.sh"))
    running = start(machine, disk)
    running.kill()
    running.wait(TIMEOUT_S)
    boot(machine, disk)
    here = str(machine.root).encode()
    alive = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if here in _bytes(path)]
    assert alive == []
    names = {path.name for path in machine.root.rglob("*")}
    assert not [name for name in names if name.startswith(".new") or name.endswith((".tmp", ".contextagent-new"))]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 100, b'{"schema": 99}'], ids=["empty", "cut", "zeros", "other"])
def test_a_damaged_state_costs_no_once_marker_and_no_boot(machine: Machine, disk: Path, damage: bytes) -> None:
    lay(disk, says(machine, "user/epilog.sh", "epilog.sh"))
    boot(machine, disk)
    state = machine.root / "var/lib/contextagent/instances" / machine.status()["instance_id"] / "state.json"
    state.write_bytes(damage)
    machine.reboot()
    assert boot(machine, disk).code == 0
    assert effects(machine).count("user/epilog.sh start") == 1
    assert effects(machine).count("epilog.sh start") == 2


def test_a_phase_before_the_network_that_was_cut_short_is_completed_late_and_the_result_is_no_longer_running(
    machine: Machine, disk: Path
) -> None:
    lay(disk, {**holding(machine, "user/prolog.sh"), **says(machine, "user/pre-network.d/1", "prolog.sh", "epilog.sh")})
    running = start(machine, disk, "pre-network")
    running.kill()
    running.wait(TIMEOUT_S)
    assert machine.run("run", "post-network").code == 2
    rest = ["user/pre-network.d/1 start", "prolog.sh start", "epilog.sh start"]
    assert effects(machine) == ["user/prolog.sh start", *rest]
    assert machine.status()["result"] == "degraded"
    assert reports(machine)["site/pre-network/prolog.sh"]["late"] is True


def test_a_run_that_is_killed_twice_begins_no_script_of_the_phase_twice(machine: Machine, disk: Path) -> None:
    lay(disk, {**says(machine, "post-network.d/1", "post-network.d/4"), **holding(machine, "post-network.d/2")})
    again = f"[ -e {machine.root}/again ] || {{ touch {machine.root}/again; echo 1<>{machine.root}/gate; sleep 1000; }}"
    lay(disk, says(machine, "post-network.d/3", body=again))
    for words in ((), ("post-network", "--resume")):
        running = start(machine, disk, *words)
        running.kill()
        running.wait(TIMEOUT_S)
    assert machine.run("run", "post-network", "--resume").code == 1
    assert effects(machine) == [f"post-network.d/{number} start" for number in (1, 2, 3, 4)]
    states = [each["state"] for each in reports(machine).values()]
    assert states == ["ok", "interrupted", "interrupted", "ok"]
