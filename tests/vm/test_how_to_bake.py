"""The how-to about baking, followed to the letter on a Debian tree with cloud-init; the guest boots what came out.

Not followed: the kickstart file, `virt-customize`, and the page's own QEMU, in whose place this lab boots the machine.
"""

from __future__ import annotations

import shutil
from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from tests.pages import Shell, blocks, commands, is_shown
from tests.vm.beside import BESIDE
from tests.vm.guest import Boot, Guest, Setup
from tests.vm.image import fresh_root, make_disk, packages
from tests.vm.left import REPORT, status
from tests.vm.parts import run
from tests.vm.systemd import ASKED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IN_THE_GUEST = "guest# "
Command = tuple[str, str, list[str]]


class Follower:
    """Somebody who types what the page says, and looks at what it shows.

    Attributes:
        boots: What came of the machine, each time that the page went on in it.
    """

    def __init__(self, folder: Path, shell: Shell) -> None:
        self._folder, self._shell = folder, shell
        self._root = folder / "image"
        self.boots: list[Boot] = []

    def follow(self, page: Sequence[str]) -> None:
        """Type all commands, in order; those of the guest in a boot of the image as it is then."""
        for is_guest, group in groupby(commands(page), lambda each: each[0] == IN_THE_GUEST):
            if is_guest:
                self._boot(list(group))
            else:
                for _, command, shown in group:
                    found = self._shell.run(command.replace("/mnt/image", str(self._root)))
                    self._look(command, found, shown)

    def _boot(self, group: list[Command]) -> None:
        guest = Guest(self._folder / f"guest-{len(self.boots)}", BESIDE)
        make_disk(self._root, guest.disk)
        typed = [f"({command}) >/run/lab/out/{number}.said 2>&1\n" for number, (_, command, _) in enumerate(group)]
        boot = guest.boot("".join([*typed, REPORT, ASKED]), Setup(cd=self._folder / "trial.iso"))
        for number, (_, command, shown) in enumerate(group):
            self._look(command, boot.read(f"{number}.said").splitlines(), shown)
        self.boots.append(boot)

    def _look(self, command: str, found: list[str], shown: list[str]) -> None:
        """Compare, without what Debian's rpm says of using it at all."""
        said = [line.replace(str(self._root), "/mnt/image") for line in found if not line.startswith("rpm: ")]
        assert is_shown(said, shown), (command, said)


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """Return the boot of an image that was made as the page says."""
    folder = tmp_path_factory.mktemp("bake")
    try:
        fresh_root(BESIDE, folder / "image")
        shutil.copy(packages()["el6"], folder)
        (folder / "new").mkdir()
        shutil.copy(packages("0.99.0")["el6"], folder / "new")
        with Shell(folder) as shell:
            follower = Follower(folder, shell)
            follower.follow(blocks("how-to/bake-into-an-image.md"))
    finally:
        run("rm", "-rf", folder / "image")
    (found,) = follower.boots
    return found


def test_the_page_shows_what_happens_and_the_machine_is_contextualised(boot: Boot) -> None:
    told = status(boot)
    assert (told["result"], told["sources"]) == ("ok", {"site": "disk:hepix", "user": "disk:hepix"})
    assert [(each["owner"], each["state"]) for each in told["scripts"]] == [("user", "ok"), ("site", "ok")]


def test_cloud_init_runs_as_well_and_no_order_is_a_cycle(boot: Boot) -> None:
    assert "Starting cloud-init-local.service" in boot.read("journal")
    assert (boot.read("cycles"), boot.read("failed")) == ("", "")
