"""What /proc says of real processes: which run, what they have read, what they have sent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from contextagent.host import Host
from contextagent.host.daemons import has_read, is_sent, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "a) (daemon 7 Z"
"""As bad as a process's name can be."""
SCRIPT = f"""
import sys
open("/proc/self/comm", "w").write({NAME!r})
print("up", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def daemon() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as made:
        assert made.stdout
        assert made.stdout.readline() == b"up\n"
        yield made
        made.kill()


def test_a_process_is_found_by_its_name_with_the_time_of_its_start(daemon: subprocess.Popen[bytes]) -> None:
    (found,) = running(NAME)
    assert found.pid == daemon.pid
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - Host.mono_ns()
    assert 0 < found.start_ns - boot_ns <= Host.mono_ns()


def test_a_process_that_is_stopped_or_dead_does_not_run(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, daemon.pid, os.WSTOPPED | os.WNOWAIT)
    assert not running(NAME)
    daemon.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, daemon.pid, os.WCONTINUED | os.WNOWAIT)
    assert running(NAME)
    daemon.kill()
    os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
    assert not running(NAME)


def test_how_far_a_process_has_read_a_file_is_seen_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"x" * 1000)
    me = (os.getpid(),)
    assert has_read(me, str(path)) is None
    fd = os.open(path, os.O_RDONLY)
    try:
        assert has_read(me, str(path)) is False
        os.read(fd, 999)
        assert has_read(me, str(path)) is False
        os.read(fd, 1)
        assert has_read(me, str(path)) is True
        with path.open("ab") as file:
            file.write(b"more")
        assert has_read(me, str(path)) is False
    finally:
        os.close(fd)
    assert has_read(me, str(tmp_path / "none")) is None
    assert has_read((), str(path)) is None


def test_bytes_that_the_other_side_has_not_got_are_seen() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as near:
            far, _ = listener.accept()
            with far:
                assert is_sent([port])
                near.settimeout(0)
                try:
                    while True:
                        near.send(bytes(1 << 16))
                except BlockingIOError:
                    pass
                assert not is_sent([port])
                assert is_sent([1])
