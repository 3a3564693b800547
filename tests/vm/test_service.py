"""A machine whose context comes from 169.254.169.254, over a real link: all of it, or one owner's part."""

from __future__ import annotations

import pytest

from tests.vm.contexts import burn, put_scripts, told
from tests.vm.guest import Boot, Guest, Outside, Setup
from tests.vm.left import REPORT, started, status
from tests.vm.served import asked, put_served, served
from tests.vm.systemd import ASKED, SYSTEMD

TEST = REPORT + ASKED + "cp ~contextuser/user-data-ran . || true\n"


@pytest.fixture(scope="module")
def logs() -> list[list[str]]:
    """What the server logged at each boot that it lived to see."""
    return []


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, logs: list[list[str]]) -> list[Boot]:
    """Three boots of one machine: with the service, with it again, and after it fell silent."""
    guest = Guest(tmp_path_factory.mktemp("served"), SYSTEMD)
    folder = put_served(tmp_path_factory.mktemp("contexts"))
    boots = []
    for _ in range(2):
        with served(folder) as (outside, serving):
            boots.append(guest.boot(TEST, Setup(outside=outside)))
            logs.append(serving.log())
    with Outside(is_silent=True) as outside:
        return [*boots, guest.boot(TEST, Setup(outside=outside))]


@pytest.mark.smoke
def test_both_owners_speak_by_the_service_and_what_was_late_comes_first(again: list[Boot]) -> None:
    for boot in again[:2]:
        assert status(boot)["result"] == "ok", boot.read("explain")
        assert set(status(boot)["sources"].values()) <= {"metadata:openstack", "metadata:ec2"}
    assert started(again[0]) == [
        "site/pre-network/prolog.sh",
        "user/post-network/user-data",
        "site/post-network/epilog.sh",
        "site/post-network/post-network.d/10-once",
    ]
    assert {each["name"]: each["late"] for each in status(again[0])["scripts"]}["prolog.sh"] is True
    assert {line.addresses for line in told(again[0])} == {1}, "all of them ran with the network"


@pytest.mark.smoke
def test_few_requests_are_made_and_none_twice(again: list[Boot], logs: list[list[str]]) -> None:
    assert len(again) == 3
    for log in logs:
        paths = asked(log)
        assert "/context/default.tgz" in paths
        assert len(paths) == len(set(paths)) <= 6, paths


@pytest.mark.smoke
def test_at_a_reboot_only_what_is_for_every_boot_runs(again: list[Boot]) -> None:
    assert started(again[1]) == ["site/pre-network/prolog.sh", "site/post-network/epilog.sh"]
    assert again[1].read("user-data-ran").count("\n") == 1


@pytest.mark.smoke
def test_when_the_service_is_silent_at_a_reboot_the_last_good_context_serves(again: list[Boot]) -> None:
    assert set(status(again[2])["sources"].values()) <= {"cached:metadata:openstack", "cached:metadata:ec2"}
    assert started(again[2]) == ["site/pre-network/prolog.sh", "site/post-network/epilog.sh"]


@pytest.mark.smoke
def test_the_boots_are_in_order_for_systemd_and_for_rpm(again: list[Boot]) -> None:
    for boot in again:
        assert (boot.read("failed"), boot.read("cycles"), boot.read("rpm-V")) == ("", "", "0\n")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Boot, list[str]]]:
    """Two boots of one machine: a site's disk and the service's user data; then a user's disk and the site's bundle."""
    guest = Guest(tmp_path_factory.mktemp("both"), SYSTEMD)
    boots = []
    for of_disk in ("site", "user"):
        is_site = of_disk == "site"
        disk = put_scripts(tmp_path_factory.mktemp(f"{of_disk}-disk"), site=is_site, user=not is_site)
        folder = put_served(tmp_path_factory.mktemp("contexts"), site=not is_site, user=is_site)
        with served(folder) as (outside, serving):
            boot = guest.boot(TEST, Setup(cd=burn(disk), outside=outside))
            boots.append((boot, asked(serving.log())))
    return boots


def test_each_owner_is_heard_where_it_spoke(both: list[tuple[Boot, list[str]]]) -> None:
    kinds = [{owner: source.split(":")[0] for owner, source in status(boot)["sources"].items()} for boot, _ in both]
    assert kinds == [{"site": "disk", "user": "metadata"}, {"site": "metadata", "user": "disk"}]
    assert [status(boot)["result"] for boot, _ in both] == ["ok", "ok"]


def test_the_bundle_is_asked_for_only_where_the_site_did_not_speak(both: list[tuple[Boot, list[str]]]) -> None:
    assert ["/context/default.tgz" in paths for _, paths in both] == [False, True]


def test_user_before_site_whichever_the_source(both: list[tuple[Boot, list[str]]]) -> None:
    assert started(both[0][0]) == [
        "site/pre-network/prolog.sh",
        "user/post-network/user-data",
        "site/post-network/epilog.sh",
    ]
    assert started(both[1][0]) == [
        "user/pre-network/prolog.sh",
        "site/pre-network/prolog.sh",
        "user/post-network/epilog.sh",
        "site/post-network/epilog.sh",
        "site/post-network/post-network.d/10-once",
    ]
