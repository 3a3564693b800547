"""A machine with a context disk, truly booted: the kernel's own iso9660 mount, systemd's order, a real network."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.vm.contexts import burn, lines, put_scripts, told
from tests.vm.guest import Boot, Guest, Setup
from tests.vm.left import REPORT, started, status
from tests.vm.systemd import ASKED, SYSTEMD

if TYPE_CHECKING:
    from pathlib import Path

BOTH = [("user", "pre-network"), ("site", "pre-network"), ("user", "post-network"), ("site", "post-network")]


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context disk as a site would burn it: flat names for the site, `user/` for the user."""
    folder = put_scripts(tmp_path_factory.mktemp("disk"))
    (folder / "files" / "etc").mkdir(parents=True)
    (folder / "files" / "etc" / "site-was-here").write_text("yes\n")
    return burn(folder)


@pytest.fixture(scope="module", params=[pytest.param("ide", marks=pytest.mark.smoke), "scsi"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """A machine; its folder says on which bus its drive is."""
    return Guest(tmp_path_factory.mktemp(f"disk-{request.param}"), SYSTEMD)


@pytest.fixture(scope="module")
def boots(guest: Guest, iso: Path) -> list[Boot]:
    """The first and the second boot of one machine with the disk in its drive."""
    setup = Setup(cd=iso, bus="scsi" if "scsi" in guest.folder.name else "ide")
    return [guest.boot(REPORT + ASKED + "contextagent collect-logs logs.tar.gz\n", setup) for _ in range(2)]


def test_the_result_is_ok_and_both_owners_spoke_by_the_disk(boots: list[Boot]) -> None:
    for boot in boots:
        told_status = status(boot)
        assert (told_status["result"], boot.read("status.exit")) == ("ok", "0\n"), boot.read("explain")
        assert told_status["sources"] == {"site": "disk:hepix", "user": "disk:hepix"}
        assert told_status["trust"]["site"] == "channel"


def test_the_kernel_mounted_the_disk_and_nothing_of_it_is_left(boots: list[Boot]) -> None:
    for boot in boots:
        assert "ISO 9660 Extensions" in boot.read("dmesg"), "the kernel says so at a mount"
        assert "sr0" in boot.read("explain")
        assert "iso9660" not in boot.read("mounts")


def test_user_before_site_in_each_phase_and_the_network_between_the_phases(boots: list[Boot]) -> None:
    assert started(boots[0]) == [
        "user/pre-network/prolog.sh",
        "site/pre-network/prolog.sh",
        "user/post-network/epilog.sh",
        "site/post-network/epilog.sh",
    ]
    assert [(line.owner, line.phase) for line in told(boots[0])] == BOTH
    assert {line.told for line in told(boots[0])} == {"start"}
    assert [line.addresses for line in told(boots[0])] == [0, 0, 1, 1]


def test_the_user_is_not_root_and_no_script_can_see_the_disk(boots: list[Boot]) -> None:
    for line in told(boots[0]):
        assert (line.uid == 0) == (line.owner == "site")
        assert line.mounts == 0


def test_at_a_reboot_the_site_runs_again_and_the_user_does_not(boots: list[Boot]) -> None:
    assert started(boots[1]) == ["site/pre-network/prolog.sh", "site/post-network/epilog.sh"]
    states = {each["id"]: (each["state"], each["reason"]) for each in status(boots[1])["scripts"]}
    assert states["user/post-network/epilog.sh"] == ("skipped", "once-done")


def test_at_shutdown_the_site_stops_before_the_user(guest: Guest, boots: list[Boot]) -> None:
    assert [line.owner for line in told(boots[1]) if line.told == "stop"] == ["site", "site", "user", "user"]
    left = lines(guest.get("/root/order") + guest.get("/var/lib/contextuser/order"))
    assert [line.owner for line in left if line.told == "stop"] == ["site", "site", "user", "user"] * len(boots)


def test_the_trace_of_the_boot_before_is_whole_and_this_ones_is_open(boots: list[Boot]) -> None:
    assert "broken" not in boots[0].read("verify")
    assert "intact" in boots[1].read("verify")
    assert "open" in boots[1].read("verify")


def test_root_asks_the_agent_from_its_shell(boots: list[Boot]) -> None:
    for boot in boots:
        codes = {verb: boot.read(f"{verb}.exit") for verb in ("status", "explain", "receipt", "verify")}
        assert codes == {"status": "0\n", "explain": "0\n", "receipt": "0\n", "verify": "2\n"}, "2: one is still open"
        assert "site/post-network/epilog.sh" in boot.read("receipt")


def test_the_collected_logs_are_whole(boots: list[Boot]) -> None:
    for boot in boots:
        with tarfile.open(boot.results / "logs.tar.gz") as tar:
            files = {name.rpartition("/")[2]: tar.extractfile(name) for name in tar.getnames()}
            texts = {name: file.read().decode() for name, file in files.items() if file}
        assert "contextagent: ok (" in texts["journal.txt"]
        assert "contextagent-pre-network.service" in texts["units.txt"]
        assert texts.get("missing.txt", "") == ""


def test_the_package_verifies_after_the_boot(boots: list[Boot]) -> None:
    assert [boot.read("rpm-V") for boot in boots] == ["0\n", "0\n"]


def test_each_unit_started_and_none_failed(boots: list[Boot]) -> None:
    for boot in boots:
        assert boot.read("failed") == ""
        assert boot.read("cycles") == ""
        assert boot.read("units").splitlines() == ["active exited success"] * 2


def test_the_console_has_one_line_a_phase_that_says_how_it_went(boots: list[Boot]) -> None:
    for boot in boots:
        summaries = [line for line in boot.console.splitlines() if " site scripts, instance " in line]
        assert len(summaries) == 3, boot.console
        assert all("contextagent: ok (" in line for line in summaries)
        assert "contextagent: contextagent:" not in boot.console
