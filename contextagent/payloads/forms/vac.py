"""Vac: a template in which `##user_data_…##` was left unfilled; the pilot knows what to do with it."""

from __future__ import annotations

from contextagent.payloads.forms import other

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.model import Reading
    from contextagent.payloads.userdata import Place

SAMPLE = b""
MARK = b""
_START = b"##user_data_"


def recognises(data: bytes) -> bool:
    """Return whether a placeholder is in the data."""
    _, start, rest = data.partition(_START)
    return bool(start) and b"##" in rest.partition(b"\n")[0]


def read(data: bytes, place: Place) -> Reading:
    """Return it as a payload that is kept."""
    return other.kept(data, place, layout="vac", reason="for-the-pilot")
