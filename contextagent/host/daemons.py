"""The machine's daemons as /proc shows them: which run, since when, and how much of a file they have read."""

from __future__ import annotations

import os

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGKILL = 9
_MAX_COMM = 15
"""Characters that the kernel keeps of a process's name."""
_STILL = (b"T", b"t", b"Z", b"X")
"""States of a process that is stopped or dead."""
_DEADLY = 1 << 8 | 1 << 18
"""SIGKILL and SIGSTOP as bits of a set of signals."""
_FLAGS_FIELD, _START_FIELD = 6, 19
"""Where these stand in /proc/PID/stat, counted behind the name."""
_PF_EXITING = 4
_PORT_STATE = ("01", "02", "03", "04", "05", "08", "09")
"""States of a TCP connection in which it may hold bytes that the other side has not got."""


class Running(Value):
    """A process that runs: neither stopped nor dead, nor about to be.

    Attributes:
        pid: Its id.
        start_ns: When it began, nanoseconds since the machine did; a hundredth of a second is the grain.
    """

    pid: int
    start_ns: int


def running(name: str) -> tuple[Running, ...]:
    """Return the processes of that name (`/proc/PID/comm`) that run, the oldest first."""
    wanted = name[:_MAX_COMM].encode()
    tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
    found: list[Running] = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        # the name may hold anything, blanks and brackets included; behind its last bracket there are only numbers
        before, _, after = _read(f"/proc/{pid}/stat").rpartition(b")")
        fields = after.split()
        if before.partition(b"(")[2] != wanted or not fields:
            continue
        if fields[0] not in _STILL and not int(fields[_FLAGS_FIELD]) & _PF_EXITING and not _is_ending(pid):
            found.append(Running(pid=int(pid), start_ns=int(fields[_START_FIELD]) * tick_ns))
    return tuple(sorted(found, key=lambda each: (each.start_ns, each.pid)))


def _is_ending(pid: str) -> bool:
    """Return whether a process has been killed or stopped, and only did not get to it yet."""
    pending = 0
    for line in _read(f"/proc/{pid}/status").splitlines():
        name, _, value = line.partition(b":")
        if name in (b"SigPnd", b"ShdPnd"):
            pending |= int(value, 16)
    return bool(pending & _DEADLY)


def is_program_gone(pid: int) -> bool:
    """Return whether the program that a process runs is not where it was: removed, or another is in its place."""
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith(" (deleted)")
    except OSError:
        return False


def kill(processes: Iterable[Running]) -> None:
    """End processes at once, before they can write down anything."""
    for each in processes:
        try:
            os.kill(each.pid, _SIGKILL)
        except OSError:
            continue  # it has ended by itself


def has_read(pids: Iterable[int], path: str) -> bool | None:
    """Return whether one of the processes has read a file to its end.

    Args:
        pids: Of a daemon.
        path: Real path of the file.

    Returns:
        None where none of them has it open, or it can't be told.
    """
    positions: list[int] = []
    try:
        found = os.stat(path)
        for pid in pids:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                opened = _opened(f"/proc/{pid}/fd/{fd}")
                if opened and (opened.st_dev, opened.st_ino) == (found.st_dev, found.st_ino):
                    positions.append(_position(f"/proc/{pid}/fdinfo/{fd}"))
    except OSError:
        return None
    return max(positions) >= found.st_size if positions else None


def is_sent(ports: Iterable[int]) -> bool:
    """Return whether no TCP connection to any of these ports holds bytes that the other side has not got."""
    wanted = {f"{port:04X}" for port in ports}
    for table in ("tcp", "tcp6"):
        for line in _read(f"/proc/net/{table}").decode("ascii", "replace").splitlines()[1:]:
            fields = line.split()
            is_ours = fields[2].rpartition(":")[2] in wanted and fields[3] in _PORT_STATE
            if is_ours and int(fields[4].partition(":")[0], 16):
                return False
    return True


def _opened(link: str) -> os.stat_result | None:
    try:
        return os.stat(link)
    except OSError:
        return None  # closed since


def _position(path: str) -> int:
    _, _, after = _read(path).partition(b"pos:")
    words = after.split(None, 1)
    return int(words[0]) if words else -1


def _read(path: str) -> bytes:
    """Return what the kernel says there; nothing where the process is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = bytearray()
        while piece := os.read(fd, 1 << 16):
            data += piece
        return bytes(data)
    except OSError:
        return b""
    finally:
        os.close(fd)
