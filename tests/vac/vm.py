"""A factory's machine made of namespaces: a throw-away view of this one, booted by the agent's SysV services.

    with World(tmp_path, Machinetype(user_data)) as world:
        vm = world.boot(policy)
        world.factory.run_until_ended()
        world.machine.message

It has process ids, mounts, a network card and a name of its own.  The card is down until the network's turn comes at
boot; beyond it lie the factory's two services at their real addresses.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.machine import AGENT, REPOSITORY, Done, Guest, run
from tests.network import Network
from tests.vac.factory import Factory
from tests.vac.services import FEATURES, Services

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vac.factory import Machine, Machinetype

PATIENCE_S = 60
# What sysvinit, rc and the links by chkconfig come to: each service's start, `shutdown`, each service's stop, the end
_INIT = """#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
mkdir -p /run/lock/subsys # /var/lock is a link to it
/etc/rc.d/init.d/contextagent-pre start
ip link set eth0 up
/etc/rc.d/init.d/contextagent start
: >/run/up
while [ ! -e /run/down ]; do sleep 0.1; done
for name in contextagent contextagent-pre; do
    [ ! -f "/var/lock/subsys/$name" ] || "/etc/rc.d/init.d/$name" stop
done
for each in /proc/[0-9]*; do
    echo "${each#/proc/} $(tr '\\0\\n' '  ' <"$each/cmdline")"
done >/processes 2>/dev/null
"""
_SHUTDOWN = """#!/bin/sh
echo "$0 $*" >>/shut-down
: >/run/down
"""


class World:
    """A factory, its services, and the network of its machine.

    Attributes:
        factory: With one machine.
        machine: That one.
        services: What it asks.
        vm: The machine's VM, which does not run yet.
    """

    def __init__(self, folder: Path, machinetype: Machinetype, *, bundle: bytes = b"") -> None:
        self.factory = Factory(folder / "factory", machinetype)
        self.machine = self.factory.create()
        self.network = Network(is_up=False)
        self.network.sides[0].ip(f"address add {FEATURES}/16 dev eth0")
        self.services = Services(self.factory, namespace=self.network.far, bundle=bundle)
        self.vm = NamespaceVM(folder / "vm", self.network, self.machine)

    def boot(self, policy: Any) -> NamespaceVM:
        """Start the VM with an image's policy."""
        self.vm.guest.put("etc/contextagent/policy.yaml", json.dumps(policy))
        self.vm.start()
        self.machine.start(self.vm)
        return self.vm

    def close(self) -> None:
        """End all of it."""
        self.vm.cut()
        self.services.close()
        self.network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NamespaceVM:
    """A VM that can be started once.

    Attributes:
        guest: Its files, before it was started and after it has gone.
    """

    def __init__(self, folder: Path, network: Network, machine: Machine) -> None:
        self.guest = Guest(folder)
        self._network = network
        self._console = folder / "console"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        words = " ".join(AGENT)
        self.guest.put("usr/bin/contextagent", f'#!/bin/sh\nexec {words} "$@"\n', 0o755)
        self.guest.put("sbin-init", _INIT, 0o755)
        for name in ("contextagent", "contextagent-pre"):
            self.guest.put(f"etc/rc.d/init.d/{name}", (REPOSITORY / "init/sysv" / name).read_bytes(), 0o755)
        for name in ("shutdown", "poweroff", "halt"):
            self.guest.put(f"usr/sbin/{name}", _SHUTDOWN, 0o755)
        for name in ("passwd", "group"):  # no account of ours: that is the agent's to make
            self.guest.put(f"etc/{name}", Path("/etc", name).read_bytes())
        self.guest.put("sys/class/dmi/id/product_uuid", machine.uuid + "\n")
        home = self.guest.root / "var/lib/contextuser"
        home.parent.mkdir(parents=True)
        os.mknod(home, stat.S_IFCHR, 0)  # the overlay's word for "not there", whatever this machine has

    def start(self) -> None:
        """Start it; it boots by itself."""
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                (*self._network.prefix, *self.guest.words("/sbin-init")),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                env={"PATH": os.environ["PATH"]},
                umask=0o022,
            )

    @property
    def is_running(self) -> bool:
        """Whether its init has not ended yet."""
        assert self._process
        return self._process.poll() is None

    def press_power(self) -> None:
        """Do what its acpid does when the power button is pressed: ask for a shutdown."""
        self.shell("/usr/sbin/shutdown", "-h", "now")

    def cut(self) -> None:
        """Kill all of it."""
        if self._process and self.is_running:
            self._process.kill()  # its first process goes with it, and takes all others along
            self._process.wait(PATIENCE_S)

    @property
    def init(self) -> int:
        """Process id here of the VM's init, which knows its root."""
        while not self._init:
            assert self._process
            assert self.is_running, self.console
            # unshare, the first process there, the init; what lost its parent there has the first one for it
            for child in [child for first in _children(self._process.pid) for child in _children(first)]:
                if _words(Path(f"/proc/{child}")) == "/bin/sh /sbin-init":
                    self._init = child
            time.sleep(0.01)
        return self._init

    def path(self, path: str) -> Path:
        """Return where a file of the running VM is seen from here."""
        return Path(f"/proc/{self.init}/root") / path

    def text(self, path: str) -> str | None:
        """Return a file's text now, or as it was at the end; None where there is none."""
        try:
            place = self.path(path) if self.is_running else self.guest.root / path
            return place.read_text(errors="backslashreplace")
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None

    def shell(self, *argv: str) -> Done:
        """Run a program in the running VM, and wait for it."""
        enter = (
            "nsenter",
            "--target",
            str(self.init),
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--net",
            "--root",
            "--wd=/",
        )
        return run((*enter, "--", *argv))

    def agent(self, *words: str) -> Done:
        """Run the agent in the running VM, and wait for it."""
        return self.shell("/usr/bin/contextagent", *words)

    def signal(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a process, by its id in the VM, a signal."""
        self.shell("kill", f"-{int(number)}", str(pid))

    def status(self) -> dict[str, Any]:
        """Return `status.json`; empty while there is none."""
        text = self.text("run/contextagent/status.json")
        return dict(json.loads(text)) if text else {}

    def processes(self) -> dict[int, str]:
        """Return the running VM's processes, id there to command line; after its end, those left then."""
        if not self.is_running:
            lines = (line.partition(" ") for line in (self.text("processes") or "").splitlines())
            return {int(pid): words.strip() for pid, _, words in lines if words.strip()}
        found = {int(each.name): _words(each) for each in self.path("proc").iterdir() if each.name.isdecimal()}
        return {pid: words for pid, words in found.items() if words}

    @property
    def console(self) -> str:
        """What all of it said."""
        return self._console.read_text(errors="backslashreplace")

    def until(self, is_so: Callable[[], object], what: str) -> None:
        """Wait until something is so in the VM; its end, or a minute without it, fails the test."""
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert self.is_running, f"the VM has gone before: {what}\n{self.console}"
            assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}\n{self.console}"
            time.sleep(0.02)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _words(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="backslashreplace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
