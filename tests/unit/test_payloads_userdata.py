"""User data: each form's fixture, its row in the reference, and what is done with each part."""

from __future__ import annotations

import base64
import gzip
import io
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.payloads.bundle import check
from contextagent.payloads.caps import Caps
from contextagent.payloads.refusal import RULES
from contextagent.payloads.userdata import FORMS, decoded
from tests.machine import REPOSITORY
from tests.tars import file, tar, tgz
from tests.userdata import CAPS, FIXTURES, packed, read, reason_of, said

PAGE = (REPOSITORY / "docs/reference/user-data.md").read_text()


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
