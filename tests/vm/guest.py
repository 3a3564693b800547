"""A real guest for tests: Debian's kernel, systemd and Python in QEMU, without KVM, from parts kept below `.cache/vm`.

`BootedGuest(folder).boot(cd=…)` boots the machine, runs a test's shell text in it when everything is up, and returns
what it left in /run/lab/out.  The guest speaks on its serial console: `LAB-UP uptime`, then `LAB-RC n` (n: the text's
exit code).  A boot that never says `LAB-RC` (a panic, a hang) is a failure.

Every part is kept under the digest of the recipe that made it: the kernel, the root tree (40 s), the image with this
project in it (5 s).  Parts are made under another name and renamed, so that an interrupted build leaves nothing half.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
CACHE = Path(os.environ.get("CONTEXTAGENT_VM_CACHE", PROJECT / ".cache" / "vm"))

TOOLS = ("qemu-system-x86_64", "mmdebstrap", "mke2fs", "lz4", "depmod", "dpkg-deb", "xorriso")
KERNEL_PACKAGE = "linux-image-cloud-amd64"
PACKAGES = ("systemd", "systemd-sysv", "udev", "iproute2", "python3", "kmod")
# ext4 and NVMe are built into this kernel; all that a CD, a volume and a network card need is not
MODULES = """
virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio_net net_failover failover virtio_scsi
virtio-rng scsi_common scsi_mod cdrom sr_mod sd_mod sg libata ata_piix ata_generic isofs udf crc-itu-t nls_iso8859-1
nls_utf8 nls_cp437 nls_ascii fat vfat autofs4 loop overlay crc32c-intel crct10dif_common crct10dif_generic crc-t10dif
crc64 crc64-rocksoft crc64-rocksoft_generic
""".split()
# Without these a boot under emulation takes three times as long; none of them concerns what is tested
KERNEL_WORDS = (
    "console=ttyS0 root=/dev/nvme0n1 rw net.ifnames=0 panic=-1 quiet loglevel=3 systemd.show_status=0 mitigations=off "
    "nokaslr norandmaps cryptomgr.notests no5lvl audit=0 apparmor=0 selinux=0 tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1"
)
# Units with no part in the test that cost emulated seconds
MASKED = """
console-getty.service dbus.service dbus.socket dev-hugepages.mount dev-mqueue.mount getty-static.service
getty@tty1.service kmod-static-nodes.service ldconfig.service modprobe@.service proc-sys-fs-binfmt_misc.automount
serial-getty@ttyS0.service sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount
sys-kernel-tracing.mount systemd-ask-password-console.path systemd-ask-password-wall.path systemd-binfmt.service
systemd-boot-system-token.service systemd-firstboot.service systemd-hwdb-update.service systemd-journal-flush.service
systemd-logind.service systemd-machine-id-commit.service systemd-network-generator.service
systemd-pcrphase-sysinit.service systemd-pcrphase.service systemd-random-seed.service systemd-repart.service
systemd-sysusers.service systemd-update-done.service systemd-update-utmp-runlevel.service systemd-update-utmp.service
systemd-user-sessions.service
""".split()
UDEV_RULES = """
50-udev-default.rules 60-block.rules 60-cdrom_id.rules 60-persistent-storage.rules 80-drivers.rules
80-net-setup-link.rules 99-systemd.rules
""".split()
LAUNCHER = '#!/bin/sh\nexec /usr/bin/python3.11 -IS /usr/lib/contextagent/contextagent/__main__.py "$@"\n'
NETWORK = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
RESULTS_BYTES = 16 << 20


class Boot(NamedTuple):
    """One boot of a guest: all that the console showed, the test text's exit code, its results, and seconds."""

    console: str
    exit_code: int
    results: Path
    wall_s: float


class GuestError(Exception):
    """The guest did not come as far as the test's text, or a part of it could not be made."""


def missing_tools() -> list[str]:
    """Return the programs that this machine lacks for building and booting a guest; empty when all are there."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


class BootedGuest:
    """A guest with a root disk of its own, which lives across boots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = folder / "root.ext4"
        folder.mkdir(parents=True, exist_ok=True)
        _run("cp", "--sparse=always", "--reflink=auto", image(), self.disk)
        self.boots = 0

    def boot(self, *, test: str, cd: Path | None = None, bus: str = "ide", timeout_s: float = 240) -> Boot:
        """Boot, run `test` in the guest with sh once all units are up, shut down in order, and return what happened.

        Args:
            test: Shell text; what it leaves in /run/lab/out comes back.
            cd: An ISO for the guest's CD drive; None: the guest has no drive at all.
            bus: `ide`, or `scsi` (virtio-scsi).
            timeout_s: Seconds until the guest is killed; a boot takes 10 to 25.

        Raises:
            GuestError: The guest never reported an exit code; the message holds the console's end.
        """
        self.boots += 1
        results = self.folder / f"boot-{self.boots}"
        results.mkdir()
        given, taken = self.folder / "given.tar", self.folder / "taken.tar"
        (self.folder / "test").write_text(test)
        with tarfile.open(given, "w") as tar:
            tar.add(self.folder / "test", arcname="test")
        taken.write_bytes(b"")
        os.truncate(taken, RESULTS_BYTES)
        began = time.monotonic()
        console = self._console(_qemu(self.disk, given, taken, cd, bus), timeout_s)
        wall_s = time.monotonic() - began
        (results / "console").write_text(console)
        codes = [line.split()[1] for line in console.splitlines() if line.startswith("LAB-RC ")]
        if not codes:
            message = f"cannot boot '{self.disk}': no LAB-RC after {wall_s:.0f} s\n{console[-4000:]}"
            raise GuestError(message)
        _run("tar", "-xf", taken, "-C", results)  # Debian 12's own tarfile knows no filter yet
        return Boot(console, int(codes[-1]), results, wall_s)

    def _console(self, command: list[str], timeout_s: float) -> str:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
            try:
                output = p.communicate(timeout=timeout_s)[0]
            except subprocess.TimeoutExpired:
                p.kill()
                output = p.communicate()[0]
        return output.decode("utf-8", "replace").replace("\r", "")


def image() -> Path:
    """Return the guest's root disk with this project's package in it, made where it is not there yet."""
    tree, (vmlinux, modules) = root_tree(), kernel()
    extension = _extension()
    sources = sorted((PROJECT / "contextagent").rglob("*.py"))
    parts = [*sources, extension, HERE / "guest.py", HERE / "lab-report", *sorted((HERE / "units").iterdir())]
    digest = _digest(*(part.read_bytes() for part in parts), tree.name.encode(), vmlinux.parent.name.encode())
    with _made(f"image-{digest}") as (disk, work):
        if work is not None:
            root = work.with_suffix(".root")
            try:
                _run("cp", "-a", "--reflink=auto", tree, root)
                _install(root, modules, sources, extension)
                _make_disk(root, work)
            finally:
                shutil.rmtree(root)
    return disk


def root_tree() -> Path:
    """Return a folder with Debian's root tree, trimmed for emulation; made by mmdebstrap where it is not there yet."""
    options = ["--variant=essential", "--format=directory", "--mode=root", f"--include={','.join(PACKAGES)}", "--quiet"]
    options += ['--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"']
    options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "doc")]
    with _made(f"root-{_digest(*map(str.encode, [*options, *MASKED, *UDEV_RULES]))}") as (tree, work):
        if work is not None:
            _run("mmdebstrap", *options, "--dpkgopt=force-unsafe-io", "bookworm", work)
            _trim(work)
    return tree


def kernel() -> tuple[Path, Path]:
    """Return Debian's cloud kernel, unpacked to an ELF that QEMU starts directly, and its modules' folder."""
    depends = _run("apt-cache", "depends", KERNEL_PACKAGE)
    package = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    with _made(f"kernel-{package}") as (folder, work):
        if work is not None:
            work.mkdir()
            _run("apt-get", "download", "-q", package, cwd=work)
            deb = next(work.glob("*.deb"))
            _run("dpkg-deb", "-x", deb, work)
            packed = next(work.glob("boot/vmlinuz-*")).read_bytes()
            lz4 = packed[packed.index(b"\x02\x21\x4c\x18") :]  # the legacy frame that kernels carry; padding follows it
            (work / "vmlinux").write_bytes(
                subprocess.run(["lz4", "-dc"], input=lz4, capture_output=True, check=False).stdout
            )
            deb.unlink()
    return folder / "vmlinux", next((folder / "lib" / "modules").iterdir())


def _trim(root: Path) -> None:
    """Take out of a fresh Debian tree what only costs emulated seconds, and give it a console, a name and a network."""
    etc = root / "etc"
    for path, text in {
        "hostname": "guest\n",
        "hosts": "127.0.0.1 localhost guest\n",
        "machine-id": "a" + "0" * 30 + "1\n",
        "fstab": "",
        "resolv.conf": "nameserver 10.0.2.3\n",
        "systemd/network/eth0.network": NETWORK,
    }.items():
        (etc / path).unlink(missing_ok=True)
        (etc / path).write_text(text)
    for unit in MASKED:
        _link(etc / "systemd/system" / unit, "/dev/null")
    for wants in ("timers.target.wants", "getty.target.wants"):
        shutil.rmtree(etc / "systemd/system" / wants, ignore_errors=True)
    shutil.rmtree(root / "usr/lib/systemd/system-generators")
    for rules in (root / "usr/lib/udev/rules.d").iterdir():
        if rules.name not in UDEV_RULES:
            rules.unlink()


def _install(root: Path, modules: Path, sources: list[Path], extension: Path) -> None:
    """Put kernel modules, the test's units and this project into a root tree."""
    library = root / "usr/lib/contextagent"
    for path in [*sources, extension]:
        target = library / path.relative_to(PROJECT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    _run("chroot", root, "python3.11", "-m", "compileall", "-q", "/usr/lib/contextagent")
    _write(root / "usr/bin/contextagent", LAUNCHER, 0o755)
    _write(root / "usr/local/sbin/lab-report", (HERE / "lab-report").read_text(), 0o755)
    units = root / "etc/systemd/system"
    for unit in (HERE / "units").iterdir():
        shutil.copy(unit, units)
    _link(units / "default.target", "lab.target")
    for wants, name in (
        ("multi-user.target.wants", "contextagent-pre-network.service"),
        ("multi-user.target.wants", "contextagent.service"),
        ("lab.target.wants", "lab-report.service"),
    ):
        _link(units / wants / name, f"../{name}")
    for wants, name in (
        ("multi-user.target.wants", "systemd-networkd.service"),
        ("network-online.target.wants", "systemd-networkd-wait-online.service"),
    ):
        _link(units / wants / name, f"/lib/systemd/system/{name}")
    _install_modules(root, modules)


def _install_modules(root: Path, modules: Path) -> None:
    kept = root / "usr/lib/modules" / modules.name
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / name, kept)
    wanted = {name.replace("-", "_") for name in MODULES}
    for module in modules.rglob("*.ko"):
        if module.stem.replace("-", "_") in wanted:
            target = kept / module.relative_to(modules)
            target.parent.mkdir(parents=True, exist_ok=True)
            # without debug data and signature the emulated kernel loads them three times faster
            _run("objcopy", "--strip-debug", "-R", ".BTF", module, target)
    _run("depmod", "-b", root, modules.name)


def _make_disk(root: Path, disk: Path) -> None:
    disk.write_bytes(b"")
    os.truncate(disk, 600 << 20)
    features = "^64bit,^metadata_csum"
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-m", "0", "-N", "30000", "-d", root, disk)


def _qemu(disk: Path, given: Path, taken: Path, cd: Path | None, bus: str) -> list[str]:
    machine = "pc" if cd and bus == "ide" else "q35,sata=off,i8042=off"  # the cloud kernel has no AHCI
    command = ["qemu-system-x86_64", "-M", machine, "-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand"]
    command += ["-smp", "2", "-m", "384", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]
    command += ["-no-reboot", "-kernel", str(kernel()[0]), "-append", KERNEL_WORDS]
    for name, path in (("root", disk), ("given", given), ("taken", taken)):
        command += ["-drive", f"file={path},if=none,id={name},format=raw,cache=unsafe"]
        command += ["-device", f"nvme,drive={name},serial={name}"]
    # DHCP answers, but nothing leaves the machine
    command += ["-netdev", "user,id=n0,ipv6=off,restrict=on", "-device", "virtio-net-pci,netdev=n0,romfile="]
    if cd:
        command += ["-drive", f"file={cd},if=none,id=cd,format=raw,readonly=on,media=cdrom"]
        if bus == "scsi":
            command += ["-device", "virtio-scsi-pci,id=scsi0"]
        command += ["-device", "scsi-cd,bus=scsi0.0,drive=cd" if bus == "scsi" else "ide-cd,bus=ide.0,drive=cd"]
    return command


def _extension() -> Path:
    """Return the built `_guestos`, which `make setup` leaves beside its source; Python 3.11 here and in the guest."""
    built = sorted((PROJECT / "contextagent" / "host").glob("_guestos*.so"))
    if not built:
        message = f"cannot find '_guestos' below '{PROJECT}': not built (make setup)"
        raise GuestError(message)
    return built[0]


@contextmanager
def _made(name: str) -> Iterator[tuple[Path, Path | None]]:
    """Yield a part's place in the cache, and where to make it (None when it is there); rename it when it is made."""
    part = CACHE / name
    if part.exists():
        yield part, None
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    work = CACHE / f"making-{name}-{os.getpid()}"
    try:
        yield part, work
        work.rename(part)
    except BaseException:
        _run("rm", "-rf", work)
        raise
    for old in CACHE.glob(name.partition("-")[0] + "-*"):  # one of each kind is enough: an older recipe's is of no use
        if old != part:
            _run("rm", "-rf", old)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        message = f"cannot run '{command[0]}': exit {error.returncode}: {error.stderr[-2000:]}"
        raise GuestError(message) from error
    return done.stdout


if __name__ == "__main__":
    sys.stdout.write(f"{image()}\n")
