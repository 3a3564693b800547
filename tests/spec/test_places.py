"""`files/`, what a user may write, and login keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.spec.scenes import KEY, boot, effects, lay, messages, reasons, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Guest, Machine

HOME = "var/lib/contextuser"


def test_files_of_the_site_are_placed_before_its_first_script_with_parents_and_replaced_and_traced(
    machine: Machine, disk: Path
) -> None:
    machine.put("etc/old.conf", "old")
    lay(disk, {"files/etc/old.conf": "new", "files/etc/deep/er/x": "x", "files/usr/bin/tool": "#!/bin/sh\n"})
    lay(disk, {"prolog.sh": f"cat {machine.root}/etc/old.conf {machine.root}/etc/deep/er/x > {machine.root}/seen"})
    (disk / "files/usr/bin/tool").chmod(0o6777)
    (disk / "files/etc/old.conf").chmod(0o640)
    assert boot(machine, disk).code == 0
    assert machine.text("seen") == "newx"
    assert (machine.root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o755
    assert (machine.root / "etc/old.conf").stat().st_mode & 0o7777 == 0o640
    placed = {record["path"]: record for record in machine.trace() if record["ev"] == "file"}
    assert placed["/etc/old.conf"]["replaced"] is True
    assert placed["/usr/bin/tool"]["replaced"] is False


def test_files_of_the_site_belong_to_root_whoever_owns_them_on_the_disk(guest: Guest) -> None:
    import os  # noqa: PLC0415  # this test alone

    path = guest.put("disk/files/etc/x.conf", "x")
    os.chown(path, 1234, 1234)
    guest.run("run", "--disk", "/disk")
    found = (guest.root / "etc/x.conf").stat()
    assert (found.st_uid, found.st_gid) == (0, 0)


def test_a_users_file_is_the_accounts_and_only_below_its_home_or_the_job_outputs(guest: Guest) -> None:
    guest.put("disk/user/files/var/lib/contextuser/a/b", "mine")
    guest.put("disk/user/files/etc/cron.d/x", "theirs")
    guest.put("disk/user/epilog.sh", "echo ran\n")
    assert guest.run("run", "--disk", "/disk").code == 2
    found = guest.root / HOME / "a/b"
    assert (found.read_text(), found.stat().st_uid, found.parent.stat().st_uid) == ("mine", 990, 990)
    assert not (guest.root / "etc/cron.d/x").exists()
    assert "/etc/cron.d/x" in messages(guest, "errors")
    assert guest.status()["scripts"][0]["state"] == "ok", "what is refused is one path"


def test_a_users_file_does_not_follow_a_link_that_the_user_left(guest: Guest) -> None:
    guest.put("disk/user/files/var/lib/contextuser/out/x", "1")
    guest.put("disk/user/prolog.sh", "rm -rf ~/out; ln -s /etc ~/out\n")
    guest.run("run", "--disk", "/disk")
    guest.put("disk/user/files/var/lib/contextuser/out/x", "2")
    guest.reboot()
    guest.run("run", "--disk", "/disk")
    assert not (guest.root / "etc/x").exists()
    assert "through-link" in reasons(guest, "errors")


def test_write_files_of_a_cloud_config_and_filewrite_of_nimbus_obey_the_same_rule(machine: Machine, disk: Path) -> None:
    text = "#cloud-config\nwrite_files:\n"
    text += "".join(f"- {{path: {path}, content: hello}}\n" for path in ("/var/lib/contextuser/y", "/etc/shadow"))
    lay(disk, {"user-data": text, "meta-data": ""})
    assert boot(machine, disk).code == 2
    assert machine.text(f"{HOME}/y") == "hello"
    assert not (machine.root / "etc/shadow").exists()
    assert "/etc/shadow" in messages(machine, "errors")


def test_a_users_key_goes_to_the_users_account_only_and_the_sites_to_root(machine: Machine, disk: Path) -> None:
    lay(disk, {"user-data": f"#cloud-config\nssh_authorized_keys: ['{KEY} user']\n", "meta-data": ""})
    lay(disk, {"context.sh": f"SSH_PUBLIC_KEY='{KEY} site'\n", "prolog.sh": "true"})
    boot(machine, disk)
    assert machine.text(f"{HOME}/.ssh/authorized_keys") == f"{KEY} user\n"
    assert machine.text("root/.ssh/authorized_keys") == f"{KEY} site\n"
    identities = [record for record in machine.trace() if record["ev"] == "identity"]
    assert {record["account"] for record in identities} == {"contextuser", "root"}
    assert "AAAA" not in machine.text("run/contextagent/status.json")


def test_keys_are_added_once_and_kept_private(machine: Machine, disk: Path) -> None:
    machine.put("root/.ssh/authorized_keys", f"{KEY} before", 0o600)
    lay(disk, {"site.yaml": f"access: {{root_keys: ['{KEY} new']}}\n"})
    for _ in range(2):
        boot(machine, disk)
        machine.reboot()
    assert machine.text("root/.ssh/authorized_keys") == f"{KEY} before\n{KEY} new\n"
    assert (machine.root / "root/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600


def test_a_users_settings_give_no_key_to_root(machine: Machine, disk: Path) -> None:
    lay(disk, {"user/user.yaml": f"access: {{root_keys: ['{KEY}']}}\n", "user/epilog.sh": "true"})
    boot(machine, disk)
    assert not (machine.root / "root/.ssh").exists()
    assert "access.root_keys" in messages(machine)


def test_variables_and_keys_alone_are_no_material_but_the_keys_are_used(machine: Machine, disk: Path) -> None:
    lay(disk, {"context.sh": f"SSH_PUBLIC_KEY='{KEY}'\nA=1\n"})
    assert boot(machine, disk).code == 0
    assert machine.status()["sources"] == {"site": None, "user": None}
    assert [each["verdict"] for each in machine.status()["verdicts"]] == ["absent", "absent"]
    assert machine.text("root/.ssh/authorized_keys") == f"{KEY}\n"


def test_a_site_link_in_files_is_placed_and_one_that_leaves_files_is_broken(machine: Machine, disk: Path) -> None:
    lay(disk, {"files/etc/real": "x"})
    (disk / "files/etc/alias").symlink_to("real")
    assert boot(machine, disk).code == 0
    assert (machine.root / "etc/alias").readlink().name == "real"
    (disk / "files/etc/evil").symlink_to("../../../../outside")
    machine.reboot()
    assert boot(machine, disk).code == 1


@pytest.mark.parametrize("attack", ["mkdir -p", "ln -sfn authorized_keys", "ln -sfn /etc/shadow", "mkfifo", "touch x"])
def test_what_a_user_puts_in_the_place_of_its_own_files_costs_the_site_nothing(
    machine: Machine, disk: Path, attack: str
) -> None:
    home = machine.root / HOME
    lay(
        disk,
        says(machine, "user/stop.d/x", body=f"cd {home} && rm -rf .ssh/* a && {attack} .ssh/authorized_keys; touch a"),
    )
    lay(
        disk,
        {
            "user-data": f"#cloud-config\nssh_authorized_keys: ['{KEY}']\n",
            "meta-data": "",
            **says(machine, "prolog.sh"),
        },
    )
    boot(machine, disk)
    boot(machine, disk, "stop")
    machine.reboot()
    lay(disk, {f"user/files/{HOME}/a/b/c": "x", f"user/files/{HOME}/a/d": "x"})
    assert boot(machine, disk).code in (0, 2)
    assert effects(machine).count("prolog.sh start") == 2
    assert not (machine.root / HOME / "a/b").exists()


def test_a_users_material_that_cannot_be_written_is_broken_and_the_site_runs(machine: Machine, disk: Path) -> None:
    long = "/".join(["x" * 250] * 15)
    lay(disk, {"user-data": f"#cloud-config\nwrite_files: [{{path: /var/lib/contextuser/{long}, content: x}}]\n"})
    lay(disk, {"meta-data": "", **says(machine, "prolog.sh", "user/epilog.sh")})
    assert boot(machine, disk).code == 2
    assert effects(machine)[0] == "prolog.sh start"
