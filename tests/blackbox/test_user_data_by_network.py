"""User data in every form that comes by network: it is what it would be on a disk, and what the pilot needs is kept."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from contextagent.payloads.userdata import FORMS
from contextagent.sources.dialects import load
from tests.machine import Machine
from tests.servers import CLOSE, Server, answer, chunked, head
from tests.tars import file, tgz
from tests.userdata import FIXTURES, packed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Play, Script

OPENSTACK = load("openstack")
SCRIPT = b"#!/bin/sh\necho hello\n"
DATA = [(form, data) for form in FORMS for data in packed(form)]
IDS = [f"{form}-{number}" for number, (form, _) in enumerate(DATA)]


class Told(NamedTuple):
    """What an agent made of user data: scripts with state and digest, placed files, kept payloads, warnings."""

    form: str
    scripts: list[tuple[str, str, str]]
    files: list[tuple[str, str]]
    kept: list[tuple[str, str, str]]
    warnings: list[str]
    result: str


def told(machine: Machine) -> Told:
    status = machine.status()
    user = state(machine)["supplies"]["user"] or {"kept": [], "files": [], "user_data": ""}
    return Told(
        form=user["user_data"],
        scripts=[(each["id"], each["state"], each["sha512"]) for each in status["scripts"]],
        files=[(each["target"], each["sha512"]) for each in user["files"]],
        kept=[(each["name"], each["reason"], each["sha512"]) for each in user["kept"]],
        warnings=[each["reason"] for each in status["warnings"]],
        result=status["result"],
    )


def folder(machine: Machine) -> Path:
    """Return the folder of the machine's instance."""
    return machine.root / "var/lib/contextagent" / os.readlink(machine.root / "var/lib/contextagent/instance")


def state(machine: Machine) -> dict[str, Any]:
    return dict(json.loads((folder(machine) / "state.json").read_text())["state"])


def by_network(machine: Machine, user_data: bytes, policy: str = "") -> Told:
    """Boot a machine whose user data comes from a service of OpenStack's kind."""
    return by_answer(machine, answer(user_data), policy)


def by_answer(machine: Machine, script: Script, policy: str = "") -> Told:
    """Boot a machine to which a service of OpenStack's kind answers so."""
    scripts: dict[str, Script] = {OPENSTACK.META_DATA: answer('{"uuid": "u-1"}'), OPENSTACK.USER_DATA: script}
    machine.put("etc/contextagent/policy.yaml", f"metadata: {{try_s: 2, total_s: 2}}\n{policy}")
    with Server(scripts) as server:
        machine.metadata = server.url
        machine.run("run", "--disk", "none")
        machine.metadata = "none"
    return told(machine)


def by_disk(machine: Machine, disk: Path, user_data: bytes) -> Told:
    """Boot a machine whose user data is on a config drive."""
    place = disk / "openstack/latest"
    place.mkdir(parents=True)
    (place / "meta_data.json").write_text('{"uuid": "u-1"}')
    (place / "user_data").write_bytes(user_data)
    machine.run("run", "--disk", str(disk))
    return told(machine)


def verdict(machine: Machine) -> tuple[str, str]:
    """Return the user's verdict on the service, and its reason's first word."""
    (found,) = [each for each in machine.status()["verdicts"] if each["owner"] == "user" and each["source"] != "disk"]
    return found["verdict"], found["reason"].partition(":")[0]


@pytest.mark.parametrize(("form", "data"), DATA, ids=IDS)
def test_every_form_is_by_network_what_it_is_on_a_disk(form: str, data: bytes, tmp_path: Path) -> None:
    found = by_network(Machine(tmp_path / "near"), data)
    assert found == by_disk(Machine(tmp_path / "other"), tmp_path / "disk", data)
    expected = json.loads((FIXTURES / form / "expected.json").read_text())
    assert found.form == (expected["layout"] if form != "gzip" else "script")
    offered = [each.split() for each in expected["offers"]]
    wanted = [f"user/{words[1]}/{words[2]}" for words in offered if words[0] == "script"]
    assert sorted(name for name, _, _ in found.scripts) == sorted(wanted or [name for name, _, _ in found.scripts])
    assert {state for _, state, _ in found.scripts} <= {"ok"}
    assert set(expected["warnings"]) <= set(found.warnings)


@pytest.mark.parametrize("form", ["vac", "glideinwms", "other"])
def test_what_is_for_the_pilot_is_kept_byte_by_byte_and_readable_by_root_alone(form: str, machine: Machine) -> None:
    (data,) = packed(form)
    found = by_network(machine, data)
    assert found.scripts == []
    assert found.kept == [
        ("user-data", "unknown-form" if form == "other" else "for-the-pilot", hashlib.sha512(data).hexdigest())
    ]
    (kept,) = (folder(machine) / "context/kept-user").iterdir()
    assert kept.read_bytes() == data
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_glidein_that_is_no_base64_keeps_its_bytes(machine: Machine) -> None:
    data = tgz(file("glidein_startup.sh", SCRIPT)).getvalue() + b"#### -cluster 1 -subcluster 2\n"
    found = by_network(machine, data)
    assert (found.form, found.scripts) == ("glideinwms", [])
    assert found.kept[0][1:] == ("for-the-pilot", hashlib.sha512(data).hexdigest())


def test_nimbus_files_are_put_where_a_user_may_write_and_nowhere_else(machine: Machine) -> None:
    parts = {
        "/var/lib/contextuser/manager": "condor.example.org",
        "/etc/passwd": "root::0:0::/:/bin/sh",
        "/var/lib/contextuser/../../etc/shadow": "x",
        "/var/lib/contextagent/state.json": "{}",
    }
    written = "".join(
        f"<filewrite><content>{content}</content><pathOnVMM>{path}</pathOnVMM></filewrite>"
        for path, content in parts.items()
    )
    passwd = machine.text("etc/passwd")
    found = by_network(machine, f"<OptionalParameters>{written}</OptionalParameters>".encode())
    assert machine.text("var/lib/contextuser/manager") == "condor.example.org"
    assert machine.text("etc/passwd") == passwd
    assert not (machine.root / "etc/shadow").exists()
    assert not (machine.root / "var/lib/contextagent/state.json").exists()
    assert found.result == "degraded"


def test_base64_is_unpacked_by_no_dialect_since_none_defines_it(machine: Machine) -> None:
    found = by_network(machine, base64.b64encode(SCRIPT))
    assert (found.form, found.scripts) == ("other", [])


PACKED = gzip.compress(SCRIPT)


@pytest.mark.parametrize("data", [SCRIPT, PACKED, gzip.compress(PACKED)], ids=["plain", "once", "twice"])
def test_a_script_may_be_packed_twice(data: bytes, machine: Machine) -> None:
    assert by_network(machine, data).scripts == [
        ("user/post-network/user-data", "ok", hashlib.sha512(SCRIPT).hexdigest())
    ]


UNUSABLE = {
    "packed three times": (gzip.compress(gzip.compress(PACKED)), "too-many-layers"),
    "packed and cut short": (PACKED[:-9], "truncated"),
    "a bomb": (gzip.compress(bytes(64 << 20)), "ratio"),
    "a multipart without an end": (b"Content-Type: multipart/mixed\n\nx", "bad-mime"),
    "a tar that leads outside": (tgz(file("../epilog.sh")).getvalue(), "parent-path"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_user_data_that_cannot_be_used_is_broken_and_runs_nothing(what: str, machine: Machine) -> None:
    data, reason = UNUSABLE[what]
    found = by_network(machine, data)
    assert verdict(machine) == ("broken", reason)
    assert (found.scripts, found.files, found.kept) == ([], [], [])


def then_close(data: bytes) -> Play:
    return [data, CLOSE]


WAYS: dict[str, Script] = {
    "in chunks": chunked(PACKED[:10], PACKED[10:]),
    "without a length": then_close(b"HTTP/1.0 200 OK\r\n\r\n" + PACKED),
    "called gzip by its type": answer(PACKED, 200, "Content-Type: application/gzip"),
    "in pieces": [head(200, f"Content-Length: {len(PACKED)}"), PACKED[:1], PACKED[1:]],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_it_comes_does_not_change_what_it_is(way: str, machine: Machine) -> None:
    found = by_answer(machine, WAYS[way])
    assert [each[:2] for each in found.scripts] == [("user/post-network/user-data", "ok")]


PAGE = b"<!DOCTYPE html>\n<html><body>Please log in.</body></html>"


@pytest.mark.parametrize("data", [PAGE, SCRIPT], ids=["page", "script"])
@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8"])
def test_what_calls_itself_a_web_page_is_no_user_data(kind: str, data: bytes, machine: Machine) -> None:
    found = by_answer(machine, answer(data, 200, f"Content-Type: {kind}"))
    assert verdict(machine) == ("broken", "html")
    assert (found.scripts, found.kept) == ([], [])


def test_a_web_page_that_is_called_something_else_is_kept_and_not_run(machine: Machine) -> None:
    found = by_answer(machine, answer(PAGE, 200, "Content-Type: application/octet-stream"))
    assert (found.form, found.scripts) == ("other", [])
    assert found.kept[0][1:] == ("unknown-form", hashlib.sha512(PAGE).hexdigest())


def test_user_data_past_the_caps_is_broken_and_never_held_whole(machine: Machine) -> None:
    by_network(machine, b"#!/bin/sh\n#" + b"x" * (1 << 20), policy="caps: {total_bytes: 1 MiB, member_bytes: 1 MiB}\n")
    assert verdict(machine) == ("broken", "too-large")


def test_user_data_that_runs_once_does_not_run_again_when_it_comes_again(machine: Machine, tmp_path: Path) -> None:
    note = tmp_path / "note"
    script = f"#!/bin/sh\necho ran >>{note}\n".encode()
    by_network(machine, script)
    machine.reboot()
    assert [state for _, state, _ in by_network(machine, gzip.compress(script)).scripts] == ["skipped"]
    assert note.read_text() == "ran\n"
