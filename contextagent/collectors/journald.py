"""journald: kept on the disk, and given to the syslog daemon; our own units have no rate limit (see their files)."""

from __future__ import annotations

from contextagent.collectors import Target, TargetFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Logging, Machine

PROGRAM = "systemd-journald"
ASKED: tuple[str, ...] = ()
PATH = "/etc/systemd/journald.conf.d/10-contextagent.conf"
TEXT = """# Written by contextagent at each boot; changes are lost.
[Journal]
Storage=persistent
ForwardToSyslog=yes
"""
_SERVICE = "systemd-journald.service"


def target(logging: Logging, machine: Machine) -> Target | None:
    """Return a drop-in; None where journald does not run, or no logs are wanted from this machine."""
    is_wanted = logging.collectors or logging.journal_upload
    if PROGRAM not in machine.programs or machine.init != "systemd" or not is_wanted:
        return None
    return Target(
        daemon="journald",
        files=(TargetFile(path=PATH, text=TEXT),),
        take_up=("systemctl", "--no-block", "try-restart", _SERVICE),
        bring_back=("systemctl", "--no-block", "restart", _SERVICE),
        process=PROGRAM[:15],
    )
