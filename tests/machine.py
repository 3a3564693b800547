"""Machines for tests: a root below a folder, or a throw-away view of this whole machine; media to boot them from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REPOSITORY = Path(__file__).resolve().parent.parent
AGENT = tuple(os.environ.get("CONTEXTAGENT_TESTED", "").split()) or (
    *(sys.executable, "-I", "-S"),
    str(REPOSITORY / "contextagent" / "__main__.py"),
)
"""The agent as a boot starts it: isolated, and without `site`; or whatever other build of it is to be tested."""
TIMEOUT_S = 60
_PRODUCT_UUID = "4c4c4544-0000-4000-8000-00000000cafe"

_ENTER = """
set -eu
upper=$1 work=$2 view=$3 repository=$4; shift 4
mount -t overlay overlay -o "lowerdir=/,upperdir=$upper,workdir=$work" "$view"
mount -t proc proc "$view/proc"
mount -t tmpfs -o mode=1777 tmpfs "$view/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$view/run"
mount -t tmpfs -o mode=0755 tmpfs "$view/dev"
for name in null zero full random urandom; do : >"$view/dev/$name"; mount --bind "/dev/$name" "$view/dev/$name"; done
for path in proc/sys/kernel/random/boot_id proc/cmdline; do mount --bind "$upper/$path" "$view/$path"; done
mkdir -p "$view$repository" "$upper/run"
mount --bind "$repository" "$view$repository"
cp -a "$upper/run/." "$view/run/"
chroot "$view" "$@" && code=0 || code=$?
rm -rf "$upper/run"
cp -a "$view/run" "$upper/run"
exit $code
"""
"""A private view of this machine in an overlay.  /run is none of the disk's: it is copied in before, and out after."""


class Done(NamedTuple):
    """A command that ended: its exit code (negative: killed by a signal), and what it wrote."""

    code: int
    out: str
    err: str


class Machine:
    """A machine below a root of its own: scripts run with the tests' own rights.

    Attributes:
        root: Where the machine's files are looked at and put.
        boots: How often it was booted; its boot id says so.
        metadata: What `run` and `plan` get as `--metadata`, unless they are given it; None to leave it to the policy.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boots = 0
        self.metadata: str | None = "none"
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)
        self.put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ncontextuser:x:990:990::/var/lib/contextuser:/bin/sh\n")
        self.put("etc/group", "root:x:0:\ncontextuser:x:990:\n")
        self.put("sys/class/dmi/id/product_uuid", _PRODUCT_UUID + "\n")
        self.put("proc/cmdline", "quiet\n")
        self.reboot()

    def put(self, path: str, data: str | bytes, mode: int = 0o644) -> Path:
        """Put a file in place, with its folders."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)
        target.chmod(mode)
        return target

    def reboot(self) -> None:
        """Give the machine a new boot id, and lose what a reboot loses."""
        self.boots += 1
        self.put("proc/sys/kernel/random/boot_id", f"00000000-0000-4000-8000-{self.boots:012d}\n")
        subprocess.run(["rm", "-rf", str(self.root / "run")], check=True)

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run the agent with these words on this machine, and wait for it."""
        return run((*AGENT, "--root", str(self.root), *self.asking(*words)), environment=environment)

    def asking(self, *words: str) -> tuple[str, ...]:
        """Return a command's words with the metadata service that this machine asks."""
        is_search = {"run", "plan"} & set(words) and not any(word.startswith("--metadata") for word in words)
        return (*words, "--metadata", self.metadata) if is_search and self.metadata else words

    def facts(self, *words: str) -> Any:
        """Return what the agent prints as JSON; its exit code does not matter."""
        return json.loads(self.run(*words, "--format", "json").out)

    def text(self, path: str) -> str:
        """Return a file's text; what is no UTF-8 shows as an escape."""
        return (self.root / path).read_text(errors="backslashreplace")

    def status(self) -> dict[str, Any]:
        """Return `status.json`."""
        return dict(json.loads(self.text("run/contextagent/status.json")))

    def trace(self) -> list[dict[str, Any]]:
        """Return the records of all boots, oldest first."""
        files = sorted(
            (self.root / "var/log/contextagent").glob("trace-*.jsonl"), key=lambda path: path.stat().st_mtime_ns
        )
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]


class Guest(Machine):
    """A throw-away view of this whole machine: the agent acts on `/`, with all profiles, in namespaces of its own.

    What it changes lands below `root`; nothing else is touched.  It needs root.
    """

    def __init__(self, folder: Path) -> None:
        self._work, self._view = folder / "work", folder / "view"
        for path in (self._work, self._view):
            path.mkdir(parents=True)
        super().__init__(folder / "root")
        for name in ("passwd", "group"):
            self.put(
                f"etc/{name}",
                f"{Path('/etc', name).read_text().rstrip()}\n{self.text(f'etc/{name}').splitlines()[1]}\n",
            )

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run the agent with these words in the view, and wait for it."""
        return self.shell(*AGENT, *self.asking(*words), environment=environment)

    def shell(self, *argv: str, environment: Mapping[str, str] | None = None) -> Done:
        """Run any program in the view, and wait for it."""
        return run(self.words(*argv), environment=environment)

    def words(self, *argv: str) -> tuple[str, ...]:
        """Return the words that run a program in the view."""
        enter = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "sh", "-c", _ENTER, "enter")
        places = map(str, (self.root, self._work, self._view, REPOSITORY))
        return (*enter, *places, *argv)


def run(argv: Iterable[str], *, environment: Mapping[str, str] | None = None, cwd: str = "/") -> Done:
    """Run a program without input, in a small environment, and wait for it."""
    done = subprocess.run(
        list(argv),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **(environment or {})},
        umask=0o022,
    )
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def _tool(*argv: str) -> None:
    done = run(argv)
    assert done.code == 0, f"{argv[0]}: {done.err}"


def make_iso(folder: Path, image: Path, *options: str, label: str = "CONTEXT", tool: str = "xorriso") -> Path:
    """Make an ISO of a folder with xorriso or genisoimage; `options` default to Rock Ridge and Joliet."""
    program = ("xorriso", "-as", "mkisofs") if tool == "xorriso" else ("genisoimage",)
    _tool(*program, "-quiet", *(options or ("-R", "-J")), "-V", label, "-o", str(image), str(folder))
    return image


def make_vfat(folder: Path, image: Path, *, label: str = "CONTEXT", size_kib: int = 4096) -> Path:
    """Make a VFAT image of a folder with mtools."""
    _tool("mkfs.vfat", "-C", "-n", label, str(image), str(size_kib))
    _tool("mcopy", "-s", "-i", str(image), *map(str, sorted(folder.iterdir())), "::")
    return image
