"""How often a script runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.spec.scenes import boot, effects, lay, reports, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine


def test_a_user_script_runs_once_per_digest_and_a_site_script_at_every_boot(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "site/epilog.sh", "user/epilog.sh"))
    for _ in range(3):
        boot(machine, disk)
        machine.reboot()
    assert effects(machine) == ["user/epilog.sh start", *["site/epilog.sh start"] * 3]
    lay(disk, says(machine, "user/epilog.sh", body="# changed"))
    boot(machine, disk)
    assert effects(machine)[4:] == ["user/epilog.sh start", "site/epilog.sh start"]


def test_settings_turn_the_owners_rules_around(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "site/epilog.sh", "user/epilog.sh"))
    lay(
        disk,
        {
            "site/site.yaml": "scripts: {site/post-network/epilog.sh: {frequency: once}}\n",
            "user/user.yaml": "scripts: {user/post-network/epilog.sh: {frequency: every-boot}}\n",
        },
    )
    for _ in range(2):
        assert boot(machine, disk).code == 0
        machine.reboot()
    assert effects(machine) == ["user/epilog.sh start", "site/epilog.sh start", "user/epilog.sh start"]


def test_force_ignores_the_markers_for_one_run(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "user/epilog.sh"))
    for words in ((), ("--force",), ()):
        boot(machine, disk, *words)
        machine.reboot()
    assert len(effects(machine)) == 2


def test_a_once_script_that_failed_or_timed_out_is_done(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "user/epilog.sh", body="exit 3"))
    lay(disk, says(machine, "user/prolog.sh", body="sleep 60"))
    lay(disk, {"user/user.yaml": "scripts: {user/pre-network/prolog.sh: {wall_s: 1}}\n"})
    assert boot(machine, disk).code == 2
    assert reports(machine)["user/pre-network/prolog.sh"]["state"] == "timeout"
    machine.reboot()
    done = boot(machine, disk)
    assert effects(machine) == ["user/prolog.sh start", "user/epilog.sh start"]
    assert (done.code, machine.status()["result"]) == (0, "ok")
    assert {each["state"] for each in reports(machine).values()} == {"skipped"}
    assert all(each["reason"] for each in reports(machine).values())


def test_stop_scripts_run_at_every_stop(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "site/stop.d/a", "user/stop.d/b"))
    for count in (1, 2):
        boot(machine, disk)
        boot(machine, disk, "stop")
        assert effects(machine) == ["site/stop.d/a stop", "user/stop.d/b stop"] * count
        machine.reboot()


def test_a_boot_is_stopped_once_and_again_after_it_was_done_again(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "site/stop.d/a"))
    boot(machine, disk)
    for _ in range(2):
        boot(machine, disk, "stop")
        assert len(effects(machine)) == 1
    boot(machine, disk)
    boot(machine, disk, "stop")
    assert len(effects(machine)) == 2
    boot(machine, disk, "stop", "--force")
    assert len(effects(machine)) == 3


def test_another_instance_of_the_same_image_runs_once_scripts_again(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "user/epilog.sh"))
    boot(machine, disk)
    machine.reboot()
    machine.put("sys/class/dmi/id/product_uuid", "11111111-2222-4333-8444-555555555555\n")
    boot(machine, disk)
    assert len(effects(machine)) == 2


def test_a_once_marker_survives_a_script_that_was_taken_away_and_came_back(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "user/epilog.sh", "user/prolog.sh"))
    boot(machine, disk)
    (disk / "user/epilog.sh").unlink()
    machine.reboot()
    boot(machine, disk)
    lay(disk, says(machine, "user/epilog.sh"))
    machine.reboot()
    boot(machine, disk)
    assert effects(machine) == ["user/prolog.sh start", "user/epilog.sh start"]
