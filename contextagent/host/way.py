"""Who could change where a path leads: whoever owns or may write a folder on the way, and what lies there."""

from __future__ import annotations

import errno
import os
import stat as stat_bits

_OTHERS = stat_bits.S_IWGRP | stat_bits.S_IWOTH
_MAX_LINKS = 40


def is_ours(found: os.stat_result) -> bool:
    """Return whether something is root's or the caller's own, and nobody else's to write."""
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & _OTHERS


def changeable(path: str, root: str = "/", *, may_link: bool = True) -> str:
    """Return what on the way to a path others could exchange, so that it led elsewhere; empty where there is nothing.

    Root is trusted, the caller too, and whoever owns `root`, which may be another than `/`: its own way was the
    caller's choice.  A folder like /tmp, where nobody can exchange what is another's, is as good as root's own, but not
    for what is yet to be made there.  What stands at the path's end may be anybody's: this is about its name.

    Args:
        path: Real, and below `root`.  Where it does not exist, this is about whoever could make it first.
        root: Folder that stands for `/`.
        may_link: Whether links are gone that others can't exchange; otherwise the first one is returned.

    Raises:
        OSError: The way can't be gone.
    """
    place = os.path.realpath(root)
    trusted = {0, os.geteuid()} | ({os.stat(place).st_uid} if place != "/" else set())
    names = path[len(root) :].split("/")[::-1]
    links = 0
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = os.path.dirname(place)
            continue
        each = os.path.join(place, name)
        there, found = os.lstat(place), _found(each)
        is_shared = bool(there.st_mode & _OTHERS)
        if there.st_uid not in trusted or (is_shared and (found is None or not there.st_mode & stat_bits.S_ISVTX)):
            return place
        if found is None:
            return ""
        if is_shared and found.st_uid not in trusted:
            return each
        if not stat_bits.S_ISLNK(found.st_mode):
            place = each
            continue
        if not may_link:
            return each
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(each)
        names += target.split("/")[::-1]
        place = "/" if target.startswith("/") else place
    return ""


def _found(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
