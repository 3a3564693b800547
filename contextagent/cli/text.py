"""What every verb prints with: facts as text or JSON on stdout, messages on stderr."""

from __future__ import annotations

import sys

from contextagent import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from contextagent.host import Host
    from contextagent.model import Problem


NOTHING: tuple[object, ...] = (None, "", [], {})
"""Values that are left out where facts are told as text."""
_DIGEST_LENGTHS = (64, 128)
PATIENCE_NS = 2_000_000_000
"""A command that is done within this time shows no progress."""


class Shell:
    """One call of the program: the machine it acts on, and how it speaks.

    Attributes:
        host: The machine, below `--root`.
        policy_override: `--policy FILE`, or None for the image's own.
        is_json: Whether facts are wanted as JSON.
    """

    def __init__(self, host: Host, *, policy_override: str | None = None, is_json: bool = False) -> None:
        self.host = host
        self.policy_override = policy_override
        self.is_json = is_json

    def emit(self, value: object, text: str) -> None:
        """Print the facts: `value` as JSON if that is wanted, else `text`."""
        shown = jsontext.dumps(value, indent=2) if self.is_json else text
        sys.stdout.write(shown if shown.endswith("\n") or not shown else shown + "\n")

    @staticmethod
    def warn(problem: Problem | str) -> None:
        """Print one message line on stderr."""
        sys.stderr.write(f"contextagent: {printable(problem if isinstance(problem, str) else problem.text())}\n")


def printable(text: str) -> str:
    """Return `text` with everything that could move a terminal's cursor or reverse its writing escaped."""
    return "".join(
        char if char.isprintable() or char == " " else char.encode("unicode_escape").decode() for char in text
    )


def brief(value: object) -> str:
    """Return a fact as text: a digest by its beginning, what is no text as JSON."""
    text = value if isinstance(value, str) else jsontext.dumps(value)
    is_digest = len(text) in _DIGEST_LENGTHS and not text.strip("0123456789abcdef")
    return text[:16] if is_digest else text


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as aligned columns under their headings, one line each."""
    lines = [list(headings), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add `--format text|json` to a verb that prints facts."""
    from argparse import SUPPRESS  # noqa: PLC0415  # a boot that has something to say has no parser

    parser.add_argument(
        "--format",
        choices=("text", "json"),
        metavar="text|json",
        default=SUPPRESS,  # an action's own default would undo what stands before its word
        help="how facts are printed (default: text)",
    )


class Progress:
    """One line on stderr, kept up to date on a terminal, once the work takes longer than a person's patience.

    Args:
        shell: Whose clock it is.
        doing: What is being done: `packing`.
        is_for_logs: Whether the line is printed, once, where there is no terminal.
    """

    def __init__(self, shell: Shell, doing: str, *, is_for_logs: bool = False) -> None:
        self._now_ns = shell.host.mono_ns
        self._doing = doing
        self._is_terminal = sys.stderr.isatty()
        self._next_ns: float = self._now_ns() + PATIENCE_NS if self._is_terminal or is_for_logs else float("inf")
        self._is_shown = False

    def show(self, done: int, total: int) -> None:
        """Show how far the work is, in bytes, at most once a second; `total` 0 is unknown."""
        if self._now_ns() < self._next_ns:
            return
        self._next_ns = self._now_ns() + 1_000_000_000 if self._is_terminal else float("inf")
        self._is_shown = True
        of_all = f" of {total >> 20}" if total else ""
        line = f"contextagent: {self._doing}, {done >> 20}{of_all} MiB"
        sys.stderr.write(f"\r{line}" if self._is_terminal else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """End the line."""
        if self._is_shown and self._is_terminal:
            sys.stderr.write("\n")
