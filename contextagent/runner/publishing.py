"""Features in a boot: what is to be published by this phase, and the step of its plan that does it."""

from __future__ import annotations

from contextagent.features.values import Standing, standing
from contextagent.features.vocabulary import is_extra
from contextagent.model import Value
from contextagent.runner import publish
from contextagent.runner.live import load_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.features.values import Voices
    from contextagent.host import Host
    from contextagent.model import Problem, Step
    from contextagent.runner.journal import Journal
    from contextagent.runner.live import Live
    from contextagent.runner.state import State


class Done(Value):
    """What came of a step: what went wrong, and what was mended."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


class Due(Value):
    """What a phase has to publish.

    Attributes:
        state: The state with it: where job outputs go, and what the next boot has to clear away.
        features: What is to be published, or taken back where it is empty; None where there is neither.
        is_shown: Whether a plan has to tell of it: what the machine itself knows is published like its state, unasked.
        ours: Keys of a site's own that the boot before left published.
    """

    state: State
    features: Standing | None
    ours: tuple[str, ...]
    is_shown: bool = True


def due(host: Host, known: State, voices: Voices, *, mark: str = "") -> Due:
    """Return what is to be published now; `mark` stands for all that was said, and is kept for the next phase."""
    known = known.replace(first=publish.first_seen(host, known))
    stand = standing(publish.facts(host, known, load_live(host)), voices)
    ours = tuple(known.published.get("extras", ()))
    if not stand.values:
        state = known.replace(published={})
        return Due(state=state, features=stand if known.published else None, ours=ours)
    extras = [key for key in stand.values if is_extra(key)]
    published = {"extras": extras, "outputs": stand.outputs, "mark": mark, "boot_epoch_s": stand.boot_epoch_s}
    state = known.replace(published=published)
    return Due(state=state.saying(warnings=stand.problems), features=stand, ours=ours, is_shown=stand.is_said)


def take(host: Host, journal: Journal, step: Step) -> Done:
    """Publish, or take back what an earlier boot published."""
    (stand,) = step.told
    if not stand.values:
        return Done(problems=publish.withdraw(host, step.lines))
    before = load_live(host)
    live, problems = publish.publish(host, stand, before=before, ours=step.lines)
    problems += publish.furnish(host, stand, host.account(step.target))
    mended = tuple(each for each in problems if each.reason == publish.CHANGED)
    _record(journal, live, before, is_mended=bool(mended))
    return Done(problems=tuple(each for each in problems if each not in mended), warnings=mended)


def _record(journal: Journal, live: Live, before: Live | None, *, is_mended: bool) -> None:
    """Record what is published, and the end that comes first, where either is news."""
    if is_mended or before is None or live.features != before.features:
        journal.record("features", is_durable=False, **publish.traced(live.features))
    if live.lifetime and (before is None or before.lifetime != live.lifetime):
        journal.record("lifetime", is_durable=False, **live.lifetime)
