"""Each fault of `contextagent serve` as it is seen on the wire, and for which requests."""

from __future__ import annotations

import gzip
import socket
from typing import TYPE_CHECKING

import pytest

from tests.machine import run
from tests.serving import Serving

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"#!/bin/sh\necho user\n"
REQUEST = b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "user-data").write_bytes(DATA)
    (tmp_path / "large.tgz").write_bytes(bytes(1 << 20))
    return tmp_path


def connect(serving: Serving, data: bytes = REQUEST) -> socket.socket:
    """Return a connection on which a request was sent."""
    client = socket.create_connection((serving.host, serving.port), timeout=60)
    client.sendall(data)
    return client


def received(client: socket.socket) -> tuple[bytes, OSError | None]:
    """Return all that comes, and what ended it if that was no end in order."""
    data = b""
    try:
        while piece := client.recv(1):
            data += piece
    except OSError as error:
        return data, error
    return data, None


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_status_is_answered_and_the_connection_is_kept(site: Path, status: int) -> None:
    with Serving(site, "--fault", str(status)) as serving:
        answer = serving.ask("/latest/user-data")
    assert (answer.status, answer.headers["connection"]) == (status, "keep-alive")


def test_a_hanging_service_takes_the_request_and_sends_nothing_until_the_client_goes(site: Path) -> None:
    with Serving(site, "--fault", "hang") as serving, connect(serving) as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(60)
        assert client.recv(1) == b""


def test_a_dripping_service_sends_the_body_byte_by_byte_and_goes_on_behind_its_end(site: Path) -> None:
    (site / "user-data").write_bytes(b"ab")
    with Serving(site, "--fault", "drip") as serving, connect(serving) as client:
        stream = client.makefile("rb", buffering=0)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += stream.read(1) or b""
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length" not in head
        pieces = [client.recv(100) for _ in range(4)]
    assert pieces == [b"a", b"b", b".", b"."]


@pytest.mark.parametrize(("path", "size"), [("/latest/user-data", len(DATA)), ("/context/large.tgz", 1 << 20)])
def test_a_truncated_answer_ends_in_order_after_half_of_what_was_announced(site: Path, path: str, size: int) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with Serving(site, "--fault", "truncate") as serving, connect(serving, request) as client:
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert f"Content-Length: {size}\r\n".encode() in head
    assert len(body) == size // 2


def test_a_web_page_is_answered_in_the_place_of_the_data(site: Path) -> None:
    with Serving(site, "--fault", "html") as serving:
        answer = serving.ask("/context/default.tgz")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.body.startswith(b"<!DOCTYPE html>")


def test_a_redirect_leads_to_another_host(site: Path) -> None:
    with Serving(site, "--fault", "redirect") as serving:
        answer = serving.ask("/latest/user-data")
    assert (answer.status, answer.headers["location"]) == (302, "http://192.0.2.1/latest/user-data")


def test_a_reset_comes_after_the_head(site: Path) -> None:
    with Serving(site, "--fault", "reset") as serving, connect(serving) as client:
        head, end = received(client)
    assert isinstance(end, ConnectionResetError)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert f"Content-Length: {len(DATA)}\r\n".encode() in head


def test_content_is_encoded_though_identity_was_asked_for(site: Path) -> None:
    with Serving(site, "--fault", "gzip") as serving:
        answer = serving.ask("/latest/user-data", headers={"Accept-Encoding": "identity"})
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == DATA


@pytest.mark.parametrize(
    ("fault", "code"),
    [("hang", 28), ("drip", 28), ("truncate", 18), ("reset", 56), ("404", 22), ("500", 22), ("503", 22)],
)
def test_curl_calls_each_fault_by_its_name(site: Path, fault: str, code: int) -> None:
    with Serving(site, "--fault", fault) as serving:
        done = run(("curl", "-sS", "--fail", "--max-time", "1", f"{serving.url}/latest/user-data"))
    assert done.code == code


def test_a_fault_of_a_path_is_no_other_paths(site: Path) -> None:
    words = ("--fault", "503:/latest/meta-data/*", "--fault", "404:/latest/user-data")
    with Serving(site, *words) as serving:
        found = {
            path: serving.ask(path).status
            for path in (
                *(
                    "/latest/meta-data",
                    "/latest/meta-data/",
                    "/latest/meta-data/instance-id",
                    "/latest//meta-data/hostname",
                ),
                *("/latest/user-data", "/latest/user-data/", "/latest/user-data?a=b"),
                *("/latest", "/1.0/user-data", "/openstack/latest/user_data"),
            )
        }
    assert list(found.values()) == [503, 503, 503, 503, 404, 404, 404, 200, 200, 200]


def test_a_fault_of_so_many_times_passes_and_the_next_one_follows(site: Path) -> None:
    words = ("--fault", "503:/latest/user-data@2", "--fault", "html@1", "--fault", "redirect:/nothing")
    with Serving(site, *words) as serving:
        found = [serving.ask("/latest/user-data").status for _ in range(2)]
        page = serving.ask("/latest/user-data")
        assert [*found, serving.text("/latest/user-data")] == [503, 503, DATA.decode()]
    assert page.body.startswith(b"<!DOCTYPE html>")


def test_five_hundred_hanging_clients_hold_up_no_other(site: Path) -> None:
    with Serving(site, "--fault", "hang:/context/*") as serving:
        request = b"GET /context/large.tgz HTTP/1.1\r\nHost: x\r\n\r\n"
        hung = [connect(serving, request) for _ in range(500)]
        assert serving.ask("/latest/user-data").body == DATA
        for client in hung:
            client.close()


def test_a_token_can_be_had_at_the_second_try(site: Path) -> None:
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    with Serving(site, "--imds", "v2", "--fault", "500:/latest/api/token@1") as serving:
        assert [serving.ask("/latest/api/token", "PUT", ttl).status for _ in range(2)] == [500, 200]
