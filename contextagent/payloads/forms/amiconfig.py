"""amiconfig's INI text: kept where amiconfig looks for it; its programs, where an image has them, do the rest."""

from __future__ import annotations

from contextagent.model import Offer, Problem, Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.payloads.userdata import Place

SAMPLE = b""
MARK = b""
KEPT_AT = "/var/lib/amiconfig/2007-12-15/user-data"
_SECTION = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:- "


def recognises(data: bytes) -> bool:
    """Return whether the first line that is neither empty nor a comment names a section."""
    first = next(_lines(data), b"")
    return (
        first.startswith(b"[")
        and first.endswith(b"]")
        and bool(first[1:-1])
        and not first[1:-1].translate(None, _SECTION)
    )


def read(data: bytes, place: Place) -> Reading:
    """Return the text as a payload that is kept; `context=` of its section `[hepix]` is named and ignored.

    A user never chooses the site's bundle (context, section 3).
    """
    section = b""
    warnings: list[Problem] = []
    for line in _lines(data):
        if line.startswith(b"["):
            section = line[1:].partition(b"]")[0].strip().lower()
        elif section == b"hepix" and line.partition(b"=")[0].strip().lower() == b"context":
            message = "a user does not choose the site's bundle: [hepix] context=, ignoring it"
            warnings.append(Problem(reason="site-only", message=message, path=place.own_name))
    offer = Offer(owner="user", role="kept", name=KEPT_AT, data=data, mode=0o600, reason="for-amiconfig")
    return Reading(layout="amiconfig", offers=(offer,), warnings=tuple(warnings[:1]), variables_owner="user")


def _lines(data: bytes) -> Iterator[bytes]:
    for line in data.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith((b"#", b";")):
            yield stripped
