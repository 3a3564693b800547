"""Machine and job features: what is published, where, in which words, from whom."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.spec.living import JOB, MACHINE, Living, features, policy
from tests.spec.scenes import KEY, boot, lay, messages, output

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.spec.service import Service

UUID = "4c4c4544-0000-4000-8000-00000000cafe"
SOON = int(time.time()) + 50_000


def test_a_machine_with_neither_disk_nor_service_publishes_nothing(machine: Machine) -> None:
    machine.run("run", "--disk", "none")
    assert features(machine) == {}
    for path in (
        MACHINE,
        JOB,
        "etc/joboutputs",
        "etc/profile.d/mjf.sh",
        "etc/profile.d/mjf.csh",
        "var/run/shutdown_time",
    ):
        assert not (machine.root / path).exists()
    assert machine.run("features", "show").code == 3
    assert machine.status()["lifetime"] is None


def test_what_the_machine_can_tell_itself_is_published_in_both_vocabularies(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": "true\n"})
    before = time.time()
    boot(machine, disk)
    found = features(machine)
    cpus = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    assert {found[f"{key}"] for key in ("machine/total_cpu", "machine/log_cores", "job/allocated_cpu")} == {cpus}
    assert found["job/allocated_CPU"] == cpus
    assert found["job/job_id"].lower() == UUID
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(int(found["job/jobstart_secs"]) - (before - up_s)) <= 2
    assert found["job/jobstart"] == found["job/jobstart_secs"]
    assert found["machine/grace_secs"] == "600", "the policy's default"
    for key in ("machine/shutdowntime", "job/shutdowntime_job"):
        assert key not in found, "absent: none foreseen"


def test_a_feature_is_a_file_with_its_value_as_text_and_a_name_in_small_letters_digits_and_underscores(
    machine: Machine, disk: Path
) -> None:
    lay(
        disk, {"features/machine/hs06": "10.5\n", "features/machine/syslog": "loghost.example\n", "epilog.sh": "true\n"}
    )
    boot(machine, disk)
    found = features(machine)
    assert (found["machine/hs06"], found["machine/syslog"]) == ("10.5", "loghost.example")
    older = {"job/allocated_CPU", "job/disk_limit_GB", "job/mem_limit_MB"}
    assert all(re.fullmatch("(machine|job)/[a-z0-9_]+", key) for key in found.keys() - older)
    for path in (MACHINE, JOB):
        folder = machine.root / path
        assert folder.stat().st_mode & 0o7777 == 0o755
        assert all(each.is_file() and each.stat().st_mode & 0o7777 == 0o644 for each in folder.iterdir())


@pytest.mark.parametrize(
    ("said", "published"),
    [
        ({"job/wall_limit_secs": "3661"}, {"job/run_limit": "61", "job/wall_limit_secs_lrms": "3661"}),
        ({"job/cpu_limit_secs": "7199"}, {"job/cpu_limit": "119", "job/cpu_limit_secs_lrms": "7199"}),
        ({"job/max_rss_bytes": "2999999999"}, {"job/mem_limit": "2999", "job/mem_limit_MB": "2999"}),
        ({"job/scratch_limit_bytes": "41999999999"}, {"job/disk_limit_GB": "41"}),
        ({"job/run_limit": "90"}, {"job/wall_limit_secs": "5400", "job/wall_limit_secs_lrms": "5400"}),
        ({"job/cpu_limit": "2"}, {"job/cpu_limit_secs": "120"}),
        ({"job/mem_limit_MB": "2000"}, {"job/max_rss_bytes": "2000000000", "job/mem_limit": "2000"}),
        ({"job/disk_limit_GB": "40"}, {"job/scratch_limit_bytes": "40000000000"}),
        ({"job/allocated_CPU": "3"}, {"job/allocated_cpu": "3"}),
        ({"job/jobstart": str(SOON - 99_000)}, {"job/jobstart_secs": str(SOON - 99_000)}),
        ({"machine/log_cores": "12"}, {"machine/total_cpu": "12"}),
        ({"machine/phys_cores": "6"}, {"machine/phys_cores": "6"}),
        ({"machine/jobslots": "4"}, {"machine/jobslots": "4"}),
        ({"job/cpufactor_lrms": "1.5"}, {"job/cpufactor_lrms": "1.5"}),
    ],
)
def test_both_vocabularies_come_from_one_set_of_values(
    machine: Machine, disk: Path, said: dict[str, str], published: dict[str, str]
) -> None:
    lay(disk, {f"features/{key}": text for key, text in said.items()})
    lay(disk, {"epilog.sh": "true\n"})
    boot(machine, disk)
    found = features(machine)
    assert found.items() >= {**said, **published}.items()


def test_a_sites_settings_go_before_its_folder_and_that_before_what_the_machine_knows(
    machine: Machine, disk: Path
) -> None:
    lay(disk, {"features/machine/total_cpu": "8\n", "features/job/allocated_cpu": "6\n", "epilog.sh": "true\n"})
    lay(disk, {"site.yaml": "features: {job: {allocated_cpu: 4}}\n"})
    boot(machine, disk)
    found = features(machine)
    assert (found["machine/total_cpu"], found["job/allocated_cpu"]) == ("8", "4")


def test_a_policys_features_are_published_without_any_context(machine: Machine) -> None:
    policy(machine, "features: {machine: {hs06: 11.5}}\n")
    machine.run("run", "--disk", "none")
    assert features(machine)["machine/hs06"] == "11.5"


def test_a_value_that_its_key_can_not_have_is_not_published_and_told(machine: Machine, disk: Path) -> None:
    lay(disk, {"features/machine/total_cpu": "many\n", "epilog.sh": "true\n"})
    boot(machine, disk)
    assert features(machine)["machine/total_cpu"].isdigit()
    assert "total_cpu" in messages(machine)


@pytest.mark.parametrize(
    "name", ["features/machine/total-cpu", "features/job/../../../escaped", "features/machine/a b"]
)
def test_a_name_that_is_no_key_makes_no_file(machine: Machine, disk: Path, name: str) -> None:
    lay(disk, {name: "1\n", "epilog.sh": "true\n"})
    boot(machine, disk)
    assert all(re.fullmatch("(machine|job)/[a-zA-Z0-9_]+", key) for key in features(machine))


def test_scripts_of_each_phase_see_the_features_as_folders_without_a_slash_at_the_end(
    machine: Machine, disk: Path
) -> None:
    said = 'echo "$MACHINEFEATURES $JOBFEATURES $JOBOUTPUTS"; cat "$MACHINEFEATURES/total_cpu" "$JOBFEATURES/job_id"\n'
    names = ("prolog.sh", "epilog.sh", "user/prolog.sh", "user/epilog.sh")
    lay(disk, dict.fromkeys(names, said))
    boot(machine, disk)
    for script in machine.status()["scripts"]:
        shown = output(machine, script["id"]).split()
        assert [word.endswith("/") for word in shown[:3]] == [False] * 3, script["id"]
        assert shown[0].endswith("/etc/machinefeatures")
        assert shown[1].endswith("/etc/jobfeatures")
        assert shown[2].endswith("/etc/joboutputs")
        assert shown[3].endswith(UUID) or UUID in shown[4]


def test_a_shells_profile_has_the_two_places(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": "true\n"})
    boot(machine, disk)
    script = machine.root / "etc/profile.d/mjf.sh"
    assert script.stat().st_mode & 0o7777 == 0o644
    done = subprocess.run(
        ["/bin/sh", "-uc", '. "$1"; echo "$MACHINEFEATURES $JOBFEATURES"; env', "sh", str(script)],
        env={}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, *environment = done.stdout.splitlines()
    assert [word.rpartition("/etc/")[2] for word in first.split()] == ["machinefeatures", "jobfeatures"]
    assert any(line.startswith("MACHINEFEATURES=") for line in environment), "exported"
    csh = (machine.root / "etc/profile.d/mjf.csh").read_text()
    csh = re.sub("[\"']", "", csh)
    for name, folder in (("MACHINEFEATURES", "machinefeatures"), ("JOBFEATURES", "jobfeatures")):
        assert re.search(rf"^ *setenv {name} \S*/etc/{folder}$", csh, re.MULTILINE)


def test_the_end_stands_in_all_four_keys_that_dirac_needs_and_in_its_file(machine: Machine, disk: Path) -> None:
    lay(disk, {"features/machine/shutdowntime": f"{SOON}\n", "epilog.sh": "true\n"})
    boot(machine, disk)
    found = features(machine)
    assert found["machine/shutdowntime"] == str(SOON), "imposed from outside: passed on unchanged"
    assert {"job/shutdowntime_job", "job/jobstart_secs", "job/wall_limit_secs"} <= found.keys()
    assert machine.text("var/run/shutdown_time").strip() == str(SOON)
    assert int(machine.text("var/run/shutdown_time")) == SOON


def test_the_same_content_is_served_on_loopback_by_get_and_head_with_lists(machine: Machine, disk: Path) -> None:
    port = policy(machine)
    lay(disk, {"features/machine/shutdowntime": f"{SOON}\n", "epilog.sh": "true\n"})
    boot(machine, disk)
    found = features(machine)
    with Living(machine, port) as living:
        top = living.ask("/").text.split()
        paths = {half: next(word.strip("/") for word in top if half in word) for half in ("machine", "job")}
        for half, path in paths.items():
            names = sorted(key.partition("/")[2] for key in found if key.startswith(half))
            for spelled in (f"/{path}", f"/{path}/"):
                listed = living.ask(spelled)
                assert (listed.status, sorted(listed.text.split())) == (200, names)
            for name in names:
                got, headed = living.ask(f"/{path}/{name}"), living.ask(f"/{path}/{name}", "HEAD")
                assert (got.status, got.text.strip()) == (200, found[f"{half}/{name}"])
                assert (headed.status, headed.text) == (200, "")
                assert headed.headers["content-length"] == got.headers["content-length"]
        assert living.ask(f"/{paths['job']}/nothing").status == 404
        assert living.ask("/etc/passwd").status == 404
        assert living.ask(f"/{paths['machine']}/../../etc/passwd").status in (400, 404)
        assert living.ask(f"/{paths['job']}/job_id", "PUT").status not in (200, 201, 204)
        listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        places = [line.split()[3] for line in listening.splitlines() if f"pid={living.process.pid}," in line]
        assert places == [f"127.0.0.1:{port}"], "no listener elsewhere"
        assert living.stop() == 0


def test_nothing_is_served_where_the_policy_says_off(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {"features/machine/shutdowntime": f"{SOON}\n", "epilog.sh": "true\n"})
    boot(machine, disk)
    with Living(machine) as living:
        machine.run("drain")
        listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        assert f"pid={living.process.pid}," not in listening


def test_a_watch_where_nothing_is_published_ends_with_0_at_once(machine: Machine) -> None:
    machine.run("run", "--disk", "none")
    done = machine.run("watch")
    assert done.code == 0


@pytest.mark.parametrize("name", ["MACHINEFEATURES", "JOBFEATURES"])
def test_an_address_in_a_disks_context_sh_is_read(machine: Machine, disk: Path, service: Service, name: str) -> None:
    half, key, text = ("machine", "total_cpu", "24") if name[0] == "M" else ("job", "allocated_cpu", "12")
    service.pages[f"/features/{key}"] = f"{text}\n"
    lay(disk, {"context.sh": f"{name}='{service.url}/features'\nVMID=1\n", "epilog.sh": "true\n"})
    boot(machine, disk)
    assert features(machine)[f"{half}/{key}"] == text
    assert machine.facts("features", "show")[half][key] == text


def test_a_service_of_features_that_is_down_degrades_the_boot_and_holds_it_up_for_seconds_only(
    machine: Machine, disk: Path, service: Service
) -> None:
    service.close()
    lay(disk, {"context.sh": f"MACHINEFEATURES='{service.url}/f'\nVMID=1\n", "epilog.sh": "true\n"})
    began = time.monotonic()
    done = boot(machine, disk)
    assert time.monotonic() - began < 20
    assert (done.code, machine.status()["result"]) == (2, "degraded")
    assert features(machine)["machine/total_cpu"].isdigit()


def test_features_are_in_the_trace(machine: Machine, disk: Path) -> None:
    lay(disk, {"features/machine/shutdowntime": f"{SOON}\n", "epilog.sh": "true\n"})
    boot(machine, disk)
    (record, *_) = [each for each in machine.trace() if each["ev"] == "features"]
    assert str(SOON) in str(record)


def test_a_reboot_leaves_no_feature_of_the_boot_before(machine: Machine, disk: Path) -> None:
    lay(disk, {"features/machine/syslog": "loghost\n", "features/machine/shutdowntime": f"{SOON}\n"})
    lay(disk, {"epilog.sh": "true\n"})
    boot(machine, disk)
    (disk / "features/machine/syslog").unlink()
    (disk / "features/machine/shutdowntime").unlink()
    machine.reboot()
    boot(machine, disk)
    found = features(machine)
    assert "machine/syslog" not in found
    assert "machine/shutdowntime" not in found
    assert not (machine.root / "var/run/shutdown_time").exists()
    assert KEY not in str(found)


def test_features_are_a_step_of_the_plan_of_both_phases_that_comes_first(machine: Machine, disk: Path) -> None:
    lay(disk, {"prolog.sh": "true\n", "epilog.sh": "true\n", "features/machine/total_cpu": "4\n"})
    for phase in ("pre-network", "post-network"):
        steps = machine.facts("plan", phase, "--disk", str(disk))["steps"]
        assert steps[0]["kind"] == "file"
        assert "features" in steps[0]["id"]
