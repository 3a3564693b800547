"""A secret in every input is nowhere but where it is meant to be: scripts, outputs and state, for root alone."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.canaries import CANARY, POLICY, bundle, disk, forms, has_canary, holders, shouts, told
from tests.machine import AGENT
from tests.spec.clouds import ec2, openstack, policy
from tests.spec.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Guest, Machine

LISTEN = """
import socket
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
with open("/run/heard", "wb", buffering=0) as heard:
    while True:
        heard.write(log.recv(1 << 16) + b"\\n")
"""
INSTANCE = r"var/lib/contextagent/instances/[^/]+"
MEANT = re.compile(
    rf"{INSTANCE}/(scripts|context|output)/.*|{INSTANCE}/state\.json|var/lib/hepix/context/.*|etc/contextagent/policy.*"
    r"|var/lib/contextagent/policy-\w+\.json|var/lib/amiconfig/.*"
    r"|etc/(machine|job)features/.*|run/contextagent/live\.json"
)
"""Staged and unpacked contexts, outputs, and the agent's memory of what its scripts are given; the policy itself; and
what is published because somebody wanted it published.
"""
PUBLIC = ("etc/contextagent/policy.yaml", "etc/machinefeatures/", "etc/jobfeatures/", "run/contextagent/live.json")


def look(machine: Machine) -> None:
    """Hold the whole root, and all that is told, to where the canary may be."""
    found = dict(holders(machine.root))
    assert found, "it was brought"
    assert [path for path in found if not MEANT.fullmatch(path)] == []
    assert {path: oct(rights) for path, rights in found.items() if rights and not path.startswith(PUBLIC)} == {}
    assert [command for command, text in told(machine).items() if has_canary(text.encode())] == []


def test_the_search_finds_every_form() -> None:
    assert len(set(forms())) > 6
    assert all(has_canary(b"x" * lead + form) for lead in range(3) for form in forms())
    assert has_canary(bundle())
    assert not has_canary(b"canary")


def test_a_secret_on_a_disk_is_nowhere_but_in_its_scripts_and_their_outputs(machine: Machine, tmp_path: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", POLICY)
    medium = disk(tmp_path / "disk")
    said = [machine.run("run", "--disk", str(medium)), machine.run("run", "stop", "--disk", str(medium))]
    said.append(machine.run("run", "--resume", "--disk", str(medium)))
    assert not any(has_canary(text.encode()) for done in said for text in (done.out, done.err))
    outputs = [path for path, _ in holders(machine.root) if "/output/" in path]
    assert len(outputs) >= 4, "the scripts did run and print it"
    look(machine)


def test_a_secret_of_the_scripts_environment_is_masked_in_the_copies_of_their_output_in_syslog(
    guest: Guest, tmp_path: Path
) -> None:
    medium = disk(tmp_path / "disk")
    subprocess.run(["cp", "-a", str(medium), str(guest.root / "handed")], check=True)
    guest.put("listen", LISTEN)
    agent = " ".join((*AGENT, "run", "--disk", "/handed", "--metadata", "none"))
    done = guest.shell("sh", "-c", f"python3 /listen & until [ -S /dev/log ]; do :; done; {agent}; kill $!")
    heard = (guest.root / "run/heard").read_bytes().splitlines()
    assert any(b"10-fails: fails" in line for line in heard), done
    assert any(b"[masked]" in line for line in heard)
    assert [line for line in heard if has_canary(line)] == []
    assert not has_canary((done.out + done.err).encode())


@pytest.mark.parametrize("dialect", ["ec2", "openstack"])
def test_a_secret_from_a_service_is_nowhere_but_in_its_scripts_and_their_outputs(
    machine: Machine, dialect: str
) -> None:
    policy(machine, POLICY, dialect=dialect)
    meta = {"admin_pass": CANARY, "random_seed": CANARY, "meta": {"x": CANARY}, "public_keys": {CANARY: CANARY}}
    pages = {
        "ec2": ec2(shouts("data"), bundle=bundle()),
        "openstack": openstack(shouts("data"), bundle=bundle(), meta=meta),
    }
    with Service(pages[dialect]) as service:
        done = machine.run("run", "--disk", "none", "--metadata", service.url)
    assert not has_canary((done.out + done.err).encode())
    look(machine)


@pytest.mark.parametrize(
    "settings",
    [
        *(f"user: {{account: '{CANARY}'}}", f"caps: {{members: '{CANARY}'}}", f"preset: '{CANARY}'"),
        *(f"logging: {{collectors: ['{CANARY}']}}", f"logging: '{CANARY}'", f"features: ['{CANARY}']"),
        *(f"disk: {{site_devices: ['{CANARY}']}}", f"metadata: {{address: '{CANARY}'}}", f"a: [{CANARY}", CANARY),
        *(f"a: &x '{CANARY}'", f"scripts: {{'{CANARY}': 1}}", f"lifetime: {{max_s: '{CANARY}'}}\na: 1\na: 2"),
    ],
)
def test_a_secret_in_settings_that_are_refused_is_not_repeated(machine: Machine, tmp_path: Path, settings: str) -> None:
    medium = disk(tmp_path / "disk")
    (medium / "site/site.yaml").write_text(settings)
    (medium / "user/user.yaml").write_text(settings)
    done = machine.run("run", "--disk", str(medium))
    assert not has_canary((done.out + done.err).encode()), done.err
    look(machine)


@pytest.mark.parametrize("damage", ["state", "status", "trace"])
def test_a_secret_stays_where_it_is_on_a_machine_whose_files_are_damaged(
    machine: Machine, tmp_path: Path, damage: str
) -> None:
    medium = disk(tmp_path / "disk")
    machine.run("run", "--disk", str(medium))
    pattern = {"state": "var/lib/contextagent/instances/*/state.json", "status": "run/contextagent/status.json"}
    (path,) = machine.root.glob(pattern.get(damage, "var/log/contextagent/trace-*"))
    path.write_bytes(path.read_bytes()[:-20])
    done = machine.run("run", "--disk", str(medium))
    assert not has_canary((done.out + done.err).encode())
    look(machine)
