"""Layouts, verdicts, user data and cloud-init, as the program tells them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.machine import make_iso, make_vfat
from tests.spec.scenes import boot, effects, ids, lay, messages, reasons, reports, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

HELLO = "#!/bin/sh\necho hello $1 >> {}/effects\n"


def hello(machine: Machine) -> str:
    return HELLO.format(machine.root)


def tarball(files: dict[str, str]) -> bytes:
    """Return a tar.gz with these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


def verdicts(machine: Machine) -> dict[str, str]:
    return {each["owner"]: each["verdict"] for each in machine.status()["verdicts"]}


def test_several_layouts_of_one_disk_are_merged_and_named_in_order(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "epilog.sh", "user/epilog.sh"))
    lay(disk, {"context.sh": "VMID=1\nCONTEXT_METHOD=x\n", "user-data": hello(machine), "meta-data": ""})
    lay(disk, {"openstack/latest/meta_data.json": "{}"})
    boot(machine, disk)
    name = "disk:hepix+nocloud+opennebula+openstack+stratuslab"
    assert machine.status()["sources"] == {"site": name, "user": name}
    assert ids(machine) == ["user/post-network/epilog.sh", "user/post-network/user-data", "site/post-network/epilog.sh"]


@pytest.mark.parametrize("kind", ["iso", "vfat", "folder"])
def test_an_iso_a_vfat_image_and_a_folder_give_the_same_plan(
    machine: Machine, disk: Path, tmp_path: Path, kind: str
) -> None:
    lay(disk, says(machine, "epilog.sh", "user/pre-network.d/10-x", "stop.d/y"))
    lay(disk, {"context.sh": "VMID=3\n", "site.yaml": "lockdown: no\n"})
    path = disk
    if kind != "folder":
        path = (make_iso if kind == "iso" else make_vfat)(disk, tmp_path / "image")
    whole, other = (machine.facts("plan", "--disk", str(each)) for each in (disk, path))
    assert whole["steps"]
    assert other == whole


def test_a_site_only_disk_and_a_user_only_disk_are_found_for_their_owner_alone(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "user/epilog.sh"))
    boot(machine, disk)
    assert verdicts(machine) == {"user": "found", "site": "absent"}
    assert machine.status()["trust"] == {"user": "none"}
    assert machine.status()["sources"] == {"site": None, "user": "disk:hepix"}


def test_the_sites_word_on_its_own_disk_is_trusted_by_channel(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "epilog.sh", "user/epilog.sh"))
    boot(machine, disk)
    assert machine.status()["trust"] == {"site": "channel", "user": "none"}


def test_a_disk_without_a_known_layout_is_absent_and_one_that_is_no_file_system_is_broken(
    machine: Machine, disk: Path, tmp_path: Path
) -> None:
    lay(disk, {"readme": "hello", "context.txt": ""})
    assert boot(machine, disk).code == 0
    assert verdicts(machine) == {"user": "absent", "site": "absent"}
    assert {each["source"] for each in machine.status()["verdicts"]} == {"disk"}
    (tmp_path / "noise").write_bytes(b"noise" * 100000)
    machine.reboot()
    assert boot(machine, tmp_path / "noise").code == 1
    assert verdicts(machine) == {"user": "broken", "site": "broken"}


def test_a_disk_that_does_not_exist_is_a_usage_error_and_nothing_is_written(machine: Machine) -> None:
    done = machine.run("run", "--disk", "/nowhere/at/all")
    assert (done.code, done.out) == (64, "")
    assert done.err.startswith("contextagent: cannot ")
    assert "'/nowhere/at/all'" in done.err


def test_a_file_named_as_an_init_script_is_only_that(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "init.sh"))
    lay(disk, {"context.sh": "INIT_SCRIPTS=init.sh\n"})
    boot(machine, disk)
    assert ids(machine) == ["site/post-network/init.sh"]
    assert machine.status()["sources"]["site"] == "disk:opennebula"


def test_a_default_tgz_on_a_disk_is_not_read_and_explain_says_so(machine: Machine, disk: Path) -> None:
    lay(disk, {"default.tgz": tarball({"epilog.sh": hello(machine)})})
    lay(disk, says(machine, "epilog.sh"))
    boot(machine, disk)
    assert effects(machine) == ["epilog.sh start"]
    assert "default.tgz" in machine.run("explain").out


def test_explain_tells_what_was_tried_in_order_with_verdict_reason_and_time(machine: Machine, disk: Path) -> None:
    lay(disk, {**says(machine, "user/epilog.sh"), "site.yaml": "", "site.json": ""})
    boot(machine, disk)
    told = machine.run("explain").out
    for word in ("broken", "found", "site.json", "disk:hepix"):
        assert word in told
    facts = machine.facts("explain")
    assert [set(each) for each in facts["verdicts"]] == [{"owner", "source", "verdict", "reason", "duration_s"}] * 2


def test_the_disk_source_can_be_switched_off(machine: Machine, disk: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", "sources: []\n")
    lay(disk, says(machine, "epilog.sh"))
    assert machine.run("run").code == 0
    assert machine.status()["result"] == "none"


# ---- user data ----


def nocloud(machine: Machine, disk: Path, data: str | bytes, *words: str) -> int:
    """Boot with this user data."""
    lay(disk, {"user-data": data, "meta-data": ""})
    return boot(machine, disk, *words).code


@pytest.mark.parametrize("wrap", ["plain", "gzip", "twice", "opennebula", "openstack", "ec2"])
def test_a_script_is_run_as_user_data_however_it_is_wrapped(machine: Machine, disk: Path, wrap: str) -> None:
    data = hello(machine).encode()
    text = base64.b64encode(data).decode()
    files: dict[str, dict[str, str | bytes]] = {
        "plain": {"user-data": data, "meta-data": ""},
        "gzip": {"user-data": gzip.compress(data), "meta-data": ""},
        "twice": {"user-data": gzip.compress(gzip.compress(data)), "meta-data": ""},
        "opennebula": {"context.sh": f"USERDATA={text}\nUSERDATA_ENCODING=base64\n"},
        "openstack": {"openstack/2012-08-10/user_data": data, "openstack/2012-08-10/meta_data.json": "{}"},
        "ec2": {"context.sh": f"EC2_USER_DATA='{text}'\n"},
    }
    lay(disk, files[wrap])
    assert boot(machine, disk).code == 0
    assert effects(machine) == ["hello start"]
    assert ids(machine) == ["user/post-network/user-data"]


def test_amiconfig_sections_are_split_into_before_and_after(machine: Machine, disk: Path) -> None:
    effects_file = machine.root / "effects"
    text = f"#!/bin/sh before\necho before >> {effects_file}\nexit\n#!/bin/sh after\necho after >> {effects_file}\n"
    nocloud(machine, disk, text)
    assert effects(machine) == ["before", "after"]
    assert ids(machine)[0] == "user/pre-network/user-data-before"


def test_a_tarball_of_user_data_is_a_native_layout_with_user_settings(machine: Machine, disk: Path) -> None:
    members = {"top/epilog.sh": hello(machine), "top/pre-network.d/1": hello(machine), "top/stop.d/z": hello(machine)}
    members["top/user.yaml"] = "scripts: {user/post-network/epilog.sh: {wall_s: 5}}\n"
    assert nocloud(machine, disk, tarball(members)) == 0
    assert ids(machine) == ["user/pre-network/pre-network.d/1", "user/post-network/epilog.sh"]
    steps = {step["id"]: step for step in machine.facts("plan", "--disk", str(disk))["steps"]}
    assert steps["user/post-network/epilog.sh"]["limits"]["wall_s"] == 5


def test_a_tarball_with_one_bad_member_is_refused_whole_naming_member_and_rule(machine: Machine, disk: Path) -> None:
    assert nocloud(machine, disk, tarball({"epilog.sh": hello(machine), "../evil": "x"})) == 2
    assert not effects(machine)
    found = next(each for each in machine.status()["verdicts"] if each["owner"] == "user")
    assert found["verdict"] == "broken"
    assert "../evil" in found["reason"]


def test_a_cloud_config_names_every_other_key_in_one_warning(machine: Machine, disk: Path) -> None:
    text = "#cloud-config\npackages: [vim]\nusers: []\n"
    text += "runcmd:\n- [sh, -c, 'echo run >> {0}']\nbootcmd:\n- echo boot >> {0}\n"
    nocloud(machine, disk, text.format(machine.root / "effects"))
    assert effects(machine) == ["boot", "run"]
    said = [line for line in messages(machine).splitlines() if "packages" in line]
    assert len(said) == 1
    assert "users" in said[0]


def test_an_amiconfig_ini_is_kept_and_a_users_choice_of_bundle_ignored_with_a_warning(
    machine: Machine, disk: Path
) -> None:
    nocloud(machine, disk, "[amiconfig]\nplugins=cernvm\n[hepix]\ncontext=evil.tgz\n[cernvm]\nusers=a\n")
    assert "context" in messages(machine)
    assert list((machine.root / "var/lib/amiconfig").rglob("*"))


@pytest.mark.parametrize("data", [b"just words\n", bytes(range(256)) * 4, b"##user_data_contextualization##\n"])
def test_unknown_user_data_is_kept_private_digested_and_not_run(machine: Machine, disk: Path, data: bytes) -> None:
    nocloud(machine, disk, data)
    assert not ids(machine)
    instance = machine.root / "var/lib/contextagent/instances" / machine.status()["instance_id"]
    kept = [path for path in instance.rglob("*") if path.is_file() and path.read_bytes() == data]
    assert kept
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert "user" in machine.run("explain").out
    refused = [record for record in machine.trace() if record["ev"] == "refuse"]
    assert refused[0]["digest"]


# ---- cloud-init ----


def cloud_init(machine: Machine) -> None:
    machine.put("usr/bin/cloud-init", "#!/usr/bin/python3\n", 0o755)


def test_an_enabled_cloud_init_runs_the_user_data_and_this_agent_none(machine: Machine, disk: Path) -> None:
    cloud_init(machine)
    lay(disk, says(machine, "epilog.sh"))
    assert nocloud(machine, disk, hello(machine)) == 2
    assert effects(machine) == ["epilog.sh start"]
    assert machine.status()["sources"]["user"] == "cloud-init"
    assert machine.status()["result"] == "degraded"
    assert reasons(machine).count("cloud-init") == 1
    assert reports(machine)["user/post-network/user-data"]["state"] == "skipped"


@pytest.mark.parametrize("switch", ["file", "word", "list", "yaml list"])
def test_a_cloud_init_that_is_switched_off_leaves_user_data_to_the_agent(
    machine: Machine, disk: Path, switch: str
) -> None:
    cloud_init(machine)
    put = {
        "file": ("etc/cloud/cloud-init.disabled", ""),
        "word": ("proc/cmdline", "quiet cloud-init=disabled\n"),
        "list": ("etc/cloud/cloud.cfg.d/99-none.cfg", "datasource_list: [ None ]\n"),
        "yaml list": ("etc/cloud/cloud.cfg", "datasource_list:\n- None\n"),
    }
    machine.put(*put[switch])
    assert nocloud(machine, disk, hello(machine)) == 0
    assert effects(machine) == ["hello start"]


@pytest.mark.parametrize(
    "data", ["just words\n", "#cloud-config\nhostname: x\n", "#cloud-config\nssh_authorized_keys: []\n"]
)
def test_cloud_init_does_not_matter_where_nothing_is_to_be_run(machine: Machine, disk: Path, data: str) -> None:
    cloud_init(machine)
    lay(disk, says(machine, "epilog.sh", "user/epilog.sh"))
    assert nocloud(machine, disk, data) == 0
    assert machine.status()["sources"]["user"] != "cloud-init"
    assert len(effects(machine)) == 2


def test_what_the_openstack_layout_gives_is_the_users_and_vendor_data_is_named_as_not_run(
    machine: Machine, disk: Path
) -> None:
    lay(disk, {"openstack/latest/meta_data.json": json.dumps({"uuid": "u", "meta": {"a": "b"}})})
    lay(disk, {"openstack/latest/vendor_data.json": json.dumps({"cloud-init": hello(machine)})})
    lay(disk, {"openstack/latest/user_data": hello(machine)})
    boot(machine, disk)
    assert effects(machine) == ["hello start"]
    assert "vendor" in messages(machine)


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("folder", "folder/../a")], ids=" then ".join
)
def test_files_that_stand_in_each_others_way_cost_no_script_its_turn(
    machine: Machine, disk: Path, paths: tuple[str, ...]
) -> None:
    home = "/var/lib/contextuser"
    text = "#cloud-config\nwrite_files:\n" + "".join(f"- {{path: {home}/{path}, content: new}}\n" for path in paths)
    lay(disk, {f"user/files{home}/{paths[0]}": "old", **says(machine, "epilog.sh", "user/epilog.sh")})
    assert nocloud(machine, disk, text) in (0, 2)
    assert "epilog.sh start" in effects(machine)
    assert machine.status()["result"] in ("ok", "degraded")


def test_the_same_script_from_a_folder_and_from_user_data_is_the_folders_with_one_warning(
    machine: Machine, disk: Path
) -> None:
    lay(disk, says(machine, "user/epilog.sh"))
    nocloud(machine, disk, tarball({"epilog.sh": hello(machine)}))
    assert effects(machine) == ["user/epilog.sh start"]
    assert reasons(machine).count("duplicate") == 2  # it is a post-network and a stop script
