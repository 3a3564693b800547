"""The verb that ends a machine: `finish`."""

from __future__ import annotations

import time

from contextagent.cli.text import printable
from contextagent.errors import CannotWriteError, RefusedError, TryLaterError, UsageError
from contextagent.features.values import JOB_OUTPUTS
from contextagent.policy.settings import hear, load_image_policy
from contextagent.runner import ending, wishes
from contextagent.runner.appending import append
from contextagent.runner.live import Live, load_live, store_live
from contextagent.runner.state import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from contextagent.cli.text import Shell
    from contextagent.host import Host
    from contextagent.model import Problem

_EXAMPLES = """examples:
  contextagent finish 200 "all work done"
  contextagent finish 300 "no more work for this kind of machine"
  contextagent finish 600 "the task queue does not answer"

The pilot's own account may say so, too; the watch, which is root's, tells the job outputs (a file shutdown_message) and
has the machine powered off. Codes: 200 done, 300 no work, 400 banned, 600 wrong in the whole grid, 700 will pass; those
from 100 to 199 (asked from outside) and 500 to 599 (this machine is at fault) are root's. The first word counts. Exit
code: 0 the machine ends, 1 it stays up, 2 it ends but something on the way went wrong, 75 no watch runs and only root
can do without, 77 refused to this account."""
_DIGITS = 3
_PATIENCE_S, _STEP_S = 3.0, 0.1
"""How long a watch that is just being restarted is waited for."""
_TRACE_S = 2.0


def add_finish(parser: argparse.ArgumentParser) -> None:
    """Add `finish`'s words."""
    parser.epilog = _EXAMPLES
    parser.add_argument("code", metavar="CODE", help="three digits, from 100 to 999")
    parser.add_argument("text", metavar="TEXT", help="why, in one line")


def run_finish(options: argparse.Namespace, shell: Shell) -> int:
    """Have the machine end.

    Raises:
        UsageError: The code or the text will not do.
        RefusedError: The code is root's, or the account is neither root nor the pilot's.
        TryLaterError: No watch runs, and the caller is not root.
        CannotWriteError: It can't be asked for.
    """
    host = shell.host
    code, text = _code(options.code), wishes.one_line(options.text)
    if not text:
        message = f"cannot finish with {code}: the text is empty"
        raise UsageError(message, hint='say why in one line: contextagent finish 300 "no more work"')
    is_root = host.is_caller or host.caller()[0] == 0
    if ending.is_ours(code) and not is_root:
        message = f"cannot finish with {code}: codes 1xx and 5xx are root's"
        raise RefusedError(message, hint="200 done, 300 no work, 400 banned, 600 grid-wide, 700 will pass")
    said = ending.word(host)
    if said and said.goes_off:
        shell.emit(None, f"this machine is finished already: {printable(said.line())}")
        return 0
    if _is_watched(host, patience_s=0.0 if is_root else _PATIENCE_S):
        return _ask(shell, code, text)
    if is_root:
        return _act(shell, code, text)
    message = "cannot finish 'this machine': no watch runs that would do it"
    raise TryLaterError(message, hint="root can do without: contextagent finish, or start contextagent watch")


def _code(word: str) -> int:
    """Return the code.

    Raises:
        UsageError: It is none.
    """
    if not (len(word) == _DIGITS and word.isascii() and word.isdigit() and int(word) in ending.CODES):
        message = f"cannot understand '{word}': CODE is three digits, from 100 to 999"
        raise UsageError(message, hint="see: contextagent finish --help")
    return int(word)


def _is_watched(host: Host, *, patience_s: float) -> bool:
    """Return whether a watch runs on this machine, or comes up within that time."""
    end_s = time.monotonic() + patience_s
    while not wishes.is_watched(host):
        if time.monotonic() >= end_s:
            return False
        time.sleep(_STEP_S)
    return True


def _ask(shell: Shell, code: int, text: str) -> int:
    """Ask the watch."""
    host = shell.host
    try:
        wishes.ask(host, "finish", code=code, text=text)
    except CannotWriteError as error:
        if isinstance(error.__cause__, PermissionError):
            message = "cannot finish 'this machine': only root and the pilot's account may"
            raise RefusedError(message, hint="who that is: contextagent query policy.pilot.user") from error
        raise
    shell.emit(None, f"asked for the end of this machine: {printable(f'{code} {text}')}; {_what_comes(host)}")
    return 0


def _what_comes(host: Host) -> str:
    """Return in words what the watch does now."""
    live = load_live(host)
    where = f"tells {printable(live.outputs)}" if live and live.outputs else "tells it"
    return f"the watch {where}" + ("" if host.is_caller else ", then the machine is powered off")


def _act(shell: Shell, code: int, text: str) -> int:
    """End the machine without a watch, as root can; return 1 where it stays up, 2 where something else went wrong."""
    host = shell.host
    image = load_image_policy(host, shell.policy_override, may_write=False)
    known = load(host)
    settings = hear(image, known.supplies, known.layers).settings if known else hear(image, {}).settings
    live = load_live(host)
    if live is None:  # nothing was published, so nobody has made the place for what is left behind
        live = Live(boot_id=host.boot_id(), outputs=JOB_OUTPUTS)
        host.files.make_folder(JOB_OUTPUTS, 0o755)

    def record(ev: str, **facts: object) -> None:
        instance_id, on_full = known.instance_id if known else "", settings["trace.on_full"]
        append(host, ev, facts, instance_id=instance_id, on_full=on_full, patience_s=_TRACE_S)

    uid = host.caller()[0]
    live, problems = ending.finish(host, live, code=code, text=text, by=uid, settings=settings, record=record)
    store_live(host, live)
    for problem in problems:
        shell.warn(problem)
    shell.emit(None, f"finished this machine: {printable(f'{code} {text}')}")
    return _exit_code(problems)


def _exit_code(problems: tuple[Problem, ...]) -> int:
    reasons = {problem.reason for problem in problems} - {"caller"}
    if "no-power-off" in reasons:
        return 1
    return 2 if reasons else 0
