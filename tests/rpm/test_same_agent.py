"""The agent is the same in its own program: the black-box tests of any boot, with that program, under each table."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

# The files that are about boots: what a script may do, each kind of medium, the metadata service, a killed agent
FILES = ("test_order", "test_disk", "test_disk_search", "test_bundle_kinds", "test_two_legs", "test_query")


def test_it_passes_what_any_other_agent_has_to_pass(program: Path, kernel: tuple[str, ...]) -> None:
    words = [f"tests/blackbox/{name}.py" for name in FILES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        env=os.environ | {"CONTEXTAGENT_TESTED": " ".join((*kernel, str(program)))},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
