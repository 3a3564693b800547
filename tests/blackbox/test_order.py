"""User before site, and the site's scripts run whatever the user's did: proved from the trace and from the effect.

The agent acts as root on a throw-away view of this machine, so the user's scripts are truly confined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT

if TYPE_CHECKING:
    from tests.machine import Guest, Machine

SITE = [
    "site/pre-network/prolog.sh",
    "site/pre-network/pre-network.d/10-b",
    "site/pre-network/pre-network.d/9-z",
    "site/pre-network/pre-network.d/B",
    "site/pre-network/pre-network.d/a",
    "site/post-network/epilog.sh",
    "site/post-network/post-network.d/10-last",
]
USER = ["user/pre-network/prolog.sh", "user/pre-network/pre-network.d/50-more", "user/post-network/epilog.sh"]
LATER = {"pre-network": 0, "post-network": 1}

ATTACKS = {
    "fails": "exit 7",
    "hangs": "while :; do sleep 100; done",
    "stops itself": "kill -STOP $$",
    "kills all it can": "kill -9 -1; kill -9 $PPID; kill -STOP $PPID; kill -9 1",
    "forks without end": "bomb() { bomb | bomb & }; bomb; sleep 100",
    "leaves daemons": "(setsid sh -c 'while :; do echo alive; sleep 1; done' &) ; setsid sleep 1000 &",
    "deletes and rewrites itself": 'rm -f "$0"; echo "echo trap >> /effects" > "$0"; rm -rf "${0%/*}" ./*; exit 1',
    "closes everything": "exec <&- >&- 2>&-; exit 0",
    "attacks state and staging": """
for place in /var/lib/contextagent /run/contextagent /var/log/contextagent /etc/contextagent /var/lib/hepix; do
    rm -rf $place $place/* ; echo trap > $place/trap; mv $place $place.gone; chmod -R 0 $place; ls -R $place
done
cat /var/lib/contextagent/instances/*/state.json /var/log/contextagent/* && echo trap >> /effects
for name in epilog.sh prolog.sh site.yaml pre-network.d; do
    ln -s /etc/shadow $name; echo 'echo trap >> /effects' > $name
done
cd ..; rm -rf context; mkdir context; ln -s /tmp context
""",
    "plants traps": """
for name in ls cat sh python3 true dirname tee; do
    for place in . $HOME /tmp /usr/local/bin /usr/bin; do
        printf '#!/bin/sh\\necho trap >> /effects\\n' > $place/$name; chmod 755 $place/$name
    done
done
for name in .profile .bashrc .bash_profile .zshrc; do echo 'echo trap >> /effects' > $HOME/$name; done
for place in . $HOME /tmp; do
    for name in json sitecustomize; do echo 'open("/effects", "a").write("trap\\n")' > $place/$name.py; done
done
echo /tmp/trap.so > /etc/ld.so.preload; echo 'echo trap >> /effects' > /etc/profile.d/trap.sh
export PATH=/tmp:$PATH BASH_ENV=/tmp/ls ENV=/tmp/ls PYTHONPATH=/tmp LD_PRELOAD=/tmp/trap.so
""",
}
SITE_LOOKS = "ls / > /dev/null; cat /dev/null; sh -c true; bash -lc true; python3 -c 'import json'; "
SITE_LOOKS += "grep -l '^Uid:.990' /proc/[0-9]*/status 2>/dev/null | sed 's/.*/user process alive/' >> /effects"


def script(script_id: str, effects: str, body: str = "") -> str:
    """Return a script that says that it began, and does `body`."""
    return f"#!/bin/sh\necho {script_id} >> {effects}\n{body}\n"


def fill(machine: Machine, effects: str, *, attack: str | None = "", looks: str = "", is_site: bool = True) -> None:
    """Put a context folder at /disk of the machine: the site's scripts, and the user's with an attack in each."""
    machine.put("effects", "", 0o666)
    machine.put("disk/context.sh", "VMID=7\n")
    for script_id in SITE if is_site else ():
        machine.put(f"disk/{script_id.split('/', 2)[2]}", script(script_id, effects, looks))
    for script_id in USER if attack is not None else ():
        machine.put(f"disk/user/{script_id.split('/', 2)[2]}", script(script_id, effects, attack or ""))
        machine.put(
            "disk/user/user.yaml", "scripts:\n" + "".join(f"  {each}: {{wall_s: 2, processes: 60}}\n" for each in USER)
        )


def expected(*owners: str) -> list[str]:
    """Return the ids of the owners' scripts in the order promised."""
    chosen = [each for each in (*USER, *SITE) if each.split("/")[0] in owners]
    return sorted(chosen, key=lambda each: (LATER[each.split("/")[1]], each.startswith("site/")))


def effects(machine: Machine) -> list[str]:
    return machine.text("effects").splitlines()


def starts(machine: Machine) -> list[str]:
    return [record["id"] for record in machine.trace() if record["ev"] == "start"]


@pytest.mark.parametrize("owners", [("site",), ("user",), ("user", "site")], ids=" and ".join)
def test_scripts_run_user_first_in_each_phase_and_in_c_order(machine: Machine, owners: tuple[str, ...]) -> None:
    fill(machine, str(machine.root / "effects"), attack="" if "user" in owners else None, is_site="site" in owners)
    done = machine.run("run", "--disk", str(machine.root / "disk"))
    assert done.code == 0, done.err
    assert starts(machine) == effects(machine) == expected(*owners)


def test_at_the_next_boot_the_site_runs_again_and_the_user_does_not(machine: Machine) -> None:
    fill(machine, str(machine.root / "effects"))
    for _ in range(2):
        machine.run("run", "--disk", str(machine.root / "disk"))
        machine.reboot()
    assert starts(machine) == effects(machine) == expected("user", "site") + expected("site")


def test_a_changed_user_script_is_another_one_and_runs(machine: Machine) -> None:
    fill(machine, str(machine.root / "effects"))
    machine.run("run", "--disk", str(machine.root / "disk"))
    machine.reboot()
    machine.put("disk/user/epilog.sh", script(USER[2], str(machine.root / "effects"), ": changed"))
    machine.run("run", "--disk", str(machine.root / "disk"))
    assert effects(machine) == expected("user", "site") + [
        each for each in expected("user", "site") if each not in USER[:2]
    ]


def test_at_the_stop_the_site_comes_first(machine: Machine) -> None:
    fill(machine, str(machine.root / "effects"))
    machine.run("run", "--disk", str(machine.root / "disk"))
    before = len(effects(machine))
    machine.run("run", "stop")
    stopped = [each.split("/")[0] + "/" + each.rpartition("/")[2] for each in effects(machine)[before:]]
    assert stopped == ["site/epilog.sh", "site/prolog.sh", "user/epilog.sh", "user/prolog.sh"]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_sites_scripts_run_in_order_whatever_the_user_does(guest: Guest, attack: str) -> None:
    fill(guest, "/effects", attack=attack, looks=SITE_LOOKS)
    done = guest.run("run", "--disk", "/disk")
    began = [each for each in effects(guest) if each in SITE or each in USER]
    assert [each for each in began if each in SITE] == SITE, done.err
    assert began == [each for each in expected("user", "site") if each in began]
    assert starts(guest) == expected("user", "site")
    assert set(effects(guest)) <= {*SITE, *USER}, "a trap went off, or a user's process lived on"
    assert {each["state"] for each in guest.status()["scripts"] if each["owner"] == "site"} == {"ok"}
    assert {each["profile"] for each in guest.status()["scripts"] if each["owner"] == "user"} == {"unprivileged"}
    assert guest.run("trace", "verify").code in (0, 2)


def test_the_sites_scripts_run_and_are_traced_although_the_user_fills_the_disk(guest: Guest) -> None:
    fill(guest, "/effects", attack="for place in $HOME /tmp . /var/tmp; do cat /dev/zero > $place/full; done", looks="")
    small = "mkdir -p /kept; mount -t tmpfs -o size=12m,mode=755 small /var; mount -o remount,size=12m /tmp; "
    small += "mkdir -m 1777 /var/tmp; mkdir -p /var/lib; "
    done = guest.shell(
        "sh",
        "-c",
        f'{small} "$@"; echo $?; df /var >&2; cp -a /var/log /var/lib /kept',
        "small",
        *AGENT,
        "run",
        "--disk",
        "/disk",
    )
    assert [each for each in effects(guest) if each in SITE] == SITE, done.err
    assert {each["state"] for each in guest.status()["scripts"] if each["owner"] == "site"} == {"ok"}
