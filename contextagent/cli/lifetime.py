"""The verbs of a machine's lifetime: `remaining`, and `drain`, which shortens it."""

from __future__ import annotations

import math
import time

from contextagent.cli.line import is_beyond
from contextagent.cli.text import add_format
from contextagent.errors import CannotWriteError, RefusedError, UnknownError
from contextagent.features.lifetime import End, chosen_end, lifetime
from contextagent.runner import wishes
from contextagent.runner.drain import store_drain
from contextagent.runner.live import Live, clocks, load_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from contextagent.cli.text import Shell
    from contextagent.watch.room import Watch

_REMAINING_EXAMPLES = """examples:
  contextagent remaining                   seconds until this machine must be left; exit code 3: no end is known
  contextagent remaining --format json     and when that is, and what says so"""
_DRAIN_EXAMPLES = """examples:
  contextagent drain                       end this machine after the grace that is promised to its jobs
  contextagent drain --in 7200             in two hours
  contextagent drain --in 60 --force       with less notice than was promised
A later drain replaces an earlier one; a reboot does not lift it. The pilot is told to end in time before that, and then
the machine is powered off by the watch."""
_MAX_S = 315_360_000
_PATIENCE_S, _STEP_S = 5.0, 0.02
_SAME_S = 1.0


def add_remaining(parser: argparse.ArgumentParser) -> None:
    """Add `remaining`'s words."""
    parser.epilog = _REMAINING_EXAMPLES
    add_format(parser)


def run_remaining(options: argparse.Namespace, shell: Shell) -> int:
    """Print how long this machine has left; every account may know, and no watch needs to run.

    Raises:
        UnknownError: No end is known.
    """
    del options
    live = load_live(shell.host)
    first = lifetime(live.ends, clocks(shell.host, live)) if live else None
    if first is None:
        message = "cannot tell 'remaining': no end of this machine is known"
        raise UnknownError(message, hint="" if live else "nothing was published in this boot")
    facts = {name: getattr(first, name) for name in ("remaining_s", "shutdown_epoch_s", "bound_by")}
    shell.emit(facts, str(first.remaining_s))
    return 0


def add_drain(parser: argparse.ArgumentParser) -> None:
    """Add `drain`'s words."""
    parser.epilog = _DRAIN_EXAMPLES
    parser.add_argument(
        "--in", dest="in_s", type=_seconds, metavar="S", help="seconds from now (default: the grace, grace_secs)"
    )
    parser.add_argument("--force", action="store_true", help="also with less notice than the grace")


def _seconds(text: str) -> int:
    import argparse  # noqa: PLC0415  # only its error

    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_S)) and int(text) <= _MAX_S):
        message = f"whole seconds, from 0 to {_MAX_S}: '{text}'"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def run_drain(options: argparse.Namespace, shell: Shell) -> int:
    """Let the machine end early.

    Raises:
        RefusedError: The caller is not root, or it is less notice than the grace and not forced.
        UnknownError: The agent has not run on this machine.
        CannotWriteError: It can't be remembered.
    """
    host = shell.host
    if is_beyond(host):
        message = "cannot drain 'this machine': only root may end it"
        raise RefusedError(message, hint="the pilot's account says that it is done by: contextagent finish")
    from contextagent.watch.entry import gather  # noqa: PLC0415  # `remaining` needs none of it

    watch = gather(host, shell.policy_override, load_live(host) or Live(boot_id=host.boot_id()))
    if not watch.state.instance_id:
        raise UnknownError("cannot drain 'this machine': the agent has not run on it", hint="see: contextagent status")
    end = _end(watch, options.in_s, is_forced=options.force)
    store_drain(host, watch.state.instance_id, end, watch.now())
    _follow(watch, end, shell)
    left = lifetime(watch.live.ends, clocks(host, watch.live))
    others = f", and ends in {left.remaining_s} s ({left.bound_by})" if left and left.bound_by != "drain" else ""
    shell.emit(None, f"this machine is drained: it ends in {max(int(end.left_s(watch.now()) + 0.5), 0)} s{others}")
    return 0


def _end(watch: Watch, in_s: int | None, *, is_forced: bool) -> End:
    """Return the end that is asked for.

    Raises:
        RefusedError: It comes earlier than is allowed.
    """
    grace_s = watch.live.grace_s if watch.live.features else watch.settings["lifetime.grace_s"]
    if in_s is not None and in_s < grace_s and not is_forced:
        message = f"cannot drain 'this machine' in {in_s} s: {grace_s} s of notice are promised (grace_secs)"
        raise RefusedError(message, hint="to do it nevertheless: --force")
    counted, clock = clocks(watch.host, watch.live), watch.now()
    # what is published is a whole second as the features count the wall clock, and may not be less notice by any clock
    ahead_s = max(clock.utc_s - counted.utc_s, 0.0)
    whole_s = math.ceil(counted.utc_s + ahead_s + (grace_s if in_s is None else in_s))
    return chosen_end("drain", whole_s - counted.utc_s, 0.0, counted)


def _follow(watch: Watch, end: End, shell: Shell) -> None:
    """Have the watch follow the drain at once; where none runs, publish it here."""
    host = watch.host
    if wishes.is_watched(host):
        try:
            wishes.ask(host, "drain")
        except CannotWriteError as error:
            shell.warn(f"{error}, the watch sees it within a minute")
            return
        if _is_followed(watch, end):
            return
        shell.warn("the watch does not answer, it sees it within a minute")
        return
    from contextagent.watch.lifetime import Lifetimes  # noqa: PLC0415  # as above

    Lifetimes(watch).drain({}, host.caller()[0])
    shell.warn("no watch runs: nothing ends this machine by itself (contextagent watch)")


def _is_followed(watch: Watch, end: End) -> bool:
    """Wait until the watch has published the drain."""
    until_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until_s:
        watch.reread()
        now = watch.now()
        if any(each.by == "drain" and abs(each.left_s(now) - end.left_s(now)) < _SAME_S for each in watch.live.ends):
            return True
        time.sleep(_STEP_S)
    return False
