"""A machine laid out as EL5 is, truly booted: SysV's init, links by chkconfig, no /run, locks that rc looks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.serving import Serving
from tests.vm.contexts import burn, lines, put_scripts, told
from tests.vm.guest import Boot, Guest, Outside, Setup
from tests.vm.left import REPORT, records, started, status
from tests.vm.sysv import SYSV

if TYPE_CHECKING:
    from pathlib import Path

STATE = "/var/run/contextagent"
LOCKS = "/var/lock/subsys"
ASKED = f"""
readlink /proc/1/exe > pid1; ls /run > run; ls {LOCKS} > locks; runlevel > runlevel
ls {STATE} > state; cp {STATE}/status.json own-status.json
"""
"""A test's text: what init, rc and the agent left where EL5 has it."""
ORDER = [("user", "pre-network"), ("site", "pre-network"), ("user", "post-network"), ("site", "post-network")]


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context disk with scripts of both owners."""
    return burn(put_scripts(tmp_path_factory.mktemp("disk")))


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """A machine with a disk of its own."""
    return Guest(tmp_path_factory.mktemp("sysv"), SYSV)


@pytest.fixture(scope="module")
def first(guest: Guest, iso: Path) -> Boot:
    """The machine's first boot."""
    return guest.boot(REPORT + ASKED, Setup(cd=iso))


@pytest.fixture(scope="module")
def second(guest: Guest, iso: Path, first: Boot) -> Boot:
    """The machine's second boot, with nothing of /var/run cleared in between."""
    assert "LAB-HALT" in first.console
    return guest.boot(REPORT + ASKED, Setup(cd=iso, words="lab.run=kept"))


@pytest.mark.smoke
def test_init_is_sysvs_and_rc_went_through_the_links_that_chkconfig_made(first: Boot) -> None:
    assert first.read("pid1") == "/usr/sbin/init\n"
    assert first.read("runlevel") == "N 3\n"
    assert first.read("locks").split() == ["contextagent", "contextagent-pre", "network"]


@pytest.mark.smoke
def test_user_before_site_in_each_phase_and_the_network_between_the_phases(first: Boot) -> None:
    assert (status(first)["result"], first.read("status.exit")) == ("ok", "0\n"), first.read("explain")
    assert status(first)["sources"] == {"site": "disk:hepix", "user": "disk:hepix"}
    assert [(line.owner, line.phase, line.told) for line in told(first)] == [(*each, "start") for each in ORDER]
    assert [line.addresses for line in told(first)] == [0, 0, 1, 1]
    assert [line.uid == 0 for line in told(first)] == [False, True, False, True]
    assert {line.mounts for line in told(first)} == {0}


@pytest.mark.smoke
def test_at_shutdown_the_site_stops_before_the_user_and_no_lock_is_left(guest: Guest, first: Boot) -> None:
    assert "LAB-HALT" in first.console
    left = lines(guest.get("/root/order") + guest.get("/var/lib/contextuser/order"))
    stops = [line.owner for line in left if line.told == "stop"]
    assert stops[:4] == ["site", "site", "user", "user"]
    assert guest.names(LOCKS) == []


@pytest.mark.smoke
def test_the_console_has_one_line_a_phase_that_says_how_it_went(first: Boot) -> None:
    summaries = [line for line in first.console.splitlines() if " site scripts, instance " in line]
    assert len(summaries) == 3, first.console
    assert all(line.startswith("contextagent: ok (") for line in summaries)


@pytest.mark.smoke
def test_the_package_verifies_after_the_boot(first: Boot) -> None:
    assert first.read("rpm-V") == "0\n"


def test_the_state_of_the_boot_lies_where_there_is_no_run(first: Boot) -> None:
    assert "contextagent" not in first.read("run")
    assert set(first.read("state").split()) >= {"lock", "status.json"}
    assert first.read("own-status.json")


def test_at_a_reboot_the_state_of_the_boot_before_is_forgotten(first: Boot, second: Boot) -> None:
    assert status(first)["boot_id"] != status(second)["boot_id"]
    assert status(second)["boot_id"] in second.read("own-status.json")
    assert [each["owner"] for each in status(second)["scripts"] if each["state"] == "ok"] == ["site", "site"]


def test_at_a_reboot_the_site_runs_again_and_the_user_does_not(second: Boot) -> None:
    assert started(second) == ["site/pre-network/prolog.sh", "site/post-network/epilog.sh"]
    assert (status(second)["result"], second.read("rpm-V")) == ("ok", "0\n")
    assert "broken" not in second.read("verify")
    assert "intact" in second.read("verify"), "the boot before came to its end"


def test_where_run_is_a_file_system_of_its_own_the_state_lies_there(tmp_path: Path, iso: Path) -> None:
    boot = Guest(tmp_path / "guest", SYSV).boot(REPORT + ASKED, Setup(cd=iso, bus="scsi", words="lab.run=tmpfs"))
    assert status(boot)["result"] == "ok"
    assert "contextagent" in boot.read("run").split()
    assert boot.read("state") == ""


def test_without_a_context_nothing_runs_and_with_the_off_file_not_even_the_search(tmp_path: Path, iso: Path) -> None:
    guest = Guest(tmp_path / "guest", SYSV)
    nothing = guest.boot(REPORT + ASKED)
    assert (status(nothing)["result"], status(nothing)["scripts"], status(nothing)["errors"]) == ("none", [], [])
    assert nothing.read("rpm-V") == "0\n"
    traces = guest.names("/var/log/contextagent")
    guest.put({"/etc/contextagent/disabled": ""})
    off = guest.boot(ASKED, Setup(cd=iso))
    assert guest.names("/var/log/contextagent") == traces
    assert guest.get("/root/order") == ""
    assert "status.json" not in off.read("state")
    assert "LAB-NETWORK" in off.console


def test_with_the_kernel_word_off_no_script_runs(tmp_path: Path, iso: Path) -> None:
    guest = Guest(tmp_path / "guest", SYSV)
    guest.boot(ASKED, Setup(cd=iso, words="contextagent=off"))
    assert guest.names("/var/log/contextagent") == []
    assert guest.get("/root/order") == ""


def test_the_metadata_service_is_found_at_its_address(tmp_path: Path) -> None:
    outside = Outside()
    try:
        folder = put_scripts(tmp_path / "served")
        with Serving(folder, bind="169.254.169.254:80", prefix=outside.prefix):
            boot = Guest(tmp_path / "guest", SYSV).boot(REPORT, Setup(outside=outside))
    finally:
        outside.close()
    assert status(boot)["result"] == "ok", boot.read("explain")
    assert {source.partition(":")[0] for source in status(boot)["sources"].values()} == {"metadata"}
    assert [(line.owner, line.phase, line.addresses) for line in told(boot)] == [
        ("user", "pre-network", 1),
        ("site", "pre-network", 1),
        ("user", "post-network", 1),
        ("site", "post-network", 1),
    ]


KILLER = """#!/bin/sh
[ "$1" = start ] || exit 0
echo killer >> /root/order2
for each in /proc/[0-9]*; do
    case $(tr '\\0' ' ' < $each/cmdline 2>/dev/null) in
        "/usr/bin/contextagent run post-network "*) kill -9 ${each#/proc/} ;;
    esac
done
sleep 1000
"""


def test_an_agent_that_was_killed_is_started_again_and_goes_on(tmp_path: Path) -> None:
    disk = put_scripts(tmp_path / "disk")
    for name, text in (("10-before", "echo before >> /root/order2"), ("30-after", "echo after >> /root/order2")):
        (disk / "post-network.d").mkdir(exist_ok=True)
        (disk / "post-network.d" / name).write_text(f'#!/bin/sh\n[ "$1" = stop ] || {text}\n')
    (disk / "post-network.d" / "20-killer").write_text(KILLER)
    asked = f"{REPORT}cp /root/order2 .; cat /proc/[0-9]*/cmdline | tr '\\0' ' ' > processes\n"
    boot = Guest(tmp_path / "guest", SYSV).boot(asked, Setup(cd=burn(disk)))
    assert boot.read("order2").split() == ["before", "killer", "after"]
    states = {each["id"].rpartition("/")[2]: each["state"] for each in status(boot)["scripts"]}
    assert (states["10-before"], states["20-killer"], states["30-after"]) == ("ok", "interrupted", "ok")
    ends = {record["id"]: record["reason"] for record in records(boot) if record["ev"] == "end"}
    assert ends["site/post-network/post-network.d/20-killer"] == "agent-restart"
    assert "sleep 1000" not in boot.read("processes")


# The machine is shut down while the script runs; nobody is left to report, so the script says what a test waits for
SHUTS_DOWN = """#!/bin/sh
[ ! -e /root/shut ] || exit 0
: > /root/shut
echo "LAB-RC 0" > /dev/ttyS0
init 0
sleep 1000
"""


def test_a_machine_that_is_shut_down_while_a_script_runs_has_its_stop_phase_and_goes_on_at_the_next_boot(
    tmp_path: Path,
) -> None:
    disk = put_scripts(tmp_path / "disk")
    (disk / "post-network.d").mkdir()
    (disk / "post-network.d" / "10-shuts-down").write_text(SHUTS_DOWN)
    guest, setup = Guest(tmp_path / "guest", SYSV), Setup(cd=burn(disk))
    shut = guest.boot("", setup)
    assert "LAB-HALT" in shut.console
    left = lines(guest.get("/root/order") + guest.get("/var/lib/contextuser/order"))
    assert [line.owner for line in left if line.told == "stop"] == ["site", "site", "user", "user"]
    boot = guest.boot(REPORT, setup)
    assert (status(boot)["result"], boot.read("rpm-V")) == ("ok", "0\n"), boot.read("explain")
    verified = boot.read("verify")
    assert ("broken" in verified, "intact" in verified) == (False, True), verified
