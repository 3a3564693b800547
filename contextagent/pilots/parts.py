"""What the frameworks are made of: which program a setting names, which options are given, what a log says."""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Literal

    from contextagent.pilots import Setting

    Form = Literal["path", "url"]
    Told = tuple[int, str]

PYTHON = ("/usr/bin/env", "python3")
"""How a program whose name ends in .py is started: not by its first line, which may name a `python` that is gone."""
SHELL = ("/bin/sh", "-c")
_SHELL_CHARACTERS = frozenset("\n\"'\\$`|&;<>()*?[]{}!#~")
_SHORTEST = len("--x")


class Option(Value):
    """An option of a program: its short and its long form, and what it says, in words for people."""

    short: str
    long: str
    says: str = ""


class Framework(Value):
    """What the agent knows of one kind of pilot.

    Attributes:
        form: How it is told the features, unless `pilot.features` says otherwise.
        program: What is started unless `pilot.command` says otherwise; empty where there is no such thing.
        needs: Options without which the program does not start.
        adds: Returns, with the option that says it, each argument that the agent can give; not given where the site's
            own arguments have the option.
        variables: Returns the variables that the agent can give; the site's own win.
        codes: Exit codes to shutdown codes, with the words that go with each.
        lines: What a line of the log means.  Looked at only after an exit code of `vague`.
        vague: Exit codes that say little.
    """

    form: Form
    program: tuple[str, ...] = ()
    needs: tuple[Option, ...] = ()
    adds: Callable[[Setting], Sequence[tuple[Option, tuple[str, ...]]]] = lambda _setting: ()
    variables: Callable[[Setting], Mapping[str, str]] = lambda _setting: {}
    codes: Mapping[int, Told] = {}
    lines: tuple[tuple[str, Told], ...] = ()
    vague: tuple[int, ...] = (0, 1)


def has_option(args: Sequence[str], option: Option) -> bool:
    """Return whether arguments give an option, in any way that getopt and argparse take: `-q X`, `-qX`, `--que=X`."""
    for arg in args:
        if arg == "--":
            return False
        name = arg.partition("=")[0]
        if name.startswith("--"):
            if len(name) > _SHORTEST and option.long.startswith(name):
                return True
        elif option.short and arg.startswith(option.short):
            return True
    return False


def program(command: Any, default: tuple[str, ...] = (), *, is_followed: bool = False) -> tuple[str, ...]:  # noqa: ANN401  # a text or a list
    """Return what is started, before any arguments; empty where nothing says so.

    A list is program and arguments, a single word a program; any other text is a line for the shell, unless it is of
    plain words and arguments follow it.
    """
    command = command or default
    if isinstance(command, str) and is_line(command, is_followed=is_followed):
        return (*SHELL, command)
    words = tuple(command.split() if isinstance(command, str) else command)
    return (*PYTHON, *words) if words and words[0].endswith(".py") else words


def is_line(command: str, *, is_followed: bool = False) -> bool:
    """Return whether a command is a line for the shell, to which nothing can be added."""
    words = command.split()
    is_shells = any(character in _SHELL_CHARACTERS for character in command) or words[:1] == ["exec"]
    return is_shells or (len(words) > 1 and not is_followed)


def has_pattern(line: bytes, pattern: str) -> bool:
    """Return whether a line of a log has a text in it, in which `*` (or `.*`) is any number of characters.

    It is no regular expression: a user's pattern is looked for by root, and none can take more than linear time.
    """
    at = 0
    for part in pattern.replace(".*", "*").encode("utf-8", "surrogateescape").split(b"*"):
        at = line.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def last_said(log_tail: bytes, patterns: Sequence[tuple[str, Told]]) -> Told | None:
    """Return what the last line that says anything means: a pilot that worked, then found no more work, found none."""
    for line in reversed(log_tail.split(b"\n")):
        for pattern, told in patterns:
            if has_pattern(line, pattern):
                return told
    return None
