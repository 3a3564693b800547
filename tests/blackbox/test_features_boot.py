"""Features in a whole boot: there before anybody's script, right again after the user's, gone when nobody says any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import Machine

if TYPE_CHECKING:
    from tests.machine import Guest

PLACES = ("etc/machinefeatures", "etc/jobfeatures", "etc/joboutputs", "etc/profile.d", "var/run/shutdown_time")
SHOW = "#!/bin/sh\ncat $MACHINEFEATURES/hs06 $JOBFEATURES/job_id; echo; echo $JOBOUTPUTS\n"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    place = tmp_path / "disk"
    (place / "features/machine").mkdir(parents=True)
    (place / "features/machine/hs06").write_text("10.5\n")
    return place


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def boot(machine: Machine, disk: Path, *phases: str) -> str:
    for phase in phases or ("pre-network", "post-network"):
        machine.run("run", phase, "--disk", str(disk))
    return str(machine.status()["result"])


def output(machine: Machine, script: str) -> list[str]:
    (path,) = (machine.root / "var/lib/contextagent/instances").glob(f"*/output/{script}.log")
    return path.read_text().splitlines()


def of(machine: Machine, kind: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (machine.root / f"etc/{kind}features").iterdir()}


def test_the_first_script_of_a_boot_finds_the_features_in_place(machine: Machine, disk: Path) -> None:
    put(disk / "user/prolog.sh", SHOW)
    put(disk / "context.sh", "JOBOUTPUTS=http://192.0.2.1/out\n")
    boot(machine, disk)
    assert output(machine, "user/pre-network/prolog.sh") == [
        f"10.5{machine.text('sys/class/dmi/id/product_uuid').strip()}",
        "http://192.0.2.1/out",
    ]
    assert "JOBOUTPUTS='http://192.0.2.1/out'" in machine.text("etc/profile.d/mjf.sh")


def test_the_stop_phase_has_the_same_job_outputs(machine: Machine, disk: Path) -> None:
    put(disk / "stop.d/show", SHOW)
    put(disk / "context.sh", "JOBOUTPUTS=/mnt/outputs\n")
    boot(machine, disk)
    machine.run("run", "stop")
    assert output(machine, "site/stop/stop.d/show")[1] == str(machine.root / "mnt/outputs")


def test_a_machine_without_a_context_is_left_as_it_is(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert boot(machine, tmp_path / "empty") == "none"
    assert not [place for place in PLACES if (machine.root / place).exists()]
    assert machine.status()["lifetime"] is None


def test_where_nobody_says_anything_any_more_nothing_of_it_is_left(machine: Machine, tmp_path: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", "lifetime: {max_s: 7200}\n")
    (tmp_path / "empty").mkdir()
    boot(machine, tmp_path / "empty")
    assert machine.status()["lifetime"]["bound_by"] == "policy"
    machine.put("etc/contextagent/policy.yaml", "")
    machine.reboot()
    boot(machine, tmp_path / "empty")
    assert not [place for place in PLACES[:2] if (machine.root / place).exists()]
    assert not (machine.root / "var/run/shutdown_time").exists()


def test_what_a_user_altered_is_right_again_before_the_sites_scripts_after_the_network(
    machine: Machine, disk: Path
) -> None:
    put(disk / "user/prolog.sh", "#!/bin/sh\necho 999 > $MACHINEFEATURES/hs06; rm $JOBFEATURES/*\n")
    put(disk / "user/epilog.sh", SHOW)
    put(disk / "epilog.sh", SHOW)
    assert boot(machine, disk) == "ok"
    for script in ("user/post-network/epilog.sh", "site/post-network/epilog.sh"):
        assert output(machine, script)[0].startswith("10.5")
    assert {each["reason"] for each in machine.status()["warnings"]} == {"features-changed"}
    events = [each["machine"].get("hs06") for each in machine.trace() if each["ev"] == "features"]
    assert events == ["10.5", "10.5"]


def test_with_roots_rights_a_users_scripts_are_looked_after_on_the_machine_itself_too(guest: Guest) -> None:
    guest.put("etc/contextagent/policy.yaml", "user: {profile: root, ceiling: root}\n")
    guest.put("mnt/disk/features/machine/hs06", "10.5\n")
    guest.put("mnt/disk/user/prolog.sh", "#!/bin/sh\necho 999 > $MACHINEFEATURES/hs06\n")
    boot(guest, Path("/mnt/disk"))
    assert guest.text("etc/machinefeatures/hs06") == "10.5"


def test_without_roots_rights_nothing_is_done_twice_on_the_machine_itself(guest: Guest) -> None:
    guest.put("mnt/disk/features/machine/hs06", "10.5\n")
    guest.put("mnt/disk/prolog.sh", "#!/bin/sh\ntouch -d @1000000000 $MACHINEFEATURES/hs06\n")
    guest.put("mnt/disk/user/prolog.sh", "#!/bin/sh\necho 999 > $MACHINEFEATURES/hs06\n")
    boot(guest, Path("/mnt/disk"))
    assert guest.text("etc/machinefeatures/hs06") == "10.5"
    assert (guest.root / "etc/machinefeatures/hs06").stat().st_mtime == 1_000_000_000
    assert [each["ev"] for each in guest.trace()].count("features") == 1
    assert {each["state"] for each in guest.status()["scripts"] if each["owner"] == "user"} == {"failed"}


def test_what_comes_between_the_phases_is_published_in_the_second(machine: Machine, disk: Path) -> None:
    boot(machine, disk, "pre-network")
    put(disk / "features/machine/hs06", "11")
    machine.put("etc/contextagent/policy.yaml", "features: {job: {hs06_job: '3'}}\n")
    boot(machine, disk, "post-network")
    assert of(machine, "machine")["hs06"] == "10.5", "the disk was read already"
    assert of(machine, "job")["hs06_job"] == "3"


def test_a_plan_tells_of_features_that_somebody_asked_for_and_of_no_others(machine: Machine, disk: Path) -> None:
    put(disk / "epilog.sh", "#!/bin/sh\n")
    steps = machine.facts("plan", "--disk", str(disk))["steps"]
    assert [(each["id"], each["kind"]) for each in steps[:1]] == [("site/pre-network/features", "file")]
    assert [each["id"] for each in steps].count("site/post-network/features") == 1
    (disk / "features/machine/hs06").unlink()
    assert [each["kind"] for each in machine.facts("plan", "--disk", str(disk))["steps"]] == ["script", "script"]


def test_a_feature_that_was_said_wrongly_makes_the_result_degraded(machine: Machine, disk: Path) -> None:
    put(disk / "features/machine/hs06", "fast")
    assert boot(machine, disk) == "degraded"
    assert [each["reason"] for each in machine.status()["warnings"]] == ["bad-feature"]
    assert "hs06" not in of(machine, "machine")


def test_a_sites_earlier_log_server_is_no_word_of_today(machine: Machine, disk: Path) -> None:
    put(disk / "features/machine/syslog", "log.example\n")
    machine.put("usr/sbin/rsyslogd", "#!/bin/sh\necho rsyslogd 8.2302.0\n", 0o755)
    boot(machine, disk)
    assert of(machine, "machine")["syslog"] == "log.example"
    assert machine.status()["logging"]["targets"]
    (disk / "features/machine/syslog").unlink()
    machine.reboot()
    boot(machine, disk)
    assert "syslog" not in of(machine, "machine")
    assert not machine.status()["logging"]["targets"]


def test_another_instance_of_the_image_counts_its_life_from_its_own_first_boot(machine: Machine, disk: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", "lifetime: {max_s: 700000}\n")
    boot(machine, disk)
    first = machine.status()["lifetime"]["shutdown_epoch_s"]
    machine.reboot()
    boot(machine, disk)
    assert abs(machine.status()["lifetime"]["shutdown_epoch_s"] - first) <= 2
    (state,) = (machine.root / "var/lib/contextagent/instances").glob("*/state.json")
    seen = float(
        state.read_text().partition('"first":{')[2].partition('"utc_s":')[2].partition("}")[0].partition(",")[0]
    )
    machine.put("sys/class/dmi/id/product_uuid", "11111111-2222-4333-8444-555555555555\n")
    machine.reboot()
    boot(machine, disk)
    assert abs(machine.status()["lifetime"]["shutdown_epoch_s"] - (seen + 700000)) < 600
    assert len(list((machine.root / "var/lib/contextagent/instances").glob("*/state.json"))) == 2
