"""N4: the network comes never, late, or goes again; it has IPv6 only, or two links; in namespaces of its own.

The service has its real address there, 169.254.169.254, and the agent is told none.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from tests.hold.invariants import violations
from tests.hold.transport import SLACK_S, Realm, judged
from tests.network import SERVICE, SERVICE_IPV6, Network
from tests.servers import Server, answer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from pathlib import Path

CONNECT_S, TRY_S, TOTAL_S = 2, 1, 6
UNREACHABLE, FOUND = ("unreachable", "unreachable"), ("found", "")


class Scene(NamedTuple):
    """A network, and who is in it.

    Attributes:
        name: In a few words.
        verdict: What both owners get.
        make: From the network and the machine to what is wrong after the boot; it starts whoever listens.
        links: How many the machine has.
        is_up: Whether they are up when it boots.
        is_ipv6: Whether that is all there is.
        url: What the agent is told; None: what it knows.
    """

    name: str
    verdict: tuple[str, str]
    make: Callable[[Network, Realm, ExitStack], Callable[[], list[str]]]
    links: int = 1
    is_up: bool = True
    is_ipv6: bool = False
    url: str | None = None


def nothing() -> list[str]:
    return []


def served(network: Network, realm: Realm, stack: ExitStack, *, side: int = 0, host: str = SERVICE) -> Server:
    """Start a service as it should be at the other side of a link."""
    return stack.enter_context(Server(realm.scripts("ec2"), host=host, port=80, namespace=network.sides[side].file))


def later(delay_s: float, work: Callable[[], object], stack: ExitStack) -> None:
    """Do it after a while, which is when the agent is waiting; before the end in any case."""
    timer = threading.Timer(delay_s, work)
    timer.start()
    stack.callback(timer.join)


def never(rng: random.Random) -> Scene:
    kind = rng.choice(["down", "refused", "alone", "swallowed"])

    def make(network: Network, _: Realm, __: ExitStack) -> Callable[[], list[str]]:
        if kind == "alone":
            network.sides[0].ip(f"address delete {SERVICE}/16 dev eth0")
        elif kind == "swallowed":
            network.near.ip(f"neighbour add {SERVICE} lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
        return nothing

    return Scene(f"never: {kind}", UNREACHABLE, make, is_up=kind != "down")


def late(rng: random.Random) -> Scene:
    kind = rng.choice(["link", "listener", "address"])
    delay_s = rng.uniform(0.1, 0.6)

    def make(network: Network, realm: Realm, stack: ExitStack) -> Callable[[], list[str]]:
        if kind == "listener":
            later(delay_s, lambda: served(network, realm, stack), stack)
            return nothing
        served(network, realm, stack)
        if kind == "address":
            network.near.ip("address flush dev eth0")
            later(delay_s, lambda: network.near.ip("address add 169.254.10.2/16 dev eth0"), stack)
        else:
            later(delay_s, network.up, stack)
        return nothing

    return Scene(f"late by {delay_s:.1f} s: {kind}", FOUND, make, is_up=kind != "link")


def flapping(rng: random.Random) -> Scene:
    times = rng.randrange(1, 3)
    at = rng.choice(["/context/default.tgz", "/latest/user-data"])

    def make(network: Network, realm: Realm, stack: ExitStack) -> Callable[[], list[str]]:
        server = served(network, realm, stack)
        body = server.scripts[at]
        left = [times]

        def play(_: object) -> list[bytes]:
            if left[0]:
                left[0] -= 1
                network.up(is_up=False)
                later(0.3, network.up, stack)
            return [body if isinstance(body, bytes) else b""]

        server.scripts[at] = play
        return lambda: [f"the link went down {times - left[0]} of {times} times"] if left[0] == times else []

    return Scene(f"flapping at {at}", FOUND, make)


def ipv6_only(rng: random.Random) -> Scene:
    is_told = rng.random() < 0.6

    def make(network: Network, realm: Realm, stack: ExitStack) -> Callable[[], list[str]]:
        server = served(network, realm, stack, host=SERVICE_IPV6)
        return lambda: [] if is_told is bool(server.connections) else [f"{server.connections} connections"]

    return Scene(
        f"IPv6 only, told: {is_told}", FOUND if is_told else UNREACHABLE, make, is_ipv6=True,
        url=f"http://[{SERVICE_IPV6}]" if is_told else None,
    )  # fmt: skip


def two_links(rng: random.Random) -> Scene:
    """A rogue has the service's address at the second link, to which no route leads; with and without the true one."""
    is_served = rng.random() < 0.7

    def make(network: Network, realm: Realm, stack: ExitStack) -> Callable[[], list[str]]:
        if is_served:
            served(network, realm, stack)
        rogue = served(network, realm, stack, side=1)
        rogue.scripts = dict.fromkeys(rogue.scripts, answer(realm.evil))
        return lambda: [f"the rogue was asked for {rogue.paths()}"] if rogue.connections else []

    return Scene(f"two links, served: {is_served}", FOUND if is_served else UNREACHABLE, make, links=2)


KINDS = (never, never, late, late, flapping, ipv6_only, two_links)


def drawn(count: int, rng: random.Random) -> list[Scene]:
    """Return that many scenes, each kind among them."""
    return [KINDS[number % len(KINDS)](rng) for number in range(count)]


def wrong(scene: Scene, folder: Path, clean: Mapping[str, str]) -> list[str]:
    """Boot in the scene, and once more where all is well; return everything that is not as it must be."""
    realm = Realm(folder)
    realm.policy(connect_s=CONNECT_S, try_s=TRY_S, total_s=TOTAL_S)
    with ExitStack() as stack:
        network = stack.enter_context(Network(links=scene.links, is_up=scene.is_up, ipv6_only=scene.is_ipv6))
        check = scene.make(network, realm, stack)
        start = time.monotonic()
        faulty = realm.ask(scene.url, network.prefix)
        took_s = time.monotonic() - start
        found = [*judged(realm, {"site": scene.verdict, "user": scene.verdict}, is_warm=False), *check()]
    limit_s = (CONNECT_S if scene.verdict == UNREACHABLE else TOTAL_S) + SLACK_S
    if took_s > limit_s:
        found.append(f"it took {took_s:.1f} s")
    durable = realm.traces()
    realm.reboot()
    with Network() as network, Server(realm.scripts("ec2"), host=SERVICE, port=80, namespace=network.far):
        healed = realm.ask(None, network.prefix)
    said = faulty.output + healed.output
    return found + violations(realm, durable=durable, said=said, clean=clean, clean_result="ok")
