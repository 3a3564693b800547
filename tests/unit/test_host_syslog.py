"""Lines reach a real /dev/log socket, and one that is absent or full costs next to nothing."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from contextagent.host.syslog import WARNING, Syslog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "log"))
        made.settimeout(0)
        yield made


def test_a_line_is_one_datagram_as_syslog_daemons_know_it(log: socket.socket) -> None:
    syslog = Syslog(log.getsockname())
    syslog.send("tag", ["first", "second ü"], severity=WARNING)
    first, second = log.recv(2000).decode(), log.recv(2000).decode()
    assert first.startswith("<28>")
    assert first[4:19] != ""
    assert first[19:] == f" tag[{os.getpid()}]: first"
    assert second.endswith("second ü")
    time.strptime(first[4:19], "%b %d %H:%M:%S")
    syslog.close()


def test_a_line_that_is_too_long_for_a_datagram_is_cut(log: socket.socket) -> None:
    syslog = Syslog(log.getsockname())
    syslog.send("tag", ["x" * 5000])
    assert len(log.recv(9000)) == 1000
    syslog.close()


def test_where_there_is_no_daemon_lines_are_counted_as_dropped(tmp_path: Path) -> None:
    syslog = Syslog(str(tmp_path / "none"))
    syslog.send("tag", ["a", "b"])
    assert syslog.dropped == 2
    syslog.close()


def test_a_daemon_that_takes_nothing_costs_its_patience_once_and_no_more(log: socket.socket) -> None:
    syslog = Syslog(log.getsockname())
    syslog.send("tag", map(str, range(100_000)))
    assert 100_000 - 2000 < syslog.dropped < 100_000
    assert syslog._patience_s <= 0
    taken = 0
    try:
        while log.recv(2000):
            taken += 1
    except BlockingIOError:
        pass
    assert taken == 100_000 - syslog.dropped
    syslog.send("tag", ["after"])
    assert log.recv(2000).endswith(b"after")
    syslog.close()


def test_a_daemon_that_was_restarted_is_found_again(log: socket.socket, tmp_path: Path) -> None:
    syslog = Syslog(log.getsockname())
    syslog.send("tag", ["before"])
    log.close()
    (tmp_path / "log").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as new:
        new.bind(str(tmp_path / "log"))
        syslog.send("tag", ["lost", "after"])
        assert new.recv(2000).endswith(b": after")
    assert syslog.dropped == 1
    syslog.close()
