"""Secrets are masked wherever a script's output is told, and what is no secret stays readable."""

from __future__ import annotations

import base64
import urllib.parse
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.payloads.output import TOLD_CHARACTERS, told_lines
from contextagent.payloads.secrets import MASK, is_secret_name, masked, secret_values

if TYPE_CHECKING:
    from collections.abc import Callable

CANARY = "c4n4ry-0f-7h3-m1n3"
CODED = "c4n4ry/0f 7h3+m1n3?x~"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\nAAAA\n-----END RSA PRIVATE KEY-----"
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 after one byte": lambda text: base64.b64encode(b"x" + text.encode() + b"and more").decode(),
    "base64 after two bytes": lambda text: base64.b64encode(b"xy" + text.encode() + b"and more").decode(),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "URL as libraries have it": lambda text: urllib.parse.quote(text, safe=""),
    "URL, a path of it": urllib.parse.quote,
    "URL, a query of it": urllib.parse.quote_plus,
    "URL in small letters": lambda text: "".join(f"%{ord(char):02x}" for char in text),
    "URL": lambda text: "".join(char if char.isalnum() else f"%{ord(char):02X}" for char in text),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_context_variables_secret_is_masked_in_every_form_that_scripts_print(form: str) -> None:
    shown = FORMS[form](CODED)
    inner = shown[6:-6]
    assert inner not in masked(f"before {shown} after", (CODED,))


@pytest.mark.parametrize(
    "line",
    [
        f"password={CANARY}",
        f"export DB_PASSWORD='{CANARY}'",
        f'{{"auth_token": "{CANARY}"}}',
        f"SECRET: {CANARY}",
        f"https://user:{CANARY}@example.org/x",
        f"https://{CANARY}@example.org/x",
        f"Authorization: Bearer {CANARY}",
        f"api-key = {CANARY}",
        f"+ mysql --password={CANARY} -u root",
        f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{CANARY}",
        PEM,
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
    ],
)
def test_what_looks_like_a_secret_is_masked(line: str) -> None:
    told = masked(f"before\n{line}\nafter")
    assert CANARY not in told
    assert MASK in told
    assert told.startswith("before\n")


@pytest.mark.parametrize(
    "line",
    [
        "mounted /cvmfs/atlas.cern.ch",
        "http://example.org/a?b=c",
        "the key is under the mat",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(line: str) -> None:
    assert masked(line, ("other-value",)) == line


def test_only_variables_named_like_secrets_are_hidden() -> None:
    variables = {
        "DB_PASSWORD": "longer-than-eight",
        "ONEGATE_TOKEN": "abcdefghij",
        "SSH_PUBLIC_KEY": "ssh-ed25519 AAAA",
        "HOSTNAME": "worker-0001.example.org",
        "API_KEY": "short",
    }
    assert secret_values(variables) == ("longer-than-eight", "abcdefghij")
    assert not is_secret_name("MONKEY_BUSINESS")


def test_a_private_key_that_began_long_before_what_is_told_is_masked() -> None:
    lines = "\n".join(f"{CANARY}{number:04}" for number in range(1000))
    data = f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\nend".encode()
    assert told_lines(data) == [MASK, "end"]


def test_control_characters_and_bytes_that_are_no_utf8_stand_as_escapes() -> None:
    data = b"\x1b[31mred\x07\r\n\xff\xfe\n" + "a\u202eb\u2028c\n".encode() + b"tab\there\n\n"
    assert told_lines(data) == ["\\x1b[31mred\\x07", "\\xff\\xfe", "a\\u202eb\\u2028c", "tab    here"]


@given(st.binary(max_size=9000))
def test_whatever_a_script_prints_what_is_told_is_short_printable_lines(data: bytes) -> None:
    lines = told_lines(data)
    assert all(line.isprintable() and 0 < len(line) <= 800 for line in lines)
    assert sum(map(len, lines)) <= 10 * TOLD_CHARACTERS


def test_the_end_of_an_output_is_told_and_long_lines_in_pieces() -> None:
    lines = told_lines(b"first\n" + b"x" * 5000 + b"\nlast")
    assert lines[-1] == "last"
    assert "first" not in lines
    assert {len(line) for line in lines[:-2]} == {800}
