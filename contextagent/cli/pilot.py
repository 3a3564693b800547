"""How the pilot does, and how it is stopped: `pilot status`, `pilot stop`."""

from __future__ import annotations

from contextagent.cli.line import is_beyond
from contextagent.cli.parser import add_global
from contextagent.cli.report import pilot_line
from contextagent.cli.text import add_format
from contextagent.errors import CannotWriteError, RefusedError, TryLaterError, UnknownError
from contextagent.pilots.steps import summary
from contextagent.runner import keeper, status, wishes
from contextagent.runner.live import load_live, store_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from contextagent.cli.text import Shell

_EXAMPLES = """examples:
  contextagent pilot status                how the pilot does; exit code 3: this machine is to have none
  contextagent pilot stop                  end it, as its settings say, and wait until nothing of it is left"""
_STOP_EXAMPLE = """example:
  contextagent pilot stop
It gets its signal (or its stop command runs), then 'pilot.stop.timeout_s' to end in order, then all of it is killed.
The machine goes on without: no other is started in this boot, and nobody is told that the machine is finished."""


def add_pilot(parser: argparse.ArgumentParser) -> None:
    """Add `pilot status` and `pilot stop`."""
    parser.epilog = _EXAMPLES
    add_format(parser)
    actions = parser.add_subparsers(dest="action", metavar="status|stop", required=True)
    for name, words, example in (
        ("status", "tell how the pilot does", _EXAMPLES),
        ("stop", "end the pilot and wait until nothing of it is left", _STOP_EXAMPLE),
    ):
        action = actions.add_parser(
            name,
            help=words,
            description=f"{words[0].upper()}{words[1:]}.",
            epilog=example,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        if name == "status":
            add_format(action)
        add_global(action)


def run_pilot(options: argparse.Namespace, shell: Shell) -> int:
    """Do what the action says.

    Raises:
        UnknownError: There is no pilot.
        RefusedError: It is root's to stop.
        TryLaterError: It can't be ended.
    """
    return _stop(shell) if options.action == "stop" else _status(shell)


def _status(shell: Shell) -> int:
    live = load_live(shell.host)
    if live is None or live.pilot is None:
        message = "cannot tell 'pilot status': no pilot was asked for in this boot"
        raise UnknownError(message, hint="what was found: contextagent explain")
    shell.emit(dict(live.pilot), pilot_line(live.pilot))
    return 0


def _stop(shell: Shell) -> int:
    host = shell.host
    if is_beyond(host):
        message = "cannot stop 'the pilot': only root may"
        raise RefusedError(message, hint="the pilot's account says that it is done by: contextagent finish")
    alive = [each for each in keeper.look(host) if each.is_alive]
    if not alive:
        raise UnknownError("cannot stop 'the pilot': none is running", hint="see: contextagent pilot status")
    rest = keeper.stop_all(host, why="asked")
    if rest:
        pids = ", ".join(str(each.pid) for each in rest)
        raise TryLaterError(f"cannot stop 'the pilot': it can't be killed (pid {pids})")
    _tell(shell)
    shell.emit(None, f"stopped {len(alive)} pilot{'s' if len(alive) > 1 else ''}")
    return 0


def _tell(shell: Shell) -> None:
    """Put it into the status, where no watch runs that would."""
    live = load_live(shell.host)
    if wishes.is_watched(shell.host) or live is None or live.pilot is None:
        return
    ended = summary(live.pilot, live.pilot["framework"], "ended", reason="asked", pid=None)
    try:
        store_live(shell.host, live.replace(pilot=ended))
        status.refresh(shell.host)
    except CannotWriteError as error:
        shell.warn(f"{error}, the status still says otherwise")
