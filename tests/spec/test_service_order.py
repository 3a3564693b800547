"""Order with scripts that come too late for the pre-network phase, and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import ec2, hear, policy, spoken, tgz, told
from tests.spec.scenes import effects, ids, lay, output, reports, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine
    from tests.spec.service import Service

NAMES = ("prolog.sh", "pre-network.d/10", "epilog.sh", "post-network.d/10")


def starts(words: str) -> list[str]:
    return [f"{word} start" for word in words.split()]


def both(machine: Machine, service: Service) -> None:
    """Let the service have scripts of both owners for both phases."""
    service.pages = ec2(
        tgz({name: text.replace(f'"{name} ', f'"u:{name} ') for name, text in says(machine, *NAMES).items()}),
        bundle=spoken(machine, *NAMES),
    )


@pytest.mark.parametrize("phases", [[], ["pre-network", "post-network"], ["post-network"]])
def test_late_pre_network_scripts_run_first_the_users_before_the_sites_then_the_rest_likewise(
    machine: Machine, service: Service, phases: list[str]
) -> None:
    policy(machine)
    both(machine, service)
    for phase in phases or [""]:
        assert hear(machine, service, *filter(None, [phase])).code == 0
    assert effects(machine) == starts(
        "u:prolog.sh u:pre-network.d/10 prolog.sh pre-network.d/10 "
        "u:epilog.sh u:post-network.d/10 epilog.sh post-network.d/10"
    )
    for key, each in reports(machine).items():
        assert each["late"] is ("/pre-network/" in key)
    for record in machine.trace():
        if record["ev"] == "start":
            assert record["late"] is ("/pre-network/" in record["id"])
    steps = machine.facts("plan", "post-network", "--force", "--metadata", service.url, "--disk", "none")["steps"]
    for step in steps:
        if step["kind"] == "script":
            assert step["late"] is ("/pre-network/" in step["id"])


def test_late_scripts_are_of_the_phase_pre_network_still(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=tgz({"prolog.sh": 'echo "$CONTEXTAGENT_PHASE $1"\n'}))
    hear(machine, service)
    assert output(machine, "site/pre-network/prolog.sh") == "pre-network start\n"
    assert reports(machine)["site/pre-network/prolog.sh"]["phase"] == "pre-network"


def test_a_disks_pre_network_scripts_run_in_time_and_the_bundles_late(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, says(machine, "user/prolog.sh", "user/epilog.sh"))
    service.pages = ec2(bundle=spoken(machine, "prolog.sh", "epilog.sh"))
    hear(machine, service, "pre-network", disk=disk)
    assert effects(machine) == starts("user/prolog.sh")
    hear(machine, service, "post-network", disk=disk)
    assert effects(machine) == starts("user/prolog.sh prolog.sh user/epilog.sh epilog.sh")
    assert [each["late"] for each in reports(machine).values()] == [False, True, False, False]


def test_a_users_late_script_runs_after_the_sites_timely_one_and_before_all_post_network_ones(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, says(machine, "site/prolog.sh", "site/epilog.sh"))
    file = f"{machine.root}/effects"
    service.pages = ec2(f"#cloud-config\nbootcmd: ['echo boot >> {file}']\nruncmd: ['echo run >> {file}']\n")
    hear(machine, service, disk=disk)
    assert effects(machine) == ["site/prolog.sh start", "boot", "run", "site/epilog.sh start"]


def test_late_scripts_are_late_at_every_boot(machine: Machine, service: Service) -> None:
    policy(machine)
    both(machine, service)
    for _ in range(2):
        for phase in ("pre-network", "post-network"):
            hear(machine, service, phase)
        machine.reboot()
    assert effects(machine)[8:] == starts("prolog.sh pre-network.d/10 epilog.sh post-network.d/10")


def test_a_site_runs_late_scripts_before_the_users_post_network_ones_fail_or_not(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    service.pages = ec2(told(machine) + "exit 3\n", bundle=spoken(machine, *NAMES, body="exit 4"))
    assert hear(machine, service).code == 1
    assert effects(machine) == starts("prolog.sh pre-network.d/10 user-data epilog.sh post-network.d/10")


def test_a_stop_is_the_sites_first_then_the_users(machine: Machine, service: Service) -> None:
    policy(machine)
    files = says(machine, "stop.d/x", "epilog.sh", "prolog.sh")
    users = {name: text.replace(f'"{name} ', f'"u:{name} ') for name, text in files.items()}
    service.pages = ec2(tgz(users), bundle=tgz(files))
    hear(machine, service)
    before = len(effects(machine))
    service.close()
    machine.run("run", "stop", "--metadata", service.url, "--disk", "none")
    said = ["stop.d/x stop", "epilog.sh stop", "prolog.sh stop"]
    assert effects(machine)[before:] == [*said, *(f"u:{each}" for each in said)]


@pytest.mark.parametrize("phase", [[], ["post-network"]])
def test_plan_with_the_service_is_what_run_with_it_does_and_changes_nothing(
    machine: Machine, service: Service, phase: list[str]
) -> None:
    policy(machine)
    both(machine, service)
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in machine.root.rglob("*"))
    facts = machine.facts("plan", *phase, "--metadata", service.url, "--disk", "none")
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in machine.root.rglob("*")) == before
    planned = [each["id"] for each in facts["steps"] if each["kind"] == "script" and each["phase"] != "stop"]
    hear(machine, service, *phase)
    assert planned == ids(machine)
    digests = {each["id"]: each["sha512"] for each in facts["steps"]}
    assert {key: each["sha512"] for key, each in reports(machine).items()}.items() <= digests.items()


def test_plan_of_the_pre_network_phase_asks_no_service(machine: Machine, service: Service) -> None:
    policy(machine)
    both(machine, service)
    facts = machine.facts("plan", "pre-network", "--metadata", service.url, "--disk", "none")
    assert [each for each in facts["steps"] if each["kind"] == "script"] == []
    assert service.connections == 0


def test_plan_with_a_service_out_of_reach_says_so(machine: Machine) -> None:
    policy(machine, required="yes")
    done = machine.run("plan", "--metadata", "http://127.0.0.1:9", "--disk", "none")
    assert done.code == 0
    assert "unreachable" in done.err
    assert "127.0.0.1:9" in done.err
