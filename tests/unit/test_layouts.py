"""Each layout's fixture read as a disk, and the house rule that a layout has fixture, test and reference row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contextagent.sources.identity import identify
from contextagent.sources.layouts import LAYOUTS, LayoutReading, read_layouts
from contextagent.sources.media import FolderMedium

if TYPE_CHECKING:
    from contextagent.model import Owner

REPOSITORY = Path(__file__).parents[2]
FIXTURES = REPOSITORY / "tests/fixtures/layouts"
FOLDERS = sorted(path.name for path in FIXTURES.iterdir())


def _read(
    folder: Path, *, label: str = "", flat_owner: Owner = "site", is_site_trusted: bool = True
) -> tuple[LayoutReading, ...]:
    medium = FolderMedium(str(folder), "disk")
    try:
        return read_layouts(medium, label=label, flat_owner=flat_owner, is_site_trusted=is_site_trusted)
    finally:
        medium.close()


def _fixture(name: str, *, flat_owner: Owner = "site", is_site_trusted: bool = True) -> tuple[LayoutReading, ...]:
    return _read(FIXTURES / name / "disk", flat_owner=flat_owner, is_site_trusted=is_site_trusted)


def _offered(readings: tuple[LayoutReading, ...], role: str = "script") -> list[str]:
    """Return `owner/phase/name` of every offer of a role; for other roles than scripts `owner/name`."""
    return [
        f"{offer.owner}/{offer.phase}/{offer.name}" if role == "script" else f"{offer.owner}/{offer.name}"
        for reading in readings
        for offer in reading.offers
        if offer.role == role
    ]


def _warned(readings: tuple[LayoutReading, ...]) -> list[str]:
    return [problem.reason for reading in readings for problem in reading.warnings]


def _disk(tmp_path: Path, **files: str) -> Path:
    """Make a disk of files; in a name `__` stands for a slash, `_dot_` for a dot and `_dash_` for a dash."""
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_dot_", ".").replace("_dash_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize("layout", [name for name, _ in LAYOUTS])
def test_a_layout_has_a_fixture_with_a_readme_a_test_and_a_row_in_the_reference(layout: str) -> None:
    mine = [name for name in FOLDERS if name.split("-")[0] == layout]
    assert mine, f"tests/fixtures/layouts/ has no folder for {layout}"
    for name in mine:
        readme = FIXTURES / name / "README.md"
        assert readme.is_file(), f"{readme} is missing"
        assert "From: " in readme.read_text(), f"{readme} does not say where it comes from"
        assert "Changed: " in readme.read_text(), f"{readme} does not say what was changed"
        assert f"test_{name.replace('-', '_')}_" in Path(__file__).read_text(), f"no test of the fixture {name}"
        assert any(each.layout == layout for each in _fixture(name)), f"{name} is not read as {layout}"
    reference = (REPOSITORY / "docs/reference/sources.md").read_text()
    assert f"\n| `{layout}` |" in reference, f"docs/reference/sources.md has no row for {layout}"


def test_no_fixture_and_no_reference_row_speaks_of_a_layout_that_is_not_there() -> None:
    known = {name for name, _ in LAYOUTS}
    assert {name.split("-")[0] for name in FOLDERS} <= known
    reference = (REPOSITORY / "docs/reference/sources.md").read_text()
    table = reference.partition("## Layouts")[2].partition("\n## ")[0]
    rows = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert rows == known


def test_hepix_flat_names_are_the_flat_owners() -> None:
    readings = _fixture("hepix")
    assert _offered(readings) == [
        "site/pre-network/prolog.sh",
        "site/post-network/epilog.sh",
        "site/pre-network/pre-network.d/10-mount",
        "site/pre-network/pre-network.d/20-clock",
        "site/stop/epilog.sh",
        "site/stop/prolog.sh",
    ]
    assert _offered(readings, "settings") == ["site/site.yaml"]
    assert _offered(readings, "file") == ["site//etc/batch.conf"]
    assert _offered(readings, "feature") == ["site/machine/hs06", "site/job/wall_limit_secs"]
    assert {reading.layout for reading in readings} == {"hepix", "opennebula"}
    assert [dict(reading.variables) for reading in readings if reading.variables] == [
        {"BATCH_SERVER": "batch.example.org", "VMID": "hepix-0042"}
    ]
    assert {script.partition("/")[0] for script in _offered(_fixture("hepix", flat_owner="user"))} == {"user"}


def test_hepix_folders_are_each_their_own_owners() -> None:
    readings = _fixture("hepix-folders")
    assert _offered(readings) == [
        "site/pre-network/prolog.sh",
        "site/post-network/post-network.d/50-monitoring",
        "site/stop/prolog.sh",
        "user/post-network/epilog.sh",
        "user/pre-network/pre-network.d/10-early",
        "user/stop/epilog.sh",
    ]
    assert {reading.layout for reading in readings} == {"hepix"}


def test_a_disk_that_is_not_site_trusted_gives_the_site_nothing_and_says_so_once(tmp_path: Path) -> None:
    readings = _fixture("hepix-folders", flat_owner="user", is_site_trusted=False)
    assert {script.partition("/")[0] for script in _offered(readings)} == {"user"}
    assert _warned(readings) == ["not-site-trusted"]
    disk = _disk(tmp_path, site_dot_yaml="a: b", site__epilog_dot_sh="#!/bin/sh", epilog_dot_sh="#!/bin/sh")
    readings = _read(disk, flat_owner="user", is_site_trusted=False)
    assert _offered(readings) == ["user/post-network/epilog.sh", "user/stop/epilog.sh"]
    assert _warned(readings) == ["not-site-trusted"]
    assert not _offered(readings, "settings")


@pytest.mark.parametrize("name", ["notes.txt", "default.tgz", "context.sh"])
def test_one_file_that_is_no_native_name_makes_no_hepix_layout(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("A=1\n")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/notes.txt").write_text("x")
    assert all(reading.layout != "hepix" for reading in _read(tmp_path))


def test_a_script_that_is_a_link_breaks_its_own_owner_and_no_other(tmp_path: Path) -> None:
    disk = _disk(tmp_path, user__epilog_dot_sh="#!/bin/sh")
    (disk / "site").mkdir()
    (disk / "site/prolog.sh").symlink_to("/etc/passwd")
    readings = _read(disk)
    assert [list(reading.broken) for reading in readings] == [["site"], []]
    assert _offered(readings) == ["user/post-network/epilog.sh", "user/stop/epilog.sh"]


def test_opennebula_gives_scripts_keys_user_data_and_variables() -> None:
    readings = _fixture("opennebula")
    (reading,) = readings
    assert reading.layout == "opennebula"
    assert _offered(readings) == [
        "site/post-network/start-script",
        "site/post-network/20-batch",
        "site/post-network/prolog.sh",
    ]
    assert {offer.rank for offer in reading.offers if offer.role == "script"} == {3}
    start = next(offer for offer in reading.offers if offer.name == "start-script")
    assert start.data == b"#!/bin/sh\necho 'it'\\''s started; $HOME | literal'\n"
    keys = [(offer.name, offer.data) for offer in reading.offers if offer.role == "key"]
    assert [name for name, _ in keys] == ["", "root"]
    assert [len((data or b"").splitlines()) for _, data in keys] == [2, 1]
    assert reading.user_data == b"#!/bin/sh\necho hello\n"
    assert reading.ids == {"vmid": "1017"}
    assert reading.variables_owner == "site"
    assert {name: reading.variables[name] for name in ("TTL", "ETH0_IP", "REPORT_READY")} == {
        "TTL": "24",
        "ETH0_IP": "192.0.2.17",
        "REPORT_READY": "YES",
    }
    assert {"MACHINEFEATURES", "JOBFEATURES", "ONEGATE_ENDPOINT"} <= set(reading.variables)
    assert _warned(readings) == ["missing-script", "two-user-data"]
    assert "site/context.sh" in _offered(readings, "companion")


def test_opennebula_scripts_and_keys_are_the_flat_owners_and_its_user_data_always_the_users() -> None:
    (reading,) = _fixture("opennebula", flat_owner="user")
    assert {offer.owner for offer in reading.offers} == {"user"}
    assert reading.variables_owner == "user"
    (reading,) = _fixture("opennebula")
    assert {offer.owner for offer in reading.offers} == {"site"}
    assert reading.user_data


@pytest.mark.parametrize(
    ("context", "wanted"),
    [
        ("START_SCRIPT_BASE64=ZWNobyBhCg==", b"echo a\n"),
        ("START_SCRIPT_BASE64='ZWNo\nbyBhCg=='", b"echo a\n"),
        ("START_SCRIPT='echo b'\nSTART_SCRIPT_BASE64=ZWNobyBhCg==", b"echo b"),
    ],
)
def test_a_start_script_may_be_plain_or_base64_and_the_plain_one_stands(
    tmp_path: Path, context: str, wanted: bytes
) -> None:
    (reading,) = _read(_disk(tmp_path, context_dot_sh=context))
    assert [offer.data for offer in reading.offers if offer.role == "script"] == [wanted]


@pytest.mark.parametrize(
    ("context", "wanted"),
    [
        ("USER_DATA=aGk=\nUSER_DATA_ENCODING=base64", b"hi"),
        ("USERDATA=aGk=\nUSERDATA_ENCODING=BASE64", b"hi"),
        ("USERDATA=aGk=\nUSER_DATA_ENCODING=base64", b"hi"),
        ("USER_DATA=aGk=", b"aGk="),
        ("EC2_USER_DATA=aGk=", b"hi"),
        ("USER_DATA=''\nEC2_USER_DATA=aGk=", b"hi"),
        ("USER_DATA=''", None),
    ],
)
def test_user_data_is_decoded_where_its_variable_says_base64(
    tmp_path: Path, context: str, wanted: bytes | None
) -> None:
    (reading,) = _read(_disk(tmp_path, context_dot_sh=context))
    assert reading.user_data == wanted


def test_an_id_and_a_key_in_latin_1_are_taken_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "context.sh").write_bytes(b"VMID='caf\xe9'\nSSH_PUBLIC_KEY='ssh-rsa AAAA caf\xe9'\n")
    (reading,) = _read(tmp_path)
    assert [offer.data for offer in reading.offers if offer.role == "key"] == [b"ssh-rsa AAAA caf\xe9"]
    assert identify("", {}, reading.ids).instance_id == identify("", {}, reading.ids).instance_id != ""


def test_user_data_that_is_no_base64_is_the_users_fault_alone(tmp_path: Path) -> None:
    (reading,) = _read(_disk(tmp_path, context_dot_sh="START_SCRIPT='#!/bin/sh'\nEC2_USER_DATA='not base64!'"))
    assert list(reading.broken) == ["user"]
    assert reading.broken["user"].startswith("bad-base64: cannot decode 'context.sh: EC2_USER_DATA'")
    assert _offered((reading,)) == ["site/post-network/start-script"]


def test_a_context_sh_that_is_a_program_is_broken_with_its_line_and_leaves_site_folders_alone(tmp_path: Path) -> None:
    disk = _disk(tmp_path, context_dot_sh="A=1\nB=2; reboot\n", site__prolog_dot_sh="#!/bin/sh")
    readings = _read(disk, flat_owner="user")
    broken = next(reading.broken for reading in readings if reading.layout == "opennebula")
    assert list(broken) == ["user"]
    assert "cannot read 'context.sh': line 2: unquoted ';'" in broken["user"]
    assert _offered(readings) == ["site/pre-network/prolog.sh", "site/stop/prolog.sh"]
    owners = {owner for reading in _read(disk) for owner in reading.broken}
    assert owners == {"site", "user"}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "sub/script", "link", ".", "missing"])
def test_init_scripts_name_files_of_the_root_and_nothing_else(tmp_path: Path, name: str) -> None:
    disk = _disk(tmp_path, context_dot_sh=f"INIT_SCRIPTS='{name}'", sub__script="#!/bin/sh")
    (disk / "link").symlink_to("/etc/passwd")
    readings = _read(disk)
    assert not _offered(readings)
    assert "missing-script" in _warned(readings)


def test_stratuslab_script_exec_is_the_users_and_only_that() -> None:
    readings = _fixture("stratuslab")
    assert [reading.layout for reading in readings] == ["opennebula", "stratuslab"]
    assert _offered(readings) == ["user/post-network/script-exec"]
    assert [offer.path for reading in readings for offer in reading.offers if offer.role == "script"] == ["run.sh"]
    assert _offered(readings, "key") == ["site/"]


def test_a_file_named_in_script_exec_makes_no_hepix_layout(tmp_path: Path) -> None:
    readings = _read(_disk(tmp_path, context_dot_sh="SCRIPT_EXEC=epilog.sh", epilog_dot_sh="#!/bin/sh"))
    assert [reading.layout for reading in readings] == ["opennebula", "stratuslab"]
    assert _offered(readings) == ["user/post-network/script-exec"]


@pytest.mark.parametrize("label", ["_STRATUSLAB", "_CLOUD_INIT"])
def test_a_label_of_stratuslabs_is_enough_for_its_layout(tmp_path: Path, label: str) -> None:
    assert [reading.layout for reading in _read(tmp_path, label=label)] == ["stratuslab"]
    assert _read(tmp_path, label="DATA") == ()


def test_stratuslab_vfat_gives_roots_keys_to_the_flat_owner_and_user_data_to_the_user() -> None:
    (reading,) = _fixture("stratuslab-vfat")
    assert [(offer.owner, offer.role, offer.name) for offer in reading.offers] == [("site", "key", "root")]
    assert reading.user_data == b"#!/bin/sh\necho user\n"
    assert reading.ids == {"stratuslab-instance-id": "stratus-77"}


def test_openstack_reads_latest_for_the_user_and_says_that_vendor_data_is_not_run() -> None:
    (reading,) = _fixture("openstack")
    assert reading.user_data == b"#!/bin/sh\necho latest\n"
    assert reading.ids == {"openstack-uuid": "83679162-1378-4288-a2d4-70e13ec132aa"}
    assert [(offer.owner, offer.role) for offer in reading.offers] == [("user", "key"), ("user", "kept")]
    assert reading.offers[1].data == b'{"role":"worker","group":"grid"}'
    assert _warned((reading,)) == ["not-run"]


def test_openstack_without_latest_reads_the_highest_version(tmp_path: Path) -> None:
    disk = _disk(
        tmp_path,
        openstack__2012_dash_08_dash_10__user_data="old",
        openstack__2018_dash_08_dash_27__user_data="new",
        openstack__content__0000="x",
    )
    (reading,) = _read(disk)
    assert reading.user_data == b"new"
    assert reading.ids == {}


def test_openstack_ec2_alone_gives_user_data_key_and_id() -> None:
    (reading,) = _fixture("openstack-ec2")
    assert reading.user_data == b"#!/bin/sh\necho ec2\n"
    assert reading.ids == {"ec2-instance-id": "i-0000002a"}
    assert _offered((reading,), "key") == ["user/"]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"uuid": "a", "uuid": "b"}', "\ufeff", r'{"uuid": "\ud800"}', '{"a":' * 40 + "1" + "}" * 40]
)
def test_meta_data_that_is_no_json_object_breaks_the_users_part(tmp_path: Path, text: str) -> None:
    disk = _disk(tmp_path, openstack__latest__meta_data_dot_json=text, prolog_dot_sh="#!/bin/sh")
    hepix, openstack = _read(disk)
    assert openstack.broken["user"].startswith("bad-json: cannot read 'disk: openstack/latest/meta_data.json'")
    assert not hepix.broken


@pytest.mark.parametrize(
    "meta", ['{"uuid": 7}', '{"public_keys": [1]}', '{"public_keys": {"a": null}}', '{"meta": [], "files": [1]}']
)
def test_meta_data_of_unforeseen_types_is_passed_over(tmp_path: Path, meta: str) -> None:
    (reading,) = _read(_disk(tmp_path, openstack__latest__meta_data_dot_json=meta))
    assert [dict(reading.broken), reading.offers, dict(reading.ids)] == [{}, (), {}]


def test_nocloud_gives_user_data_and_the_instance_id() -> None:
    (reading,) = _fixture("nocloud")
    assert reading.user_data == b"#cloud-config\nruncmd:\n- [echo, hello]\n"
    assert reading.ids == {"nocloud-instance-id": "iid-local01"}
    assert _warned((reading,)) == ["not-run"]


@pytest.mark.parametrize(
    ("meta", "wanted"),
    [
        ("instance-id: i-1\n", "i-1"),
        ('{"instance-id": "i-2"}', "i-2"),
        ("\ufeffinstance-id: 'i 3'", "i 3"),
        ('"instance-id" : i-4   # comment', "i-4"),
        ("---\nlocal-hostname: x\ninstance-id: i-5", "i-5"),
        ("", ""),
        ("{broken", ""),
        ("a:\n  instance-id: nested", ""),
    ],
)
def test_the_instance_id_is_one_line_of_meta_data(tmp_path: Path, meta: str, wanted: str) -> None:
    (reading,) = _read(_disk(tmp_path, meta_dash_data=meta, user_dash_data="#!/bin/sh"))
    assert reading.ids.get("nocloud-instance-id", "") == wanted


def test_user_data_without_meta_data_is_no_nocloud_disk(tmp_path: Path) -> None:
    assert _read(_disk(tmp_path, user_dash_data="#!/bin/sh")) == ()


def test_several_layouts_on_one_disk_are_all_read(tmp_path: Path) -> None:
    disk = _disk(
        tmp_path,
        context_dot_sh="START_SCRIPT='#!/bin/sh'",
        prolog_dot_sh="#!/bin/sh",
        user_dash_data="#!/bin/sh",
        meta_dash_data="instance-id: i-1",
    )
    assert [reading.layout for reading in _read(disk)] == ["hepix", "opennebula", "nocloud"]


def test_names_that_could_deceive_are_passed_over_with_a_warning_each(tmp_path: Path) -> None:
    for name in (b"a\nb", b"a\x1b[2Jb", b"\xff\xfe", b"plain"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    medium = FolderMedium(str(tmp_path), "disk")
    assert [entry.name for entry in medium.folder("")] == ["plain"]
    assert [problem.reason for problem in medium.warnings] == ["bad-name"] * 3
    assert all(problem.message.isprintable() and problem.message.endswith("ignoring it") for problem in medium.warnings)
    medium.close()


@pytest.mark.parametrize("name", ["context.sh", "user-data", "meta.js"])
def test_a_link_in_the_place_of_a_layouts_file_is_named_and_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").write_text("START_SCRIPT=x\n")
    (tmp_path / "meta-data").write_text("instance-id: i-1\n")
    (tmp_path / name).symlink_to("other")
    medium = FolderMedium(str(tmp_path), "disk")
    assert read_layouts(medium, label="", flat_owner="site", is_site_trusted=True) == ()
    assert [problem.message for problem in medium.warnings] == [
        f"cannot use '{name}': a link on a disk is not followed, ignoring it"
    ]
    medium.close()
