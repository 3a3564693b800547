"""The verbs that tell how a boot went: `status`, `explain`, `analyze`."""

from __future__ import annotations

import time

from contextagent.cli.text import add_format, printable, table
from contextagent.errors import InvalidInputError, TryLaterError, UnknownError, UsageError
from contextagent.runner.status import EXIT_CODES, read_status, status_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from typing import Any

    from contextagent.cli.text import Shell
    from contextagent.host import Host

_POLL_S = 0.2
_TOLD = set("boot_id instance_id result sources verdicts trust phases scripts errors warnings".split())
_LONGEST_S = 315_360_000
_BAR_COLUMNS = 40


def _status_of(host: Host) -> dict[str, Any]:
    """Return this boot's status.

    Raises:
        UnknownError: The agent has not run since the machine started.
        InvalidInputError: The file is no status.
    """
    try:
        status = read_status(host)
    except ValueError as error:
        message = f"cannot read '{status_path(host)}': {error}"
        raise InvalidInputError(message) from error
    if status is not None and not status.keys() >= _TOLD:
        message = f"cannot read '{status_path(host)}': not a whole status"
        raise InvalidInputError(message)
    if status is None or status["boot_id"] != host.boot_id():
        message = "cannot tell 'status': the agent has not run in this boot"
        raise UnknownError(message, hint="it runs by itself at boot; by hand: contextagent run")
    return status


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add `status`'s words."""
    parser.epilog = "example:\n  contextagent status --wait --timeout 600 --format json"
    parser.add_argument("--wait", action="store_true", help="wait until no phase is running")
    parser.add_argument(
        "--timeout", type=_patience_s, metavar="S", help="wait at most this many seconds (exit 75 then)"
    )
    add_format(parser)


def _patience_s(text: str) -> float:
    import argparse  # noqa: PLC0415  # only its error

    try:
        patience_s = float(text)
    except ValueError:
        patience_s = -1.0
    if not 0 <= patience_s <= _LONGEST_S:
        message = f"'{text}' is no number of seconds from 0 to {_LONGEST_S}"
        raise argparse.ArgumentTypeError(message)
    return patience_s


def run_status(options: argparse.Namespace, shell: Shell) -> int:
    """Print the status; the exit code is the result's.

    Raises:
        TryLaterError: `--wait` timed out.
        UnknownError: The agent has not run in this boot.
        UsageError: A time-out, and nothing to wait for.
    """
    if options.timeout is not None and not options.wait:
        message = "cannot understand '--timeout': it goes with --wait"
        raise UsageError(message)
    status = _waited(shell.host, options.timeout) if options.wait else _status_of(shell.host)
    shell.emit(status, "\n".join(_status_lines(status)))
    return EXIT_CODES[status["result"]]


def _waited(host: Host, timeout_s: float | None) -> dict[str, Any]:
    """Return the status once nothing is running any more; a run that has not begun yet is waited for, too."""
    end_ns = None if timeout_s is None else host.mono_ns() + int(timeout_s * 1e9)
    while True:
        try:
            status = _status_of(host)
        except UnknownError:
            status = None
        if status is not None and status["result"] != "running":
            return status
        if end_ns is not None and host.mono_ns() >= end_ns:
            message = f"cannot wait for 'status' any longer: not done within {timeout_s:g} s"
            raise TryLaterError(message)
        time.sleep(_POLL_S)


def _status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    yield f"result    {status['result']}"
    yield f"instance  {status['instance_id']}"
    yield f"boot      {status['boot_id']}"
    for owner, source in status["sources"].items():
        trust = f" (trust: {status['trust'][owner]})" if owner in status["trust"] else ""
        yield f"{owner:<8}  {source or 'nothing'}{trust}"
    logging = status.get("logging") or {"delivered": "none"}
    if logging["delivered"] != "none":
        yield f"logs      {logging['delivered']} {printable(', '.join(logging['targets']))}".rstrip()
    yield from _lives(status)
    phases = [
        (name, phase["state"], _seconds(phase["duration_s"]), phase["started"] or "")
        for name, phase in status["phases"].items()
    ]
    yield ""
    yield table(("PHASE", "STATE", "TOOK", "STARTED"), phases)
    if status["scripts"]:
        yield ""
        yield table(
            ("SCRIPT", "STATE", "EXIT", "TOOK", "PROFILE", "WHY"), [_script_row(each) for each in status["scripts"]]
        )
    for kind in ("errors", "warnings"):
        for said in status[kind]:
            yield f"{kind[:-1]}: {printable(said['message'])}"


def _lives(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of what changes while a machine lives, as far as there is something to tell."""
    lifetime, pilot = status.get("lifetime"), status.get("pilot")
    if lifetime:
        yield f"lifetime  until {_moment(lifetime)} ({lifetime['bound_by']})"
    if pilot:
        facts = [f"{name} {pilot[name]}" for name in ("pid", "code") if pilot.get(name) is not None]
        why = [printable(pilot["reason"])] if pilot.get("reason") else []
        told = f" ({', '.join([*why, *facts])})" if why or facts else ""
        yield f"pilot     {pilot['framework']}: {pilot['state']}{told}"


def _moment(lifetime: Mapping[str, Any]) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(lifetime["shutdown_epoch_s"]))


def _script_row(script: Mapping[str, Any]) -> tuple[str, ...]:
    ended = script["exit_code"] if script["signal"] is None else f"signal {script['signal']}"
    late = " (late)" if script["late"] else ""
    return (
        script["id"] + late,
        script["state"],
        "" if ended is None else str(ended),
        _seconds(script["duration_s"]),
        script["profile"],
        script["reason"] or "",
    )


def _seconds(duration_s: float | None) -> str:
    return "" if duration_s is None else f"{duration_s:.3f} s"


def shown_status(host: Host) -> str:
    """Return this boot's status as text.

    Raises:
        UnknownError: The agent has not run in this boot.
        InvalidInputError: The file is no status.
    """
    return "".join(f"{line}\n" for line in _status_lines(_status_of(host)))


def explained(host: Host) -> str:
    """Return why this boot went as it did, as text; raises as `shown_status` does."""
    return "".join(f"{line}\n" for line in _explain_lines(_status_of(host)))


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Add `explain`'s words."""
    parser.epilog = "example:\n  contextagent explain --format json"
    add_format(parser)


def run_explain(_options: argparse.Namespace, shell: Shell) -> int:
    """Tell why this boot went as it did.

    Raises:
        UnknownError: The agent has not run in this boot.
    """
    status = _status_of(shell.host)
    facts = {key: status[key] for key in _EXPLAINED if key in status}
    shell.emit(facts, "\n".join(_explain_lines(status)))
    return 0


def _explain_lines(status: Mapping[str, Any]) -> Iterator[str]:
    yield f"result {status['result']}: {_WHY[status['result']]}"
    yield ""
    yield "what was tried, in order:"
    tried = [
        (each["owner"], each["source"], each["verdict"], _seconds(each["duration_s"]), each["reason"])
        for each in status["verdicts"]
    ]
    yield table(("OWNER", "SOURCE", "VERDICT", "TOOK", "WHY"), tried) if tried else "nothing: no source is enabled"
    yield ""
    for owner, source in status["sources"].items():
        yield f"the {owner}'s material comes from {source}" if source else f"the {owner} supplied no material"
    for script in status["scripts"]:
        why = _SKIPS.get(script["reason"] or "", script["reason"])
        if why:
            yield f"{script['id']} {script['state']}: {printable(why)}"
    logging = status.get("logging") or {"delivered": "none"}
    if logging["delivered"] != "none":
        yield f"logs {_DELIVERED[logging['delivered']].format(printable(', '.join(logging['targets'])))}"
    yield from _why_lives(status)
    for kind in ("errors", "warnings"):
        for said in status[kind]:
            yield f"{kind[:-1]} [{said['reason']}]: {printable(said['message'])}"


def _why_lives(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield why the machine ends when it does, and what became of its pilot."""
    lifetime, pilot = status.get("lifetime"), status.get("pilot")
    if lifetime:
        yield f"the machine ends at {_moment(lifetime)}: {_ENDS.get(lifetime['bound_by'], lifetime['bound_by'])}"
    if pilot:
        yield pilot_line(pilot)


def pilot_line(pilot: Mapping[str, Any]) -> str:
    """Return how the pilot stands, and why, in one line."""
    reason = pilot.get("reason") or ""
    words = _PILOT_ENDS if pilot["state"] in ("stopping", "ended") else _PILOT_WHY
    why = f": {printable(words.get(reason) or _PILOT_WHY.get(reason, reason))}" if reason else ""
    state = _PILOT_STATES.get(pilot["state"], pilot["state"])
    more = [f"{name} {pilot[name]}" for name in ("pid", "code") if pilot.get(name) is not None]
    told = f" ({', '.join(more)})" if more else ""
    return f"the pilot ({pilot['framework']}) {state}{why}{told}"


_EXPLAINED = (
    *("result", "sources", "verdicts", "trust", "scripts", "lifetime", "pilot", "logging", "errors", "warnings"),
)
_ENDS = {
    "shutdowntime": "the machine feature 'shutdowntime' says so",
    "shutdowntime_job": "the job feature 'shutdowntime_job' says so",
    "wall_limit": "its job's wall limit is over then ('jobstart_secs' and 'wall_limit_secs')",
    "ttl": "the time to live in its context is over then ('TTL')",
    "policy": "it is 'lifetime.max_s' after its first boot then",
    "endorsement": "its image's endorsement expires then ('image.max_age_days')",
    "notice": "the cloud has announced to take it away then",
    "drain": "it is being drained",
}
_PILOT_STATES = {
    "waiting": "has not started yet",
    "refused": "was refused",
    "running": "runs",
    "stopping": "is being stopped",
    "ended": "has ended",
}
_PILOT_ENDS = {"lifetime": "this machine is about to end (contextagent remaining)"}
"""What a reason means for a pilot that ran, where that is something else than for one that was not started."""
_PILOT_WHY = {
    "site-failed": "the site's part of this boot failed",
    "veto": "a site script ended with 100, which is its veto",
    "banned": "the site's settings say 'ban.pilot'",
    "no-pilot-file": "'/etc/contextagent/no-pilot' is there",
    "trace": "the trace does not go as far as 'pilot.require_trace' wants it",
    "trace-full": "the trace can't be written, and 'trace.on_full' is strict",
    "lifetime": "too little lifetime is left ('pilot.min_lifetime_s', contextagent remaining)",
    "finished": "this machine has been finished",
    "no-account": "there is no account that it could run as ('pilot.user')",
    "credential": "its credential is missing, for others to read, or no longer valid ('pilot.credential.path')",
    "ca-dir": "its folder of CA certificates is empty or missing ('pilot.ca_dir')",
    "voms-dir": "its folder of VOMS servers is empty or missing ('pilot.voms_dir')",
    "vomses": "its VOMS addresses are missing ('pilot.vomses')",
    "not-startable": "its program can't be started",
    "workdir": "its folder can't be had, or is another account's ('pilot.workdir')",
    "files": "its files can't be written ('pilot.files')",
    "exit": "by itself",
    "signal": "a signal ended it",
    "abort": "its supervisor was killed",
    "lost": "its keeper was killed",
    "asked": "somebody stopped it (contextagent pilot stop)",
    "stop": "the machine stops",
    "not-yet-supported": "the agent does not know that framework yet",
    "pilot-incomplete": "its settings do not say how to start it (contextagent lint)",
}
_DELIVERED = {
    "no": "go nowhere: no log daemon could be told to send them",
    "configured": "go by {}; whether they arrive is not known",
    "reachable": "go by {}; a collector was reached",
}
_WHY = {
    "ok": "every script that had to run ended well",
    "none": "there was no context; the machine boots as if the agent were not there",
    "running": "a phase is still running",
    "degraded": "something that is not the site's part failed; the site's part is complete",
    "failed": "the site's part could not be had, or a site script failed: no pilot may start",
}
_SKIPS = {
    "once-done": "it runs once per instance, and has (change it, or set its 'frequency', or run --force)",
    "interrupted": "it runs once and was interrupted when the agent was killed; 'rerun: safe' would repeat it",
    "cloud-init": "cloud-init in this image runs the user data itself",
    "budget": "the phase's time was over before its turn ('phase_budget_s')",
    "changed": "it is not what was staged any more: a script with root's rights before it changed it",
    "done": "it ran before the agent was killed in this phase",
    "trace-full": "the trace can't be written, and 'trace.on_full' is strict",
    "not-recordable": "it runs once, and nothing could be written down about it; it will be tried again",
    "no-account": "the user's account could not be made, and user scripts never run as root without being allowed to",
}


def add_analyze(parser: argparse.ArgumentParser) -> None:
    """Add `analyze`'s words."""
    parser.epilog = "example:\n  contextagent analyze"
    add_format(parser)


def run_analyze(_options: argparse.Namespace, shell: Shell) -> int:
    """Show where the time of this boot went.

    Raises:
        UnknownError: The agent has not run in this boot.
    """
    status = _status_of(shell.host)
    rows = list(_time_rows(status))
    end = max((began + took for _, began, took in rows), default=0.0) or 1.0
    facts = [{"name": name, "start_s": round(began, 3), "duration_s": took} for name, began, took in rows]
    shown = [(name, f"{took:.3f} s", _bar(began, took, end)) for name, began, took in rows]
    shell.emit({"phases": status["phases"], "steps": facts}, table(("STEP", "TOOK", "WHEN"), shown))
    return 0


def _bar(began_s: float, took_s: float, end_s: float) -> str:
    """Return a stretch of time as a bar on a line that stands for the whole boot."""
    first = min(int(began_s / end_s * _BAR_COLUMNS), _BAR_COLUMNS - 1)
    return " " * first + "#" * max(1, round(took_s / end_s * _BAR_COLUMNS))


def _time_rows(status: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Yield (name, seconds after the search began, seconds): the search, then each phase with its scripts in order.

    What lies between the phases is the distribution's time, and left out; the agent's own comes after the scripts.
    """
    at_s = 0.0
    for source, took in {each["source"]: each["duration_s"] for each in status["verdicts"]}.items():
        yield f"search {source}", at_s, took
        at_s += took
    for name, phase in status["phases"].items():
        if phase["duration_s"] is None:
            continue
        yield name, at_s, phase["duration_s"]
        began_s = at_s
        for script in status["scripts"]:
            if script["duration_s"] is not None and _ran_in(script) == name:
                yield f"  {script['id']}", began_s, script["duration_s"]
                began_s += script["duration_s"]
        at_s += phase["duration_s"]
        yield "  (the agent's own)", began_s, round(max(0.0, at_s - began_s), 3)


def _ran_in(script: Mapping[str, Any]) -> str:
    return "post-network" if script["late"] else str(script["phase"])
