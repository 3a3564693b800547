"""The search for each owner: disk and service, their order, four different verdicts, and when a service is required."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import BUNDLE, DATA, at_once, ec2, hear, openstack, policy, spoken, told, verdict, verdicts
from tests.spec.scenes import effects, lay, says
from tests.spec.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

REFUSING = "http://127.0.0.1:9"


def full(machine: Machine, service: Service) -> None:
    """Let the service have both owners' material."""
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))


def test_both_owners_material_comes_from_the_service_where_there_is_no_disk(machine: Machine, service: Service) -> None:
    policy(machine)
    full(machine, service)
    assert hear(machine, service).code == 0
    assert effects(machine) == ["user-data start", "epilog.sh start"]
    assert machine.status()["sources"] == {"site": "metadata:ec2", "user": "metadata:ec2"}
    assert verdicts(machine) == {"site": "found", "user": "found"}


def test_a_disk_with_only_site_scripts_lets_user_data_come_from_the_service(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    full(machine, service)
    lay(disk, says(machine, "site/epilog.sh"))
    assert hear(machine, service, disk=disk).code == 0
    assert effects(machine) == ["user-data start", "site/epilog.sh start"]
    assert machine.status()["sources"] == {"site": "disk:hepix", "user": "metadata:ec2"}
    assert BUNDLE not in service.paths(), "the site's search has ended"


def test_a_disk_with_only_user_data_lets_the_bundle_be_fetched(machine: Machine, service: Service, disk: Path) -> None:
    policy(machine)
    full(machine, service)
    lay(disk, {"user-data": told(machine, "from disk"), "meta-data": ""})
    assert hear(machine, service, disk=disk).code == 0
    assert effects(machine) == ["from disk start", "epilog.sh start"]
    assert machine.status()["sources"]["user"] == "disk:nocloud"
    assert machine.status()["sources"]["site"].startswith("metadata")
    assert BUNDLE in service.paths()
    assert DATA not in service.paths(), "the user's search has ended"


def test_a_disk_with_both_owners_material_ends_both_searches_and_asks_nobody(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    full(machine, service)
    lay(disk, says(machine, "site/epilog.sh", "user/epilog.sh"))
    assert hear(machine, service, disk=disk).code == 0
    assert effects(machine) == ["user/epilog.sh start", "site/epilog.sh start"]
    assert service.connections == 0


def test_variables_and_keys_on_a_disk_end_no_search(machine: Machine, service: Service, disk: Path) -> None:
    policy(machine)
    full(machine, service)
    lay(disk, {"context.sh": "SSH_KEY='ssh-ed25519 AAAA x'\nA=1\n"})
    hear(machine, service, disk=disk)
    assert effects(machine) == ["user-data start", "epilog.sh start"]
    assert verdicts(machine, "disk") == {"site": "absent", "user": "absent"}


@pytest.mark.parametrize("material", [{"site.yaml": "logging: {script_output: none}\n"}, {"files/etc/x": "x"}])
def test_settings_or_files_alone_are_material_and_end_the_sites_search(
    machine: Machine, service: Service, disk: Path, material: dict[str, str]
) -> None:
    policy(machine)
    full(machine, service)
    lay(disk, material)
    hear(machine, service, disk=disk)
    assert effects(machine) == ["user-data start"]
    assert BUNDLE not in service.paths()


@pytest.mark.parametrize(
    "spoilt", [{"site/site.yaml": "", "site/site.json": ""}, {"user/user.yaml": "", "user/user.json": ""}]
)
@pytest.mark.parametrize("broken", ["stop", "next"])
def test_a_broken_part_of_a_disk_ends_that_owners_search_alone_unless_policy_says_next(
    machine: Machine, service: Service, disk: Path, spoilt: dict[str, str], broken: str
) -> None:
    policy(machine, f"disk: {{broken: {broken}}}")
    full(machine, service)
    lay(disk, spoilt)
    done = hear(machine, service, disk=disk)
    owner = min(spoilt).partition("/")[0]
    other = {"site": "user", "user": "site"}[owner]
    said = {"site": "epilog.sh start", "user": "user-data start"}
    assert verdict(machine, owner, "disk")["verdict"] == "broken"
    assert machine.status()["sources"][other] == "metadata:ec2" or other == "site"
    assert said[other] in effects(machine)
    assert (said[owner] in effects(machine)) is (broken == "next")
    assert (owner in verdicts(machine)) is (broken == "next")
    if broken == "stop":
        assert done.code == {"site": 1, "user": 2}[owner]
        assert (BUNDLE in service.paths()) is (owner == "user")
        assert (DATA in service.paths()) is (owner == "site")


def test_a_disk_that_cannot_be_read_ends_both_searches_and_the_service_is_not_asked(
    machine: Machine, service: Service, tmp_path: Path
) -> None:
    policy(machine)
    full(machine, service)
    (tmp_path / "noise").write_bytes(b"noise" * 100000)
    assert hear(machine, service, disk=tmp_path / "noise").code == 1
    assert (effects(machine), service.connections) == ([], 0)


def test_the_service_first_wins_over_the_disk_also_for_the_disks_pre_network_scripts(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine, "sources: [metadata, disk]")
    full(machine, service)
    lay(disk, says(machine, "site/prolog.sh", "site/epilog.sh", "user/prolog.sh", "user/epilog.sh"))
    assert hear(machine, service, disk=disk).code == 0
    assert effects(machine) == ["user-data start", "epilog.sh start"]
    assert machine.status()["sources"] == {"site": "metadata:ec2", "user": "metadata:ec2"}


def test_the_service_first_with_nothing_for_an_owner_leaves_that_owner_to_the_disk(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine, "sources: [metadata, disk]")
    service.pages = ec2(told(machine))
    lay(disk, says(machine, "site/epilog.sh", "user/epilog.sh"))
    assert hear(machine, service, disk=disk).code == 0
    assert effects(machine) == ["user-data start", "site/epilog.sh start"]
    assert [each["verdict"] for each in machine.status()["verdicts"] if each["owner"] == "site"] == ["absent", "found"]


def test_the_service_alone_reads_no_disk(machine: Machine, service: Service, disk: Path) -> None:
    policy(machine, "sources: [metadata]")
    full(machine, service)
    lay(disk, says(machine, "site/epilog.sh", "user/epilog.sh"))
    machine.run("run", "--metadata", service.url)
    assert effects(machine) == ["user-data start", "epilog.sh start"]


@pytest.mark.parametrize("switch", ["policy", "option", "no sources"])
def test_a_service_that_is_switched_off_gets_no_packet(machine: Machine, service: Service, switch: str) -> None:
    full(machine, service)
    lines = {"policy": ["sources: [disk]"], "option": [], "no sources": ["sources: []"]}[switch]
    policy(machine, *lines, address=service.url)
    machine.metadata = None
    done = machine.run("run", "--disk", "none", *(["--metadata", "none"] if switch == "option" else []))
    assert (done.code, machine.status()["result"]) == (0, "none")
    assert service.connections == 0


def test_the_policys_address_is_asked_where_no_option_names_another(machine: Machine, service: Service) -> None:
    policy(machine, address=service.url)
    machine.metadata = None
    full(machine, service)
    assert machine.run("run", "--disk", "none").code == 0
    assert len(effects(machine)) == 2


def test_the_pre_network_phase_asks_no_service(machine: Machine, service: Service) -> None:
    policy(machine)
    full(machine, service)
    assert hear(machine, service, "pre-network").code == 0
    assert service.connections == 0
    assert hear(machine, service, "post-network").code == 0
    assert len(effects(machine)) == 2


# ---- verdicts ----


def test_a_service_that_has_nothing_is_absent_and_the_result_is_none(machine: Machine, service: Service) -> None:
    policy(machine)
    done = hear(machine, service)
    assert verdicts(machine) == {"site": "absent", "user": "absent"}
    assert (done.code, machine.status()["result"]) == (0, "none")
    assert machine.status()["sources"] == {"site": None, "user": None}


def test_a_service_that_does_not_answer_is_unreachable_and_the_result_is_none(machine: Machine) -> None:
    policy(machine)
    done = hear(machine, REFUSING)
    assert verdicts(machine) == {"site": "unreachable", "user": "unreachable"}
    assert (done.code, machine.status()["result"]) == (0, "none")
    for owner in ("site", "user"):
        assert 0.9 <= verdict(machine, owner)["duration_s"] < 5


def test_absent_unreachable_and_broken_are_three_words_in_status_explain_and_trace(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    for word, status in (("absent", 404), ("broken", 403), ("unreachable", 0)):
        service.pages = {BUNDLE: status, DATA: status}
        hear(machine, service if status else REFUSING)
        assert set(verdicts(machine).values()) == {word}
        assert word in machine.run("explain").out
        assert {each["verdict"] for each in machine.facts("explain")["verdicts"]} >= {word}
        traced = [each["verdict"] for each in machine.trace() if each["ev"] == "source" and each["source"] != "disk"]
        assert traced[-1] == word
        machine.reboot()


def test_a_disk_that_has_all_boots_ok_beside_a_dead_service_and_loses_no_time(machine: Machine, disk: Path) -> None:
    policy(machine)
    lay(disk, says(machine, "site/epilog.sh", "user/epilog.sh"))
    assert hear(machine, REFUSING, disk=disk).code == 0
    assert verdicts(machine) == {}


def test_a_site_on_disk_and_a_service_out_of_reach_is_ok_where_none_is_required(machine: Machine, disk: Path) -> None:
    policy(machine)
    lay(disk, says(machine, "site/epilog.sh"))
    assert hear(machine, REFUSING, disk=disk).code == 0
    assert verdicts(machine) == {"user": "unreachable"}
    assert machine.status()["result"] == "ok"


def test_an_unreachable_service_fails_the_boot_only_where_it_is_required(tmp_path: Path) -> None:
    def case(machine: Machine, _service: Service, required: str, code: int, result: str) -> None:
        policy(machine, required=required)
        done = hear(machine, REFUSING)
        assert (done.code, machine.status()["result"], machine.run("status").code) == (code, result, code)

    at_once(tmp_path, case, [("yes", 1, "failed"), ("no", 0, "none"), ("auto", 0, "none")])


def test_a_required_service_that_answers_with_nothing_is_no_failure(machine: Machine, service: Service) -> None:
    policy(machine, required="yes")
    assert hear(machine, service).code == 0
    assert machine.status()["result"] == "none"


def test_a_boot_that_fails_for_want_of_the_site_still_runs_the_users_part(machine: Machine, disk: Path) -> None:
    policy(machine, required="yes")
    lay(disk, says(machine, "user/epilog.sh"))
    assert hear(machine, REFUSING, disk=disk).code == 1
    assert effects(machine) == ["user/epilog.sh start"]


def test_a_service_is_required_once_this_instance_has_seen_one(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 0
    machine.reboot()
    assert hear(machine, REFUSING).code == 1
    assert verdict(machine, "site")["verdict"] == "unreachable"
    assert machine.status()["result"] == "failed"


def test_a_service_seen_once_is_not_required_where_policy_says_no(machine: Machine, service: Service) -> None:
    policy(machine, required="no")
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 0
    machine.reboot()
    assert hear(machine, REFUSING).code == 0
    assert effects(machine) == ["epilog.sh start"] * 2, "the last good context serves"


def test_a_service_is_required_where_the_machine_says_that_it_is_a_clouds(tmp_path: Path) -> None:
    def case(machine: Machine, _service: Service, vendor: str, code: int) -> None:
        policy(machine)
        machine.put("sys/class/dmi/id/sys_vendor", f"{vendor}\n")
        assert hear(machine, REFUSING).code == code

    at_once(tmp_path, case, [("Amazon EC2", 1), ("OpenStack Foundation", 1), ("Dell Inc.", 0)])


def test_the_site_may_require_or_waive_the_service_by_its_disk(tmp_path: Path) -> None:
    def case(machine: Machine, _service: Service, image: str, site: str, code: int) -> None:
        policy(machine, required=image)
        disk = lay(machine.root.parent / f"disk-{site}", {"site.yaml": f"metadata: {{required: {site}}}\n"})
        assert hear(machine, REFUSING, disk=disk).code == code

    at_once(tmp_path, case, [("auto", "yes", 1), ("yes", "no", 0)])


def test_only_the_sites_verdict_can_fail_the_boot(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(403, bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 2
    assert verdicts(machine) == {"site": "found", "user": "broken"}
    assert effects(machine) == ["epilog.sh start"]


def test_a_broken_bundle_fails_the_boot_and_the_users_scripts_still_run(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=403)
    assert hear(machine, service).code == 1
    assert verdicts(machine) == {"site": "broken", "user": "found"}
    assert effects(machine) == ["user-data start"]


def test_ids_and_keys_of_a_service_are_no_context(machine: Machine, service: Service) -> None:
    policy(machine, dialect="openstack")
    service.pages = openstack(meta={"public_keys": {"me": "ssh-ed25519 AAAA me"}})
    assert hear(machine, service).code == 0
    assert machine.status()["sources"] == {"site": None, "user": None}
    assert machine.status()["result"] == "none"


def test_a_service_that_comes_up_within_the_time_to_connect_is_found(machine: Machine) -> None:
    policy(machine, connect_s="20", total_s="30")
    with Service() as gone:
        port = gone.port
    late: list[Service] = []
    timer = threading.Timer(0.6, lambda: late.append(Service(ec2(told(machine)), port=port)))
    timer.start()
    try:
        assert hear(machine, f"http://127.0.0.1:{port}").code == 0
    finally:
        timer.join()
        late[0].close()
    assert effects(machine) == ["user-data start"]


def test_a_service_that_gave_no_material_but_knew_its_dialect_was_seen(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2()
    assert hear(machine, service).code == 0
    machine.reboot()
    assert hear(machine, REFUSING).code == 1
    assert verdict(machine, "site")["verdict"] == "unreachable"
