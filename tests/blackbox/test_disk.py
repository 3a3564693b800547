"""The disk source on real media: images from xorriso, genisoimage and mtools, drives, folders, what they lead to."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.errors import UsageError
from contextagent.host import Host
from contextagent.policy.settings import load_material, merge
from contextagent.sources.devices import Disk, find_disks
from contextagent.sources.disk import DiskFindings, search_disks
from contextagent.sources.opening import mounted
from tests.machine import REPOSITORY, Machine, make_iso, make_vfat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.model import Owner

FIXTURES = REPOSITORY / "tests/fixtures/layouts"
SCRIPT = "#!/bin/sh\n"


class HastyHost(Host):
    """A machine where a second passes whenever somebody looks at the clock, and drives say what they are told to."""

    def __init__(self, root: str, status: str = "ok") -> None:
        super().__init__(root)
        self.seconds = 0
        self.status = status

    def mono_ns(self) -> int:  # type: ignore[override]  # the real one needs no machine
        self.seconds += 1
        return self.seconds * 10**9

    def drive_status(self, device: str) -> Any:  # type: ignore[override]  # noqa: ARG002  # as above
        return self.status


def _search(host: Host, override: object = None, *, policy: str = "") -> DiskFindings:
    settings = merge(load_material("image", "policy.yaml", policy.encode()))
    findings = search_disks(host, settings, override=None if override is None else str(override))
    findings.close()
    return findings


def _scripts(findings: DiskFindings, owner: Owner) -> list[str]:
    found = findings.found[owner]
    return [f"{offer.phase}/{offer.name}" for offer in found.offers if offer.role == "script"] if found else []


def _verdicts(findings: DiskFindings, owner: Owner) -> list[str]:
    return [verdict.verdict for verdict in findings.verdicts if verdict.owner == owner]


def _reasons(findings: DiskFindings, owner: Owner) -> str:
    return "; ".join(verdict.reason for verdict in findings.verdicts if verdict.owner == owner)


def _warned(findings: DiskFindings) -> list[str]:
    return [problem.reason for problem in findings.warnings]


def _names(host: Host, *, rom: bool = False) -> list[str]:
    return [disk.name.removeprefix("/dev/") for disk in find_disks(host) if disk.is_rom or not rom]


def _folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(SCRIPT)
    return path


@pytest.fixture
def host(machine: Machine) -> Host:
    (machine.root / "dev").mkdir()
    return Host(str(machine.root))


@pytest.fixture
def dev(host: Host) -> Path:
    """Return the folder of the machine's devices, where an image file stands for a drive."""
    return Path(host.root) / "dev"


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Return a folder with a site's and a user's scripts."""
    return _folder(tmp_path / "both", "prolog.sh", "post-network.d/10-first", "user/epilog.sh")


SITES = ["pre-network/prolog.sh", "post-network/post-network.d/10-first", "stop/prolog.sh"]
USERS = ["post-network/epilog.sh", "stop/epilog.sh"]


@pytest.mark.parametrize("tool", ["xorriso", "genisoimage"])
@pytest.mark.parametrize("options", [("-R",), ("-J",), ("-R", "-J"), ("-R", "-J", "-no-pad")])
@pytest.mark.parametrize("label", ["CONTEXT", "", "anything else"])
def test_an_iso_is_read_whatever_made_and_labelled_it(
    host: Host, both: Path, tmp_path: Path, tool: str, options: tuple[str, ...], label: str
) -> None:
    findings = _search(host, make_iso(both, tmp_path / "x.iso", *options, label=label, tool=tool))
    assert _scripts(findings, "site") == SITES
    assert _scripts(findings, "user") == USERS
    assert [verdict.source for verdict in findings.verdicts] == ["disk:hepix", "disk:hepix"]


def test_plain_iso9660_names_are_those_that_linux_shows(host: Host, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "plain", "prolog.sh", "stop.d/last", "user/epilog.sh")
    image = make_iso(folder, tmp_path / "x.iso", "-iso-level", "2", "-allow-leading-dots", tool="genisoimage")
    findings = _search(host, image)
    assert _scripts(findings, "user") == USERS
    # a plain ISO9660 name has no second dot and no capitals of its own: `stop.d` is there, as `STOP.D`
    assert _scripts(findings, "site") == ["pre-network/prolog.sh", "stop/stop.d/last", "stop/prolog.sh"]


@pytest.mark.parametrize(("options", "length"), [(("-R",), 240), (("-J", "-joliet-long"), 100), (("-R", "-J"), 200)])
def test_long_names_and_names_beyond_ascii_come_out_whole(
    host: Host, tmp_path: Path, options: tuple[str, ...], length: int
) -> None:
    name = "10-" + "größe" + "x" * (length - 10)
    folder = _folder(tmp_path / "long", f"post-network.d/{name}")
    image = make_iso(folder, tmp_path / "x.iso", *options, tool="xorriso")
    assert _scripts(_search(host, image), "site") == [f"post-network/post-network.d/{name}"]


@pytest.mark.parametrize("size_kib", [2880, 20000, 80000], ids=["FAT12", "FAT16", "FAT32"])
def test_every_kind_of_fat_is_read_without_a_mount(host: Host, tmp_path: Path, size_kib: int) -> None:
    folder = FIXTURES / "stratuslab-vfat/disk"
    image = make_vfat(folder, tmp_path / "x.img", label="_CLOUD_INIT", size_kib=size_kib)
    findings = _search(host, image)
    assert findings.found["user"] is not None
    assert findings.found["user"].user_data == b"#!/bin/sh\necho user\n"
    assert findings.found["user"].source == "disk:stratuslab"


def _read_all(findings: DiskFindings, owner: Owner) -> dict[str, bytes]:
    found = findings.found[owner]
    assert found is not None
    return {
        offer.path: b"".join(found.medium.chunks(offer.path, max_bytes=1 << 24))
        for offer in found.offers
        if offer.role == "companion"
    }


@pytest.mark.parametrize("kind", ["xorriso", "genisoimage", "vfat", "folder"])
def test_bytes_come_out_as_they_went_in(host: Host, tmp_path: Path, kind: str) -> None:
    folder = _folder(tmp_path / "data", "epilog.sh")
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
        assert _read_all(findings, "site") == {path.name: path.read_bytes() for path in folder.iterdir()}
    finally:
        findings.close()


def test_a_file_in_several_extents_is_one_file(host: Host, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "parts", "epilog.sh")
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
        assert _read_all(findings, "site")["dataa.bin"] == first + second
    finally:
        findings.close()


def test_links_devices_and_setuid_bits_on_a_disk_lead_nowhere(host: Host, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "evil", "epilog.sh", "post-network.d/10-good")
    (folder / "default.tgz").symlink_to("/etc/shadow")
    (folder / "epilog.sh").chmod(0o6755)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(folder / "fifo")
    image = make_iso(folder, tmp_path / "x.iso", "-R")
    for disk in (folder, image):
        findings = _search(host, disk)
        assert _scripts(findings, "site")[0] == "post-network/epilog.sh"
        assert "bundle-on-disk" in _warned(findings)
        found = findings.found["site"]
        assert found is not None
        assert {offer.name for offer in found.offers} == {"epilog.sh", "post-network.d/10-good"}


def test_a_default_tgz_on_a_disk_is_not_read_and_that_is_said(host: Host, disk: Path) -> None:
    (disk / "default.tgz").write_bytes(b"x")
    findings = _search(host, disk)
    assert _warned(findings) == ["bundle-on-disk"]
    assert _verdicts(findings, "site") == ["absent"]
    assert {verdict.source for verdict in findings.verdicts} == {"disk"}


def test_rom_drives_are_asked_by_number_and_before_all_others(host: Host, dev: Path, both: Path) -> None:
    for name in ("sr10", "vda1", "sr2", "hda", "xvdb", "sdb"):
        make_iso(both, dev / name, label=name)
    _folder(dev, "loop0", "sr", "srx", "sd1", "sda/x", "tty1")
    assert _names(host) == ["sr2", "sr10", "hda", "sdb", "vda1", "xvdb"]
    (Path(host.root) / "proc/ide/hda").mkdir(parents=True)
    (Path(host.root) / "proc/ide/hda/media").write_text("cdrom\n")
    (Path(host.root) / "sys/class/block/sdb/device").mkdir(parents=True)
    (Path(host.root) / "sys/class/block/sdb/device/type").write_text("5\n")
    assert _names(host) == ["sr2", "sr10", "hda", "sdb", "vda1", "xvdb"]
    assert _names(host, rom=True) == ["sr2", "sr10", "hda", "sdb"]


def test_each_owner_has_the_first_disk_with_its_material(host: Host, dev: Path, tmp_path: Path) -> None:
    make_iso(_folder(tmp_path / "a", "site/prolog.sh"), dev / "sr0")
    make_iso(_folder(tmp_path / "b", "site/epilog.sh", "user/prolog.sh"), dev / "sr1")
    findings = _search(host)
    assert _scripts(findings, "site") == ["pre-network/prolog.sh", "stop/prolog.sh"]
    assert _scripts(findings, "user") == ["pre-network/prolog.sh", "stop/prolog.sh"]
    assert _warned(findings) == ["second-disk"]
    assert "'/dev/sr1'" in findings.warnings[0].message
    assert [(verdict.owner, verdict.reason) for verdict in findings.verdicts] == [
        ("site", "'/dev/sr0' (library)"),
        ("user", "'/dev/sr1' (library)"),
    ]


def test_only_a_rom_or_a_named_device_speaks_as_the_site(host: Host, dev: Path, both: Path) -> None:
    make_iso(both, dev / "xvdb")
    findings = _search(host)
    assert findings.found["site"] is None
    assert _verdicts(findings, "site") == ["absent"]
    assert _reasons(findings, "site") == "'/dev/xvdb' may not speak as the site"
    assert "pre-network/prolog.sh" in _scripts(findings, "user")
    assert "post-network/epilog.sh" in _scripts(findings, "user")
    for policy in ("disk:\n  site_devices: [rom, xvdb]", "preset: hepix2012"):
        findings = _search(host, policy=policy)
        assert _scripts(findings, "site") == SITES
        assert _scripts(findings, "user") == USERS
        assert findings.found["site"] is not None
        assert findings.found["site"].trust == "channel"


def test_flat_names_are_the_users_where_policy_says_so(host: Host, both: Path) -> None:
    findings = _search(host, both, policy="disk:\n  flat_owner: user")
    assert _verdicts(findings, "site") == ["absent"]
    assert set(_scripts(findings, "user")) == {*SITES, *USERS}


def test_variables_and_keys_alone_are_used_and_end_no_search(host: Host, dev: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/context.sh").write_text("VMID=7\nSSH_PUBLIC_KEY='ssh-rsa AAAA a'\n")
    make_iso(tmp_path / "keys", dev / "sr0")
    findings = _search(host)
    assert _verdicts(findings, "site") == ["absent"]
    assert findings.found["site"] is not None
    assert not findings.found["site"].is_material
    assert findings.ids == {"vmid": "7"}
    make_iso(_folder(tmp_path / "scripts", "site/epilog.sh"), dev / "sr1")
    assert _scripts(_search(host), "site") == ["post-network/epilog.sh", "stop/epilog.sh"]


def test_a_strangers_disk_does_not_say_which_instance_this_is(host: Host, dev: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/context.sh").write_text("VMID=666\n")
    make_iso(FIXTURES / "opennebula/disk", dev / "sr0")
    make_iso(tmp_path / "data", dev / "vdb")
    assert _search(host).ids == {"vmid": "1017"}


def test_a_partition_that_shows_its_whole_disks_volume_is_looked_at_once(host: Host, dev: Path, both: Path) -> None:
    make_iso(both, dev / "sdb")
    (dev / "sdb1").write_bytes((dev / "sdb").read_bytes())
    assert _names(host) == ["sdb"]


def test_no_drive_means_absent_for_both_without_any_wait(machine: Machine) -> None:
    host = HastyHost(str(machine.root))
    findings = _search(host)
    assert [(verdict.verdict, verdict.reason) for verdict in findings.verdicts] == [("absent", "no disk")] * 2
    assert host.seconds < 10


def test_a_disk_that_is_expected_and_missing_is_broken_after_30_seconds(machine: Machine) -> None:
    host = HastyHost(str(machine.root))
    findings = _search(host, policy="disk:\n  expected: yes")
    assert _verdicts(findings, "site") == ["broken"]
    assert _verdicts(findings, "user") == ["broken"]
    assert _reasons(findings, "user").startswith("missing: cannot find a context disk in 30 s")
    assert 30 <= host.seconds < 60


def test_a_queue_of_udevs_is_waited_for_but_not_for_ever(machine: Machine) -> None:
    machine.put("run/udev/queue", "")
    host = HastyHost(str(machine.root))
    assert _verdicts(_search(host), "site") == ["absent"]
    assert 5 <= host.seconds < 20


def test_a_drive_that_never_gets_ready_is_broken_after_10_seconds(machine: Machine) -> None:
    machine.put("dev/sr0", b"")
    host = HastyHost(str(machine.root), status="not-ready")
    findings = _search(host)
    assert _reasons(findings, "site").startswith("not-ready: cannot read '/dev/sr0'")
    assert 10 <= host.seconds < 30


def test_an_empty_drive_is_absent(host: Host, dev: Path) -> None:
    (dev / "sr0").write_bytes(b"")
    assert _verdicts(_search(host), "site") == ["absent"]


def _spoil(image: Path) -> None:
    """Leave the superblock, and destroy what it points to."""
    raw = bytearray(image.read_bytes())
    raw[34 * 512 * 4 :: 3] = b"\xff" * len(raw[34 * 512 * 4 :: 3])
    raw[16 * 2048 + 132 : 16 * 2048 + 156] = b"\xff" * 24
    image.write_bytes(raw)


def test_a_spoilt_rom_ends_the_search_of_both_owners(host: Host, dev: Path, both: Path) -> None:
    _spoil(make_iso(both, dev / "sr0"))
    make_iso(both, dev / "sr1")
    findings = _search(host)
    assert findings.found == {"site": None, "user": None}
    assert _verdicts(findings, "site") == ["broken"]
    assert _verdicts(findings, "user") == ["broken"]
    findings = _search(host, policy="disk:\n  broken: next")
    assert _verdicts(findings, "site") == ["broken", "found"]
    assert _scripts(findings, "site") == SITES


def test_a_spoilt_disk_after_the_one_that_won_costs_only_a_warning(host: Host, dev: Path, both: Path) -> None:
    make_iso(both, dev / "sr0")
    _spoil(make_iso(both, dev / "sr1"))
    findings = _search(host)
    assert _verdicts(findings, "site") == ["found"]
    assert set(_warned(findings)) == {"broken-disk"}


def test_a_spoilt_disk_of_a_strangers_is_passed_over_with_a_warning(host: Host, dev: Path, both: Path) -> None:
    _spoil(make_iso(both, dev / "sdb"))
    make_iso(both, dev / "vdb")
    findings = _search(host)
    assert _verdicts(findings, "user") == ["found"]
    assert "unreadable-disk" in _warned(findings)


def test_a_users_broken_part_leaves_the_sites_alone(host: Host, both: Path, tmp_path: Path) -> None:
    (both / "context.sh").write_text("EC2_USER_DATA='?'\n")
    findings = _search(host, make_iso(both, tmp_path / "x.iso"))
    assert _verdicts(findings, "site") == ["found"]
    assert _verdicts(findings, "user") == ["broken"]
    assert findings.found["user"] is None


def test_a_disk_that_does_not_exist_is_the_callers_mistake(machine: Machine) -> None:
    with pytest.raises(UsageError):
        _search(Host(str(machine.root)), "/nowhere/at/all")
    done = machine.run("plan", "--disk", "/nowhere/at/all")
    assert done.code == 64
    assert "cannot use '/nowhere/at/all' as a disk: No such file or directory" in done.err


@pytest.mark.parametrize("kind", ["text", "empty", "fifo", "device", "ext2", "unreadable"])
def test_what_is_no_disk_is_broken(host: Host, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk.img"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "ext2":
        path.write_bytes(bytes(1 << 20))
        subprocess.run(["mkfs.ext2", "-q", "-F", str(path)], check=True)
    elif kind == "unreadable":
        path = Path("/proc/self/mem")
    else:
        path.write_text("no disk\n" * 9999 if kind == "text" else "")
    findings = _search(host, path)
    assert _verdicts(findings, "site") == ["broken"]
    wanted = "read-error" if kind == "unreadable" else "not-a-disk"
    assert _reasons(findings, "user").startswith(f"{wanted}: cannot read '{path}'")


def test_disk_none_tries_no_disk_at_all(host: Host, dev: Path, both: Path) -> None:
    make_iso(both, dev / "sr0")
    for findings in (_search(host, "none"), _search(host, policy="sources: [metadata]")):
        assert findings.verdicts == ()
        assert findings.found == {"site": None, "user": None}


@pytest.fixture
def loop(both: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a real block device that holds the folder as an ISO."""
    image = make_iso(both, tmp_path / "loop.iso")
    device = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_block_device_is_read_and_nothing_of_it_is_left_mounted(host: Host, dev: Path, loop: Path) -> None:
    os.mknod(dev / "sr0", stat.S_IFBLK | 0o600, loop.stat().st_rdev)
    for override in (None, loop):
        findings = _search(host, override)
        assert _scripts(findings, "site") == SITES
    assert host.root not in Path("/proc/self/mountinfo").read_text()
    assert list(Path(host.root).glob("run/contextagent/*")) == []


def test_an_image_of_real_drives_is_found_by_the_program_itself(machine: Machine, both: Path) -> None:
    (machine.root / "dev").mkdir()
    make_iso(both, machine.root / "dev/sr0")
    plan = machine.facts("plan")
    assert [step["id"] for step in plan["steps"] if step["kind"] == "script"] == [
        "site/pre-network/prolog.sh",
        "user/post-network/epilog.sh",
        "site/post-network/post-network.d/10-first",
        "site/stop/prolog.sh",
        "user/stop/epilog.sh",
    ]


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
    medium = mounted(host, Disk(name="disk", path=str(ext2), kind="ext2"))  # type: ignore[arg-type]  # a kind this kernel has
    assert medium.read("user/epilog.sh", max_bytes=100) == SCRIPT.encode()
    assert str(ext2) not in Path("/proc/self/mountinfo").read_text()
    assert list(Path(host.root).glob("run/contextagent/*")) == []
    medium.close()


def test_what_a_killed_agent_left_mounted_is_taken_away(host: Host, ext2: Path) -> None:
    stale = Path(host.root) / "run/contextagent/disk-4194305"  # beyond the highest process id
    stale.mkdir(parents=True)
    subprocess.run(["mount", "-o", "ro", str(ext2), str(stale)], check=True)
    mounted(host, Disk(name="disk", path=str(ext2), kind="ext2")).close()  # type: ignore[arg-type]  # a kind this kernel has
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

    findings = _search(Mounting(str(dev.parent)), loop)
    assert _scripts(findings, "site") == SITES
    findings = _search(Mounting(str(dev.parent)), loop, policy="disk:\n  reader: library")
    assert _scripts(findings, "site") == SITES


def test_a_drive_that_says_it_is_empty_or_open_is_left_alone(machine: Machine, both: Path) -> None:
    (machine.root / "dev").mkdir()
    make_iso(both, machine.root / "dev/sr0")
    for status in ("no-disc", "tray-open"):
        assert _verdicts(_search(HastyHost(str(machine.root), status=status)), "site") == ["absent"]
    assert _verdicts(_search(HastyHost(str(machine.root), status="unknown")), "site") == ["found"]


def test_a_spoilt_rom_that_may_not_speak_as_the_site_is_broken_for_the_user_alone(
    host: Host, dev: Path, both: Path
) -> None:
    _spoil(make_iso(both, dev / "sr0"))
    findings = _search(host, policy="disk:\n  site_devices: [vdb]")
    assert _verdicts(findings, "site") == ["absent"]
    assert _verdicts(findings, "user") == ["broken"]
