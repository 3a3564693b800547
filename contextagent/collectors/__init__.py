"""What each log daemon is told, as values: the texts that carry the trace and the machine's logs to the site.

A daemon is one file here, one name in `DAEMONS`, one fixture folder, one test with the real daemon and one row in
docs/reference/logging.md.  Its module says what it needs to know of the machine, and writes one `Target`; who puts
that in place, and when, is not its to know.

Everything in `Logging` comes from a site's settings: foreign text.  A value that a daemon's language can't hold without
meaning something else there is refused as a `Problem`, never cut or guessed at.
"""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal, Protocol

    from contextagent.model import Problem

    Transport = Literal["relp", "tls", "tcp", "udp"]
    Init = Literal["systemd", "sysv"]

    class Daemon(Protocol):
        """What a module of this folder offers."""

        PROGRAM: str
        """Name of its program, without a folder: without it, the machine does not have this daemon."""
        ASKED: tuple[str, ...]
        """Globs of the configuration files whose text `target` wants to see in `Machine.texts`."""

        def target(self, logging: Logging, machine: Machine) -> Target | None:
            """Return what this daemon is told; None where it is not there, or nothing is asked of it."""


DAEMONS = ("rsyslog", "sysklogd", "syslog_ng", "journald", "journal_upload", "auditd")

PORTS: Mapping[str, int] = {"relp": 2514, "tls": 6514, "tcp": 514, "udp": 514}
"""Where a collector listens that names no port: IANA's for TLS (RFC 5425) and UDP, custom for the other two."""

TAG = "contextagent-trace"
"""What stands before a record of the trace in a collector's file, and by which a collector may tell it."""
FORGED_TAG = "contextagent-forged"
"""What stands before a line that somebody logged under `TAG`, or nearly so, and that is no record from the file."""
SCRIPT_TAG = "contextagent-script"
"""The same of the output of scripts, and of the summary lines that stand in for a trace that is not carried."""


class Collector(Value):
    """A machine of the site that takes logs.

    Attributes:
        host: Name or address, IPv6 without brackets.
        port: 0: the one of `PORTS`.
        protocol: How; `relp` with a `ca` is RELP inside TLS, where this machine shows a certificate as well.
        ca: Path of the certificates it is judged by; `tls` takes one, `tcp` and `udp` take none.
        cert: Path of this machine's own certificate, with `key`; empty: it shows none.
        key: Path of its private key.
        peer: Name that the collector's certificate must have; empty: `host`.
    """

    host: str
    port: int = 0
    protocol: Transport = "relp"
    ca: str = ""
    cert: str = ""
    key: str = ""
    peer: str = ""


class Logging(Value):
    """What is asked: the settings `logging.*`, and what the records are called.

    Attributes:
        collectors: Where logs go; each gets everything.
        facilities: Selectors, as in the classic syslog.conf: `*.info`.
        script_output: Whose scripts' output is in syslog under `SCRIPT_TAG`; the daemons carry what is there.
        audit: Whether what is executed is audited.
        journal_upload: URL that the journal goes to; empty: nowhere.
        trace: Glob of the trace's files, as a daemon of the machine sees them.
        traces: The same one by one, oldest first, for a daemon that takes no glob; empty: this boot's alone.
        boot_id: Of this boot.
        instance_id: Of this machine; empty when unknown.
    """

    collectors: tuple[Collector, ...] = ()
    facilities: tuple[str, ...] = ("*.info", "authpriv.*")
    script_output: str = "site"
    audit: bool = False
    journal_upload: str = ""
    trace: str = "/var/log/contextagent/trace-*.jsonl"
    traces: tuple[str, ...] = ()
    boot_id: str = ""
    instance_id: str = ""


class Machine(Value):
    """What the texts depend on, as the host found it.

    Attributes:
        programs: Name (`rsyslogd`) to path, of those in `WANTED` that are there.
        versions: Daemon (`rsyslog`) to its version as `rsyslogd -v` says it: `8.2302.0`.
        modules: Names of the files in the modules' folders (`MODULE_FOLDERS`), without `.so`: `omrelp`, `lmnsd_gtls`.
        texts: Path to text, of the daemons' `ASKED` that are there.
        init: What starts daemons here.
    """

    programs: Mapping[str, str]
    versions: Mapping[str, str] = {}
    modules: tuple[str, ...] = ()
    texts: Mapping[str, str] = {}
    init: Init = "systemd"


class TargetFile(Value):
    """One file to write.

    Attributes:
        path: In the machine.
        text: All of it, or the lines to stand between the marks.
        mode: Of a new file; a file of others keeps its own.
        is_block: Whether it is marked lines inside a file of others: see `with_block` and `without_block`.
    """

    path: str
    text: str
    mode: int = 0o644
    is_block: bool = False


class Endpoint(Value):
    """Where a bounded connect of our own proves that a collector is reachable; not made for UDP."""

    host: str
    port: int
    ca: str = ""
    cert: str = ""
    key: str = ""
    peer: str = ""


class Target(Value):
    """What one daemon is told.

    Attributes:
        daemon: Its name in `DAEMONS`.
        files: To put in place all together, or not at all.
        check: The daemon's own checker, to be run with the files in place; 0: accepted.  Empty: it has none.
        check_alone: The same of a new file by itself, whatever its name is; `{file}` stands for its real path.
        take_up: The command that makes a running daemon take the files up; it waits for nothing.  A daemon that does
            not run is not started by it.
        bring_back: The command that starts the daemon anew, also where it has stopped; it waits for nothing.
        process: Name of the process (`/proc/PID/comm`) that must be there afterwards.
        carries_trace: Whether the trace itself is carried; else summary lines have to do.
        problems: What could not be expressed, and what is done instead.
        connect: Where its collectors are.
        positions: Globs of the files where it keeps how far it has read a trace; `{inode}`, `{name}` and `{dashed}`
            (the path with a dash for each slash) are that trace's.  Without them it sends all of the trace again.
        sends: Where it sends, for people: `relp://host:2514`, `relp+tls://…`, `tls://…`, `tcp://…`, `udp://…`.
    """

    daemon: str
    files: tuple[TargetFile, ...]
    check: tuple[str, ...] = ()
    check_alone: tuple[str, ...] = ()
    take_up: tuple[str, ...] = ()
    bring_back: tuple[str, ...] = ()
    process: str = ""
    carries_trace: bool = False
    problems: tuple[Problem, ...] = ()
    connect: tuple[Endpoint, ...] = ()
    positions: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()


BEGIN = "# contextagent begin: written at each boot, changes are lost"
END = "# contextagent end"


def with_block(current: str, block: str) -> str:
    """Return a file of others with our lines at its end, in place of those of an earlier boot."""
    kept = without_block(current, block)
    if kept and not kept.endswith("\n"):
        kept += "\n"
    return f"{kept}{BEGIN}\n{block}{END}\n"


def without_block(current: str, block: str = "") -> str:
    """Return a file of others without our lines.

    Where somebody took the mark at their end away, nobody knows how far they go: then the mark goes, and of what comes
    behind it the lines that are in `block`; those of others are not ours to lose.
    """
    known = block.splitlines()
    kept: list[str] = []
    ours: list[str] | None = None
    for line in current.splitlines(keepends=True):
        text = line.rstrip("\n")
        if text == BEGIN:
            kept += _unknown(ours, known)
            ours = []
        elif text == END and ours is not None:
            ours = None
        elif ours is None:
            kept.append(line)
        else:
            ours.append(line)
    return "".join([*kept, *_unknown(ours, known)])


def _unknown(lines: list[str] | None, known: list[str]) -> list[str]:
    return [line for line in lines or () if line.rstrip("\n") not in known]


def load(name: str) -> Daemon:
    """Return a daemon's texts; its module is imported only now."""
    daemon: Daemon = __import__(f"{__name__}.{name}", fromlist=("target",))
    return daemon


def targets(logging: Logging, machine: Machine) -> tuple[Target, ...]:
    """Return what each daemon that this machine has is told, in the order of `DAEMONS`."""
    made = [load(name).target(logging, machine) for name in DAEMONS]
    return tuple(target for target in made if target is not None)
