"""Messages taken apart: what `email` makes of them is the measure, for everything that a mailer writes."""

from __future__ import annotations

from email import encoders, message_from_bytes, policy
from email.mime.base import MIMEBase
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.payloads.multipart import MAX_HEADERS_BYTES, MAX_PARAMETERS, Parts, TooLargeError, read_message

if TYPE_CHECKING:
    from email.message import Message

KINDS = ("x-shellscript", "plain", "cloud-boothook", "cloud-config")
ENCODERS = (encoders.encode_base64, encoders.encode_quopri, encoders.encode_7or8bit)
BOUNDARIES = (None, "x", "a b", "=_q;1", "==", 'a"b')
LINES = ("#!/bin/sh", "", "--", "-- x", "--x--", " y", "é", "From me", "Content-Type: a/b", "=", "=3D")


def message(data: bytes) -> Parts:
    return read_message(data, max_parts=1000)


def leaf(kind: str, lines: list[str], encode: int) -> Message:
    part = MIMEBase("text", kind)
    part.set_payload("\n".join(lines).encode())
    ENCODERS[encode](part)
    return part


def several(boundary: str | None, kind: str, parts: list[Message]) -> Message:
    made = MIMEMultipart(kind, boundary=boundary)
    for part in parts:
        made.attach(part)
    return made


leaves = st.builds(leaf, st.sampled_from(KINDS), st.lists(st.sampled_from(LINES[:4])), st.integers(0, 2))
trees = st.recursive(
    leaves,
    lambda inner: (
        st.builds(several, st.none(), st.sampled_from(["mixed", "digest"]), st.lists(inner, min_size=1, max_size=3))
        | st.builds(MIMEMessage, inner)
    ),
    max_leaves=6,
)


def as_the_library_has_it(data: bytes) -> list[tuple[str, object]]:
    parts = message_from_bytes(data).walk()
    return [(part.get_content_type(), part.get_payload(decode=True)) for part in parts if not part.is_multipart()]


def as_we_have_it(data: bytes) -> list[tuple[str, object]]:
    return [(part.kind, part.content()) for part in message(data).parts]


@given(tree=trees, is_crlf=st.booleans())
def test_a_message_is_taken_apart_as_the_library_does_it(tree: Message, *, is_crlf: bool) -> None:
    data = tree.as_bytes(policy=policy.compat32.clone(linesep="\r\n" if is_crlf else "\n"))
    assert as_we_have_it(data) == as_the_library_has_it(data)
    assert (message(data).has_boundaries, message(data).is_closed) == (True, True)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_boundary_is_found_however_it_is_written(boundary: str | None) -> None:
    data = several(boundary, "mixed", [leaf("plain", ["one"], 2), leaf("plain", ["two"], 2)]).as_bytes()
    assert [part.body for part in message(data).parts] == [b"one", b"two"]


@pytest.mark.parametrize(
    "named", ["boundary*=us-ascii'en'a%20b", 'boundary*0="a ";\n boundary*1=b', "boundary*0*=''a%20; boundary*1=b"]
)
def test_a_boundary_may_be_in_pieces_or_escaped(named: str) -> None:
    data = f"Content-Type: multipart/mixed; charset=x; {named}\n\n--a b\n\none\n--a b--\n".encode()
    assert as_we_have_it(data) == as_the_library_has_it(data) == [("text/plain", b"one")]


@pytest.mark.parametrize("name", ["x-uuencode", "uuencode", "uue", "x-uue"])
@pytest.mark.parametrize(
    "body", ["begin 644 a\n#0V%T\n \nend\n", "begin 644 a\n#0V%T%%%\n", "begin 644 a\n\x7f\n", "Cat\n"]
)
def test_what_was_packed_for_other_mailers_is_had_as_well(name: str, body: str) -> None:
    data = f"Content-Type: text/plain\nContent-Transfer-Encoding: {name}\n\n{body}".encode()
    assert as_we_have_it(data) == as_the_library_has_it(data)


def test_damaged_base64_is_no_content() -> None:
    (part,) = message(b"Content-Transfer-Encoding: base64\n\n%%%A\n").parts
    with pytest.raises(ValueError, match=r"base64|data|padding"):
        part.content()


def seen(data: bytes) -> tuple[int, bool, bool]:
    made = message(data)
    return len(made.parts), made.has_boundaries, made.is_closed


def test_what_is_missing_is_said() -> None:
    head = b"Content-Type: multipart/mixed; boundary=x\n\n"
    assert seen(head + b"--x\n\none\n--x--\n") == (1, True, True)
    assert seen(head + b"--x\n\none\n") == (1, True, False)
    assert seen(head + b"nothing\n") == (0, False, True)
    assert seen(b"Content-Type: multipart/mixed\n\n--x\n") == (0, False, True)


@given(data=st.lists(st.sampled_from([*LINES, "Content-Type: multipart/mixed; boundary=x", "--x"])).map("\n".join))
def test_no_message_is_too_odd_to_be_read_and_nothing_is_made_up(data: str) -> None:
    assert all(part.body in data.encode() for part in message(data.encode()).parts)


def test_messages_in_messages_take_no_stack() -> None:
    assert seen(b"Content-Type: message/rfc822\n\n" * 100_000) == (1, True, True)


HEAD = b"Content-Type: multipart/mixed; boundary=x"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEAD + b";" * MAX_PARAMETERS + b"\n\n--x\n", "bad-mime"),
        (HEAD + b";" * 262_144 + b"\n\n--x\n", "bad-mime"),
        (HEAD + b'; a="' + b";" * 262_144 + b"\n\n--x\n", "bad-mime"),
        (HEAD + b"; boundary*0=b" * 600_000 + b"\n\n--x\n", "bad-mime"),
        (b"X: y\n" + b" z\n" * 1_000_000, "bad-mime"),
        (b"X: y\n" * (MAX_HEADERS_BYTES // 5 + 1), "bad-mime"),
        (HEAD + b"\n\n" + b"--x\n\n" * 800_000, "too-many-members"),
    ],
    ids=["parameters", "semicolons", "in quotes", "pieces", "folded", "headers", "parts"],
)
def test_more_than_any_mailer_writes_is_refused_at_the_bound(data: bytes, reason: str) -> None:
    with pytest.raises(TooLargeError) as caught:
        message(data)
    assert caught.value.reason == reason


def test_a_quoted_semicolon_ends_no_parameter() -> None:
    data = b'Content-Type: multipart/mixed; a="' + b";" * 1000 + b'"; boundary=x\n\n--x\n\none\n--x--\n'
    assert as_we_have_it(data) == as_the_library_has_it(data) == [("text/plain", b"one")]


def test_a_piece_with_a_number_that_is_none_takes_the_first_place() -> None:
    assert seen(b"Content-Type: multipart/mixed; boundary*" + b"9" * 5000 + b"=x\n\n--x\n\none\n--x--\n") == (
        1,
        True,
        True,
    )


def test_a_boundary_may_be_of_hyphens_alone() -> None:
    data = b"Content-Type: multipart/mixed; boundary=---\n\n-----\n\none\n-------\n"
    assert as_we_have_it(data) == as_the_library_has_it(data) == [("text/plain", b"one")]
