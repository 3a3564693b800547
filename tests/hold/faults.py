"""Faults at every state-changing system call of a boot, one at a time: kills and errors, injected by strace.

The agent's own process is followed, its scripts are not.  A fault-free boot under strace gives the list of points; each
point is then the K-th call of one system call.  A batch runs as the first process of its own PID and mount namespaces,
where everything but a memory file system is read-only: nothing stray survives it, and nothing outside can change.

Run as a program it reads a batch (JSON) on stdin and prints what was found (JSON).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.hold.arena import Arena
from tests.hold.invariants import violations

CHANGING = """
openat mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat write writev pwrite64
fsync fdatasync syncfs ftruncate fallocate chmod fchmod fchmodat chown fchown lchown fchownat utimensat flock mount
umount2 unshare setns clone clone3 fork vfork kill sendfile copy_file_range mknodat setxattr prctl
""".split()
_WRITING_OPEN = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
ERRORS = ("ENOSPC", "EIO", "EROFS", "EMFILE", "ENOMEM", "EINTR")
SCENARIOS = ("both owners", "refused user", "rebooted", "by network", "logging")


class Point(NamedTuple):
    """Where a fault strikes: the `number`-th call of `syscall` in a scenario; and whether a reboot follows."""

    scenario: str
    syscall: str
    number: int
    fault: str
    is_rebooted: bool

    def inject(self) -> str:
        """Return strace's expression."""
        return f"{self.syscall}:{self.fault.format(number=self.number)}"


def make_arena(folder: Path, scenario: str) -> Arena:
    """Return a fresh machine as it stands when the scenario's faulty boot begins."""
    arena = Arena(folder)
    if scenario == "refused user":
        arena.refused_user()
    elif scenario == "by network":
        arena.by_network()
    elif scenario == "logging":
        arena.with_logging()
    else:
        arena.both_owners()
    if scenario == "rebooted":
        arena.boot()
        arena.reboot()
    return arena


def recorded(arena: Arena) -> list[tuple[str, int]]:
    """Return the state-changing system calls of one fault-free boot, in order: each name with its count so far."""
    log = arena.folder / "strace"
    arena.boot(under=["strace", "-qq", "-o", str(log), "-e", f"trace={','.join(f'?{name}' for name in CHANGING)}"])
    counts: dict[str, int] = {}
    points = []
    for line in log.read_text(errors="replace").splitlines():
        name, _, rest = line.partition("(")
        if name not in CHANGING:
            continue
        counts[name] = counts.get(name, 0) + 1
        if name != "openat" or _WRITING_OPEN.search(rest):
            points.append((name, counts[name]))
    return points


def strike(folder: Path, point: Point, clean: dict[str, Any]) -> dict[str, Any]:
    """Boot into one fault, then boot whole, and return whether the fault struck and what no longer holds."""
    arena = make_arena(folder, point.scenario)
    log = folder / "strace"
    faulty = arena.boot(
        under=["strace", "-qq", "-o", str(log), "-e", f"trace={point.syscall}", "-e", f"inject={point.inject()}"]
    )
    durable = arena.traces()
    if point.is_rebooted:
        arena.reboot()
    whole = arena.boot()
    strays = _strays()
    said = f"{faulty.exit_code} {faulty.output}\n{whole.exit_code} {whole.output}"
    found = violations(arena, durable=durable, said=said, clean=clean["tree"], clean_result=clean["result"])
    found += [f"I6: process left: {stray}" for stray in strays]
    text = log.read_text(errors="replace")
    return {
        "point": point,
        "struck": "(INJECTED)" in text or "+++ killed by SIG" in text,
        "violations": found,
        "said": said[-2000:] if found else "",
    }


def fault_free(folder: Path, scenario: str, *, is_rebooted: bool) -> dict[str, Any]:
    """Return what a machine looks like that went the same way without a fault: booted twice, or rebooted between."""
    arena = make_arena(folder, scenario)
    arena.boot()
    if is_rebooted:
        arena.reboot()
    arena.boot()
    return {"tree": arena.tree(), "result": arena.status()["result"]}


def _strays() -> list[str]:
    """Return the processes of this namespace beside ourselves, having waited for those that are ending; kill them."""
    deadline = time.monotonic() + 5
    while alive := _others():
        if time.monotonic() > deadline:
            said = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in alive]
            for pid in alive:
                os.kill(pid, 9)
            return said
        time.sleep(0.01)
    return []


def _others() -> list[int]:
    while _reap():
        pass
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


def _batch(asked: dict[str, Any]) -> dict[str, Any]:
    """Do one batch: `{"record": true}` gives the points of each scenario, `{"points": […]}` strikes each."""
    work = Path(asked["folder"])
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "arena", str(work)],
        ["mount", "-o", "remount,bind,ro", "/"],
    ):
        subprocess.run(command, check=True)
    if asked.get("record"):
        return {name: recorded(make_arena(work / name.replace(" ", "-"), name)) for name in SCENARIOS}
    points = [Point(*each) for each in asked["points"]]
    clean: dict[tuple[str, bool], dict[str, Any]] = {}
    results = []
    for number, point in enumerate(points):
        folder, way = work / f"point-{number}", (point.scenario, point.is_rebooted)
        if way not in clean:
            clean[way] = fault_free(work / f"clean-{number}", point.scenario, is_rebooted=point.is_rebooted)
        try:
            results.append(strike(folder, point, clean[way]))
        except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
            results.append(
                {
                    "point": point,
                    "struck": True,
                    "violations": [f"check: {error!r} {getattr(error, 'filename', '')}"],
                    "said": "",
                }
            )
        shutil.rmtree(folder, ignore_errors=True)
    return {"results": results}


def run_batch(asked: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    """Start a batch in namespaces of its own; its answer is its standard output."""
    folder.mkdir(parents=True)
    process = subprocess.Popen(
        ["unshare", "-m", "-p", "-f", "--mount-proc", sys.executable, "-m", "tests.hold.faults"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent.parent,
    )
    assert process.stdin
    process.stdin.write(json.dumps({**asked, "folder": str(folder)}))
    process.stdin.close()
    process.stdin = None
    return process


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return a batch's answer.

    Raises:
        RuntimeError: The batch itself failed.
    """
    output, _ = process.communicate()
    if process.returncode:
        message = f"cannot run the batch: exit {process.returncode}"
        raise RuntimeError(message)
    return dict(json.loads(output))


def chosen(points: dict[str, list[list[Any]]], faults: list[str], count: int, seed: int) -> list[Point]:
    """Return `count` seeded points, uniform over the whole list; each second one is followed by a reboot."""
    draw = random.Random(seed)
    every = [(scenario, name, number) for scenario, found in points.items() for name, number in found]
    return [
        Point(*draw.choice(every), fault=draw.choice(faults), is_rebooted=bool(index % 2)) for index in range(count)
    ]


def campaign(points: list[Point], folder: Path) -> list[dict[str, Any]]:
    """Strike every point, on as many processors as there are, and return each one's result."""
    lanes = min(os.cpu_count() or 1, len(points))
    running = [run_batch({"points": points[lane::lanes]}, folder / f"lane-{lane}") for lane in range(lanes)]
    return [result for process in running for result in answer(process)["results"]]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_batch(json.load(sys.stdin))))
