"""The verbs of a boot: `run` and `plan`."""

from __future__ import annotations

import sys

from contextagent import agent
from contextagent.cli import FLAGS, WITH_VALUE, check_metadata
from contextagent.host import Host
from contextagent.runner.status import EXIT_CODES, result_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

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
    check_metadata(metadata)
    request = agent.Request(disk=disk, policy=policy, is_forced="--force" in given, is_resumed="--resume" in given)
    outcome = agent.run(Host(_text(given, "--root") or "/"), (phase,) if phase else agent.BOOT, request)
    if phase == "stop" and not outcome.is_news:
        sys.stdout.write("contextagent: stop already done in this boot\n")
        return 0
    result = result_of(outcome.state)
    _summarise(outcome.state, result)
    return EXIT_CODES[result]


def _text(given: Mapping[str, str | bool], name: str) -> str | None:
    value = given.get(name)
    return value if isinstance(value, str) else None


def _summarise(state: State, result: str) -> None:
    """Print the one line that a console shows, and what went wrong on stderr."""
    for problem in (*state.errors, *state.warnings):
        sys.stderr.write(f"contextagent: {problem.text()}\n")
    for verdict in state.verdicts:
        if verdict.verdict == "broken":
            sys.stderr.write(f"contextagent: cannot use '{verdict.source}' for the {verdict.owner}: {verdict.reason}\n")
    for report in state.reports:
        if report["state"] not in ("ok", "skipped"):
            why = f": {report['reason']}" if report["reason"] else ""
            ended = f" (exit {report['exit_code']})" if report["exit_code"] is not None else ""
            sys.stderr.write(f"contextagent: {report['id']} {report['state']}{ended}{why}\n")
    ran = [report for report in state.reports if report["duration_s"] is not None]
    counts = ", ".join(f"{sum(each['owner'] == owner for each in ran)} {owner}" for owner in ("user", "site"))
    sys.stdout.write(f"contextagent: {result} ({counts} scripts, instance {state.instance_id})\n")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add `run`'s words; a plain `run` never comes here (see `cli.main`), its help and its mistakes do."""
    parser.epilog = _RUN_EXAMPLES
    parser.add_argument(
        "phase", nargs="?", choices=("pre-network", "post-network", "stop"), help="default: the first two"
    )
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
    parser.add_argument(
        "phase", nargs="?", choices=("pre-network", "post-network", "stop"), help="default: all, in order"
    )
    _add_sources(parser)
    parser.add_argument("--force", help=FLAGS["--force"], action="store_true")
    add_format(parser)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    for name in ("--disk", "--metadata"):
        parser.add_argument(name, help=WITH_VALUE[name], metavar=name[2:].upper())


def run_plan(options: argparse.Namespace, shell: Shell) -> int:
    """Print the plan; raises as `agent.plan`."""
    check_metadata(options.metadata)
    request = agent.Request(disk=options.disk, policy=shell.policy_override, is_forced=options.force)
    plan = agent.plan(shell.host, options.phase, request)
    shell.emit(plan_facts(plan), _plan_text(plan))
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


def _plan_text(plan: Plan) -> str:
    from contextagent.cli.text import table  # noqa: PLC0415  # a boot does not print tables

    if not plan.steps:
        return "nothing to do: no context was found"
    rows = [
        (
            step.phase + (" (late)" if step.late else ""),
            step.owner,
            step.kind,
            step.id.split("/", 2)[2],
            step.profile,
            step.frequency,
            f"{step.limits.wall_s:g} s" if step.limits else "",
            step.sha512[:12],
            f"skipped: {step.skip}" if step.skip else "",
        )
        for step in plan.steps
    ]
    return table(("PHASE", "OWNER", "KIND", "NAME", "PROFILE", "FREQUENCY", "WITHIN", "SHA-512", "NOTE"), rows)
