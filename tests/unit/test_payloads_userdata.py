"""User data: each form's fixture, its row in the reference, and what is done with each part."""

from __future__ import annotations

import base64
import gzip
import io
import re
import shutil
import subprocess
import sys
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.payloads.bundle import RULES, check
from contextagent.payloads.caps import Caps
from contextagent.payloads.userdata import FORMS, decoded, read_user_data
from tests.machine import REPOSITORY
from tests.tars import file, tar, tgz

if TYPE_CHECKING:
    from contextagent.model import Offer, Reading

FIXTURES = REPOSITORY / "tests/fixtures/userdata"
PAGE = (REPOSITORY / "docs/reference/user-data.md").read_text()
CAPS = Caps()


def read(data: bytes | str, *, caps: Caps = CAPS, encoding: str = "") -> Reading:
    return read_user_data(data if isinstance(data, bytes) else data.encode(), caps=caps, encoding=encoding)


def said(offer: Offer) -> str:
    return f"script {offer.phase} {offer.name}" if offer.role == "script" else f"{offer.role} {offer.name}"


def reason_of(data: bytes | str, *, caps: Caps = CAPS, encoding: str = "") -> str:
    with pytest.raises(BrokenSourceError) as caught:
        read(data, caps=caps, encoding=encoding)
    assert str(caught.value).startswith("cannot ")
    return caught.value.reason


def packed(form: str) -> list[bytes]:
    """Return a form's fixture as a source may hand it over: as it lies there, or packed."""
    folder = FIXTURES / form
    if form == "tar":
        program = shutil.which("tar")
        assert program
        made = subprocess.run([program, "-c", "-C", folder / "context", "."], check=True, capture_output=True).stdout
        return [made, gzip.compress(made)]
    data = (folder / "user-data").read_bytes()
    return [gzip.compress(data), gzip.compress(gzip.compress(data))] if form == "gzip" else [data]


@pytest.mark.parametrize("form", FORMS)
def test_each_forms_fixture_offers_what_it_says(form: str) -> None:
    expected = jsontext.loads((FIXTURES / form / "expected.json").read_bytes())
    for data in packed(form):
        reading = read(data)
        assert reading.layout == expected["layout"]
        assert [said(offer) for offer in reading.offers] == expected["offers"]
        assert [problem.reason for problem in reading.warnings] == expected["warnings"]
        assert all(offer.owner == "user" for offer in reading.offers)
        assert (reading.bundle == data) == (form == "tar")
        assert reading.variables_owner == "user"


def test_each_form_has_its_fixture_and_its_row_and_there_are_no_others() -> None:
    table = PAGE.partition("## Multiparts")[0]
    assert tuple(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == FORMS
    assert sorted(path.name for path in FIXTURES.iterdir()) == sorted(FORMS)
    assert all((FIXTURES / form / "README.md").read_text().startswith(f"# {form}\n") for form in FORMS)
    modules = {path.stem for path in (REPOSITORY / "contextagent/payloads/forms").glob("[a-z]*.py")}
    assert modules == {form.replace("-", "_") for form in FORMS}


def test_each_rule_of_the_bundle_is_in_the_reference() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", PAGE.partition("## Bounds")[2], re.MULTILINE))
    assert {reason: rows[reason] for reason in RULES} == RULES
    assert rows.keys() - RULES.keys() == {"bad-gzip", "ratio"}


@pytest.mark.parametrize("form", FORMS)
def test_what_reading_takes_is_there_beforehand(form: str) -> None:
    """A confined reader can open no file, so it can import nothing."""
    for data in packed(form):
        script = (
            "import sys, resource\n"
            "from contextagent.payloads import bundle, userdata\n"
            "data = sys.stdin.buffer.read()\n"
            "userdata.prepare(data)\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
            "print(userdata.read_user_data(data, caps=userdata.Caps()).layout)\n"
        )
        made = subprocess.run(
            [sys.executable, "-c", script], input=data, capture_output=True, cwd=REPOSITORY, check=False
        )
        assert made.stdout.decode().strip() == read(data).layout, made.stderr.decode()


@pytest.mark.parametrize("data", ["", " \n\t\n"])
def test_blank_user_data_is_none(data: str) -> None:
    assert (read(data).layout, read(data).offers) == ("", ())


def test_a_script_is_offered_byte_for_byte() -> None:
    data = b"#!/bin/sh\r\necho \xff\0\n"
    (offer,) = read(data).offers
    assert (offer.data, offer.name, offer.phase, offer.rank) == (data, "user-data", "post-network", 4)


def test_sections_of_amiconfig_lose_their_marks_and_keep_their_lines() -> None:
    reading = read("#!/bin/bash -e before\nA\nexit 1\n\n#!/bin/sh after\nB\nexit\nC\n")
    assert [(offer.name, offer.phase, offer.rank, offer.data) for offer in reading.offers] == [
        ("user-data-before", "pre-network", 3, b"#!/bin/bash -e\nA\nexit 1\n"),
        ("user-data", "post-network", 4, b"#!/bin/sh\nB\nexit\n"),
    ]


@pytest.mark.parametrize("mark", ["before", "after"])
def test_a_section_may_stand_alone_and_go_to_the_end(mark: str) -> None:
    (offer,) = read(f"#!/bin/sh {mark}\nA\n").offers
    assert offer.data == b"#!/bin/sh\nA\n"
    assert offer.phase == ("pre-network" if mark == "before" else "post-network")


def test_base64_counts_as_a_layer_and_is_read_strictly() -> None:
    script = b"#!/bin/sh\n"
    assert read(base64.encodebytes(script), encoding="base64").layout == "script"
    assert read(base64.b64encode(gzip.compress(script)), encoding="base64").layout == "script"
    assert reason_of(base64.b64encode(gzip.compress(gzip.compress(script))), encoding="base64") == "too-many-layers"
    assert reason_of(b"!!!", encoding="base64") == "bad-base64"
    assert reason_of(b"QQ", encoding="base64") == "bad-base64"
    assert reason_of(b"QQ==", encoding="rot13") == "bad-encoding"
    assert decoded(b" QQ\r\n==\n", "B64") == b"A"


def test_two_layers_are_unpacked_and_a_third_is_refused() -> None:
    data = gzip.compress(gzip.compress(b"#!/bin/sh\n"))
    assert read(data).layout == "script"
    assert reason_of(gzip.compress(data)) == "too-many-layers"


def test_what_is_unpacked_is_bounded() -> None:
    assert reason_of(gzip.compress(bytes(1 << 22))) == "ratio"
    assert reason_of(gzip.compress(b"x" * 3000), caps=Caps(member_bytes=2000, ratio=1000)) == "member-too-large"
    assert reason_of(b"x" * 3000, caps=Caps(total_bytes=2000)) == "total-too-large"
    assert reason_of(gzip.compress(b"x" * 3000)[:-9]) == "truncated"
    assert reason_of(b"\x1f\x8bx") in ("truncated", "bad-gzip")


def test_a_bundle_is_handed_on_unopened_also_from_base64() -> None:
    data = tgz(file("prolog.sh")).getvalue()
    assert read(base64.b64encode(data), encoding="base64").bundle == data
    assert len(check(io.BytesIO(read(data).bundle or b""), CAPS)) == 1


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


@pytest.mark.parametrize("text", ["[a]\nx", "; c\n\n[a.b-c d]\n"])
def test_an_ini_text_is_amiconfigs(text: str) -> None:
    assert read(text).layout == "amiconfig"


@pytest.mark.parametrize("text", ['["a", "b"]', "[]", "[a", "a\n[b]\n", "# only a comment"])
def test_other_brackets_are_no_ini_text(text: str) -> None:
    assert read(text).layout == "other"


def test_only_hepix_context_is_the_sites() -> None:
    assert read("[cernvm]\ncontext=x\n[hepix]\nother=x\n").warnings == ()
    assert [problem.reason for problem in read("[HEPiX]\n Context = x\ncontext=y\n").warnings] == ["site-only"]


def test_filewrite_elements_are_found_in_any_namespace_and_depth() -> None:
    fields = "<n:pathOnVMM> /a </n:pathOnVMM><n:content>é&#10;</n:content>"
    (offer,) = read(f'<?xml version="1.0"?><n:a xmlns:n="urn:x"><n:filewrite>{fields}</n:filewrite></n:a>').offers
    assert (offer.name, offer.data) == ("/a", "é\n".encode())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY b "filewrite">]><a>&b;</a>', "doctype"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><filewrite/>', "doctype"),
        ("<filewrite>", "bad-xml"),
        ('<?xml version="1.0" encoding="nonsense"?><filewrite/>', "bad-xml"),
        ("<a>" * 100 + "<filewrite/>", "too-deep"),
    ],
)
def test_xml_that_is_damaged_or_could_grow_is_broken(text: str, reason: str) -> None:
    assert reason_of(text) == reason


def test_a_gzip_file_with_arguments_behind_it_is_glideinwms() -> None:
    assert read(gzip.compress(b"x") + b"\n#### -args 1\n").layout == "glideinwms"


def test_a_placeholder_must_be_closed_on_its_line() -> None:
    assert read("x ##user_data_a\n##\n").layout == "other"


ATOMS = [
    b"\n", b"[a]\n", b"context=1\n", b"#!/bin/sh before\n", b"exit\n", b"\xff\0",
    b"H4sIAAAA", b"####", b"##user_data_x##",
    b"#cloud-config\n", b"runcmd:\n", b"- x\n", b"&x [*x]\n", b"write_files: ", b"[{path: /a, content: *x}]\n",
    b"ssh_authorized_keys: [x]\n", b"<filewrite>", b"<content>x</content>", b"</filewrite>", b"<!DOCTYPE x>",
    b"MIME-Version: 1.0\n", b"Content-Type: multipart/mixed; boundary=x\n\n", b"--x\n", b"--x--\n",
    b"Content-Transfer-Encoding: base64\n", b"Content-Type: text/cloud-config\n\n", b"\x1f\x8b\x08\0",
    gzip.compress(b"#cloud-config\n"), tar(file("a")).getvalue(),
]  # fmt: skip


@given(data=st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(ATOMS), max_size=12).map(b"".join)))
def test_no_user_data_raises_anything_but_a_broken_source(data: bytes) -> None:
    try:
        reading = read(data)
    except BrokenSourceError:
        return
    assert all(offer.owner == "user" and offer.role in ("script", "file", "key", "kept") for offer in reading.offers)
    ids = [said(offer) for offer in reading.offers if offer.role == "script"]
    assert len(ids) == len(set(ids))
