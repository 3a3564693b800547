"""The search for each owner's context: sources in order, verdict by verdict, and what it means for the instance."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.model import Problem, Supply, Value, Verdict
from contextagent.runner.state import State, digest_of, instance_folder
from contextagent.sources.disk import search_disks
from contextagent.sources.identity import DMI, identify
from contextagent.sources.legs import ends, last_good
from contextagent.sources.staging import Staged, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contextagent.host import Host
    from contextagent.model import Owner
    from contextagent.policy.settings import Settings
    from contextagent.sources.found import Findings, Found
    from contextagent.sources.identity import Identity
    from contextagent.sources.legs import Query

OUTAGES = frozenset(
    ("read-error", "not-ready", "unreachable", "timeout", "reset", "server-error", "rate-limited", "down", "cut-short")
)
"""Reasons that speak of the source's health, not of what it holds: here the last good context may serve."""


class Finding(Value):
    """What a leg found, staged but not yet installed.

    Attributes:
        identity: The instance that this boot belongs to.
        staged: Per owner asked for what was supplied; None where nothing was found or it is broken.
        verdicts: In the order tried.
        warnings: What was passed over, and what happens next.
    """

    identity: Identity
    staged: Mapping[Owner, Staged | None]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[Problem, ...] = ()


def search(host: Host, settings: Settings, known: State, query: Query) -> Finding:
    """Return what each owner supplies for this boot, as far as one leg's sources tell.

    Args:
        host: The machine.
        settings: They say where to look and how much to take.
        known: What is remembered of the instance before.
        query: Whom to search for, and where.

    Raises:
        UsageError: `--disk` does not exist, or `--metadata` is no address.
        CannotWriteError: The state can't be written.
    """
    asked: list[Findings] = []
    try:
        wanted = query.owners
        for source in query.sources:
            findings = _ask(host, settings, query, source, wanted)
            asked.append(_for_owners(findings, wanted))
            ended = {each.owner for each in asked[-1].verdicts if ends(each, settings)}
            wanted = tuple(owner for owner in wanted if owner not in ended)
        ids = {kind: value for findings in reversed(asked) for kind, value in findings.ids.items()}
        identity = identify(known.instance_id, known.ids, {**ids, DMI: host.product_uuid()})
        found = _stage_all(host, settings, asked, identity, known, query)
        for findings in asked if not query.is_trial else ():
            findings.eject()
        return found
    finally:
        for findings in asked:
            findings.close()


def _ask(host: Host, settings: Settings, query: Query, source: str, owners: tuple[Owner, ...]) -> Findings:
    if source == "disk":
        return search_disks(host, settings, override=query.disk)
    from contextagent.sources.metadata import search_service  # noqa: PLC0415  # a boot from a disk never asks

    return search_service(
        host,
        settings,
        owners=owners,
        override=query.metadata,
        start_ns=query.start_ns,
        is_trial=query.is_trial,
    )


def _for_owners(findings: Findings, owners: Sequence[Owner]) -> Findings:
    """Return the findings without what concerns owners whose search has ended before."""
    return findings.replace(
        found={owner: found for owner, found in findings.found.items() if owner in owners},
        verdicts=tuple(each for each in findings.verdicts if each.owner in owners),
    )


def _stage_all(  # a step of `search`
    host: Host, settings: Settings, asked: list[Findings], identity: Identity, known: State, query: Query
) -> Finding:
    folder = "" if query.is_trial else instance_folder(identity.instance_id)
    if folder:
        host.files.make_folder(folder)
    verdicts = [each for findings in asked for each in findings.verdicts]
    warnings = [each for findings in asked for each in findings.warnings]
    staged: dict[Owner, Staged | None] = dict.fromkeys(query.owners)
    for owner in reversed(query.owners):  # the site first: a user who fills the disk must not cost it its own
        found = _best(asked, owner)
        if found is not None:
            staged[owner] = _stage(host, found, settings, folder, verdicts)
        elif not identity.is_new and (query.is_last or any(ends(each, settings) for each in _of(verdicts, owner))):
            staged[owner] = _cached(host, known, owner, verdicts)
        each = staged[owner]
        warnings += each.warnings if each else ()
        if owner == "site" and each and each.supply.settings:
            settings = query.heard(each.supply)
    return Finding(identity=identity, staged=staged, verdicts=tuple(verdicts), warnings=tuple(warnings))


def _of(verdicts: Sequence[Verdict], owner: Owner) -> list[Verdict]:
    return [each for each in verdicts if each.owner == owner]


def _best(asked: Sequence[Findings], owner: Owner) -> Found | None:
    """Return what the first source with an owner's material gave; failing that, the first that gave anything."""
    given = [found for findings in asked if (found := findings.found.get(owner)) is not None]
    return next((found for found in given if found.is_material), given[0] if given else None)


def _stage(host: Host, found: Found, settings: Settings, folder: str, verdicts: list[Verdict]) -> Staged | None:
    """Return the staged supply; one that turns out broken changes the verdict, and none of it is used.

    One that can't be written, whether it is too large or full of names that no file system takes, is broken as well:
    what is the matter with one owner's material is not to end the other's boot.
    """
    try:
        return stage(host, found, settings, folder=folder)
    except (BrokenSourceError, CannotWriteError) as error:
        broken = Verdict(
            owner=found.owner, source=found.source, verdict="broken", reason=f"{error.reason}: {error}", duration_s=0.0
        )
        verdicts[:] = [
            broken.replace(duration_s=each.duration_s) if (each.owner, each.verdict) == (found.owner, "found") else each
            for each in verdicts
        ]
        return None


def _cached(host: Host, known: State, owner: Owner, verdicts: Sequence[Verdict]) -> Staged | None:
    """Return the last good supply where the source had an outage and every byte of it is still what was digested."""
    supply = last_good(known, owner)
    is_outage = any(each.reason.partition(":")[0] in OUTAGES for each in _of(verdicts, owner))
    if supply is None or not is_outage or not _is_intact(host, known.instance_id, supply):
        return None
    source = supply.source if supply.source.startswith("cached:") else f"cached:{supply.source}"
    problem = Problem(
        reason="cached", message=f"cannot have the {owner}'s context from its source, using the last good one"
    )
    return Staged(supply=supply.replace(source=source), folder="", warnings=(problem,))


def _is_intact(host: Host, instance_id: str, supply: Supply) -> bool:
    items = [(each.content, each.sha512) for each in supply.scripts]
    items += [(each.content, each.sha512) for each in supply.files if each.content]
    folder = instance_folder(instance_id)
    return all(sha512 == digest_of(host, f"{folder}/{content}") for content, sha512 in items)
