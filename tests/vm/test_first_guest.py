"""A machine with a context disk, truly booted: the kernel's own iso9660 mount, systemd's order, a real network."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.vm.guest import Boot, BootedGuest, missing_tools

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(missing_tools()), reason=f"not installed here: {', '.join(missing_tools())}")

# Each script leaves one line: who, what it was told, uid, addresses on the network card, iso9660 mounts anywhere.
# The user may write at home only; the site's scripts bring those lines into one order, by effect and not by clock.
LINE = 'echo "$CONTEXTAGENT_OWNER/$CONTEXTAGENT_PHASE/${0##*/} $1 $(id -u) $(ip -o -4 addr show dev eth0 | wc -l) '
LINE += '$(cat /proc/[0-9]*/mounts 2>/dev/null | grep -c iso9660)" >> '
USER_SCRIPT = f"#!/bin/sh\n{LINE}$HOME/order\n"
SITE_SCRIPT = f"#!/bin/sh\ncat ~contextuser/order >> /root/order; : > ~contextuser/order\n{LINE}/root/order\n"

REPORT = """
cd /run/lab/out
contextagent status --format json > status.json; echo $? > status.exit
contextagent explain > explain 2>&1
contextagent trace verify > verify 2>&1
cp /var/log/contextagent/* .; cp /root/order . 2>/dev/null
dmesg > dmesg; cat /proc/[0-9]*/mounts 2>/dev/null | sort -u > mounts
journalctl -b --no-pager > journal; ls -lAR /var/lib/contextagent /run/contextagent /var/lib/hepix > tree 2>&1
systemctl show -p ExecMainStartTimestampMonotonic -p ExecMainExitTimestampMonotonic contextagent-pre-network > timing
"""


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context disk as a site would burn it: flat names for the site, `user/` for the user."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "user").mkdir()
    for name in ("prolog.sh", "epilog.sh"):
        (folder / name).write_text(SITE_SCRIPT)
        (folder / "user" / name).write_text(USER_SCRIPT)
    (folder / "files" / "etc").mkdir(parents=True)
    (folder / "files" / "etc" / "site-was-here").write_text("yes\n")
    disk = folder.with_suffix(".iso")
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-o", disk, folder], check=True)
    return disk


@pytest.fixture(scope="module", params=["ide", "scsi"])
def boots(request: pytest.FixtureRequest, iso: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Boot]:
    """The first and the second boot of one machine with the disk in its drive."""
    guest = BootedGuest(tmp_path_factory.mktemp(f"guest-{request.param}"))
    return [guest.boot(test=REPORT, cd=iso, bus=request.param) for _ in range(2)]


def records(boot: Boot) -> list[dict[str, object]]:
    """Return the records of the newest trace, first to last."""
    status = json.loads((boot.results / "status.json").read_text())
    text = (boot.results / f"trace-{status['boot_id']}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def started(boot: Boot) -> list[object]:
    """Return the ids of the scripts started in this boot so far, in order."""
    return [record["id"] for record in records(boot) if record["ev"] == "start"]


def read(boot: Boot, name: str) -> str:
    """Return what the guest left under this name; empty when it left nothing."""
    path = boot.results / name
    return path.read_text() if path.exists() else ""


def test_the_result_is_ok_and_both_owners_spoke_by_the_disk(boots: list[Boot]) -> None:
    for boot in boots:
        status = json.loads(read(boot, "status.json"))
        assert (status["result"], read(boot, "status.exit")) == ("ok", "0\n"), read(boot, "explain")
        assert status["sources"] == {"site": "disk:hepix", "user": "disk:hepix"}
        assert status["trust"]["site"] == "channel"


def test_the_kernel_mounted_the_disk_and_nothing_of_it_is_left(boots: list[Boot]) -> None:
    for boot in boots:
        assert "ISO 9660 Extensions" in read(boot, "dmesg"), (
            "the kernel says so at a mount; the guest has no library to read it"
        )
        assert "sr0" in read(boot, "explain")
        assert "iso9660" not in read(boot, "mounts")


def test_user_before_site_in_each_phase_and_the_network_between_the_phases(boots: list[Boot]) -> None:
    assert started(boots[0]) == [
        "user/pre-network/prolog.sh",
        "site/pre-network/prolog.sh",
        "user/post-network/epilog.sh",
        "site/post-network/epilog.sh",
    ]
    lines = [line.split() for line in read(boots[0], "order").splitlines()]
    assert [(owner_phase.rpartition("/")[0], told) for owner_phase, told, *_ in lines] == [
        ("user/pre-network", "start"),
        ("site/pre-network", "start"),
        ("user/post-network", "start"),
        ("site/post-network", "start"),
    ]
    assert [address for *_, address, _ in lines] == ["0", "0", "1", "1"]


def test_the_user_is_not_root_and_no_script_can_see_the_disk(boots: list[Boot]) -> None:
    lines = [line.split() for line in read(boots[0], "order").splitlines()]
    for owner_phase, _, uid, _, mounts in lines:
        assert (uid == "0") == owner_phase.startswith("site/")
        assert mounts == "0"


def test_at_a_reboot_the_site_runs_again_and_the_user_does_not(boots: list[Boot]) -> None:
    assert started(boots[1]) == ["site/pre-network/prolog.sh", "site/post-network/epilog.sh"]
    states = {
        each["id"]: (each["state"], each["reason"]) for each in json.loads(read(boots[1], "status.json"))["scripts"]
    }
    assert states["user/post-network/epilog.sh"] == ("skipped", "once-done")


def test_at_shutdown_the_site_stops_before_the_user(boots: list[Boot]) -> None:
    lines = [line.split() for line in read(boots[1], "order").splitlines()]
    stops = [owner_phase.split("/")[0] for owner_phase, told, *_ in lines if told == "stop"]
    assert stops == ["site", "site", "user", "user"]


def test_the_trace_of_the_boot_before_is_whole_and_this_ones_is_open(boots: list[Boot]) -> None:
    assert "broken" not in read(boots[0], "verify")
    assert "intact" in read(boots[1], "verify")
    assert "open" in read(boots[1], "verify")


def test_a_machine_without_a_disk_boots_as_if_the_agent_were_not_there(tmp_path: Path) -> None:
    boot = BootedGuest(tmp_path / "guest").boot(test=REPORT)
    status = json.loads(read(boot, "status.json"))
    assert (status["result"], status["scripts"], status["errors"]) == ("none", [], [])
    assert started(boot) == []
    began, ended = (int(line.partition("=")[2]) for line in sorted(read(boot, "timing").splitlines(), reverse=True))
    sys.stdout.write(f"the boot waited {(ended - began) // 1000} ms for the agent, emulated (pytest -rP shows this)\n")
