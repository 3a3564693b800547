"""The two legs of a search: a disk's part joined with the network's, and what is kept where that gives nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import AGENT, Machine
from tests.servers import HANG, Server, answer
from tests.tars import file, tgz

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUNDLE = "/context/default.tgz"
NOTE = '#!/bin/sh\necho "$CONTEXTAGENT_PHASE $CONTEXTAGENT_OWNER $VO $(cat context.sh 2>/dev/null)" >>"{}"\n'


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({}) as server:
        yield server


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "note"


@pytest.fixture
def asking(machine: Machine, server: Server) -> Machine:
    """Return a machine that asks the server, and does not wait long for anything."""
    policy = f"metadata: {{address: '{server.url}', connect_s: 1, try_s: 1, total_s: 2}}\n"
    machine.put("etc/contextagent/policy.yaml", policy)
    machine.metadata = None
    return machine


def scripts(note: Path, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, NOTE.format(note))


def serve(server: Server, path: str, members: dict[str, str]) -> None:
    data = tgz(*(file(name, text.encode()) for name, text in members.items())).getvalue()
    server.scripts[path] = answer(data)


def supplies(machine: Machine) -> dict[str, Any]:
    name = os.readlink(machine.root / "var/lib/contextagent/instance")
    return dict(json.loads(machine.text(f"var/lib/contextagent/{name}/state.json"))["state"]["supplies"])


def boot(machine: Machine, disk: Path | str = "none") -> str:
    """Boot with the two phases as two processes, and return the result."""
    for phase in ("pre-network", "post-network"):
        machine.run("run", phase, "--disk", str(disk))
    return str(machine.status()["result"])


def test_the_variables_of_a_disk_without_material_reach_the_scripts_of_the_bundle(
    asking: Machine, server: Server, disk: Path, note: Path
) -> None:
    (disk / "context.sh").write_text("VO=atlas\n")
    serve(server, BUNDLE, scripts(note, "prolog.sh", "epilog.sh"))
    assert boot(asking, disk) == "ok"
    assert note.read_text() == "pre-network site atlas VO=atlas\npost-network site atlas VO=atlas\n"
    assert asking.status()["sources"]["site"] == "metadata"
    assert [each["verdict"] for each in asking.status()["verdicts"] if each["owner"] == "site"] == ["absent", "found"]


def test_the_same_holds_at_a_reboot_while_the_service_is_down(
    asking: Machine, server: Server, disk: Path, note: Path
) -> None:
    (disk / "context.sh").write_text("VO=atlas\n")
    serve(server, BUNDLE, scripts(note, "epilog.sh"))
    boot(asking, disk)
    (disk / "context.sh").write_text("VO=lhcb\n")
    server.close()
    asking.reboot()
    assert boot(asking, disk) == "failed"  # this instance has seen a service, so it is required
    assert note.read_text().splitlines()[1] == "post-network site lhcb VO=atlas"
    assert asking.status()["sources"]["site"] == "cached:metadata"
    assert {each["state"] for each in asking.status()["scripts"]} == {"ok"}


def test_a_disk_without_material_is_all_there_is_where_the_service_has_nothing(
    asking: Machine, disk: Path, note: Path
) -> None:
    (disk / "context.sh").write_text("VO=atlas\n")
    assert boot(asking, disk) == "none"
    assert supplies(asking)["site"]["variables"] == {"VO": "atlas"}
    assert asking.text(f"{working(asking, 'site')}/context.sh") == "VO=atlas\n"
    assert not note.exists()


def working(machine: Machine, owner: str) -> str:
    """Return where an owner's working folder is parked."""
    return f"var/lib/contextagent/{os.readlink(machine.root / 'var/lib/contextagent/instance')}/context/{owner}"


def test_a_disk_that_only_directs_names_the_bundle_and_is_heard_beside_it(
    asking: Machine, server: Server, disk: Path, note: Path
) -> None:
    (disk / "site.yaml").write_text("metadata: {bundle: cern.tgz}\nsite: {profile: root}\n")
    serve(server, "/context/cern.tgz", {**scripts(note, "epilog.sh"), "site.yaml": "caps: {members: 10}\n"})
    assert boot(asking, disk) == "ok"
    assert server.paths()[0] == "/context/cern.tgz"
    assert note.exists()
    policy = asking.facts("query", "policy")
    told = {each["key"]: each for each in policy} if isinstance(policy, list) else policy
    assert json.dumps(told).count("cern.tgz") >= 1
    assert asking.facts("query", "policy.caps.members")["value"] == 10
    # and once more in this boot: the disk's word is still the same
    asking.run("run", "post-network")
    assert server.paths().count("/context/cern.tgz") == 2


def test_a_site_may_let_a_user_have_less_than_the_image_does(asking: Machine, server: Server, note: Path) -> None:
    serve(server, BUNDLE, {**scripts(note, "epilog.sh", "prolog.sh"), "site.yaml": "caps: {members: 1}\n"})
    users = tgz(*(file(name, NOTE.format(note).encode()) for name in ("prolog.sh", "epilog.sh"))).getvalue()
    server.scripts["/latest/user-data"] = answer(users)
    assert boot(asking) == "degraded"
    assert {line.split()[1] for line in note.read_text().splitlines()} == {"site"}
    assert "too-many-members" in str(asking.status()["verdicts"])


def test_a_bundle_cannot_name_another_bundle(asking: Machine, server: Server, note: Path) -> None:
    serve(
        server, BUNDLE, {**scripts(note, "epilog.sh"), "site.yaml": "metadata: {bundle: other.tgz, required: 'no'}\n"}
    )
    assert boot(asking) == "ok"
    assert [path for path in server.paths() if path.startswith("/context/")] == [BUNDLE]
    assert "'metadata.bundle'" in str(asking.status()["warnings"])


def test_scripts_on_the_disk_end_the_search_whatever_it_says_of_a_bundle(
    asking: Machine, server: Server, disk: Path, note: Path
) -> None:
    (disk / "site.yaml").write_text("metadata: {bundle: cern.tgz}\n")
    (disk / "epilog.sh").write_text(NOTE.format(note))
    serve(server, "/context/cern.tgz", scripts(note, "prolog.sh"))
    boot(asking, disk)
    assert "/context/cern.tgz" not in server.paths()
    assert asking.status()["sources"]["site"] == "disk:hepix"


def test_a_bundle_that_a_disk_asks_for_and_cannot_be_used_fails_the_boot(
    asking: Machine, server: Server, disk: Path
) -> None:
    (disk / "site.yaml").write_text("metadata: {bundle: cern.tgz}\n")
    server.scripts["/context/cern.tgz"] = answer(b"no bundle at all")
    assert boot(asking, disk) == "failed"


def test_another_id_at_the_service_makes_a_new_instance_that_keeps_what_the_disk_gave(
    asking: Machine, server: Server, disk: Path, note: Path
) -> None:
    asking.put("sys/class/dmi/id/product_uuid", "")
    for name in ("prolog.sh", "epilog.sh"):
        (disk / name).write_text(NOTE.format(note))
    server.scripts["/latest/meta-data/instance-id"] = answer("i-1")
    server.scripts["/latest/user-data"] = answer(NOTE.format(note))
    boot(asking, disk)
    first = asking.status()["instance_id"]
    asking.reboot()
    server.scripts["/latest/meta-data/instance-id"] = answer("i-2")
    note.unlink()
    assert boot(asking, disk) == "ok"
    assert asking.status()["instance_id"] != first
    assert [line.split()[:2] for line in note.read_text().splitlines()] == [
        ["pre-network", "site"], ["post-network", "user"], ["post-network", "site"],
    ]  # fmt: skip
    asking.reboot()
    note.unlink()
    assert boot(asking, disk) == "ok"
    assert [line.split()[1] for line in note.read_text().splitlines()] == ["site", "site"]  # the user's once is done


def test_an_agent_that_is_killed_while_it_fetches_fetches_again(asking: Machine, server: Server, note: Path) -> None:
    server.scripts[BUNDLE] = [HANG]
    asking.put(
        "etc/contextagent/policy.yaml", asking.text("etc/contextagent/policy.yaml").replace("try_s: 1", "try_s: 9")
    )
    asking.run("run", "pre-network")
    argv = [*AGENT, "--root", str(asking.root), "run", "post-network"]
    agent = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while BUNDLE not in server.paths():
        assert agent.poll() is None
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    serve(server, BUNDLE, scripts(note, "prolog.sh", "epilog.sh"))
    asking.run("run", "post-network", "--resume")
    assert [line.split()[0] for line in note.read_text().splitlines()] == ["pre-network", "post-network"]
    left = [path.name for path in (asking.root / "var/lib/contextagent").rglob(".new-*")]
    assert not left


def test_an_agent_that_is_killed_in_a_late_script_goes_on_without_fetching_again(
    asking: Machine, server: Server, note: Path
) -> None:
    killing = f"#!/bin/sh\necho killed >>{note}\nread -r _ _ _ agent _ </proc/$PPID/stat\nkill -9 $agent $PPID\n"
    serve(server, BUNDLE, {"prolog.sh": killing, **scripts(note, "epilog.sh")})
    asking.run("run", "pre-network")
    assert asking.run("run", "post-network").code == -9
    asked = len(server.requests)
    asking.run("run", "post-network", "--resume")
    assert [line.split()[0] for line in note.read_text().splitlines()] == ["killed", "post-network"]
    assert len(server.requests) == asked
    late = {each["name"]: (each["state"], each["late"]) for each in asking.status()["scripts"]}
    assert late == {"prolog.sh": ("interrupted", True), "epilog.sh": ("ok", False)}


def test_a_plan_asks_the_service_and_changes_nothing(asking: Machine, server: Server, note: Path) -> None:
    serve(server, BUNDLE, scripts(note, "prolog.sh", "epilog.sh"))
    before = sorted(path for path in asking.root.rglob("*"))
    steps = asking.facts("plan")["steps"]
    assert [(step["id"], step["late"]) for step in steps if step["phase"] != "stop"] == [
        ("site/pre-network/prolog.sh", True),
        ("site/post-network/epilog.sh", False),
    ]
    kept = {path for path in asking.root.rglob("*") if "policy-" not in path.name and path.name != "contextagent"}
    assert kept <= {*before}
    assert asking.facts("plan", "pre-network")["steps"] == []


def test_metadata_before_the_disk_is_asked_first_and_makes_the_disk_wait(
    asking: Machine, server: Server, disk: Path, note: Path
) -> None:
    policy = asking.text("etc/contextagent/policy.yaml")
    asking.put("etc/contextagent/policy.yaml", policy + "sources: [metadata, disk]\n")
    for path in ("prolog.sh", "user/prolog.sh"):
        (disk / path).parent.mkdir(exist_ok=True)
        (disk / path).write_text(NOTE.format(note))
    serve(server, BUNDLE, scripts(note, "epilog.sh"))
    asking.run("run", "pre-network", "--disk", str(disk))
    assert not note.exists()
    asking.run("run", "post-network", "--disk", str(disk))
    assert asking.status()["sources"] == {"site": "metadata", "user": "disk:hepix"}
    assert [line.split()[:2] for line in note.read_text().splitlines()] == [
        ["pre-network", "user"], ["post-network", "site"],
    ]  # fmt: skip


@pytest.mark.parametrize("vendor", ["Amazon EC2", "OpenStack Foundation", "Apache Software Foundation CloudStack"])
def test_a_machine_that_says_it_is_a_clouds_requires_the_service(asking: Machine, server: Server, vendor: str) -> None:
    server.close()
    assert boot(asking) == "none"
    asking.reboot()
    asking.put("sys/class/dmi/id/sys_vendor", f"{vendor}\n")
    assert boot(asking) == "failed"
    assert {(each["source"], each["verdict"]) for each in asking.status()["verdicts"]} == {("metadata", "unreachable")}
