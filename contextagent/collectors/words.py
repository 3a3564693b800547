"""Foreign words that get into a daemon's configuration: only those that can mean nothing else there.

One rule for all daemons: a word is letters, digits and a few marks that no configuration language knows.  What is
written otherwise is refused with its collector; nothing is escaped, so that nothing can be escaped wrongly.
"""

from __future__ import annotations

from contextagent.collectors import PORTS, Endpoint
from contextagent.model import Problem, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from contextagent.collectors import Collector

_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_HOST = _ALNUM | set(".-_:")
_PEER = _ALNUM | set(".-_:*")
_PATH = _ALNUM | set("/._-+@=:,")
_URL = _ALNUM | set("/._-:[]~")
_MAX_CHARS = 255
_FACILITIES = frozenset(
    "* auth authpriv cron daemon ftp kern lpr mail news security syslog user uucp".split()
    + [f"local{number}" for number in range(8)]
)
_SEVERITIES = frozenset("* none debug info notice warning warn err error crit alert emerg panic".split())
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


def endpoints(ways: Iterable[Link]) -> tuple[Endpoint, ...]:
    """Return where a connect can prove that these collectors are reachable."""
    return tuple(
        Endpoint(host=way.host, port=way.port, ca=way.ca, cert=way.cert, key=way.key, peer=way.peer)
        for way in ways
        if way.protocol != "udp"
    )


def selectors(facilities: Iterable[str]) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """Return the selectors that can be written down, `authpriv.*` last of all, and why some can't."""
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
    return (*dict.fromkeys(each for each in good if each != ALWAYS), ALWAYS), tuple(problems)


def is_selector(text: str) -> bool:
    """Return whether something is one selector of the classic syslog.conf: `auth,cron.!=info`."""
    facilities, dot, severity = text.partition(".")
    severity = severity.removeprefix("!").removeprefix("=")
    return bool(dot) and severity in _SEVERITIES and all(name in _FACILITIES for name in facilities.split(","))


def selects_scripts(chosen: Iterable[str]) -> bool:
    """Return whether one of these selectors takes what `SCRIPT_TAG` marks, which is `daemon.notice`."""
    pairs = (each.rpartition(".") for each in chosen)
    return any(
        severity in ("*", "debug", "info", "notice", "=notice") and {"*", "daemon"} & set(facilities.split(","))
        for facilities, _, severity in pairs
    )


def is_path(text: str) -> bool:
    """Return whether something is an absolute path that every daemon's configuration can hold."""
    return text.startswith("/") and len(text) <= _MAX_CHARS and set(text) <= _PATH


def is_url(text: str) -> bool:
    """Return whether something is a URL that a configuration can hold."""
    return text.startswith(("https://", "http://")) and len(text) <= _MAX_CHARS and set(text) <= _URL


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
    if collector.protocol == "tls" and not collector.ca:
        return "without a 'ca' nobody knows who answers"
    if collector.ca and collector.protocol in ("tcp", "udp"):
        return f"'{collector.protocol}' has no certificates; 'tls' has"
    return ""


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:80])
