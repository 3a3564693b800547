"""Pilots below a root of a test's own: what they are told to do, and what is left of them."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Any, Self

from contextagent.host import Host, kept
from contextagent.host.accounts import Account
from contextagent.policy.schema import ROWS
from contextagent.runner import keeper
from contextagent.runner.keeper import Kept, Order

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "CONTEXTAGENT_PILOT_MARK"
PATIENCE_S = 60.0
"""For what takes milliseconds on an idle machine."""
DEFAULTS: dict[str, Any] = {
    name[len("pilot.") :]: default for name, _, default, *_ in ROWS if name.startswith("pilot.")
}


class Hangar:
    """A machine below a root that any account may enter, with an account of its own."""

    def __init__(self) -> None:
        root = tempfile.mkdtemp(prefix="contextagent-pilots-")
        os.chmod(root, 0o755)
        self.host = Host(root)
        uid = 500_000 + os.getpid() % 400_000
        self.account = Account(name="tester", uid=uid, gid=uid, home="/home", shell="/bin/sh")
        self.mark = os.urandom(8).hex()
        self.host.files.make_folder(self.host.run_folder, 0o755)
        self.host.files.make_folder("/home")
        if os.geteuid() == 0:
            self.host.files.give("/home", uid, uid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for each in keeper.look(self.host):
            kept.order(self.host.files, keeper.folder(self.host, each.number), keeper.KILL)
            kept.wait_gone(self.host.files, keeper.folder(self.host, each.number), time.monotonic() + PATIENCE_S)
        for pid in self.survivors():
            os.kill(pid, 9)
        shutil.rmtree(self.host.root)

    def real(self, path: str) -> str:
        return self.host.files.real(path)

    def order(self, command: str = "exit 0", *, number: int = 1, is_account: bool = False, **changes: Any) -> Order:
        """Return the order for a pilot that is a line of the shell; `pilot` are settings beside the defaults."""
        pilot = {**DEFAULTS, "command": ["/bin/sh", "-c", command], "stop.timeout_s": 20, **changes.pop("pilot", {})}
        pilot["env"] = {MARK: self.mark, **(pilot["env"] or {})}
        order = Order(
            number=number,
            framework="command",
            pilot=pilot,
            instance_id="i",
            boot_id="boot-1",
            account=dict(self.account.fields()) if is_account else None,
            workdir=f"/home/pilot-{number}",
            home="/home",
            machine_features="/etc/machinefeatures",
            job_features="/etc/jobfeatures",
            job_outputs="/etc/joboutputs",
            log=keeper.log_path("i", number),
        )
        return order.replace(**changes)

    def start(self, command: str = "exit 0", **changes: Any) -> Order:
        order = self.order(command, **changes)
        keeper.start(self.host, order)
        return order

    def until(self, is_true: Callable[[Kept], object], *, number: int = 1) -> Kept:
        """Wait until a pilot stands as it should; woken by its keeper's news, and by nothing else than time besides."""
        end_s = time.monotonic() + PATIENCE_S
        while not is_true(found := keeper.look_at(self.host, number)):
            assert time.monotonic() < end_s, f"it stands like this: {found}"
            select.select([], [], [], 0.01)
        return found

    def ended(self, *, number: int = 1) -> Kept:
        return self.until(lambda each: not each.is_alive, number=number)

    def running(self, *, number: int = 1) -> Kept:
        return self.until(lambda each: each.state == "running", number=number)

    def log(self, *, number: int = 1) -> str:
        return self.host.files.read(keeper.log_path("i", number), max_bytes=1 << 24).decode()

    def survivors(self) -> list[int]:
        """Return the processes that have this hangar's mark in their environment."""
        mark = f"{MARK}={self.mark}".encode()
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if mark in _environment(pid)]

    def wait_for(self, path: str) -> None:
        """Wait until a pilot has written a file of the guest."""
        end_s = time.monotonic() + PATIENCE_S
        while not self.host.files.exists(path):
            assert time.monotonic() < end_s, f"no {path}: {keeper.look(self.host)}"
            select.select([], [], [], 0.01)


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""
