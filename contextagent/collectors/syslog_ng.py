"""syslog-ng: trace and logs by a drop-in."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Logging, Machine, Target

PROGRAM = "syslog-ng"
ASKED: tuple[str, ...] = ("/etc/syslog-ng/syslog-ng.conf",)


def target(_logging: Logging, machine: Machine) -> Target | None:
    """Return what the daemon is told."""
    return None if PROGRAM not in machine.programs else None
