"""Space for the trace: reserved at a boot, given up when the disk is full, given back by the next; old traces go."""

from __future__ import annotations

import errno
import os

from contextagent.errors import CannotWriteError
from contextagent.host.files import CHUNK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.host import Host

LOGS = "/var/log/contextagent"
RESERVE = f"{LOGS}/.reserve"
"""The reserve where the file system can't reserve space within the trace's own file."""
RESERVES_BYTES = (4 << 20, 1 << 20, 256 << 10)
"""What is reserved: the first of these that the disk still has."""
_DAY_NS = 86_400 * 1_000_000_000


def reserve(host: Host, fd: int) -> None:
    """Reserve space for a trace, so that a full disk does not silence it; one that is full already has none."""
    from contextagent.host.guestos import native  # noqa: PLC0415  # once a boot

    for size_bytes in RESERVES_BYTES:
        try:
            native.reserve(fd, 0, size_bytes)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                _reserve_file(host)
                return
        else:
            return


def _reserve_file(host: Host) -> None:
    pieces = (bytes(CHUNK_BYTES) for _ in range(RESERVES_BYTES[0] // CHUNK_BYTES))
    try:
        host.files.create(RESERVE, pieces)
    except CannotWriteError:
        return  # it is there from an earlier boot, or it is as much as the disk had


def give_up(host: Host) -> bool:
    """Return whether there was a reserve file to give up for the sake of the trace."""
    try:
        os.unlink(host.files.real(RESERVE))
    except OSError:
        return False
    return True


def give_back_older(host: Host) -> None:
    """Give back what earlier boots' traces reserved and did not use: cutting a file at its own end does that."""
    for path, found in _kept(host, "trace-"):
        if found.st_blocks * 512 > found.st_size + CHUNK_BYTES:
            try:
                os.truncate(path, found.st_size)
                os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))  # the trace's age is not ours to change
            except OSError:
                return  # the disk refuses changes; the next boot asks again


def forget_old(host: Host, *, keep_days: int) -> None:
    """Remove traces and receipts whose last record is older than that; nothing while the clock can't be trusted."""
    if not host.is_clock_synchronised():
        return
    oldest_ns = host.utc_ns() - keep_days * _DAY_NS
    for prefix in ("trace-", "receipt-"):
        for path, found in _kept(host, prefix):
            if found.st_mtime_ns < oldest_ns:
                try:
                    os.unlink(path)
                except OSError:
                    return  # as above


def _kept(host: Host, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield real path and status of the regular files of that name."""
    for entry in host.files.folder(LOGS):
        if entry.kind == "file" and entry.name.startswith(prefix):
            path = host.files.real(f"{LOGS}/{entry.name}")
            yield path, os.lstat(path)
