"""Roots without a system in them: folders in which the agent's program is the only one."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

from tests.machine import Done, run

if TYPE_CHECKING:
    from pathlib import Path

_ENTER = 'root=$1; shift; mount -t proc proc "$root/proc"; exec chroot "$root" "$@"'
_NUMBERS = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}


class Bare:
    """A root with the agent's program, `/dev` and `/proc`, one account for users, and nothing to run but that program.

    Attributes:
        root: The folder that is the root.
    """

    def __init__(self, root: Path, program: Path) -> None:
        self.root = root
        for name in ("dev", "proc", "etc", "tmp", "usr/bin", "usr/libexec/contextagent"):
            (root / name).mkdir(parents=True)
        for name, number in _NUMBERS.items():
            os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, number))
            (root / "dev" / name).chmod(0o666)
        (root / "tmp").chmod(0o1777)
        root.chmod(0o755)
        (root / "etc/passwd").write_text("root:x:0:0::/:/python\ncontextuser:x:990:990::/var/lib/contextuser:/python\n")
        (root / "etc/group").write_text("root:x:0:\ncontextuser:x:990:\n")
        shutil.copy(program, root / "usr/libexec/contextagent/contextagent")
        (root / "usr/bin/contextagent").symlink_to("../libexec/contextagent/contextagent")
        os.link(root / "usr/libexec/contextagent/contextagent", root / "python")

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file in place, with its folders."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def run(self, *words: str, kernel: tuple[str, ...] = ()) -> Done:
        """Run a program in this root, in namespaces of its own."""
        if kernel:
            shutil.copy(kernel[0], self.root / "oldkernel")
            words = ("/oldkernel", *kernel[1:], *words)
        enter = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc", "sh", "-c", _ENTER)
        return run((*enter, "enter", str(self.root), *words))
