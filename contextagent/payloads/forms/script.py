"""`#!…`: a script; amiconfig's two sections in one text are two scripts."""

from __future__ import annotations

from contextagent.model import Offer, Reading
from contextagent.payloads.forms import amiconfig
from contextagent.payloads.userdata import RANK_AFTER_NETWORK, RANK_BEFORE_NETWORK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.payloads.userdata import Place

SAMPLE = b""
MARK = b""


def recognises(data: bytes) -> bool:
    """Return whether the first thing in the data is a `#!` line."""
    return data.lstrip().startswith(b"#!")


def read(data: bytes, place: Place) -> Reading:
    """Return one script for after the network, or amiconfig's `before` and `after` sections as one each.

    Returns:
        Layout `script`. What stands outside the sections is amiconfig's, if it is an INI text.
    """
    sections, rest = _sections(data)
    if not sections:
        return Reading(layout="script", offers=(after_network(data.lstrip(), place),), variables_owner="user")
    offers: list[Offer] = []
    if "before" in sections:
        offers.append(before_network(f"{place.own_name}-before", sections["before"]))
    if "after" in sections:
        offers.append(after_network(sections["after"], place))
    kept = amiconfig.read(rest, place) if amiconfig.recognises(rest) else Reading(layout="")
    return Reading(layout="script", offers=(*offers, *kept.offers), warnings=kept.warnings, variables_owner="user")


def before_network(name: str, data: bytes) -> Offer:
    """Return the offer of a user-data script for the phase `pre-network`."""
    return Offer(
        owner="user", role="script", name=name, data=data, phase="pre-network", rank=RANK_BEFORE_NETWORK, mode=0o755
    )


def after_network(data: bytes, place: Place, name: str = "") -> Offer:
    """Return the offer of a user-data script for the phase `post-network`, named after its place if not otherwise."""
    return Offer(
        owner="user", role="script", name=name or place.own_name, data=data, rank=RANK_AFTER_NETWORK, mode=0o755
    )


def _sections(data: bytes) -> tuple[dict[str, bytes], bytes]:
    """Return amiconfig's sections by their mark, and the lines outside; a second section of one mark goes on with it.

    As amiconfig.sh cuts them: from `#!…sh before` or `… after` to the first line that starts with `exit`.
    """
    found: dict[str, list[bytes]] = {}
    rest: list[bytes] = []
    current: list[bytes] | None = None
    for line in data.lstrip().splitlines(keepends=True):
        words = line.split()
        if line.startswith(b"#!") and b"sh" in line and words[-1] in (b"before", b"after"):
            current = found.setdefault(words[-1].decode(), [])
            current.append(b" ".join(words[:-1]) + b"\n")
        elif current is None:
            rest.append(line)
        else:
            current.append(line)
            if line.startswith(b"exit"):
                current = None
    return {mark: b"".join(lines) for mark, lines in found.items()}, b"".join(rest)
