"""The how-tos about pilots and about the end of machines do what they show: every command and every file."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest

from contextagent.host import Host
from contextagent.kit.lint import lint
from tests.machine import REPOSITORY
from tests.pages import Shell, commands, is_shown

if TYPE_CHECKING:
    from pathlib import Path

PAGES = ("end-machines", "run-pilots")
PIECES = re.compile(
    r"^In `(?P<path>[^`]+)`[^\n]*:\n\n```\w*\n(?P<text>.*?)^```$|^```console\n(?P<console>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PORT = "8253"
SETTINGS = re.compile(r"^```yaml\n(pilot:\n.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (REPOSITORY / f"docs/how-to/{name}.md").read_text()


def free_port() -> str:
    """Return a port that nobody has just now: two tests at a time must not share the page's."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


@pytest.mark.parametrize("name", PAGES)
def test_the_page_does_what_it_shows(tmp_path: Path, name: str) -> None:
    with Shell(tmp_path) as shell:
        for piece in PIECES.finditer(page(name).replace(PORT, free_port())):
            if piece["path"]:
                place = tmp_path / piece["path"]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(piece["text"])
                continue
            for _, command, shown in commands([piece["console"]]):
                found = shell.run(command)
                assert is_shown(found, shown), (command, found, shown)


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wrong_with_the_settings_that_the_page_shows(tmp_path: Path, name: str) -> None:
    for number, said in enumerate(SETTINGS.findall(page(name))):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "site.yaml").write_text(said)
        assert lint(Host(str(tmp_path)), str(place)) == (), said
