"""How far a trace is known to go: the words of `logging.delivered`, and whether that is enough for a pilot."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Delivered = Literal["none", "no", "configured", "reachable"]
    Required = Literal["no", "configured", "reachable"]

_WORTH = ("no", "configured", "reachable")


def is_trace_enough(required: Required, delivered: Delivered) -> bool:
    """Return whether a pilot may start: "no trace, no pilot" (docs/reference/logging.md).

    Args:
        required: The setting `pilot.require_trace`.
        delivered: What is known of this boot's trace; `none` (nothing was asked for) is worth as much as `no`.
    """
    return _WORTH.index(required) <= (0 if delivered == "none" else _WORTH.index(delivered))
