"""Large bundles from the metadata service, through the real program: streamed, whole, and in little memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.large import MIB, POLICY, make_large_bundle
from tests.machine import AGENT, Machine
from tests.servers import Server, answer, head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SCRIPTS = {
    "prolog.sh": "#!/bin/sh\nexit 0\n",
    # whoever changes what is in the working folder has not changed what the agent keeps
    "epilog.sh": "#!/bin/sh\nset -e\n[ $1 = start ]\nsha512sum --quiet -c sums\necho x >>files/opt/site/large\n",
}
LONGEST_S = 600
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Run a program from a small process: a child's peak is never less than that of whom it was forked from."""


def sent(path: Path) -> Iterator[bytes]:
    """Yield an answer with a file, piece by piece."""
    with path.open("rb") as file:
        yield head(200, f"Content-Length: {os.fstat(file.fileno()).st_size}")
        while data := file.read(MIB):
            yield data


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "machine")
    made.put("etc/contextagent/policy.yaml", POLICY)
    return made


def measured(machine: Machine, scripts: Mapping[str, Any]) -> tuple[str, int]:
    """Run with a service that plays these; return what the agent said of a good run, and KiB of the largest process."""
    with Server(scripts) as server:
        words = ["run", "--root", str(machine.root), "--disk", "none", "--metadata", server.url]
        argv = [sys.executable, "-I", "-S", "-c", MEASURE, *AGENT, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LONGEST_S, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    said, _, peak = done.stdout.partition("peak ")
    return said, int(peak)


def placed(machine: Machine, name: str) -> list[int]:
    """Return the sizes of the agent's own copies of a file, after a look that nothing is there twice or half."""
    state = machine.root / "var/lib/contextagent"
    passing = [path for path in state.rglob("*") if ".new-" in path.name or path.name.startswith("part-")]
    assert passing == []
    return [path.stat().st_size for path in state.rglob(name) if "scripts" in path.parts]


def test_a_gibibyte_from_the_service_is_run_in_64_mib(machine: Machine, tmp_path: Path) -> None:
    bundle = tmp_path / "default.tgz"
    make_large_bundle(bundle, SCRIPTS, companion_bytes=960 * MIB, placed_bytes=64 * MIB)
    said, peak_kib = measured(machine, {"/context/default.tgz": lambda _: sent(bundle)})
    assert said.startswith("contextagent: ok (0 user, 2 site scripts")
    assert peak_kib <= 64 << 10
    assert placed(machine, "large") == [64 * MIB]
    assert (machine.root / "opt/site/large").stat().st_size == 64 * MIB
    source = next(record for record in machine.trace() if record["ev"] == "source" and record["owner"] == "site")
    assert (source["bytes"], source["sha512"]) == (bundle.stat().st_size, digest_of(bundle))


def test_large_user_data_is_run_in_64_mib(machine: Machine, tmp_path: Path) -> None:
    data = tmp_path / "user-data"
    place = "var/lib/contextuser"
    scripts = {"epilog.sh": SCRIPTS["epilog.sh"].replace("opt/site", place)}
    make_large_bundle(data, scripts, companion_bytes=200 * MIB, placed_bytes=64 * MIB, place=place)
    identity = answer("i-0001")
    said, peak_kib = measured(
        machine, {"/latest/user-data": lambda _: sent(data), "/latest/meta-data/instance-id": identity}
    )
    assert said.startswith("contextagent: ok (1 user, 0 site scripts")
    assert peak_kib <= 64 << 10
    assert placed(machine, "large") == [64 * MIB]
    assert (machine.root / place / "large").stat().st_size == 64 * MIB


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()
