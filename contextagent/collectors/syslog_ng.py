"""syslog-ng: a drop-in that sends the trace from its file, and the logs from a buffer on the disk.

The trace is under flow control: what has not been sent is not read, and the position that is kept is that of the last
line sent.  The logs are taken from every source that the image has (`catchall`), since only the image knows its name.
"""

from __future__ import annotations

from contextagent.collectors import FORGED_TAG, SCRIPT_TAG, TAG, Target, TargetFile
from contextagent.collectors.words import asked, endpoints, selected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.collectors import Logging, Machine
    from contextagent.collectors.words import Link

PROGRAM = "syslog-ng"
MAIN = "/etc/syslog-ng/syslog-ng.conf"
ASKED: tuple[str, ...] = (MAIN,)
FOLDER = "/etc/syslog-ng/conf.d"
PATH = f"{FOLDER}/10-contextagent.conf"
HEAD = "# Written by contextagent at each boot; changes are lost.\n"
INCLUDE = f'@include "{FOLDER}/*.conf"\n'
_REOPEN = "time-reopen(5)"
_LINE = 'template("<$PRI>$ISODATE $HOST $MSGHDR$MSG\\n")'
_BUFFER = "disk-buffer(reliable(no) mem-buf-length(10000) disk-buf-size(67108864))"


def target(logging: Logging, machine: Machine) -> Target | None:
    """Return what syslog-ng is told: a drop-in, and where the main file includes none, a line there."""
    program = machine.programs.get(PROGRAM)
    if not program or not logging.collectors:
        return None
    ways, chosen, problems = asked(logging, _impossible)
    if not ways:
        return Target(daemon="syslog_ng", files=(), problems=problems)
    text = "\n".join(_lines(logging, ways, chosen, has_buffer="libdisk-buffer" in machine.modules))
    files: tuple[TargetFile, ...] = (TargetFile(path=PATH, text=f"{HEAD}{text}\n", mode=0o600),)
    main = machine.texts.get(MAIN, "")
    if main and not any(FOLDER in line or "conf.d/" in line for line in main.splitlines() if "@include" in line):
        files += (TargetFile(path=MAIN, text=INCLUDE, is_block=True),)
    is_systemd = machine.init == "systemd"
    return Target(
        daemon="syslog_ng",
        files=files,
        check=(program, "-s"),
        take_up=("systemctl", "--no-block", "reload-or-try-restart", "syslog-ng.service")
        if is_systemd
        else ("service", "syslog-ng", "reload"),
        bring_back=("systemctl", "--no-block", "restart", "syslog-ng.service")
        if is_systemd
        else ("service", "syslog-ng", "restart"),
        process=PROGRAM,
        carries_trace=True,
        problems=problems,
        connect=endpoints(ways),
        sends=tuple(way.url for way in ways),
    )


def _impossible(way: Link) -> str:
    """Return why syslog-ng can't go a way; empty where it can."""
    if way.protocol == "relp":
        return "syslog-ng knows no RELP"
    if way.ca and way.peer != way.host:
        return f"syslog-ng can't look for the name '{way.peer}' in the certificate of another"
    return ""


def _lines(logging: Logging, ways: tuple[Link, ...], chosen: tuple[str, ...], *, has_buffer: bool) -> Iterator[str]:
    folder, _, pattern = logging.trace.rpartition("/")
    source = f'base-dir("{folder}") filename-pattern("{pattern}") recursive(no) follow-freq(1)'
    yield f'source s_contextagent {{ wildcard-file({source} flags(no-parse) program-override("{TAG}")'
    yield "  default-facility(daemon) default-priority(notice)); };"
    forged = f'program("{TAG}") or message("^[ :]*{TAG}")'
    yield f"filter f_contextagent_forged {{ not source(s_contextagent) and ({forged}); }};"
    renamed = f'set("$MSGHDR$MSG", value("MESSAGE")); set("{FORGED_TAG}", value("PROGRAM"));'
    yield f"rewrite r_contextagent_forged {{ {renamed} }};"
    yield "filter f_contextagent { not source(s_contextagent) and not filter(f_contextagent_forged) and ("
    yield from (f"  {each} or" for each in _selected(chosen))
    yield f'  program("^{SCRIPT_TAG}$")); }};'
    buffer = f" {_BUFFER}" if has_buffer else ""
    for number, way in enumerate(ways, 1):
        yield f"destination d_contextagent_trace_{number} {{ {_destination(way, f'trace_{number}', '')} }};"
        yield f"destination d_contextagent_{number} {{ {_destination(way, f'{number}', buffer)} }};"
        trace = f"source(s_contextagent); destination(d_contextagent_trace_{number}); flags(flow-control);"
        yield f"log {{ {trace} }};"
        forged = f"filter(f_contextagent_forged); rewrite(r_contextagent_forged); destination(d_contextagent_{number});"
        yield f"log {{ {forged} flags(catchall); }};"
        yield f"log {{ filter(f_contextagent); destination(d_contextagent_{number}); flags(catchall); }};"


def _selected(chosen: tuple[str, ...]) -> Iterator[str]:
    """Yield the filters of what is selected, facilities of the same severities together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for facility, severities in selected(chosen).items():
        if severities:
            alike.setdefault(severities, []).append(facility)
    for severities, facilities in alike.items():
        yield f"(facility({','.join(facilities)}) and level({','.join(severities)}))"


def _destination(way: Link, name: str, buffer: str) -> str:
    """Return a destination: RFC 5425 inside TLS, else a line a message."""
    words = f'"{way.host}" port({way.port}) persist-name("contextagent_{name}") {_REOPEN}{buffer}'
    family = " ip-protocol(6)" if ":" in way.host else ""
    if not way.ca:
        return f'network({words}{family} transport("{way.protocol}") {_LINE});'
    tls = f'ca-file("{way.ca}") peer-verify(required-trusted)'
    if way.cert:
        tls += f' cert-file("{way.cert}") key-file("{way.key}")'
    return f'syslog({words}{family} transport("tls") tls({tls}));'
