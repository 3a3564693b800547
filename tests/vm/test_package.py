"""The package in a running machine: a newer one takes its place, and it is taken out."""

from __future__ import annotations

import pytest

from tests.vm.contexts import burn, put_scripts, told
from tests.vm.guest import Boot, Guest, Setup
from tests.vm.image import packages
from tests.vm.left import REPORT, started, status
from tests.vm.systemd import ASKED, SYSTEMD

NEXT = "0.1.1"
EVERYWHERE = (
    "find / -xdev -path /proc -prune -o -path /sys -prune -o -path /run/lab -prune -o -name '*contextagent*' -print"
)


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> list[Boot]:
    """Three boots of one machine: its package is upgraded in the first, and erased in the second."""
    iso = burn(put_scripts(tmp_path_factory.mktemp("disk")))
    guest = Guest(tmp_path_factory.mktemp("guest"), SYSTEMD)
    guest.put({"/root/next.rpm": packages(NEXT)["el6"]})
    upgrade = "rpm -U /root/next.rpm > upgrade 2>&1; echo $? >> upgrade; rpm -q contextagent > installed\n"
    erase = f"rpm -e contextagent > erase 2>&1; echo $? >> erase; {EVERYWHERE} > left\n"
    unit = "systemctl is-active contextagent-pre-network contextagent >> active\n"
    return [
        guest.boot(f"cd /run/lab/out\n{upgrade}{REPORT}{ASKED}{unit}", Setup(cd=iso)),
        guest.boot(f"{REPORT}{ASKED}{erase}", Setup(cd=iso)),
        guest.boot("cp /root/order /run/lab/out; systemctl --failed --no-legend > /run/lab/out/failed", Setup(cd=iso)),
    ]


def said(boot: Boot, name: str) -> list[str]:
    """Return the lines of a call of rpm, but for Debian's own, by which this is not how to install there."""
    return [line for line in boot.read(name).splitlines() if not line.startswith("rpm: ")]


def test_an_upgrade_does_nothing_of_the_boots_work_again(boots: list[Boot]) -> None:
    assert said(boots[0], "upgrade") == ["0"]
    assert f"-{NEXT}-" in boots[0].read("installed")
    assert len(started(boots[0])) == 4
    assert [line.told for line in told(boots[0])] == ["start"] * 4, "nor was anything stopped"
    assert (boots[0].read("active"), boots[0].read("rpm-V")) == ("active\nactive\n", "0\n")


def test_the_upgraded_machine_boots_on(boots: list[Boot]) -> None:
    assert status(boots[1])["result"] == "ok"
    assert started(boots[1]) == ["site/pre-network/prolog.sh", "site/post-network/epilog.sh"]
    assert (boots[1].read("failed"), boots[1].read("rpm-V")) == ("", "0\n")


def test_erasing_leaves_nothing_but_the_logs(boots: list[Boot]) -> None:
    assert said(boots[1], "erase") == ["0"]
    names = boots[1].read("left").splitlines()
    assert [name for name in names if not name.startswith("/var/log/contextagent")] == []
    assert "/var/log/contextagent" in names


def test_a_machine_without_it_boots_on(boots: list[Boot]) -> None:
    assert (boots[2].exit_code, boots[2].read("failed")) == (0, "")
    tells = [line.told for line in told(boots[2])[len(told(boots[1])) :]]
    assert tells == ["stop", "stop"], "the erasure was the agent's end: it ran the site's stop scripts, and none since"
