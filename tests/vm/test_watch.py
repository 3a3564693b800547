"""The watch in a running machine: killed, replaced by a newer one, taken out; and the pilot that must not notice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.vm.contexts import burn
from tests.vm.guest import Boot, Guest, Setup
from tests.vm.image import packages
from tests.vm.left import REPORT, status
from tests.vm.systemd import ASKED, SYSTEMD
from tests.vm.sysv import SYSV
from tests.vm.test_package import EVERYWHERE, NEXT, said

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.image import Kind

PILOT = 'echo "$$" >>"$HOME/pids"; (setsid setsid sleep 4711 &); while :; do sleep 4712; done'
SITE = {
    "features": {"machine": {"hs06": "10"}},
    "pilot": {"framework": "command", "command": ["/bin/sh", "-c", PILOT]},
}
FUNCTIONS = """
cd /run/lab/out
watch() { # the process id of the watch, once there is one, and another one than $1
    while :; do
        pid=$(cat /run/contextagent/watch.pid /var/run/contextagent/watch.pid 2>/dev/null | head -n 1)
        [ -z "$pid" ] || [ "$pid" = "$1" ] || [ ! -d /proc/$pid ] || { echo $pid; return; }
        sleep 0.2
    done
}
pilot() { # the process id of the pilot, once it runs
    until contextagent pilot status --format json >pilot.json && grep -q '"running"' pilot.json; do sleep 0.2; done
    tail -n 1 ~contextuser/pids
}
processes() {
    for each in /proc/[0-9]*; do echo $(tr '\\0' ' ' <$each/cmdline); done 2>/dev/null
}
tell() { echo "$1 $(watch $2) $(pilot)" >>told; }
"""
KILL = """
tell first
kill -9 $(watch); tell killed $(tail -n 1 told | cut -d' ' -f2)
"""
UPGRADE = """
rpm -U /root/next.rpm >upgrade 2>&1; echo $? >>upgrade; rpm -q contextagent >installed
tell upgraded $(tail -n 1 told | cut -d' ' -f2)
setpriv --reuid=$(id -u contextuser) --clear-groups contextagent drain --in 5000 >/dev/null 2>&1; echo $? >refused
cp ~contextuser/pids .
"""
ERASE = f"""
rpm -e contextagent >erase 2>&1; echo $? >>erase; {EVERYWHERE} >left; processes >after
"""


def lived(kind: Kind, factory: pytest.TempPathFactory, asked: str) -> Boot:
    """Return a boot in which the watch is killed, the package replaced and then taken out."""
    guest = Guest(factory.mktemp("watched"), kind)
    guest.put({"/root/next.rpm": packages(NEXT)[kind.flavour]})
    disk: Path = factory.mktemp("disk")
    (disk / "site.json").write_text(json.dumps(SITE))
    (disk / "epilog.sh").write_text("#!/bin/sh\necho $1 >>/root/order\n")
    test = FUNCTIONS + KILL + UPGRADE + REPORT + asked + ERASE + "cp /root/order order-after\n"
    return guest.boot(test, Setup(cd=burn(disk)))


@pytest.fixture(scope="module")
def under_systemd(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    unit = "systemctl show -p NRestarts -p Result -p ActiveState --value contextagent-watch >watch-unit\n"
    return lived(SYSTEMD, tmp_path_factory, ASKED + unit)


@pytest.fixture(scope="module")
def under_sysv(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    return lived(SYSV, tmp_path_factory, "")


@pytest.fixture(params=["systemd", "sysv"])
def boot(request: pytest.FixtureRequest) -> Boot:
    found: Boot = request.getfixturevalue(f"under_{request.param}")
    return found


def told(boot: Boot) -> dict[str, tuple[str, str]]:
    """Return, for each moment, the process ids of the watch and of the pilot."""
    rows = (line.split() for line in boot.read("told").splitlines())
    return {moment: (watch, pilot) for moment, watch, pilot in rows}


def test_a_watch_that_was_killed_comes_back_and_so_does_one_of_a_newer_package(boot: Boot) -> None:
    watches = [watch for watch, _ in told(boot).values()]
    assert (len(watches), len(set(watches))) == (3, 3), boot.read("told")


def test_the_pilot_lives_on_and_was_started_once(boot: Boot) -> None:
    assert len({pilot for _, pilot in told(boot).values()}) == 1
    assert len(boot.read("pids").split()) == 1
    assert status(boot)["pilot"]["state"] == "running"


def test_the_account_of_the_pilot_drains_no_machine(boot: Boot) -> None:
    assert boot.read("refused") == "77\n"
    assert status(boot)["lifetime"] is None


def test_an_upgrade_does_nothing_else_again(boot: Boot) -> None:
    assert said(boot, "upgrade") == ["0"]
    assert f"-{NEXT}-" in boot.read("installed")
    assert boot.read("order") == "start\n"
    assert boot.read("rpm-V") == "0\n"


def test_erasing_the_package_ends_the_pilot_and_all_that_it_started(boot: Boot) -> None:
    assert said(boot, "erase") == ["0"]
    names = boot.read("left").splitlines()
    assert [name for name in names if not name.startswith("/var/log/contextagent")] == []
    after = boot.read("after")
    assert "contextagent" not in after
    assert "sleep 471" not in after
    assert boot.read("order-after") == "start\nstop\n"


def test_systemd_has_nothing_to_complain_of(under_systemd: Boot) -> None:
    assert (under_systemd.read("failed"), under_systemd.read("cycles")) == ("", "")
    assert set(under_systemd.read("watch-unit").split()) >= {"active", "success"}
