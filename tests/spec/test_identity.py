"""Which instance this is, and when the last good context serves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, make_iso, run
from tests.spec.scenes import boot, effects, lay, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine


def instance(machine: Machine) -> str:
    return str(machine.status()["instance_id"])


@pytest.mark.parametrize(
    ("first", "second", "is_new"),
    [
        ("VMID=7\n", "VMID=8\n", True),
        ("VMID=7\n", "VMID=7\nOTHER=1\n", False),
        ("VMID=7\n", "OTHER=1\n", False),
        ("OTHER=1\n", "VMID=7\n", False),
    ],
)
def test_a_new_instance_needs_the_same_kind_of_id_with_another_value(
    machine: Machine, disk: Path, *, first: str, second: str, is_new: bool
) -> None:
    lay(disk, says(machine, "user/epilog.sh"))
    seen = []
    for text in (first, second):
        lay(disk, {"context.sh": text})
        boot(machine, disk)
        seen.append(instance(machine))
        machine.reboot()
    assert (seen[0] != seen[1]) is is_new
    assert len(effects(machine)) == 1 + is_new


def test_another_dmi_uuid_is_a_new_instance_and_a_missing_one_is_not(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "user/epilog.sh"))
    boot(machine, disk)
    first = instance(machine)
    (machine.root / "sys/class/dmi/id/product_uuid").unlink()
    machine.reboot()
    boot(machine, disk)
    assert instance(machine) == first
    machine.put("sys/class/dmi/id/product_uuid", "11111111-2222-4333-8444-555555555555\n")
    machine.reboot()
    boot(machine, disk)
    assert instance(machine) != first


@pytest.mark.parametrize("kind", ["openstack", "nocloud"])
def test_a_sources_own_id_makes_the_instance(machine: Machine, disk: Path, kind: str) -> None:
    for number in ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"):
        if kind == "openstack":
            lay(disk, {"openstack/latest/meta_data.json": json.dumps({"uuid": number})})
            lay(disk, {"openstack/latest/user_data": says(machine, "x")["x"].replace("echo", "#!/bin/sh\necho", 1)})
        else:
            lay(disk, {"meta-data": f"instance-id: {number}\n", "user-data": "#!/bin/sh\n" + says(machine, "x")["x"]})
        boot(machine, disk)
        assert number in json.dumps(json.loads(machine.run("query", "context.ids", "--format", "json").out))
        machine.reboot()
    assert len(effects(machine)) == 2


@pytest.mark.parametrize("first", [1, 4])
def test_a_disk_with_read_errors_leaves_the_last_good_context_in_use_and_says_cached(
    machine: Machine, disk: Path, tmp_path: Path, first: int
) -> None:
    lay(disk, says(machine, "site/epilog.sh", "user/epilog.sh"))
    image = make_iso(disk, tmp_path / "disk.iso")
    boot(machine, image)
    machine.reboot()
    strace = ("strace", "-f", "-o", "/dev/null", "-P", str(image), "-e", f"inject=read,pread64:error=EIO:when={first}+")
    done = run((*strace, *AGENT, "--root", str(machine.root), "run", "--metadata", "none", "--disk", str(image)))
    status = machine.status()
    assert {each["verdict"] for each in status["verdicts"]} == {"broken"}
    assert effects(machine) == ["user/epilog.sh start", "site/epilog.sh start", "site/epilog.sh start"], done.err
    assert status["sources"] == {"site": "cached:disk:hepix", "user": "cached:disk:hepix"}
    assert "cached:disk:hepix" in [record["source"] for record in machine.trace() if record["ev"] == "source"]
    script = machine.root / "var/lib/contextagent/instances" / instance(machine) / "scripts/site/post-network/epilog.sh"
    script.write_text("echo changed >> effects\n")
    machine.reboot()
    run((*strace, *AGENT, "--root", str(machine.root), "run", "--metadata", "none", "--disk", str(image)))
    assert machine.status()["sources"]["site"] is None, "what is not what was digested does not serve"
    assert len(effects(machine)) == 3


@pytest.mark.parametrize("spoilt", [{"site/site.yaml": "", "site/site.json": ""}, {"context.sh": "A=1;touch x\n"}])
def test_a_disk_whose_content_is_refused_never_falls_back_to_the_last_good_one(
    machine: Machine, disk: Path, spoilt: dict[str, str]
) -> None:
    lay(disk, says(machine, "site/epilog.sh"))
    boot(machine, disk)
    lay(disk, spoilt)
    machine.reboot()
    assert boot(machine, disk).code == 1
    assert len(effects(machine)) == 1
    assert machine.status()["sources"]["site"] is None


def test_a_disk_that_was_taken_away_leaves_no_context_in_use(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "site/epilog.sh"))
    boot(machine, disk)
    first = instance(machine)
    machine.reboot()
    done = machine.run("run", "--disk", "none")
    assert (done.code, machine.status()["result"], len(effects(machine))) == (0, "none", 1)
    assert instance(machine) == first
