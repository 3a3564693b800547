"""A Vac factory whose machine is a real guest."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.vac.factory import Factory, Machine, Machinetype
from tests.vac.services import FEATURES, Services
from tests.vm.guest import Boot, Guest, Outside, Setup

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vac.services import Asked

POLICY = "/etc/contextagent/policy.yaml"
# The lab's own report has said that the boot went well; the machine's end is another's business
RESTS = 'echo "LAB-RC 0"\nexec sleep 100000\n'
_SLOW_S = 100_000
USER_DATA = """#!/bin/sh
cat >/var/lib/hepix/context/epilog.sh <<'EP_EOF'
{epilog}EP_EOF
exit 0
"""


class Life(NamedTuple):
    """What became of a machine: its boot, what its factory knows, and what the services were asked."""

    boot: Boot
    machine: Machine
    factory: Factory
    asked: list[Asked]


class _Running:
    """A guest that boots in another thread, and ends by itself."""

    def __init__(self, boot: Future[Boot]) -> None:
        self.boot = boot

    @property
    def is_running(self) -> bool:
        return not self.boot.done()

    def press_power(self) -> None:
        raise AssertionError("this machine has no button")

    def cut(self) -> None:
        raise AssertionError("this machine is cut by nobody")


def live(
    guest: Guest, folder: Path, epilog: str, policy: dict[str, Any], *, bundle: bytes = b"", left_s: int = 0
) -> Life:
    """Let a guest be the machine of a factory until it has ended.

    Args:
        guest: One that is off.
        folder: The factory's.
        epilog: What its user data leaves as the pilot; empty: it has none.
        policy: Of the guest's image.
        bundle: The site's, if it has one.
        left_s: How much time its factory leaves it once it is known to be well; 0: as much as it had.
    """
    user_data = USER_DATA.format(epilog=epilog) if epilog else ""
    factory = Factory(folder, Machinetype(user_data, fizzle_s=_SLOW_S))
    machine = factory.create()
    guest.put({POLICY: json.dumps(policy)})
    with Outside() as outside, ThreadPoolExecutor(1) as thread:
        outside.ip(f"address add {FEATURES}/32 dev lo")
        with Services(factory, namespace=outside.file, bundle=bundle) as services:
            boot = thread.submit(guest.boot, RESTS, Setup(outside=outside))
            machine.start(_Running(boot))
            if left_s:
                factory.run_until_ended(lambda: machine.output("vm-heartbeat") is not None)
                factory.shutdown_s = int(time.time()) + left_s
            factory.run_until_ended()
            return Life(boot.result(), machine, factory, services.asked)
