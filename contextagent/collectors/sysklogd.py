"""sysklogd: the logs by UDP; the trace itself it does not carry."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Logging, Machine, Target

PROGRAM = "syslogd"
ASKED: tuple[str, ...] = ("/etc/syslog.conf",)


def target(_logging: Logging, machine: Machine) -> Target | None:
    """Return what the daemon is told."""
    return None if PROGRAM not in machine.programs else None
