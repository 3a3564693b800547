"""What `serve` makes of its words, and of what meta data says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from contextagent.errors import UsageError
from contextagent.kit.serve import read_bind
from contextagent.kit.serve_faults import FAULTS, Fault, read_fault
from contextagent.kit.serve_folder import Folder
from contextagent.kit.serve_trees import ec2_meta, machine_of, openstack_meta

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 80),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("169.254.169.254:8775", "169.254.169.254", 8775),
        ("::1", "::1", 80),
        ("[::1]", "::1", 80),
        ("[::1]:80", "::1", 80),
        ("fd00:ec2::254", "fd00:ec2::254", 80),
        ("fe80::1%eth0", "fe80::1%eth0", 80),
    ],
)
def test_an_address_is_literal_with_or_without_a_port(text: str, address: str, port: int) -> None:
    assert read_bind(text) == (address, port)


@pytest.mark.parametrize(
    "text",
    ["", ":80", "localhost", "127.1", "127.0.0.1:", "127.0.0.1:-1", "1.2.3.4:65536", "[::1]80", "[::1", "1:2:3"],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=f"cannot serve '{text}'".replace("[", r"\[")):
        read_bind(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("404", Fault(name="404")),
        ("hang:/latest/*", Fault(name="hang", path="/latest/*")),
        ("503@2", Fault(name="503", times=2)),
        ("503:/a@b", Fault(name="503", path="/a@b")),
        ("503:/a@b@3", Fault(name="503", path="/a@b", times=3)),
        ("drip:/a:b", Fault(name="drip", path="/a:b")),
        ("drip:a", Fault(name="drip", path="/a")),
        ("drip:*", Fault(name="drip", path="*")),
    ],
)
def test_a_fault_has_a_name_a_path_and_a_number(text: str, fault: Fault) -> None:
    assert read_fault(text) == fault


@pytest.mark.parametrize("text", ["", "Hang", "404:", "404@0", "404@x", "@2", ":/a"])
def test_what_is_no_fault_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=f"cannot serve '{text}'"):
        read_fault(text)


def test_every_fault_that_is_promised_is_there() -> None:
    assert list(FAULTS) == "404 500 503 hang drip truncate html redirect reset gzip".split()


KEYS: tuple[Any, ...] = (
    {"public_keys": {"mine": "ssh-rsa AAAA me"}},
    {"public-keys": ["ssh-rsa AAAA me"]},
    {"public-keys": "ssh-rsa AAAA me\n"},
    {"public-keys": {"0": {"openssh-key": "ssh-rsa AAAA me"}}},
    {"ssh_authorized_keys": ["ssh-rsa AAAA me"]},
)


@pytest.mark.parametrize("meta", KEYS)
def test_keys_are_known_in_every_form(meta: dict[str, Any]) -> None:
    machine = machine_of(meta, top="/d", address="192.0.2.1")
    assert [line for _, line in machine.keys] == ["ssh-rsa AAAA me"]
    assert not {"public-keys", "ssh_authorized_keys"} & set(openstack_meta(machine))
    assert ec2_meta(machine)["public-keys"] == {"0": {"openssh-key": "ssh-rsa AAAA me"}}


def test_an_id_of_either_kind_gives_the_other_one() -> None:
    of_uuid = machine_of({"uuid": "b0fa911b-69d4-4476-bbe2-1c92bff6535c"}, top="/d", address="192.0.2.1")
    of_id = machine_of({"instance-id": "i-1"}, top="/d", address="192.0.2.1")
    elsewhere = machine_of({"instance-id": "i-1"}, top="/e", address="192.0.2.2")
    assert of_uuid.instance_id == "i-b0fa911b69d44476b"
    assert (of_id.instance_id, of_id.uuid) == ("i-1", elsewhere.uuid)


def test_what_is_openstacks_alone_is_not_shown_by_ec2_nor_the_other_way_round() -> None:
    meta = {"uuid": "u", "meta": {"vo": "atlas"}, "instance-type": "m1", "placement": {"region": "x"}, "own": True}
    machine = machine_of(meta, top="/d", address="192.0.2.1")
    nova, ec2 = openstack_meta(machine), ec2_meta(machine)
    assert (nova["meta"], nova["own"], "instance-type" in nova) == ({"vo": "atlas"}, True, False)
    assert (ec2["instance-type"], ec2["placement"], ec2["own"]) == ("m1", {"region": "x"}, "true")
    assert not {"uuid", "meta"} & set(ec2)


def test_yaml_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "meta-data").write_text("a: 007\nb: yes\nc: true\nd: ~\ne: '1'\nf: [x, {g: 1.10}]\n")
    assert Folder(str(tmp_path)).meta() == {
        "a": "007",
        "b": "yes",
        "c": True,
        "d": None,
        "e": "1",
        "f": ["x", {"g": "1.10"}],
    }
