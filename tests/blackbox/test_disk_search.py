"""Which disks are asked, who may speak by them, how long they are waited for, and what is said of each."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from contextagent.errors import UsageError
from contextagent.host import Host
from tests.disks import SITES, USERS, HastyHost, folder_with, names, reasons, scripts, search, verdicts, warned
from tests.machine import REPOSITORY, Machine, make_iso

FIXTURES = REPOSITORY / "tests/fixtures/layouts"


def test_rom_drives_are_asked_by_number_and_before_all_others(host: Host, dev: Path, both: Path) -> None:
    for name in ("sr10", "vda1", "sr2", "hda", "xvdb", "sdb"):
        make_iso(both, dev / name, label=name)
    folder_with(dev, "loop0", "sr", "srx", "sd1", "sda/x", "tty1")
    assert names(host) == ["sr2", "sr10", "hda", "sdb", "vda1", "xvdb"]
    (Path(host.root) / "proc/ide/hda").mkdir(parents=True)
    (Path(host.root) / "proc/ide/hda/media").write_text("cdrom\n")
    (Path(host.root) / "sys/class/block/sdb/device").mkdir(parents=True)
    (Path(host.root) / "sys/class/block/sdb/device/type").write_text("5\n")
    assert names(host) == ["sr2", "sr10", "hda", "sdb", "vda1", "xvdb"]
    assert names(host, rom=True) == ["sr2", "sr10", "hda", "sdb"]


def test_each_owner_has_the_first_disk_with_its_material(host: Host, dev: Path, tmp_path: Path) -> None:
    make_iso(folder_with(tmp_path / "a", "site/prolog.sh"), dev / "sr0")
    make_iso(folder_with(tmp_path / "b", "site/epilog.sh", "user/prolog.sh"), dev / "sr1")
    findings = search(host)
    assert scripts(findings, "site") == ["pre-network/prolog.sh", "stop/prolog.sh"]
    assert scripts(findings, "user") == ["pre-network/prolog.sh", "stop/prolog.sh"]
    assert warned(findings) == ["second-disk"]
    assert "'/dev/sr1'" in findings.warnings[0].message
    assert [(verdict.owner, verdict.reason) for verdict in findings.verdicts] == [
        ("site", "'/dev/sr0' (library)"),
        ("user", "'/dev/sr1' (library)"),
    ]


def test_only_a_rom_or_a_named_device_speaks_as_the_site(host: Host, dev: Path, both: Path) -> None:
    make_iso(both, dev / "xvdb")
    findings = search(host)
    assert findings.found["site"] is None
    assert verdicts(findings, "site") == ["absent"]
    assert reasons(findings, "site") == "'/dev/xvdb' may not speak as the site"
    assert "pre-network/prolog.sh" in scripts(findings, "user")
    assert "post-network/epilog.sh" in scripts(findings, "user")
    for policy in ("disk:\n  site_devices: [rom, xvdb]", "preset: hepix2012"):
        findings = search(host, policy=policy)
        assert scripts(findings, "site") == SITES
        assert scripts(findings, "user") == USERS
        assert findings.found["site"] is not None
        assert findings.found["site"].trust == "channel"


def test_flat_names_are_the_users_where_policy_says_so(host: Host, both: Path) -> None:
    findings = search(host, both, policy="disk:\n  flat_owner: user")
    assert verdicts(findings, "site") == ["absent"]
    assert set(scripts(findings, "user")) == {*SITES, *USERS}


def test_variables_and_keys_alone_are_used_and_end_no_search(host: Host, dev: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/context.sh").write_text("VMID=7\nSSH_PUBLIC_KEY='ssh-rsa AAAA a'\n")
    make_iso(tmp_path / "keys", dev / "sr0")
    findings = search(host)
    assert verdicts(findings, "site") == ["absent"]
    assert findings.found["site"] is not None
    assert not findings.found["site"].is_material
    assert findings.ids == {"vmid": "7"}
    make_iso(folder_with(tmp_path / "scripts", "site/epilog.sh"), dev / "sr1")
    assert scripts(search(host), "site") == ["post-network/epilog.sh", "stop/epilog.sh"]


def test_a_strangers_disk_does_not_say_which_instance_this_is(host: Host, dev: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/context.sh").write_text("VMID=666\n")
    make_iso(FIXTURES / "opennebula/disk", dev / "sr0")
    make_iso(tmp_path / "data", dev / "vdb")
    assert search(host).ids == {"vmid": "1017"}


def test_a_partition_that_shows_its_whole_disks_volume_is_looked_at_once(host: Host, dev: Path, both: Path) -> None:
    make_iso(both, dev / "sdb")
    (dev / "sdb1").write_bytes((dev / "sdb").read_bytes())
    assert names(host) == ["sdb"]


def test_no_drive_means_absent_for_both_without_any_wait(machine: Machine) -> None:
    host = HastyHost(str(machine.root))
    findings = search(host)
    assert [(verdict.verdict, verdict.reason) for verdict in findings.verdicts] == [("absent", "no disk")] * 2
    assert host.seconds < 10


def test_a_disk_that_is_expected_and_missing_is_broken_after_30_seconds(machine: Machine) -> None:
    host = HastyHost(str(machine.root))
    findings = search(host, policy="disk:\n  expected: yes")
    assert verdicts(findings, "site") == ["broken"]
    assert verdicts(findings, "user") == ["broken"]
    assert reasons(findings, "user").startswith("missing: cannot find a context disk in 30 s")
    assert 30 <= host.seconds < 60


def test_a_queue_of_udevs_is_waited_for_but_not_for_ever(machine: Machine) -> None:
    machine.put("run/udev/queue", "")
    host = HastyHost(str(machine.root))
    assert verdicts(search(host), "site") == ["absent"]
    assert 5 <= host.seconds < 20


def test_a_drive_that_never_gets_ready_is_broken_after_10_seconds(machine: Machine) -> None:
    machine.put("dev/sr0", b"")
    host = HastyHost(str(machine.root), status="not-ready")
    findings = search(host)
    assert reasons(findings, "site").startswith("not-ready: cannot read '/dev/sr0'")
    assert 10 <= host.seconds < 30


def test_an_empty_drive_is_absent(host: Host, dev: Path) -> None:
    (dev / "sr0").write_bytes(b"")
    assert verdicts(search(host), "site") == ["absent"]


def spoil(image: Path) -> None:
    """Leave the superblock, and destroy what it points to."""
    raw = bytearray(image.read_bytes())
    raw[34 * 512 * 4 :: 3] = b"\xff" * len(raw[34 * 512 * 4 :: 3])
    raw[16 * 2048 + 132 : 16 * 2048 + 156] = b"\xff" * 24
    image.write_bytes(raw)


def test_a_spoilt_rom_ends_the_search_of_both_owners(host: Host, dev: Path, both: Path) -> None:
    spoil(make_iso(both, dev / "sr0"))
    make_iso(both, dev / "sr1")
    findings = search(host)
    assert findings.found == {"site": None, "user": None}
    assert verdicts(findings, "site") == ["broken"]
    assert verdicts(findings, "user") == ["broken"]
    findings = search(host, policy="disk:\n  broken: next")
    assert verdicts(findings, "site") == ["broken", "found"]
    assert scripts(findings, "site") == SITES


def test_a_spoilt_disk_after_the_one_that_won_costs_only_a_warning(host: Host, dev: Path, both: Path) -> None:
    make_iso(both, dev / "sr0")
    spoil(make_iso(both, dev / "sr1"))
    findings = search(host)
    assert verdicts(findings, "site") == ["found"]
    assert set(warned(findings)) == {"broken-disk"}


def test_a_spoilt_disk_of_a_strangers_is_passed_over_with_a_warning(host: Host, dev: Path, both: Path) -> None:
    spoil(make_iso(both, dev / "sdb"))
    make_iso(both, dev / "vdb")
    findings = search(host)
    assert verdicts(findings, "user") == ["found"]
    assert "unreadable-disk" in warned(findings)


def test_a_users_broken_part_leaves_the_sites_alone(host: Host, both: Path, tmp_path: Path) -> None:
    (both / "context.sh").write_text("EC2_USER_DATA='?'\n")
    findings = search(host, make_iso(both, tmp_path / "x.iso"))
    assert verdicts(findings, "site") == ["found"]
    assert verdicts(findings, "user") == ["broken"]
    assert findings.found["user"] is None


def test_a_disk_that_does_not_exist_is_the_callers_mistake(machine: Machine) -> None:
    with pytest.raises(UsageError):
        search(Host(str(machine.root)), "/nowhere/at/all")
    done = machine.run("plan", "--disk", "/nowhere/at/all")
    assert done.code == 64
    assert "cannot use '/nowhere/at/all' as a disk: No such file or directory" in done.err


@pytest.mark.parametrize("kind", ["text", "empty", "fifo", "device", "ext2", "unreadable"])
def test_what_is_no_disk_is_broken(host: Host, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk.img"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "ext2":
        path.write_bytes(bytes(1 << 20))
        subprocess.run(["mkfs.ext2", "-q", "-F", str(path)], check=True)
    elif kind == "unreadable":
        path = Path("/proc/self/mem")
    else:
        path.write_text("no disk\n" * 9999 if kind == "text" else "")
    findings = search(host, path)
    assert verdicts(findings, "site") == ["broken"]
    wanted = "read-error" if kind == "unreadable" else "not-a-disk"
    assert reasons(findings, "user").startswith(f"{wanted}: cannot read '{path}'")


def test_disk_none_tries_no_disk_at_all(host: Host, dev: Path, both: Path) -> None:
    make_iso(both, dev / "sr0")
    for findings in (search(host, "none"), search(host, policy="sources: [metadata]")):
        assert findings.verdicts == ()
        assert findings.found == {"site": None, "user": None}


def test_an_image_of_real_drives_is_found_by_the_program_itself(machine: Machine, both: Path) -> None:
    (machine.root / "dev").mkdir()
    make_iso(both, machine.root / "dev/sr0")
    plan = machine.facts("plan")
    assert [step["id"] for step in plan["steps"] if step["kind"] == "script"] == [
        "site/pre-network/prolog.sh",
        "user/post-network/epilog.sh",
        "site/post-network/post-network.d/10-first",
        "site/stop/prolog.sh",
        "user/stop/epilog.sh",
    ]


def test_a_drive_that_says_it_is_empty_or_open_is_left_alone(machine: Machine, both: Path) -> None:
    (machine.root / "dev").mkdir()
    make_iso(both, machine.root / "dev/sr0")
    for status in ("no-disc", "tray-open"):
        assert verdicts(search(HastyHost(str(machine.root), status=status)), "site") == ["absent"]
    assert verdicts(search(HastyHost(str(machine.root), status="unknown")), "site") == ["found"]


def test_drives_that_held_a_context_are_ejected_if_policy_says_so_and_no_others(
    machine: Machine, both: Path, tmp_path: Path
) -> None:
    (machine.root / "dev").mkdir()
    make_iso(both, machine.root / "dev/sr0")
    (tmp_path / "music").mkdir()
    make_iso(tmp_path / "music", machine.root / "dev/sr1")
    make_iso(both, machine.root / "dev/vdb")
    host = HastyHost(str(machine.root))
    search(host).eject()
    assert host.ejected == []
    search(host, policy="disk:\n  eject: yes").eject()
    assert host.ejected == [str(machine.root / "dev/sr0")]


def test_a_spoilt_rom_that_may_not_speak_as_the_site_is_broken_for_the_user_alone(
    host: Host, dev: Path, both: Path
) -> None:
    spoil(make_iso(both, dev / "sr0"))
    findings = search(host, policy="disk:\n  site_devices: [vdb]")
    assert verdicts(findings, "site") == ["absent"]
    assert verdicts(findings, "user") == ["broken"]
