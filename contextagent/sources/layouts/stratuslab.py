"""The `stratuslab` layout: what StratusLab adds to a `context.sh`, and its VFAT variant with `meta.js`.

All that it shares with OpenNebula is read by the `opennebula` layout, which such a disk is, too.
"""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Offer, Problem
from contextagent.sources.layouts import (
    SMALL_BYTES,
    LayoutReading,
    cause,
    is_file,
    json_object,
    key_offers,
    opennebula,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.model import Owner
    from contextagent.sources.media import NamedMedium

_LABELS = ("_STRATUSLAB", "_CLOUD_INIT")
_META = "meta.js"
_KEYS = "root/.ssh/authorized_keys"


def read(
    medium: NamedMedium,
    *,
    label: str,
    flat_owner: Owner,
    is_site_trusted: bool,  # noqa: ARG001  # `flat_owner` says it already
) -> tuple[LayoutReading, ...]:
    """Return the user's `SCRIPT_EXEC`, and what the VFAT variant's two files say."""
    readings = [reading for reading in (_context(medium), _vfat(medium, flat_owner)) if reading is not None]
    if not readings and label in _LABELS:
        readings = [LayoutReading(layout="stratuslab")]
    return tuple(readings)


def _context(medium: NamedMedium) -> LayoutReading | None:
    if not is_file(medium, opennebula.FILE):
        return None
    try:
        variables = opennebula.variables_of(medium)
    except BrokenSourceError:
        return None  # the opennebula layout says so
    if "SCRIPT_EXEC" not in variables and "CONTEXT_METHOD" not in variables:
        return None
    file = variables.get("SCRIPT_EXEC", "").strip()
    if not file:
        return LayoutReading(layout="stratuslab")
    found = opennebula.script_offer(medium, file, "user", "script-exec")
    if isinstance(found, Problem):
        return LayoutReading(layout="stratuslab", warnings=(found,))
    return LayoutReading(layout="stratuslab", offers=(found,))


def _vfat(medium: NamedMedium, flat_owner: Owner) -> LayoutReading | None:
    """Return what `meta.js` and the keys beside it say: the config drive that cloud-init read first."""
    if not is_file(medium, _META) or not is_file(medium, _KEYS):
        return None
    broken: dict[Owner, str] = {}
    offers: list[Offer] = []
    found: dict[str, object] = {}
    try:
        offers = key_offers(medium.read(_KEYS, max_bytes=SMALL_BYTES).decode("utf-8", "replace"), flat_owner, "root")
    except BrokenSourceError as error:
        broken[flat_owner] = cause(error)
    try:
        found = json_object(medium, _META)
    except BrokenSourceError as error:
        broken["user"] = cause(error)
    user_data = found.get("user-data")
    instance_id = found.get("instance-id")
    return LayoutReading(
        layout="stratuslab",
        offers=tuple(offers),
        user_data=user_data.encode() if isinstance(user_data, str) and user_data else None,
        ids={"stratuslab-instance-id": str(instance_id)} if instance_id else {},
        broken=broken,
    )
