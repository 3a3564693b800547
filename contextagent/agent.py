"""One phase of a boot, told in order: remember, find, judge, plan, run, report."""

from __future__ import annotations

from contextagent.errors import CannotWriteError
from contextagent.model import OWNERS, PHASES, Problem, Value
from contextagent.plan import Situation, make_plan
from contextagent.policy.settings import hear, load_image_policy, merge
from contextagent.runner import chronicle
from contextagent.runner.execution import execute
from contextagent.runner.folders import Folders
from contextagent.runner.journal import Journal
from contextagent.runner.memory import Memory, close_interrupted, once_in_traces, recall
from contextagent.runner.reserve import forget_old
from contextagent.runner.state import RUN, State, instance_folder, sweep
from contextagent.runner.surroundings import surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from contextagent.host import Host
    from contextagent.model import Owner, Phase, Plan, Supply
    from contextagent.policy.layer import Layer
    from contextagent.policy.settings import Settings
    from contextagent.sources.search import Finding

BOOT = PHASES[:2]
"""What `run` and a boot go through; `stop` comes when the machine does."""


class Request(Value):
    """What the caller of one command asks for.

    Attributes:
        disk: `--disk`: a device, an ISO file, a folder, `none`; None for what the machine has.
        policy: `--policy`: a file instead of the image's own; None for that.
        is_forced: Once-markers are ignored.
        is_resumed: An agent before this one may have been killed in the phase: go on with what is left.
    """

    disk: str | None = None
    policy: str | None = None
    is_forced: bool = False
    is_resumed: bool = False


class Outlook(Value):
    """What `run` would do now (`plan`), and what is known of this boot before it does (`state`)."""

    plan: Plan
    state: State


class Outcome(Value):
    """What is remembered of this boot after a run, and whether the run did anything (`is_news`)."""

    state: State
    is_news: bool


def run(host: Host, phases: Sequence[Phase], request: Request) -> Outcome:
    """Run the phases in order, and return what came out.

    Raises:
        InvalidInputError: The image's policy is invalid; nothing was done.
        TryLaterError: Another run holds the lock.
        CannotWriteError: The agent's own folders can't be written; nothing was done.
        UsageError: `--disk` names nothing.
    """
    host.files.make_folder(RUN, 0o755)
    lock = host.lock(f"{RUN}/lock")
    try:
        sweep(host)
        image = load_image_policy(host, request.policy)
        outcomes: list[Outcome] = []
        for phase in phases:
            # the phase before is remembered here, too: a disk that takes no state must not make it begin again
            memory = Memory(state=outcomes[-1].state) if outcomes and outcomes[-1].is_news else recall(host)
            outcomes.append(_run_phase(host, phase, request, image, memory))
        return Outcome(state=outcomes[-1].state, is_news=any(outcome.is_news for outcome in outcomes))
    finally:
        lock.release()


def plan(host: Host, phase: Phase | None, request: Request) -> Outlook:
    """Return the plan that `run` would execute now, and what it says of the sources; nothing on the machine is changed.

    Raises:
        InvalidInputError: The image's policy is invalid.
        UsageError: `--disk` names nothing.
    """
    image = load_image_policy(host, request.policy, may_write=False)
    memory = recall(host)
    known, _ = _found(host, memory.state, phase or BOOT[0], request, image, is_trial=True)
    known, settings = _heard(image, known)
    steps = make_plan(phase, known.supplies, _situation(host, settings, memory, known, phase, request))
    return Outlook(plan=steps, state=known)


def _run_phase(host: Host, phase: Phase, request: Request, image: Layer, memory: Memory) -> Outcome:
    """Run one phase, unless it is over already."""
    if _is_over(memory.state, phase, request):
        return Outcome(state=memory.state, is_news=False)
    known, finding = _found(host, memory.state, phase, request, image, is_trial=False)
    known, settings = _heard(image, known)
    journal = Journal.open(host, instance_id=known.instance_id, on_full=settings["trace.on_full"])
    try:
        chronicle.begin(host, journal, known if finding else known.replace(verdicts=()), image)
        forget_old(host, keep_days=settings["trace.keep_days"])
        known = close_interrupted(journal, memory.replace(state=known))
        around = surroundings(host, known, settings, phase)
        folders = Folders(host, known.instance_id, around.owners)
        known = _with(known, warnings=around.problems)
        if finding:
            known = _installed(host, finding, memory.state, known, folders)
        situation = _situation(host, settings, memory, known, phase, request)
        is_withheld = journal.is_full and settings["trace.on_full"] == "strict"
        steps = make_plan(phase, known.supplies, situation.replace(is_user_withheld=is_withheld))
        whole = steps if phase == BOOT[0] else make_plan(None, known.supplies, situation)
        begun = memory.begun if situation.begun else {}
        known = execute(host, journal, known, steps, folders=folders, around=around, whole=whole, begun=begun)
        return Outcome(state=known, is_news=True)
    finally:
        journal.close()


def _is_over(known: State, phase: Phase, request: Request) -> bool:
    """Whether there is nothing to do: the phase that is resumed is complete."""
    return request.is_resumed and known.phases.get(phase, {}).get("state") not in (None, "pending", "running")


def _is_known(known: State, phase: Phase, request: Request) -> bool:
    """Whether this boot's context was found already: by the phase before, or by a killed agent in this one."""
    begun = known.phases.get(phase, {}).get("state") == "running"
    earlier = [each for each in known.phases if PHASES.index(each) < PHASES.index(phase)]
    return bool(earlier) or (begun and request.is_resumed)


def _found(
    host: Host, known: State, phase: Phase, request: Request, image: Layer, *, is_trial: bool
) -> tuple[State, Finding | None]:
    """Return the state with this boot's context in it, and the finding where it had to be searched for."""
    if _is_known(known, phase, request):
        return known, None
    from contextagent.sources.search import search  # noqa: PLC0415  # a later phase of a boot searches nothing

    finding = search(host, merge(image), known, override=request.disk, is_trial=is_trial)
    return _judged(host, known, finding), finding


def _heard(image: Layer, known: State) -> tuple[State, Settings]:
    """Return what holds once all voices were heard, and the state with what is to be remembered and said of them."""
    heard = hear(image, known.supplies, known.layers)
    known = known.replace(layers=heard.layers)
    return _with(known, errors=heard.problems, warnings=heard.settings.warnings), heard.settings


def _judged(host: Host, known: State, finding: Finding) -> State:
    """Return the state of an instance whose context has just been found, before anything of it runs."""
    identity = finding.identity
    if identity.is_new:
        once = {} if known.instance_id else once_in_traces(host, identity.instance_id)
        known = State(
            instance_id=identity.instance_id,
            boot_id=known.boot_id,
            last=known.last,
            warnings=known.warnings,
            once=once,
        )
    supplies: dict[Owner, Supply | None] = {
        owner: staged.supply if staged else None for owner, staged in finding.staged.items()
    }
    lasting = tuple(each for each in known.warnings if each.reason == "state-damaged")
    known = known.replace(
        ids=identity.ids,
        phases={},
        reports=(),
        errors=(),
        warnings=lasting,
        supplies=supplies,
        verdicts=finding.verdicts,
    )
    kept = [problem for supply in supplies.values() if supply for problem in _kept(supply)]
    return _with(known, warnings=(*finding.warnings, *kept, *_cloud_init(host, supplies.get("user"))))


def _kept(supply: Supply) -> list[Problem]:
    """Return one warning for each payload that nothing here runs, so that nobody waits for it."""
    why = {"for-the-pilot": "it is for the pilot", "for-amiconfig": "it is for amiconfig"}
    unknown = "no form of user data that is known"
    return [
        Problem(
            reason=kept.reason,
            message=f"cannot run '{kept.name}': {why.get(kept.reason, unknown)}, keeping it",
        )
        for kept in supply.kept
    ]


def _cloud_init(host: Host, user: Supply | None) -> tuple[Problem, ...]:
    """Return the one warning where cloud-init would run the user data, too; the rule needs something to run."""
    if user is None or not any(script.is_user_data for script in user.scripts):
        return ()
    from contextagent.sources.cloud_init import is_enabled  # noqa: PLC0415  # only user data raises the question

    if not is_enabled(host):
        return ()
    message = (
        "cannot run the user data before the site's scripts: cloud-init is enabled in this image and runs it itself, "
        "ignoring it (the image's endorser can switch cloud-init off)"
    )
    return (Problem(reason="cloud-init", message=message),)


def _with(known: State, *, warnings: Sequence[Problem] = (), errors: Sequence[Problem] = ()) -> State:
    """Return the state with more to say, each thing once."""
    return known.replace(
        warnings=tuple(dict.fromkeys((*known.warnings, *warnings))),
        errors=tuple(dict.fromkeys((*known.errors, *errors))),
    )


def _situation(  # everything that a plan depends on
    host: Host, settings: Settings, memory: Memory, known: State, phase: Phase | None, request: Request
) -> Situation:
    earlier = known.phases.get(BOOT[0], {}).get("state")
    is_late = phase == "post-network" and earlier in (None, "running")
    is_continued = request.is_resumed or (is_late and earlier == "running")
    return Situation(
        settings=settings,
        is_caller=host.is_caller,
        once=known.once,
        is_forced=request.is_forced,
        is_cloud_init=any(each.reason == "cloud-init" for each in known.warnings),
        late=OWNERS if is_late else (),
        begun={each: "done" if end else "interrupted" for each, end in memory.begun.items()} if is_continued else {},
    )


def _installed(host: Host, finding: Finding, before: State, known: State, folders: Folders) -> State:
    """Put each owner's staged supply in place; return the state with the folders that were made from it."""
    from contextagent.sources.staging import install  # noqa: PLC0415  # only after a search

    made = dict(known.folders)
    for owner in reversed(OWNERS):
        staged = finding.staged[owner]
        if staged is None or not staged.folder:
            continue
        digest = staged.supply.digest
        is_kept = owner == "user" and not finding.identity.is_new and before.folders.get(owner) == digest
        try:
            install(host, staged, instance_folder(known.instance_id), folders, is_folder_kept=is_kept)
            made[owner] = digest
        except (OSError, CannotWriteError) as error:
            known = _not_had(known, owner, f"cannot put the {owner}'s material in place: {error}")
    return known.replace(folders=made)


def _not_had(known: State, owner: Owner, why: str) -> State:
    """Return the state without an owner's material, which could not be written: its source is as good as broken."""
    return known.replace(
        supplies={**known.supplies, owner: None},
        verdicts=tuple(
            each.replace(verdict="broken", reason=f"cannot-write: {why}")
            if (each.owner, each.verdict) == (owner, "found")
            else each
            for each in known.verdicts
        ),
    )
