"""The end of a pilot: what it means, who brings it about and when, and that nothing of it is left."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.spec.living import MESSAGE, OUTPUTS, Living, policy, until
from tests.spec.scenes import boot, effects, lay, says

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine import Machine

WORK = {"epilog.sh": "true\n"}
HOUR = 3600


def site(said: str, more: str = "", rest: str = "") -> str:
    """Return settings of a pilot that does what is said in a shell."""
    more = more and f", {more}"
    return f"pilot: {{framework: command, command: [/bin/sh, -c, '{said}'], stop: {{timeout_s: 3}}{more}}}\n{rest}"


def settled(machine: Machine, *states: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        pilot = machine.status()["pilot"]
        return dict(pilot) if pilot["state"] in states else None

    reached: dict[str, Any] = until(found)
    return reached


def message(machine: Machine) -> str:
    path = machine.root / MESSAGE
    return str(until(lambda: path.exists() and path.read_text()))


def alive(mark: str) -> list[int]:
    """Return the processes in whose command line a mark stands."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """Return a word that no other process has in its command line; what is left with it is ended afterwards."""
    word = f"mark-{tmp_path.parent.name}-{tmp_path.name}-{time.time_ns()}"
    yield word
    for pid in alive(word):
        os.kill(pid, 9)


@pytest.mark.parametrize(
    ("said", "more", "code"),
    [
        ("exit 0", "", 200),
        ("exit 3", "result: {exit_codes: {'3': 300}}", 300),
        ("exit 0", "result: {exit_codes: {'0': 600}}", 600),
        ("echo all queues are empty; exit 0", "result: {log_patterns: [{pattern: queues are empty, code: 300}]}", 300),
        ("touch found; exit 0", "result: {empty_file: found}", 300),
        ("echo x > found; exit 0", "result: {empty_file: found}", 200),
    ],
)
def test_the_pilots_end_is_the_machines_with_the_code_that_the_settings_give_it(
    machine: Machine, disk: Path, said: str, more: str, code: int
) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": site(said, more)})
    boot(machine, disk)
    with Living(machine):
        assert message(machine).startswith(f"{code} ")
        pilot = settled(machine, "ended")
        assert pilot["code"] == code
        (finish,) = until(lambda: [each for each in machine.trace() if each["ev"] == "finish"])
        assert finish["code"] == code


@pytest.mark.parametrize("said", ["exit 1", "kill -9 $$", "exit 250"])
def test_a_pilot_that_fails_is_not_done(machine: Machine, disk: Path, said: str) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": site(said)})
    boot(machine, disk)
    with Living(machine):
        assert message(machine)[0] in "567"


def test_a_pilot_says_itself_how_the_machine_ends(machine: Machine, disk: Path) -> None:
    from tests.machine import AGENT  # noqa: PLC0415  # for this one

    policy(machine, is_served=False)
    command = " ".join((*AGENT, "--root", str(machine.root), "finish", "400", '"banned here"'))
    lay(disk, {**WORK, "site.yaml": site(f"{command}; exit 0")})
    boot(machine, disk)
    with Living(machine):
        assert message(machine) == "400 banned here"


def test_an_idle_end_ends_no_machine(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": site("exit 0", "on_exit: idle")})
    boot(machine, disk)
    with Living(machine) as living:
        settled(machine, "ended")
        machine.run("drain", "--in", "90000")
        assert not (machine.root / MESSAGE).exists()
        assert living.stop() == 0


def test_a_pilot_is_started_again_as_often_as_its_settings_say(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    more = "on_exit: restart, restart: {max: 2, backoff_s: 0}"
    lay(disk, {**WORK, "site.yaml": site(f"echo ran >> {machine.root}/effects; exit 1", more)})
    boot(machine, disk)
    with Living(machine):
        message(machine)
        assert effects(machine) == ["ran"] * 3


def test_outputs_of_the_pilot_are_there_before_the_message(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": site("echo the log > work.log; exit 0", "outputs: [work.log]")})
    boot(machine, disk)
    with Living(machine):
        message(machine)
        assert (machine.root / OUTPUTS / "work.log").read_text() == "the log\n"


def test_nothing_of_a_pilot_is_left_after_its_end(machine: Machine, disk: Path, mark: str) -> None:
    policy(machine, is_served=False)
    stays = f"setsid sh -c 'while :; do sleep 1; done' {mark} &"
    said = "pilot:\n  framework: command\n  command: [/bin/sh, left.sh]\n  files:\n    left.sh: |\n"
    lay(disk, {**WORK, "site.yaml": f"{said}      {stays}\n      ({stays})\n      exit 0\n"})
    boot(machine, disk)
    with Living(machine):
        settled(machine, "ended")
        until(lambda: not alive(mark), "something of it is left")


def test_a_drained_machine_has_its_pilot_told_in_time_and_is_100(machine: Machine, disk: Path) -> None:
    """TERM comes at the end less pilot.stop.timeout_s and stop_budget_s, and not at the end less the grace."""
    policy(machine, "stop_budget_s: 2\nlifetime: {grace_s: 0}\n", is_served=False)
    said = f'trap "date +%s > {machine.root}/told; exit 0" TERM; while :; do sleep 0.1; done'
    lay(disk, {**WORK, "site.yaml": site(said)})
    boot(machine, disk)
    with Living(machine):
        settled(machine, "running")
        assert machine.run("drain", "--in", "8").code == 0
        end = machine.facts("remaining")["shutdown_epoch_s"]
        assert message(machine).startswith("100 ")
        told = int(machine.text("told"))
        assert end - 5 - 2 <= told <= end - 5 + 2, "3 s for the pilot, 2 s for the scripts"


def test_a_pilot_that_does_not_listen_is_killed_when_its_time_is_over(machine: Machine, disk: Path, mark: str) -> None:
    policy(machine, is_served=False)
    said = f'trap "" TERM; while :; do sleep 0.1; done; echo {mark}'
    lay(disk, {**WORK, "site.yaml": site(said), **says(machine, "stop.d/10")})
    boot(machine, disk)
    with Living(machine):
        pilot = settled(machine, "running")
        assert machine.run("run", "stop").code == 0
        assert not os.path.exists(f"/proc/{pilot['pid']}")
        until(lambda: not alive(mark))
        assert effects(machine) == ["stop.d/10 stop"]


def test_the_pilot_ends_before_the_stop_scripts_site_before_user(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    said = f'trap "echo pilot >> {machine.root}/effects; exit 0" TERM; while :; do sleep 0.1; done'
    lay(disk, {**WORK, **says(machine, "stop.d/10", "user/stop.d/10"), "site.yaml": site(said)})
    boot(machine, disk)
    with Living(machine):
        settled(machine, "running")
        assert machine.run("run", "stop").code == 0
    assert effects(machine) == ["pilot", "stop.d/10 stop", "user/stop.d/10 stop"]


@pytest.mark.parametrize("by", ["signal", "command"])
def test_the_pilot_is_stopped_by_its_signal_or_its_command(machine: Machine, disk: Path, by: str) -> None:
    policy(machine, is_served=False)
    said, stop = {
        "signal": (
            f'trap "echo signal >> {machine.root}/effects; exit 0" USR1; while :; do sleep 0.1; done',
            "{signal: USR1, timeout_s: 20}",
        ),
        "command": (
            f"while ! test -e {machine.root}/enough; do sleep 0.1; done; echo command >> {machine.root}/effects",
            f"{{command: [/bin/touch, {machine.root}/enough], timeout_s: 20}}",
        ),
    }[by]
    lay(disk, {**WORK, "site.yaml": site(said).replace("{timeout_s: 3}", stop)})
    boot(machine, disk)
    with Living(machine):
        settled(machine, "running")
        assert machine.run("pilot", "stop").code == 0
        assert effects(machine) == [by]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_pilot_outlives_the_watch_and_its_end_is_heard_by_the_next_one(
    machine: Machine, disk: Path, how: str
) -> None:
    policy(machine, is_served=False)
    said = f"while ! test -e {machine.root}/enough; do sleep 0.1; done; exit 3"
    lay(disk, {**WORK, "site.yaml": site(said, "result: {exit_codes: {'3': 300}}")})
    boot(machine, disk)
    with Living(machine) as living:
        pilot = settled(machine, "running")
        living.kill() if how == "kill" else living.stop()
        assert os.path.exists(f"/proc/{pilot['pid']}")
        machine.put("enough", "")
        until(lambda: not os.path.exists(f"/proc/{pilot['pid']}"))
        assert not (machine.root / MESSAGE).exists()
        living.again()
        assert message(machine).startswith("300 ")
        assert settled(machine, "ended")["code"] == 300


def test_a_restarted_watch_takes_over_a_pilot_that_runs(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": site(f"echo ran >> {machine.root}/effects; sleep 600")})
    boot(machine, disk)
    with Living(machine) as living:
        pilot = settled(machine, "running")
        living.kill()
        living.again()
        machine.run("drain", "--in", "90000")
        assert settled(machine, "running") == pilot
        assert machine.run("pilot", "stop").code == 0
        assert effects(machine) == ["ran"]
        assert not os.path.exists(f"/proc/{pilot['pid']}")


def test_a_machine_that_was_finished_starts_no_pilot(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": site(f"echo ran >> {machine.root}/effects")})
    boot(machine, disk)
    machine.run("finish", "300", "no more work")
    assert message(machine) == "300 no more work"
    with Living(machine):
        settled(machine, "refused")
    assert effects(machine) == []
