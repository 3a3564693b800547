"""The agent is the same in its own program: the black-box tests of any boot, with that program, under each table."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# The files that are about boots: what a script may do, each kind of medium, the metadata service, a killed agent
FILES = """
test_order test_disk test_disk_search test_bundle_kinds test_two_legs test_query test_service test_dialects
test_user_data_by_network test_run_folder test_told_again
""".split()


def passes(tested: tuple[str, ...], files: Sequence[str]) -> None:
    """Hold an agent, by the words that start it, to test files."""
    words = [f"tests/blackbox/{name}.py" for name in files]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        env=os.environ | {"CONTEXTAGENT_TESTED": " ".join(tested)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]


def test_it_passes_what_any_other_agent_has_to_pass(program: Path, kernel: tuple[str, ...]) -> None:
    passes((*kernel, str(program)), FILES)


def test_it_boots_in_a_view_of_its_machine_as_any_other_agent_does(program: Path) -> None:
    passes((str(program),), ("test_simulate",))
