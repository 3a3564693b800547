"""Corners of the search by network: answers that are nearly right, sources that stand in for each other, and time."""

from __future__ import annotations

import concurrent.futures
import ctypes
import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.machine import run
from tests.spec.clouds import (
    BUNDLE,
    DATA,
    ID,
    META,
    OPENSTACK_DATA,
    VAC_META,
    ec2,
    hear,
    openstack,
    policy,
    spoken,
    tgz,
    told,
    verdict,
    verdicts,
)
from tests.spec.scenes import effects, lay, reports, says
from tests.spec.service import Page, Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

REFUSING = "http://127.0.0.1:9"
BOTH = ["user-data start", "epilog.sh start"]
HTML = {"Content-Type": "text/html"}
_NEW_NETWORK = 0x40000000


def test_a_whole_boot_by_default_settings_with_the_service_at_its_real_address(machine: Machine) -> None:
    def boot() -> tuple[int, list[str], int]:
        """Run in a network of this thread's own."""
        assert ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) == 0
        run(("ip", "link", "set", "lo", "up"))
        run(("ip", "address", "add", "169.254.169.254/32", "dev", "lo"))
        machine.metadata = None
        with Service(
            openstack(told(machine), bundle=spoken(machine, "epilog.sh")), host="169.254.169.254", port=80
        ) as it:
            done = machine.run("run", "--disk", "none")
            return done.code, [each.headers["host"] for each in it.requests], it.connections

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        code, hosts, connections = pool.submit(boot).result()
    assert (code, connections) == (0, 1)
    assert effects(machine) == BOTH
    assert hosts == ["169.254.169.254"] * 3
    assert machine.status()["sources"] == {"site": "metadata:openstack", "user": "metadata:openstack"}


# ---- answers that are nearly right ----


@pytest.mark.parametrize("path", [BUNDLE, DATA])
def test_what_says_that_it_is_html_is_broken_whatever_it_holds(machine: Machine, service: Service, path: str) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    good = service.pages[path]
    service.pages[path] = Page(good if isinstance(good, bytes) else str(good).encode(), headers=HTML)
    hear(machine, service)
    assert verdicts(machine)["site" if path == BUNDLE else "user"] == "broken"
    assert len(effects(machine)) == 1


@pytest.mark.parametrize("path", [BUNDLE, DATA, ID])
def test_a_page_that_says_not_found_in_html_is_not_found(machine: Machine, service: Service, path: str) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    service.pages[path] = Page(b"<html>not found</html>", status=404, headers=HTML)
    assert hear(machine, service).code == 0
    assert "broken" not in verdicts(machine).values()


def test_auto_goes_on_by_404_alone(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto")
    service.pages = {META: 403, **ec2(told(machine), bundle=spoken(machine, "epilog.sh"))}
    hear(machine, service)
    assert effects(machine) == ["epilog.sh start"]
    assert verdicts(machine) == {"site": "found", "user": "broken"}
    assert not {VAC_META, ID, DATA} & set(service.paths())


def test_auto_tries_a_dialect_again_that_is_in_trouble_before_it_goes_on(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto", total_s="20")
    pages = openstack(told(machine), bundle=spoken(machine, "epilog.sh"))
    service.pages = {**ec2(told(machine, "wrong")), **pages, META: [503, pages[META]]}
    assert hear(machine, service).code == 0
    assert effects(machine) == BOTH
    assert DATA not in service.paths()


def test_an_id_with_a_line_end_is_the_same_id(machine: Machine, service: Service) -> None:
    policy(machine)
    seen = set()
    for text in ("i-1", "i-1\n", " i-1 \r\n"):
        service.pages = ec2(told(machine), instance=text)
        hear(machine, service)
        seen.add(machine.status()["instance_id"])
        machine.reboot()
    assert len(seen) == 1
    assert effects(machine) == ["user-data start"]


def test_json_of_nova_with_a_byte_order_mark_or_in_latin_costs_no_bundle(machine: Machine, service: Service) -> None:
    policy(machine, dialect="openstack")
    for text in (b"\xef\xbb\xbf{}", '{"uuid": "ä"}'.encode("latin-1")):
        service.pages = {**openstack(told(machine), bundle=spoken(machine, "epilog.sh")), META: text}
        hear(machine, service)
        assert effects(machine)[-1] == "epilog.sh start"
        machine.reboot()


def test_a_server_that_listens_and_never_takes_a_connection_is_broken(machine: Machine) -> None:
    policy(machine, total_s="1")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        assert hear(machine, f"http://127.0.0.1:{deaf.getsockname()[1]}").code == 1
    assert set(verdicts(machine).values()) == {"broken"}


def test_vendor_data_of_the_service_is_neither_asked_for_nor_run(machine: Machine, service: Service) -> None:
    policy(machine, dialect="openstack")
    service.pages = openstack(told(machine))
    service.pages["/openstack/latest/vendor_data.json"] = json.dumps({"cloud-init": told(machine, "vendor")})
    hear(machine, service)
    assert effects(machine) == ["user-data start"]
    assert not [path for path in service.paths() if "vendor" in path]


# ---- one owner's trouble is not the other's ----


def test_user_data_that_never_ends_does_not_eat_the_time_of_the_sites_tries(machine: Machine, service: Service) -> None:
    policy(machine, try_s="1", total_s="6")
    service.pages = ec2(Page(b"#" * 5000, fault="drip"), bundle=[503, 503, 503, 503, spoken(machine, "epilog.sh")])
    hear(machine, service)
    assert verdicts(machine) == {"site": "found", "user": "broken"}
    assert effects(machine) == ["epilog.sh start"]


def test_a_bundle_that_never_comes_does_not_cost_the_user_its_data(machine: Machine, service: Service) -> None:
    policy(machine, try_s="1", total_s="3")
    service.pages = ec2([503, told(machine)], bundle=Page(fault="hang"))
    assert hear(machine, service).code == 1
    assert effects(machine) == ["user-data start"]
    assert verdicts(machine) == {"site": "broken", "user": "found"}


def test_a_bundle_that_takes_the_whole_time_does_not_cost_the_user_its_data(machine: Machine, service: Service) -> None:
    policy(machine, try_s="10", total_s="1")
    service.pages = ec2(told(machine), bundle=Page(fault="hang"))
    assert hear(machine, service).code == 1
    assert service.paths()[0] == BUNDLE
    assert verdicts(machine)["site"] == "broken"


# ---- sources that stand in for each other ----


def test_a_broken_disk_with_next_leaves_both_owners_to_the_service(
    machine: Machine, service: Service, tmp_path: Path
) -> None:
    policy(machine, "disk: {broken: next}")
    (tmp_path / "noise").write_bytes(b"noise" * 100000)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    hear(machine, service, disk=tmp_path / "noise")
    assert effects(machine) == BOTH
    assert verdicts(machine, "disk") == {"site": "broken", "user": "broken"}


def test_the_service_first_and_out_of_reach_leaves_all_to_the_disk(machine: Machine, disk: Path) -> None:
    policy(machine, "sources: [metadata, disk]")
    names = ("user/prolog.sh", "site/prolog.sh", "user/epilog.sh", "site/epilog.sh")
    lay(disk, says(machine, *names))
    assert hear(machine, REFUSING, disk=disk).code == 0
    assert effects(machine) == [f"{name} start" for name in names]


def test_the_service_first_and_broken_ends_the_search_and_the_disk_is_not_used(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine, "sources: [metadata, disk]", "disk: {broken: next}")
    lay(disk, says(machine, "site/prolog.sh", "site/epilog.sh", "user/epilog.sh"))
    service.pages = ec2(403, bundle=403)
    assert hear(machine, service, disk=disk).code == 1
    assert effects(machine) == []


def test_a_users_disk_and_a_service_out_of_reach_is_ok(machine: Machine, disk: Path) -> None:
    policy(machine)
    lay(disk, says(machine, "user/epilog.sh"))
    assert hear(machine, REFUSING, disk=disk).code == 0
    assert machine.status()["result"] == "ok"
    assert effects(machine) == ["user/epilog.sh start"]


def test_a_sites_disk_and_a_service_in_lasting_trouble_is_degraded(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, says(machine, "site/epilog.sh"))
    service.pages = ec2(503)
    assert hear(machine, service, disk=disk).code == 2
    assert effects(machine) == ["site/epilog.sh start"]


def test_each_owners_trust_is_that_of_its_own_source(machine: Machine, service: Service, disk: Path) -> None:
    policy(machine)
    lay(disk, says(machine, "site/epilog.sh"))
    service.pages = ec2(told(machine))
    hear(machine, service, disk=disk)
    assert machine.status()["trust"] == {"site": "channel", "user": "none"}
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    machine.reboot()
    hear(machine, service)
    assert machine.status()["trust"] == {"site": "none", "user": "none"}


def test_a_site_that_moves_from_the_service_to_a_disk_is_heard_at_once(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    machine.reboot()
    lay(disk, says(machine, "site/epilog.sh"))
    assert hear(machine, REFUSING, disk=disk).code != 1, "the site's own was found"
    assert effects(machine) == ["epilog.sh start", "site/epilog.sh start"]
    assert machine.status()["sources"]["site"] == "disk:hepix"


def test_a_bundles_script_may_be_once(machine: Machine, service: Service) -> None:
    policy(machine)
    settings = "scripts: {site/post-network/epilog.sh: {frequency: once}}\n"
    service.pages = ec2(bundle=tgz({"site.yaml": settings, **says(machine, "epilog.sh", "prolog.sh")}))
    for _ in range(2):
        assert hear(machine, service).code == 0
        machine.reboot()
    assert effects(machine) == ["prolog.sh start", "epilog.sh start", "prolog.sh start"]


# ---- while it goes on ----


def test_a_boot_that_waits_for_the_service_is_running(machine: Machine, service: Service) -> None:
    policy(machine, try_s="10", total_s="20")
    service.pages = ec2(told(machine), bundle=[503, spoken(machine, "epilog.sh")])

    def look() -> tuple[int, str, int]:
        """Look at the status, and wait for the result (in vain)."""
        waited = machine.run("status", "--wait", "--timeout", "1").code if not service.requests else 75
        return machine.run("status").code, machine.status()["result"], waited

    service.look = look
    hear(machine, service)
    assert {each.seen for each in service.requests} == {(0, "running", 75)}


def test_a_second_agent_is_told_to_try_later_while_the_first_waits(machine: Machine, service: Service) -> None:
    policy(machine, total_s="30", try_s="20")
    service.pages = ec2(told(machine))
    service.look = lambda: machine.run("run", "--disk", "none").code if not service.requests else 75
    assert hear(machine, service).code == 0
    assert {each.seen for each in service.requests} == {75}
    assert effects(machine) == ["user-data start"]


def test_debug_says_no_more_of_what_came(machine: Machine, service: Service) -> None:
    policy(machine)
    canary = "canary-7f3a"
    service.pages = ec2(f"#cloud-config\nruncmd: [{canary}\n", instance=f"{{{canary}", bundle=f"{canary}\n")
    done = hear(machine, service, "--debug")
    assert canary not in done.err.replace(f"{{{canary}", "")
    assert verdict(machine, "user")["verdict"] == "broken"


def test_a_script_of_the_site_that_was_changed_by_a_users_script_is_not_run_as_changed(
    machine: Machine, service: Service
) -> None:
    """Below a root of its own the user's script has the caller's rights: the worst case."""
    policy(machine)
    tamper = f"for each in {machine.root}/var/lib/contextagent/instances/*/scripts/site/*/epilog.sh; do\n"
    tamper += f"echo 'echo tampered >> {machine.root}/effects' > $each; done\n"
    service.pages = ec2(told(machine) + tamper, bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    assert "tampered" not in effects(machine)
    assert reports(machine)["site/post-network/epilog.sh"]["state"] in ("ok", "refused", "failed")


def test_openstack_user_data_is_asked_for_at_its_own_path_alone(machine: Machine, service: Service) -> None:
    policy(machine, dialect="openstack")
    service.pages = openstack(told(machine))
    hear(machine, service)
    assert sorted(service.paths()) == sorted([BUNDLE, META, OPENSTACK_DATA])
