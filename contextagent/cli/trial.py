"""A whole boot tried on a throw-away view of this machine: `simulate`."""

from __future__ import annotations

import sys

from contextagent.cli.text import add_format, printable, table
from contextagent.errors import RefusedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from contextagent.cli.text import Shell
    from contextagent.kit.changes import Change
    from contextagent.kit.simulate import PhaseRun, Simulation
    from contextagent.kit.trial import Trial

_KINDS = {"file": "-", "folder": "d", "link": "l", "other": "?"}
_TAIL_LINES = 10


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `simulate`."""
    parser.description = (
        "Boot with a context on a throw-away view of this machine, as root of that view, and say what came of it:\n"
        "the plan, each script's result, and every file that would have changed. Nothing of it is done to this\n"
        "machine: writes are held in memory, no device is there, and the only network is a metadata service at\n"
        "169.254.169.254 that gives the bundle and the user data. What the agent remembers of this machine's own\n"
        "boots is left out: the view is a new machine. Where no such view can be had, the plan is printed, nothing\n"
        "is run, and the exit code is 77; else it is the result's."
    )
    parser.epilog = (
        "examples:\n  contextagent simulate my-context/\n"
        "  contextagent simulate default.tgz --user-data script.sh --stop\n"
        "  contextagent simulate context.iso --bundle default.tgz --out /tmp/outcome"
    )
    parser.add_argument("path", metavar="PATH", help="a context disk (folder, ISO or VFAT file, or none), or a bundle")
    parser.add_argument("--user-data", metavar="F", default="", help="the user data that the metadata service gives")
    parser.add_argument(
        "--bundle", metavar="F", default="", help="the site's bundle that it gives, or a folder to make one of"
    )
    parser.add_argument(
        "--out", metavar="DIR", default="", help="keep there what would have changed, status, trace and outputs"
    )
    parser.add_argument("--stop", action="store_true", help="stop the machine in the end: run the stop scripts, too")
    add_format(parser)


def run_simulate(options: argparse.Namespace, shell: Shell) -> int:
    """Boot in a view, print what came out, and return the result's exit code.

    Raises:
        RefusedError: No view can be had here; the plan has been printed.
        ContextAgentError: As `kit.simulate` does.
    """
    from contextagent.kit import outcome, simulate  # noqa: PLC0415  # one module a verb
    from contextagent.kit.trial import read_trial  # noqa: PLC0415  # as above

    if shell.host.is_caller:
        raise UsageError("cannot simulate below '--root': the view is of this machine", hint="for a trial: run --root")
    if options.out:
        outcome.check_out(options.out)
    trial = read_trial(
        shell.host,
        options.path,
        bundle=options.bundle,
        user_data=options.user_data,
        policy=shell.policy_override or "",
        has_stop=options.stop,
    )
    try:
        view = simulate.open_view(trial)
    except RefusedError as error:
        _print_plan_alone(trial, shell)
        error.hint = error.hint or "nothing was run: what is printed is the plan alone"
        raise
    teller = _Teller(is_quiet=shell.is_json)
    try:
        simulation = simulate.simulate(view, trial, on_plan=teller.plan, on_phase=teller.phase)
    finally:
        view.close()
    if options.out:
        outcome.keep(options.out, simulation, view.layers)
    facts = outcome.facts_of(simulation)
    shell.emit(facts, "\n".join(_end_lines(simulation, options.out)))
    for warning in simulation.warnings:
        shell.warn(warning)
    return outcome.exit_code_of(simulation)


def _print_plan_alone(trial: Trial, shell: Shell) -> None:
    """Print what a boot would do, as this caller can know it."""
    from contextagent import agent  # noqa: PLC0415  # where a view can be had, it is not this process that plans
    from contextagent.cli.boot import complaints, plan_facts, plan_text  # noqa: PLC0415  # as above
    from contextagent.kit.simulate import service_nearby  # noqa: PLC0415  # as above

    with service_nearby(trial) as url:
        request = agent.Request(disk=trial.disk, metadata=url, policy=trial.policy or None)
        outlook = agent.plan(shell.host, None, request)
    for line in complaints(outlook.state, is_all=True):
        shell.warn(line)
    plan = plan_facts(outlook.plan)
    shell.emit({"plan": plan, "result": None}, f"{_heading('plan')}\n{plan_text(plan)}")


def _heading(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and not _has_no_colour() else text


def _has_no_colour() -> bool:
    import os  # noqa: PLC0415  # its one use here

    return bool(os.environ.get("NO_COLOR"))


class _Teller:
    """Tells a boot while it goes on, since a phase may take minutes."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Print the plan."""
        from contextagent.cli.boot import plan_text  # noqa: PLC0415  # JSON needs no table

        if not self._is_quiet:
            self._print((_heading("plan"), plan_text(facts)))

    def phase(self, phase: PhaseRun) -> None:
        """Print how a phase went."""
        if not self._is_quiet:
            self._print(("", _heading(phase.phase), *_phase_lines(phase)))

    @staticmethod
    def _print(lines: Sequence[str]) -> None:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def _phase_lines(phase: PhaseRun) -> Iterator[str]:
    for asked in phase.requests:
        yield f"  asked   {printable(f'{asked.method} {asked.target}')}: {asked.status}, {asked.size_bytes} bytes"
    for script in phase.scripts:
        yield f"  {script['state']:<8}{printable(script['id'])}{_ending(script)}"
        lines = phase.tails.get(script["id"], "").splitlines()
        if len(lines) > _TAIL_LINES:
            yield "        | …"
        yield from (f"        | {printable(line)}" for line in lines[-_TAIL_LINES:])
    if phase.restarts:
        yield f"  the agent was killed and started again, as init does: {phase.restarts} times"
    yield from (f"  {printable(line)}" for line in phase.messages)


def _ending(script: Mapping[str, Any]) -> str:
    """Return how a script ended, in a few words."""
    took = f"{script['duration_s']:.3f} s" if script["duration_s"] is not None else ""
    ended = f"exit {script['exit_code']}" if script["exit_code"] else ""
    ended = f"signal {script['signal']}" if script["signal"] is not None else ended
    words = [took, f"as {script['profile']}", "late" if script["late"] else "", ended, script["reason"] or ""]
    return f" ({', '.join(printable(word) for word in words if word)})"


def _end_lines(simulation: Simulation, out: str) -> Iterator[str]:
    status = simulation.status
    yield ""
    yield _heading("result")
    yield f"  {status['result'] if status else 'none: the agent left no status'}"
    for verdict in status["verdicts"] if status else ():
        words = f"{verdict['owner']}: {verdict['source']} {verdict['verdict']}: {verdict['reason']}"
        yield f"  {printable(words)}"
    yield from _change_lines("would have changed on this machine", simulation.changes, simulation)
    files = [change for change in simulation.own if change.kind != "folder"]
    yield from _change_lines("in the agent's own places (folders left out)", files, simulation)
    yield ""
    count = len(simulation.changes)
    yield f"{count or 'no'} {'path' if count == 1 else 'paths'} would have changed; this machine is as it was"
    if out:
        yield f"kept in {printable(out)}"


def _change_lines(title: str, changes: Sequence[Change], simulation: Simulation) -> Iterator[str]:
    yield ""
    yield _heading(title)
    if not changes:
        yield "  nothing"
        return
    rows = [
        (
            f"  {change.change}",
            f"{_KINDS[change.kind]}{change.mode:04o}",
            f"{simulation.users.get(change.uid, change.uid)}:{simulation.groups.get(change.gid, change.gid)}",
            change.size_bytes if change.kind == "file" else "",
            change.path + (f" -> {change.target}" if change.target else ""),
            ", ".join(change.what),
        )
        for change in changes
    ]
    yield table(("  CHANGE", "MODE", "OWNER", "BYTES", "PATH", "WHAT"), rows)
