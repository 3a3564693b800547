"""A URL that a context names is taken only where two readers could not understand it differently."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.payloads.weburl import parse_web_url


@pytest.mark.parametrize(
    ("text", "below", "is_plain"),
    [
        ("http://169.254.169.253/joboutputs", "http://169.254.169.253/joboutputs/log", True),
        ("http://169.254.169.253:80/joboutputs/", "http://169.254.169.253:80/joboutputs/log", True),
        ("HTTP://[FD00::1]:8080", "http://[fd00::1]:8080/log", True),
        ("http://Vac.Example.ORG/a/b//", "http://vac.example.org/a/b/log", False),
        ("https://10.0.0.1:443/machines/x", "https://10.0.0.1:443/machines/x/log", False),
        ("http://127.1/x", "http://127.1/x/log", False),
    ],
)
def test_a_url_names_what_is_below_it(text: str, below: str, is_plain: bool) -> None:  # noqa: FBT001  # a column
    url = parse_web_url(text)
    assert url.below("log") == below
    assert url.is_plain == is_plain


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "it begins neither"),
        ("/etc/joboutputs", "it begins neither"),
        ("ftp://10.0.0.1/x", "it begins neither"),
        ("http:10.0.0.1", "it begins neither"),
        ("https://me:secret@site.example/x", "it has a name or a password in it"),
        ("https://token@site.example/x", "it has a name or a password in it"),
        ("http://site.example/x?token=1", "it has a query"),
        ("http://site.example/x#here", "it has a query or a fragment"),
        ("http:///x", "its host is none"),
        ("http://-x/y", "its host is none"),
        ("http://a b/y", "its host is none"),
        ("http://[::1/y", "its host is none"),
        ("http://[::1]x/y", "its host is none"),
        ("http://a:0/y", "its port is no number"),
        ("http://a:65536/y", "its port is no number"),
        ("http://a:1234567/y", "its port is no number"),
        ("http://a:/y", "its port is no number"),
        ("http://a/x/../y", "its path has characters"),
        ("http://a/x\r\nHost: b", "its path has characters"),
        ("http://a/ä", "its path has characters"),
        ("http://a/" + "x" * 600, "it is longer than 512"),
    ],
)
def test_what_is_no_such_url_is_refused_without_being_shown(text: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause) as caught:
        parse_web_url(text)
    assert "secret" not in str(caught.value)


def test_a_name_is_quoted() -> None:
    assert parse_web_url("http://10.0.0.1/x").target("a b/ä%") == "/x/a%20b%2F%C3%A4%25"


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.sampled_from(["http://", "https://", ""]))
def test_whatever_is_taken_is_what_the_standard_library_reads(text: str, start: str) -> None:
    try:
        url = parse_web_url(start + text)
    except ValueError:
        return
    other = urlsplit(url.below("name"))
    assert (other.scheme, other.netloc, other.username, other.query) == (url.scheme, url.authority, None, "")
    assert other.path == url.target("name")
    assert other.hostname
    assert other.port is None or 0 < other.port < 65536
