"""House rules that no tool knows: sizes, and a reason beside whatever is silenced."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from contextagent import __version__
from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
ONE_PIECE = "one piece:"
"""A comment in a longer one says with these words why it is not cut."""
SILENCED = re.compile(r"#\s*(noqa|type: ignore|pragma: no \w+)(:? ?\S+)?")

AGENTS = sorted((REPOSITORY / "contextagent").rglob("*.py"))
SOURCES = [*AGENTS, *sorted((REPOSITORY / "tests").rglob("*.py"))]


def functions(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield each function's name, its number of lines without the docstring, and its text."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            end = node.end_lineno or node.lineno
            docstring = len((ast.get_docstring(node, clean=False) or "").splitlines())
            yield node.name, end - node.lineno + 1 - docstring, "\n".join(text.splitlines()[node.lineno - 1 : end])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_function_can_be_read_in_one_go(path: Path) -> None:
    long = [each for each in functions(path.read_text()) if each[1] > MAX_FUNCTION_LINES and ONE_PIECE not in each[2]]
    assert not long


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_file_of_the_agent_can_be_read_in_one_go(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES or ONE_PIECE in text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_whatever_is_silenced_carries_its_reason_on_the_same_line(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    bare = [number for number, line in lines if (found := SILENCED.search(line)) and "#" not in line[found.end() :]]
    assert path.samefile(__file__) or not bare


def test_the_agents_version_is_the_changelogs_newest() -> None:
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == __version__
