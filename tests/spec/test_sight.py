"""What a script sees: environment, folder, rights, descriptors; and what it does not."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.spec.scenes import boot, effects, lay, messages, output, reasons, reports

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Guest, Machine

SITE, USER = "site/post-network/epilog.sh", "user/post-network/epilog.sh"
FIXED = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
NAMES = {
    *FIXED, "HOME", "CONTEXTAGENT_PHASE", "CONTEXTAGENT_OWNER", "CONTEXTAGENT_INSTANCE_ID", "CONTEXTAGENT_SOURCE",
    "CONTEXTAGENT_CONTEXT_DIR", "MACHINEFEATURES", "JOBFEATURES", "JOBOUTPUTS",
}  # fmt: skip
ENVIRONMENT = "#!/usr/bin/python3 -IS\nimport json, os; print(json.dumps(dict(os.environ)))\n"
SPY = """#!/usr/bin/python3 -IS
import json, os, resource, sys
said = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
umask = os.umask(0)
print(json.dumps({
    "argv": sys.argv[1:], "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "cwd": os.getcwd(),
    "caps": [said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")], "nnp": said["NoNewPrivs"],
    "fds": sorted(map(int, os.listdir("/proc/self/fd")))[:-1], "stdin": os.readlink("/proc/self/fd/0"),
    "umask": umask, "sid": os.getsid(0) == os.getpid(), "pids": len([x for x in os.listdir("/proc") if x.isdigit()]),
    "limits": {n: resource.getrlimit(getattr(resource, "RLIMIT_" + n))[0]
               for n in ("NPROC", "NOFILE", "CPU", "AS", "CORE")},
    "folder": sorted(os.listdir(".")), "owner": os.stat(".").st_uid, "home": os.environ["HOME"],
    "environment": dict(os.environ),
}))
"""


@pytest.fixture
def spied(guest: Guest) -> Guest:
    """Return a machine on which a site and a user script have looked around."""
    for owner in ("site", "user"):
        guest.put(f"disk/{owner}/epilog.sh", SPY)
        guest.put(f"disk/{owner}/only-{owner}", "secret")
    assert guest.run("run", "--disk", "/disk").code == 0
    return guest


def seen(machine: Machine, script_id: str) -> dict:
    """Return what the spy saw."""
    return dict(json.loads(output(machine, script_id)))


def test_a_user_script_has_an_account_without_groups_capabilities_or_new_privileges(spied: Guest) -> None:
    user = seen(spied, USER)
    assert (user["uid"], user["gid"], user["groups"]) == ([990] * 3, [990] * 3, [])
    assert {int(caps, 16) for caps in user["caps"]} == {0}
    assert user["nnp"].strip() == "1"
    assert user["pids"] <= 3, "a PID namespace of its own"
    assert reports(spied)[USER]["profile"] == "unprivileged"


def test_a_site_script_is_root_without_a_box(spied: Guest) -> None:
    site = seen(spied, SITE)
    assert (site["uid"], site["gid"]) == ([0] * 3, [0] * 3)
    assert int(site["caps"][2], 16) & (1 << 21), "CAP_SYS_ADMIN"
    assert site["nnp"].strip() == "0"
    assert reports(spied)[SITE]["profile"] == "root"


@pytest.mark.parametrize("script_id", [SITE, USER])
def test_every_script_has_its_own_session_three_descriptors_and_umask_077(spied: Guest, script_id: str) -> None:
    found = seen(spied, script_id)
    assert (found["argv"], found["sid"], found["fds"]) == (["start"], True, [0, 1, 2])
    assert (found["stdin"], found["umask"]) == ("/dev/null", 0o077)
    assert found["limits"]["NOFILE"] == 1024


def test_each_owner_stands_in_the_same_folder_and_finds_its_own_files_only(spied: Guest) -> None:
    site, user = seen(spied, SITE), seen(spied, USER)
    assert site["cwd"] == user["cwd"] == "/var/lib/hepix/context"
    assert site["environment"]["CONTEXTAGENT_CONTEXT_DIR"] == "/var/lib/hepix/context"
    assert site["folder"] == ["epilog.sh", "only-site"]
    assert user["folder"] == ["epilog.sh", "only-user"]
    assert (site["owner"], user["owner"]) == (0, 990)


@pytest.mark.parametrize(("script_id", "home"), [(SITE, "/root"), (USER, "/var/lib/contextuser")])
def test_the_environment_is_the_promised_one_and_nothing_else(spied: Guest, script_id: str, home: str) -> None:
    found = seen(spied, script_id)["environment"]
    owner, phase, _ = script_id.split("/", 2)
    assert set(found) == NAMES
    assert found["HOME"] == home
    assert {name: found[name] for name in FIXED} == FIXED
    assert (found["CONTEXTAGENT_OWNER"], found["CONTEXTAGENT_PHASE"]) == (owner, phase)
    assert found["CONTEXTAGENT_SOURCE"] == "disk:hepix"
    assert found["CONTEXTAGENT_INSTANCE_ID"] == spied.status()["instance_id"]
    assert (found["MACHINEFEATURES"], found["JOBFEATURES"]) == ("/etc/machinefeatures", "/etc/jobfeatures")
    assert found["JOBOUTPUTS"] == "/etc/joboutputs"


def test_no_variable_of_the_callers_reaches_a_script(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": ENVIRONMENT})
    machine.run("run", "--disk", str(disk), environment={"LEAK": "1", "LD_LIBRARY_PATH": "/x", "PYTHONPATH": "/x"})
    assert set(seen(machine, SITE)) == NAMES


def test_the_user_home_and_all_of_the_agents_folders_have_the_promised_modes(spied: Guest) -> None:
    modes = {
        "var/lib/contextuser": 0o700,
        "var/lib/contextagent": 0o700,
        "var/log/contextagent": 0o700,
        "run/contextagent": 0o755,
        "run/contextagent/status.json": 0o644,
        "run/contextagent/lock": 0o600,
    }
    instance = f"var/lib/contextagent/instances/{spied.status()['instance_id']}"
    modes |= {f"{instance}/state.json": 0o600, instance: 0o700}
    boot_id = spied.status()["boot_id"]
    modes |= {f"var/log/contextagent/{kind}-{boot_id}.json{end}": 0o600
              for kind, end in (("trace", "l"), ("receipt", ""))}  # fmt: skip
    assert {path: (spied.root / path).stat().st_mode & 0o7777 for path in modes} == modes
    link = spied.root / "var/lib/contextagent/instance"
    assert link.is_symlink()
    assert str(link.readlink()) == f"instances/{spied.status()['instance_id']}"
    kept = spied.root / reports(spied)[SITE]["output"].lstrip("/")
    assert kept.stat().st_mode & 0o7777 == 0o600


def test_limits_of_settings_are_limits_of_the_process(guest: Guest) -> None:
    guest.put("disk/user/epilog.sh", SPY)
    limits = "cpu_s: 7, memory_bytes: 300000000, processes: 77, files: 33, output_bytes: 99999, wall_s: 42"
    guest.put("disk/user/user.yaml", f"scripts:\n  {USER}: {{{limits}}}\n")
    guest.run("run", "--disk", "/disk")
    found = seen(guest, USER)["limits"]
    assert (found["CPU"], found["AS"], found["NPROC"], found["NOFILE"]) == (7, 300000000, 77, 33)


def test_modes_that_others_loosened_are_asserted_again_at_the_next_boot(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": "true"})
    boot(machine, disk)
    for path in ("var/lib/contextagent", "var/log/contextagent"):
        (machine.root / path).chmod(0o777)
    machine.reboot()
    boot(machine, disk)
    for path in ("var/lib/contextagent", "var/log/contextagent"):
        assert (machine.root / path).stat().st_mode & 0o777 == 0o700


VARIABLES = """
NAME='it''s'
export OTHER="a b"
SEVERAL="one
two"
DOLLAR="$HOME `id`"
PATH=/evil
LD_PRELOAD=/evil.so
BASH_ENV=/evil
ENV=/evil
IFS=x
PYTHONPATH=/evil
SHELLOPTS=xtrace
FUNCTION='() { :; }; echo evil'
USER_DATA=IyEvYmluL3RydWUK
USER_DATA_ENCODING=base64
ONEGATE_TOKEN=geheim
START_SCRIPT='#!/bin/sh'
ETH0_IP=10.0.0.1
BIG="{big}"
"""


def test_variables_of_context_sh_reach_site_scripts_but_payloads_tokens_and_dangerous_names_do_not(
    machine: Machine, disk: Path
) -> None:
    text = VARIABLES.replace("{big}", "x" * 5000)
    lay(disk, {"context.sh": text, "epilog.sh": ENVIRONMENT, "user/epilog.sh": ENVIRONMENT})
    boot(machine, disk)
    site = seen(machine, SITE)
    assert set(site) - NAMES == {"NAME", "OTHER", "SEVERAL", "DOLLAR", "ETH0_IP"}
    assert (site["NAME"], site["OTHER"], site["SEVERAL"]) == ("its", "a b", "one\ntwo")
    assert site["DOLLAR"] == "$HOME `id`"
    assert site["PATH"] == FIXED["PATH"]
    assert set(seen(machine, USER)) == NAMES
    said = messages(machine)
    for name in ("PATH", "LD_PRELOAD", "BASH_ENV", "IFS", "PYTHONPATH", "FUNCTION", "BIG"):
        assert name in said, name
    assert "geheim" not in machine.text("run/contextagent/status.json")
    assert (machine.root / "var/lib/hepix/context/context.sh").exists()


def test_no_more_than_32_kib_of_variables_reach_a_script(machine: Machine, disk: Path) -> None:
    lay(disk, {"context.sh": "".join(f"V{n:02}={'x' * 4000}\n" for n in range(12)), "epilog.sh": ENVIRONMENT})
    boot(machine, disk)
    given = {name: value for name, value in seen(machine, SITE).items() if name not in NAMES}
    assert 0 < sum(len(name) + len(value) for name, value in given.items()) <= 32 << 10
    assert "large-variable" in reasons(machine)


def test_under_flat_owner_user_both_the_users_and_the_sites_scripts_see_the_variables(
    machine: Machine, disk: Path
) -> None:
    machine.put("etc/contextagent/policy.yaml", "disk: {flat_owner: user}\n")
    lay(disk, {"context.sh": "NAME=1\n", "epilog.sh": ENVIRONMENT, "site/epilog.sh": ENVIRONMENT})
    boot(machine, disk)
    assert [set(seen(machine, each)) - NAMES for each in (SITE, USER)] == [{"NAME"}, {"NAME"}]


@pytest.mark.parametrize("char", list(";&|<>("))
def test_an_unquoted_operator_makes_context_sh_broken_with_its_line(machine: Machine, disk: Path, char: str) -> None:
    lay(disk, {"context.sh": f"A=1\n# comment\nB=x{char}touch\n"})
    assert boot(machine, disk).code == 1
    verdict = next(each for each in machine.status()["verdicts"] if each["owner"] == "site")
    assert verdict["verdict"] == "broken"
    assert re.search(r"\b3\b", verdict["reason"]), verdict["reason"]


def test_a_script_runs_by_its_shebang_without_an_exec_bit_and_by_sh_without_a_shebang(
    machine: Machine, disk: Path
) -> None:
    lay(disk, {"prolog.sh": "#!/usr/bin/env python3\nprint(6 * 7)\n", "epilog.sh": "echo $((6 * 7))\n"})
    (disk / "prolog.sh").chmod(0o400)
    boot(machine, disk)
    assert output(machine, "site/pre-network/prolog.sh") == output(machine, SITE) == "42\n"
    assert not effects(machine)


def test_below_a_root_scripts_stand_in_its_context_folder_and_the_trace_says_caller(
    machine: Machine, disk: Path
) -> None:
    lay(disk, {"epilog.sh": "pwd; echo $CONTEXTAGENT_CONTEXT_DIR\n"})
    boot(machine, disk)
    assert set(output(machine, SITE).split()) == {f"{machine.root}/var/lib/hepix/context"}
    start = next(record for record in machine.trace() if record["ev"] == "start")
    assert start["profile"] == "caller"


def test_a_profile_of_root_for_the_user_is_had_by_the_images_ceiling_alone(guest: Guest) -> None:
    guest.put("disk/user/epilog.sh", SPY)
    guest.put("disk/site.yaml", "user: {profile: root}\n")
    guest.run("run", "--disk", "/disk")
    assert seen(guest, USER)["uid"][0] == 990
    assert "user.ceiling" in messages(guest)
    guest.put("etc/contextagent/policy.yaml", "user: {ceiling: root}\n")
    guest.reboot()
    guest.run("run", "--force", "--disk", "/disk")
    assert seen(guest, USER)["uid"][0] == 0
    assert reports(guest)[USER]["profile"] == "root"


def test_a_user_script_that_fails_unprivileged_has_profile_and_key_named(guest: Guest) -> None:
    guest.put("disk/user/epilog.sh", "mount -t tmpfs x /mnt\n")
    guest.run("run", "--disk", "/disk")
    for verb in ("status", "explain"):
        told = guest.run(verb).out
        assert "unprivileged" in told
        assert "user.profile" in told


def test_the_user_never_sees_the_sites_files_nor_the_agents_state(guest: Guest) -> None:
    look = "cat /var/lib/contextagent/instance/state.json /var/log/contextagent/* ; ls -R /var/lib/hepix; ls /run/*/*"
    guest.put("disk/site/prolog.sh", "echo CANARY\n")
    guest.put("disk/user/epilog.sh", f"{look}; grep -rs CAN[A]RY /var/lib /var/log /run /etc/contextagent; true\n")
    guest.put("disk/site/epilog.sh", "true\n")
    guest.run("run", "--disk", "/disk")
    assert reports(guest)["site/pre-network/prolog.sh"]["state"] == "ok"
    assert "CANARY" not in output(guest, USER)
    assert "prolog.sh" not in output(guest, USER)
