"""Who may say what about the service: the bundle's name, the address, whether it is required."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import BUNDLE, DATA, ec2, hear, policy, spoken, tgz, told
from tests.spec.scenes import effects, ids, lay, messages, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine
    from tests.spec.service import Service


def test_the_policy_names_the_bundle(machine: Machine, service: Service) -> None:
    policy(machine, bundle="cern.tgz")
    service.pages = {"/context/cern.tgz": spoken(machine, "epilog.sh"), BUNDLE: spoken(machine, "prolog.sh")}
    hear(machine, service)
    assert effects(machine) == ["epilog.sh start"]
    assert service.paths("/context") == ["/context/cern.tgz"]


def test_a_site_trusted_disk_with_settings_alone_names_the_bundle(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, {"site.yaml": "metadata: {bundle: cern.tgz}\n"})
    service.pages = {"/context/cern.tgz": spoken(machine, "epilog.sh")}
    assert hear(machine, service, disk=disk).code == 0
    assert effects(machine) == ["epilog.sh start"]
    assert service.paths("/context") == ["/context/cern.tgz"]


@pytest.mark.parametrize("who", ["user's disk", "user's tar", "bundle"])
def test_nobody_else_names_the_bundle_and_whoever_tries_is_told(
    machine: Machine, service: Service, disk: Path, who: str
) -> None:
    policy(machine)
    text = "metadata:\n  bundle: evil.tgz\n"
    files = says(machine, "epilog.sh")
    service.pages = ec2(bundle=tgz(files))
    if who == "user's disk":
        lay(disk, {"user/user.yaml": text, **says(machine, "user/prolog.sh")})
    elif who == "user's tar":
        service.pages[DATA] = tgz({"user.yaml": text, **says(machine, "prolog.sh")})
    else:
        service.pages[BUNDLE] = tgz({"site.yaml": text, **files})
    service.pages["/context/evil.tgz"] = spoken(machine, "init.sh")
    for _ in range(2):
        hear(machine, service, disk=disk)
        machine.reboot()
    assert service.paths("/context") == [BUNDLE] * 2
    assert effects(machine).count("epilog.sh start") == 2
    assert "init.sh start" not in effects(machine)
    hear(machine, service, disk=disk)
    said = [line for line in messages(machine).splitlines() if "metadata.bundle" in line]
    assert len(said) == 1, messages(machine)
    assert ("site.yaml:2" if who == "bundle" else "user.yaml:2") in said[0]
    assert "ignoring" in said[0]


@pytest.mark.parametrize("key", ["address: http://127.0.0.1:9", "dialect: vac", "imds: v2", "connect_s: 1", "try_s: 1",
                                 "total_s: 1"])  # fmt: skip
def test_what_the_image_alone_may_set_is_ignored_from_a_sites_disk_with_a_warning(
    machine: Machine, service: Service, disk: Path, key: str
) -> None:
    policy(machine)
    lay(disk, {"site.yaml": f"metadata:\n  {key}\n", **says(machine, "site/epilog.sh")})
    service.pages = ec2(told(machine))
    assert hear(machine, service, disk=disk).code == 0
    name = f"metadata.{key.partition(':')[0]}"
    said = [line for line in messages(machine).splitlines() if name in line]
    assert len(said) == 1
    assert "image" in said[0]
    assert effects(machine) == ["user-data start", "site/epilog.sh start"]


@pytest.mark.parametrize("who", ["bundle", "user"])
def test_required_is_not_for_a_bundle_nor_for_a_user_to_say(machine: Machine, service: Service, who: str) -> None:
    policy(machine, required="no")
    text = "metadata: {required: yes}\n"
    data = tgz({"user.yaml": text, **says(machine, "epilog.sh")})
    bundle = tgz({"site.yaml": text, **says(machine, "epilog.sh")})
    service.pages = ec2(data if who == "user" else 404, bundle=bundle if who == "bundle" else 404)
    hear(machine, service)
    assert "metadata.required" in messages(machine)
    machine.reboot()
    assert hear(machine, "http://127.0.0.1:9").code == 0


@pytest.mark.parametrize(
    "name", ["../latest/user-data", "..", ".", "a/b", "", "a\\r\\nX-Evil: 1", "a b", "a?b=c", "a#b", "%2e%2e%2fx", "ä"]
)
def test_a_bundles_name_reaches_no_other_path_and_no_header(machine: Machine, service: Service, name: str) -> None:
    policy(machine, bundle=f'"{name}"')
    service.pages = ec2(told(machine))
    done = hear(machine, service)
    assert "Traceback" not in done.err
    if done.code == 65:
        assert service.connections == 0
        return
    for each in service.requests:
        assert "x-evil" not in each.headers
        assert each.path in ("/latest/user-data", "/latest/meta-data/instance-id") or (
            each.path.startswith("/context/") and "?" not in each.path and "/.." not in each.path
        ), each.path


def test_user_data_from_the_service_is_never_taken_for_the_bundle_nor_the_other_way(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    service.pages = ec2(tgz(says(machine, "site/epilog.sh")), bundle=404)
    hear(machine, service)
    assert not [each for each in ids(machine) if each.startswith("site/")]
