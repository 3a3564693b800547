"""Secrets that come by the service are in no file, log, argument or environment that others may read."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import (
    TOKENS,
    ec2,
    hear,
    openstack,
    policy,
    spoken,
    tgz,
    told,
)
from tests.spec.scenes import says

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.spec.service import Answer, Service

CANARY = "canary-4f1d0c9e7a"


def world(root: Path) -> list[Path]:
    """Return all files below a root that anybody may read: by their own mode and by that of each folder above."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [each for each in folders if os.stat(f"{folder}/{each}").st_mode & stat.S_IXOTH]
        found += [Path(folder, each) for each in names if os.lstat(f"{folder}/{each}").st_mode & stat.S_IROTH]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def spied(pid: int) -> str:
    """Return the command lines and environments of all processes below one."""
    told_by = ""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if f"\nPPid:\t{pid}\n" in Path(f"/proc/{name}/status").read_text():
                for what in ("cmdline", "environ"):
                    told_by += Path(f"/proc/{name}/{what}").read_bytes().decode(errors="replace") + "\n"
                told_by += spied(int(name))
        except OSError:
            continue
    return told_by


@pytest.mark.parametrize("form", ["script", "words", "cloud-config", "ini", "tar", "broken", "vac"])
def test_a_secret_in_user_data_is_in_no_file_that_others_may_read_and_in_no_log(
    machine: Machine, service: Service, form: str
) -> None:
    data: dict[str, Answer] = {
        "script": told(machine) + f"# {CANARY}\n",
        "words": f"password {CANARY}\n",
        "cloud-config": f"#cloud-config\npassword: {CANARY}\nruncmd: ['true {CANARY}']\n",
        "ini": f"[amiconfig]\nplugins=x\n[cernvm]\nuser_password={CANARY}\n",
        "tar": tgz({"epilog.sh": f"true {CANARY}\n", "secret": CANARY}),
        "broken": f"#cloud-config\na: [{CANARY}\n",
        "vac": f"##user_data_x##\n{CANARY}\n",
    }
    policy(machine)
    service.pages = ec2(data[form], bundle=tgz({**says(machine, "epilog.sh"), "secret": CANARY}))
    done = hear(machine, service)
    texts = [done.out, done.err, *(machine.run(verb).out for verb in ("status", "explain", "analyze", "receipt"))]
    texts += [machine.run("trace", "show").out, json.dumps(machine.trace())]
    texts += [machine.run("plan", "--metadata", service.url, "--disk", "none", "--format", "json").out]
    for text in texts:
        assert CANARY not in text
        assert base64.b64encode(CANARY.encode()).decode()[:12] not in text
    for path in world(machine.root):
        assert CANARY.encode() not in path.read_bytes(), path


def test_secrets_of_the_meta_data_are_kept_nowhere(machine: Machine, service: Service) -> None:
    policy(machine, dialect="openstack")
    meta = {"admin_pass": CANARY, "random_seed": CANARY, "meta": {"password": CANARY, "token": CANARY}}
    service.pages = openstack(told(machine), bundle=spoken(machine, "epilog.sh"), meta=meta)
    assert hear(machine, service).code == 0
    for path in world(machine.root):
        assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in json.dumps(machine.trace())


def test_neither_user_data_nor_a_token_is_in_a_processs_arguments_or_environment(
    machine: Machine, service: Service
) -> None:
    policy(machine, imds="v2")
    service.pages = ec2(f"#!/bin/sh\n# {CANARY}\n", bundle=tgz({"epilog.sh": f"# {CANARY}\n"}))
    service.pages[f"PUT {TOKENS}"] = CANARY
    service.look = lambda: spied(os.getpid())
    hear(machine, service)
    assert len(service.requests) == 4
    assert CANARY not in str([each.seen for each in service.requests])
    assert "contextagent" in str(service.requests[0].seen)


def test_what_is_fetched_is_private_from_its_first_byte(machine: Machine, service: Service) -> None:
    policy(machine)

    def look() -> list[str]:
        return [str(path) for path in world(machine.root) if CANARY.encode() in path.read_bytes()]

    service.look = look
    service.pages = ec2(f"#!/bin/sh\n# {CANARY}\n", bundle=[tgz({"epilog.sh": f"# {CANARY}\n"})])
    service.pages["/latest/meta-data/instance-id"] = [503, "i-1"]
    hear(machine, service)
    assert [each.seen for each in service.requests] == [[]] * 4


@pytest.mark.parametrize("voice", ["policy", "bundle", "user"])
def test_a_password_in_a_url_that_is_refused_is_not_repeated(machine: Machine, service: Service, voice: str) -> None:
    address, journal = f"http://me:{CANARY}@127.0.0.1/", f"http://me:{CANARY}@not a host/"
    policy(machine, **({"address": f'"{address}"'} if voice == "policy" else {}))
    text = f'logging: {{journal_upload: "{journal}"}}\n'
    bundle = {"epilog.sh": "true\n", "site.yaml": text if voice == "bundle" else "{}"}
    data = tgz({"epilog.sh": "true\n", "user.yaml": text}) if voice == "user" else b""
    service.pages = ec2(data, bundle=tgz(bundle))
    done = hear(machine, service)
    told_to_all = done.out + done.err + machine.run("explain").out
    status = machine.root / "run/contextagent/status.json"
    assert CANARY not in told_to_all + (status.read_text() if status.exists() else "")
