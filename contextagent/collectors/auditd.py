"""auditd, where that is asked: what is executed, and who changes the logging; then no rule can be changed any more."""

from __future__ import annotations

from contextagent.collectors import Target, TargetFile
from contextagent.model import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Logging, Machine

PROGRAM = "auditctl"
EXTRA: tuple[str, ...] = ("augenrules",)
"""Puts the rules of a folder together; Scientific Linux 6 has none, and one file."""
ONE_FILE = "/etc/audit/audit.rules"
ASKED: tuple[str, ...] = (ONE_FILE,)
PATH = "/etc/audit/rules.d/99-contextagent.rules"
HEAD = "# Written by contextagent at each boot; changes are lost.\n"
WATCHED = (
    *("/etc/contextagent", "/etc/audit", "/etc/rsyslog.conf", "/etc/rsyslog.d", "/etc/syslog.conf", "/etc/syslog-ng"),
    *("/etc/systemd/journald.conf.d",),
)
RULES = "-i\n" + "".join(  # -i: a folder that is not there is no reason to leave the others alone
    (
        *(f"-a always,exit -F arch={arch} -S execve -k contextagent-exec\n" for arch in ("b64", "b32")),
        *(f"-a always,exit -F path={path} -F perm=wa -k contextagent\n" for path in WATCHED if path.endswith(".conf")),
        *(
            f"-a always,exit -F dir={path} -F perm=wa -k contextagent\n"
            for path in WATCHED
            if not path.endswith(".conf")
        ),
    )
)
LOCK = "-e 2\n"


def target(logging: Logging, machine: Machine) -> Target | None:
    """Return the rules; None where auditing is not asked."""
    if not logging.audit:
        return None
    augenrules = machine.programs.get("augenrules")
    auditctl = machine.programs.get(PROGRAM)
    if not auditctl:
        message = "cannot audit what is executed: there is no auditctl (package audit), ignoring 'logging.audit'"
        return Target(daemon="auditd", files=(), problems=(Problem(reason="no-audit", message=message),))
    if augenrules:
        return Target(
            daemon="auditd",
            files=(TargetFile(path=PATH, text=HEAD + RULES + LOCK, mode=0o600),),
            check=(augenrules, "--check"),
            take_up=(augenrules, "--load"),
            bring_back=(augenrules, "--load"),
            process="auditd",
        )
    load = (auditctl, "-R", ONE_FILE)
    block = TargetFile(path=ONE_FILE, text=RULES + LOCK, is_block=True, mode=0o600)
    return Target(daemon="auditd", files=(block,), take_up=load, bring_back=load, process="auditd")
