"""Real guests for tests: Debian's kernel and init in QEMU, without KVM, with our package installed by rpm.

    guest = Guest(folder, SYSTEMD)
    boot = guest.boot("contextagent status > /run/lab/out/status", Setup(cd=iso))

boots the machine, runs the test's shell text in it when everything is up, shuts it down in order, and returns what it
left in /run/lab/out.  The guest speaks on its serial console: `LAB-UP uptime`, then `LAB-RC n` (n: the text's exit
code).  A boot that never says `LAB-RC` (a panic, a hang) is a failure, unless its power was to be cut.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from tests.network import SERVICE, Namespace
from tests.vm.image import image, kernel
from tests.vm.parts import GuestError, run
from tests.vm.ticks import tick_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.vm.image import Kind

# Without these a boot under emulation takes three times as long; none of them concerns what is tested
KERNEL_WORDS = (
    "console=ttyS0 root=/dev/nvme0n1 rw net.ifnames=0 panic=-1 quiet loglevel=3 systemd.show_status=0 mitigations=off "
    "nokaslr norandmaps cryptomgr.notests no5lvl audit=0 apparmor=0 selinux=0 tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1"
)
RESULTS_BYTES = 16 << 20
NOBODY = "02:00:00:00:00:01"


class Setup(NamedTuple):
    """What a machine has at one boot.

    Attributes:
        cd: An ISO for its CD drive; None: it has no drive at all.
        bus: `ide`, or `scsi` (virtio-scsi): the drive's.
        outside: What lies beyond its network card; None: a world of its own, without a metadata service.
        has_network: Whether it has a network card.
        words: Further kernel words (`contextagent=off`, `ro`).
        rtc: What its clock says (`1970-01-01`); empty: the time.
        cache: How QEMU writes: `unsafe`, or `writeback`, which obeys the guest's flushes, for power cuts.
        is_counted: Whether its one processor takes a nanosecond for each instruction, however busy this machine is:
            for measuring; such a boot takes two to three times as long.
    """

    cd: Path | None = None
    bus: Literal["ide", "scsi"] = "ide"
    outside: Outside | None = None
    has_network: bool = True
    words: str = ""
    rtc: str = ""
    cache: Literal["unsafe", "writeback"] = "unsafe"
    is_counted: bool = False


PLAIN = Setup()
"""No drive, and a network without a metadata service."""


class Cut(NamedTuple):
    """When the power is cut: `after_s` seconds after the console first showed `at`, or after the start.

    Attributes:
        at: A regular expression, searched in all that the console showed; empty: the start of QEMU.
        after_s: Seconds of this machine's clock; they are the only ones that an emulated machine can't hold up.
    """

    at: str = ""
    after_s: float = 0


class Boot(NamedTuple):
    """One boot of a guest.

    Attributes:
        console: All that it showed.
        exit_code: The test text's; None: the power was cut before that was told.
        results: The folder with what the text left in /run/lab/out, and with the console.
        wall_s: Seconds on this machine's clock.
        is_cut: Whether the power was cut: a machine that was quicker ends in order.
    """

    console: str
    exit_code: int | None
    results: Path
    wall_s: float
    is_cut: bool

    def read(self, name: str) -> str:
        """Return what the guest left under this name; empty when it left nothing."""
        path = self.results / name
        return path.read_text(errors="backslashreplace") if path.exists() else ""


class Outside(Namespace):
    """What lies beyond a guest's network card: a network namespace that nothing leaves, with the service's address.

    QEMU runs in it, and a server that listens there at 169.254.169.254:80 (`namespace=outside.file`,
    `prefix=outside.prefix`) is what the guest finds at that address.

    Args:
        is_silent: Packets for the service get lost; else they are refused until somebody listens.
    """

    def __init__(self, *, is_silent: bool = False) -> None:
        super().__init__()
        if is_silent:
            self.ip("link add lost type veth peer name end", "link set lost up", "link set end up")
            self.ip(f"address add {SERVICE[:-1]}3/30 dev lost", f"neighbour add {SERVICE} lladdr {NOBODY} dev lost")
        else:
            self.ip(f"address add {SERVICE}/32 dev lo")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Guest:
    """A guest with a root disk of its own, which lives across boots.

    Args:
        folder: Where its disk and its boots' results are put.
        kind: What it is made of.

    Attributes:
        disk: The root disk; ext4 without a partition table.
        boots: How often it was booted.
    """

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder = folder
        self.disk = folder / "root.ext4"
        folder.mkdir(parents=True, exist_ok=True)
        run("cp", "--sparse=always", "--reflink=auto", image(kind), self.disk)
        self.boots = 0

    def boot(self, test: str, setup: Setup = PLAIN, *, cut: Cut | None = None, timeout_s: float = 300) -> Boot:
        """Boot, run `test` in the guest with sh once everything is up, shut down in order, and return what happened.

        Args:
            test: Shell text; what it leaves in /run/lab/out comes back.
            setup: What the machine has this time.
            cut: When its power is cut (SIGKILL to QEMU); None: never.
            timeout_s: Seconds until the guest is given up; a boot takes 10 to 25 on a machine that does nothing else.

        Raises:
            GuestError: The guest never reported an exit code; the message holds the console's end.
        """
        self.boots += 1
        results = self.folder / f"boot-{self.boots}"
        results.mkdir()
        given, taken = self._exchange(test)
        began = time.monotonic()
        outside = setup.outside or Outside()
        try:
            command = [*outside.prefix, *_qemu(setup, self.disk, given, taken)]
            console, is_cut = _watch(command, cut, timeout_s)
        finally:
            if setup.outside is None:
                outside.close()
        wall_s = time.monotonic() - began
        sys.stdout.write(f"{self.folder.name}, boot {self.boots}: {wall_s:.1f} s{', cut' if is_cut else ''}\n")
        (results / "console").write_text(console)
        codes = re.findall(r"^LAB-RC (\d+)$", console, re.MULTILINE)
        if not codes and not is_cut:
            message = f"cannot boot '{self.disk}': no LAB-RC after {wall_s:.0f} s\n{console[-4000:]}"
            raise GuestError(message)
        if not is_cut:
            run("tar", "-xf", taken, "-C", results)  # Debian 12's own tarfile knows no filter yet
        return Boot(console, int(codes[-1]) if codes else None, results, wall_s, is_cut)

    def put(self, files: Mapping[str, str | Path], mode: int = 0o644) -> None:
        """Write root's files onto the disk of a guest that is off, and was shut down in order; folders are made.

        Args:
            files: What is written where: a text, or a file of this machine.
            mode: Of all of them.
        """
        commands = []
        for number, (path, text) in enumerate(files.items()):
            source = text if isinstance(text, Path) else self.folder / f"put-{number}"
            if isinstance(text, str):
                source.write_text(text)
            folders = path.strip("/").split("/")[:-1]
            commands += [f"mkdir /{'/'.join(folders[: depth + 1])}" for depth in range(len(folders))]
            commands += [f"rm {path}", f"write {source} {path}", f"sif {path} mode 0{0o100000 | mode:o}"]
            commands += [f"sif {path} uid 0", f"sif {path} gid 0"]
        run("debugfs", "-w", "-f", "-", self.disk, stdin="\n".join(commands) + "\n")

    def get(self, path: str) -> str:
        """Return a file's text from the disk of a guest that is off; empty when it is not there."""
        return run("debugfs", "-R", f"cat {path}", self.disk)

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder on the disk of a guest that is off; empty when it is not there."""
        lines = run("debugfs", "-R", f"ls -p {folder}", self.disk).splitlines()
        return [line.split("/")[5] for line in lines if line.count("/") > 5 and line.split("/")[5] not in (".", "..")]

    def _exchange(self, test: str) -> tuple[Path, Path]:
        """Return the disk with the test's text, and the empty one for its results."""
        given, taken = self.folder / "given.tar", self.folder / "taken.tar"
        (self.folder / "test").write_text(test)
        with tarfile.open(given, "w") as tar:
            tar.add(self.folder / "test", arcname="test")
        taken.write_bytes(b"")
        os.truncate(taken, RESULTS_BYTES)
        return given, taken


def _watch(command: list[str], cut: Cut | None, timeout_s: float) -> tuple[str, bool]:
    """Run QEMU until it ends, its power is cut or it is given up; return the console, and whether it was cut."""
    data = b""
    deadline = time.monotonic() + timeout_s
    cut_at = time.monotonic() + cut.after_s if cut and not cut.at else None
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as qemu:
        assert qemu.stdout
        while True:
            until = deadline if cut_at is None else min(deadline, cut_at)
            if not select.select([qemu.stdout], [], [], max(0, until - time.monotonic()))[0]:
                qemu.kill()
                break
            piece = os.read(qemu.stdout.fileno(), 1 << 16)
            if not piece:
                cut_at = None
                break
            data += piece
            if cut and cut_at is None and re.search(cut.at.encode(), data):
                cut_at = time.monotonic() + cut.after_s
    return data.decode("utf-8", "replace").replace("\r", ""), cut_at is not None


def _qemu(setup: Setup, disk: Path, given: Path, taken: Path) -> list[str]:
    """Return the words that start QEMU; with nsenter before them, it is still the process that is killed."""
    is_ide = setup.cd is not None and setup.bus == "ide"
    machine = "pc" if is_ide else "q35,sata=off,i8042=off"  # the cloud kernel has no AHCI
    command = ["qemu-system-x86_64", "-M", machine, "-cpu", "qemu64,+rdrand"]
    counted = ["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0"]
    ticks = "" if setup.is_counted else tick_words()
    command += counted if setup.is_counted else ["-accel", "tcg,thread=multi", "-smp", "2"]
    command += ["-m", "384", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]
    command += ["-no-reboot", "-kernel", str(kernel()[0]), "-append", f"{KERNEL_WORDS} {ticks} {setup.words}"]
    command += ["-rtc", f"base={setup.rtc}"] if setup.rtc else []
    for name, path, cache in (("root", disk, setup.cache), ("given", given, "unsafe"), ("taken", taken, "unsafe")):
        command += ["-drive", f"file={path},if=none,id={name},format=raw,cache={cache}"]
        command += ["-device", f"nvme,drive={name},serial={name}"]
    if setup.has_network:
        command += ["-netdev", "user,id=n0,ipv6=off", "-device", "virtio-net-pci,netdev=n0,romfile="]
    if setup.cd:
        command += ["-drive", f"file={setup.cd},if=none,id=cd,format=raw,readonly=on,media=cdrom"]
        command += ["-device", "virtio-scsi-pci,id=scsi0"] if setup.bus == "scsi" else []
        command += ["-device", "ide-cd,bus=ide.0,drive=cd" if is_ide else "scsi-cd,bus=scsi0.0,drive=cd"]
    return command
