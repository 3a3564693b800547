"""How long a machine has left, and which of its ends comes first.

An end that others announce stands on the wall clock (`shutdowntime`); one that is counted from a beginning of our own
(a time to live, a drain) on the clock since boot, which no step of the wall clock moves.  Both are compared as seconds
from now, so that a young guest whose clock still stands in 1970 neither dies at once nor lives for ever.
"""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    BoundBy = Literal[
        "shutdowntime", "shutdowntime_job", "wall_limit", "ttl", "policy", "endorsement", "notice", "drain"
    ]
    Clock = Literal["wall", "boot"]

BOUNDS: tuple[BoundBy, ...] = (
    *("shutdowntime", "shutdowntime_job", "wall_limit", "ttl", "policy", "endorsement", "notice", "drain"),
)
"""What may end a machine; of several at the same second the first one here is named."""


class Now(Value):
    """One moment on both clocks: seconds since 1970, and seconds since boot, sleep included."""

    utc_s: float
    boot_s: float


class End(Value):
    """One end: seconds since 1970 where `clock` is `wall`, since boot (maybe before it) where it is `boot`."""

    by: BoundBy
    clock: Clock
    at_s: float

    def left_s(self, now: Now) -> float:
        """Return how many seconds are left until then; less than 0 when it is past."""
        return self.at_s - (now.utc_s if self.clock == "wall" else now.boot_s)


class Lifetime(Value):
    """The end that comes first (`bound_by`): on the wall clock as it stands now, and in whole seconds from now, ≥ 0."""

    shutdown_epoch_s: int
    bound_by: BoundBy
    remaining_s: int


def lifetime(ends: Iterable[End], now: Now) -> Lifetime | None:
    """Return the first of the ends, None where there is none."""
    first = min(ends, key=lambda end: (end.left_s(now), BOUNDS.index(end.by)), default=None)
    if first is None:
        return None
    at_s = first.at_s if first.clock == "wall" else now.utc_s + first.left_s(now)
    left_s = max(_whole(first.left_s(now)), 0)
    return Lifetime(shutdown_epoch_s=max(_whole(at_s), 0), bound_by=first.by, remaining_s=left_s)


def _whole(seconds: float) -> int:
    """Return whole seconds; a sum of the two clocks that is one but for a float's last digits is that one."""
    return int(round(seconds, 3))


def chosen_end(by: BoundBy, wished_s: float, grace_s: float, now: Now) -> End:
    """Return an end that the agent itself chooses, `wished_s` from now, but never with less notice than the grace."""
    return End(by=by, clock="boot", at_s=now.boot_s + max(wished_s, grace_s))
