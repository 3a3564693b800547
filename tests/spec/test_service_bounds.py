"""Work that user data can make: it is bounded, and the site's scripts run soon whatever has to be read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import ec2, hear, policy, spoken
from tests.spec.scenes import effects

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.spec.service import Service

MIB = 1 << 20
MIME = b"MIME-Version: 1.0\nContent-Type: multipart/mixed; "
PARTS = b"\n\n--a\n\nx\n--a--\n"
SOON_S = 20


def work(kind: str) -> bytes:
    """Return user data that is much work for a simple reader."""
    return {
        "open quote": MIME + b'boundary="' + b";" * (MIB // 16) + PARTS,
        "many headers": b"MIME-Version: 1.0\n" + b"X: y\n" * (MIB // 2) + MIME[18:] + b"boundary=a" + PARTS,
        "encoded words": b"MIME-Version: 1.0\nSubject:" + b" =?utf-8?q?a?=" * (MIB // 8) + b"\n" + MIME[18:] + PARTS,
        "open brackets": MIME + b"(" * MIB + b"boundary=a" + PARTS,
        "ini": b"[amiconfig]\n" + b"a=b\n" * MIB,
        "xml": b"<a>" + b"<filewrite>" * MIB,
        "vac": b"##user_data_" * MIB,
        "yaml list": b"#cloud-config\n" + b"- " * (MIB // 4),
        "yaml map": b"#cloud-config\n" + b"".join(b"k%d: 1\n" % number for number in range(80000)),
        "sections": b"#!/bin/sh before\n" * (MIB // 4),
    }[kind]


KINDS = (
    "open quote", "many headers", "encoded words",
    "open brackets", "ini", "xml", "vac", "yaml list", "yaml map", "sections",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_user_data_that_is_much_work_to_read_holds_up_no_site(machine: Machine, service: Service, kind: str) -> None:
    policy(machine, total_s="20", try_s="10")
    service.pages = ec2(work(kind), bundle=spoken(machine, "epilog.sh"))
    began = time.monotonic()
    done = hear(machine, service)
    assert "Traceback" not in done.err
    assert effects(machine) == ["epilog.sh start"]
    assert time.monotonic() - began < SOON_S


def test_a_users_thousand_words_are_no_line_too_long_in_the_trace(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(work("yaml map"), bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    for path in (machine.root / "var/log/contextagent").glob("trace-*"):
        assert max(map(len, path.read_bytes().splitlines())) <= 4000
