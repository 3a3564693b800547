"""The table of frameworks: how each pilot is started, in which form it is told the features, what its end means."""

from __future__ import annotations

from contextagent.errors import InvalidInputError
from contextagent.model import Problem
from contextagent.pilots import Launch
from contextagent.pilots.command import COMMAND
from contextagent.pilots.dirac import DIRAC
from contextagent.pilots.panda import PANDA
from contextagent.pilots.parts import has_option, is_line, last_said, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from contextagent.pilots import Setting
    from contextagent.pilots.parts import Form, Framework, Told

FRAMEWORKS: Mapping[str, Framework | None] = {
    "dirac": DIRAC,
    "panda": PANDA,
    "htcondor": None,
    "slurm": None,
    "gridengine": None,
    "alice": None,
    "glideinwms": None,
    "command": COMMAND,
}
"""None: known, and not yet supported."""

_DONE, _NO_WORK, _FAILED = 200, 300, 700
_SIGNALLED = 128
"""What a shell adds to the number of the signal that ended a program."""


def problems(name: str, pilot: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Return everything that keeps a pilot from being started with these settings, whatever the machine is like.

    Args:
        name: The framework.
        pilot: The settings `pilot.*`, less that word.
    """
    return tuple(_problems(name, pilot))


def launch(name: str, setting: Setting) -> Launch:
    """Return how a pilot of that framework is started.

    The environment is what the framework adds; the settings' own `env` is not in it, and nothing of it replaces that.

    Raises:
        InvalidInputError: The settings do not say how; `problems` has all that is wrong, and `reason` is the first's.
    """
    pilot = setting.pilot
    if found := problems(name, pilot):
        message = "; ".join(each.message for each in found)
        raise InvalidInputError(message, reason=found[0].reason, problems=found)
    framework = _framework(name)
    args = tuple(pilot.get("args") or ())
    added = [word for option, words in framework.adds(setting) if not has_option(args, option) for word in words]
    own = pilot.get("env") or {}
    return Launch(
        argv=(*program(pilot.get("command"), framework.program, is_followed=bool(args or added)), *args, *added),
        environment={key: text for key, text in framework.variables(setting).items() if key not in own},
        files={key: text.encode() for key, text in (pilot.get("files") or {}).items()},
    )


def features_form(name: str) -> Form:
    """Return in which form a framework's pilot is told the features, unless `pilot.features` says otherwise."""
    framework = FRAMEWORKS[name]
    return framework.form if framework else "path"


def code_of(
    name: str,
    pilot: Mapping[str, Any],
    exit_code: int | None,
    signal: int | None,
    log_tail: bytes,
    empty: bool | None,  # noqa: FBT001  # None is a third answer: no such file was named
) -> Told:
    """Return the shutdown code that the end of a pilot means, and words for people that go with it.

    What the settings say goes first: the last line of the log that one of `result.log_patterns` is in, then
    `result.exit_codes`.  Then what is known of the framework; and what would be 200 is 300 where the file is empty that
    `result.empty_file` names.

    Args:
        name: The framework.
        pilot: The settings `pilot.*`, less that word.
        exit_code: What it exited with; None where a signal ended it.
        signal: The signal that ended it.
        log_tail: The end of its log.
        empty: Whether the file that `result.empty_file` names is empty or not there; None where none is named.
    """
    code, text = _said(pilot, exit_code, signal, log_tail) or _known(name, exit_code, signal, log_tail)
    return (_NO_WORK, "no work") if code == _DONE and empty else (code, text)


def _problems(name: str, pilot: Mapping[str, Any]) -> Iterator[Problem]:
    framework = FRAMEWORKS.get(name)
    if framework is None:
        message = f"cannot start the pilot: 'pilot.framework' {name} is not yet supported"
        yield Problem(reason="not-yet-supported", message=message)
        return
    command, args = pilot.get("command"), tuple(pilot.get("args") or ())
    if not command and not framework.program:
        message = f"cannot start the pilot: 'pilot.command' is missing, which framework '{name}' needs"
        yield Problem(reason="pilot-incomplete", message=message)
    is_followed = bool(args or framework.program)
    if isinstance(command, str) and is_followed and is_line(command, is_followed=True):
        cause = "can't be given to a line of the shell; write 'pilot.command' as a list"
        yield Problem(reason="pilot-incomplete", message=f"cannot start the pilot: 'pilot.args' {cause}")
    for option in framework.needs:
        if not has_option(args, option):
            cause = f"'pilot.args' has no {option.short} ({option.says}), which framework '{name}' needs"
            yield Problem(reason="pilot-incomplete", message=f"cannot start the pilot: {cause}")


def _framework(name: str) -> Framework:
    framework = FRAMEWORKS[name]
    if framework is None:  # `problems` has said so before
        raise KeyError(name)
    return framework


def _said(pilot: Mapping[str, Any], exit_code: int | None, signal: int | None, log_tail: bytes) -> Told | None:
    """Return what the settings say of this end, if anything."""
    patterns = [
        (each["pattern"], (each["code"], f"its log says '{each['pattern']}'"))
        for each in pilot.get("result.log_patterns") or ()
    ]
    if told := last_said(log_tail, patterns):
        return told
    number = exit_code if exit_code is not None else _SIGNALLED + (signal or 0)
    code = (pilot.get("result.exit_codes") or {}).get(str(number))
    return None if code is None else (code, _ended(exit_code, signal))


def _known(name: str, exit_code: int | None, signal: int | None, log_tail: bytes) -> Told:
    """Return what is known of the framework's own endings."""
    framework = FRAMEWORKS.get(name)
    if framework is None or exit_code is None:
        return _FAILED, _ended(exit_code, signal)
    if exit_code in framework.vague and (told := last_said(log_tail, framework.lines)):
        return told
    return framework.codes.get(exit_code, (_FAILED, _ended(exit_code, signal)))


def _ended(exit_code: int | None, signal: int | None) -> str:
    return f"the pilot exited with {exit_code}" if exit_code is not None else f"signal {signal} ended the pilot"
