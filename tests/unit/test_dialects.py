"""Each dialect's fixture read, its address found, and the house rule that a dialect has fixture, test and row."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import BrokenSourceError
from contextagent.host import Host
from contextagent.policy.schema import DIALECTS as POLICY_WORDS
from contextagent.policy.settings import load_material, merge
from contextagent.sources.crossing import asked, packed
from contextagent.sources.dialects import AUTO, DIALECTS, MAX_ID_CHARS, load
from tests.dialects import FIXTURES, answers, machine_files
from tests.machine import AGENT, REPOSITORY, run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contextagent.model import Reading

BY_ID = ("ec2", "nimbus", "cloudstack")
"""Dialects whose meta data is one id."""
BY_JSON = ("openstack", "vac")
ROWS = (REPOSITORY / "docs/reference/sources.md").read_text().partition("### Dialects")[2].partition("\n#")[0]


def reading(dialect: str) -> Reading:
    """Return what a dialect's fixture says."""
    return load(dialect).read(answers(dialect)[load(dialect).META_DATA])


def address(dialect: str, root: Path, files: Mapping[str, bytes | str] | None = None, *, policy: str = "") -> str:
    """Return the address that a machine with these files has for a dialect."""
    for path, data in (files or {}).items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)
    settings = merge(load_material("image", "policy.yaml", policy.encode()))
    return load(dialect).address(Host(str(root)), settings)


def refusal(dialect: str, root: Path, files: Mapping[str, bytes | str] | None = None) -> str:
    """Return why a machine has no address for a dialect."""
    with pytest.raises(BrokenSourceError, match=r"^cannot ask 'the metadata service': ") as caught:
        address(dialect, root, files)
    assert caught.value.reason == "no-address"
    return str(caught.value)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_has_a_fixture_with_a_readme_a_test_and_a_row_in_the_reference(dialect: str) -> None:
    readme = FIXTURES / dialect / "README.md"
    assert readme.is_file(), f"{readme} is missing"
    assert "From: " in readme.read_text(), f"{readme} does not say where it comes from"
    assert "Changed: " in readme.read_text(), f"{readme} does not say what was changed"
    served = answers(dialect)
    module = load(dialect)
    assert {module.META_DATA, module.USER_DATA} <= served.keys()
    assert f"test_{dialect}_" in Path(__file__).read_text(), f"no test of {dialect}"
    row = next((line for line in ROWS.splitlines() if line.startswith(f"| `{dialect}` |")), "")
    assert row, f"docs/reference/sources.md has no row for {dialect}"
    kinds = list(reading(dialect).ids)
    assert all(f"`{word}`" in row for word in (module.META_DATA, module.USER_DATA, *kinds)), row


def test_no_fixture_no_row_and_no_word_of_the_policy_speaks_of_a_dialect_that_is_not_there() -> None:
    assert {path.name for path in FIXTURES.iterdir()} == set(DIALECTS)
    assert {line.split("`")[1] for line in ROWS.splitlines() if line.startswith("| `")} == set(DIALECTS)
    assert ("words", "auto", *DIALECTS) == POLICY_WORDS
    assert {path.stem for path in (REPOSITORY / "contextagent/sources/dialects").glob("[a-z]*.py")} == set(DIALECTS)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_is_what_the_table_takes_it_for(dialect: str) -> None:
    module = load(dialect)
    assert module.NAME == dialect == reading(dialect).layout
    assert all(path.startswith("/") and path.isascii() for path in (module.META_DATA, module.USER_DATA))
    assert reading(dialect).user_data is None
    assert reading(dialect).variables == {}


def test_no_two_dialects_that_are_tried_in_turn_ask_for_the_same() -> None:
    assert set(AUTO) <= set(DIALECTS)
    paths = [path for name in AUTO for path in (load(name).META_DATA, load(name).USER_DATA)]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_brings_in_nothing_that_a_boot_does_not_have_anyway(dialect: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import contextagent.host, contextagent.jsontext; "
        "before = set(sys.modules); from contextagent.sources.dialects import load; load(sys.argv[2]); "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = run((*AGENT[:3], "-c", code, str(REPOSITORY), dialect))
    assert done.code == 0, done.err
    assert [name for name in done.out.split() if not name.startswith("contextagent.")] == []


def test_openstack_gives_the_uuid_the_keys_and_the_meta_map_to_the_user() -> None:
    found = reading("openstack")
    assert found.ids == {"openstack-uuid": "83679162-1378-4288-a2d4-70e13ec132aa"}
    assert [(offer.owner, offer.role, offer.name) for offer in found.offers] == [
        ("user", "key", ""),
        ("user", "kept", "openstack-meta.json"),
    ]
    assert (found.offers[0].data or b"").endswith(b" user@example.org")
    assert found.offers[1].data == b'{"role":"worker","group":"grid"}'
    assert found.warnings == ()


def test_vac_gives_the_job_id_the_factorys_key_and_where_features_and_outputs_are() -> None:
    found = reading("vac")
    assert found.ids == {"vac-uuid": "5b2d0c4e-7c1e-4d59-8f6a-02e4a0c0ffee"}
    key, meta = found.offers
    assert (key.owner, key.role, (key.data or b"").split()[-1]) == ("user", "key", b"root@factory1.example.org")
    assert (meta.role, meta.name) == ("kept", "vac-meta.json")
    assert b'"joboutputs":"http://169.254.169.253/joboutputs"' in (meta.data or b"")


def test_vac_is_passed_over_by_names_with_underscores_and_openstack_by_names_with_hyphens() -> None:
    assert load("openstack").META_DATA not in answers("vac")
    assert load("vac").META_DATA not in answers("openstack")


def test_ec2_gives_the_id_and_leaves_the_login_keys_alone() -> None:
    found = reading("ec2")
    assert found.ids == {"ec2-instance-id": "i-0123456789abcdef0"}
    assert found.offers == ()


@pytest.mark.parametrize("dialect", AUTO)
def test_the_address_that_the_policy_names_is_asked(dialect: str, tmp_path: Path) -> None:
    assert address(dialect, tmp_path) == "http://169.254.169.254"
    assert address(dialect, tmp_path, policy="metadata: {address: 'http://192.0.2.1:81/a'}") == "http://192.0.2.1:81/a"


@pytest.mark.parametrize("dialect", BY_JSON)
@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (b"<!DOCTYPE html><html><body>Please log in</body></html>", "html"),
        (b"\xef\xbb\xbf\r\n  <html>", "html"),
        (b"<?xml version='1.0'?><Error/>", "html"),
        (b"", "bad-json"),
        (b"[]", "bad-json"),
        (b'{"uuid": "a", "uuid": "b"}', "bad-json"),
        (b'{"uuid": "a"} {}', "bad-json"),
        (b'{"uuid": "\xff"}', "bad-json"),
        (b'{"uuid": NaN}', "bad-json"),
        (b'{"uuid": "\\ud800"}', "bad-json"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "bad-json"),
        (b'{"a":' * 100_000, "bad-json"),
    ],
)
def test_what_is_no_json_object_is_refused_by_its_own_reason(dialect: str, meta: bytes, reason: str) -> None:
    with pytest.raises(BrokenSourceError, match=f"^cannot read '{load(dialect).META_DATA}': ") as caught:
        load(dialect).read(meta)
    assert caught.value.reason == reason


def test_a_byte_order_mark_before_json_does_not_matter() -> None:
    assert load("vac").read(b'\xef\xbb\xbf{"uuid": "a-1"}\n').ids == {"vac-uuid": "a-1"}


@pytest.mark.parametrize("dialect", BY_JSON)
@pytest.mark.parametrize("uuid", ["7", "null", '""', '" "', '"a\\nb"', '"<a>"', f'"{"x" * (MAX_ID_CHARS + 1)}"', "{}"])
def test_a_uuid_that_is_none_is_left_out_with_a_warning(dialect: str, uuid: str) -> None:
    found = load(dialect).read(f'{{"uuid": {uuid}}}'.encode())
    assert found.ids == {}
    assert [problem.reason for problem in found.warnings] == ["no-instance-id"]
    assert all(problem.message.endswith("ignoring it") for problem in found.warnings)


@pytest.mark.parametrize(
    "meta", ['"public_keys": [1]', '"public_keys": {"a": null, "b": {"openssh-key": 3}}', '"meta": [], "files": 0']
)
def test_meta_data_of_unforeseen_types_offers_nothing(meta: str) -> None:
    found = load("openstack").read(f'{{"uuid": "a", {meta}}}'.encode())
    assert (found.offers, found.warnings) == ((), ())


@pytest.mark.parametrize("dialect", BY_ID)
@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        (b"<html>404 - Not Found</html>", "html"),
        (b" \n", "bad-id"),
        (b"i-1\ni-2", "bad-id"),
        (b"i-1<br>", "bad-id"),
        (b"i-\xff", "bad-id"),
        (b"i-\x1b[2J", "bad-id"),
        (b"i" * (MAX_ID_CHARS + 1), "bad-id"),
    ],
)
def test_what_no_id_looks_like_is_refused(dialect: str, meta: bytes, reason: str) -> None:
    with pytest.raises(BrokenSourceError, match=r"^cannot read '/latest/meta-data/instance-id': ") as caught:
        load(dialect).read(meta)
    assert caught.value.reason == reason


@pytest.mark.parametrize("dialect", BY_ID)
@pytest.mark.parametrize("meta", [b"i-1", b"i-1\n", b"\xef\xbb\xbfi-1\r\n"])
def test_an_id_may_have_a_line_end(dialect: str, meta: bytes) -> None:
    assert load(dialect).read(meta).ids == {f"{dialect}-instance-id": "i-1"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
metas = st.dictionaries(st.sampled_from(["uuid", "meta", "public_keys", "files", "name"]), values, max_size=4)


@given(dialect=st.sampled_from(DIALECTS), meta=st.binary(max_size=300))
def test_any_bytes_are_a_reading_or_broken(dialect: str, meta: bytes) -> None:
    with suppress(BrokenSourceError):
        assert all(value.isprintable() and value for value in load(dialect).read(meta).ids.values())


@given(dialect=st.sampled_from(BY_JSON), meta=metas)
def test_any_json_object_is_a_reading_that_crosses_as_it_is(dialect: str, meta: dict[str, Any]) -> None:
    from contextagent import jsontext  # noqa: PLC0415  # one test needs it
    from contextagent.sources.crossing import unpacked  # noqa: PLC0415  # as above

    found = load(dialect).read(jsontext.dumps(meta).encode())
    assert unpacked(jsontext.loads(jsontext.dumps(packed(found)))) == found
    assert {offer.owner for offer in found.offers} <= {"user"}


@pytest.mark.parametrize("meta", [b'{"uuid": ', b"\xff", b"<html>", b'{"a":' * 100_000])
def test_a_confined_reader_says_what_is_wrong_too(meta: bytes) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        asked(Host(), lambda: packed(load("openstack").read(meta)), prepare=lambda: _load("openstack"))
    assert caught.value.reason in ("html", "bad-json")


def _load(name: str) -> None:
    load(name)


# -- where the service is


def test_nimbus_is_where_the_images_file_says(tmp_path: Path) -> None:
    assert address("nimbus", tmp_path, machine_files("nimbus")) == "http://192.0.2.10:8081"
    assert reading("nimbus").ids == {"nimbus-instance-id": "i-7f3a"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("http://192.0.2.1", "http://192.0.2.1"),
        ("http://192.0.2.1:81/\n# and more\n", "http://192.0.2.1:81/"),
        ("\ufeff  http://192.0.2.1/md \r\n", "http://192.0.2.1/md"),
    ],
)
def test_nimbus_file_is_read_by_its_first_line(text: str, wanted: str, tmp_path: Path) -> None:
    assert address("nimbus", tmp_path, {"var/nimbus-metadata-server-url": text}) == wanted


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "it does not begin with http://"),
        ("\nhttp://192.0.2.1", "it does not begin with http://"),
        ("https://192.0.2.1", "it does not begin with http://"),
        ("http://metadata.example.org:80", "its host is no literal address"),
        ("http://192.0.2.1/\x1b[2J", "'http://192.0.2.1/\\x1b[2J'"),
        ("http://192.0.2.1/" + "a" * 5000, "larger than 4096 bytes"),
    ],
)
def test_nimbus_file_that_names_no_address_is_refused_with_the_cause(text: str, cause: str, tmp_path: Path) -> None:
    said = refusal("nimbus", tmp_path, {"var/nimbus-metadata-server-url": text})
    assert cause in said
    assert "'/var/nimbus-metadata-server-url'" in said
    assert said.isprintable()


def test_nimbus_file_that_is_missing_or_a_link_is_no_address(tmp_path: Path) -> None:
    assert "cannot read '/var/nimbus-metadata-server-url'" in refusal("nimbus", tmp_path)
    (tmp_path / "var").mkdir()
    (tmp_path / "url").write_text("http://192.0.2.1")
    (tmp_path / "var/nimbus-metadata-server-url").symlink_to(tmp_path / "url")
    assert "a link is not followed" in refusal("nimbus", tmp_path)


def test_cloudstack_is_where_the_last_lease_of_the_file_came_from(tmp_path: Path) -> None:
    assert address("cloudstack", tmp_path, machine_files("cloudstack")) == "http://10.1.1.1"
    assert reading("cloudstack").ids == {"cloudstack-instance-id": "6f4cdb3a-1b1c-4d2e-a2f5-2a8f9c5f5b10"}


DHCLIENT = "lease {{\n  option dhcp-server-identifier {};\n}}\n"


def message(*options: tuple[int, bytes]) -> bytes:
    """Return a DHCP message with these options, as dhcpcd keeps it."""
    packed_options = b"".join(bytes((code, len(value))) + value for code, value in options)
    return bytes(236) + b"\x63\x82\x53\x63" + b"\0" + packed_options + b"\xff" + bytes(60)


SERVER = (54, bytes((192, 0, 2, 7)))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("var/lib/dhcp/dhclient.leases", DHCLIENT.format("192.0.2.7")),
        ("var/lib/dhcp3/dhclient.eth0.leases", DHCLIENT.format("192.0.2.7")),
        ("var/lib/dhclient/dhclient-eth0.leases", DHCLIENT.format("192.0.2.7")),
        ("var/lib/dhclient/dhclient--eth0.lease", DHCLIENT.format("192.0.2.7")),
        ("var/lib/NetworkManager/dhclient-4e6a-eth0.lease", DHCLIENT.format("192.0.2.7")),
        ("var/lib/NetworkManager/internal-4e6a-eth0.lease", "# own\nADDRESS=192.0.2.99\nSERVER_ADDRESS=192.0.2.7\n"),
        ("run/systemd/netif/leases/2", "ADDRESS=192.0.2.99\nROUTER=192.0.2.1\nSERVER_ADDRESS=192.0.2.7\n"),
        ("var/lib/dhcpcd/eth0.lease", message((53, b"\x05"), SERVER, (51, b"\0\0\x0e\x10"))),
        ("var/lib/dhcpcd5/eth0.lease", message(SERVER)),
    ],
)  # fmt: skip
def test_cloudstack_reads_the_lease_of_every_common_client(path: str, data: str | bytes, tmp_path: Path) -> None:
    assert address("cloudstack", tmp_path, {path: data}) == "http://192.0.2.7"


def test_cloudstack_takes_the_newest_lease_that_names_its_server(tmp_path: Path) -> None:
    files = {
        "var/lib/dhclient/dhclient-eth0.leases": DHCLIENT.format("192.0.2.1"),
        "run/systemd/netif/leases/2": "SERVER_ADDRESS=192.0.2.2\n",
        "var/lib/dhcp/dhclient.leases": DHCLIENT.format("192.0.2.3"),
        "var/lib/NetworkManager/internal-x-eth0.lease": "ADDRESS=192.0.2.99\n",
        "var/lib/dhcp/notes.txt": DHCLIENT.format("192.0.2.4"),
    }
    address("cloudstack", tmp_path, files)
    for age, path in enumerate(files):
        os.utime(tmp_path / path, ns=(0, age * 10**9))
    assert address("cloudstack", tmp_path) == "http://192.0.2.3"
    os.utime(tmp_path / "run/systemd/netif/leases/2", ns=(0, 10 * 10**9))
    assert address("cloudstack", tmp_path) == "http://192.0.2.2"


@pytest.mark.parametrize(
    "server", ["router.example.org", "192.0.2.1:81", "[fd00::1]", "192.0.2.256", "010.0.0.1", "1 2", "a\x1b"]
)
def test_cloudstack_refuses_a_server_that_is_no_ipv4_address(server: str, tmp_path: Path) -> None:
    said = refusal("cloudstack", tmp_path, {"var/lib/dhcp/dhclient.leases": DHCLIENT.format(server)})
    assert said.endswith("the server that '/var/lib/dhcp/dhclient.leases' names, is no IPv4 address")
    assert said.isprintable()


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"var/lib/dhcp/dhclient.leases": ""},
        {"var/lib/dhcp/dhclient.leases": "option dhcp-server-identifier;\n"},
        {"var/lib/dhcp/dhclient.leases": bytes(2 << 20)},
        {"var/lib/dhcpcd/eth0.lease": message()[:238]},
        {"var/lib/dhcpcd/eth0.lease": message((54, b"\x01\x02"))},
        {"var/lib/dhcpcd/eth0.lease": message(SERVER)[:244]},
        {"var/lib/dhcpcd/eth0.lease": message()[:241] + b"\x36"},
    ],
)
def test_cloudstack_without_a_lease_that_can_be_used_has_no_address(files: dict[str, Any], tmp_path: Path) -> None:
    assert refusal("cloudstack", tmp_path, files).endswith(
        "no DHCP lease of this machine names the server that it came from"
    )


@given(data=st.binary(max_size=400), place=st.sampled_from(["var/lib/dhcp/a.leases", "var/lib/dhcpcd/a.lease"]))
def test_any_lease_gives_an_ipv4_address_or_none(
    data: bytes, place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "leases"
    prefix = message()[:240] if place.endswith("/a.lease") else b"option dhcp-server-identifier "
    for name in ("var/lib/dhcp/a.leases", "var/lib/dhcpcd/a.lease"):
        (root / name).unlink(missing_ok=True)
    with suppress(BrokenSourceError):
        found = address("cloudstack", root, {place: prefix + data})
        assert all(number.isdecimal() for number in found.removeprefix("http://").split("."))
