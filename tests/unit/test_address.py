from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.payloads.address import parse_address


@pytest.mark.parametrize(
    ("url", "host", "port", "whole"),
    [
        ("http://169.254.169.254", "169.254.169.254", 80, "http://169.254.169.254/x"),
        ("http://169.254.169.254/", "169.254.169.254", 80, "http://169.254.169.254/x"),
        ("http://127.0.0.1:8080/site", "127.0.0.1", 8080, "http://127.0.0.1:8080/site/x"),
        ("HTTP://[fd00:ec2::254]", "fd00:ec2::254", 80, "http://[fd00:ec2::254]/x"),
        ("http://[::1]:81", "::1", 81, "http://[::1]:81/x"),
    ],
)
def test_a_literal_address_is_taken(url: str, host: str, port: int, whole: str) -> None:
    address = parse_address(url)
    assert (address.host, address.port, address.url("/x")) == (host, port, whole)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("169.254.169.254", "http://"),
        ("https://169.254.169.254", "http://"),
        ("file:///etc/passwd", "http://"),
        ("http://metadata.example", "no literal address"),
        ("http://localhost", "no literal address"),
        ("http://user:secret@169.254.169.254", "no literal address"),
        ("http://127.1", "no literal address"),
        ("http://0x7f.0.0.1", "no literal address"),
        ("http://0177.0.0.1", "no literal address"),
        ("http://2130706433", "no literal address"),
        ("http://[fe80::1%eth0]", "no literal address"),
        ("http://[::ffff:1.2.3.4]", "no literal address"),
        ("http://[::1", "no literal address"),
        ("http://[::1]x", "no literal address"),
        ("http://", "no literal address"),
        ("http://1.2.3.4:0", "port"),
        ("http://1.2.3.4:", "port"),
        ("http://1.2.3.4:65536", "port"),
        ("http://1.2.3.4:8o", "port"),
        ("http://1.2.3.4/a?b", "path"),
        ("http://1.2.3.4/a b", "path"),
        ("http://1.2.3.4/\r\nHost: x", "path"),
        ("http://1.2.3.4/../x", "path"),
        ("http://1.2.3.4/" + "x" * 600, "longer than 512"),
    ],
)
def test_anything_that_is_no_literal_address_is_refused(url: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        parse_address(url)


@given(st.ip_addresses())
def test_every_address_is_read_as_the_library_reads_it(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    text = address.exploded if address.version == 4 else f"[{address.compressed}]"
    if address.version == 6 and "." in text:
        return
    assert ipaddress.ip_address(parse_address(f"http://{text}").host) == address


@given(st.text("0123456789abcdef:.[]x", max_size=24))
def test_what_is_taken_is_an_address_to_the_library_too(host: str) -> None:
    try:
        found = parse_address(f"http://{host}")
    except ValueError:
        return
    ipaddress.ip_address(found.host)
