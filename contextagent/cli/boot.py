"""The verbs of a boot: `run` and `plan`."""

from __future__ import annotations

import sys

from contextagent import agent
from contextagent.cli import FLAGS, check_root, drop_output
from contextagent.cli.line import is_beyond, off_switch, one_line, say, script_complaints
from contextagent.errors import CannotWriteError, RefusedError
from contextagent.host import Host
from contextagent.model import PHASES
from contextagent.runner.status import EXIT_CODES, result_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any

    from contextagent.cli.text import Shell
    from contextagent.model import Phase, Plan, Step
    from contextagent.runner.state import State

_RUN_EXAMPLES = """examples:
  contextagent run pre-network                    what the first unit does at boot
  contextagent run --disk context.iso --root /tmp/trial
  contextagent run post-network --resume          after the agent was killed"""
_PLAN_EXAMPLES = """examples:
  contextagent plan --disk my-context/
  contextagent plan post-network --format json"""


def run_boot(phase: Phase | None, given: Mapping[str, str | bool]) -> int:
    """Run one phase, or the boot's two, with the options as they were written; return the result's exit code.

    Raises:
        ContextAgentError: As `agent.run` says.
    """
    disk, policy, metadata = (_text(given, name) for name in ("--disk", "--policy", "--metadata"))
    host = _host(_text(given, "--root"))
    if switch := off_switch(host):
        sys.stdout.write(f"contextagent: switched off by {switch}\n")
        return 0
    request = agent.Request(
        disk=disk,
        metadata=metadata,
        policy=policy,
        tell=_watched(),
        is_forced="--force" in given,
        is_resumed="--resume" in given,
    )
    try:
        outcome = agent.run(host, (phase,) if phase else agent.BOOT, request)
    except CannotWriteError as error:
        error.hint = error.hint or (f"paths are below '{host.root}'" if host.is_caller else "")
        raise
    if phase == "stop" and not outcome.is_news:
        sys.stdout.write("contextagent: stop already done in this boot\n")
        return 0
    result = result_of(outcome.state)
    try:
        _summarise(outcome.state, result)
        sys.stdout.flush()
    except OSError:  # a console that is gone or full changes nothing of what came out, and status.json tells it
        drop_output()
    return EXIT_CODES[result]


def _host(root: str | None) -> Host:
    """Return the machine to contextualise.

    Raises:
        UsageError: `--root` is something else than a folder.
        RefusedError: It is this machine, and the caller is not root.
    """
    if root is not None:
        check_root(root, is_made=True)
    host = Host(root or "/")
    if is_beyond(host):
        message = "cannot run 'run': only root may contextualise this machine"
        raise RefusedError(message, hint="for a trial below a folder of your own: contextagent run --root DIR")
    return host


def _watched() -> Callable[[str], object] | None:
    """Return what tells a person at a terminal what is waited for; nobody else needs to hear it."""
    if not sys.stderr.isatty():
        return None
    return lambda line: sys.stderr.write(f"contextagent: {line} …\n")


def _text(given: Mapping[str, str | bool], name: str) -> str | None:
    value = given.get(name)
    return value if isinstance(value, str) else None


def _summarise(state: State, result: str) -> None:
    """Print the one line that a console shows, and what went wrong on stderr."""
    said = [*complaints(state), *script_complaints(state.reports)]
    say(said, one_line(result, state.reports, state.instance_id))


def complaints(state: State, *, is_all: bool = False) -> list[str]:
    """Return a line for everything that is wrong with what was found; all: a service that nobody needs included."""
    said = [problem.text() for problem in (*state.errors, *state.warnings)]
    words = ("broken", "unreachable") if is_all or state.is_service_required else ("broken",)
    missed = [verdict for verdict in state.verdicts if verdict.verdict in words]
    return said + [f"cannot use '{verdict.source}' for the {verdict.owner}: {verdict.reason}" for verdict in missed]


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add `run`'s words; a plain `run` never comes here (see `cli.main`), its help and its mistakes do."""
    parser.epilog = _RUN_EXAMPLES
    _add_phase(parser, "the first two")
    _add_sources(parser)
    for name in ("--force", "--resume"):
        parser.add_argument(name, help=FLAGS[name], action="store_true")


def run_run(options: argparse.Namespace, _shell: Shell) -> int:
    """Run what the parser understood; raises as `run_boot`."""
    words = {f"--{name}": value for name, value in vars(options).items() if value and name not in ("verb", "phase")}
    return run_boot(options.phase, words)


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add `plan`'s words."""
    from contextagent.cli.text import add_format  # noqa: PLC0415  # a boot does not print tables

    parser.epilog = _PLAN_EXAMPLES
    _add_phase(parser, "all, in order")
    _add_sources(parser)
    parser.add_argument("--force", help=FLAGS["--force"], action="store_true")
    add_format(parser)


def _add_phase(parser: argparse.ArgumentParser, default: str) -> None:
    words = f"pre-network, post-network or stop (default: {default})"
    parser.add_argument("phase", nargs="?", choices=PHASES, metavar="PHASE", help=words)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    from contextagent.cli.parser import add_valued  # noqa: PLC0415  # a boot needs no parser

    for name in ("--disk", "--metadata"):
        add_valued(parser, name, default=None)


def run_plan(options: argparse.Namespace, shell: Shell) -> int:
    """Print the plan.

    Raises:
        ContextAgentError: As `agent.plan` says.
        RefusedError: The plan is one that only root can know.
    """
    if options.disk is None and is_beyond(shell.host):
        message = "cannot plan 'this machine': only root may read its disks, and what is remembered of its boots"
        raise RefusedError(message, hint="for a disk of your own: contextagent plan --disk PATH")
    request = agent.Request(
        disk=options.disk,
        metadata=options.metadata,
        policy=shell.policy_override,
        tell=_watched(),
        is_forced=options.force,
    )
    outlook = agent.plan(shell.host, options.phase, request)
    for line in complaints(outlook.state, is_all=True):
        shell.warn(line)
    facts = plan_facts(outlook.plan)
    shell.emit(facts, plan_text(facts))
    return 0


def plan_facts(plan: Plan) -> dict[str, object]:
    """Return the plan as JSON (keys are a promise: docs/reference/cli.md)."""
    return {"phase": plan.phase, "steps": [_step_facts(step) for step in plan.steps]}


def _step_facts(step: Step) -> dict[str, object]:
    return {
        "id": step.id,
        "kind": step.kind,
        "owner": step.owner,
        "phase": step.phase,
        "sha512": step.sha512,
        "profile": step.profile,
        "limits": step.limits.as_dict() if step.limits else None,
        "frequency": step.frequency,
        "skip": step.skip,
        "late": step.late,
    }


def plan_text(facts: Mapping[str, Any]) -> str:
    """Return a plan's facts as a table."""
    from contextagent.cli.text import table  # noqa: PLC0415  # a boot does not print tables

    if not facts["steps"]:
        return "nothing to do: no context was found that can be used"
    rows = [
        (
            step["phase"] + (" (late)" if step["late"] else ""),
            step["owner"],
            step["kind"],
            step["id"].split("/", 2)[2],
            step["profile"],
            step["frequency"],
            f"{step['limits']['wall_s']:g} s" if step["limits"] else "",
            step["sha512"][:12],
            f"skipped: {step['skip']}" if step["skip"] else "",
        )
        for step in facts["steps"]
    ]
    return table(("PHASE", "OWNER", "KIND", "NAME", "PROFILE", "FREQUENCY", "WITHIN", "SHA-512", "NOTE"), rows)
