"""The process that stays: its memory and its wake-ups while nothing happens, and what it costs where it has no work.

Beside it stand an interpreter that sleeps, which is the floor, and the event loop of the standard library with our own
server on it, which is what the watch would be if its loop were not its own (ADR 0018).
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.bench.report import Report, aligned
from tests.machine import AGENT, REPOSITORY, Machine
from tests.watching import free_port, until

TITLE = "the process that stays, while nothing happens"
IDLE_S = 130
"""Two minutes, and some time to settle."""
_SETTLE_S = 10
_WAITS = "poll,ppoll,select,pselect6,epoll_wait,epoll_pwait,nanosleep,clock_nanosleep,futex"
"""What a process sleeps in that waits for something to do; it also sleeps while a disk reads for it."""
_SLEEP = "import time; time.sleep(3600)"
_ASYNCIO = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from contextagent.host.serving import Reply, listen, serve\n"
    "serve(listen('127.0.0.1', int(sys.argv[2])), lambda _: Reply(status=200), ready=lambda: None)\n"
)


class Stay(NamedTuple):
    """What a process cost that stayed: the most memory it had resident, its wake-ups a minute, and CPU time an hour."""

    peak_kib: int
    wakes_a_minute: float
    cpu_s_an_hour: float
    is_right: bool


def watch(rounds: int) -> Report:
    """Measure the processes side by side, and starts of a watch that has nothing to do in turn with bare starts."""
    if not shutil.which("strace"):
        return Report(f"{TITLE}: not measured, because strace is missing", [], is_right=True)
    with tempfile.TemporaryDirectory() as place:
        machine, port = _booted(Path(place))
        python = [sys.executable, "-I", "-S", "-c"]
        argvs = {
            "an interpreter that sleeps": [*python, _SLEEP],
            "the standard library's loop, our server": [*python, _ASYNCIO, str(REPOSITORY), str(free_port())],
            "contextagent watch": [*AGENT, "--root", str(machine.root), "watch"],
        }
        stays = _stay(argvs, port)
        bare = [_cpu_s([*python, "pass"]) for _ in range(rounds)]
        idle = [_cpu_s([*AGENT, "--root", str(Path(place) / "empty"), "watch"], Path(place)) for _ in range(rounds)]
    rows = [["", "peak MiB", "wake-ups a minute", "CPU s an hour", "right"]]
    for name, stay in stays.items():
        cells = (f"{stay.peak_kib / 1024:.1f}", f"{stay.wakes_a_minute:.1f}", f"{stay.cpu_s_an_hour:.2f}")
        rows.append([name, *cells, "yes" if stay.is_right else "no"])
    ratio = sorted(idle)[rounds // 2] / sorted(bare)[rounds // 2]
    text = f"{TITLE} ({IDLE_S} s)\n{aligned(rows)}\nnothing to watch: {ratio:.1f} x an interpreter's start, CPU time"
    figures = {"stays": {name: stay._asdict() for name, stay in stays.items()}, "bare_s": bare, "nothing_s": idle}
    return Report(text, figures, all(stay.is_right for stay in stays.values()))


def _booted(place: Path) -> tuple[Machine, int]:
    """Return a machine with features to serve, and the port."""
    port = free_port()
    machine = Machine(place / "machine")
    machine.put("etc/contextagent/policy.yaml", f"watch:\n  http: 127.0.0.1:{port}\nlifetime:\n  max_s: 864000\n")
    (place / "disk").mkdir()
    (place / "disk/prolog.sh").write_text("#!/bin/sh\n")
    machine.run("run", "--disk", str(place / "disk"))
    (place / "empty").mkdir()
    return machine, port


def _stay(argvs: dict[str, list[str]], port: int) -> dict[str, Stay]:
    """Have all of them stay at the same time, ask the watch for a feature, and leave them alone."""
    processes = {name: subprocess.Popen(argv, cwd="/") for name, argv in argvs.items()}
    try:
        until(lambda: _answer(port), "the watch answers")
        time.sleep(_SETTLE_S)
        before = {name: _figures(process.pid) for name, process in processes.items()}
        wakes = _wake_ups({name: process.pid for name, process in processes.items()})
        after = {name: _figures(process.pid) for name, process in processes.items()}
        is_right = _answer(port)
        return {
            name: Stay(
                peak_kib=after[name][0],
                wakes_a_minute=wakes[name] / (IDLE_S - _SETTLE_S) * 60,
                cpu_s_an_hour=(after[name][1] - before[name][1]) / (IDLE_S - _SETTLE_S) * 3600,
                is_right=is_right and process.poll() is None,
            )
            for name, process in processes.items()
        }
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()


def _answer(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"GET /machinefeatures/total_cpu HTTP/1.0\r\n\r\n")
            return b" 200 OK" in client.recv(1 << 16)
    except OSError:
        return False


def _wake_ups(pids: dict[str, int]) -> dict[str, int]:
    """Leave the processes alone for a while, and return how often each came back from a wait."""
    with tempfile.TemporaryDirectory() as place:
        traced = {
            name: (
                Path(place) / str(pid),
                subprocess.Popen(
                    ["strace", "-f", "-qq", "-e", f"trace={_WAITS}", "-o", f"{place}/{pid}", "-p", str(pid)]
                ),
            )
            for name, pid in pids.items()
        }
        time.sleep(IDLE_S - _SETTLE_S)
        for _, strace in traced.values():
            strace.terminate()
            strace.wait()
        lines = {name: path.read_text().splitlines() for name, (path, _) in traced.items()}
    return {name: sum(" = " in line for line in each) for name, each in lines.items()}


def _figures(pid: int) -> tuple[int, float]:
    """Return a process's peak in KiB, and its CPU time in seconds."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    cpu_ns = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return int(lines["VmHWM"].split()[0]), cpu_ns / 1e9


def _cpu_s(argv: list[str], cwd: Path = Path("/")) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, cwd=cwd, env={"PATH": os.environ["PATH"]})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
