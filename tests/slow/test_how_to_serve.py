"""The commands of the how-to about `serve` do what the page shows, each as it stands there.

The page's hypervisor is a network namespace with libvirt's bridge; its guest and a neighbour are others, linked to it.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.machine import REPOSITORY
from tests.network import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (REPOSITORY / "docs/how-to/serve-contexts.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NEEDS_SYSTEMD = "systemctl"
SERVICE = "http://169.254.169.254"
PROMPTS = ("$ ", "# ", "guest$ ")


class Shell:
    """A shell that is told one command after the other, as a person tells it."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        path = f"{REPOSITORY}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = [*namespace.prefix, "env", "-i", f"PATH={path}", "bash", "--noprofile", "--norc"]
        self._bash = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, text=True
        )

    def run(self, command: str, lines: int) -> list[str]:
        """Return what a command prints; where it goes on in the background, its first lines."""
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.write(f"{command}\necho its end\n")
        self._bash.stdin.flush()
        found: list[str] = []
        is_over = False
        while not is_over or (command.endswith("&") and len(found) < lines):
            line = self._bash.stdout.readline()
            assert line, found
            if line == "its end\n":
                is_over = True
            elif not re.match(r"\[\d+\]", line):  # what bash says of its jobs is not the command's
                found.append(line.rstrip("\n"))
        return found

    def close(self) -> None:
        """End it, and what it left in the background."""
        self._bash.communicate("kill $(jobs -p) 2>/dev/null; wait\n")


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


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Yield each command of the page: its prompt, itself, and the lines that the page shows below it."""
    for block in BLOCKS:
        if NEEDS_SYSTEMD in block:
            continue
        prompt, command, shown = "", "", list[str]()
        for line in [*block.splitlines(), PROMPTS[0]]:
            found = next((each for each in PROMPTS if line.startswith(each)), "")
            if found and command:
                yield prompt, command, shown
            if found:
                prompt, command, shown = found, line.removeprefix(found), []
            else:
                shown.append(line)


def is_shown(found: list[str], shown: list[str]) -> bool:
    """Return whether a page shows what was found; what differs each time stands there as `…`."""
    patterns = [re.escape(line).replace("…", ".+") for line in shown]
    return len(found) == len(shown) and all(map(re.fullmatch, patterns, found))


def reaches(namespace: Namespace) -> bool:
    """Return whether who is there is answered."""
    words = [*namespace.prefix, "curl", "-s", "--max-time", "1", "-o", "/dev/null", f"{SERVICE}/latest/user-data"]
    return subprocess.run(words, check=False).returncode == 0


def test_every_command_of_the_page_does_what_it_shows(hypervisor: Hypervisor, tmp_path: Path) -> None:
    places = {"$ ": hypervisor.host, "# ": hypervisor.host, "guest$ ": hypervisor.guest}
    shells = {prompt: Shell(place, tmp_path) for prompt, place in places.items()}
    ran = 0
    for prompt, command, shown in commands():
        found = shells[prompt].run(command.replace("/tmp/", f"{tmp_path}/"), len(shown))
        assert is_shown(found, shown), (command, found)
        ran += 1
    assert ran > len(BLOCKS)
    assert (reaches(hypervisor.guest), reaches(hypervisor.host), reaches(hypervisor.neighbour)) == (True, True, False)
    assert shells["# "].run("nft delete table inet contexts", 0) == []
    assert reaches(hypervisor.neighbour), "without the rule a neighbour does reach it"
    for shell in shells.values():
        shell.close()
