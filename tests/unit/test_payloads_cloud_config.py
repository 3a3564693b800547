"""Cloud-configs: what is done, and what is named because it is not."""

from __future__ import annotations

import base64
import gzip
import subprocess

import pytest

from contextagent.errors import BrokenSourceError
from tests.userdata import read


def test_commands_in_lists_are_taken_literally_by_a_real_shell() -> None:
    (offer,) = read(
        '#cloud-config\nruncmd:\n- [printf, "%s.", "it\'s", $HOME, 012, no, "a\\nb"]\n- echo $((1 + 1))\n'
    ).offers
    made = subprocess.run(["/bin/sh"], input=offer.data, capture_output=True, check=True)
    assert made.stdout == b"it's.$HOME.012.no.a\nb.2\n"


@pytest.mark.parametrize(
    ("entry", "data", "mode"),
    [
        ("{path: /a, content: x}", b"x", 0o644),
        ("{path: /a}", b"", 0o644),
        ("{path: /a, content: eA==, encoding: base64, permissions: '0755'}", b"x", 0o755),
        ("{path: /a, content: eA==, encoding: b64, permissions: 0o600, defer: true}", b"x", 0o600),
        (f"{{path: /a, content: {base64.b64encode(gzip.compress(b'x')).decode()}, encoding: gz+b64}}", b"x", 0o644),
        ("{path: /a, content: !!binary eP8=}", b"x\xff", 0o644),
        ("{path: /a, content: 0012, permissions: '4755'}", b"0012", 0o755),
    ],
)
def test_write_files_are_files(entry: str, data: bytes, mode: int) -> None:
    reading = read(f"#cloud-config\nwrite_files: [{entry}]\n")
    (offer,) = reading.offers
    assert (offer.role, offer.name, offer.data, offer.mode, reading.warnings) == ("file", "/a", data, mode, ())


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ("write_files: [{path: a}]", "bad-target", "entry 1: path: it is not absolute"),
        ("write_files: [{path: /a/../etc}]", "bad-target", "shortest form"),
        ("write_files: [{content: x}]", "bad-target", "not absolute"),
        ("write_files: [{path: [/a]}]", "bad-target", "not absolute"),
        ("write_files: [x]", "bad-value", "entry 1 is no mapping"),
        ("write_files: {path: /a}", "bad-value", "write_files is no list"),
        ("write_files: [{path: /a, append: true}]", "unsupported-key", "does not append to '/a'"),
        ("write_files: [{path: /a, content: '%', encoding: b64}]", "bad-base64", "not base64"),
        ("write_files: [{path: /a, content: eA==, encoding: gz+b64}]", "bad-gzip", "not gzip'd"),
        ("write_files: [{path: /a, content: x, encoding: rot13}]", "bad-encoding", "encoding is not known"),
        ("runcmd: reboot", "bad-value", "runcmd is no list"),
        ("runcmd: [{a: b}, [[x]], []]", "bad-value", "runcmd entry 1 is neither"),
        ("ssh_authorized_keys: [not a key]", "bad-key", "no known type"),
        ("users: [a]\npackages: [b]\nhostname: c", "unsupported-key", "users, packages, hostname"),
    ],
)
def test_what_a_cloud_config_asks_in_vain_is_named(text: str, reason: str, words: str) -> None:
    reading = read(f"#cloud-config\n{text}\n")
    assert reading.offers == ()
    assert reading.warnings[0].reason == reason
    assert words in reading.warnings[0].message
    assert "ignoring" in reading.warnings[0].message


@pytest.mark.parametrize(("entry", "words"), [("owner: root", "does not do owner"), ("permissions: rw", "not octal")])
def test_a_file_is_written_though_a_detail_of_it_is_not_followed(entry: str, words: str) -> None:
    reading = read(f"#cloud-config\nwrite_files: [{{path: /a, {entry}}}]\n")
    assert [offer.name for offer in reading.offers] == ["/a"]
    assert words in reading.warnings[0].message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#cloud-config\na: [\n", "line 3"),
        ("#cloud-config\n- a\n", "not one mapping"),
        ("#cloud-config\na: b\n---\nc: d\n", "not one mapping"),
        ("#cloud-config\na: \x07\n", "UTF-8"),
        ('#cloud-config\na: "\\UFFFFFFFF"\n', ""),
        ("#cloud-config\na: *b\n", "an alias of nothing"),
        ("#cloud-config\n" + "[" * 500_000, "nested"),
        ("#cloud-config\n? [a]\n: b\n", "a key is no text"),
        ("#cloud-config\n" + "x" * (1 << 20), "larger than 1 MiB"),
    ],
    ids=[
        "cut short",
        "a list",
        "two texts",
        "a control character",
        "no character",
        "no anchor",
        "deep",
        "a list as key",
        "large",
    ],
)
def test_a_cloud_config_that_is_none_is_broken(text: str, words: str) -> None:
    with pytest.raises(BrokenSourceError, match=f"cannot read 'user-data': .*{words}"):
        read(text)


def test_an_empty_cloud_config_asks_for_nothing() -> None:
    assert (read("#cloud-config\n# nothing\n").offers, read("#Cloud-Config").layout) == ((), "cloud-config")


def test_an_archive_of_cloud_configs_is_another_form() -> None:
    assert read("#cloud-config-archive\n- x\n").layout == "other"


def test_aliases_in_a_cloud_config_are_never_spelt_out() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
    )
    reading = read(f"#cloud-config\n{bomb}runcmd: [*y]\nwrite_files: [{{path: /a, permissions: *y, append: *y}}]\n")
    assert [offer.name for offer in reading.offers] == ["/a"]


def test_a_crowd_of_unknown_keys_is_counted() -> None:
    (warning,) = read("#cloud-config\n" + "".join(f"k{number}: x\n" for number in range(5000))).warnings
    assert "k0, k1, " in warning.message
    assert "and 4900 more" in warning.message
