"""Pages of the documents that tests follow: their commands, and what a page shows below each."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Self

from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PROMPTS = ("$ ", "# ", "guest$ ", "guest# ")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[str]:
    """Return what a page below `docs/` shows of terminals."""
    return _BLOCK.findall((REPOSITORY / "docs" / name).read_text())


def commands(page: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each command of some blocks: its prompt, itself, and the lines that the page shows below it."""
    for block in page:
        prompt, command, shown = "", "", list[str]()
        for line in [*block.splitlines(), PROMPTS[0]]:
            found = next((each for each in PROMPTS if line.startswith(each)), "")
            if found and command:
                yield prompt, command, shown
            if found:
                prompt, command, shown = found, line.removeprefix(found), []
            else:
                shown.append(line)


def is_shown(found: Sequence[str], shown: Sequence[str]) -> bool:
    """Return whether a page shows what was found.

    What differs each time stands there as `…`: in a line, something; alone in its line, any number of lines.
    """
    patterns = ["(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".+") + "\n" for line in shown]
    return re.fullmatch("".join(patterns), "".join(f"{line}\n" for line in found)) is not None


class Shell:
    """A shell that is told one command after the other, as a person tells it.

    Args:
        folder: Where it begins.
        prefix: What starts it elsewhere: in a namespace.
    """

    def __init__(self, folder: Path, prefix: Sequence[str] = ()) -> None:
        path = f"{REPOSITORY}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = [*prefix, "env", "-i", f"PATH={path}", "bash", "--noprofile", "--norc"]
        self._bash = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, command: str, lines: int = 0) -> list[str]:
        """Return what a command prints; where it goes on in the background, its first lines."""
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.write(f"{command}\necho its end\n")
        self._bash.stdin.flush()
        found: list[str] = []
        is_over = False
        while not is_over or (command.endswith("&") and len(found) < lines):
            line = self._bash.stdout.readline()
            assert line, found
            if line == "its end\n":
                is_over = True
            elif not re.match(r"\[\d+\]", line):  # what bash says of its jobs is not the command's
                found.append(line.rstrip("\n"))
        return found

    def close(self) -> None:
        """End it, and what it left in the background."""
        self._bash.communicate("kill $(jobs -p) 2>/dev/null; wait\n")
