"""The commands of the how-to about `serve` do what the page shows, each as it stands there.

The page's hypervisor is a network namespace with libvirt's bridge; its guest and a neighbour are others, linked to it.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.network import Namespace
from tests.pages import Shell, blocks, commands, is_shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCKS = [block for block in blocks("how-to/serve-contexts.md") if "systemctl" not in block]
SERVICE = "http://169.254.169.254"


class Hypervisor:
    """A machine with libvirt's bridge, a guest on it, and a neighbour on another link."""

    def __init__(self) -> None:
        self.host, self.guest, self.neighbour = Namespace(), Namespace(), Namespace()
        self.host.ip("link add virbr0 type bridge", "address add 192.168.122.1/24 dev virbr0", "link set virbr0 up")
        self.host.ip(
            f"link add vnet0 type veth peer name eth0 netns {self.guest.pid}",
            f"link add lan type veth peer name eth0 netns {self.neighbour.pid}",
            *("link set vnet0 master virbr0", "link set vnet0 up"),
            *("address add 192.0.2.1/24 dev lan", "link set lan up"),
        )
        self.guest.ip(
            "address add 192.168.122.10/24 dev eth0", "link set eth0 up", "route add default via 192.168.122.1"
        )
        self.neighbour.ip("address add 192.0.2.2/24 dev eth0", "link set eth0 up", "route add default via 192.0.2.1")

    def close(self) -> None:
        for each in (self.guest, self.neighbour, self.host):
            each.close()


@pytest.fixture
def hypervisor() -> Iterator[Hypervisor]:
    made = Hypervisor()
    yield made
    made.close()


def reaches(namespace: Namespace) -> bool:
    """Return whether who is there is answered."""
    words = [*namespace.prefix, "curl", "-s", "--max-time", "1", "-o", "/dev/null", f"{SERVICE}/latest/user-data"]
    return subprocess.run(words, check=False).returncode == 0


def test_every_command_of_the_page_does_what_it_shows(hypervisor: Hypervisor, tmp_path: Path) -> None:
    places = {"$ ": hypervisor.host, "# ": hypervisor.host, "guest$ ": hypervisor.guest}
    shells = {prompt: Shell(tmp_path, place.prefix) for prompt, place in places.items()}
    ran = 0
    for prompt, command, shown in commands(BLOCKS):
        found = shells[prompt].run(command.replace("/tmp/", f"{tmp_path}/"), len(shown))
        assert is_shown(found, shown), (command, found)
        ran += 1
    assert ran > len(BLOCKS)
    assert (reaches(hypervisor.guest), reaches(hypervisor.host), reaches(hypervisor.neighbour)) == (True, True, False)
    assert shells["# "].run("nft delete table inet contexts", 0) == []
    assert reaches(hypervisor.neighbour), "without the rule a neighbour does reach it"
    for shell in shells.values():
        shell.close()
