"""A machine whose image has cloud-init and ifupdown as well, all of them enabled: nobody is in anybody's way."""

from __future__ import annotations

import pytest

from tests.machine import make_iso
from tests.vm.beside import BESIDE
from tests.vm.guest import Boot, Guest, Setup
from tests.vm.left import REPORT, started, status
from tests.vm.systemd import ASKED

OURS = ("contextagent-pre-network", "contextagent")
CLOUD_INIT = ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final")
NETWORKS = ("networking", "systemd-networkd")
TOLD = "#!/bin/sh\necho $0 >>/root/order\n"
TIMES = f"""
systemctl is-system-running --wait >state
cp /root/cloud-init-ran .
for unit in {" ".join((*OURS, *CLOUD_INIT, *NETWORKS))}; do
    systemctl show -p InactiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic $unit >$unit
done
"""


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """The boot of such a machine, with a disk for both: the site's scripts, and user data as NoCloud has it."""
    folder = tmp_path_factory.mktemp("disk")
    for path, text in {
        "site/pre-network.d/10-tell": TOLD,
        "site/post-network.d/10-tell": TOLD,
        "meta-data": "instance-id: i-0001\n",
        "user-data": "#!/bin/sh\necho yes >/root/cloud-init-ran\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    iso = make_iso(folder, folder.with_suffix(".iso"), label="cidata")
    return Guest(tmp_path_factory.mktemp("beside"), BESIDE).boot(REPORT + ASKED + TIMES, Setup(cd=iso))


def when(boot: Boot, unit: str) -> tuple[int, int]:
    """Return when a unit began, and when it was up, in microseconds of that boot; 0 where it never was."""
    shown = dict(line.split("=") for line in boot.read(unit).splitlines())
    return int(shown["InactiveExitTimestampMonotonic"]), int(shown["ActiveEnterTimestampMonotonic"])


def test_no_order_is_a_cycle_and_no_unit_fails(boot: Boot) -> None:
    assert (boot.read("cycles"), boot.read("failed"), boot.read("state")) == ("", "", "running\n")
    assert all(when(boot, unit)[1] for unit in (*OURS, *CLOUD_INIT, *NETWORKS))


def test_whatever_configures_the_network_waits_for_our_first_phase(boot: Boot) -> None:
    done = when(boot, OURS[0])[1]
    assert all(done <= when(boot, unit)[0] for unit in (*NETWORKS, OURS[1]))


def test_the_site_has_its_scripts_and_the_user_data_are_cloud_inits(boot: Boot) -> None:
    assert started(boot) == ["site/pre-network/pre-network.d/10-tell", "site/post-network/post-network.d/10-tell"]
    assert boot.read("cloud-init-ran") == "yes\n"
    told = status(boot)
    assert (told["result"], told["sources"]["user"]) == ("degraded", "cloud-init")
    assert any("cloud-init is enabled in this image" in str(problem) for problem in told["warnings"])
