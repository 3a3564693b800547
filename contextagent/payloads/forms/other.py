"""Anything else: kept for whoever knows it, and not run."""

from __future__ import annotations

from contextagent.model import Offer, Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.payloads.userdata import Place

SAMPLE = b""
MARK = b""


def read(data: bytes, place: Place) -> Reading:
    """Return the data as a payload of no known form."""
    return kept(data, place, layout="other", reason="unknown-form")


def kept(data: bytes, place: Place, *, layout: str, reason: str) -> Reading:
    """Return a payload that is kept (0600) and not run, with the fixed reason why."""
    offer = Offer(owner="user", role="kept", name=place.own_name, data=data, mode=0o600, reason=reason)
    return Reading(layout=layout, offers=(offer,), variables_owner="user")
