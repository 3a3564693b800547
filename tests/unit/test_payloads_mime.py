"""Multiparts: each leaf part by its type, numbered, bounded."""

from __future__ import annotations

import base64
import gzip
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest

from contextagent.payloads.caps import Caps
from tests.tars import file, tar, tgz
from tests.userdata import read, reason_of


def multipart(*parts: MIMEText | MIMEMultipart) -> MIMEMultipart:
    made = MIMEMultipart()
    for part in parts:
        made.attach(part)
    return made


def binary(data: bytes) -> MIMEText:
    """Return a part with any bytes in base64."""
    part = MIMEText("", "plain")
    part.replace_header("Content-Transfer-Encoding", "base64")
    part.set_payload(base64.encodebytes(data).decode())
    return part


def test_parts_are_numbered_by_leaf_also_through_packed_multiparts() -> None:
    inner = multipart(MIMEText("#!/bin/sh\n", "x-shellscript"), MIMEText("#!/bin/sh\n", "x-shellscript"))
    whole = multipart(
        binary(gzip.compress(inner.as_bytes())),
        MIMEText("   \n", "plain"),
        binary(gzip.compress(b"#!/bin/sh before\nexit\n")),
        MIMEText("#cloud-config\nruncmd: [a]\n", "cloud-config"),
    )
    names = [offer.name for offer in read(whole.as_bytes()).offers]
    assert names == ["part-001", "part-002", "part-004-before", "runcmd-005"]


def test_a_single_part_with_headers_is_a_multipart_of_one() -> None:
    (offer,) = read("MIME-Version: 1.0\nContent-Type: text/cloud-boothook\n\n#!/bin/sh\n").offers
    assert (offer.name, offer.data) == ("boothook-001", b"#!/bin/sh\n")


def test_line_ends_of_a_message_do_not_get_into_its_scripts() -> None:
    data = multipart(MIMEText("#!/bin/sh\nls\n", "x-shellscript")).as_bytes().replace(b"\n", b"\r\n")
    assert (read(data).offers[0].data or b"").startswith(b"#!/bin/sh\nls\n")


def test_one_tar_part_is_the_bundle_and_a_second_one_is_named() -> None:
    first, second = tgz(file("prolog.sh")).getvalue(), tar(file("epilog.sh")).getvalue()
    reading = read(multipart(binary(first), binary(second)).as_bytes())
    assert reading.bundle == first
    assert [(offer.role, offer.reason) for offer in reading.offers] == [("kept", "two-bundles")]
    assert [(problem.reason, problem.path) for problem in reading.warnings] == [("two-bundles", "part-002")]


def test_a_multipart_that_is_not_closed_is_taken_with_a_warning() -> None:
    data = multipart(MIMEText("#!/bin/sh\n", "x-shellscript")).as_bytes().rstrip().removesuffix(b"--")
    reading = read(data[: data.rindex(b"--")])
    assert [offer.name for offer in reading.offers] == ["part-001"]
    assert [problem.reason for problem in reading.warnings] == ["bad-mime"]


def nested(levels: int) -> bytes:
    data = b"MIME-Version: 1.0\nContent-Type: text/plain\n\nx"
    for _ in range(levels):
        data = multipart(binary(data)).as_bytes()
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"Content-Type: multipart/mixed\n\nx", "bad-mime"),
        (b"Content-Type: multipart/mixed; boundary=x\n\nnothing\n", "bad-mime"),
        (b"Content-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\n%%%A\n", "bad-base64"),
        (nested(10), "too-deep"),
        (b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3000)), "too-deep"),
        (multipart(binary(gzip.compress(gzip.compress(gzip.compress(b"x"))))).as_bytes(), "too-many-layers"),
    ],
    ids=["no boundary", "boundary never comes", "damaged base64", "nested in parts", "nested", "packed three times"],
)  # fmt: skip
def test_a_damaged_multipart_is_broken(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_multiparts_are_bounded_in_parts_and_bytes() -> None:
    data = multipart(*(MIMEText("x") for _ in range(5))).as_bytes()
    assert reason_of(data, caps=Caps(members=4)) == "too-many-members"
    assert reason_of(data, caps=Caps(member_bytes=100)) == "member-too-large"
    assert reason_of(data + bytes(4 << 20)) == "member-too-large"
