"""The log daemons that a machine has, and what each is told: found out before the plan is made, and nothing changed."""

from __future__ import annotations

import os

from contextagent.collectors import DAEMONS, Machine, load, targets
from contextagent.collectors.asked import asked
from contextagent.collectors.words import named
from contextagent.model import Problem, Value
from contextagent.runner.logfiles import trace_paths
from contextagent.runner.reserve import LOGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.collectors import Daemon, Init, Target
    from contextagent.host import Host
    from contextagent.policy.settings import Settings

_PROGRAMS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/lib/systemd", "/lib/systemd")
_LIBRARIES = ("/usr/lib64", "/lib64", "/usr/lib", "/lib")
_MODULES = ("rsyslog", "syslog-ng")
_VERSION_S = 5
_MAX_CONFIGURATION_BYTES = 1 << 20


class Found(Value):
    """What the log daemons of a machine are told.

    Attributes:
        targets: For each daemon that is told something.
        wanted: Where the site wants logs sent: hosts, and the journal's URL.
        warnings: What could not be expressed, and what is done instead.
        errors: What can't be done at all.
    """

    targets: tuple[Target, ...]
    wanted: tuple[str, ...] = ()
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
    if not (logging.collectors or logging.audit or logging.journal_upload):
        return Found(targets=(), warnings=problems)
    try:
        found = targets(logging, machine_of(host))
    except OSError as error:  # such as a machine that has no process left to give
        message = f"cannot look for the log daemons: {error.strerror or error}, going on without them"
        return Found(targets=(), warnings=problems, errors=(Problem(reason="logging-failed", message=message),))
    wanted = dict.fromkeys((*(each.host for each in logging.collectors), named(logging.journal_upload)))
    return Found(
        targets=tuple(each for each in found if each.files),
        wanted=tuple(filter(None, wanted)),
        warnings=(*problems, *(said for each in found if each.files for said in each.problems)),
        errors=tuple(said for each in found if not each.files for said in each.problems),
    )


def machine_of(host: Host) -> Machine:
    """Return what the daemons' texts depend on, as it is found on the machine."""
    daemons = {name: load(name) for name in DAEMONS}
    programs = dict(_programs(host, daemons))
    versions = {
        name: version
        for name, each in daemons.items()
        if each.PROGRAM in programs and (version := _version(host, programs[each.PROGRAM]))
    }
    return Machine(
        programs=programs,
        versions=versions,
        modules=tuple(sorted(set(_modules(host)))),
        texts={path: text for path in _asked(host, daemons) if (text := _text(host, path)) is not None},
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


def _asked(host: Host, daemons: dict[str, Daemon]) -> Iterator[str]:
    """Yield the paths that the daemons' texts depend on; of a folder, those with the ending that is asked for."""
    for path in (path for daemon in daemons.values() for path in daemon.ASKED):
        folder, star, ending = path.partition("*")
        if star:
            yield from (f"{folder}{each.name}" for each in host.files.folder(folder) if each.name.endswith(ending))
        else:
            yield path


def _version(host: Host, program: str) -> str:
    """Return the version that a daemon says it is (`8.2302.0`); empty where it says none, or only after a long time."""
    if not program.endswith("/rsyslogd") and not program.endswith("/syslog-ng"):
        return ""
    option = "-v" if program.endswith("/rsyslogd") else "-V"
    first = host.run([program, option], timeout_s=_VERSION_S).text().partition("\n")[0]
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
        return host.files.read(path, max_bytes=_MAX_CONFIGURATION_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return None


def _init(host: Host) -> Init:
    """Return what starts the machine's daemons: systemd says so by a folder that nobody else makes (sd_booted(3))."""
    return "systemd" if host.files.exists("/run/systemd/system") else "sysv"
