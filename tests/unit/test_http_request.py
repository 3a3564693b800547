"""The head of a request is taken whole or refused; what is taken names a plain path and nothing else."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contextagent.payloads.http_request import MAX_BODY_BYTES, BadRequest, Request, path_parts, read_request

PARTS = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1).filter(
        lambda part: part not in (".", "..")
    )
)


def taken(head: bytes) -> Request:
    request = read_request(head + b"\r\n\r\n", client="192.0.2.7")
    assert isinstance(request, Request), request
    return request


@given(st.binary())
@example(b"GET http://a/%2e%2e/b HTTP/1.0\r\n\r\n")
@example(b"GET //..//x HTTP/1.0\r\n\r\n")
def test_any_bytes_are_a_request_for_a_plain_path_or_refused(data: bytes) -> None:
    request = read_request(data)
    if isinstance(request, Request):
        assert not {"", ".", ".."} & set(request.parts)
        assert not any("/" in part or "\0" in part for part in request.parts)
    else:
        assert 400 <= request.status < 600


@given(
    PARTS,
    st.sampled_from(["", "/", "//", "?a=/../b", "/?"]),
    st.sampled_from(["", "http://169.254.169.254", "HTTP://x"]),
)
def test_a_path_comes_back_as_it_was_written_however_it_was_escaped(parts: list[str], end: str, front: str) -> None:
    target = front + "/" + "/".join(quote(part, safe="") for part in parts) + end
    assert path_parts(target) == tuple(parts)


@given(st.text())
def test_a_path_never_leads_up(target: str) -> None:
    parts = path_parts(target)
    assert isinstance(parts, BadRequest) or not {".", ".."} & set(parts)


@pytest.mark.parametrize(
    ("head", "is_kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: x", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Close", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: te, close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive", True),
    ],
)
def test_a_connection_is_kept_as_the_client_wants(head: bytes, is_kept: bool) -> None:  # noqa: FBT001  # pytest gives it
    assert taken(head).is_kept == is_kept


def test_names_of_fields_are_known_in_any_case_and_one_given_twice_has_both_values() -> None:
    request = taken(b"GET /a HTTP/1.0\r\nX-One:  a \r\nx-one: b\r\nEmpty:")
    assert request.headers == {"x-one": "a, b", "empty": ""}
    assert (request.path, request.client) == ("/a", "192.0.2.7")


@pytest.mark.parametrize("length", [b"0", b"00", b"65536"])
def test_a_small_body_is_announced(length: bytes) -> None:
    assert taken(b"PUT / HTTP/1.0\r\nContent-Length: " + length).body_bytes == int(length)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"Content-Length: %d" % (MAX_BODY_BYTES + 1), 413),
        (b"Content-Length: " + b"9" * 5000, 413),
        ("Content-Length: ²".encode("latin-1"), 400),
        (b"Content-Length: 1, 1", 400),
        (b"Content-Length: +1", 400),
        (b"Transfer-Encoding: chunked", 501),
        (b"Transfer-Encoding:", 501),
        (b": empty", 400),
        (b"no colon", 400),
        (b" folded: x", 400),
        (b"sp ace: x", 400),
        (b"nul: a\0b", 400),
        (b"cr: a\rb", 400),
        (b"lf: a\nb", 400),
    ],
)
def test_a_field_that_could_be_read_in_two_ways_is_refused(line: bytes, status: int) -> None:
    refused = read_request(b"GET / HTTP/1.0\r\n" + line + b"\r\n\r\n")
    assert isinstance(refused, BadRequest)
    assert refused.status == status
