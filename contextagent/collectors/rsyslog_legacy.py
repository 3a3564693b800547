"""rsyslog before version 7: the same as in `rsyslog`, in directives; the trace goes through a queue on the disk there.

These versions know no ruleset of an input's own, so that a trace whose collector is away would hold up all other logs
without a queue.  What has been queued is kept over an end of rsyslog, and read anew after a crash.
"""

from __future__ import annotations

from contextagent.collectors import FORGED_TAG, SCRIPT_TAG, TAG
from contextagent.collectors.words import selects_scripts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.collectors import Logging
    from contextagent.collectors.words import Link

FORGED = f"<%PRI%>%TIMESTAMP:::date-rfc3339% %HOSTNAME% {FORGED_TAG}: %syslogtag%%msg%"
"""Template of a line that is no record, though its tag says so."""
_QUEUE = """$ActionQueueType LinkedList
$ActionQueueFileName {name}
$ActionQueueMaxDiskSpace 64m
$ActionQueueSaveOnShutdown on
$ActionQueueTimeoutEnqueue 0
$ActionResumeRetryCount -1
"""


def text(
    logging: Logging, ways: tuple[Link, ...], chosen: tuple[str, ...], *, folder: str, loaded: tuple[str, ...]
) -> str:
    """Return the drop-in in directives.

    Args:
        logging: What is asked.
        ways: None of them RELP inside TLS.
        chosen: The selectors.
        folder: Where positions and queues are.
        loaded: Modules that are there already.
    """
    lines = [f"$WorkDirectory {folder}\n", *(f"$ModLoad {name}\n" for name in needed(ways) if name not in loaded)]
    lines += [_input(path) for path in traces(logging)]
    secured = next((way for way in ways if way.ca), None)
    if secured:
        names = (("CA", secured.ca), ("Cert", secured.cert), ("Key", secured.key))
        lines += [f"$DefaultNetstreamDriver{name}File {path}\n" for name, path in names if path]
    lines.append(f'$template contextagent_forged,"{FORGED}"\n')
    from_file = f"if $inputname == 'imfile' and $syslogtag == '{TAG}:' then"
    forged = f"if $syslogtag contains '{TAG}' or $msg startswith '{TAG}' or $msg startswith ' {TAG}' then"
    for number, way in enumerate(ways, 1):
        lines += _rule(from_file, way, f"contextagent_trace_{number}")
    lines.append("& ~\n")
    for number, way in enumerate(ways, 1):
        lines += _rule(forged, way, f"contextagent_forged_{number}", template="contextagent_forged")
    lines.append("& ~\n")  # these versions have no other way to keep it from the rules below
    for number, way in enumerate(ways, 1):
        lines += _rule(";".join(chosen), way, f"contextagent_{number}")
        if not selects_scripts(chosen):
            lines += _rule(f':programname, isequal, "{SCRIPT_TAG}"', way, f"contextagent_script_{number}")
    return "".join(lines)


def needed(ways: tuple[Link, ...]) -> tuple[str, ...]:
    """Return the modules that reading the trace and going these ways takes."""
    return ("imfile", "omrelp") if any(way.protocol == "relp" for way in ways) else ("imfile",)


def traces(logging: Logging) -> tuple[str, ...]:
    """Return the traces' files one by one, for a version that takes no wildcard."""
    return logging.traces or (logging.trace.replace("*", logging.boot_id),)


def position(path: str) -> str:
    """Return the name of the file where it is kept how far a trace has been read."""
    return f"{path.rpartition('/')[2]}.position"


def _input(path: str) -> str:
    words = f"Name {path}|Tag {TAG}:|StateFile {position(path)}|Severity notice|Facility daemon"
    return "".join(f"$InputFile{each}\n" for each in words.split("|")) + "$InputRunFileMonitor\n"


def _rule(selector: str, way: Link, name: str, *, template: str = "RSYSLOG_ForwardFormat") -> Iterator[str]:
    """Yield the lines that send what a selector selects one way."""
    yield _QUEUE.format(name=name)
    mark = {"relp": ":omrelp:", "tcp": "@@", "udp": "@"}[way.protocol]
    host = f"[{way.host}]" if ":" in way.host else way.host
    if way.ca:
        yield "$ActionSendStreamDriver gtls\n$ActionSendStreamDriverMode 1\n$ActionSendStreamDriverAuthMode x509/name\n"
        yield f"$ActionSendStreamDriverPermittedPeer {way.peer}\n"
        mark = "@@(o)"
    yield f"{selector} {mark}{host}:{way.port};{template}\n"
