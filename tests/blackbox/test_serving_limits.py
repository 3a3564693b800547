"""The server below `serve`, with a short patience: how long a client may take."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVER = """
from contextagent.host.serving import Reply, listen, serve
listening = listen("127.0.0.1", 0)
serve(
    listening,
    lambda request: Reply(status=200, body=b"answered"),
    ready=lambda: print(listening.getsockname()[1], flush=True),
    is_quiet=True,
    head_s=0.5,
)
"""
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def port() -> Iterator[int]:
    words = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.terminate()
        assert process.wait(60) == 0


def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_any_other(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(b"a")
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_does_not_come_is_not_waited_for(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert client.recv(1000) == b""


def test_a_connection_that_was_kept_ends_without_a_word(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(ASK)
        assert client.makefile("rb").read().endswith(b"\r\n\r\nanswered")


def test_a_connection_that_says_nothing_ends_without_a_word(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert client.recv(1000) == b""
