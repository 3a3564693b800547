"""The search for each owner's context: sources in order, verdict by verdict, and what it means for the instance."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.model import OWNERS, Problem, Supply, Value, Verdict
from contextagent.runner.state import State, digest_of, instance_folder
from contextagent.sources.disk import search_disks
from contextagent.sources.identity import DMI, identify
from contextagent.sources.staging import Staged, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from contextagent.host import Host
    from contextagent.model import Owner
    from contextagent.policy.settings import Settings
    from contextagent.sources.found import Findings, Found
    from contextagent.sources.identity import Identity

OUTAGES = ("read-error", "not-ready", "unreachable")
"""Reasons that speak of the source's health, not of what it holds: here the last good context may serve."""


class Finding(Value):
    """What a search found, staged but not yet installed.

    Attributes:
        identity: The instance that this boot belongs to.
        staged: Per owner what was supplied; None where nothing was found or it is broken.
        verdicts: In the order tried.
        warnings: What was passed over, and what happens next.
    """

    identity: Identity
    staged: Mapping[Owner, Staged | None]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[Problem, ...] = ()


def search(host: Host, settings: Settings, known: State, *, override: str | None, is_trial: bool) -> Finding:
    """Return what each owner supplies for this boot.

    Args:
        host: The machine.
        settings: Of the image alone: it says where to look and how much to take.
        known: What is remembered of the instance before.
        override: `--disk`.
        is_trial: Nothing is written (`plan`).

    Raises:
        UsageError: `override` does not exist.
        CannotWriteError: The state can't be written.
    """
    findings = search_disks(host, settings, override=override)
    try:
        identity = identify(known.instance_id, known.ids, {**findings.ids, DMI: host.product_uuid()})
        found = _stage_all(host, settings, findings, identity, known, is_trial=is_trial)
        if not is_trial:
            findings.eject()
        return found
    finally:
        findings.close()


def _stage_all(  # a step of `search`
    host: Host, settings: Settings, findings: Findings, identity: Identity, known: State, *, is_trial: bool
) -> Finding:
    folder = "" if is_trial else instance_folder(identity.instance_id)
    if folder:
        host.files.make_folder(folder)
    verdicts = list(findings.verdicts)
    warnings = list(findings.warnings)
    staged: dict[Owner, Staged | None] = dict.fromkeys(OWNERS)
    for owner in reversed(OWNERS):  # the site first: a user whose material fills the disk must not cost it its own
        found = findings.found.get(owner)
        if found is not None:
            staged[owner] = _stage(host, found, settings, folder, verdicts)
        elif not identity.is_new:
            staged[owner] = _cached(host, owner, known, verdicts)
        each = staged[owner]
        warnings += each.warnings if each else ()
    return Finding(identity=identity, staged=staged, verdicts=tuple(verdicts), warnings=tuple(warnings))


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


def _cached(host: Host, owner: Owner, known: State, verdicts: list[Verdict]) -> Staged | None:
    """Return the last good supply where the source had an outage and every byte of it is still what was digested."""
    supply = known.supplies.get(owner)
    is_outage = any(each.owner == owner and each.reason.partition(":")[0] in OUTAGES for each in verdicts)
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
