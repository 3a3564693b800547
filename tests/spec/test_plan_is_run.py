"""`plan` changes nothing, and says what `run` then does."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.machine import Machine
from tests.spec.scenes import KEY, boot, lay, reports, says

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("prolog.sh", "epilog.sh", "init.sh", "pre-network.d/10-a", "pre-network.d/B", "post-network.d/9", "stop.d/x")
ENDS = ("true", "exit 1", "exit 100", "kill -9 $$")
SCRIPTS = st.dictionaries(
    st.tuples(st.sampled_from(("", "site/", "user/")), st.sampled_from(NAMES)).map("".join),
    st.sampled_from(ENDS),
    max_size=8,
)
EXTRAS: dict[str, dict[str, str]] = {
    "context": {
        "context.sh": f"VMID=1\nSTART_SCRIPT='#!/bin/sh'\nSSH_KEY='{KEY}'\nINIT_SCRIPTS=extra\n",
        "extra": "true",
    },
    "cloud": {"user-data": "#cloud-config\nbootcmd: [[true]]\nruncmd: ['true']\n", "meta-data": ""},
    "script": {"user-data": "#!/bin/sh\ntrue\n", "meta-data": ""},
    "broken": {"user/user.yaml": "", "user/user.json": ""},
    "files": {"files/etc/x": "x", "user/files/var/lib/contextuser/x": "x"},
    "once": {"site.yaml": "scripts: {site/pre-network/prolog.sh: {frequency: once}}\n"},
}
CLOUD_INIT = "usr/bin/cloud-init"


def tree(root: Path) -> str:
    """Return a digest over everything below a folder: names, bytes, modes, owners and times."""
    digest = hashlib.sha256()
    for path in sorted((root, *root.rglob("*"))):
        found = path.lstat()
        digest.update(f"{path}\0{found.st_mode} {found.st_uid} {found.st_mtime_ns} {found.st_ctime_ns}".encode())
        digest.update(os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def did(machine: Machine) -> Iterator[tuple[str, str | None]]:
    """Yield (id, why skipped) of the last run's scripts in order."""
    for script_id, report in reports(machine).items():
        yield script_id, report["reason"] if report["state"] in ("skipped", "interrupted") else None


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(SCRIPTS, st.sets(st.sampled_from(sorted(EXTRAS))), st.booleans(), st.booleans())
def test_a_plan_is_what_the_run_after_it_does_also_at_the_next_boot(
    scripts: dict[str, str],
    extras: set[str],
    is_cloud_init: bool,  # noqa: FBT001  # Hypothesis gives them by place
    is_changed: bool,  # noqa: FBT001  # see above
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        machine, disk = Machine(Path(folder, "machine")), Path(folder, "disk")
        disk.mkdir()
        if is_cloud_init:
            machine.put(CLOUD_INIT, "")
        lay(disk, {name: f"#!/bin/sh\n{end}\n" for name, end in scripts.items()})
        for extra in sorted(extras):
            lay(disk, EXTRAS[extra])
        for _ in range(2):
            before = tree(Path(folder))
            steps = machine.facts("plan", "--disk", str(disk))["steps"]
            assert tree(Path(folder)) == before
            boot(machine, disk)
            planned = [
                (step["id"], step["skip"]) for step in steps if step["kind"] == "script" and step["phase"] != "stop"
            ]
            assert list(did(machine)) == planned
            machine.reboot()
            if is_changed and scripts:
                name = min(scripts)
                lay(disk, {name: "#!/bin/sh\nexit 0 # changed\n"})


def test_plan_changes_nothing_at_all_on_an_untouched_machine(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "epilog.sh", "user/epilog.sh"))
    lay(disk, {"user-data": "#cloud-config\nruncmd: [a]\n", "meta-data": ""})
    machine.put("etc/contextagent/policy.yaml", "phase_budget_s: 5\n")
    before = tree(machine.root)
    for words in ((), ("pre-network",), ("stop",), ("--force",), ("--format", "json")):
        assert machine.run("plan", *words, "--disk", str(disk)).code == 0
    assert tree(machine.root) == before


def test_plan_between_the_phases_is_the_rest_of_the_boot(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "prolog.sh", "epilog.sh", "stop.d/x"))
    boot(machine, disk, "pre-network")
    assert [step["id"] for step in machine.facts("plan", "post-network")["steps"]] == ["site/post-network/epilog.sh"]
    machine.run("run", "post-network")
    assert [step["id"] for step in machine.facts("plan", "stop")["steps"]] == [
        "site/stop/stop.d/x", "site/stop/epilog.sh", "site/stop/prolog.sh",
    ]  # fmt: skip


def test_a_script_is_digested_as_it_is(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": "true\n"})
    step = machine.facts("plan", "--disk", str(disk))["steps"][0]
    assert step["sha512"] == hashlib.sha512(b"true\n").hexdigest()
    boot(machine, disk)
    assert reports(machine)["site/post-network/epilog.sh"]["sha512"] == step["sha512"]
    shutil.rmtree(disk)


def test_plan_names_a_broken_source_and_wrong_settings_on_stderr(machine: Machine, disk: Path) -> None:
    lay(
        disk, {"site/site.yaml": "", "site/site.json": "", "user/user.yaml": "no: [", **says(machine, "user/epilog.sh")}
    )
    done = machine.run("plan", "--disk", str(disk))
    assert done.code == 0
    assert "site.json" in done.err
    assert "user.yaml" in done.err
    assert "epilog.sh" in done.out
