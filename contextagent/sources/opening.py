"""From a disk to a medium: mounted by the kernel where it can be, else read by the library in a confined child."""

from __future__ import annotations

import os
import stat as stat_bits

from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.runner.state import DISK
from contextagent.sources.media import FolderMedium, NamedMedium

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.sources.devices import Disk


def open_disk(host: Host, disk: Disk, reader: str) -> NamedMedium:
    """Return a disk's files.

    Args:
        host: The machine.
        disk: What was found; one with a fault can't be opened.
        reader: `mount` or `library`, as `disk.reader`.

    Raises:
        BrokenSourceError: It can't be read, with the kernel's cause and the library's.
    """
    if disk.fault:
        reason, _, message = disk.fault.partition(": ")
        raise BrokenSourceError(message, reason=reason)
    if disk.kind == "folder":
        return FolderMedium(disk.path, disk.name)
    refused = ""
    if reader == "mount" and disk.kind and host.supports_filesystem(disk.kind):
        try:
            if stat_bits.S_ISBLK(os.stat(disk.path).st_mode):
                return mounted(host, disk)
        except (OSError, CannotWriteError) as error:
            refused = f"; it could not be mounted either: {getattr(error, 'strerror', '') or error}"
    from contextagent.sources.library import LibraryMedium  # noqa: PLC0415  # a kernel that mounts needs no library

    try:
        return LibraryMedium(host, disk)
    except BrokenSourceError as error:
        raise BrokenSourceError(f"{error}{refused}", reason=error.reason) from error


def mounted(host: Host, disk: Disk) -> FolderMedium:
    """Return a device's files through the kernel.

    The mount is detached as soon as its root is open: the open root alone keeps it, so nobody else comes near it, and
    nothing is left of it even when the agent is killed.

    Raises:
        OSError: The kernel refuses.
        CannotWriteError: There is no place to mount it.
        BrokenSourceError: It can't be read.
    """
    _sweep(host)
    place = f"{host.run_folder}/{DISK}{os.getpid()}"
    host.files.make_folder(place)
    try:
        host.mount(disk.path, place, disk.kind)  # type: ignore[arg-type]  # a folder or nothing is never mounted
        try:
            return FolderMedium(host.files.real(place), disk.name, "mount")
        finally:
            host.unmount(place)
    finally:
        host.files.remove(place)


def _sweep(host: Host) -> None:
    """Take away what an agent left that was killed between a mount and its detaching."""
    for entry in host.files.folder(host.run_folder):
        pid = entry.name.removeprefix(DISK)
        if pid != entry.name and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            host.unmount(f"{host.run_folder}/{entry.name}")
            host.files.remove(f"{host.run_folder}/{entry.name}")
