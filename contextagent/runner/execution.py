"""The execution of a plan: begun and ended in trace, state and status, whatever happens between."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.errors import CannotWriteError
from contextagent.model import PHASES, Problem
from contextagent.runner import status as report
from contextagent.runner.journal import LOGS, receipt_path
from contextagent.runner.phase import OWN_NAMES, PhaseRun
from contextagent.runner.state import save
from contextagent.trace.records import rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from contextagent.host import Host
    from contextagent.model import Ending, Phase, Plan, Step
    from contextagent.policy.settings import Settings
    from contextagent.runner.folders import Folders
    from contextagent.runner.journal import Journal
    from contextagent.runner.state import State
    from contextagent.runner.surroundings import Surroundings

_TELL_EVERY_S = 1.0
_TELL_SHARE = 100
"""How often progress is published: at most once a second, and for at most a hundredth of the time.

A context of 5,000 scripts must not write 5,000 status files, each larger than the last.
"""


class _Standing:
    """Where the state stands while a plan is executed; what can't be written is said and ends nothing."""

    def __init__(self, host: Host, journal: Journal, state: State, *, is_continued: bool) -> None:
        self._host = host
        self._journal = journal
        self.state = state
        if not is_continued:
            self.state = state.replace(last=self._place())
        self._next_ns = 0

    def _place(self) -> dict[str, Any]:
        return {"boot": self.state.boot_id, "seq": self._journal.seq, "hash": self._journal.head}

    def end(self) -> None:
        """Write the state of a phase that is over: what the trace says of it need not be read again."""
        self.state = self.state.replace(last=self._place())
        self.save()

    def save(self) -> bool:
        """Write the state, durably; return whether that worked.

        Its `last` stays where the phase began: whoever goes on after a kill has to know all that was done in it.
        """
        try:
            save(self._host, self.state)
        except CannotWriteError as error:
            self._said(error)
            return False
        return True

    def tell(self, reports: Sequence[Mapping[str, Any]] = (), *, is_final: bool = False) -> None:
        """Publish status.json, at most once a second until the end."""
        now_ns = self._host.mono_ns()
        if not is_final and now_ns < self._next_ns:
            return
        shown = self.state.replace(reports=(*self.state.reports, *reports))
        try:
            report.publish(self._host, report.make_status(shown, order=PHASES))
        except CannotWriteError as error:
            self._said(error)
        cost_ns = self._host.mono_ns() - now_ns
        self._next_ns = now_ns + max(int(_TELL_EVERY_S * 1e9), _TELL_SHARE * cost_ns)

    def remember(self, step: Step) -> bool:
        """Remember in the state that a step is about to run, where the trace can't."""
        self.state = self.state.replace(once={**self.state.once, step.id: (step.sha512, "running")})
        return self.save()

    def keep_receipt(self, plan: Plan, around: Surroundings) -> None:
        """Write the boot's receipt so far; the phase before the network is too early to be worth one."""
        from contextagent.trace.receipt import make_receipt  # noqa: PLC0415  # one phase of a boot alone writes it

        scripts = {
            step.id: {
                "limits": step.limits.as_dict() if step.limits else None,
                "environment": sorted((*around.environment[step.owner], *OWN_NAMES)),
            }
            for step in plan.steps
            if step.kind == "script"
        }
        trust = {owner: supply.trust for owner, supply in self.state.supplies.items() if supply}
        receipt = make_receipt(self._journal.events(), {"trust": trust, "scripts": scripts})
        try:
            text = jsontext.dumps(receipt).encode() + b"\n"
            self._host.files.make_folder(LOGS)  # a link in its place is not followed
            self._host.files.write(receipt_path(self.state.boot_id), text)
        except CannotWriteError as error:
            self._said(error)

    def warn(self, problems: Sequence[Problem]) -> None:
        """Keep in mind what went wrong, each thing once."""
        self.state = self.state.saying(warnings=problems)

    def _said(self, error: CannotWriteError) -> None:
        self.warn((Problem(reason=error.reason, message=f"{error}, going on without it"),))


def execute(  # the hands' whole surroundings, by keyword
    host: Host,
    journal: Journal,
    state: State,
    plan: Plan,
    *,
    folders: Folders,
    around: Surroundings,
    whole: Plan,
    begun: Mapping[str, Ending | None],
) -> State:
    """Execute the plan of one phase, and return what is remembered then.

    The plan of the `whole` boot is for the receipt, which tells of the phases before, too. What a killed agent had
    `begun` is reported as it ended. Once all scripts are over, the stop phase hands over what they left.

    The state is written before the first script, so that a killed agent knows what it was about, and after the last.
    """
    phase = _phase_of(plan)
    began_ns, began = host.mono_ns(), rfc3339(host.utc_ns())
    standing = _Standing(host, journal, _without(state, plan, began), is_continued=bool(begun))
    standing.save()
    standing.tell()
    work = PhaseRun(
        host=host,
        journal=journal,
        folders=folders,
        around=around,
        begun=begun,
        remember=standing.remember,
        tell=standing.tell,
        logging=state.logging,
    )
    work.run(plan)
    duration_s = round((host.mono_ns() - began_ns) / 1e9, 3)
    ended = {"started": began, "finished": rfc3339(host.utc_ns()), "duration_s": duration_s}
    standing.state = _after(standing.state, phase, ended, work)
    is_published = host.files.exists(f"{host.run_folder}/{report.LIVE}")
    if phase == "stop" and is_published:
        standing.keep_receipt(whole, around)
        _tell_end(host, journal, standing, around.settings)
    _close(host, journal, standing, phase, work)
    if phase != PHASES[0]:
        standing.keep_receipt(whole, around)
    if phase == "post-network" and is_published:
        _let_end(host, journal, standing, around.settings)
    return standing.state


def _tell_end(host: Host, journal: Journal, standing: _Standing, settings: Settings) -> None:
    """Hand over what pilot and scripts left, and tell how the machine ends."""
    from contextagent.runner import ending  # noqa: PLC0415  # a machine without features has nobody to tell

    standing.warn(ending.at_stop(host, settings, record=journal.record))


def _let_end(host: Host, journal: Journal, standing: _Standing, settings: Settings) -> None:
    """Let the machine's end be asked for from now on; one whose site part failed is told of at once."""
    from contextagent.runner import wishes  # noqa: PLC0415  # a machine without features has nobody to tell

    problems = wishes.open_folder(host, settings)
    if report.result_of(standing.state) == "failed":
        from contextagent.runner import ending  # noqa: PLC0415  # few boots fail

        problems += ending.after_boot(host, standing.state, settings, record=journal.record)
    elif not problems:
        return
    standing.warn(problems)
    standing.end()
    standing.tell(is_final=True)


def _phase_of(plan: Plan) -> Phase:
    if plan.phase is None:
        message = "a plan of all phases is for reading"
        raise TypeError(message)
    return plan.phase


def _without(state: State, plan: Plan, began: str) -> State:
    """Return the state with a phase that has begun, without reports of the scripts that are about to be reported again.

    A boot that is done again, by hand or by init, is to be stopped again.
    """
    again = {step.id for step in plan.steps}
    phases = {name: each for name, each in state.phases.items() if name != "stop"}
    return state.replace(
        reports=tuple(each for each in state.reports if each["id"] not in again),
        phases={**phases, _phase_of(plan): report.running(began)},
    )


def _after(state: State, phase: Phase, ended: Mapping[str, Any], work: PhaseRun) -> State:
    """Return what is known once a phase is over."""
    ended = {"state": report.phase_state(work.reports, work.problems), **ended}
    return state.replace(
        phases={**{name: _cut(each) for name, each in state.phases.items()}, phase: ended},
        reports=(*state.reports, *work.reports),
        once={**state.once, **work.once},
        errors=tuple(dict.fromkeys((*state.errors, *work.problems))),
        warnings=tuple(dict.fromkeys((*state.warnings, *work.warnings))),
        logging=work.logging,
    )


def _cut(phase: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an earlier phase; one in which the agent was killed has had its rest done by now, but is not simply ok."""
    return {**phase, "state": "degraded"} if phase["state"] == "running" else phase


def _close(host: Host, journal: Journal, standing: _Standing, phase: Phase, work: PhaseRun) -> None:
    """End the phase in trace, state and status; the one line of what came out is the caller's to print."""
    result = report.result_of(standing.state)
    journal.anchor()
    if phase == "stop":
        journal.record("shutdown", reason=result)
        host.announce(f"trace: anchor {standing.state.boot_id} {journal.seq} {journal.head}")
        if work.logs and (said := work.logs.flush_rest()):
            host.announce(f"trace: {said}")
    known = standing.state
    standing.state = known.replace(warnings=tuple(dict.fromkeys((*known.warnings, *journal.problems))))
    standing.end()
    standing.tell(is_final=True)
