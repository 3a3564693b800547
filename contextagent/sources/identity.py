"""Which instance this machine is: a new one only on positive evidence (docs/reference/context.md, "Identity")."""

from __future__ import annotations

import os

from contextagent.digests import sha256_hex
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DMI = "dmi"
"""The kind of id that the machine's own product UUID is kept under."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_LONGEST = 64


class Identity(Value):
    """Who the instance is: its folder's name, every id known of it by kind, and whether it is new to this image."""

    instance_id: str
    ids: Mapping[str, str]
    is_new: bool


def identify(known_id: str, known: Mapping[str, str], seen: Mapping[str, str]) -> Identity:
    """Return the instance that this boot belongs to.

    A *new* instance needs the same kind of id with another value; an id that is missing today (a service that is
    down, a disk that was taken out) is no evidence.

    Args:
        known_id: Instance of the boot before; empty when there was none.
        known: Its ids by kind.
        seen: What this boot's sources and DMI say, by kind; empty values count as missing.
    """
    seen = {kind: value for kind, value in seen.items() if value}
    if known_id and all(known.get(kind, value) == value for kind, value in seen.items()):
        return Identity(instance_id=known_id, ids={**known, **seen}, is_new=False)
    return Identity(instance_id=_name(seen), ids=seen, is_new=True)


def _name(seen: Mapping[str, str]) -> str:
    """Return a folder name: the source's own id where it is plain, its digest where not, random where there is none."""
    for kind in (*(kind for kind in seen if kind != DMI), DMI):
        value = seen.get(kind, "")
        if value:
            plain = f"{kind}-{value}"
            is_plain = len(plain) <= _LONGEST and not set(plain) - _PLAIN
            # the DMI UUID is part of the name: a VMID alone is unique at one site only, and an image may have been
            # booted elsewhere before
            suffix = sha256_hex(seen.get(DMI, "").encode())[:8]
            digest = sha256_hex(value.encode("utf-8", "surrogateescape"))[:32]  # a VMID of `context.sh` may be no UTF-8
            return f"{plain}.{suffix}" if is_plain else f"{kind}-{digest}.{suffix}"
    return f"local-{os.urandom(16).hex()}"
