"""Removing whole trees, whatever is in them and whoever adds to them meanwhile, without following a link."""

from __future__ import annotations

import errno
import os

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_PASSES = 1 << 16
"""Over a folder that is being removed; each takes off one level, so only somebody who keeps adding uses them up."""


def remove_at(parent: int, name: str) -> None:
    """Remove `name` below an open folder; it may vanish or grow meanwhile.

    A folder inside is not walked down into: it is moved up to the top one, so that a tree as deep as anybody likes
    costs two descriptors and no recursion; and what is left by a crash is still all below `name`.
    """
    if _unlink_at(parent, name):
        return
    top = os.open(name, _FOLDER, dir_fd=parent)
    try:
        for _ in range(_MAX_PASSES):
            entries = os.listdir(top)
            if not entries:
                break
            for entry in entries:
                if not _unlink_at(top, entry):
                    _empty_at(top, entry)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _unlink_at(parent: int, name: str) -> bool:
    """Remove a name that is no folder; return whether that was all there was to do."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        return False
    return True


def _empty_at(top: int, name: str) -> None:
    """Remove a folder in `top`, its own folders moved up beside it first; what is put there meanwhile is left."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=top)
        try:
            for inner in os.listdir(fd):
                if not _unlink_at(fd, inner):
                    os.rename(inner, f".old-{os.urandom(8).hex()}", src_dir_fd=fd, dst_dir_fd=top)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=top)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
