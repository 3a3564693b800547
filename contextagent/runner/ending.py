"""The end of a machine: said once in a boot, told to whoever waits for its outputs, and brought about.

Three steps, each remembered below `Host.run_folder` when it is done, so that whoever comes after a killed agent goes
on: it is said (the first word counts, and is in the trace), told (outputs, receipt and `shutdown_message` go to the job
outputs) and brought about (the site's `shutdown_command`, else init).  The stop phase is never run from here: that is
init's.
"""

from __future__ import annotations

import time

from contextagent import jsontext
from contextagent.errors import CannotWriteError, TryLaterError
from contextagent.model import Problem, Value
from contextagent.runner.wishes import one_line
from contextagent.trace.records import rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from contextagent.host import Host
    from contextagent.host.locks import Lock
    from contextagent.policy.settings import Settings
    from contextagent.runner.live import Live
    from contextagent.runner.state import State

WORD = "ended.json"
"""How this boot was ended, below `Host.run_folder`; everybody may read it."""
SAYING, TELLING = "ended.lock", "ending.lock"
MESSAGE = "shutdown_message"
BY_HOST, BY_SITE = 100, 500
"""Codes of the ends that nobody has to ask for: the host's or the lifetime's, and a site part that failed."""
CODES = range(100, 1000)
_OURS = (1, 5)
"""First digits of the codes that are root's: 1xx comes from outside the machine, 5xx is about the machine itself."""
COMMAND = "machine/shutdown_command"
OUTPUTS_S, MESSAGE_S = 30.0, 10.0
"""How long outputs and receipt together, and the message, may take to leave the machine."""
_AGAIN = 0.2
"""What of that is given to outputs that nobody took before: the end of a machine is not put off for them."""
_SAYING_S, _TELLING_S = 2.0, 15.0
_STEP_S = 0.05
_MAX_BYTES = 1 << 14
_SCHEMA = 1


class Word(Value):
    """How a boot was ended.

    Attributes:
        boot_id: Which boot.
        code: Three digits, see docs/reference/lifetime.md.
        text: One line, in the words of whoever said it.
        by: That one's uid.
        utc: When, RFC 3339.
        goes_off: Whether the machine ends now; else it was only told, and a later word that ends it counts.
        is_told: Whether the message has reached the job outputs.
        tries: How often they have been tried in vain.
        is_off: Whether the end of the machine has been asked for, with success.
    """

    boot_id: str
    code: int
    text: str
    by: int
    utc: str
    goes_off: bool = True
    is_told: bool = False
    tries: int = 0
    is_off: bool = False

    def line(self) -> str:
        """Return the message as it goes to the job outputs."""
        return f"{self.code} {self.text}"

    def shown(self) -> dict[str, Any]:
        """Return what `Live.finish` says of it."""
        return {name: getattr(self, name) for name in ("code", "text", "by", "utc")}


def is_ours(code: int) -> bool:
    """Return whether only root may end a machine with that code."""
    return code // 100 in _OURS


def word(host: Host) -> Word | None:
    """Return how this boot was ended; None while nobody has said so."""
    try:
        plain = jsontext.loads(host.files.read(f"{host.run_folder}/{WORD}", max_bytes=_MAX_BYTES))
        if plain.pop("schema") != _SCHEMA or plain["boot_id"] != host.boot_id():
            return None
        return Word(**plain)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def say(  # every fact by its name
    host: Host, *, code: int, text: str, by: int, record: Callable[..., object], goes_off: bool = True
) -> tuple[Word, bool]:
    """Say how this boot ends; the first word counts, unless it did not end the machine and this one does.

    Args:
        host: The machine.
        code: From `CODES`; whether `by` may use it is the caller's to judge.
        text: Why; it is made one line.
        by: Uid of whoever says it.
        record: Puts a record into the trace: called with `finish` and its keys, before anything is told.
        goes_off: Whether the machine is to end now.

    Returns:
        What counts, and whether that is this one.

    Raises:
        CannotWriteError: It can't be remembered; nothing has been said.
    """
    host.files.make_folder(host.run_folder, 0o755)
    lock = _turn(host, SAYING, _SAYING_S)
    try:
        known = word(host)
        if known and (known.goes_off or not goes_off):
            return known, False
        new = made(host, code=code, text=text, by=by, goes_off=goes_off)
        _remember(host, new)
    finally:
        if lock:
            lock.release()
    record("finish", code=code, text=new.text, uid=by)
    host.announce(f"finish: {new.line()}")
    return new, True


def made(host: Host, *, code: int, text: str, by: int, goes_off: bool = True) -> Word:
    """Return a word that is said now; the arguments are those of `say`."""
    utc = rfc3339(host.utc_ns())
    return Word(boot_id=host.boot_id(), code=code, text=one_line(text), by=by, utc=utc, goes_off=goes_off)


def finish(
    host: Host, live: Live, *, code: int, text: str, by: int, settings: Settings, record: Callable[..., object]
) -> tuple[Live, tuple[Problem, ...]]:
    """End the machine: say it, tell it, leave.  It waits, so the watch has it done by a child of its own (`act`).

    Args:
        host: The machine.
        live: What is known of it.
        code: Three digits.
        text: One line.
        by: Uid of whoever asks.
        settings: What holds.
        record: As in `say`.

    Returns:
        What is known then, and what went wrong on the way; nothing that goes wrong keeps the machine up.

    Raises:
        CannotWriteError: As `say`.
    """
    said, _ = say(host, code=code, text=text, by=by, record=record)
    live, problems = act(host, live.replace(finish=said.shown()), settings)
    return live, problems


def act(host: Host, live: Live, settings: Settings, unwritten: Word | None = None) -> tuple[Live, tuple[Problem, ...]]:
    """Tell and bring about what was said, as far as that is not done; one process at a time does so.

    Args:
        host: The machine.
        live: What is known of it.
        settings: What holds.
        unwritten: What was said, where it could not be remembered.

    Returns:
        As `finish`.
    """
    lock = _turn(host, TELLING, _TELLING_S)
    try:
        said = word(host) or unwritten
        if said is None:
            return live, ()
        live, problems = _tell(host, live, settings, said)
        said = word(host) or said
        if said.goes_off and not said.is_off:
            problems += _leave(host, live, said)
        return live, problems
    finally:
        if lock:
            lock.release()


def tell(host: Host, live: Live, settings: Settings) -> tuple[Live, tuple[Problem, ...]]:
    """Hand the outputs over and tell how the machine ends, as far as that is not done; the machine stays up.

    Returns:
        As `finish`.
    """
    lock = _turn(host, TELLING, _TELLING_S)
    try:
        said = word(host)
        return _tell(host, live, settings, said) if said else (live, ())
    finally:
        if lock:
            lock.release()


def _tell(host: Host, live: Live, settings: Settings, said: Word) -> tuple[Live, tuple[Problem, ...]]:
    from contextagent.pilots.course import BUSY  # noqa: PLC0415  # as below
    from contextagent.runner import joboutputs  # noqa: PLC0415  # most boots end without a word
    from contextagent.runner.handover import hand_over  # noqa: PLC0415  # as above

    share = _AGAIN if said.tries else 1.0
    problems = hand_over(host, live, settings, total_s=OUTPUTS_S * share)
    is_busy = (live.pilot or {}).get("state") in BUSY
    # what a pilot writes until its end is handed over by the stop phase
    live = live.replace(is_handed_over=live.is_handed_over or not (is_busy or problems))
    if not said.is_told:
        outputs = joboutputs.outputs_of(live, settings)
        problem = joboutputs.put(host, outputs, MESSAGE, said.line().encode(), total_s=MESSAGE_S * share)
        problems += (problem,) if problem else ()
        problems += _marked(host, said.replace(is_told=not problem, tries=said.tries + bool(problem)))
    return live, problems


def _leave(host: Host, live: Live, said: Word) -> tuple[Problem, ...]:
    """Have the machine taken down by the site's command or, where there is none or it fails, by init."""
    from contextagent.host import poweroff  # noqa: PLC0415  # see above

    problems: list[Problem] = []
    command = live.features.get(COMMAND, "")
    cause = poweroff.run_command(host, command) if command else ""
    if cause:
        instead = "leaving it at that" if host.is_caller else "asking init instead"
        message = f"cannot run shutdown_command '{command}': {cause}, {instead}"
        problems.append(Problem(reason="shutdown-command", message=message))
    if host.is_caller and (cause or not command):
        message = f"below '{host.root}' no machine is powered off, leaving it at that"
        return (*problems, Problem(reason="caller", message=message))
    if cause or not command:
        cause = poweroff.power_off(host)
        if cause:
            message = f"cannot power off 'this machine': {cause}, staying up"
            return (*problems, Problem(reason="no-power-off", message=message))
    return (*problems, *_marked(host, said.replace(is_off=True)))


def after_boot(host: Host, state: State, settings: Settings, *, record: Callable[..., object]) -> tuple[Problem, ...]:
    """Tell 500, since the site's part of the boot failed; that the machine then goes is the watch's to see to.

    Where neither job outputs nor a pilot were asked for, a failed machine stays up for whoever looks into it.

    Returns:
        What went wrong on the way, for the status.
    """
    from contextagent.runner.live import load_live, store_live  # noqa: PLC0415  # see above

    live = load_live(host)
    if live is None:
        return ()  # nothing was published on this machine: nobody waits for a word
    goes_off = live.is_outputs_given or has_pilot(live, settings)
    try:
        said, is_news = say(host, code=BY_SITE, text=_why_failed(state), by=0, record=record, goes_off=goes_off)
        if not is_news:
            return ()
        live, problems = tell(host, live.replace(finish=said.shown()), settings)
        store_live(host, live)
    except CannotWriteError as error:
        return (Problem(reason=error.reason, message=f"{error}, going on without it"),)
    return problems


def at_stop(host: Host, settings: Settings, *, record: Callable[..., object]) -> tuple[Problem, ...]:
    """Hand over and tell what has not been yet, now that pilot and scripts have ended: 100 where nobody said more.

    Returns:
        What went wrong on the way, for the status.
    """
    from contextagent.runner.live import load_live, store_live  # noqa: PLC0415  # see above

    live = load_live(host)
    if live is None:
        return ()  # nothing was published on this machine: nobody waits for a word
    text = "shutdown as requested by the machine's host"
    try:
        said, _ = say(host, code=BY_HOST, text=text, by=0, record=record, goes_off=False)
        live, problems = tell(host, live.replace(finish=said.shown()), settings)
        store_live(host, live)
    except CannotWriteError as error:
        return (Problem(reason=error.reason, message=f"{error}, going on without it"),)
    return problems


def has_pilot(live: Live, settings: Settings) -> bool:
    """Return whether a pilot was asked for on this machine, whatever became of it."""
    return live.pilot is not None or settings["pilot.framework"] is not None


def _why_failed(state: State) -> str:
    """Return in one line what of the site's part failed: a script, or else the first error's word."""
    for each in state.reports:
        if each["owner"] == "site" and each["on_error"] == "no-pilot" and _is_failure(each):
            how = f"exit code {each['exit_code']}" if each["exit_code"] is not None else each["state"]
            return f"site contextualisation failed: {each['id']}: {how}"
    reasons = [each.reason for each in state.errors] or [
        each.reason.partition(":")[0] for each in state.verdicts if each.owner == "site" and each.verdict != "found"
    ]
    return f"site contextualisation failed: {reasons[0] if reasons else 'no site part'}"


def _is_failure(report: Mapping[str, Any]) -> bool:
    return report["state"] in ("failed", "timeout", "refused") or report["reason"] == "budget"


def _remember(host: Host, said: Word) -> None:
    """Remember the word, for this boot.

    Raises:
        CannotWriteError: It can't be.
    """
    text = jsontext.dumps({"schema": _SCHEMA, **said.as_dict()}).encode() + b"\n"
    host.files.write(f"{host.run_folder}/{WORD}", text, mode=0o644, durable=True)


def _marked(host: Host, said: Word) -> tuple[Problem, ...]:
    """Remember how far it has gone; where that can't be, the next agent may do it again, which harms nobody."""
    try:
        _remember(host, said)
    except CannotWriteError as error:
        return (Problem(reason=error.reason, message=f"{error}, going on without it"),)
    return ()


def _turn(host: Host, name: str, patience_s: float) -> Lock | None:
    """Return the lock of that name: an end is late, never left out.

    Returns:
        None where another process keeps it for too long, and where it can't be made.
    """
    end_s = time.monotonic() + patience_s
    while True:
        try:
            return host.lock(f"{host.run_folder}/{name}")
        except CannotWriteError:
            return None
        except TryLaterError:
            if time.monotonic() >= end_s:
                return None
            time.sleep(_STEP_S)
