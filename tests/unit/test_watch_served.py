"""The features over HTTP inside the watch: clients that take their time have a bounded one, and cost a bounded room."""

from __future__ import annotations

import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from contextagent.runner.live import Live, store_live
from contextagent.runner.state import State, save
from contextagent.watch import served
from contextagent.watch.room import TICK_S
from contextagent.watch.served import CLIENT_S, MAX_CLIENTS, Served
from tests.watching import PATIENCE_S, Hour, SlowHost, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine import Machine

_MS = 1000


class Room:
    """The part, and a hand that does what the loop would do."""

    def __init__(self, host: SlowHost, port: int) -> None:
        self.host = host
        self.port = port
        self.hour = Hour(host, [])
        self.part = Served(self.hour.watch, port)
        self.part.wake(self.hour.watch.now())

    def turn(self) -> None:
        """Wait until something happens, and serve it and all that has happened with it."""
        watch = self.hour.watch
        happened = watch.poller.poll(0) or self.hour.poller._real.poll(PATIENCE_S * _MS)
        for fd, _ in happened:
            if call := watch.readers.get(fd):
                call()

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        self.turn()
        return client

    def wake(self) -> float | None:
        return self.part.wake(self.hour.watch.now())


def listening_at(part: Served) -> int | None:
    return part.port


@pytest.fixture
def room(machine: Machine) -> Iterator[Room]:
    host = SlowHost(str(machine.root))
    host.files.make_folder(host.run_folder, 0o755)
    save(host, State(instance_id="vm-1", boot_id=host.boot_id()))
    store_live(host, Live(boot_id=host.boot_id(), features={"job/allocated_cpu": "4"}))
    room = Room(host, free_port())
    yield room
    room.part.close()
    room.hour._signals.close()


def test_a_client_that_drips_its_head_is_ended_when_its_time_is_over(room: Room) -> None:
    with room.connect() as client:
        for piece in (b"GET /jobfeatures", b"/allocated_cpu HT"):
            client.sendall(piece)
            room.turn()
            room.host.move(CLIENT_S / 3)
            due_s = room.wake()
            assert due_s is not None
            assert due_s - room.host.boot_s <= CLIENT_S
        room.host.move(CLIENT_S)
        assert room.wake() is None
        assert client.recv(100) == b""


def test_a_head_in_pieces_is_answered_when_it_is_whole(room: Room) -> None:
    with room.connect() as client:
        for piece in (b"GET /jobfeatures/alloc", b"ated_cpu HTTP/1.0\r\n", b"\r\n"):
            client.sendall(piece)
            room.turn()
        assert client.recv(1000).endswith(b"\r\n\r\n4")
        assert client.recv(1000) == b""


def test_what_follows_the_first_request_is_thrown_away(room: Room) -> None:
    with room.connect() as client:
        client.sendall(b"POST /jobfeatures/allocated_cpu HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        room.turn()
        client.sendall(b"12345")
        room.turn()
        assert client.recv(1000).startswith(b"HTTP/1.1 405 ")
        client.shutdown(socket.SHUT_WR)
        room.turn()
    assert room.wake() is None


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
    ],
)
def test_what_is_no_request_is_told_so(room: Room, head: bytes, status: int) -> None:
    with room.connect() as client:
        client.sendall(head)
        room.turn()
        assert client.recv(1000).startswith(b"HTTP/1.1 %d " % status)


def test_a_client_that_goes_away_leaves_nothing(room: Room) -> None:
    before = len(room.hour.watch.readers)
    client = room.connect()
    assert len(room.hour.watch.readers) == before + 1
    client.close()
    room.turn()
    assert len(room.hour.watch.readers) == before


def test_the_one_that_waits_longest_makes_room_for_the_next(room: Room) -> None:
    clients = [room.connect() for _ in range(MAX_CLIENTS + 1)]
    assert clients[0].recv(10) == b""
    clients[-1].sendall(b"GET /jobfeatures/allocated_cpu HTTP/1.0\r\n\r\n")
    room.turn()
    assert clients[-1].recv(1000).endswith(b"4")
    for each in clients:
        each.close()


def test_a_process_without_descriptors_pauses_and_goes_on(room: Room, capfd: pytest.CaptureFixture[str]) -> None:
    client = socket.create_connection(("127.0.0.1", room.port), PATIENCE_S)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        room.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "trying again in a second" in capfd.readouterr().err
    due_s = room.wake()
    assert due_s is not None
    room.host.move(due_s - room.host.boot_s)
    room.wake()
    room.turn()
    with client:
        client.sendall(b"GET /jobfeatures/allocated_cpu HTTP/1.0\r\n\r\n")
        room.turn()
        assert client.recv(1000).endswith(b"4")


def test_a_port_that_is_free_again_is_taken_a_minute_later(machine: Machine, room: Room) -> None:
    del machine
    other = Served(room.hour.watch, room.port)
    due_s = other.wake(room.hour.watch.now())
    assert listening_at(other) is None
    assert due_s == pytest.approx(room.host.boot_s + TICK_S)
    room.part.close()
    room.host.move(TICK_S)
    other.wake(room.hour.watch.now())
    assert listening_at(other) == room.port
    other.close()
    other.close()


def test_off_is_no_port(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.hour.watch, "settings", {"watch.http": "off"})
    assert served.begin(room.hour.watch) is None
