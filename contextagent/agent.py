"""One phase of a boot, told in order: remember, find, judge, plan, run, report."""

from __future__ import annotations

from contextagent.errors import TryLaterError
from contextagent.model import OWNERS, PHASES, Value
from contextagent.plan import Situation, is_logging_asked, make_plan
from contextagent.policy.settings import hear, load_image_policy, merge
from contextagent.runner import chronicle
from contextagent.runner.execution import execute
from contextagent.runner.folders import Folders
from contextagent.runner.journal import Journal
from contextagent.runner.memory import Memory, close_interrupted, recall
from contextagent.runner.reserve import forget_old
from contextagent.runner.state import LOCK, sweep
from contextagent.runner.status import LIVE, tell_running
from contextagent.runner.surroundings import LEDGER, old_log_servers, surroundings
from contextagent.sources.legs import Query, legs, open_owners, settled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from contextagent.host import Host
    from contextagent.model import Phase, Plan, Verdict
    from contextagent.policy.layer import Layer
    from contextagent.policy.settings import Settings
    from contextagent.runner.state import State
    from contextagent.sources.search import Finding

BOOT = PHASES[:2]
"""What `run` and a boot go through; `stop` comes when the machine does."""


_SLACK_S = 2
"""As in `runner.live.clocks`."""
PILOTS = "pilot"
"""As in `runner.keeper`, which most boots do not load: where pilots of this boot are told of."""
_ADDRESSES = ("MACHINEFEATURES", "JOBFEATURES", "JOBOUTPUTS")


class Request(Value):
    """What the caller of one command asks for.

    Attributes:
        disk: `--disk`: a device, an ISO file, a folder, `none`; None for what the machine has.
        metadata: `--metadata`: the service's address, `none`; None for what the policy says.
        policy: `--policy`: a file instead of the image's own; None for that.
        is_forced: Once-markers are ignored.
        tell: Called with a line about what is waited for, where somebody watches.
        is_resumed: An agent before this one may have been killed in the phase: go on with what is left.
    """

    disk: str | None = None
    metadata: str | None = None
    policy: str | None = None
    tell: Callable[[str], object] | None = None
    is_forced: bool = False
    is_resumed: bool = False


class Search(Value):
    """What was searched: the first leg, before the network, and the second; None for what was not."""

    first: Finding | None = None
    second: Finding | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All that was said, in order."""
        return tuple(each for leg in (self.first, self.second) if leg for each in leg.verdicts)


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
        TryLaterError: Another run holds the lock, or the machine is going down.
        CannotWriteError: The agent's own folders can't be written; nothing was done.
        UsageError: `--disk` names nothing, or `--metadata` is no address.
    """
    host.files.make_folder(host.run_folder, 0o755)
    lock = host.lock(f"{host.run_folder}/{LOCK}")
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
        UsageError: `--disk` names nothing, or `--metadata` is no address.
    """
    image = load_image_policy(host, request.policy, may_write=False)
    memory = recall(host)
    known, settings, _ = _found(host, memory.state, phase, request, image, is_trial=True)
    known, features = _with_features(host, memory, known, settings, image, phase, is_trial=True)
    situation = _situation(host, settings, memory, known, phase, request).replace(**features)
    known, situation = _with_logs(host, known, situation)
    steps = make_plan(phase, known.supplies, situation)
    return Outlook(plan=steps, state=known)


def _run_phase(host: Host, phase: Phase, request: Request, image: Layer, memory: Memory) -> Outcome:
    """Run one phase, unless it is over already."""
    if _is_over(memory.state, phase, request):
        return Outcome(state=memory.state, is_news=False)
    if request.is_resumed and phase in BOOT and host.is_going_down():
        # systemd calls the second command of a unit that it is about to stop, too
        hint = "its stop phase is what comes next"
        raise TryLaterError(f"cannot go on with '{phase}': the machine is going down", hint=hint)
    known, settings, search = _found(host, memory.state, phase, request, image, is_trial=False)
    journal = Journal.open(host, instance_id=known.instance_id, on_full=settings["trace.on_full"])
    try:
        chronicle.begin(host, journal, known, image, search.verdicts)
        forget_old(host, keep_days=settings["trace.keep_days"])
        known = close_interrupted(journal, memory.replace(state=known))
        around = surroundings(host, known, settings, phase)
        known = known.saying(warnings=around.problems)
        if search.second and not search.first:
            from contextagent.sources.arriving import moved_in  # noqa: PLC0415  # only after a search

            moved_in(host, memory.state, known)
        folders = Folders(host, known.instance_id, around.owners)
        if search.first or search.second:
            from contextagent.sources.arriving import installed  # noqa: PLC0415  # as above

            known = installed(host, search.first, search.second, memory.state, known, folders)
        known, features = _with_features(host, memory, known, settings, image, phase, is_trial=False)
        around = around.with_outputs(host, known.published.get("outputs", ""))
        situation = _situation(host, settings, memory, known, phase, request).replace(**features)
        known, situation = _with_logs(host, known, situation)
        is_withheld = journal.is_full and settings["trace.on_full"] == "strict"
        steps = make_plan(phase, known.supplies, situation.replace(is_user_withheld=is_withheld))
        whole = steps if phase == BOOT[0] else make_plan(None, known.supplies, situation)
        begun = memory.begun if situation.begun else {}
        known = execute(host, journal, known, steps, folders=folders, around=around, whole=whole, begun=begun)
        return Outcome(state=known, is_news=True)
    finally:
        journal.close()


def _is_over(known: State, phase: Phase, request: Request) -> bool:
    """Whether there is nothing to do: the phase that is resumed is complete, or the boot has had its stop."""
    is_once = request.is_resumed or (phase == "stop" and not request.is_forced)
    return is_once and known.phases.get(phase, {}).get("state") not in (None, "pending", "running")


def _is_known(known: State, phase: Phase, request: Request) -> bool:
    """Whether this boot's disks were searched already: by the phase before, or by a killed agent in this one."""
    earlier = [each for each in known.phases if PHASES.index(each) < PHASES.index(phase)]
    return bool(earlier) or _is_begun(known, phase, request)


def _is_begun(known: State, phase: Phase, request: Request) -> bool:
    """Whether a killed agent had everything for this phase, which is gone on with."""
    return request.is_resumed and known.phases.get(phase, {}).get("state") == "running"


def _found(  # the story's first half, for `run` and `plan` alike
    host: Host, known: State, phase: Phase | None, request: Request, image: Layer, *, is_trial: bool
) -> tuple[State, Settings, Search]:
    """Return the state with this boot's context in it, what holds by its voices, and what was searched for that.

    A boot asks the sources that need no network before there is one; the others, for whoever is still without, after.
    """
    start_ns = host.mono_ns()
    is_first_due = not _is_known(known, phase or BOOT[0], request)
    is_second_due = phase in (None, BOOT[1]) and (is_first_due or not _is_begun(known, BOOT[1], request))
    settings = merge(image)
    order = legs(settings, disk=request.disk, metadata=request.metadata)
    query = Query(
        sources=order.before,
        owners=OWNERS,
        disk=request.disk,
        metadata=request.metadata,
        start_ns=start_ns,
        is_last=not order.after,
        is_trial=is_trial,
        heard=lambda supply: hear(image, {"site": supply}).settings,
    )
    first: Finding | None = None
    second: Finding | None = None
    if is_first_due:
        from contextagent.sources import arriving, search  # noqa: PLC0415  # a later phase of a boot may search nothing

        first = search.search(host, settings, known, query)
        known = arriving.judged(host, known, first)
    known, settings = _heard(image, known)
    going_on = open_owners(known, settings, order)
    if first is not None:
        known = settled(known, going_on)
    if is_second_due and going_on:
        from contextagent.sources import arriving, search  # noqa: PLC0415  # as above

        if not is_trial:
            tell_running(host, known, BOOT[1])
        if request.tell is not None:
            request.tell(f"asking {request.metadata or settings['metadata.address']} for the {' and '.join(going_on)}")
        query = query.replace(sources=order.after, owners=going_on, is_last=True)
        second = search.search(host, settings, known, query)
        known, settings = _heard(image, arriving.joined(host, settings, known, second))
    return known, settings, Search(first=first, second=second)


def _heard(image: Layer, known: State) -> tuple[State, Settings]:
    """Return what holds once all voices were heard, and the state with what is to be remembered and said of them."""
    heard = hear(image, known.supplies, known.layers)
    known = known.replace(layers=heard.layers)
    return known.saying(errors=heard.problems, warnings=heard.settings.warnings), heard.settings


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
        late=OWNERS if is_late else known.late,
        begun={each: "done" if end else "interrupted" for each, end in memory.begun.items()} if is_continued else {},
        has_pilot=phase == "stop" and host.files.exists(f"{host.run_folder}/{PILOTS}"),
    )


def _with_features(  # both halves of the story meet here
    host: Host, memory: Memory, known: State, settings: Settings, image: Layer, phase: Phase | None, *, is_trial: bool
) -> tuple[State, dict[str, Any]]:
    """Return the state and, for the plan, the features that are to be published; what only a service has is asked for.

    A boot in which nobody says anything is as if the agent were not there.
    """
    if known.instance_id != memory.state.instance_id and known.first.get("boot_id") != known.boot_id:
        known = known.replace(first={})
    if phase == "stop":
        return known, {}
    names_addresses = _names_addresses(known)
    supplied = " ".join(supply.digest for supply in known.supplies.values() if supply)
    mark = f"{known.boot_id} {image.sha512} {supplied}"
    if phase == BOOT[1] and not is_trial and not names_addresses and _is_published(host, known, settings, mark):
        return known, {}
    from contextagent.runner import publish, publishing  # noqa: PLC0415  # a phase may have nothing to publish

    outputs, is_sites = "", True
    if names_addresses:
        from contextagent.sources import features  # noqa: PLC0415  # most contexts name none

        urls, problems = features.urls(host, known)
        outputs, is_sites = urls.outputs, urls.is_sites
        known = known.saying(warnings=problems)
        if phase == BOOT[1] and not is_trial:
            read = features.read_features(host, urls, previous=known.read)
            known = known.replace(read=read.values).saying(warnings=read.problems)
    voices = publish.voices(host, known, settings, is_read_sites=is_sites, outputs=outputs)
    due = publishing.due(host, known, voices, mark=mark)
    is_shown = due.is_shown or not is_trial
    return due.state, {"features": due.features if is_shown else None, "features_ours": due.ours}


def _is_published(host: Host, known: State, settings: Settings, mark: str) -> bool:
    """Whether all stands as the phase before published it: nothing was said since, and no user could have changed it.

    Its only use is that most boots do not pay twice for the same.
    """
    epoch_s = host.utc_ns() / 1e9 - host.boot_ns() / 1e9
    return (
        known.published.get("mark") == mark
        and abs(epoch_s - known.published["boot_epoch_s"]) < _SLACK_S
        and not host.is_caller
        and not (known.supplies.get("user") and settings["user.profile"] == "root")
        and host.files.exists(f"{host.run_folder}/{LIVE}")
    )


def _names_addresses(known: State) -> bool:
    """Whether the context can say where features are read or outputs go."""
    supplies = [supply for supply in known.supplies.values() if supply]
    is_said = any(name in supply.variables for supply in supplies for name in _ADDRESSES)
    return is_said or any(kept.reason == "meta-map" for supply in supplies for kept in supply.kept)


def _with_logs(host: Host, known: State, situation: Situation) -> tuple[State, Situation]:
    """Return both with what the machine's log daemons are told; a boot that asks nothing of them pays nothing."""
    old = old_log_servers(
        host,
        situation.settings,
        known.supplies.get("site"),
        read=known.read.get("machine/syslog", ""),
        published=(*known.published.get("extras", ()), *situation.features_ours),
    )
    if not old and not is_logging_asked(situation.settings) and not host.files.exists(LEDGER):
        return known, situation
    from contextagent.runner.logdaemons import find_targets  # noqa: PLC0415  # most boots ask for no logging

    found = find_targets(host, situation.settings, old, boot_id=known.boot_id, instance_id=known.instance_id)
    known = known.saying(warnings=found.warnings, errors=found.errors)
    return known, situation.replace(
        log_targets=found.targets, logs_wanted=found.wanted, logs_barred=found.barred, log_leftovers=found.leftovers
    )
