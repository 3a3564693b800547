"""Which instance this is by the service's ids, and what serves when the service is down."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import (
    BUNDLE,
    DATA,
    ID,
    META,
    UUID,
    at_once,
    ec2,
    hear,
    openstack,
    policy,
    records,
    spoken,
    told,
    vac,
    verdict,
    verdicts,
)
from tests.spec.scenes import effects, lay, reports
from tests.spec.service import Page, Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine
    from tests.spec.service import Answer

REFUSING = "http://127.0.0.1:9"
BOTH = ["user-data start", "epilog.sh start"]
OTHER = "00000000-1111-4222-8333-444444444444"


def instance(machine: Machine) -> str:
    return str(machine.status()["instance_id"])


def boots(machine: Machine, service: Service, *pages: dict[str, Answer], disk: Path | None = None) -> list[str]:
    """Boot once with each of these services; return the instances."""
    seen = []
    for each in pages:
        machine.reboot()
        service.forget()
        service.pages = each
        hear(machine, service, disk=disk)
        seen.append(instance(machine))
    return seen


def whole(machine: Machine, instance_id: str = "i-1") -> dict[str, Answer]:
    return ec2(told(machine), instance=instance_id, bundle=spoken(machine, "epilog.sh"))


def test_an_id_with_another_value_is_a_new_instance_and_the_users_scripts_run_again(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    first, second, third = boots(machine, service, whole(machine), whole(machine, "i-2"), whole(machine, "i-2"))
    assert first != second == third
    assert effects(machine) == [*BOTH, *BOTH, "epilog.sh start"]


def test_the_same_id_is_the_same_instance_whatever_else_changes(machine: Machine, service: Service) -> None:
    policy(machine)
    changed = whole(machine) | {DATA: told(machine, "other"), BUNDLE: 404}
    assert len(set(boots(machine, service, whole(machine), changed))) == 1
    assert effects(machine) == [*BOTH, "other start"]


@pytest.mark.parametrize("status", [404, 403, 503, Page(b""), Page(fault="reset")], ids=itertools.count())
def test_an_id_that_is_not_there_is_no_evidence(machine: Machine, service: Service, status: Answer) -> None:
    policy(machine, total_s="1")
    assert len(set(boots(machine, service, whole(machine), whole(machine) | {ID: status}, whole(machine)))) == 1
    assert effects(machine).count("user-data start") == 1


def test_ids_of_different_kinds_are_no_evidence_against_each_other(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto")
    data = told(machine)
    assert len(set(boots(machine, service, ec2(data), openstack(data), vac(data, OTHER), ec2(data)))) == 1
    kept = str(machine.facts("query", "context.ids"))
    assert UUID in kept
    assert "i-0123456789abcdef0" in kept


@pytest.mark.parametrize("dialect", ["openstack", "vac"])
def test_another_uuid_of_the_same_kind_is_a_new_instance(machine: Machine, service: Service, dialect: str) -> None:
    policy(machine, dialect=dialect)
    data = told(machine)
    pages = [openstack(data, uuid) if dialect == "openstack" else vac(data, uuid) for uuid in (UUID, OTHER)]
    first, second = boots(machine, service, *pages)
    assert first != second
    assert effects(machine) == ["user-data start"] * 2


def test_a_config_drive_and_the_service_know_the_same_openstack_id(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine, dialect="openstack")
    lay(disk, {"openstack/latest/meta_data.json": f'{{"uuid": "{UUID}"}}'})
    first = boots(machine, service, openstack(told(machine)), disk=disk)
    assert boots(machine, service, openstack(told(machine), OTHER)) != first


def test_a_portal_that_answers_everything_makes_no_new_instance_and_runs_nothing_of_its_own(
    machine: Machine, service: Service
) -> None:
    policy(machine, dialect="auto")
    portal = Page(b"<html>#!/bin/sh\nlog in</html>", headers={"Content-Type": "text/html"})
    pages: dict[str, Answer] = dict.fromkeys((META, "/openstack/latest/meta-data.json", ID, DATA, BUNDLE), portal)
    pages["/openstack/latest/user_data"] = portal
    assert len(set(boots(machine, service, whole(machine), pages))) == 1
    assert set(verdicts(machine).values()) == {"broken"}
    assert len([each for each in effects(machine) if each.startswith("user-data")]) == 1


@pytest.mark.parametrize("dialect", ["auto"])
def test_a_service_that_is_down_at_a_reboot_leaves_the_last_good_context_in_use(
    machine: Machine, service: Service, dialect: str
) -> None:
    policy(machine, dialect=dialect)
    service.pages = whole(machine)
    assert hear(machine, service).code == 0
    first = instance(machine)
    for _ in range(2):
        machine.reboot()
        hear(machine, REFUSING)
        assert instance(machine) == first
        assert machine.status()["sources"] == {"site": "cached:metadata:ec2", "user": "cached:metadata:ec2"}
        assert verdicts(machine) == {"site": "unreachable", "user": "unreachable"}
        assert machine.status()["result"] == "failed", "it is required, and was not to be had"
    assert "cached:metadata:ec2" in [each["source"] for each in records(machine, "site", "cached")]
    assert effects(machine) == [*BOTH, "epilog.sh start", "epilog.sh start"]
    assert "cached" in machine.run("explain").out
    machine.reboot()
    assert hear(machine, service).code == 0
    assert machine.status()["sources"]["site"] == "metadata:ec2"
    assert instance(machine) == first


def test_a_cached_boot_has_the_same_scripts_late_as_before(machine: Machine, service: Service) -> None:
    policy(machine, required="no")
    service.pages = ec2(bundle=spoken(machine, "prolog.sh", "epilog.sh", "stop.d/x"))
    hear(machine, service)
    machine.reboot()
    assert hear(machine, REFUSING).code == 0
    assert effects(machine) == ["prolog.sh start", "epilog.sh start"] * 2
    machine.run("run", "stop", "--metadata", REFUSING, "--disk", "none")
    assert effects(machine)[4:] == ["stop.d/x stop", "epilog.sh stop", "prolog.sh stop"]


def test_a_service_that_dies_in_the_middle_of_a_reboot_makes_no_new_instance_and_the_site_runs(tmp_path: Path) -> None:
    def case(machine: Machine, service: Service, count: int) -> None:
        policy(machine, total_s="1")
        service.pages = whole(machine)
        hear(machine, service)
        first = instance(machine)
        machine.reboot()
        service.forget()
        service.dies_at = count
        hear(machine, service)
        assert instance(machine) == first
        assert effects(machine) == [*BOTH, "epilog.sh start"]
        assert "broken" in verdicts(machine).values()
        assert machine.status()["sources"]["site"] in ("metadata:ec2", "metadata", "cached:metadata:ec2")

    at_once(tmp_path, case, [(1,), (2,), (3,)])


def test_a_service_that_dies_in_the_middle_of_a_first_boot_is_broken_and_the_next_boot_is_the_same_instance(
    tmp_path: Path,
) -> None:
    def case(machine: Machine, service: Service, count: int) -> None:
        policy(machine, dialect="auto", total_s="1")
        service.pages = whole(machine)
        service.dies_at = count
        done = hear(machine, service)
        assert "Traceback" not in done.err
        assert "broken" in verdicts(machine).values()
        first = instance(machine)
        ran = effects(machine)
        assert set(ran) <= set(BOTH)
        machine.reboot()
        with Service(whole(machine)) as other:
            assert hear(machine, other).code == 0
        assert instance(machine) == first
        assert effects(machine).count("user-data start") == 1
        assert effects(machine)[-1] == "epilog.sh start"

    at_once(tmp_path, case, [(1,), (2,), (3,), (4,), (5,)])


def test_what_is_absent_at_a_reboot_is_not_served_from_the_cache(machine: Machine, service: Service) -> None:
    policy(machine)
    boots(machine, service, whole(machine), {ID: "i-1"})
    assert effects(machine) == BOTH
    assert machine.status()["sources"] == {"site": None, "user": None}


@pytest.mark.parametrize(
    "answer", [403, Page(b"no tar"), Page(status=302, headers={"Location": "/"})], ids=itertools.count()
)
def test_a_bundle_that_is_refused_at_a_reboot_is_not_served_from_the_cache(
    machine: Machine, service: Service, answer: Answer
) -> None:
    policy(machine)
    boots(machine, service, whole(machine), whole(machine) | {BUNDLE: answer})
    assert effects(machine) == BOTH
    assert machine.status()["sources"]["site"] is None


def test_a_cache_that_was_tampered_with_does_not_serve(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = whole(machine)
    hear(machine, service)
    found = [path for path in (machine.root / "var/lib/contextagent").rglob("*epilog.sh*") if path.is_file()]
    assert found
    for path in found:
        path.write_text(f"echo tampered >> {machine.root}/effects\n")
    machine.reboot()
    assert hear(machine, REFUSING).code == 1
    assert "tampered" not in effects(machine)
    assert machine.status()["sources"]["site"] is None


def test_a_new_instance_does_not_inherit_the_old_ones_cache(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = whole(machine)
    hear(machine, service)
    machine.reboot()
    machine.put("sys/class/dmi/id/product_uuid", "99999999-2222-4333-8444-555555555555\n")
    hear(machine, REFUSING)
    assert effects(machine) == BOTH
    assert machine.status()["sources"] == {"site": None, "user": None}


def test_a_new_instance_has_not_seen_a_service_yet(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = whole(machine)
    hear(machine, service)
    machine.reboot()
    machine.put("sys/class/dmi/id/product_uuid", "99999999-2222-4333-8444-555555555555\n")
    assert hear(machine, REFUSING).code == 0
    assert machine.status()["result"] == "none"


def test_the_verdicts_of_an_outage_have_reasons_and_durations(machine: Machine) -> None:
    policy(machine)
    hear(machine, REFUSING)
    for owner in ("site", "user"):
        found = verdict(machine, owner)
        assert set(found) == {"owner", "source", "verdict", "reason", "duration_s"}
        assert found["source"] == "metadata"
        assert found["reason"]
    assert reports(machine) == {}


def test_a_users_script_that_comes_by_disk_and_then_by_the_service_has_run_once(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, {"user-data": told(machine), "meta-data": ""})
    service.pages = ec2(told(machine))
    hear(machine, service, disk=disk)
    machine.reboot()
    hear(machine, service)
    assert effects(machine) == ["user-data start"]
    assert machine.status()["sources"]["user"] == "metadata:ec2"


def test_an_outage_serves_one_owner_from_the_cache_and_the_other_from_its_disk(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    service.pages = whole(machine)
    hear(machine, service)
    machine.reboot()
    lay(disk, {"user-data": told(machine, "from disk"), "meta-data": ""})
    hear(machine, REFUSING, disk=disk)
    assert effects(machine) == [*BOTH, "from disk start", "epilog.sh start"]
    assert machine.status()["sources"] == {"site": "cached:metadata:ec2", "user": "disk:nocloud"}


def test_a_service_in_lasting_trouble_at_a_reboot_leaves_the_last_good_bundle_in_use(
    machine: Machine, service: Service
) -> None:
    policy(machine, total_s="1")
    boots(machine, service, whole(machine), whole(machine) | {BUNDLE: 503})
    assert effects(machine) == [*BOTH, "epilog.sh start"]
    assert verdict(machine, "site")["verdict"] == "broken"
    assert machine.status()["sources"]["site"] == "cached:metadata:ec2"
    assert machine.status()["result"] == "failed"
