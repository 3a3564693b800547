"""rsyslog: the trace is read by `imfile` and sent by RELP or TCP; the logs wait in queues on the disk.

The trace has no queue: its file is one.  `imfile` hands each line over only when the one before has been sent, and
remembers then that it did; so a line is sent twice after a crash, and none is passed over.  For what the collector had
not yet acknowledged when both it and rsyslog died, `Target.positions` says what to forget before a new start.
(By experiment, docs/explanation/logging.md: any queue here, in memory or on the disk, loses lines or their order when
rsyslog ends while the collector is away.)
"""

from __future__ import annotations

from contextagent.collectors import SCRIPT_TAG, TAG, Target, TargetFile, rsyslog_legacy
from contextagent.collectors.rsyslog_legacy import needed, position, traces
from contextagent.collectors.words import asked, endpoints

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.collectors import Logging, Machine
    from contextagent.collectors.words import Link

PROGRAM = "rsyslogd"
MAIN = "/etc/rsyslog.conf"
FOLDER = "/etc/rsyslog.d/"
ASKED: tuple[str, ...] = (MAIN, f"{FOLDER}*.conf")
PATH = f"{FOLDER}10-contextagent.conf"
SPOOL = "/var/lib/rsyslog"
"""Where positions and queues are where the image's configuration does not say it (`WorkDirectory`)."""
HEAD = "# Written by contextagent at each boot; changes are lost.\n"
INCLUDE = "$IncludeConfig /etc/rsyslog.d/*.conf\n"

_RAINERSCRIPT, _WILDCARDS, _TRUNCATION, _OWN_CERTIFICATES = (7, 0), (8, 5), (8, 33), (8, 2108)
"""Versions that brought a language, and three parameters."""
_QUEUE = (
    'queue.type="LinkedList" queue.filename="contextagent_{number}" queue.maxDiskSpace="64m" queue.size="20000" '
    'queue.saveOnShutdown="on" queue.timeoutEnqueue="0"'
)
"""Of the logs: 64 MiB on the disk at most, and who logs never waits."""
_POSITIONS = ("imfile-state:{inode}*", "imfile-state:{dashed}", "{name}.position")
_FOR_EVER = 'action.resumeRetryCount="-1" action.resumeInterval="5"'


def target(logging: Logging, machine: Machine) -> Target | None:
    """Return what rsyslog is told: a drop-in, and where the main file includes none, a line there."""
    program = machine.programs.get(PROGRAM)
    if not program or not logging.collectors:
        return None
    ways, chosen, problems = asked(logging, lambda way: _impossible(way, machine))
    if not ways:
        return Target(daemon="rsyslog", files=(), problems=problems)
    before, behind = (tuple(name for name in needed(ways) if name in names) for names in _loaded(machine))
    main = machine.texts.get(MAIN, "")
    version = numbers(machine.versions.get("rsyslog", ""))
    if version and version < _RAINERSCRIPT:
        text = rsyslog_legacy.text(logging, ways, chosen, folder=spool(main) or SPOOL, loaded=before)
    else:
        text = _text(logging, ways, chosen, machine=machine, loaded=before)
    files: tuple[TargetFile, ...] = (TargetFile(path=PATH, text=HEAD + text, mode=0o600),)
    if main and not _includes(main):
        files += (TargetFile(path=MAIN, text=INCLUDE, is_block=True),)
    return Target(
        daemon="rsyslog",
        files=files,
        # what others load a second time is an error to the checker alone, and what they load first is missing in ours
        check=() if behind else (program, "-N1"),
        check_alone=() if before else (program, "-N1", "-f", "{file}"),
        take_up=_call(machine, "try-restart", "condrestart"),
        bring_back=_call(machine, "restart", "restart"),
        process=PROGRAM,
        carries_trace=True,
        problems=problems,
        connect=endpoints(ways),
        positions=tuple(f"{spool(main) or SPOOL}/{name}" for name in _POSITIONS),
        sends=tuple(way.url for way in ways),
    )


def _loaded(machine: Machine) -> tuple[set[str], set[str]]:
    """Return the modules that others load before our drop-in is read, and those that they load behind it."""
    before: set[str] = set()
    behind: set[str] = set()
    for path, text in machine.texts.items():
        if path == MAIN or (path.startswith(FOLDER) and path != PATH):
            found = before if path == MAIN or path < PATH else behind
            found.update(name for name in ("imfile", "omrelp") if _loads(text, name))
    return before, behind


def _loads(text: str, name: str) -> bool:
    lines = (line.strip().lower() for line in text.splitlines())
    return any(name in line and line.startswith(("module", "$modload")) for line in lines)


def numbers(version: str) -> tuple[int, ...]:
    """Return a version for comparing: `8.2302.0` is (8, 2302, 0); what is none is ()."""
    parts = version.split(".")
    return tuple(map(int, parts)) if version.isascii() and all(part.isdigit() for part in parts) else ()


def _impossible(way: Link, machine: Machine) -> str:
    """Return why this machine's rsyslog can't go a way; empty where it can."""
    version = machine.versions.get("rsyslog", "")
    if way.protocol == "relp" and "omrelp" not in machine.modules:
        return "rsyslog has no module omrelp (package rsyslog-relp)"
    if way.protocol == "relp" and way.ca and () < numbers(version) < _RAINERSCRIPT:
        return f"omrelp of rsyslog {version} knows no TLS"
    if way.protocol == "tcp" and way.ca and not driver(machine):
        return "rsyslog has no module for TLS (package rsyslog-gnutls)"
    return ""


def driver(machine: Machine) -> str:
    """Return the network driver that speaks TLS here; empty where none does."""
    return next((name for name in ("gtls", "ossl") if f"lmnsd_{name}" in machine.modules), "")


def spool(main: str) -> str:
    """Return the work directory that rsyslog's main file names; empty where it names none."""
    for line in main.splitlines():
        words = line.replace("(", " ").replace(")", " ").replace("=", " ").replace('"', " ").split()
        names = [word.lower() for word in words]
        if words and not words[0].startswith("#"):
            for name in ("$workdirectory", "workdirectory"):
                if name in names[:-1]:
                    return words[names.index(name) + 1].rstrip("/")
    return ""


def _includes(main: str) -> bool:
    lines = (line.strip() for line in main.splitlines())
    return any(FOLDER in line for line in lines if not line.startswith("#"))


def _call(machine: Machine, systemd: str, sysv: str) -> tuple[str, ...]:
    # a reload is SIGHUP, on which rsyslog opens its files anew and reads no configuration
    if machine.init == "systemd":
        return ("systemctl", "--no-block", systemd, "rsyslog.service")
    return ("service", "rsyslog", sysv)


def _text(
    logging: Logging, ways: tuple[Link, ...], chosen: tuple[str, ...], *, machine: Machine, loaded: tuple[str, ...]
) -> str:
    """Return the drop-in in RainerScript."""
    version = numbers(machine.versions.get("rsyslog", "")) or _OWN_CERTIFICATES
    main = machine.texts.get(MAIN, "")
    lines = [f"$WorkDirectory {spool(main) or SPOOL}"]
    lines += [f'module(load="{name}")' for name in needed(ways) if name not in loaded]
    secured = [way for way in ways if way.ca and way.protocol == "tcp"]
    if secured and version < _OWN_CERTIFICATES:
        words = (("CA", secured[0].ca), ("Cert", secured[0].cert), ("Key", secured[0].key))
        given = " ".join(f'defaultNetstreamDriver{name}File="{path}"' for name, path in words if path)
        lines.append(f"global({given})")
    actions = [_action(way, driver(machine), has_own=version >= _OWN_CERTIFICATES) for way in ways]
    lines.append('ruleset(name="contextagent_trace" queue.type="Direct") {')
    lines += [f"  action({each})" for each in actions]
    lines.append("}")
    lines += [f"input({each})" for each in _inputs(logging, version)]
    lines.append(f'template(name="contextagent_forged" type="string" string="{rsyslog_legacy.FORGED}")')
    lines.append(f'if ($syslogtag contains "{TAG}") or (re_match($msg, "^[ :]*{TAG}") == 1) then {{')
    for number, each in enumerate(actions, 1):
        forged = each.replace("RSYSLOG_ForwardFormat", "contextagent_forged")
        lines.append(f"  action({forged} {_QUEUE.format(number=f'forged_{number}')})")
    lines.append(f'}} else if prifilt("{";".join(chosen)}") or ($programname == "{SCRIPT_TAG}") then {{')
    lines += [f"  action({each} {_QUEUE.format(number=number)})" for number, each in enumerate(actions, 1)]
    lines.append("}")
    return "\n".join(lines) + "\n"


def _inputs(logging: Logging, version: tuple[int, ...]) -> Iterator[str]:
    """Yield the words of the inputs that read the trace."""
    common = f'tag="{TAG}:" facility="daemon" severity="notice" ruleset="contextagent_trace" '
    common += 'persistStateInterval="1" maxSubmitAtOnce="1"'
    if version >= _TRUNCATION:
        common += ' reopenOnTruncate="on"'
    if version >= _WILDCARDS:
        yield f'type="imfile" file="{logging.trace}" {common}'
        return
    for path in traces(logging):
        yield f'type="imfile" file="{path}" stateFile="{position(path)}" {common}'


def _action(way: Link, stream_driver: str, *, has_own: bool) -> str:
    """Return the words of an action that sends one way, endlessly."""
    words = [f'target="{way.host}" port="{way.port}" template="RSYSLOG_ForwardFormat" {_FOR_EVER}']
    if way.protocol == "relp":
        words.insert(0, 'type="omrelp"')
        if way.ca:
            words.append(f'tls="on" tls.caCert="{way.ca}" tls.authMode="name" tls.permittedPeer=["{way.peer}"]')
            words += [f'tls.myCert="{way.cert}" tls.myPrivKey="{way.key}"'] if way.cert else []
        return " ".join(words)
    words.insert(0, f'type="omfwd" protocol="{way.protocol}"')
    if way.ca:
        words.append(f'tcp_framing="octet-counted" streamDriver="{stream_driver}" streamDriverMode="1"')
        words.append(f'streamDriverAuthMode="x509/name" streamDriverPermittedPeers="{way.peer}"')
        pairs = (("ca", way.ca), ("cert", way.cert), ("key", way.key)) if has_own else ()
        words += [f'streamDriver.{name}File="{path}"' for name, path in pairs if path]
    return " ".join(words)
