"""Root disks of guests: a Debian without Python, into which rpm has installed the package that `make rpm` builds.

A `Kind` says what a guest is made of; `image(kind)` returns its disk.  The kernel (20 s), the root tree (60 s), the
packages (10 s) and the disk (10 s) are kept, each under the digest of what it was made of.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from tests.vm.parts import HERE, PROJECT, GuestError, made, run, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KERNEL_PACKAGE = "linux-image-cloud-amd64"
# ext4 and NVMe are built into this kernel; all that a CD, a volume and a network card need is not
MODULES = """
virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio_net net_failover failover virtio_scsi
virtio-rng scsi_common scsi_mod cdrom sr_mod sd_mod sg libata ata_piix ata_generic isofs udf crc-itu-t nls_iso8859-1
nls_utf8 nls_cp437 nls_ascii fat vfat autofs4 loop overlay crc32c-intel crct10dif_common crct10dif_generic crc-t10dif
crc64 crc64-rocksoft crc64-rocksoft_generic
""".split()
PACKAGED = ("contextagent", "docs/man", "docs/reference", "init", "packaging")
"""What the packages are built of."""
SHELL_SPEC = """
Name: guest-shell
Version: 1
Release: 1
Summary: Says that this root has a shell, which dpkg installed
License: MIT
BuildArch: noarch
Provides: /bin/sh
%description
With it, rpm checks what a package requires.
%files
"""
DISK_BYTES = 600 << 20


class Kind(NamedTuple):
    """What a guest is made of.

    Attributes:
        name: A word; parts in the cache are named by it.
        packages: Debian's packages, beside its essential ones.
        flavour: The flavour of our package that it gets.
        fit: Called with a fresh root tree: takes out what only costs emulated seconds, adds what the lab needs.
        module: The Python file in which this kind is written; with another text of it, another image is made.
        has_python: Whether Debian's Python may be there, for others than the agent.
    """

    name: str
    packages: tuple[str, ...]
    flavour: str
    fit: Callable[[Path], None]
    module: str
    has_python: bool = False

    @property
    def recipe(self) -> str:
        """The text of the kind's module."""
        with open(self.module, encoding="utf-8") as file:
            return file.read()


def image(kind: Kind) -> Path:
    """Return the root disk of a kind of guest, with our package in it, made where it is not there yet."""
    tree, (vmlinux, _), package = root_tree(kind), kernel(), packages()[kind.flavour]
    report = (HERE / "lab-report").read_text()
    made_of = (
        tree.name,
        vmlinux.parent.name,
        package.read_bytes(),
        kind.recipe,
        report,
        (HERE / "image.py").read_text(),
    )
    with made(f"image-{kind.name}", *made_of) as (disk, work):
        if work is not None:
            root = work.with_suffix(".root")
            try:
                fresh_root(kind, root)
                _refuse_python(root, kind)
                install(root, shell_package(), package)
                make_disk(root, work)
            finally:
                run("rm", "-rf", root)
    return disk


def fresh_root(kind: Kind, root: Path) -> None:
    """Make a kind's root in a folder, with all but our package."""
    run("cp", "-a", "--reflink=auto", root_tree(kind), root)
    _install_modules(root, kernel()[1])
    write(root / "usr/local/sbin/lab-report", (HERE / "lab-report").read_text(), 0o755)
    kind.fit(root)


def install(root: Path, *package: Path) -> None:
    """Install packages into a root by rpm: what they require is checked, and their scriptlets run."""
    rpmdb = root / "var/lib/rpm"
    rpmdb.mkdir(parents=True, exist_ok=True)
    write(root / "etc/rpm/macros", "%_dbpath /var/lib/rpm\n")  # Debian's rpm would look in root's home
    for each in package:
        run("rpm", "--root", root, "--dbpath", "/var/lib/rpm", "-i", each)


def packages(number: str = "") -> dict[str, Path]:
    """Return the package of each flavour, of the present tree or with another version; built where that is not done."""
    files = [path for name in PACKAGED for path in sorted((PROJECT / name).rglob("*")) if _is_packaged(path)]
    made_of = [part for path in files for part in (str(path.relative_to(PROJECT)), path.read_bytes())]
    with made(f"packages{number}", *made_of) as (folder, work):
        if work is not None:
            environment = os.environ | {"PYTHON": sys.executable, "NUMBER": number}
            subprocess.run(
                [PROJECT / "packaging/rpm/build.sh", work], env=environment, stdout=subprocess.DEVNULL, check=True
            )
    return {path.name.split(".")[-3]: path for path in sorted(folder.iterdir()) if "-preset-" not in path.name}


def _is_packaged(path: Path) -> bool:
    return path.is_file() and path.suffix not in {".pyc", ".so"}


def shell_package() -> Path:
    """Return a package that provides /bin/sh, as dpkg's shell is unknown to rpm."""
    with made("shell", SHELL_SPEC) as (folder, work):
        if work is not None:
            work.mkdir()
            write(work / "shell.spec", SHELL_SPEC)
            defines = (f"--define=_topdir {work}/build", f"--define=_rpmdir {work}")
            run("rpmbuild", "-bb", "--quiet", *defines, "--define=_build_name_fmt shell.rpm", work / "shell.spec")
    return folder / "shell.rpm"


def root_tree(kind: Kind) -> Path:
    """Return a folder with Debian's root tree; made by mmdebstrap where it is not there yet."""
    options = ["--variant=essential", "--format=directory", "--mode=root", f"--include={','.join(kind.packages)}"]
    options += ["--quiet", '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"']
    options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "doc")]
    with made(f"root-{kind.name}", *options) as (tree, work):
        if work is not None:
            run("mmdebstrap", *options, "--dpkgopt=force-unsafe-io", "bookworm", work)
            shutil.rmtree(work / "var/lib/apt/lists")
            shutil.rmtree(work / "var/cache/apt")
    return tree


def kernel() -> tuple[Path, Path]:
    """Return Debian's cloud kernel, unpacked to an ELF that QEMU starts directly, and its modules' folder."""
    depends = run("apt-cache", "depends", KERNEL_PACKAGE)
    package = next(line.split()[1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    with made("kernel", package) as (folder, work):
        if work is not None:
            work.mkdir()
            run("apt-get", "download", "-q", package, cwd=work)
            deb = next(work.glob("*.deb"))
            run("dpkg-deb", "-x", deb, work)
            packed = next(work.glob("boot/vmlinuz-*")).read_bytes()
            lz4 = packed[packed.index(b"\x02\x21\x4c\x18") :]  # the legacy frame that kernels carry; padding follows it
            (work / "vmlinux").write_bytes(
                subprocess.run(["lz4", "-dc"], input=lz4, capture_output=True, check=False).stdout
            )
            deb.unlink()
    return folder / "vmlinux", next((folder / "lib" / "modules").iterdir())


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
            run("objcopy", "--strip-debug", "-R", ".BTF", module, target)
    run("depmod", "-b", root, modules.name)


def _refuse_python(root: Path, kind: Kind) -> None:
    python = [path for path in root.glob("usr/bin/*python*") if path.exists()]
    if python and not kind.has_python:
        message = f"cannot make '{root}': it has a Python of its own: {python[0]}"
        raise GuestError(message)


def make_disk(root: Path, disk: Path) -> None:
    """Make a disk of a root: ext4 without a partition table."""
    disk.write_bytes(b"")
    os.truncate(disk, DISK_BYTES)
    features = "^64bit,^metadata_csum"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-m", "0", "-N", "30000", "-d", root, disk)
