"""The two legs of a search: whom it is still for, and which sources are asked when.

The first leg asks the sources that need no network, before there is one; the second, after it has come up, asks the
metadata service and what the policy names behind it, for the owners who are still without.
"""

from __future__ import annotations

from contextagent.errors import UsageError
from contextagent.model import OWNERS, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from contextagent.model import Owner, Supply, Verdict
    from contextagent.policy.settings import Settings
    from contextagent.runner.state import State

_DIRECTING = ("metadata.bundle", "metadata.required", "trust.signers", "trust.site", "trust.ca_dir", "trust.metadata")
"""Keys by which a disk says how the bundle is to be fetched; whoever sets one of them wants it fetched."""


class Legs(Value):
    """The sources in order: those that are asked before the network is up, and those asked after."""

    before: tuple[str, ...]
    after: tuple[str, ...]


class Query(Value):
    """What one leg is to find.

    Attributes:
        sources: In order.
        owners: Whose search has not ended yet.
        disk: `--disk`.
        metadata: `--metadata`.
        start_ns: When the phase began, as `Host.mono_ns`.
        is_last: Nothing is asked after this leg, so the last good context may serve where a source is down.
        is_trial: Nothing is written (`plan`).
        heard: The settings that hold once a site's supply is heard, too: it may let a user have less.
    """

    sources: tuple[str, ...]
    owners: tuple[Owner, ...]
    disk: str | None
    metadata: str | None
    start_ns: int
    is_last: bool
    is_trial: bool
    heard: Callable[[Supply], Settings]


def legs(settings: Settings, *, disk: str | None, metadata: str | None) -> Legs:
    """Return which sources are asked when; what the caller names (`--disk`, `--metadata`) is asked in any case.

    Raises:
        UsageError: `--metadata` is no address of a service.
    """
    order = [name for name in settings["sources"] if (name, metadata) != ("metadata", "none")]
    if disk not in (None, "none") and "disk" not in order:
        order.insert(0, "disk")
    if metadata not in (None, "none"):
        _check_address(metadata)
        if "metadata" not in order:
            order.append("metadata")
    at = order.index("metadata") if "metadata" in order else len(order)
    return Legs(before=tuple(order[:at]), after=tuple(order[at:]))


def _check_address(text: str) -> None:
    from contextagent.payloads.address import parse_address  # noqa: PLC0415  # a boot goes by the policy's, checked there

    try:
        parse_address(text)
    except ValueError as error:
        hint = "an address looks like http://169.254.169.254 or http://127.0.0.1:8080"
        # what stands before an @ is a password, and no message repeats one
        shown = text if "@" not in text else f"…@{text.rpartition('@')[2]}"
        raise UsageError(f"cannot ask '{shown}': {error}", hint=hint) from error


def open_owners(known: State, settings: Settings, order: Legs) -> tuple[Owner, ...]:
    """Return the owners whose search goes on in the second leg; none where there is no source left to ask.

    Args:
        known: After the first leg.
        settings: Effective, what a disk said included.
        order: Which sources are asked when.
    """
    if not order.after:
        return ()
    ended = {
        each.owner
        for each in known.verdicts
        if each.source.partition(":")[0] in order.before
        and ends(each, settings)
        and not _directs(known, each, settings)
    }
    return tuple(owner for owner in OWNERS if owner not in ended)


def ends(verdict: Verdict, settings: Settings) -> bool:
    """Return whether a verdict ends its owner's search: whoever can scratch a disk must not choose the source."""
    is_disk = verdict.source.partition(":")[0] == "disk"
    return verdict.verdict == "found" or (
        verdict.verdict == "broken" and not (is_disk and settings["disk.broken"] == "next")
    )


def _directs(known: State, verdict: Verdict, settings: Settings) -> bool:
    """Whether the site's part of a disk is nothing but settings that say how to fetch the bundle."""
    supply = known.ahead.get("site") or known.supplies.get("site")
    if verdict.owner != "site" or supply is None or supply.scripts or supply.files:
        return False
    return verdict.verdict == "found" and any(settings.origin(key).voice == "site-disk" for key in _DIRECTING)


def last_good(known: State, owner: Owner) -> Supply | None:
    """Return the last supply of an owner that was material."""
    supply = known.supplies.get(owner)
    return supply if supply and supply.is_material else known.spare.get(owner)


def settled(known: State, going_on: Collection[Owner]) -> State:
    """Return the state once it is known whose search goes on after the first leg: what waits, what is kept in reserve.

    An owner's last good supply is kept as long as the owner is without material and no source has said that there is
    none.
    """
    supplies = known.supplies
    return known.replace(
        ahead={owner: supply for owner in going_on if (supply := supplies.get(owner))},
        spare={owner: last for owner, last in known.spare.items() if owner in going_on or is_spared(known, owner)},
    )


def is_spared(known: State, owner: Owner) -> bool:
    """Return whether an owner without material may still have some: not every source has said that there is none."""
    supply = known.supplies.get(owner)
    return not (supply and supply.is_material) and any(
        each.verdict != "absent" for each in known.verdicts if each.owner == owner
    )
