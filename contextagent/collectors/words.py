"""Foreign words that get into a daemon's configuration: only those that can mean nothing else there.

One rule for all daemons: a word is letters, digits and a few marks that no configuration language knows.  What is
written otherwise is refused with its collector; nothing is escaped, so that nothing can be escaped wrongly.
"""

from __future__ import annotations

from contextagent.collectors import PORTS, Endpoint
from contextagent.model import Problem, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from contextagent.collectors import Collector, Logging

_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_HOST = _ALNUM | set(".-_:")
_PEER = _ALNUM | set(".-_:*")
_PATH = _ALNUM | set("/._-+@=:,")
_URL = _ALNUM | set("/._-:[]~")
_MAX_CHARS = 255
FACILITIES = (
    *"auth authpriv cron daemon ftp kern lpr mail news syslog user uucp".split(),
    *(f"local{number}" for number in range(8)),
)
SEVERITIES = tuple("emerg alert crit err warning notice info debug".split())
_SAME = {"security": "auth", "panic": "emerg", "error": "err", "warn": "warning"}
USUAL = "*.info"
ALWAYS = "authpriv.*"
"""What is always carried: who logged in, and who became whom."""


class Link(Value):
    """A way to a collector that can be written down.

    Attributes:
        host: As `Collector.host`.
        port: Never 0.
        protocol: `relp`, `tcp` or `udp`.
        ca: Empty: no TLS.
        cert: As `Collector.cert`.
        key: As `Collector.key`.
        peer: Name that the collector's certificate must have; never empty where there is a `ca`.
    """

    host: str
    port: int
    protocol: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    peer: str = ""

    @property
    def url(self) -> str:
        """The way, for people: `relp+tls://host:2514`."""
        scheme = self.protocol if not self.ca else "tls" if self.protocol == "tcp" else f"{self.protocol}+tls"
        return f"{scheme}://{bracketed(self.host)}:{self.port}"

    def plain(self, cause: str) -> tuple[Link, Problem]:
        """Return the way by plain TCP, for a daemon that can't go this one, and what is said of it."""
        link = Link(host=self.host, port=PORTS["tcp"], protocol="tcp")
        message = f"cannot send to '{self.url}': {cause}, sending in the clear to '{link.url}'"
        return link, Problem(reason="plain-tcp", message=message)


def bracketed(host: str) -> str:
    """Return a host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def links(collectors: Iterable[Collector]) -> tuple[tuple[Link, ...], tuple[Problem, ...]]:
    """Return the ways to these collectors, and why there is none to some of them."""
    ways: list[Link] = []
    problems: list[Problem] = []
    for each in collectors:
        cause = _fault(each)
        if cause:
            message = f"cannot send logs to '{_shown(each.host)}': {cause}, ignoring this collector"
            problems.append(Problem(reason="bad-collector", message=message))
            continue
        is_tls = bool(each.ca)
        ways.append(
            Link(
                host=each.host,
                port=each.port or PORTS[each.protocol],
                protocol="tcp" if each.protocol == "tls" else each.protocol,
                ca=each.ca,
                cert=each.cert,
                key=each.key,
                peer=(each.peer or each.host) if is_tls else "",
            )
        )
    return tuple(dict.fromkeys(ways)), tuple(problems)


def asked(
    logging: Logging, impossible: Callable[[Link], str]
) -> tuple[tuple[Link, ...], tuple[str, ...], tuple[Problem, ...]]:
    """Return the ways to the collectors, the selectors of what goes there, and what is said of either.

    Args:
        logging: What is asked.
        impossible: Says why the daemon can't go a way, which plain TCP then replaces; empty where it can.
    """
    ways, problems = links(logging.collectors)
    chosen, unsaid = selectors(logging.facilities)
    found: list[Link] = []
    changed: list[Problem] = []
    for way in ways:
        cause = impossible(way)
        if cause:
            plain, problem = way.plain(cause)
            changed.append(problem)
        else:
            plain = way
        found.append(plain)
    return tuple(dict.fromkeys(found)), chosen, (*problems, *unsaid, *changed)


def endpoints(ways: Iterable[Link]) -> tuple[Endpoint, ...]:
    """Return where a connect can prove that these collectors are reachable."""
    return tuple(
        Endpoint(host=way.host, port=way.port, ca=way.ca, cert=way.cert, key=way.key, peer=way.peer)
        for way in ways
        if way.protocol != "udp"
    )


def selectors(facilities: Iterable[str]) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """Return the selectors that can be written down, `authpriv.*` last of all, and why some can't.

    Where none of those asked for can be, it is `*.info`: a slip of the pen must not end all logging.
    """
    good: list[str] = []
    problems: list[Problem] = []
    for selector in (part.strip() for each in facilities for part in each.split(";")):
        if is_selector(selector):
            good.append(selector)
        else:
            message = (
                f"cannot select '{_shown(selector)}': a selector is facility.severity as in syslog.conf, ignoring it"
            )
            problems.append(Problem(reason="bad-selector", message=message))
    if problems and not good:
        good.append(USUAL)
    return (*dict.fromkeys(each for each in good if each != ALWAYS), ALWAYS), tuple(problems)


def is_selector(text: str) -> bool:
    """Return whether something is one selector of the classic syslog.conf: `auth,cron.!=info`."""
    names, dot, severity = text.partition(".")
    severity = severity.removeprefix("!").removeprefix("=")
    return (
        bool(dot)
        and (severity in ("*", "none") or _SAME.get(severity, severity) in SEVERITIES)
        and all(name == "*" or _SAME.get(name, name) in FACILITIES for name in names.split(","))
    )


def selected(chosen: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return which severities of each facility these selectors take, each one changing what those before it took."""
    taken: dict[str, set[str]] = {name: set() for name in FACILITIES}
    for selector in chosen:
        names, _, severity = selector.partition(".")
        severities, is_out = _severities(severity)
        for name in FACILITIES if "*" in names.split(",") else (_SAME.get(each, each) for each in names.split(",")):
            taken[name] = taken[name] - severities if is_out else taken[name] | severities
    return {name: tuple(each for each in SEVERITIES if each in taken[name]) for name in FACILITIES}


def selects_scripts(chosen: Iterable[str]) -> bool:
    """Return whether these selectors take what `SCRIPT_TAG` marks, which is `daemon.notice`."""
    return "notice" in selected(chosen)["daemon"]


def _severities(text: str) -> tuple[set[str], bool]:
    """Return the severities that a selector names, and whether it takes them out."""
    is_out = text.startswith("!") or text == "none"
    text = text.removeprefix("!")
    is_one = text.startswith("=")
    name = _SAME.get(text.removeprefix("="), text.removeprefix("="))
    if name in ("*", "none"):
        return set(SEVERITIES), is_out
    return {name} if is_one else set(SEVERITIES[: SEVERITIES.index(name) + 1]), is_out


def is_path(text: str) -> bool:
    """Return whether something is an absolute path that every daemon's configuration can hold."""
    return text.startswith("/") and len(text) <= _MAX_CHARS and set(text) <= _PATH


def is_url(text: str) -> bool:
    """Return whether something is a URL that a configuration can hold."""
    return text.startswith(("https://", "http://")) and len(text) <= _MAX_CHARS and set(text) <= _URL


def named(url: str) -> str:
    """Return a URL as everybody may read it: scheme, host and port."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].partition('?')[0].rpartition('@')[2]}" if mark else ""


def _fault(collector: Collector) -> str:
    """Return why a collector can't be written down; empty where it can."""
    host, peer = collector.host, collector.peer
    if not host or len(host) > _MAX_CHARS or not set(host) <= _HOST or not set(host) & _ALNUM or host[0] in "-.":
        return "this is no name and no address"
    if not 0 <= collector.port <= 65_535:  # noqa: PLR2004  # the highest port
        return f"{collector.port} is no port"
    if len(peer) > _MAX_CHARS or not set(peer) <= _PEER:
        return f"its 'peer' can't be a name: '{_shown(peer)}'"
    for name in ("ca", "cert", "key"):
        path = getattr(collector, name)
        if path and not is_path(path):
            return f"its '{name}' is no absolute path without blanks and quotes: '{_shown(path)}'"
    if bool(collector.cert) != bool(collector.key):
        return "'cert' and 'key' go together"
    if collector.protocol == "relp" and collector.ca and not collector.cert:
        return "RELP inside TLS takes a 'cert' and a 'key' of this machine as well"  # else librelp checks nobody
    if collector.protocol == "tls" and not collector.ca:
        return "without a 'ca' nobody knows who answers"
    if collector.ca and collector.protocol in ("tcp", "udp"):
        return f"'{collector.protocol}' has no certificates; 'tls' has"
    return ""


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:80])
