"""The log daemons that a machine has, and what each is told: found out before the plan is made, and nothing changed."""

from __future__ import annotations

import os

from contextagent.collectors import DAEMONS, Machine, load, targets
from contextagent.collectors.asked import asked
from contextagent.collectors.words import named
from contextagent.model import Problem, Value
from contextagent.runner.logfiles import expanded, placed, resolved
from contextagent.runner.logpositions import trace_paths
from contextagent.runner.reserve import LOGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.collectors import Daemon, Init, Logging, Target
    from contextagent.host import Host
    from contextagent.policy.settings import Settings

_PROGRAMS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/lib/systemd", "/lib/systemd")
_LIBRARIES = ("/usr/lib64", "/lib64", "/usr/lib", "/lib")
_MODULES = ("rsyslog", "syslog-ng")
_VERSION_S = 2
_SYSLOGS = ("rsyslog", "syslog_ng", "sysklogd")
_ALIAS = "/etc/systemd/system/syslog.service"
_MISTAKES = {
    "bad-collector": "logging.collectors",
    "bad-selector": "logging.facilities",
    "no-upload": "logging.journal_upload",
    "no-audit": "logging.audit",
}
"""What makes the result `degraded`: a part of what was asked for that nobody does; and the key that asked."""
_MAX_CONFIGURATION_BYTES = 1 << 20


class Found(Value):
    """What the log daemons of a machine are told.

    Attributes:
        targets: For each daemon that is told something; None where nothing is asked.
        wanted: Where the site wants logs sent: hosts, and the journal's URL.
        barred: Why nothing can be sent there at all, where that is not a daemon's fault.
        leftovers: What daemons were told by an earlier boot, and are not any more.
        warnings: What could not be expressed, and what is done instead.
        errors: What can't be done at all.
    """

    targets: tuple[Target, ...] | None
    wanted: tuple[str, ...] = ()
    barred: str = ""
    leftovers: tuple[Target, ...] = ()
    warnings: tuple[Problem, ...] = ()
    errors: tuple[Problem, ...] = ()


def find_targets(
    host: Host, settings: Settings, old_servers: tuple[tuple[str, str], ...], *, boot_id: str, instance_id: str
) -> Found:
    """Return what each log daemon of the machine is told.

    Below another root, a daemon that is not there is looked for on this machine, where scripts of a trial run, too.

    Args:
        host: The machine.
        settings: Effective settings.
        old_servers: What the older forms say (`runner.surroundings.old_log_servers`).
        boot_id: This boot's.
        instance_id: This machine's; empty when unknown.
    """
    logging, problems = asked(settings, old_servers)
    logging = logging.replace(
        trace=host.files.real(f"{LOGS}/trace-*.jsonl"),
        traces=tuple(map(host.files.real, trace_paths(host))),
        boot_id=boot_id,
        instance_id=instance_id,
    )
    before = placed(host)
    if not (logging.collectors or logging.audit or logging.journal_upload):
        return Found(targets=None, leftovers=tuple(before.values()), warnings=problems)
    try:
        found = targets(logging, machine_of(host))
    except OSError as error:  # such as a machine that has no process left to give
        message = f"cannot look for the log daemons: {error.strerror or error}, going on without them"
        return Found(targets=(), warnings=problems, errors=(Problem(reason="logging-failed", message=message),))
    made = _without_rivals(host, tuple(_at_their_places(host, each) for each in found if each.files))
    said = [_placed_in(settings, problem) for each in found for problem in each.problems]
    is_able = {each.reason for each in said} - {"bad-collector"} or any(each.sends for each in made) or not said
    return Found(
        targets=made,
        wanted=_wanted(logging),
        barred="" if is_able else "none of the collectors that are named can be used",
        leftovers=tuple(told for name, told in before.items() if name not in [each.daemon for each in made]),
        warnings=(*problems, *(each for each in said if each.reason not in _MISTAKES)),
        errors=tuple(dict.fromkeys(each for each in said if each.reason in _MISTAKES)),
    )


def _at_their_places(host: Host, told: Target) -> Target:
    """Return what a daemon is told, lines in a file of others going where a link in its place leads to."""
    files = tuple(file.replace(path=resolved(host, file.path)) if file.is_block else file for file in told.files)
    return told.replace(files=files)


def _without_rivals(host: Host, made: tuple[Target, ...]) -> tuple[Target, ...]:
    """Return what is told to one syslog daemon alone: two would send everything twice, the weaker one in the clear.

    That is the one that systemd's `syslog.service` stands for, else the first of `_SYSLOGS`; which of them runs is not
    asked, since whoever could start one and stop another would have the choice.
    """
    rivals = sorted((each for each in made if each.daemon in _SYSLOGS), key=lambda each: _SYSLOGS.index(each.daemon))
    try:
        chosen = os.path.basename(os.readlink(host.files.real(_ALIAS))).removesuffix(".service").replace("-", "_")
    except OSError:
        chosen = ""
    best = next((each for each in rivals if each.daemon == chosen), rivals[0] if rivals else None)
    return tuple(each for each in made if each.daemon not in _SYSLOGS or each is best)


def _wanted(logging: Logging) -> tuple[str, ...]:
    """Return where logs are wanted, for people."""
    names = [each.host or "?" for each in logging.collectors]
    return tuple(dict.fromkeys((*names, *([named(logging.journal_upload)] if logging.journal_upload else []))))


def _placed_in(settings: Settings, problem: Problem) -> Problem:
    """Return a mistake in the settings with the place where it was written."""
    key = _MISTAKES.get(problem.reason)
    if not key:
        return problem
    origin = settings.origin(key)
    return problem.replace(path=origin.path, line=origin.line)


def machine_of(host: Host) -> Machine:
    """Return what the daemons' texts depend on, as it is found on the machine."""
    daemons = {name: load(name) for name in DAEMONS}
    programs = dict(_programs(host, daemons))
    paths = (path for daemon in daemons.values() for path in daemon.ASKED)
    versions = {
        name: version
        for name, each in daemons.items()
        if each.PROGRAM in programs and (version := _version(host, programs[each.PROGRAM]))
    }
    return Machine(
        programs=programs,
        versions=versions,
        modules=tuple(sorted(set(_modules(host)))),
        texts={path: text for path in expanded(host, paths) if (text := _text(host, path)) is not None},
        init=_init(host),
    )


def _programs(host: Host, daemons: dict[str, Daemon]) -> Iterator[tuple[str, str]]:
    """Yield name and real path of every program that a daemon's texts ask for."""
    for daemon in daemons.values():
        for name in (daemon.PROGRAM, *getattr(daemon, "EXTRA", ())):
            inside = (host.files.real(f"{folder}/{name}") for folder in _PROGRAMS)
            outside = (f"{folder}/{name}" for folder in _PROGRAMS if host.is_caller)
            path = next((path for path in (*inside, *outside) if os.access(path, os.X_OK)), None)
            if path:
                yield name, path


def _version(host: Host, program: str) -> str:
    """Return the version that a daemon says it is (`8.2302.0`); empty where it says none, or only after a long time."""
    if not program.endswith("/rsyslogd") and not program.endswith("/syslog-ng"):
        return ""
    option = "-v" if program.endswith("/rsyslogd") else "-V"
    first = host.run([program, option], timeout_s=_VERSION_S, leaves_nothing=True).text().partition("\n")[0]
    words = first.replace(",", " ").replace("(", " ").replace(")", " ").split()
    return next((word for word in words if word[0].isdigit() and "." in word), "")


def _modules(host: Host) -> Iterator[str]:
    """Yield the names of the daemons' modules, without `.so`."""
    roots = ("", host.root) if host.is_caller else ("",)
    for root in roots:
        for library in _LIBRARIES:
            folders = [f"{root}{library}", *_below(f"{root}{library}", "-linux-gnu")]
            for folder in (f"{folder}/{name}" for folder in folders for name in _MODULES):
                for place in (folder, *_below(folder, "")):
                    yield from (name.removesuffix(".so") for name in _names(place) if name.endswith(".so"))


def _below(folder: str, ending: str) -> list[str]:
    return [
        f"{folder}/{name}" for name in _names(folder) if name.endswith(ending) and os.path.isdir(f"{folder}/{name}")
    ]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(host: Host, path: str) -> str | None:
    """Return a configuration file's text; None where there is none that can be read."""
    try:
        return host.files.read(resolved(host, path), max_bytes=_MAX_CONFIGURATION_BYTES).decode(
            "utf-8", "surrogateescape"
        )
    except OSError:
        return None


def _init(host: Host) -> Init:
    """Return what starts the machine's daemons: systemd says so by a folder that nobody else makes (sd_booted(3))."""
    return "systemd" if host.files.exists("/run/systemd/system") else "sysv"
