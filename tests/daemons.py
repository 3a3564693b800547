"""Log daemons for tests: Debian's own, unpacked and never installed, each on a machine of its own below a folder.

    with Network... as in tests/network.py
    machine = Station(folder, namespace)
    with machine.start("rsyslog", "rsyslogd", "-n", "-iNONE") as daemon: ...

A station's root has its own /etc, /var, /run and /dev; /usr is this machine's, with the packages laid over it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.machine import REPOSITORY, Done, Machine, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.network import Namespace

PACKAGES = {
    "rsyslog": ("rsyslog", "rsyslog-relp", "rsyslog-gnutls", "rsyslog-openssl"),
    "syslog-ng": ("syslog-ng-core",),
    "inetutils": ("inetutils-syslogd",),
    "journal": ("systemd-journal-remote",),
    "audit": ("auditd",),
}
"""What is unpacked together, because it conflicts with the others."""
_CACHE = REPOSITORY / ".cache/daemons"
_PATIENCE_S = 60

_ENTER = """
set -eu
root=$1 view=$2 packages=$3; shift 3
mount -t tmpfs -o mode=0755 tmpfs "$view"
cd "$view"
mkdir usr etc var run dev proc sys tmp
for name in bin sbin lib lib64; do ln -s "usr/$name" "$name"; done
mount -t overlay overlay -o "lowerdir=$packages/usr:/usr" usr
for name in etc var run dev; do mount --rbind "$root/$name" "$name"; done
for name in null zero full random urandom; do : >"dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
mount --rbind /proc proc
mount --rbind /sys sys
mountpoint -q sys/fs/cgroup || mount -t cgroup2 cgroup2 sys/fs/cgroup
exec chroot . "$@"
"""


def packages(group: str) -> Path:
    """Return the folder where a group's packages are unpacked; they are got at the first call and kept in `.cache`."""
    place = _CACHE / group
    if not (place / "ready").exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "archives/partial").mkdir(parents=True)
        words = ("-y", "-d", "--no-install-recommends", "--reinstall", "-o", "Debug::NoLocking=1")
        get = ("apt-get", "-qq", *words, "-o", f"Dir::Cache::archives={place}/archives", "install", *PACKAGES[group])
        if subprocess.run(get, capture_output=True, check=False).returncode:
            subprocess.run(["apt-get", "-qq", "update"], check=False)  # a new machine knows no packages
            done = subprocess.run(get, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"the packages of {group} can't be had here: {done.stderr.strip().splitlines()[-1]}")
        for name in ("bin", "sbin", "lib", "lib64"):
            (place / "root/usr" / name).mkdir(parents=True)
            (place / "root" / name).symlink_to(f"usr/{name}")
        for archive in sorted((place / "archives").glob("*.deb")):
            unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"'
            subprocess.run(["sh", "-euc", unpack, "unpack", str(archive), str(place / "root")], check=True)
        (place / "ready").touch()
    return place / "root"


def until(is_so: Callable[[], object], what: str) -> None:
    """Wait until something is so; a minute without it fails the test."""
    end = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, f"not within {_PATIENCE_S} s: {what}"
        time.sleep(0.01)


class Daemon:
    """A daemon that runs; leaving it kills it.

    Attributes:
        pid: Of the daemon itself.
        said: File with what it wrote.
    """

    def __init__(self, station: Station, group: str, *argv: str) -> None:
        self.said = station.folder / "said"
        with self.said.open("ab") as said:
            self._process = subprocess.Popen(
                station.words(group, *argv), stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/"
            )
        self.pid = self._process.pid
        name = os.path.basename(argv[0])[:15]

        def is_there() -> bool:
            assert self.is_running, self.said.read_text()
            return Path(f"/proc/{self.pid}/comm").read_text().strip() == name

        until(is_there, f"{argv[0]} runs")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the daemon a signal and wait for its end."""
        os.kill(self.pid, number)
        self._process.wait(_PATIENCE_S)

    def signal(self, number: int) -> None:
        """Send the daemon a signal."""
        os.kill(self.pid, number)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill it."""
        if self.is_running:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Station(Machine):
    """A machine with a log daemon."""

    def __init__(self, folder: Path, namespace: Namespace) -> None:
        self.folder = folder
        self._namespace = namespace
        self._view = folder / "view"
        self._view.mkdir(parents=True)
        super().__init__(folder / "root")
        for name in ("dev", "run", "var/spool/rsyslog", "var/lib/rsyslog", "var/log", "etc/rsyslog.d"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.put("etc/hosts", "127.0.0.1 localhost\n")
        self.put("etc/services", "syslog 514/udp\n")
        shutil.copytree("/etc/alternatives", self.root / "etc/alternatives", symlinks=True)
        self.put("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\n")

    def words(self, group: str, *argv: str) -> tuple[str, ...]:
        """Return the words that run a program on this machine, with a group's packages."""
        enter = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--uts", "sh", "-c", _ENTER, "enter")
        return (*self._namespace.prefix, *enter, str(self.root), str(self._view), str(packages(group)), *argv)

    def start(self, group: str, *argv: str) -> Daemon:
        """Start a daemon in the foreground."""
        return Daemon(self, group, *argv)

    def ask(self, group: str, *argv: str) -> Done:
        """Run a program, and wait for it."""
        return run(self.words(group, *argv))
