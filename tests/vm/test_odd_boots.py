"""Machines that are not as they should be: no clock, a root that cannot be written, an agent that is switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.contexts import burn, put_scripts, told
from tests.vm.guest import Boot, Guest, Setup
from tests.vm.left import REPORT, records, started, status
from tests.vm.systemd import ASKED, SYSTEMD

if TYPE_CHECKING:
    from pathlib import Path

TEST = REPORT + ASKED
ORDER = [("user", "pre-network"), ("site", "pre-network"), ("user", "post-network"), ("site", "post-network")]
TODAY_S = 1795000000
# systemd begins at its own release, so the clock is put back after that; not to 0, for no machine is older than that
NO_CLOCK = {
    f"/etc/systemd/system/{unit}.service.d/clock.conf": f"[Service]\nExecStartPre=/bin/date -s @{time_s}\n"
    for unit, time_s in (("contextagent-pre-network", 86400), ("contextagent", TODAY_S))
}


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context disk with scripts of both owners."""
    return burn(put_scripts(tmp_path_factory.mktemp("disk")))


@pytest.fixture(scope="module")
def unset(tmp_path_factory: pytest.TempPathFactory, iso: Path) -> list[Boot]:
    """Two boots of a machine whose clock was never set, and is set between the phases."""
    guest = Guest(tmp_path_factory.mktemp("unset"), SYSTEMD)
    guest.put(NO_CLOCK)
    return [guest.boot(TEST, Setup(cd=iso, rtc="1970-01-01")) for _ in range(2)]


def test_a_machine_of_1970_is_contextualised_as_any_other(unset: list[Boot]) -> None:
    for boot in unset:
        assert status(boot)["result"] == "ok", boot.read("explain")
        assert status(boot)["phases"]["pre-network"]["started"] < "1970-01-03"
        assert status(boot)["phases"]["post-network"]["started"] > "2026-01-01"
        assert (boot.read("failed"), boot.read("rpm-V")) == ("", "0\n")
    assert [(line.owner, line.phase) for line in told(unset[0])] == ORDER
    assert started(unset[1]) == ["site/pre-network/prolog.sh", "site/post-network/epilog.sh"]


def test_no_time_is_taken_from_a_clock_that_is_set_meanwhile(unset: list[Boot]) -> None:
    for boot in unset:
        took = [phase["duration_s"] for phase in status(boot)["phases"].values() if phase["state"] == "ok"]
        took += [each["duration_s"] for each in status(boot)["scripts"] if each["state"] == "ok"]
        assert all(0 <= each < 600 for each in took), took


def test_the_trace_is_whole_though_its_time_leaps(unset: list[Boot]) -> None:
    for boot in unset:
        assert "broken" not in boot.read("verify")
        assert [record["seq"] for record in records(boot)] == list(range(1, len(records(boot)) + 1))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, iso: Path) -> Boot:
    """A boot with a root that stays read-only."""
    return Guest(tmp_path_factory.mktemp("sealed"), SYSTEMD).boot(TEST, Setup(cd=iso, words="ro"))


def test_with_a_root_that_is_read_only_no_script_runs_and_the_boot_goes_on_and_says_so(sealed: Boot) -> None:
    assert (sealed.exit_code, sealed.read("rpm-V")) == (0, "0\n")
    assert (sealed.read("order"), sealed.read("status.exit")) == ("", "3\n"), "what ran could not be kept in mind"
    assert [line.split()[0] for line in sealed.read("failed").splitlines()] == [
        "contextagent-pre-network.service",
        "contextagent.service",
    ]
    told = [line for line in sealed.console.splitlines() if "cannot make '/var/lib/contextagent" in line]
    assert len(told) == 2, sealed.console


@pytest.mark.parametrize("by", ["a kernel word", "a file"])
def test_an_agent_that_is_switched_off_leaves_the_boot_alone(by: str, iso: Path, tmp_path: Path) -> None:
    guest = Guest(tmp_path / "off", SYSTEMD)
    if by == "a file":
        guest.put({"/etc/contextagent/disabled": ""})
    test = """
cd /run/lab/out
contextagent run pre-network > run 2>&1; echo $? >> run
systemctl show -p ActiveState -p ConditionResult --value contextagent-pre-network contextagent > units
systemctl --failed --no-legend > failed
cp /root/order .; cd /var
find lib/contextagent log/contextagent lib/hepix run/contextagent -mindepth 1 > /run/lab/out/found 2> /dev/null
"""
    boot = guest.boot(test, Setup(cd=iso, words="contextagent=off" if by == "a kernel word" else ""))
    switch = "the kernel word 'contextagent=off'" if by == "a kernel word" else "'/etc/contextagent/disabled'"
    assert boot.read("run") == f"contextagent: switched off by {switch}\n0\n"
    assert boot.read("units").split() == ["inactive", "no"] * 2
    assert (boot.read("failed"), boot.read("found"), boot.read("order")) == ("", "", "")
    assert "instance" not in boot.console


def test_a_disk_is_ejected_where_the_policy_says_so(iso: Path, tmp_path: Path) -> None:
    guest = Guest(tmp_path / "eject", SYSTEMD)
    guest.put({"/etc/contextagent/policy.d/10-eject.yaml": "disk:\n  eject: yes\n"})
    # or the kernel would close the drive to read from it
    test = "echo 0 > /proc/sys/dev/cdrom/autoclose; dd if=/dev/sr0 of=/dev/null count=1 2> drive || true"
    boot = guest.boot(TEST + test, Setup(cd=iso))
    assert status(boot)["result"] == "ok", boot.read("explain")
    assert [(line.owner, line.phase) for line in told(boot)] == ORDER
    assert "No medium found" in boot.read("drive")
