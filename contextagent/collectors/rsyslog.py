"""rsyslog: the trace by imfile and RELP, the logs by queues on the disk."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Logging, Machine, Target

PROGRAM = "rsyslogd"
ASKED: tuple[str, ...] = ("/etc/rsyslog.conf",)


def target(_logging: Logging, machine: Machine) -> Target | None:
    """Return what the daemon is told."""
    return None if PROGRAM not in machine.programs else None
