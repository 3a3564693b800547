"""sysklogd: the logs by UDP, from marked lines in its own file; the trace itself it does not carry."""

from __future__ import annotations

from contextagent.collectors import PORTS, Target, TargetFile
from contextagent.collectors.words import Link, links, selectors, selects_scripts
from contextagent.model import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Logging, Machine

PROGRAM = "syslogd"
PATH = "/etc/syslog.conf"
ASKED: tuple[str, ...] = (PATH,)
_SCRIPTS = "daemon.=notice"


def target(logging: Logging, machine: Machine) -> Target | None:
    """Return the lines for syslog.conf; a syslogd that has no such file (BusyBox's) is another daemon."""
    if PROGRAM not in machine.programs or PATH not in machine.texts or not logging.collectors:
        return None
    ways, problems = links(logging.collectors)
    chosen, unsaid = selectors(logging.facilities)
    if not selects_scripts(chosen):
        chosen += (_SCRIPTS,)
    hosts = dict.fromkeys(way.host for way in ways)
    changed = tuple(problem for way in ways for problem in _changed(way))
    lines = "".join(f"{';'.join(chosen)}\t@{host}\n" for host in hosts)
    is_systemd = machine.init == "systemd"
    return Target(
        daemon="sysklogd",
        files=(TargetFile(path=PATH, text=lines, is_block=True),) if hosts else (),
        take_up=("systemctl", "--no-block", "reload-or-try-restart", "syslog.service")
        if is_systemd
        else ("service", "syslog", "reload"),
        bring_back=("systemctl", "--no-block", "restart", "syslog.service")
        if is_systemd
        else ("service", "syslog", "restart"),
        process=PROGRAM,
        problems=(*problems, *unsaid, *changed),
        sends=tuple(Link(host=host, port=PORTS["udp"], protocol="udp").url for host in hosts),
    )


def _changed(way: Link) -> tuple[Problem, ...]:
    """Return what is said of a way that is not classic UDP."""
    plain = Link(host=way.host, port=PORTS["udp"], protocol="udp")
    if way == plain:
        return ()
    cause = "sysklogd knows UDP to port 514 alone"
    message = f"cannot send to '{way.url}': {cause}, sending in the clear to '{plain.url}'"
    return (Problem(reason="plain-udp", message=message),)
