"""What nobody can do by features, job outputs and requests: have root write, run or read what is not theirs."""

from __future__ import annotations

import shlex
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT
from tests.spec.living import MESSAGE, Living, features, policy, until
from tests.spec.scenes import boot, lay, messages, output

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Guest, Machine
    from tests.spec.service import Service

_LIVE = """
agent="$1"
$agent run --disk /disk --metadata none >/var/log/run.log 2>&1
$agent watch 2>/var/log/watch.log & watch=$!
for i in $(seq 100); do test -e /run/contextagent/watch.lock && break; sleep 0.05; done
sleep 0.3
as() { setpriv --reuid=990 --regid=990 --clear-groups "$@"; }
%s
for i in $(seq 200); do grep -q '"is_told":true' /run/contextagent/ended.json 2>/dev/null && break; sleep 0.05; done
kill $watch; wait $watch
%s
cat /var/log/watch.log >&2
"""


def test_an_address_in_a_profile_runs_nothing(machine: Machine, disk: Path) -> None:
    url = f"http://127.0.0.1:9/$(touch$IFS{machine.root}/ran);touch&{machine.root}/ran"
    lay(disk, {"epilog.sh": "true\n", "context.sh": f"JOBOUTPUTS='{url}'\nVMID=1\n"})
    boot(machine, disk)
    script = machine.root / "etc/profile.d/mjf.sh"
    subprocess.run(["/bin/sh", "-c", '. "$1"', "sh", str(script)], check=True)
    assert not (machine.root / "ran").exists()


def test_scripts_have_the_folders_even_where_the_context_says_an_address(
    machine: Machine, disk: Path, service: Service
) -> None:
    lay(disk, {"epilog.sh": "echo $MACHINEFEATURES $JOBFEATURES\n"})
    lay(disk, {"context.sh": f"MACHINEFEATURES='{service.url}/m'\nJOBFEATURES='{service.url}/j'\nVMID=1\n"})
    boot(machine, disk)
    assert all(word.startswith("/") for word in output(machine, "site/post-network/epilog.sh").split())


@pytest.mark.parametrize(
    "key", ["machine/shutdown_command", "machine/grace_secs", "job/jobstart_secs", "machine/syslog"]
)
def test_a_user_says_no_feature_that_is_the_sites(machine: Machine, disk: Path, key: str) -> None:
    lay(disk, {"epilog.sh": "true\n", "user/epilog.sh": "true\n", f"user/features/{key}": "12\n"})
    boot(machine, disk)
    assert features(machine).get(key) != "12"
    assert key in messages(machine)


def test_a_users_settings_say_no_features(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": "true\n", "user/epilog.sh": "true\n"})
    lay(disk, {"user/user.yaml": "features: {machine: {total_cpu: 777}}\nlifetime: {grace_s: 1}\n"})
    boot(machine, disk)
    assert features(machine)["machine/total_cpu"] != "777"
    assert features(machine)["machine/grace_secs"] == "600"
    assert "features.machine.total_cpu" in messages(machine)


def test_a_users_end_makes_no_life_longer(machine: Machine, disk: Path) -> None:
    now = int(time.time())
    lay(disk, {"epilog.sh": "true\n", "features/machine/shutdowntime": f"{now + 50_000}\n"})
    lay(disk, {"user/epilog.sh": "true\n", "user/features/machine/shutdowntime": f"{now + 90_000}\n"})
    lay(disk, {"user/features/job/wall_limit_secs": "99999999\n"})
    boot(machine, disk)
    assert machine.facts("remaining")["shutdown_epoch_s"] == now + 50_000


def finished(guest: Guest, middle: str, after: str) -> str:
    for name in ("usr/bin/systemctl", "usr/sbin/shutdown", "usr/sbin/poweroff"):
        guest.put(name, "#!/bin/sh\ntrue\n", 0o755)
    done = guest.shell("sh", "-c", _LIVE % (middle, after), "sh", shlex.join(AGENT))
    return done.out


def test_a_user_can_not_have_root_write_outside_by_naming_a_folder_for_job_outputs(guest: Guest) -> None:
    guest.put(
        "etc/contextagent/policy.yaml", "watch: {http: 'off'}\ndisk: {flat_owner: user}\npilot: {from_user: yes}\n"
    )
    guest.put("etc/target/keep", "")
    guest.put("disk/context.sh", "JOBOUTPUTS='/etc/target'\nVMID=1\n")
    guest.put("disk/epilog.sh", "true\n")
    said = "pilot: {framework: command, command: [/bin/sh, -c, 'echo x > job; exit 0'], outputs: [job]}\n"
    guest.put("disk/user.yaml", said)
    assert finished(guest, "", "ls -A /etc/target; stat -c %u /etc/target").split() == ["keep", "0"]


@pytest.mark.parametrize("name", ["shutdown_message", "receipt.json", "vm-heartbeat"])
def test_a_link_in_the_job_outputs_is_not_followed(guest: Guest, name: str) -> None:
    policy_text = "watch: {http: 'off'}\npilot: {heartbeat: {file: vm-heartbeat, seconds: 1}}\n"
    guest.put("etc/contextagent/policy.yaml", policy_text)
    guest.put("etc/precious", "as it was\n")
    guest.put("disk/site/epilog.sh", f"rm -f /etc/joboutputs/{name}; ln -s /etc/precious /etc/joboutputs/{name}\n")
    middle = f"as ln -sf /etc/precious /etc/joboutputs/{name}; sleep 1.5; $agent finish 300 x >/dev/null"
    assert finished(guest, middle, "cat /etc/precious; stat -c %u /etc/precious").split() == ["as", "it", "was", "0"]


def test_what_else_the_account_drops_ends_nothing_and_blocks_nobody(guest: Guest) -> None:
    guest.put("etc/contextagent/policy.yaml", "watch: {http: 'off'}\n")
    guest.put("disk/site/epilog.sh", "true\n")
    middle = r"""
    as sh -c 'cd /run/contextagent/finish
        mkfifo fifo; ln -s /etc/shadow link; mkdir folder; : >empty; head -c 100000 /dev/zero >large
        echo "{\"ask\": \"finish\", \"code\": 500, \"text\": \"a lie\"}" >a.json
        echo "{\"ask\": \"drain\"}" >b.json
        echo "{\"ask\": \"finish\", \"code\": \"100\", \"text\": 7}" >c.json
        echo "{\"ask\": \"finish\"" >d.json
        for i in $(seq 200); do echo x >many$i; done'
    sleep 0.5
    test -e /run/contextagent/ended.json && echo ended
    $agent remaining >/dev/null 2>&1; echo $?
    as $agent finish 300 "no more work" >/dev/null; echo $?
    """
    found = finished(guest, middle, "cat /etc/joboutputs/shutdown_message").split("\n")
    assert found == ["3", "0", "300 no more work"], found


def test_no_file_that_others_may_read_has_a_token(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    said = "VMID=42\nREPORT_READY=YES\nONEGATE_ENDPOINT='http://127.0.0.1:9'\nONEGATE_TOKEN='opens-nothing'\n"
    lay(disk, {"epilog.sh": "true\n", "context.sh": said})
    boot(machine, disk)
    with Living(machine) as living:
        machine.run("finish", "300", "no more work")
        until((machine.root / MESSAGE).exists)
        assert "opens-nothing" not in living.log()
    for path in machine.root.rglob("*"):
        if (
            path.is_file()
            and path.stat().st_mode & 0o004
            and not any(p.stat().st_mode & 0o001 == 0 for p in path.parents if machine.root in p.parents)
        ):
            assert b"opens-nothing" not in path.read_bytes(), path
