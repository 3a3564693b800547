"""A bundle of a gibibyte from the metadata service, through the real program: streamed, whole, and in little memory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.large import MIB, POLICY, make_large_bundle
from tests.machine import AGENT, Machine, run
from tests.servers import Server, head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPTS = {
    "prolog.sh": "#!/bin/sh\nexit 0\n",
    # whoever changes what is in the working folder has not changed what the agent keeps
    "epilog.sh": "#!/bin/sh\nset -e\n[ $1 = start ]\nsha512sum --quiet -c sums\necho x >>files/opt/site/large\n",
}
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
    made.put("etc/contextagent/policy.yaml", f"{POLICY}metadata: {{dialect: ec2}}\n")
    return made


def test_a_gibibyte_from_the_service_is_run_in_64_mib(machine: Machine, tmp_path: Path) -> None:
    bundle = tmp_path / "default.tgz"
    make_large_bundle(bundle, SCRIPTS, companion_bytes=960 * MIB, placed_bytes=64 * MIB)
    with Server({"/context/default.tgz": lambda _: sent(bundle)}) as server:
        words = ["run", "--root", str(machine.root), "--disk", "none", "--metadata", server.url]
        done = run((sys.executable, "-I", "-S", "-c", MEASURE, *AGENT, *words))
    assert (done.code, done.err) == (0, "")
    said, _, peak = done.out.partition("peak ")
    assert said.startswith("contextagent: ok (0 user, 2 site scripts")
    assert int(peak) <= 64 << 10
    state = machine.root / "var/lib/contextagent"
    staged = [path for path in state.rglob("large") if "scripts" in path.parts]
    assert [path.stat().st_size for path in (*staged, machine.root / "opt/site/large")] == [64 * MIB, 64 * MIB]
    source = next(record for record in machine.trace() if record["ev"] == "source" and record["owner"] == "site")
    assert source["bytes"] == bundle.stat().st_size
    assert [path for path in state.rglob("*") if ".new-" in path.name or path.name.startswith("part-")] == []
