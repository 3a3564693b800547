"""The command line: argv to one call to text or JSON to an exit code.

The only room that prints, exits, or catches everything.
"""

from __future__ import annotations

import os
import sys

from contextagent.errors import ContextAgentError, UsageError
from contextagent.model import PHASES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from contextagent.model import Phase

VERBS = {
    "run": ("boot", "contextualise this machine: find the context, run its scripts in order"),
    "plan": ("boot", "show what run would do now; changes nothing"),
    "status": ("report", "show what came out of this boot"),
    "explain": ("report", "tell where the context came from and why each step was taken or not"),
    "analyze": ("report", "show where the time of this boot went"),
    "query": ("ask", "print one fact or setting, with where it comes from"),
    "trace": ("trail", "show or verify the trace"),
    "receipt": ("trail", "print the receipt of a boot"),
    "lint": ("kit", "check a context, user data or policy: every problem at once"),
    "pack": ("kit", "make a context disk or bundle from a folder"),
}
"""Verb to (its module in this room, one line on it)."""
WITH_VALUE = {
    "--root": "agent's own files below this folder instead of /",
    "--policy": "this file instead of the image's policy",
    "--disk": "a device, an ISO or VFAT file, or a folder that stands for a ROM disk; or none",
    "--metadata": "the metadata service's address, or none",
}
FLAGS = {
    "--force": "run once-only scripts again",
    "--resume": "go on where a killed agent stopped; only report if the phase is complete",
    "--debug": "show tracebacks",
}
SOURCE_OPTIONS = ("--disk", "--metadata")


def main(argv: Sequence[str]) -> int:
    """Run one command, and return its exit code (docs/reference/cli.md)."""
    os.umask(0o077)
    is_debug = "--debug" in argv
    try:
        return _dispatch(list(argv))
    except ContextAgentError as error:
        if is_debug:
            raise
        return _failed(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # whoever read our output has had enough; a second error at exit would only be noise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # a bug must not end as a traceback on a machine's console
        if is_debug:
            raise
        sys.stderr.write(f"contextagent: cannot go on: {type(error).__name__}: {error} (a bug; see --debug)\n")
        return 1


def _failed(error: ContextAgentError) -> int:
    from contextagent.cli.text import printable  # noqa: PLC0415  # only an error needs it

    for problem in error.problems:
        sys.stderr.write(f"contextagent: {printable(problem.text())}\n")
    sys.stderr.write(f"contextagent: {printable(str(error))}\n")
    if error.hint:
        sys.stderr.write(f"contextagent: {printable(error.hint)}\n")
    return error.exit_code


def _dispatch(argv: list[str]) -> int:
    """Run the boot's own words at once; everything else goes by the parser, which costs as much as a boot."""
    boot = _boot_words(argv)
    if boot is not None:
        from contextagent.cli.boot import run_boot  # noqa: PLC0415  # one module a verb

        return run_boot(*boot)
    from contextagent.cli.parser import parse_and_run  # noqa: PLC0415  # see above

    return parse_and_run(argv)


def _boot_words(argv: list[str]) -> tuple[Phase | None, dict[str, str | bool]] | None:
    """Return (phase, options) of a plain `run`, or None for anything that the parser should see."""
    phase: Phase | None = None
    options: dict[str, str | bool] = {}
    words = iter(argv)
    is_run = False
    for word in words:
        name, equals, value = word.partition("=")
        if word == "run" and not is_run:
            is_run = True
        elif word in PHASES and is_run and phase is None:
            phase = PHASES[PHASES.index(word)]
        elif name in WITH_VALUE:
            options[name] = value if equals else next(words, "")
            if not options[name]:
                return None
        elif word in FLAGS:
            options[word] = True
        else:
            return None
    return (phase, options) if is_run else None


def check_metadata(value: str | None) -> None:
    """Refuse a metadata address: this version asks the context disk only.

    Raises:
        UsageError: `value` names a service.
    """
    if value not in (None, "none"):
        message = f"cannot ask '{value}': the metadata service is not yet supported"
        raise UsageError(message)
