"""The command line: argv to one call to text or JSON to an exit code.

The only room that prints, exits, or catches everything.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from contextagent.errors import CannotWriteError, ContextAgentError, UsageError
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
    "watch": ("watch", "the one process that stays: features over HTTP, lifetime, heartbeat, pilot"),
    "remaining": ("lifetime", "tell how long this machine has left, in seconds"),
    "features": ("features", "show machine and job features, or check them as a pilot reads them"),
    "pilot": ("pilot", "tell how the pilot does, or stop it"),
    "finish": ("finish", "say how the payload ended, and have the machine end"),
    "drain": ("lifetime", "let this machine end early, with the notice that its jobs were promised"),
    "trace": ("trail", "show or verify the trace"),
    "receipt": ("receipt", "print the receipt of a boot"),
    "collect-logs": ("ticket", "one archive for a bug report, without secrets"),
    "lint": ("kit", "check a context, user data or policy: every problem at once"),
    "pack": ("kit", "make a context disk or bundle from a folder"),
    "simulate": ("trial", "a whole boot on a throw-away view of this machine"),
    "serve": ("serve", "a metadata service for tests and small sites"),
}
"""Verb to (its module in this room, one line on it)."""
WITH_VALUE = {
    "--root": ("DIR", "agent's own files below this folder instead of /"),
    "--policy": ("FILE", "this file instead of the image's policy"),
    "--disk": ("PATH", "a device, an ISO or VFAT file, or a folder that stands for a ROM disk; or none"),
    "--metadata": ("URL", "the metadata service's address, or none"),
}
"""Option to (what its value is, one line on it)."""
FLAGS = {
    "--force": "run once-only scripts again",
    "--resume": "go on where a killed agent stopped; only report if the phase is complete",
    "--debug": "show tracebacks",
}


def main(argv: Sequence[str]) -> int:
    """Run one command, and return its exit code (docs/reference/cli.md)."""
    os.umask(0o077)
    _hold_streams()
    code = 0
    try:
        code = _dispatch(list(argv))
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read our output has had enough; a second error at exit would only be noise
        drop_output()
    except BaseException as error:  # noqa: BLE001  # a bug must not end as a traceback on a machine's console
        code = _failed(error, is_debug="--debug" in argv)
    return code


def _hold_streams() -> None:
    """Put something in the place of a closed standard stream, or a file of ours would be taken for it."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _to_nowhere(fd)
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))  # noqa: SIM115  # for good


def _to_nowhere(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != fd:
        os.dup2(null, fd)
        os.close(null)


def drop_output() -> None:
    """Let what was not written yet go nowhere: where it went to is gone or full."""
    for fd in (1, 2):
        try:
            _to_nowhere(fd)
        except OSError:
            continue  # not even that can be opened: `__main__` ends without writing


def _failed(error: BaseException, *, is_debug: bool) -> int:
    """Say what went wrong on stderr, and return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        _to_nowhere(1)
        error = CannotWriteError(f"cannot write 'standard output': {error.strerror}")
    try:
        return _said(error, is_debug=is_debug)
    except OSError:  # stderr can't be written either: the exit code is all that is left
        drop_output()
        return error.exit_code if isinstance(error, ContextAgentError) else 1


def _said(error: BaseException, *, is_debug: bool) -> int:
    from contextagent.cli.text import printable  # noqa: PLC0415  # only an error needs it

    if is_debug:
        from traceback import print_exception  # noqa: PLC0415  # see above

        print_exception(error)
    if not isinstance(error, ContextAgentError):
        said = printable(f"{type(error).__name__}: {error}")
        sys.stderr.write(f"contextagent: cannot go on: {said} (a bug; see --debug)\n")
        return 1
    lines = [*(problem.text() for problem in error.problems), str(error), error.hint]
    sys.stderr.write("".join(f"contextagent: {printable(line)}\n" for line in lines if line))
    return error.exit_code


def _dispatch(argv: list[str]) -> int:
    """Run the boot's own words at once; everything else goes by the parser, which costs as much as a boot."""
    if argv == ["watch"]:
        from contextagent.cli.watch import watch_here  # noqa: PLC0415  # what init starts, on every machine

        return watch_here()
    boot = _boot_words(argv)
    if boot is not None:
        if "--resume" in boot[1]:
            from contextagent.cli.line import tell_complete  # noqa: PLC0415  # the boot's second call of each phase

            code = tell_complete(*boot)
            if code is not None:
                return code
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
            value = value if equals else next(words, "")
            if not value or (value.startswith("-") and not equals):
                return None
            options[name] = value
        elif word in FLAGS:
            options[word] = True
        else:
            return None
    return (phase, options) if is_run else None


def check_root(root: str, *, is_made: bool) -> None:
    """Refuse a `--root` that is no folder; one that is not there yet will do for a verb that makes it (`is_made`).

    Raises:
        UsageError: It will not do.
    """
    cause = "not a folder"
    try:
        if stat.S_ISDIR(os.stat(root).st_mode):
            return
    except FileNotFoundError:
        if is_made:
            return
        cause = "no such folder"
    except OSError as error:
        cause = error.strerror or "not readable"
    message = f"cannot use '{root}' as the root: {cause}"
    raise UsageError(message)
