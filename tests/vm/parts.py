"""Parts of guests that take long to make, each kept below `.cache/vm` under the digest of what it was made of.

A part is made under another name and renamed, so that an interrupted build leaves nothing half.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
CACHE = Path(os.environ.get("CONTEXTAGENT_VM_CACHE", PROJECT / ".cache" / "vm"))

TOOLS = (
    *("qemu-system-x86_64", "mmdebstrap", "mke2fs", "debugfs", "lz4", "depmod", "dpkg-deb", "objcopy", "xorriso"),
    *("dpkg-source", "make", "patch", "perl", "readelf", "rpm", "rpmbuild", "ip", "nsenter"),
)


class GuestError(Exception):
    """The guest did not come as far as the test's text, or a part of it could not be made."""


def missing_tools() -> list[str]:
    """Return the programs that this machine lacks for building and booting a guest; empty when all are there."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


@contextmanager
def made(kind: str, *made_of: bytes | str) -> Iterator[tuple[Path, Path | None]]:
    """Yield a part's place in the cache, and where to make it (None when it is there); rename it when it is made."""
    part = CACHE / f"{kind}-{digest(*made_of)}"
    if part.exists():
        yield part, None
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    work = CACHE / f"making-{part.name}-{os.getpid()}"
    try:
        yield part, work
        work.rename(part)
    except BaseException:
        run("rm", "-rf", work)
        raise
    for old in CACHE.glob(f"{kind}-{'[0-9a-f]' * 16}"):  # one of each kind is enough: an older one is of no use
        if old != part:
            run("rm", "-rf", old)


def digest(*parts: bytes | str) -> str:
    """Return a short digest of parts, in order."""
    data = [part.encode() if isinstance(part, str) else part for part in parts]
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in data)).hexdigest()[:16]


def link(path: Path, target: str) -> None:
    """Make a symbolic link in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file, with its folders; what is there may be a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def run(*command: str | Path, cwd: Path | None = None, stdin: str = "") -> str:
    """Run a program and return what it printed.

    Raises:
        GuestError: It failed; the message holds its last words.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"cannot run '{command[0]}': exit {done.returncode}: {done.stderr[-2000:]}"
        raise GuestError(message)
    return done.stdout
