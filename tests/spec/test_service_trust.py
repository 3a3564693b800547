"""Where signatures are configured, an unsigned bundle is refused; where none is, none is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import BUNDLE, ec2, hear, policy, records, spoken, tgz, told, verdict, verdicts
from tests.spec.scenes import effects, lay, messages, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine
    from tests.spec.service import Service


@pytest.mark.parametrize(
    "lines",
    [
        "trust: {metadata: enforce}",
        "trust: {signers: [{subject: /CN=a, issuer: /CN=b}]}",
        "trust: {metadata: enforce, signers: [{subject: /CN=a, issuer: /CN=b}]}",
        "preset: strict",
    ],
)
@pytest.mark.parametrize("has_manifest", [False, True])
def test_where_signatures_are_configured_an_unsigned_bundle_is_refused(
    machine: Machine, service: Service, *, lines: str, has_manifest: bool
) -> None:
    policy(machine, lines)
    bundle = spoken(machine, "epilog.sh")
    service.pages = ec2(told(machine), bundle=bundle)
    if has_manifest:
        service.pages |= {f"{BUNDLE}.json": "{}", f"{BUNDLE}.json.p7s": b"no signature"}
    done = hear(machine, service)
    assert done.code == 1
    assert effects(machine) == ["user-data start"]
    assert verdicts(machine)["site"] == "broken"
    assert set(service.paths("/context")) <= {BUNDLE, f"{BUNDLE}.json", f"{BUNDLE}.json.p7s"}
    assert len(service.requests) <= 5


def test_a_sites_disk_may_make_trust_stricter_and_then_an_unsigned_bundle_is_refused(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, {"site.yaml": "trust: {metadata: enforce}\n"})
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service, disk=disk).code == 1
    assert effects(machine) == []


def test_a_refused_bundle_does_not_fall_back_to_the_cache(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 0
    machine.reboot()
    policy(machine, "trust: {metadata: enforce}")
    assert hear(machine, service).code == 1
    assert effects(machine) == ["epilog.sh start"]
    assert machine.status()["sources"]["site"] is None


@pytest.mark.parametrize("lines", ["", "trust: {metadata: off}", "preset: hepix2012"])
def test_where_no_signature_is_configured_no_manifest_is_fetched_and_trust_is_none(
    machine: Machine, service: Service, lines: str
) -> None:
    policy(machine, *([lines] if lines else []))
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 0
    assert machine.status()["trust"] == {"site": "none", "user": "none"}
    assert service.paths("/context") == [BUNDLE]


def test_a_sites_disk_cannot_make_trust_laxer(machine: Machine, service: Service, disk: Path) -> None:
    policy(machine, "trust: {metadata: enforce}")
    lay(disk, {"site.yaml": "trust: {metadata: off}\nmetadata: {bundle: default.tgz}\n"})
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service, disk=disk).code == 1
    assert effects(machine) == []
    assert "trust.metadata" in messages(machine)


def test_a_bundle_cannot_excuse_itself(machine: Machine, service: Service) -> None:
    policy(machine, "trust: {metadata: enforce}")
    text = "trust: {metadata: off, signers: []}\n"
    service.pages = ec2(bundle=tgz({"site.yaml": text, **says(machine, "epilog.sh")}))
    assert hear(machine, service).code == 1
    assert effects(machine) == []


def test_a_sites_disk_may_name_signers_and_then_an_unsigned_bundle_is_refused(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, {"site.yaml": "trust: {signers: [{subject: /CN=a, issuer: /CN=b}]}\n"})
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service, disk=disk).code == 1
    assert effects(machine) == ["user-data start"]


def test_a_rule_for_the_service_does_not_bind_the_sites_disk(machine: Machine, service: Service, disk: Path) -> None:
    policy(machine, "trust: {metadata: enforce}")
    lay(disk, says(machine, "site/epilog.sh"))
    service.pages = ec2(told(machine))
    assert hear(machine, service, disk=disk).code == 0
    assert effects(machine) == ["user-data start", "site/epilog.sh start"]
    assert machine.status()["trust"] == {"site": "channel", "user": "none"}


def test_what_is_refused_for_want_of_a_signature_is_named_so_and_traced(machine: Machine, service: Service) -> None:
    policy(machine, "trust: {metadata: enforce}")
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    assert "sign" in verdict(machine, "site")["reason"]
    assert [each["verdict"] for each in records(machine, "site")] == ["broken"]
    assert machine.status()["trust"].get("site") in (None, "none")


def test_a_refused_signature_does_not_fall_back_to_the_cache_when_the_service_is_gone_after(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 0
    machine.reboot()
    policy(machine, "trust: {metadata: enforce}")
    assert hear(machine, "http://127.0.0.1:9").code == 1
    assert effects(machine) == ["epilog.sh start"], "what was unsigned then is unsigned now"
