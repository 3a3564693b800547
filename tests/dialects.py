"""The fixtures of the dialects: what each service answers at which path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

FIXTURES = REPOSITORY / "tests/fixtures/dialects"


def answers(name: str) -> dict[str, bytes]:
    """Return path to body for everything that a dialect's fixture serves."""
    return _files(FIXTURES / name / "service")


def machine_files(name: str) -> dict[str, bytes]:
    """Return path to contents for what stands on a machine that is to find such a service."""
    return _files(FIXTURES / name / "machine")


def _files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"/{path.relative_to(folder)}": path.read_bytes() for path in paths}
