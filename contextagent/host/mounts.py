"""Mounts of foreign media, and what ROM drives say."""

from __future__ import annotations

import errno
import fcntl
import os

from contextagent.host.guestos import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    FilesystemKind = Literal["iso9660", "vfat"]
    DriveStatus = Literal["no-disc", "tray-open", "not-ready", "ok", "unknown"]

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_UNTRUSTED = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_MNT_DETACH = 2
_CDROM_EJECT, _CDROM_DRIVE_STATUS, _CDROM_LOCK_DOOR = 0x5309, 0x5326, 0x5329
_CURRENT_SLOT = 0x7FFFFFFF
_STATUS: dict[int, DriveStatus] = {1: "no-disc", 2: "tray-open", 3: "not-ready", 4: "ok"}
_MODULES = {"iso9660": "isofs", "vfat": "vfat"}


def mount(device: str, folder: str, kind: FilesystemKind) -> None:
    """Mount a device on a folder, read-only, nosuid, nodev, noexec; both paths are this machine's.

    Raises:
        OSError: As the kernel says it.
    """
    native.mount(device, folder, kind, _UNTRUSTED)


def unmount(folder: str) -> None:
    """Detach what is mounted on a folder; nothing mounted there is fine.

    Raises:
        OSError: As the kernel says it.
    """
    try:
        native.umount(folder, _MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def supports_filesystem(kind: FilesystemKind) -> bool:
    """Return whether the running kernel has the file system, or a module that mount(2) would load."""
    if kind in _words("/proc/filesystems"):
        return True
    module = f"/{_MODULES[kind]}.ko"
    return any(module in line for line in _words(f"/lib/modules/{os.uname().release}/modules.dep"))


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().split()
    except OSError:
        return []


def drive_status(device: str) -> DriveStatus:
    """Return what a ROM drive says of its disc."""
    try:
        fd = _open_drive(device)
    except OSError:
        return "unknown"
    try:
        return _STATUS.get(fcntl.ioctl(fd, _CDROM_DRIVE_STATUS, _CURRENT_SLOT), "unknown")
    except OSError:
        return "unknown"
    finally:
        os.close(fd)


def eject(device: str) -> None:
    """Unlock and open a ROM drive's tray.

    Raises:
        OSError: As the kernel says it.
    """
    fd = _open_drive(device)
    try:
        fcntl.ioctl(fd, _CDROM_LOCK_DOOR, 0)
        fcntl.ioctl(fd, _CDROM_EJECT, 0)
    finally:
        os.close(fd)


def _open_drive(device: str) -> int:
    # O_NONBLOCK: a drive without a disc can be opened only so
    return os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
