"""The pilot's account and rights, and what a user who brings the pilot can't have root do."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT

if TYPE_CHECKING:
    from tests.machine import Done, Guest

_LIVE = """
agent="$1"; $2
$agent run --disk /disk --metadata none >/var/log/run.log 2>&1
$agent watch 2>/var/log/watch.log & watch=$!
for i in $(seq 400); do $agent pilot status 2>/dev/null | grep -q 'ended\\|refused' && break; sleep 0.05; done
$agent pilot status | grep -q refused || for i in $(seq 99); do
    test -e /etc/joboutputs/shutdown_message && break; sleep 0.05
done
$agent status --format json >/var/log/status.json
kill $watch; wait $watch
$3
cat /var/log/watch.log >&2
"""
SAYS = """
id -u; id -G; pwd; stat -c '%a %U' . /etc/joboutputs; grep NoNewPrivs /proc/self/status; echo $HOME $MACHINEFEATURES
"""


def live(guest: Guest, *, before: str = ":", after: str = ":") -> Done:
    """Boot a view of the whole machine, have its watch run until the pilot has ended, and look at what came of it."""
    for name in ("usr/bin/systemctl", "usr/sbin/shutdown", "usr/sbin/poweroff"):
        guest.put(name, "#!/bin/sh\ntrue\n", 0o755)
    return guest.shell("sh", "-c", _LIVE.replace("$3", after).replace("$2", before), "sh", shlex.join(AGENT))


def policy(guest: Guest, text: str = "") -> None:
    guest.put("etc/contextagent/policy.yaml", f"watch: {{http: 'off'}}\n{text}")


def test_the_pilot_is_the_users_account_in_a_folder_of_its_own_and_may_use_sudo(guest: Guest) -> None:
    policy(guest)
    guest.put("disk/site/epilog.sh", "true\n")
    settings = "pilot:\n  framework: command\n  command: exec >said; . ./look.sh\n  outputs: [said]\n"
    guest.put("disk/site/site.yaml", f"{settings}  files:\n    look.sh: |\n      {SAYS.strip()}\n")
    done = live(guest, after="cat /etc/joboutputs/said")
    lines = done.out.splitlines()
    assert lines[:2] == ["990", "990"], done
    assert lines[3] == "700 contextuser"
    assert lines[4] == "755 contextuser"
    assert lines[5].split()[1] == "0", "no_new_privs would keep sudo, apptainer and gLExec from working"
    home, features = lines[6].split()
    assert lines[2].startswith(home)
    assert features == "/etc/machinefeatures"


@pytest.mark.parametrize("user", ["root", "daemon"])
def test_a_user_who_brings_the_pilot_can_not_have_it_run_as_another(guest: Guest, user: str) -> None:
    policy(guest, "pilot: {from_user: yes}\n")
    guest.put("disk/user/post-network.d/10", "true\n")
    guest.put(
        "disk/user/user.yaml",
        f"pilot: {{framework: command, user: {user}, command: [/bin/sh, -c, 'id -u > /tmp/who; exit 0']}}\n",
    )
    done = live(guest, after="cat /tmp/who; echo end")
    assert set(done.out.split()) <= {"990", "end"}, done


PLACES = ("/etc", "/etc/cron.d", "/root", "/var/lib/contextagent", "/usr/local/sbin", "/tmp/link")


@pytest.mark.parametrize("place", PLACES)
def test_a_user_who_brings_the_pilot_can_not_have_a_folder_of_roots(guest: Guest, place: str) -> None:
    policy(guest, "pilot: {from_user: yes}\n")
    guest.put("disk/user/post-network.d/10", "ln -s /etc /tmp/link\n")
    guest.put(
        "disk/user/user.yaml",
        f"pilot: {{framework: command, workdir: {place}, files: {{planted: x}}, command: [/bin/sh, -c, 'exit 0']}}\n",
    )
    looks = f"stat -L -c '%a %u' {place}"
    done = live(
        guest, before=f"mkdir -p /etc/cron.d /usr/local/sbin; {looks.replace('/tmp/link', '/etc')}", after=looks
    )
    found = done.out.splitlines()
    if place == "/var/lib/contextagent":
        assert found[-1] == "700 0", done
    else:
        assert found[0] == found[-1], done
    assert not any(path.is_file() for path in guest.root.rglob("planted"))


@pytest.mark.parametrize("key", ["outputs", "empty_file", "credential"])
def test_a_user_who_brings_the_pilot_can_not_have_root_read_a_file(guest: Guest, key: str) -> None:
    policy(guest, "pilot: {from_user: yes}\n")
    guest.put("etc/secret", "root's own words\n", 0o600)
    more = {
        "outputs": "outputs: [/etc/secret, link]",
        "empty_file": "result: {empty_file: /etc/secret}, outputs: [link]",
        "credential": "credential: {kind: other, path: /etc/secret, env: CREDENTIAL}, outputs: [took]",
    }[key]
    said = 'ln -s /etc/secret link; cat \\"$CREDENTIAL\\" > took; exit 0'
    guest.put("disk/user/post-network.d/10", "true\n")
    guest.put("disk/user/user.yaml", f'pilot: {{framework: command, command: [/bin/sh, -c, "{said}"], {more}}}\n')
    done = live(guest, after="cat /etc/joboutputs/*")
    assert "root's own words" not in done.out, done


def test_a_user_can_not_bring_a_pilot_in_the_place_of_the_sites(guest: Guest) -> None:
    policy(guest, "pilot: {from_user: yes}\n")
    guest.put("disk/site/epilog.sh", "true\n")
    guest.put(
        "disk/site/site.yaml", "pilot: {framework: command, command: [/bin/sh, -c, 'echo site > /tmp/who; exit 0']}\n"
    )
    guest.put("disk/user/post-network.d/10", "true\n")
    guest.put(
        "disk/user/user.yaml", "pilot: {framework: command, command: [/bin/sh, -c, 'echo user > /tmp/who; exit 0']}\n"
    )
    assert live(guest, after="cat /tmp/who").out.split() == ["site"]


def test_a_credential_of_roots_comes_to_the_sites_pilot_as_a_file_of_its_own(guest: Guest) -> None:
    policy(guest)
    guest.put("etc/token", "opens-nothing\n", 0o600)
    guest.put("disk/site/epilog.sh", "true\n")
    said = "stat -c '%a %U' $CREDENTIAL > took; cat $CREDENTIAL >> took; exit 0"
    more = "credential: {kind: other, path: /etc/token, env: CREDENTIAL}, outputs: [took]"
    guest.put("disk/site/site.yaml", f'pilot: {{framework: command, command: [/bin/sh, -c, "{said}"], {more}}}\n')
    done = live(guest, after="cat /etc/joboutputs/took; grep -r opens-nothing /var/log /run | head -3")
    assert done.out.splitlines() == ["600 contextuser", "opens-nothing"], done
