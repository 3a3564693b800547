"""Machines that find no context, or a broken one: they boot all the same, and say what they did not find."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.vm.contexts import burn, put_scripts
from tests.vm.guest import Boot, Guest, Outside, Setup
from tests.vm.left import REPORT, started, status
from tests.vm.served import asked, put_served, served
from tests.vm.systemd import ASKED, SYSTEMD

if TYPE_CHECKING:
    from pathlib import Path

TEST = REPORT + ASKED
PHASES_TOLD = 3


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Boot]:
    """A machine with neither disk nor service: refused, silent, and without a network card."""
    guest = Guest(tmp_path_factory.mktemp("nothing"), SYSTEMD)
    with Outside(is_silent=True) as silent:
        setups = {"refused": Setup(), "silent": Setup(outside=silent), "no card": Setup(has_network=False)}
        return {name: guest.boot(TEST, setup) for name, setup in setups.items()}


def test_it_boots_as_if_the_agent_were_not_there(nothing: dict[str, Boot]) -> None:
    for boot in nothing.values():
        assert (status(boot)["result"], status(boot)["scripts"], status(boot)["errors"]) == ("none", [], [])
        assert started(boot) == []
        assert (boot.read("failed"), boot.read("cycles"), boot.read("rpm-V")) == ("", "", "0\n")


def test_the_service_is_unreachable_which_is_not_absent(nothing: dict[str, Boot]) -> None:
    for boot in nothing.values():
        verdicts = {(each["source"], each["verdict"]) for each in status(boot)["verdicts"]}
        assert verdicts == {("disk", "absent"), ("metadata", "unreachable")}


def test_a_dead_service_is_given_up_in_five_seconds_of_the_machines_own_clock(nothing: dict[str, Boot]) -> None:
    for name, boot in nothing.items():
        asked_s = max(each["duration_s"] for each in status(boot)["verdicts"] if each["source"] == "metadata")
        sys.stdout.write(f"{name}: given up after {asked_s} s; units, in ms: {boot.read('milliseconds').split()}\n")
        assert asked_s < 6, "five, and what an emulated processor needs to look at its clock"


@pytest.mark.parametrize("what", ["cut off", "no file system"])
def test_a_broken_disk_fails_the_site_and_the_boot_goes_on(what: str, tmp_path: Path) -> None:
    disk = put_scripts(tmp_path / "disk")
    (disk / "files").mkdir()
    shutil.copy(sys.executable, disk / "files" / "big")
    iso = burn(disk)
    data = iso.read_bytes()
    # in whole frames of a CD; or with the start of its file system turned to zeros behind the descriptors' magic
    iso.write_bytes(data[: len(data) // 4096 * 2048] if what == "cut off" else data[:32774] + bytes(len(data) - 32774))
    with served(put_served(tmp_path / "contexts")) as (outside, serving):
        boot = Guest(tmp_path / "guest", SYSTEMD).boot(TEST, Setup(cd=iso, outside=outside))
        paths = asked(serving.log())
    verdicts = {(each["owner"], each["source"]): each["verdict"] for each in status(boot)["verdicts"]}
    assert verdicts == {("site", "disk"): "broken", ("user", "disk"): "broken"}, boot.read("explain")
    assert (status(boot)["result"], boot.read("status.exit")) == ("failed", "1\n")
    assert (started(boot), paths) == ([], []), "who scratches the disk does not choose the source"
    assert (boot.exit_code, boot.read("failed"), boot.read("rpm-V")) == (0, "", "0\n")
    told = [line for line in boot.console.splitlines() if "cannot use 'disk' for the site: " in line]
    assert len(told) == PHASES_TOLD, "each phase says so, and says so once"
