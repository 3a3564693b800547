"""A machine with a shell and no Python, into which rpm installs our packages, and which boots by hand."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from tests.machine import Done, run

if TYPE_CHECKING:
    from pathlib import Path

# What a distribution's own packages have brought, of what lies on the way to our files
FOLDERS = """
bin sbin dev etc proc sys tmp run root usr/bin usr/sbin usr/lib usr/libexec usr/share/doc usr/share/man/man8 var/lib/rpm
var/log var/lock/subsys var/run var/tmp
""".split()
APPLETS = "sh rm rmdir cat echo ls mkdir mkfifo kill ip umount touch grep sed sleep".split()
TOOLS = ("useradd", "userdel")
# As a root of its own, not by chroot alone: there the kernel would refuse the user namespace of a simulation
_ENTER = """
set -e
mount --bind "$1" "$1"
cd "$1"
shift
mount -t proc proc proc
mount --bind /dev dev
mkdir -p .old
pivot_root . .old
umount -l /.old
exec "$@"
"""
_FOR_RPM = 'mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && shift && exec "$@"'
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc")
_NOT_OURS = {".old", "etc/.pwd.lock", "etc/group-", "etc/passwd-"}
"""The place of the old root, and what the tools for accounts leave."""
_RECORDER = '#!/bin/sh\necho "${0##*/} $*" >> /calls\n'


class Installed:
    """A root with busybox, for rpm and the agent.

    Attributes:
        root: The folder that is the root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        busybox = shutil.which("busybox")
        assert busybox, "make rpm installs it"
        for name in FOLDERS:
            (root / name).mkdir(parents=True)
        root.chmod(0o755)
        (root / "tmp").chmod(0o1777)
        shutil.copy(busybox, root / "bin/busybox")
        for name in APPLETS:
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        for name in TOOLS:
            self._lend(f"/usr/sbin/{name}")
        (root / "dev/null").touch(0o666)

    def _lend(self, program: str) -> None:
        """Put a program of this machine in place, with its libraries."""
        libraries = [word for word in run(("ldd", program)).out.split() if word.startswith("/")]
        for path in (program, *libraries):
            target = self.root / path[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    def rpm(self, *words: str | Path) -> Done:
        """Run this machine's rpm on the root, and drop Debian's own word that this is not how to install on Debian."""
        rpm = ("rpm", "--root", str(self.root), "--dbpath", "/var/lib/rpm", *map(str, words))
        done = run((*_NAMESPACES, "sh", "-c", _FOR_RPM, "for-rpm", str(self.root), *rpm))
        said = [line for line in done.err.splitlines(keepends=True) if not line.startswith("rpm: ")]
        return done._replace(err="".join(said))

    def install(self, *packages: Path, how: str = "-i") -> None:
        """Install or upgrade without complaint; /bin/sh there belongs to no package."""
        done = self.rpm(how, "--nodeps", "--replacepkgs", *packages)
        assert done.code == 0, done
        assert all(" created as " in line for line in done.err.splitlines()), done

    def erase(self) -> None:
        """Erase the package without complaint."""
        done = self.rpm("-e", "--nodeps", "contextagent")
        assert done.code == 0, done
        assert all(" saved as " in line for line in done.err.splitlines()), done

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file in place, with its folders."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def record(self, program: str) -> None:
        """Put a program in place that only notes how it was called."""
        self.put(program, _RECORDER, 0o755)

    def calls(self) -> list[str]:
        """Return how the recorders were called since this was last asked."""
        path = self.root / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def run(self, *words: str) -> Done:
        """Run a program with this root as its machine's, in namespaces of its own."""
        return run((*_NAMESPACES, "sh", "-c", _ENTER, "enter", str(self.root), *words))

    def agent(self, *words: str) -> str:
        """Run the installed agent, which must not complain, and return what it prints."""
        done = self.run("/usr/bin/contextagent", *words)
        assert (done.code, done.err) == (0, ""), done
        return done.out

    def paths(self) -> set[str]:
        """Return every path of the root, but for what rpm and other tools keep for themselves."""
        found = set()
        for folder, folders, names in os.walk(self.root):
            inner = os.path.relpath(folder, self.root)
            if inner == "var/lib/rpm":
                folders[:] = []
                continue
            found |= {os.path.normpath(f"{inner}/{name}") for name in (*folders, *names)}
        return found - _NOT_OURS
