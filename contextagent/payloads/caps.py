"""How much of an owner's bytes are taken at most; a site or an image may set other figures (`caps.*`)."""

from __future__ import annotations

from contextagent.model import Value


class Caps(Value):
    """Bounds on what is unpacked.

    Attributes:
        members: Files, folders and links of a bundle.
        member_bytes: One of them.
        total_bytes: All of them.
        ratio: Unpacked bytes for each packed one.
    """

    members: int = 1024
    member_bytes: int = 16 << 20
    total_bytes: int = 64 << 20
    ratio: int = 200
