"""The disk source on real media: images from xorriso, genisoimage and mtools, block devices, mounts and folders."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contextagent.host import Host
from contextagent.policy.settings import load_material, merge
from contextagent.sources.devices import Disk
from contextagent.sources.disk import search_disks
from contextagent.sources.opening import mounted
from tests.disks import SCRIPT, SITES, USERS, disk_of, folder_with, scripts, search, verdicts, warned
from tests.machine import REPOSITORY, make_iso, make_vfat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.model import Owner
    from contextagent.sources.found import Findings

FIXTURES = REPOSITORY / "tests/fixtures/layouts"


@pytest.mark.parametrize("tool", ["xorriso", "genisoimage"])
@pytest.mark.parametrize("options", [("-R",), ("-J",), ("-R", "-J"), ("-R", "-J", "-no-pad")])
@pytest.mark.parametrize("label", ["CONTEXT", "", "anything else"])
def test_an_iso_is_read_whatever_made_and_labelled_it(
    host: Host, both: Path, tmp_path: Path, tool: str, options: tuple[str, ...], label: str
) -> None:
    findings = search(host, make_iso(both, tmp_path / "x.iso", *options, label=label, tool=tool))
    assert scripts(findings, "site") == SITES
    assert scripts(findings, "user") == USERS
    assert [verdict.source for verdict in findings.verdicts] == ["disk:hepix", "disk:hepix"]


def test_plain_iso9660_names_are_those_that_linux_shows(host: Host, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "plain", "prolog.sh", "stop.d/last", "user/epilog.sh")
    image = make_iso(folder, tmp_path / "x.iso", "-iso-level", "2", "-allow-leading-dots", tool="genisoimage")
    findings = search(host, image)
    assert scripts(findings, "user") == USERS
    # a plain ISO9660 name has no second dot and no capitals of its own: `stop.d` is there, as `STOP.D`
    assert scripts(findings, "site") == ["pre-network/prolog.sh", "stop/stop.d/last", "stop/prolog.sh"]


@pytest.mark.parametrize(("options", "length"), [(("-R",), 240), (("-J", "-joliet-long"), 100), (("-R", "-J"), 200)])
def test_long_names_and_names_beyond_ascii_come_out_whole(
    host: Host, tmp_path: Path, options: tuple[str, ...], length: int
) -> None:
    name = "10-" + "größe" + "x" * (length - 10)
    folder = folder_with(tmp_path / "long", f"post-network.d/{name}")
    image = make_iso(folder, tmp_path / "x.iso", *options, tool="xorriso")
    assert scripts(search(host, image), "site") == [f"post-network/post-network.d/{name}"]


@pytest.mark.parametrize("size_kib", [2880, 20000, 80000], ids=["FAT12", "FAT16", "FAT32"])
def test_every_kind_of_fat_is_read_without_a_mount(host: Host, tmp_path: Path, size_kib: int) -> None:
    folder = FIXTURES / "stratuslab-vfat/disk"
    image = make_vfat(folder, tmp_path / "x.img", label="_CLOUD_INIT", size_kib=size_kib)
    findings = search(host, image)
    assert findings.found["user"] is not None
    assert findings.found["user"].user_data == b"#!/bin/sh\necho user\n"
    assert findings.found["user"].source == "disk:stratuslab"


def read_all(findings: Findings, owner: Owner) -> dict[str, bytes]:
    found = findings.found[owner]
    assert found is not None
    return {
        offer.path: b"".join(disk_of(found).chunks(offer.path, max_bytes=1 << 24))
        for offer in found.offers
        if offer.role == "companion"
    }


@pytest.mark.parametrize("kind", ["xorriso", "genisoimage", "vfat", "folder"])
def test_bytes_come_out_as_they_went_in(host: Host, tmp_path: Path, kind: str) -> None:
    folder = folder_with(tmp_path / "data", "epilog.sh")
    for size in (0, 1, 2047, 2048, 2049, 65536, 300_001, 3_000_000):
        (folder / f"data-{size}").write_bytes(os.urandom(size))
    disk = folder
    if kind == "vfat":
        disk = make_vfat(folder, tmp_path / "x.img", size_kib=8000)
    elif kind != "folder":
        disk = make_iso(folder, tmp_path / "x.iso", tool=kind)
    settings = merge(load_material("image", "policy.yaml", b""))
    findings = search_disks(host, settings, override=str(disk))
    try:
        assert read_all(findings, "site") == {path.name: path.read_bytes() for path in folder.iterdir()}
    finally:
        findings.close()


def test_a_file_in_several_extents_is_one_file(host: Host, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "parts", "epilog.sh")
    first, second = os.urandom(4096), os.urandom(1000)
    (folder / "dataa.bin").write_bytes(first)
    (folder / "datab.bin").write_bytes(second)
    image = make_iso(folder, tmp_path / "x.iso", "-iso-level", "3", tool="genisoimage")
    raw = bytearray(image.read_bytes())
    # what a file past 4 GiB looks like: two records of one name, the first with the multi-extent flag
    at = raw.index(b"DATAA.BIN;1")
    raw[at - 33 + 25] |= 0x80
    at = raw.index(b"DATAB.BIN;1")
    raw[at : at + 5] = b"DATAA"
    image.write_bytes(raw)
    settings = merge(load_material("image", "policy.yaml", b""))
    findings = search_disks(host, settings, override=str(image))
    try:
        assert read_all(findings, "site")["dataa.bin"] == first + second
    finally:
        findings.close()


def test_links_devices_and_setuid_bits_on_a_disk_lead_nowhere(host: Host, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "evil", "epilog.sh", "post-network.d/10-good")
    (folder / "default.tgz").symlink_to("/etc/shadow")
    (folder / "epilog.sh").chmod(0o6755)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(folder / "fifo")
    image = make_iso(folder, tmp_path / "x.iso", "-R")
    for disk in (folder, image):
        findings = search(host, disk)
        assert scripts(findings, "site")[0] == "post-network/epilog.sh"
        assert "bundle-on-disk" in warned(findings)
        found = findings.found["site"]
        assert found is not None
        assert {offer.name for offer in found.offers} == {"epilog.sh", "post-network.d/10-good"}


def test_a_default_tgz_on_a_disk_is_not_read_and_that_is_said(host: Host, disk: Path) -> None:
    (disk / "default.tgz").write_bytes(b"x")
    findings = search(host, disk)
    assert warned(findings) == ["bundle-on-disk"]
    assert verdicts(findings, "site") == ["absent"]
    assert {verdict.source for verdict in findings.verdicts} == {"disk"}


def test_a_block_device_is_read_and_nothing_of_it_is_left_mounted(host: Host, dev: Path, loop: Path) -> None:
    os.mknod(dev / "sr0", stat.S_IFBLK | 0o600, loop.stat().st_rdev)
    for override in (None, loop):
        findings = search(host, override)
        assert scripts(findings, "site") == SITES
    assert host.root not in Path("/proc/self/mountinfo").read_text()
    assert list(Path(host.root).glob("run/contextagent/*")) == []


@pytest.fixture
def ext2(both: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a block device with a file system that the tests' kernel can mount."""
    image = tmp_path / "ext2.img"
    subprocess.run(["mkfs.ext2", "-q", "-d", str(both), str(image), "1024"], check=True)
    device = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_mounted_disk_is_read_while_no_mount_is_to_be_seen(host: Host, ext2: Path) -> None:
    # the kernel here may know no iso9660; what happens after mount(2) is the same for every file system
    medium = mounted(host, Disk(name="disk", path=str(ext2), kind="ext2"))  # type: ignore[arg-type]  # no context is on one  # a kind this kernel has
    assert medium.read("user/epilog.sh", max_bytes=100) == SCRIPT.encode()
    assert str(ext2) not in Path("/proc/self/mountinfo").read_text()
    assert list(Path(host.root).glob("run/contextagent/*")) == []
    medium.close()


def test_what_a_killed_agent_left_mounted_is_taken_away(host: Host, ext2: Path) -> None:
    stale = Path(host.root) / "run/contextagent/disk-4194305"  # beyond the highest process id
    stale.mkdir(parents=True)
    subprocess.run(["mount", "-o", "ro", str(ext2), str(stale)], check=True)
    mounted(host, Disk(name="disk", path=str(ext2), kind="ext2")).close()  # type: ignore[arg-type]  # see above  # a kind this kernel has
    assert not stale.exists()
    assert str(stale) not in Path("/proc/self/mountinfo").read_text()


def test_a_disk_that_the_kernel_does_not_mount_is_read_by_the_library(dev: Path, loop: Path) -> None:
    class Mounting(Host):
        """A machine whose kernel has iso9660 and refuses every mount."""

        @staticmethod
        def supports_filesystem(kind: str) -> bool:  # noqa: ARG004  # as the real one
            return True

        def mount(self, device: str, folder: str, kind: str) -> None:  # noqa: ARG002  # as the real one
            raise PermissionError(1, "Operation not permitted")

    findings = search(Mounting(str(dev.parent)), loop)
    assert scripts(findings, "site") == SITES
    findings = search(Mounting(str(dev.parent)), loop, policy="disk:\n  reader: library")
    assert scripts(findings, "site") == SITES
