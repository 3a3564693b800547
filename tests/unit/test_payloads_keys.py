"""Login keys, held against ssh-keygen."""

from __future__ import annotations

import base64
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.payloads.keys import KEY_TYPES, MAX_LINE_BYTES, check_key, fingerprint, read_keys

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = shutil.which("ssh-keygen") or ""


def blob(kind: str, more: bytes = b"\0\0\0\1x") -> str:
    return base64.b64encode(len(kind).to_bytes(4, "big") + kind.encode() + more).decode()


GOOD = f"ssh-ed25519 {blob('ssh-ed25519')} user@example.org"


@pytest.mark.skipif(not PROGRAM, reason="ssh-keygen is not installed")
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_real_keys_fingerprint_is_the_one_that_ssh_keygen_prints(kind: str, tmp_path: Path) -> None:
    subprocess.run([PROGRAM, "-q", "-t", kind, "-N", "", "-C", "a b", "-f", tmp_path / "key"], check=True)
    line = (tmp_path / "key.pub").read_text().strip()
    printed = subprocess.run([PROGRAM, "-l", "-f", tmp_path / "key.pub"], check=True, capture_output=True, text=True)
    assert check_key(line) == ""
    assert fingerprint(line) == printed.stdout.split()[1]


@pytest.mark.parametrize("kind", KEY_TYPES)
@pytest.mark.parametrize("options", ["", "no-pty ", 'from="192.0.2.0/24",command="echo \\"a b\\"" ', "\t"])
def test_a_key_of_each_type_is_one_with_options_and_without(kind: str, options: str) -> None:
    assert check_key(f"{options}{kind} {blob(kind)} comment") == ""


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("", "it names no known type of key"),
        ("ssh-ed25519", "it names no known type of key"),
        (f"ssh-dss {blob('ssh-dss')}", "it names no known type of key"),
        (f'command="{GOOD}"', "it names no known type of key"),
        (f"ssh-rsa {blob('ssh-ed25519')}", "what follows 'ssh-rsa' is no such key"),
        ("ssh-rsa AAAA", "what follows 'ssh-rsa' is no such key"),
        ("ssh-rsa ====", "what follows 'ssh-rsa' is no such key"),
        ("ssh-rsa ä", "what follows 'ssh-rsa' is no such key"),
        (f"{GOOD}\nssh-rsa", "it has a control character"),
        (f"{GOOD}\u202e", "it has a control character"),
        (GOOD + "x" * MAX_LINE_BYTES, "it is longer than 16 KiB"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "it names no known type of key"),
    ],
)
def test_what_is_no_key_is_named(line: str, cause: str) -> None:
    assert check_key(line) == cause
    assert fingerprint(line) == ""


def test_all_keys_of_a_text_are_read_and_the_rest_is_named_by_line() -> None:
    lines, problems = read_keys(f"# mine\r\n\r\n  {GOOD}\r\nnonsense\n{GOOD} too", "SSH_PUBLIC_KEY")
    assert lines == (GOOD, f"{GOOD} too")
    assert [problem.text() for problem in problems] == [
        "SSH_PUBLIC_KEY:4: no login key: it names no known type of key, ignoring it"
    ]


@given(text=st.text())
def test_no_text_raises_anything(text: str) -> None:
    lines, problems = read_keys(text, "x")
    assert all(check_key(line) == "" for line in lines)
    assert all(problem.reason == "bad-key" for problem in problems)
