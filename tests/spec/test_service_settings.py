"""The settings of the metadata service, each by its effect, and what the verbs say of it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, run
from tests.spec.clouds import (
    BUNDLE,
    DATA,
    ID,
    ec2,
    hear,
    openstack,
    policy,
    records,
    spoken,
    tgz,
    told,
    verdict,
    verdicts,
)
from tests.spec.scenes import KEY, effects, lay, says
from tests.spec.service import Page

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine
    from tests.spec.service import Service

REFUSING = "http://127.0.0.1:9"
NO_ROUTE = ""
SILENCE = "ip link set lo up; ip link add d0 type dummy; ip link set d0 up; ip route add default dev d0; "
PROHIBITED = "ip link set lo up; ip route add unreachable default; "


@pytest.mark.parametrize(
    "text",
    ["dialect: gce", "imds: v3", "required: maybe", "bundle: a/b", "connect_s: 0", "connect_s: -1", "try_s: soon",
     "total_s: 1e3", "address: ''", "address: metadata.google.internal", "address: 'http://a.example/'", "adress: x",
     "address: 'http://169.254.169.254:80:80'", "bundle: ''", "bundle: ..", "bundle: [a]"],
)  # fmt: skip
def test_a_policy_that_says_something_else_is_refused_before_anything_runs(machine: Machine, text: str) -> None:
    machine.put("etc/contextagent/policy.yaml", f"metadata:\n  {text}\n")
    done = hear(machine, REFUSING)
    assert done.code == 65, done
    assert "policy.yaml:2" in done.err
    assert f"metadata.{text.partition(':')[0]}" in done.err


def test_the_defaults_are_the_contracts(machine: Machine) -> None:
    facts = {
        name: machine.facts("query", f"policy.metadata.{name}")["value"]
        for name in ("address", "dialect", "imds", "required", "bundle", "connect_s", "try_s", "total_s")
    }
    assert facts == {
        "address": "http://169.254.169.254", "dialect": "auto", "imds": "auto", "required": "auto",
        "bundle": "default.tgz", "connect_s": 5, "try_s": 10, "total_s": 60,
    }  # fmt: skip
    assert machine.facts("query", "policy.sources")["value"] == ["disk", "metadata"]


def test_the_preset_for_vac_names_its_dialect_and_the_policy_may_name_another(machine: Machine) -> None:
    machine.put("etc/contextagent/policy.yaml", "preset: vacuum\n")
    assert machine.facts("query", "policy.metadata.dialect")["value"] == "vac"
    machine.put("etc/contextagent/policy.yaml", "preset: vacuum\nmetadata: {dialect: auto}\n")
    assert machine.facts("query", "policy.metadata.dialect")["value"] == "auto"


def test_another_policy_file_may_be_named_and_is_heard(machine: Machine, service: Service) -> None:
    policy(machine, bundle="one.tgz")
    text = machine.text("etc/contextagent/policy.yaml")
    other = machine.put("other.yaml", text.replace("one.tgz", "two.tgz"))
    service.pages = {"/context/two.tgz": spoken(machine, "epilog.sh")}
    assert hear(machine, service, "--policy", str(other)).code == 0
    assert service.paths("/context") == ["/context/two.tgz"]


# ---- how long nothing is waited for ----


@pytest.mark.parametrize("net", [NO_ROUTE, SILENCE, PROHIBITED], ids=["no network", "silence", "no route to host"])
def test_no_answer_from_the_real_address_is_unreachable_after_the_time_to_connect(machine: Machine, net: str) -> None:
    policy(machine)
    words = " ".join((*AGENT, "--root", str(machine.root), "run", "--disk", "none"))
    done = run(("unshare", "-n", "sh", "-c", net + words))
    assert done.code == 0, done.err
    assert verdicts(machine) == {"site": "unreachable", "user": "unreachable"}
    assert 0.8 <= verdict(machine, "site")["duration_s"] < 3


def test_a_service_that_is_absent_costs_five_seconds_in_all_by_default(machine: Machine) -> None:
    words = " ".join((*AGENT, "--root", str(machine.root), "run", "--disk", "none"))
    began = time.monotonic()
    assert run(("unshare", "-n", "sh", "-c", words)).code == 0
    assert time.monotonic() - began < 8
    assert 4.5 <= verdict(machine, "site")["duration_s"] <= 5.2


def test_a_longer_time_to_connect_is_taken(machine: Machine) -> None:
    policy(machine, connect_s="2", total_s="5")
    hear(machine, REFUSING)
    assert 1.8 <= verdict(machine, "site")["duration_s"] < 4


def test_a_try_ends_when_its_time_is_over_and_the_next_begins(machine: Machine, service: Service) -> None:
    policy(machine, try_s="1", total_s="30")
    service.pages = ec2(bundle=[Page(fault="hang"), spoken(machine, "epilog.sh")])
    assert hear(machine, service).code == 0
    first, second = (each.seconds for each in service.requests if each.path == BUNDLE)
    assert 0.9 <= second - first < 5


def test_all_tries_together_end_when_the_whole_time_is_over(machine: Machine, service: Service) -> None:
    policy(machine, try_s="30", total_s="1")
    service.pages = ec2(bundle=Page(fault="hang"))
    hear(machine, service)
    assert verdict(machine, "site")["verdict"] == "broken"
    assert verdict(machine, "site")["duration_s"] < 3


# ---- a server that leaves ----


@pytest.mark.parametrize("path", [BUNDLE, ID])
def test_a_server_that_leaves_an_idle_connection_costs_nothing_but_a_new_one(
    machine: Machine, service: Service, path: str
) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    body = service.pages[path]
    service.pages[path] = Page(body if isinstance(body, bytes) else str(body).encode(), fault="leave")
    assert hear(machine, service).code == 0
    assert effects(machine) == ["user-data start", "epilog.sh start"]
    assert len(service.requests) == 3


# ---- what a disk may say ----


def test_a_disk_with_both_settings_and_scripts_names_no_bundle_since_it_has_the_sites_material(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, {"site.yaml": "metadata: {bundle: cern.tgz}\n", **says(machine, "site/epilog.sh")})
    service.pages = {"/context/cern.tgz": spoken(machine, "prolog.sh")}
    hear(machine, service, disk=disk)
    assert service.paths("/context") == []
    assert effects(machine) == ["site/epilog.sh start"]


def test_settings_of_a_disk_that_directs_hold_for_the_boot_beside_the_bundles(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    settings = "metadata: {bundle: cern.tgz}\nscripts: {site/post-network/epilog.sh: {on_error: continue}}\n"
    lay(disk, {"site.yaml": settings})
    service.pages = {"/context/cern.tgz": spoken(machine, "epilog.sh", body="exit 1")}
    assert hear(machine, service, disk=disk).code == 2
    assert effects(machine) == ["epilog.sh start"]


def test_json_settings_of_a_disk_direct_as_well(machine: Machine, service: Service, disk: Path) -> None:
    policy(machine)
    lay(disk, {"site.json": '{"metadata": {"bundle": "cern.tgz"}}'})
    service.pages = {"/context/cern.tgz": spoken(machine, "epilog.sh")}
    assert hear(machine, service, disk=disk).code == 0
    assert effects(machine) == ["epilog.sh start"]


@pytest.mark.parametrize("name", ["../x.tgz", "a/b", "", ".."])
def test_a_disk_that_names_no_bundle_by_its_name_is_told_and_reaches_no_other_path(
    machine: Machine, service: Service, disk: Path, name: str
) -> None:
    policy(machine)
    lay(disk, {"site.json": json.dumps({"metadata": {"bundle": name}})})
    done = hear(machine, service, disk=disk)
    assert "metadata.bundle" in done.err + json.dumps(machine.status())
    assert set(service.paths("/context")) <= {BUNDLE}
    assert all(".." not in path for path in service.paths())


def test_caps_of_a_sites_disk_bound_what_comes_by_network(machine: Machine, service: Service, disk: Path) -> None:
    policy(machine)
    lay(disk, {"site.yaml": "caps: {total_bytes: 100}\n", **says(machine, "site/epilog.sh")})
    service.pages = ec2(told(machine) + "#" * 200)
    assert hear(machine, service, disk=disk).code == 2
    assert verdicts(machine)["user"] == "broken"
    assert effects(machine) == ["site/epilog.sh start"]


# ---- what the verbs say ----


def test_status_names_source_verdict_reason_time_and_trust(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "prolog.sh"))
    hear(machine, service)
    status = machine.status()
    assert status["sources"] == {"site": "metadata:ec2", "user": "metadata:ec2"}
    assert status["trust"] == {"site": "none", "user": "none"}
    for each in status["verdicts"]:
        assert set(each) == {"owner", "source", "verdict", "reason", "duration_s"}
        assert isinstance(each["duration_s"], float)
        assert each["duration_s"] > 0
    assert {each["id"]: each["late"] for each in status["scripts"]} == {
        "site/pre-network/prolog.sh": True, "user/post-network/user-data": False,
    }  # fmt: skip


def test_a_service_that_only_serves_a_bundle_is_found_by_no_dialect_or_the_one_that_is_named(
    machine: Machine, service: Service
) -> None:
    policy(machine, dialect="auto")
    service.pages = {BUNDLE: spoken(machine, "epilog.sh")}
    assert hear(machine, service).code == 0
    assert machine.status()["sources"] == {"site": "metadata", "user": None}
    assert effects(machine) == ["epilog.sh start"]


def test_explain_tells_disk_and_service_in_the_order_they_were_asked(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=403)
    lay(disk, {"context.sh": "A=1\n"})
    hear(machine, service, disk=disk)
    facts = machine.facts("explain")["verdicts"]
    kinds = [(each["owner"], each["source"].partition(":")[0]) for each in facts]
    for owner in ("site", "user"):
        assert [kind for who, kind in kinds if who == owner] == ["disk", "metadata"]
    text = machine.run("explain").out
    assert "403" in text
    assert BUNDLE in text


def test_the_records_of_a_search_have_the_promised_keys(machine: Machine, service: Service) -> None:
    policy(machine, dialect="openstack")
    service.pages = openstack(told(machine), meta={"project_id": "project-7", "public_keys": {"me": f"{KEY} me"}})
    hear(machine, service)
    for owner in ("site", "user"):
        for key in ("owner", "source", "address", "verdict", "reason", "bytes", "sha512", "tries", "http"):
            assert key in records(machine, owner)[-1], (owner, key)
    assert "project-7" in json.dumps(records(machine, "user")[-1]["requester"])
    assert records(machine, "site")[-1]["http"] == 404


def test_a_trace_with_a_service_in_it_verifies(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    hear(machine, service, "stop")
    assert machine.run("trace", "verify").code == 0


def test_the_source_none_of_the_command_line_wins_over_the_policy_and_a_url_over_its_address(
    machine: Machine, service: Service
) -> None:
    policy(machine, address=REFUSING)
    machine.metadata = None
    service.pages = ec2(told(machine))
    assert hear(machine, service).code == 0
    assert effects(machine) == ["user-data start"]


def test_a_second_run_of_the_phase_in_the_same_boot_does_no_harm(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    for _ in range(2):
        assert hear(machine, service, "post-network").code == 0
    assert effects(machine).count("user-data start") == 1


def test_force_runs_once_scripts_of_the_service_again(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine))
    hear(machine, service)
    machine.reboot()
    hear(machine, service, "--force")
    assert effects(machine) == ["user-data start"] * 2


def test_disabled_is_disabled(machine: Machine, service: Service) -> None:
    policy(machine, address=service.url)
    machine.metadata = None
    service.pages = ec2(told(machine))
    machine.put("etc/contextagent/disabled", "")
    assert machine.run("run", "--disk", "none").code == 0
    assert service.connections == 0
    (machine.root / "etc/contextagent/disabled").unlink()
    machine.put("proc/cmdline", "quiet contextagent=off\n")
    assert machine.run("run", "--disk", "none").code == 0
    assert service.connections == 0


# ---- context.sh ----


def test_variables_of_a_bundle_reach_its_scripts_and_those_of_a_users_tar_never_the_sites(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    show = f"env >> {machine.root}/environment\n"
    service.pages = ec2(
        tgz({"context.sh": "EVIL=1\nSITE_NAME=evil\n", "epilog.sh": "true\n"}),
        bundle=tgz({"context.sh": "SITE_NAME='my site'\n", "epilog.sh": show}),
    )
    hear(machine, service)
    text = machine.text("environment")
    assert "SITE_NAME=my site\n" in text
    assert "EVIL" not in text


def test_a_context_sh_of_a_bundle_is_data_and_one_that_is_broken_refuses_it(machine: Machine, service: Service) -> None:
    policy(machine)
    script = says(machine, "epilog.sh")
    service.pages = ec2(bundle=tgz({"context.sh": f"A=$(touch {machine.root}/evil)\n", **script}))
    hear(machine, service)
    service.pages = ec2(bundle=tgz({"context.sh": f"A=1; touch {machine.root}/evil\n", **script}))
    machine.reboot()
    assert hear(machine, service).code == 1
    assert not (machine.root / "evil").exists()
    assert "context.sh" in verdict(machine, "site")["reason"]
    assert DATA in service.paths()
