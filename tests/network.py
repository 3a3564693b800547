"""Networks for tests: namespaces with links between them, where a service has its real address 169.254.169.254.

    with Network() as network, Server(scripts, host=SERVICE, port=80, namespace=network.far) as server:
        run((*network.prefix, *AGENT, "--root", str(machine.root), "run"))

A namespace has no name: it lives as long as the process that holds it, and that one ends with the pipe to this one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

SERVICE = "169.254.169.254"
SERVICE_IPV6 = "fd00:ec2::254"
CLIENT = "169.254.10.2"
CLIENT_IPV6 = "fd00:ec2::2"


class Namespace:
    """A network namespace with its loopback link up."""

    def __init__(self) -> None:
        words = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]
        self._holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == b"up\n"
        self.pid = self._holder.pid
        self.file = Path(f"/proc/{self.pid}/ns/net")

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that run a program in it."""
        return ("nsenter", f"--net={self.file}", "--")

    def ip(self, *lines: str) -> None:
        """Do what these lines for ip(8) say."""
        batch = "".join(f"{line}\n" for line in lines)
        subprocess.run([*self.prefix, "ip", "-batch", "-"], input=batch.encode(), check=True)

    def close(self) -> None:
        """Let it go."""
        self._holder.communicate()


class Network:
    """A machine's namespace `near`, and one for each link from it, where a service can listen.

    Args:
        links: How many links the machine has; the service's address is at the other side of each.
        is_up: Whether the machine's ends are up and have their addresses; else `up` sees to it later.
        ipv6_only: No IPv4 at all; the service is at fd00:ec2::254 then.
    """

    def __init__(self, *, links: int = 1, is_up: bool = True, ipv6_only: bool = False) -> None:
        self.near = Namespace()
        self.sides = [Namespace() for _ in range(links)]
        for number, side in enumerate(self.sides):
            self.near.ip(f"link add eth{number} type veth peer name eth0 netns {side.pid}")
            if ipv6_only:
                side.ip(f"address add {SERVICE_IPV6}/64 dev eth0 nodad")
            else:
                side.ip(f"address add {SERVICE}/16 dev eth0")
            side.ip("link set eth0 up")
            near = f"{CLIENT_IPV6}/64 dev eth{number} nodad" if ipv6_only else self._address(number)
            self.near.ip(f"address add {near}")
        if is_up:
            self.up()

    @staticmethod
    def _address(number: int) -> str:
        # the first link has the route to the service, as where the order of the links decides
        return f"{CLIENT}/16 dev eth0" if not number else f"169.254.{10 + number}.2/24 dev eth{number}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that run a program on the machine's side."""
        return self.near.prefix

    @property
    def far(self) -> Path:
        """The namespace at the other side of the first link."""
        return self.sides[0].file

    def up(self, link: int = 0, *, is_up: bool = True) -> None:
        """Bring one of the machine's links up, or down; the first one: all of them."""
        numbers = range(len(self.sides)) if not link else [link]
        self.near.ip(*(f"link set eth{number} {'up' if is_up else 'down'}" for number in numbers))

    def close(self) -> None:
        """Let all of it go."""
        for each in (*self.sides, self.near):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
