"""What every test may ask for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.machine import Guest, Machine

if TYPE_CHECKING:
    from pathlib import Path

# A test that fails on one run only teaches nobody: in CI each property tries the same examples every time.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine below a root of its own."""
    return Machine(tmp_path / "machine")


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    """Return a throw-away view of this whole machine."""
    if os.geteuid() != 0:
        pytest.skip("a view of the whole machine needs root")
    return Guest(tmp_path / "guest")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return an empty folder that stands for a context disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder
