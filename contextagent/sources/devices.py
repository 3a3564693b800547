"""Block devices that may be a context disk: which there are, what their superblocks say, whether they are ready.

Every device is probed afresh by its own bytes; no cache of labels is asked, and no label is needed.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
import time

from contextagent.errors import UsageError
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from contextagent.host import Host
    from contextagent.host.mounts import DriveStatus

    DiskKind = Literal["iso9660", "vfat", "folder", ""]

UDEV_S = 5.0
DRIVE_S = 10.0
_POLL_S = 0.05
_LETTERED = ("xvd", "vd", "hd", "sd")
_SECTOR = 2048
_BOOT_BYTES = 512
_NO_DISC = (errno.ENOMEDIUM, errno.ENXIO, errno.ENOENT)


class Disk(Value):
    """One device, file or folder that may hold a context.

    Attributes:
        name: What a person calls it: `/dev/sr0`, or the path given with `--disk`.
        path: Where it is on this machine.
        kind: What its superblock says; empty for nothing that is known.
        label: Its volume label; empty where it has none.
        is_rom: Whether it is a ROM-type device, or stands for one.
        fault: Why it can't be used, `reason: message`; empty where it can.
        volume: The superblock's bytes, by which one volume seen through two devices is known.
    """

    name: str
    path: str
    kind: DiskKind = ""
    label: str = ""
    is_rom: bool = False
    fault: str = ""
    volume: bytes = b""


def wait_for_udev(host: Host) -> None:
    """Wait until udev has handled what the kernel told it, at most 5 s; a machine without udev is not waited for."""
    end_ns = host.mono_ns() + int(UDEV_S * 1e9)
    while host.files.exists("/run/udev/queue") and host.mono_ns() < end_ns:
        time.sleep(_POLL_S)


def find_disks(host: Host) -> tuple[Disk, ...]:
    """Return every device that could be a context disk, ROM devices by number first, then the others by name.

    A drive that is not ready is waited for, 10 s for all of them together.  Devices of which nothing is known, and
    drives without a disc, are left out; a drive that fails is in, with its fault.
    """
    names = sorted(_names(host), key=lambda name: _rank(host, name))
    end_ns = host.mono_ns() + int(DRIVE_S * 1e9)
    found: list[Disk] = []
    for name in names:
        disk = _device(host, name, end_ns)
        if disk is not None and not _is_twin(disk, found):
            found.append(disk)
    return tuple(found)


def _device(host: Host, name: str, end_ns: int) -> Disk | None:
    shown = f"/dev/{name}"
    path = host.files.real(shown)
    is_rom = is_rom_type(host, name)
    status = _status(host, path, end_ns) if is_rom else "ok"
    if status == "not-ready":
        fault = f"not-ready: cannot read '{shown}': the drive was not ready in {DRIVE_S:.0f} s"
        return Disk(name=shown, path=path, is_rom=True, fault=fault)
    if status in ("no-disc", "tray-open"):
        return None
    try:
        return probe(path, shown, is_rom=is_rom)
    except OSError as error:
        if not is_rom or error.errno in _NO_DISC:
            return None
        fault = f"read-error: cannot read '{shown}': {error.strerror or error}"
        return Disk(name=shown, path=path, is_rom=True, fault=fault)


def is_site_device(disk: Disk, site_devices: Sequence[str]) -> bool:
    """Return whether the settings let a disk speak as the site; a named device's partitions may, too."""
    if disk.is_rom and "rom" in site_devices:
        return True
    named = [f"/dev/{name.removeprefix('/dev/')}" for name in site_devices]
    return disk.name in named or disk.name.rstrip("0123456789") in named


def is_rom_type(host: Host, name: str) -> bool:
    """Return whether the kernel says that a device is a ROM drive: `sr*`, SCSI type 5, or an IDE `cdrom`."""
    if name.startswith("sr"):
        return True
    return (
        _fact(host, f"/sys/class/block/{name}/device/type") == "5" or _fact(host, f"/proc/ide/{name}/media") == "cdrom"
    )


def probe(path: str, name: str, *, is_rom: bool) -> Disk | None:
    """Return what a device or an image file says of itself; None for what is no disk of a known kind.

    Args:
        path: On this machine; links are followed.
        name: What to call it.
        is_rom: Whether it is, or stands for, a ROM device.

    Raises:
        OSError: It can't be read.
    """
    # not O_NONBLOCK: only a plain open has the kernel look for a changed disc
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(fd, _BOOT_BYTES, 0)
        volume = os.pread(fd, _SECTOR, 16 * _SECTOR)
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
    if volume[1:6] == b"CD001":
        kind: DiskKind = "iso9660"
        label, said_bytes = _iso_facts(volume)
    elif is_vfat(head):
        kind, volume = "vfat", head
        label, said_bytes = _vfat_facts(head)
    else:
        return None
    fault = ""
    if size_bytes < said_bytes:
        fault = f"truncated: cannot read '{name}': it has {size_bytes} bytes, its superblock says {said_bytes}"
    return Disk(name=name, path=path, kind=kind, label=label, is_rom=is_rom, volume=volume, fault=fault)


def _iso_facts(volume: bytes) -> tuple[str, int]:
    """Return the label and the size in bytes that a volume descriptor says; nothing for one that is not the primary."""
    if volume[0] != 1 or len(volume) < _SECTOR:
        return "", 0
    blocks = int.from_bytes(volume[80:84], "little")
    return volume[40:72].decode("ascii", "replace").strip(" \0"), blocks * int.from_bytes(volume[128:130], "little")


def _vfat_facts(head: bytes) -> tuple[str, int]:
    """Return the label and the size in bytes that a FAT boot sector says."""
    is_fat32 = head[22:24] == b"\0\0"
    sectors = int.from_bytes(head[19:21], "little") or int.from_bytes(head[32:36], "little")
    label = head[71:82] if is_fat32 else head[43:54]
    return label.decode("ascii", "replace").strip(" \0"), sectors * int.from_bytes(head[11:13], "little")


def named_disk(host: Host, path: str) -> Disk:
    """Return the device, image file or folder that `--disk` names, which stands for a ROM disk.

    Raises:
        UsageError: There is nothing at `path`.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        message = f"cannot use '{path}' as a disk: {error.strerror or error}"
        raise UsageError(message, hint="name a device, an ISO or VFAT image, or a folder") from error
    if stat_bits.S_ISDIR(mode):
        return Disk(name=path, path=path, kind="folder", is_rom=True)
    fault = f"not-a-disk: cannot read '{path}': it is no ISO9660 or VFAT disk and no folder"
    if stat_bits.S_ISBLK(mode) or stat_bits.S_ISREG(mode):
        _status(host, path, host.mono_ns() + int(DRIVE_S * 1e9))
        try:
            disk = probe(path, path, is_rom=True)
        except OSError as error:
            fault = f"read-error: cannot read '{path}': {error.strerror or error}"
        else:
            return disk or Disk(name=path, path=path, is_rom=True, fault=fault)
    return Disk(name=path, path=path, is_rom=True, fault=fault)


def is_vfat(head: bytes) -> bool:
    """Return whether a boot sector is one of FAT12, FAT16 or FAT32."""
    if len(head) < _BOOT_BYTES or head[510:512] != b"\x55\xaa" or head[0] not in (0xEB, 0xE9):
        return False
    sector_bytes = int.from_bytes(head[11:13], "little")
    return (
        sector_bytes in (512, 1024, 2048, 4096)
        and head[13] in (1, 2, 4, 8, 16, 32, 64, 128)
        and head[14:16] != b"\0\0"
        and head[16] in (1, 2)
        and head[21] >> 4 == 0xF  # noqa: PLR2004  # every FAT medium's type begins so
    )


def _names(host: Host) -> list[str]:
    """Return the names of devices that fit and have a node; below another root, image files stand for devices."""
    found = {entry.name for entry in host.files.folder("/sys/class/block")} if not host.is_caller else set()
    found = found or {entry.name for entry in host.files.folder("/dev")}
    return [name for name in found if _is_fit(name) and _is_device(host, name)]


def _is_fit(name: str) -> bool:
    if name.startswith("sr"):
        return name[2:].isdigit()
    for prefix in _LETTERED:
        if name.startswith(prefix):
            letters = name[len(prefix) :].rstrip("0123456789")
            return letters.isalpha() and letters.islower()
    return False


def _is_device(host: Host, name: str) -> bool:
    try:
        mode = os.stat(host.files.real(f"/dev/{name}"), follow_symlinks=False).st_mode
    except OSError:
        return False
    return stat_bits.S_ISBLK(mode) or (host.is_caller and stat_bits.S_ISREG(mode))


def _rank(host: Host, name: str) -> tuple[bool, bool, int, str]:
    digits = name[2:] if name.startswith("sr") else ""
    return not is_rom_type(host, name), not digits, int(digits or 0), name


def _status(host: Host, path: str, end_ns: int) -> DriveStatus:
    """Return what a drive says of its disc, once it says anything but `not-ready`, or at `end_ns`."""
    while (status := host.drive_status(path)) == "not-ready" and host.mono_ns() < end_ns:
        time.sleep(_POLL_S)
    return status


def _is_twin(disk: Disk, found: Sequence[Disk]) -> bool:
    """Return whether a partition shows the same volume as its whole disk, as a hybrid ISO's first one does."""
    whole = disk.name.rstrip("0123456789")
    return any(other.name == whole and other.volume == disk.volume for other in found if other.name != disk.name)


def _fact(host: Host, path: str) -> str:
    try:
        with open(host.files.real(path), encoding="ascii", errors="replace") as file:
            return file.read(64).strip()
    except OSError:
        return ""
