"""The reader of HTTP answers: what is clear is read, however it is cut in pieces; what is not is refused."""

from __future__ import annotations

import http.client
import io
import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import BrokenSourceError
from contextagent.payloads.http import MAX_FIELDS, MAX_HEAD_BYTES, Chunks, Head, head_end, read_head

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED = 20091109
MUTANTS = 20_000
TOKEN_LETTERS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

tokens = st.text(TOKEN_LETTERS, min_size=1, max_size=20)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)
bodies = st.binary(max_size=300)


def read(*lines: str, first: str = "HTTP/1.1 200 OK") -> Head:
    return read_head("\r\n".join([first, *lines, "", ""]).encode("latin-1"))


def decoded(data: bytes, cuts: Sequence[int] = ()) -> tuple[bytes, Chunks]:
    """Return what the chunks hold when they come in pieces that end at these places."""
    chunks = Chunks()
    body = b""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        body += b"".join(chunks.feed(data[start:end]))
    return body, chunks


def packed(pieces: Sequence[bytes], trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n" + trailer + b"\r\n"


# -- heads


def test_a_head_says_status_headers_and_length() -> None:
    head = read("Content-Type:  text/plain ", "CONTENT-LENGTH:5", "X:")
    assert head == Head(
        status=200,
        headers=(("content-type", "text/plain"), ("content-length", "5"), ("x", "")),
        length=5,
        is_kept=True,
    )
    assert (head.header("content-type"), head.header("etag")) == ("text/plain", "")


@pytest.mark.parametrize("first", ["HTTP/1.1 404 Not Found", "HTTP/1.1 404 ", "HTTP/1.1 404", "HTTP/1.0 404 \xe9t\xe9"])
def test_the_words_behind_a_status_do_not_matter(first: str) -> None:
    assert read(first=first).status == 404


@pytest.mark.parametrize(
    "first",
    [
        "HTTP/1.2 200 OK", "HTTP/2 200 OK", "HTTP/1.1  200 OK", "HTTP/1.1 2OO OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK",
        "HTTP/1.1 200OK", "HTTP/1.1 200 O\x00K", "HTTP/1.1 200 O\rK", "HTTP/1.1 099 OK", "HTTP/1.1 600 OK",
        "HTTP/1.1 000 OK", "HTTP/1.1 -20 OK", "HTTP/1.1\t200 OK", "http/1.1 200 OK", "HTTP/1.1 200\tOK",
        "HTTP/1.1 101 Switching Protocols", "HTTP/1.1", "", "HTTP/1.1 \xb2\xb2\xb2 OK",
    ],
)  # fmt: skip
def test_a_first_line_that_is_no_status_line_is_refused(first: str) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        read("Content-Length: 0", first=first)
    assert caught.value.reason == "bad-http"


@pytest.mark.parametrize(
    "line",
    [
        "No colon", ": no name", "Na me: x", "Name : x", " Folded: x", "\tfolded", "Name: a\x00b", "Name: a\rb",
        "Name: a\nb", "N\x00ame: x", "Name: \x7f", "N\xe4me: x", "(name): x", "Name: \x1b[31m",
    ],
)  # fmt: skip
def test_a_line_that_is_no_header_is_refused(line: str) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        read(line)
    assert caught.value.reason == "bad-http"


@pytest.mark.parametrize(
    "length",
    ["", "-1", "+5", "5 5", "5,5", "5, 5", "0x5", "5.0", "1_0", "\xb2", "\xd9\xa3", "1" * 16],
)
def test_a_length_that_is_no_plain_number_is_refused(length: str) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        read(f"Content-Length: {length}")
    assert caught.value.reason == "bad-http"


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5", "Content-Length: 05"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Transfer-Encoding: Chunked", "content-length: 0"),
    ],
)
def test_two_words_on_the_same_length_are_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        read(*lines)
    assert caught.value.reason == "length-conflict"


def test_the_same_length_said_twice_is_one_length() -> None:
    assert read("Content-Length: 5", "Content-Length: 5").length == 5


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "chunked, gzip", "gzip", "identity", "xchunked", "chunked, chunked", "", "\x0bchunked"]
)
def test_no_transfer_encoding_but_chunked_is_read(coding: str) -> None:
    with pytest.raises(BrokenSourceError):
        read(f"Transfer-Encoding: {coding}")


def test_transfer_encoding_said_twice_or_under_http_1_0_is_refused() -> None:
    for first, lines in (
        ("HTTP/1.1 200 OK", ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")),
        ("HTTP/1.0 200 OK", ("Transfer-Encoding: chunked",)),
    ):
        with pytest.raises(BrokenSourceError):
            read(*lines, first=first)


def test_chunks_have_no_length_and_keep_the_connection() -> None:
    head = read("Transfer-Encoding: CHUNKED")
    assert (head.is_chunked, head.length, head.is_kept) == (True, None, True)


@pytest.mark.parametrize(
    ("first", "lines", "is_kept"),
    [
        ("HTTP/1.1 200 OK", ("Content-Length: 0",), True),
        ("HTTP/1.1 200 OK", ("Content-Length: 0", "Connection: close"), False),
        ("HTTP/1.1 200 OK", ("Content-Length: 0", "Connection: x, CLOSE"), False),
        ("HTTP/1.1 200 OK", ("Content-Length: 0", "Connection: keep-alive"), True),
        ("HTTP/1.1 200 OK", (), False),
        ("HTTP/1.0 200 OK", ("Content-Length: 0",), False),
        ("HTTP/1.0 200 OK", ("Content-Length: 0", "Connection: Keep-Alive"), True),
        ("HTTP/1.0 200 OK", ("Content-Length: 0", "Connection: keep-alive, close"), False),
        ("HTTP/1.1 204 No Content", (), True),
    ],
)
def test_a_connection_is_kept_only_where_both_sides_know_the_end(first: str, lines: list[str], is_kept: bool) -> None:  # noqa: FBT001  # a column
    assert read(*lines, first=first).is_kept is is_kept


@pytest.mark.parametrize("status", [100, 103, 199, 204, 304])
def test_some_answers_have_no_body_whatever_they_say(status: int) -> None:
    for line in ("Content-Length: 7", "Transfer-Encoding: chunked"):
        head = read(line, first=f"HTTP/1.1 {status} X")
        assert (head.length, head.is_chunked, head.is_interim) == (0, False, status < 200)


def test_a_hundred_headers_are_read_and_one_more_refused() -> None:
    assert len(read(*["A: b"] * MAX_FIELDS).headers) == MAX_FIELDS
    with pytest.raises(BrokenSourceError):
        read(*["A: b"] * (MAX_FIELDS + 1))


@given(st.lists(st.tuples(tokens.filter(lambda name: name.lower() not in "content-length transfer-encoding"), values)))
def test_every_well_formed_head_is_read_as_it_stands(fields: list[tuple[str, str]]) -> None:
    head = read(*[f"{name}: {value}" for name, value in fields][:MAX_FIELDS])
    assert head.headers == tuple((name.lower(), value.strip(" \t")) for name, value in fields[:MAX_FIELDS])


# -- where a head ends


@given(st.binary(max_size=50), st.integers(0, 80))
def test_a_head_ends_at_its_first_empty_line_however_it_comes(rest: bytes, at: int) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nA: b\r\n\r\n"
    assert head_end((whole + rest)[: len(whole) + at]) == len(whole)
    assert head_end(bytearray(whole[: min(at, len(whole) - 1)])) == 0


@pytest.mark.parametrize(
    "start", [b"<html>", b"\xef\xbb\xbfHTTP/1.1 200 OK", b"SSH-2.0", b"\r\nHTTP", b"\0", b"HTTP/2"]
)
def test_what_is_no_http_is_refused_at_its_first_bytes(start: bytes) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        head_end(start)
    assert caught.value.reason == "bad-http"


def test_a_head_may_have_32_kib_and_no_byte_more() -> None:
    start, end = b"HTTP/1.1 200 OK\r\nA: ", b"\r\n\r\n"
    whole = start + b"x" * (MAX_HEAD_BYTES - len(start) - len(end)) + end
    assert head_end(whole) == MAX_HEAD_BYTES
    assert read_head(whole).status == 200
    with pytest.raises(BrokenSourceError) as caught:
        head_end(start + b"x" + whole[len(start) :])
    assert caught.value.reason == "too-large"
    with pytest.raises(BrokenSourceError):
        head_end(start + b"x" * MAX_HEAD_BYTES)


def test_a_line_that_ends_without_a_carriage_return_is_refused_before_more_is_waited_for() -> None:
    for data in (b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", b"HTTP/1.\n"):
        with pytest.raises(BrokenSourceError) as caught:
            head_end(data)
        assert caught.value.reason == "bad-http"
    with pytest.raises(BrokenSourceError):
        read(*["A: b\nC: d"])


# -- chunks


@given(st.lists(bodies), st.lists(st.integers(0, 5000)), st.binary(max_size=20))
def test_chunks_hold_the_same_body_however_they_come(pieces: list[bytes], cuts: list[int], rest: bytes) -> None:
    body, chunks = decoded(packed(pieces) + rest, [*cuts])
    assert body == b"".join(pieces)
    assert chunks.is_done
    # what comes in a piece of its own after the end is not the decoder's business any more
    assert rest.startswith(chunks.rest)


@given(st.lists(bodies, min_size=1), st.integers(0, 5000))
def test_chunks_that_are_cut_short_never_end(pieces: list[bytes], cut: int) -> None:
    data = packed(pieces)
    body, chunks = decoded(data[: cut % len(data)])
    assert not chunks.is_done
    assert b"".join(pieces).startswith(body)


@pytest.mark.parametrize(
    "data",
    [
        b"5;name=value\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n", b"0005\r\nhello\r\n000\r\n\r\n",
        b"5\r\nhello\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n", b"5;\r\nhello\r\n0;x\r\n\r\n",
    ],
)  # fmt: skip
def test_chunks_may_have_extensions_and_trailers(data: bytes) -> None:
    body, chunks = decoded(data)
    assert (body, chunks.is_done) == (b"hello", True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"5\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"-5\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"+5\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"0x5\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b" 5\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"5_0\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b";x\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"g\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"5;\x00\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"5\r;x\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"1234567890123\r\n", "bad-http"),
        (b"5;" + b"x" * 300, "bad-http"),
        (b"5;" + b"x" * 300 + b"\r\nhello\r\n0\r\n\r\n", "bad-http"),
        (b"5\r\nhello!\r\n0\r\n\r\n", "wrong-length"),
        (b"5\r\nhello\n0\r\n\r\n", "wrong-length"),
        (b"5\r\nhello\rX", "wrong-length"),
        (b"5\r\nhello0\r\n\r\n", "wrong-length"),
        (b"4\r\nhello\r\n0\r\n\r\n", "wrong-length"),
        (b"0\r\nno trailer\r\n\r\n", "bad-http"),
        (b"0\r\nName : x\r\n\r\n", "bad-http"),
        (b"0\r\n\n", "bad-http"),
        (b"0\r\n" + b"A: b\r\n" * 2000, "bad-http"),
        (b"0\r\nA: " + b"x" * 9000, "bad-http"),
    ],
)
def test_chunks_that_break_the_rules_are_refused(data: bytes, reason: str) -> None:
    for cuts in ((), range(len(data))):
        with pytest.raises(BrokenSourceError) as caught:
            decoded(data, cuts)
        assert caught.value.reason == reason


def test_what_comes_behind_the_last_chunk_is_told() -> None:
    body, chunks = decoded(packed([b"hello"]) + b"more")
    assert (body, chunks.rest) == (b"hello", b"more")


# -- mutants


def mutant(rng: random.Random, seed: bytes) -> bytes:
    made = bytearray(seed)
    splices = [
        b"\r",
        b"\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"chunked",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: x\r\n",
    ]
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(made) + 1)
        end = min(len(made), at + rng.randrange(4))
        made[at:end] = rng.choice([*splices, rng.randbytes(1), b"", bytes(made[end : end + 9])])
    return bytes(made)


def other_reading(data: bytes) -> tuple[int, int | None, bytes] | None:
    """Return status, length and body as the standard library reads them; None when it refuses."""

    class Wire(io.BytesIO):
        def makefile(self, *_: Any) -> Wire:
            return self

    response = http.client.HTTPResponse(Wire(data))  # type: ignore[arg-type]  # all that it asks of a socket
    try:
        response.begin()
        length = response.length
        return response.status, length, response.read()
    except (http.client.HTTPException, ValueError, OSError):
        return None


@pytest.mark.parametrize(
    "seed",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nT: x\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_no_mutant_is_read_otherwise_than_the_standard_library_reads_it_nor_raises_anything_unforeseen(
    seed: bytes,
) -> None:
    rng = random.Random(SEED)
    read_ones = 0
    for _ in range(MUTANTS):
        data = mutant(rng, seed)
        try:
            end = head_end(data)
            if not end:
                continue
            head = read_head(data[:end])
            body, chunks = decoded(data[end:]) if head.is_chunked else (data[end:][: head.length], None)
        except BrokenSourceError:
            continue
        if head.is_chunked and not data.lower().count(b" chunked\r\n"):
            continue  # the other reader does not take the blanks off that may stand around a value
        if head.is_interim or (chunks is not None and not chunks.is_done) or len(body) < (head.length or 0):
            continue
        read_ones += 1
        other = other_reading(data)
        assert other is not None, data
        assert (other[0], other[2]) == (head.status, body), data
        if head.length is not None and head.status not in (204, 304):
            assert other[1] == head.length, data
    assert read_ones > MUTANTS // 20
