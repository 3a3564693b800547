"""What is asked of the log daemons: the settings `logging.*`, and the two older ways to name the site's log server."""

from __future__ import annotations

from contextagent.collectors import Collector, Logging
from contextagent.model import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.policy.settings import Settings

OLD_PORT = 514
"""Of the older forms, which name a host alone: classic syslog by UDP."""
_MAX_PORT = 65_535
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:")
_MAX_NAME = 255


def asked(settings: Settings, old_servers: tuple[tuple[str, str], ...] = ()) -> tuple[Logging, tuple[Problem, ...]]:
    """Return what the settings ask for, and what was passed over.

    Args:
        settings: Effective settings; where they name a collector, the older forms say nothing.
        old_servers: Where an older form stands (`SYSLOG_SERVER`), and what it says: `host` or `host:port`.
    """
    problems: list[Problem] = []
    collectors = tuple(Collector(**given) for given in settings["logging.collectors"])
    for where, said in () if collectors else old_servers:
        found = _old_collector(said)
        if found is None:
            message = f"cannot use '{where}': it names no host, ignoring it"
            problems.append(Problem(reason="bad-collector", message=message))
        elif found not in collectors:
            collectors += (found,)
    logging = Logging(
        collectors=collectors,
        facilities=settings["logging.facilities"],
        script_output=settings["logging.script_output"],
        audit=settings["logging.audit"],
        journal_upload=settings["logging.journal_upload"] or "",
    )
    return logging, tuple(problems)


def _old_collector(said: str) -> Collector | None:
    """Return the collector that an older form names; None where it names none."""
    text = said.strip()
    host, bracket, rest = text[1:].partition("]") if text.startswith("[") else ("", "", "")
    if bracket:
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if not host or len(host) > _MAX_NAME or not set(host) <= _NAME or host.startswith("-"):
        return None
    if port and not (port.isascii() and port.isdigit() and len(port) <= len(str(_MAX_PORT))):
        return None
    number = int(port or OLD_PORT)
    return Collector(host=host, port=number, protocol="udp") if 0 < number <= _MAX_PORT else None
