"""User data as tests read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contextagent.errors import BrokenSourceError
from contextagent.payloads.caps import Caps
from contextagent.payloads.userdata import read_user_data

if TYPE_CHECKING:
    from contextagent.model import Offer, Reading

CAPS = Caps()


def read(data: bytes | str, *, caps: Caps = CAPS, encoding: str = "") -> Reading:
    """Return what user data offers."""
    return read_user_data(data if isinstance(data, bytes) else data.encode(), caps=caps, encoding=encoding)


def said(offer: Offer) -> str:
    """Return an offer in words."""
    return f"script {offer.phase} {offer.name}" if offer.role == "script" else f"{offer.role} {offer.name}"


def reason_of(data: bytes | str, *, caps: Caps = CAPS, encoding: str = "") -> str:
    """Return why user data is refused."""
    with pytest.raises(BrokenSourceError) as caught:
        read(data, caps=caps, encoding=encoding)
    assert str(caught.value).startswith("cannot ")
    return caught.value.reason
