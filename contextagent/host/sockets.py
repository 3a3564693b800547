"""The sockets that this machine's daemons listen at, by their paths."""

from __future__ import annotations

import contextlib
import os
import stat


def daemon_sockets() -> list[str]:
    """Return the paths of this machine's daemons' sockets: on some kernels they lead through an overlay, too.

    A path that is no absolute one is meant as its daemon sees it, whose folder and root can be another's.
    """
    named: dict[str, str] = {}
    owners: dict[str, set[tuple[str, str]]] = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it is gone by now, or its namespace is
            _note_sockets(f"/proc/{pid}", named, owners)
    found: set[str] = set()
    for inode, path in named.items():
        for root, folder in owners.get(inode, {("/", "/")}):
            inside = path if path.startswith("/") else f"{folder}/{path}"
            whole = f"{root}/{inside}"
            found.add(os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole)))
    return sorted(filter(_is_socket, found))


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False  # it was removed, or is in a root that is another's


def _note_sockets(process: str, named: dict[str, str], owners: dict[str, set[tuple[str, str]]]) -> None:
    """Note the sockets that a process can name (inode to path), and those it has (inode to its root and folder)."""
    with open(f"{process}/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(None, 7)
            if len(fields) == 8 and not fields[7].startswith("@"):  # noqa: PLR2004  # the eighth is the path
                named[fields[6]] = fields[7]
    root, folder = os.readlink(f"{process}/root"), os.readlink(f"{process}/cwd")
    inside = folder.removeprefix(root.rstrip("/")) or "/"
    for name in os.listdir(f"{process}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"{process}/fd/{name}")
            if target.startswith("socket:["):
                owners.setdefault(target[8:-1], set()).add((root, inside))
