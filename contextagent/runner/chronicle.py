"""What is recorded of a phase beside its scripts: the boot itself, what each source said, the phase's end."""

from __future__ import annotations

from contextagent import __version__
from contextagent.runner.journal import last_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from contextagent.host import Host
    from contextagent.model import Owner, Supply, Verdict
    from contextagent.policy.settings import Layer
    from contextagent.runner.journal import Journal
    from contextagent.runner.state import State


def begin(host: Host, journal: Journal, state: State, image: Layer, news: Sequence[Verdict]) -> None:
    """Record the boot (once a boot) and what every source said: `news` are the verdicts that are not recorded yet."""
    if journal.seq == 0:
        journal.record(
            "boot",
            is_durable=False,
            agent=__version__,
            agent_sha512=agent_sha512(),
            policy_sha512=image.sha512,
            kernel=host.kernel_release(),
            image=None,
            baseline=None,
            modes={"root": host.root} if host.is_caller else {},
            last=last_record(host, state.last["boot"]) if state.last else None,
        )
    for verdict in news:
        _record_source(journal, verdict, state.supplies.get(verdict.owner))
    _record_cached(journal, state, {verdict.owner for verdict in news})
    journal.sync()


def _record_source(journal: Journal, verdict: Verdict, supply: Supply | None) -> None:
    """Record a verdict; where it brought the supply that is in use, with its size and digest, and what is only kept."""
    given = supply if supply and (verdict.verdict, verdict.source) == ("found", supply.source) else None
    facts = {"bytes": _bytes(given) if given else 0, "sha512": given.digest if given else "", **verdict.facts}
    journal.record(
        "source",
        is_durable=False,
        owner=verdict.owner,
        source=verdict.source,
        verdict=verdict.verdict,
        reason=verdict.reason,
        **facts,
    )
    for kept in given.kept if given else ():
        journal.record(
            "refuse",
            is_durable=False,
            id=f"{verdict.owner}/{kept.name}",
            owner=verdict.owner,
            result="kept",
            reason=kept.reason,
            digest=kept.sha512,
        )


def _record_cached(journal: Journal, state: State, owners: Collection[Owner]) -> None:
    for owner, supply in state.supplies.items():
        if owner in owners and supply and supply.source.startswith("cached:"):
            journal.record(
                "source",
                is_durable=False,
                owner=owner,
                source=supply.source,
                verdict="found",
                reason="the last good context of this instance",
                bytes=_bytes(supply),
                sha512=supply.digest,
            )


def _bytes(supply: Supply) -> int:
    sizes = [item.size_bytes for items in (supply.scripts, supply.files, supply.kept) for item in items]
    return sum(sizes) + sum(size for _, _, size in supply.companions)


def agent_sha512() -> str:
    """Return one digest over the agent's own modules.

    What runs is what is digested: a package manager's word for it may be older than the last attack.
    """
    from contextagent.host import program  # noqa: PLC0415  # once a boot

    return program.sha512()
