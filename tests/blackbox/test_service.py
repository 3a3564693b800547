"""The metadata service as the agent asks it, against a server that answers to the byte what a test says."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.host import Host
from contextagent.model import Offer, Reading
from contextagent.payloads.address import parse_address
from contextagent.sources.service import Service
from tests.machine import REPOSITORY
from tests.servers import CLOSE, HANG, RESET, Drip, Server, answer, chunked, head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from contextagent.sources.service import Answer

MIB = 1 << 20
SLACK_S = 3
"""What a busy machine may need beyond a deadline; a deadline that is stretched is late by far more."""
BOMB = gzip.compress(b"\0" * (8 * MIB), 9)


@contextmanager
def service(
    url: str, *, connect_s: float = 5, try_s: float = 5, total_s: float = 60, sink: int | None = None,
    readers: Mapping[str, Callable[[bytes], Reading]] | None = None,
) -> Iterator[Service]:  # fmt: skip
    made = Service(
        Host("/nowhere"),
        parse_address(url),
        connect_s=connect_s,
        try_s=try_s,
        total_s=total_s,
        start_ns=time.monotonic_ns(),
        sink_fd=sink,
        max_sink_bytes=8 * MIB,
        readers=readers,
    )
    try:
        yield made
    finally:
        made.close()
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
        assert not [
            pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == Path("/proc/self/comm").read_text()
        ]


def got(script: Any, **more: Any) -> Answer:
    """Return what one request for `/x` comes to where the server answers so."""
    with Server({"/x": script}) as server, service(server.url) as asked:
        return asked.get("/x", max_bytes=MIB, **more)


def said(found: Answer) -> tuple[str, str]:
    return found.outcome, found.reason


@pytest.fixture
def sink() -> Iterator[int]:
    fd = os.memfd_create("sink")
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, 2 * os.fstat(fd).st_size + 1, 0)


# -- what a status means

BROKEN_4XX = [400, 402, 405, 406, 407, 408, 409, *range(411, 429), 431, 451, 499]


@pytest.mark.parametrize(
    ("statuses", "outcome", "reason"),
    [
        ([404, 410], "absent", "not-found"),
        ([401], "unauthorised", "unauthorised"),
        ([403], "broken", "forbidden"),
        ([201, 202, 203, 204, 205, 206, 226, 299], "broken", "bad-status"),
        ([300, 301, 302, 303, 304, 305, 307, 308, 399], "broken", "redirect"),
        (BROKEN_4XX, "broken", "refused"),
        ([429], "retry", "rate-limited"),
        ([*range(500, 512), 520, 599], "retry", "server-error"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_status_has_its_outcome(statuses: list[int], outcome: str, reason: str) -> None:
    scripts = {f"/{status}": answer("" if status in (204, 304) else "words", status) for status in statuses}
    with Server(scripts) as server, service(server.url) as asked:
        for status in statuses:
            found = asked.get(f"/{status}", max_bytes=MIB)
            assert (found.outcome, found.reason, found.status, found.body) == (outcome, reason, status, b"")
            assert f"'{server.url}/{status}'" in found.message
        assert server.connections == 1
        assert asked.requests == len(statuses)


def test_a_body_is_found_as_it_was_sent() -> None:
    body = bytes(range(256)) * 1000
    found = got(answer(body, 200, "Content-Type: application/octet-stream"))
    assert (found.outcome, found.body, found.size_bytes, found.status) == ("found", body, len(body), 200)
    assert (found.content_type, found.message, found.reason) == ("application/octet-stream", "", "")


@pytest.mark.parametrize(
    "script",
    [
        answer(""), chunked(), [head(), CLOSE], [b"HTTP/1.0 200 OK\r\n\r\n", CLOSE],
    ],
    ids=["length", "chunks", "connection", "old"],
)  # fmt: skip
def test_an_empty_answer_is_absent(script: Any) -> None:
    assert said(got(script)) == ("absent", "empty")


@pytest.mark.parametrize(
    "script",
    [
        answer("hello"), chunked(b"he", b"llo"), chunked(*[b"%c" % letter for letter in b"hello"]),
        [head(), b"hel", b"lo", CLOSE], [b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.3\r\n\r\nhello", CLOSE],
        [Drip(answer("hello"), pause_s=0.002)], [Drip(chunked(b"he", b"llo"), pause_s=0.002)],
        head(100) + answer("hello"), head(103, "Link: x") * 5 + answer("hello"),
        answer("hello", 200, "Content-Encoding: identity"), answer("hello", 200, "Set-Cookie: a=b"),
    ],
)  # fmt: skip
def test_every_clear_way_to_send_a_body_is_understood(script: Any) -> None:
    found = got(script)
    assert (found.outcome, found.body) == ("found", b"hello")


# -- what breaks the rules


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (head(200, "Content-Length: 5", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", "length-conflict"),
        (head(200, "Content-Length: 5", "Content-Length: 4") + b"hello", "length-conflict"),
        (head(200, "Content-Length: -5") + b"hello", "bad-http"),
        (head(200, "Content-Length: 4") + b"hello", "wrong-length"),
        ([head(200, "Content-Length: 6") + b"hello", CLOSE], "cut-short"),
        ([chunked(b"hello")[:-5], CLOSE], "cut-short"),
        (chunked(b"hello") + b"!", "wrong-length"),
        (head(200, "Transfer-Encoding: chunked") + b"4\r\nhello\r\n0\r\n\r\n", "wrong-length"),
        (head(200, "Transfer-Encoding: chunked") + b"-5\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (head(200, "Transfer-Encoding: gzip, chunked") + b"5\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"\xef\xbb\xbf" + answer("hello"), "bad-http"),
        (b"hello, this is no HTTP at all\r\n\r\n", "bad-http"),
        (answer("hello", 200, " folded: x"), "bad-http"),
        (head(100) * 6 + answer("hello"), "bad-http"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "bad-http"),
        ([b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 9000 + b"\r\n"], "too-large"),
        ([b"HTTP/1.1 200 OK\r\n" + b"A" * 40000], "too-large"),
        (answer(BOMB, 200, "Content-Encoding: gzip"), "encoded"),
        (answer(BOMB, 200, "Content-Encoding: x-gzip"), "encoded"),
        (answer("hello", 200, "Content-Encoding: br"), "encoded"),
    ],
)
def test_an_answer_that_breaks_the_rules_is_broken(script: Any, reason: str) -> None:
    found = got(script)
    assert said(found) == ("broken", reason)
    assert found.body == b""
    assert found.message.startswith("cannot fetch 'http://127.0.0.1:")


def test_a_gzip_bomb_is_bytes_like_others_and_not_unpacked() -> None:
    found = got(answer(BOMB))
    assert (found.outcome, found.body) == ("found", BOMB)


@pytest.mark.parametrize(
    ("kind", "body", "is_html"),
    [
        ("text/html", b"#!/bin/sh\n", True),
        ("Text/HTML; charset=utf-8", b"x", True),
        ("application/xhtml+xml", b"x", True),
        ("", b"\xef\xbb\xbf\n <!DOCTYPE HTML><p>", True),
        ("", b"<html><body>log in</body></html>", True),
        ("text/plain", b"<html>", False),
        ("text/plain", b"#!/bin/sh\n", False),
        ("", b"#!/bin/sh\n", False),
        ("application/gzip", b"text/html", False),
    ],
)
def test_an_html_page_is_broken_where_none_can_be(kind: str, body: bytes, is_html: bool) -> None:  # noqa: FBT001  # a column
    script = answer(body, 200, *([f"Content-Type: {kind}"] if kind else []))
    assert said(got(script, refuse_html=True)) == (("broken", "html") if is_html else ("found", ""))
    assert said(got(script)) == ("found", "")


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/y", "//127.0.0.1:{port}/y", "file:///etc/passwd", "/y"])
def test_no_redirect_is_followed(target: str) -> None:
    with Server({"/y": answer("hello")}) as other:
        found = got(answer("", 302, "Location: " + target.format(port=other.port)))
        assert said(found) == ("broken", "redirect")
        assert other.connections == 0


# -- sizes


@pytest.mark.parametrize(
    "script",
    [
        head(200, f"Content-Length: {MIB + 1}"),
        [
            head(200, "Transfer-Encoding: chunked"),
            Drip(b"800\r\n%s\r\n" % bytes(1 << 11), 0, 1 << 16, is_endless=True),
        ],
        [head(), Drip(bytes(1 << 16), 0, 1 << 16, is_endless=True)],
        [head(200, "Content-Length: 999999999999999"), HANG],
    ],
    ids=["length", "chunks", "connection", "absurd"],
)
def test_a_body_that_is_too_large_is_broken_as_soon_as_that_is_known(script: Any, sink: int) -> None:
    assert said(got(script)) == ("broken", "too-large")
    with Server({"/x": script}) as server, service(server.url, sink=sink) as asked:
        assert said(asked.get("/x", max_bytes=MIB, to_sink=True)) == ("broken", "too-large")


def test_a_body_may_be_as_large_as_it_is_allowed_to_be() -> None:
    assert got(answer(bytes(MIB))).size_bytes == MIB
    assert got(chunked(bytes(MIB - 1), b"!")).size_bytes == MIB


# -- time


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([HANG], "timeout"),
        ([Drip(head(200) + b"X: y\r\n" * 1000, 0.01)], "timeout"),
        ([head(200, "Content-Length: 100000"), Drip(b"x" * 100000, 0.01)], "timeout"),
        ([head(200, "Transfer-Encoding: chunked"), Drip(b"1\r\nx\r\n", 0.01, is_endless=True)], "timeout"),
        ([Drip(head(100), 0.01, 100, is_endless=True)], "bad-http"),
        ([head(200, "Content-Length: 9") + b"x", HANG], "timeout"),
        ([head(), Drip(b"x", 0.01, is_endless=True)], "timeout"),
        ([answer("hello")[:-1], HANG], "timeout"),
    ],
)
def test_no_drip_and_no_silence_stretches_a_try(script: Any, reason: str) -> None:
    start = time.monotonic()
    with Server({"/x": script}) as server, service(server.url, try_s=0.5) as asked:
        found = asked.get("/x", max_bytes=MIB)
        assert said(found) == ("retry" if reason == "timeout" else "broken", reason)
        assert asked.left_s() > 60 - 1 - SLACK_S
        assert server.connections == 1
    assert time.monotonic() - start < 1 + SLACK_S


@pytest.mark.parametrize("status", [404, 401, 403, 503])
def test_a_body_that_drips_behind_an_error_is_not_waited_for(status: int) -> None:
    drip = [head(status, "Content-Length: 10000"), Drip(b"x" * 10000, 0.05)]
    with Server({"/x": drip, "/y": answer("hello")}) as server, service(server.url, try_s=20) as asked:
        assert asked.get("/x", max_bytes=MIB).status == status
        assert asked.left_s() > 60 - 1 - SLACK_S
        assert asked.get("/y", max_bytes=MIB).body == b"hello"


def test_when_the_whole_time_is_over_nothing_is_asked_any_more() -> None:
    with Server({"/x": [HANG]}) as server, service(server.url, try_s=5, total_s=0.5) as asked:
        assert said(asked.get("/x", max_bytes=MIB)) == ("retry", "timeout")
        assert asked.left_s() == 0
        assert said(asked.get("/x", max_bytes=MIB)) == ("retry", "timeout")
        assert len(server.requests) == asked.requests == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7), ("0", 0), ("1000000000", 30), ("9" * 400, 30), ("30", 30), ("31", 30), ("-5", 0), ("1.5", 0), ("", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 0), ("soon", 0), ("5 5", 0), ("\xb2", 0),
    ],
)  # fmt: skip
def test_a_server_may_ask_for_half_a_minute_and_no_more(text: str, seconds: float) -> None:
    assert got(answer("busy", 503, f"Retry-After: {text}")).retry_after_s == seconds


# -- connections


@pytest.mark.parametrize(
    "script",
    [
        [RESET],
        [CLOSE],
        [b"HTTP/1.1 200", CLOSE],
        [b"HTTP/1.1 200", RESET],
        [head(200, "Content-Length: 9") + b"x", RESET],
    ],
)
def test_a_connection_that_breaks_may_do_better_the_next_time(script: Any) -> None:
    with Server({"/x": [script, [answer("hello")]]}) as server, service(server.url) as asked:
        assert said(asked.get("/x", max_bytes=MIB)) == ("retry", "reset")
        assert asked.get("/x", max_bytes=MIB).body == b"hello"
        assert (server.connections, asked.requests) == (2, 2)


def test_one_connection_serves_all_requests_where_the_server_keeps_it(sink: int) -> None:
    scripts = {"/bundle": answer("bundle"), "/meta": chunked(b"meta"), "/user": answer("user")}
    with Server(scripts) as server, service(server.url, sink=sink) as asked:
        asked.get("/bundle", max_bytes=MIB, to_sink=True)
        asked.get("/none", max_bytes=MIB)
        asked.get("/meta", max_bytes=MIB)
        asked.get("/user", max_bytes=MIB)
        assert server.connections == 1
        assert server.paths() == ["/bundle", "/none", "/meta", "/user"]
        assert asked.requests == 4


@pytest.mark.parametrize(
    "last", [answer("hello", 200, "Connection: close"), [answer("hello"), CLOSE], [answer("hello"), RESET]]
)
def test_a_connection_that_the_server_has_ended_is_made_again(last: Any) -> None:
    with Server({"/x": last}) as server, service(server.url) as asked:
        for turn in range(3):
            found = asked.get("/x", max_bytes=MIB)
            assert (found.outcome, found.body) == ("found", b"hello"), turn
        assert server.connections == 3


def test_what_comes_behind_an_answer_spoils_it() -> None:
    with (
        Server({"/x": answer("first") + answer("second"), "/y": answer("true")}) as server,
        service(server.url) as asked,
    ):
        assert said(asked.get("/x", max_bytes=MIB)) == ("broken", "wrong-length")
        assert asked.get("/y", max_bytes=MIB).body == b"true"


def test_what_came_unasked_before_a_request_does_not_answer_it() -> None:
    scripts = {"/x": [answer("first"), Drip(answer("second"), 0.005)], "/y": answer("true")}
    with Server(scripts) as server, service(server.url) as asked:
        asked.get("/x", max_bytes=MIB)
        server.wait_played()
        assert asked.get("/y", max_bytes=MIB).body == b"true"
        assert server.connections == 2


def test_a_refused_connection_is_tried_again_until_somebody_listens() -> None:
    late = socket.socket()
    late.bind(("127.0.0.1", 0))
    port = late.getsockname()[1]
    servers: list[Server] = []

    def listen() -> None:
        late.close()
        servers.append(Server({"/x": answer("hello")}, port=port))

    timer = threading.Timer(0.5, listen)
    timer.start()
    with service(f"http://127.0.0.1:{port}", connect_s=20) as asked:
        found = asked.get("/x", max_bytes=MIB)
    timer.join()
    servers[0].close()
    assert (found.outcome, found.body) == ("found", b"hello")


def test_nobody_listens_is_unreachable_within_the_time_for_that() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with service(f"http://127.0.0.1:{nobody.getsockname()[1]}", connect_s=0.5) as asked:
            found = asked.get("/x", max_bytes=MIB)
            assert said(found) == ("unreachable", "unreachable")
            assert "connection refused" in found.message
            assert asked.left_s() > 60 - 1 - SLACK_S
            assert asked.requests == 0


def test_silence_is_unreachable_within_the_time_for_that() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (first, second):  # the queue is full then, and the kernel drops who comes next
            each.settimeout(0)
            each.connect_ex(full.getsockname())
        with service(f"http://127.0.0.1:{full.getsockname()[1]}", connect_s=0.5) as asked:
            found = asked.get("/x", max_bytes=MIB)
            assert said(found) == ("unreachable", "unreachable")
            assert "no answer" in found.message
            assert asked.left_s() > 60 - 1 - SLACK_S


def test_a_service_that_was_there_once_is_down_and_not_unreachable() -> None:
    with Server({"/x": [answer("hello"), CLOSE]}) as server, service(server.url) as asked:
        assert asked.get("/x", max_bytes=MIB).outcome == "found"
        server.close()
        assert said(asked.get("/x", max_bytes=MIB)) == ("retry", "down")


def test_a_service_that_was_there_and_lets_nobody_in_costs_one_try() -> None:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                for each in (first, second):
                    each.settimeout(0)
                    each.connect_ex(listener.getsockname())
                connection.sendall(answer("hello", 200, "Connection: close"))

        thread = threading.Thread(target=answer_once)
        thread.start()
        with service(f"http://127.0.0.1:{listener.getsockname()[1]}", try_s=0.5) as asked:
            assert asked.get("/x", max_bytes=MIB).body == b"hello"
            thread.join()
            assert said(asked.get("/x", max_bytes=MIB)) == ("retry", "timeout")
            assert asked.left_s() > 60 - 2 * 0.5 - SLACK_S


def test_an_ipv6_address_is_asked_like_any_other() -> None:
    with Server({"/x": answer("hello")}, host="::1") as server, service(server.url) as asked:
        assert asked.get("/x", max_bytes=MIB).body == b"hello"
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


# -- what is sent


def test_a_request_says_what_it_must_and_nothing_of_this_machine() -> None:
    with Server({"/x": answer("hello", 200, "Set-Cookie: a=b")}) as server, service(server.url) as asked:
        for _ in range(2):
            asked.get("/x", max_bytes=MIB)
        for request in server.requests:
            assert request.headers.pop("user-agent").startswith("contextagent/")
            assert request.headers == {
                "host": f"127.0.0.1:{server.port}",
                "accept": "*/*",
                "accept-encoding": "identity",
                "connection": "keep-alive",
            }


def test_proxies_netrc_and_hosts_have_no_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    with Server({}) as proxy, Server({"/x": answer("hello")}) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("HOSTALIASES", str(tmp_path / "hosts"))
        monkeypatch.delenv("no_proxy", raising=False)
        with service(server.url) as asked:
            assert asked.get("/x", max_bytes=MIB).body == b"hello"
        assert proxy.connections == 0
        assert "authorization" not in server.requests[0].headers


def test_a_path_can_forge_no_request() -> None:
    with Server({}) as server, service(server.url + "/base/") as asked:
        asked.get("/a b\r\nX: y?c#d%20ä", max_bytes=MIB)
        assert server.paths() == ["/base/a%20b%0D%0AX%3A%20y%3Fc%23d%2520%C3%A4"]
        assert asked.url("/a b") == f"{server.url}/base/a%20b"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "", " a", "ä", "\0", "a\x7f"])
def test_a_token_that_is_no_header_is_not_sent(value: str) -> None:
    with Server({}) as server, service(server.url) as asked:
        assert said(asked.get("/x", max_bytes=MIB, headers={"X-Token": value})) == ("broken", "bad-header")
        assert server.connections == 0


def test_a_token_is_put_for_and_shown() -> None:
    scripts: dict[str, Any] = {
        "PUT /token": answer("abc=="),
        "GET /x": lambda request: [answer("hello") if request.headers.get("x-token") == "abc==" else answer("", 401)],
    }
    with Server(scripts) as server, service(server.url) as asked:
        assert asked.get("/x", max_bytes=MIB).outcome == "unauthorised"
        token = asked.put("/token", headers={"X-TTL": "300"}, max_bytes=100)
        assert token.body == b"abc=="
        assert asked.get("/x", max_bytes=MIB, headers={"X-Token": token.body.decode()}).body == b"hello"
        assert server.connections == 1
        assert (server.requests[1].headers["x-ttl"], server.requests[1].headers["content-length"]) == ("300", "0")


# -- the sink


def test_a_body_to_the_sink_replaces_what_was_there(sink: int) -> None:
    long, cut, short = answer("a long one"), [head(200, "Content-Length: 9") + b"half", CLOSE], chunked(b"sho", b"rt")
    with Server({"/x": [[long], [*cut], [short]]}) as server, service(server.url, sink=sink) as asked:
        found = asked.get("/x", max_bytes=MIB, to_sink=True)
        assert (found.outcome, found.size_bytes, found.body, content(sink)) == ("found", 10, b"", b"a long one")
        assert asked.get("/x", max_bytes=MIB, to_sink=True).outcome == "broken"
        assert asked.get("/x", max_bytes=MIB, to_sink=True).size_bytes == 5
        assert content(sink) == b"short"


def test_the_sink_grows_no_further_than_it_may(sink: int) -> None:
    with Server({"/x": answer(bytes(9 * MIB))}) as server, service(server.url, sink=sink) as asked:
        assert said(asked.get("/x", max_bytes=16 * MIB, to_sink=True)) == ("broken", "no-room")
        assert os.fstat(sink).st_size <= 8 * MIB


def test_a_large_body_goes_through_little_memory(tmp_path: Path) -> None:
    """The server is a process of its own; the figure is the peak of this small one or of its child."""
    script = f"""
import os, resource, sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from contextagent.host import Host
from contextagent.payloads.address import parse_address
from contextagent.sources.service import Service
fd = os.open({str(tmp_path / "sink")!r}, os.O_RDWR | os.O_CREAT)
asked = Service(Host("/nowhere"), parse_address(sys.argv[1]), connect_s=5, try_s=60, total_s=60,
                start_ns=time.monotonic_ns(), sink_fd=fd, max_sink_bytes=1 << 30)
found = asked.get("/x", max_bytes=1 << 30, to_sink=True)
asked.close()
own = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
peak_kib = max(int(own[0]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(found.outcome, found.size_bytes, peak_kib // 1024)
"""
    piece = bytes(MIB)
    with Server({"/x": [head(200, f"Content-Length: {200 * MIB}"), *[piece] * 200]}) as server:
        done = subprocess.run(
            [sys.executable, "-I", "-c", script, server.url], capture_output=True, text=True, check=True, timeout=60
        )
    outcome, size, peak_mib = done.stdout.split()
    assert (outcome, int(size)) == ("found", 200 * MIB)
    assert int(peak_mib) < 32


# -- readers, and whoever takes a child over by what they read


def reading(**more: Any) -> Reading:
    return Reading(layout="test", ids={"test-id": "one"}, **more)


def read_by(reader: Callable[[bytes], Any], sink: int | None = None, **more: Any) -> Answer:
    with (
        Server({"/x": answer("meta")}) as server,
        service(server.url, sink=sink, readers={"r": reader}, **more) as asked,
    ):
        found = asked.get("/x", max_bytes=MIB, reader="r")
        # what one reader did to its child harms no later request
        assert asked.get("/x", max_bytes=MIB).body == b"meta"
        return found


def test_a_reader_reads_in_a_child_without_rights() -> None:
    def read(data: bytes) -> Reading:
        return Reading(layout=data.decode(), ids={"uid": str(os.geteuid()), "pid": str(os.getpid())})

    found = read_by(read)
    assert found.outcome == "found"
    assert found.body == b""
    assert found.reading
    assert found.reading.layout == "meta"
    assert found.reading.ids["pid"] != str(os.getpid())
    assert found.reading.ids["uid"] == ("65534" if os.geteuid() == 0 else str(os.geteuid()))


def offer(**more: Any) -> Offer:
    return Offer(**{"owner": "user", "role": "key", "name": "", "data": b"ssh-rsa x", **more})


def test_a_reading_crosses_as_it_was() -> None:
    made = reading(offers=(offer(data=bytes(range(256))),))
    assert read_by(lambda _: made).reading == made


def loop(_: bytes) -> Reading:
    while True:
        pass


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (loop, "reader-timeout"),
        (lambda _: os._exit(0), "reader-died"),
        (lambda _: os.kill(os.getpid(), 9), "reader-died"),
        (lambda _: bytes(1 << 40), "bad-format"),
        (lambda _: 1 // 0, "bad-format"),
        (lambda _: None, "bad-format"),
        (lambda _: reading(offers=(offer(owner="site", role="script", name="x"),)), "reader-died"),
        (lambda _: reading(offers=(offer(role="script", name="../x"),)), "reader-died"),
        (lambda _: reading(offers=(offer(data=None, path="/etc/shadow"),)), "reader-died"),
        (lambda _: reading(variables={"PATH": "/x"}), "reader-died"),
        (lambda _: reading(bundle=b"x"), "reader-died"),
        (lambda _: reading().replace(ids={"a": "\n"}), "reader-died"),
        (lambda _: reading().replace(ids={"a": 5}), "reader-died"),
        (lambda _: reading().replace(ids=["a"]), "reader-died"),
        (lambda _: reading().replace(layout=7), "reader-died"),
        (lambda _: reading().replace(offers=(offer(data="x" * (65 << 20)),)), "bad-format"),
    ],
)
def test_a_reader_that_goes_wrong_is_a_broken_answer_and_no_harm(reader: Any, reason: str) -> None:
    found = read_by(reader, try_s=0.5)
    assert said(found) == ("broken", reason)
    assert found.reading is None


def test_whoever_takes_the_child_over_cannot_reach_the_bundle_that_it_wrote(sink: int) -> None:
    def evil(_: bytes) -> Reading:
        for fd in range(3, 16):
            try:
                os.pwrite(fd, b"evil!", 0)
            except OSError:
                continue
        return reading()

    scripts = {"/bundle": answer("bundle"), "/x": answer("meta")}
    with Server(scripts) as server, service(server.url, sink=sink, readers={"r": evil}) as asked:
        assert asked.get("/bundle", max_bytes=MIB, to_sink=True).outcome == "found"
        asked.get("/x", max_bytes=MIB, reader="r")
        assert content(sink) == b"bundle"
        # and a bundle that is asked for after that is written by another child
        assert asked.get("/bundle", max_bytes=MIB, to_sink=True).outcome == "found"
        assert content(sink) == b"bundle"
