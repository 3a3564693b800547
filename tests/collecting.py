"""A site's collector and a machine that sends to it, for tests: Debian's daemons, told what the agent tells them."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING, Self

from contextagent.collectors import TAG, Collector, Logging, Machine, Target, load, with_block
from contextagent.trace.syslog import record_bytes
from tests.certificates import Authority, Certificate
from tests.daemons import Daemon, Station, until
from tests.network import Namespace
from tests.traces import BOOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ADDRESS = "10.9.0.1"
NAME = "collector.site.example"
RELP_TLS = 2515
LOGS = "var/log/contextagent"
RSYSLOGD = ("/usr/sbin/rsyslogd", "-n", "-iNONE")
RSYSLOG_MODULES = ("imfile", "omrelp", "lmnsd_gtls", "lmnsd_ossl")

_FORMAT = "%timereported:::date-rfc3339% %hostname% %syslogtag%%msg:::sp-if-no-1st-sp%%msg:::drop-last-lf%\\n"
_TLS = """
global(defaultNetstreamDriverCAFile="/etc/tls/ca.pem" defaultNetstreamDriverCertFile="/etc/tls/own.pem"
    defaultNetstreamDriverKeyFile="/etc/tls/own.key")
input(type="imrelp" port="2515" ruleset="keep" tls="on" tls.caCert="/etc/tls/ca.pem" tls.myCert="/etc/tls/own.pem"
    tls.myPrivKey="/etc/tls/own.key" tls.authMode="name" tls.permittedPeer=["*.site.example"])
input(type="imtcp" port="6514" ruleset="keep" streamDriver.name="gtls" streamDriver.mode="1"
    {tcp})
"""


def rsyslog_collector(*, has_tls: bool = False, is_mutual: bool = False) -> str:
    """Return the configuration of a collector that acknowledges what its file holds."""
    peers = 'streamDriver.authMode="x509/name" permittedPeer=["*.site.example"]'
    tls = _TLS.format(tcp=peers if is_mutual else 'streamDriver.authMode="anon"')
    return f"""
global(workDirectory="/var/spool/rsyslog")
module(load="imrelp")
module(load="imtcp")
module(load="imudp")
template(name="line" type="string" string="{_FORMAT}")
ruleset(name="keep" queue.type="Direct") {{ action(type="omfile" file="/var/log/all" template="line") }}
input(type="imrelp" port="2514" ruleset="keep")
input(type="imtcp" port="514" ruleset="keep")
input(type="imudp" port="514" ruleset="keep")
{tls if has_tls else ""}"""


class Site:
    """A collector and a machine with a link between them, each with its own network namespace and its own files.

    Attributes:
        collector: The site's machine.
        machine: The one that sends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._near, self._far = Namespace(), Namespace()
        self._near.ip(f"link add eth0 type veth peer name eth0 netns {self._far.pid}")
        for side, address in ((self._far, ADDRESS), (self._near, "10.9.0.2")):
            side.ip(f"address add {address}/24 dev eth0", "link set eth0 up")
        self.collector = Station(folder / "collector", self._far)
        self.machine = Station(folder / "machine", self._near)
        for station in (self.collector, self.machine):
            station.put("etc/hosts", f"127.0.0.1 localhost\n{ADDRESS} {NAME} other.site.example\n")
        self.machine.put(f"{LOGS}/readme", "")
        self.collector.put("etc/rsyslog.conf", rsyslog_collector())
        self.running: list[Daemon] = []

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that run a program on the machine's side of the network."""
        return self._near.prefix

    def certify(self, *, is_mutual: bool = False, server: Certificate | None = None) -> Authority:
        """Give the collector a certificate for its name (or this one), and return the authority that issued it."""
        authority = Authority(self._folder / "authority")
        own = server or authority.issue(NAME)
        for place, path in (("ca.pem", authority.cert), ("own.pem", own.cert), ("own.key", own.key)):
            self.collector.put(f"etc/tls/{place}", path.read_text())
        self.machine.put("etc/tls/ca.pem", authority.cert.read_text())
        mine = authority.issue("worker1.site.example")
        self.machine.put("etc/tls/own.pem", mine.cert.read_text())
        self.machine.put("etc/tls/own.key", mine.key.read_text(), mode=0o600)
        self.collector.put("etc/rsyslog.conf", rsyslog_collector(has_tls=True, is_mutual=is_mutual))
        return authority

    def collect(self) -> Daemon:
        """Start the collector, and wait until it takes connections."""
        daemon = self._kept(self.collector.start("rsyslog", *RSYSLOGD))
        until(lambda: not daemon.is_running or {2514, 514} <= self.listening(), "the collector listens")
        assert daemon.is_running, daemon.said.read_text()
        return daemon

    def send(self, group: str = "rsyslog", *argv: str) -> Daemon:
        """Start the machine's daemon."""
        return self._kept(self.machine.start(group, *(argv or RSYSLOGD)))

    def _kept(self, daemon: Daemon) -> Daemon:
        self.running.append(daemon)
        return daemon

    def listening(self) -> set[int]:
        """Return the TCP ports that the collector listens on."""
        rows = (line.split() for name in ("tcp", "tcp6") for line in self._table(name))
        return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}

    def _table(self, name: str) -> list[str]:
        return (self._far.file.parent.parent / "net" / name).read_bytes().decode().splitlines()[1:]

    def tell(
        self,
        daemon: str,
        *collectors: Collector,
        programs: Mapping[str, str],
        version: str = "8.2302.0",
        modules: Iterable[str] = RSYSLOG_MODULES,
        logging: Logging | None = None,
    ) -> Target:
        """Put in place on the machine what the agent would tell a daemon, and return it."""
        texts = {
            f"/{path.relative_to(self.machine.root)}": path.read_text()
            for path in sorted((self.machine.root / "etc").rglob("*.conf"))
        }
        machine = Machine(programs=programs, versions={daemon: version}, modules=tuple(modules), texts=texts)
        asked = logging or Logging(boot_id=BOOT)
        target = load(daemon).target(asked.replace(collectors=collectors), machine)
        assert target
        for file in target.files:
            text = with_block(texts.get(file.path, ""), file.text) if file.is_block else file.text
            self.machine.put(file.path.lstrip("/"), text, mode=file.mode)
        return target

    def log(self, tag: str, text: str, *, priority: str, path: str = "dev/log") -> None:
        """Log a line on the machine, as a program there would."""
        words = ("logger", "--socket", str(self.machine.root / path), "--tag", tag, "--priority", priority)
        subprocess.run([*words, "--", text], check=True)

    def until_logging(self) -> None:
        """Wait until the machine's daemon takes log lines."""
        path = str(self.machine.root / "dev/log")

        def is_there() -> bool:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                return client.connect_ex(path) == 0

        until(is_there, "/dev/log is there")

    def until_logged(self, text: str) -> None:
        """Wait until the machine's daemon takes lines, log one, and wait until it is in the machine's own file."""
        self.until_logging()
        self.log("image", text, priority="user.notice")
        path = self.machine.root / "var/log/local"
        until(lambda: path.exists() and text in path.read_text(), f"the machine logs: {text}")

    def collected(self) -> list[bytes]:
        """Return the lines of the collector's file."""
        path = self.collector.root / "var/log/all"
        return path.read_bytes().splitlines(keepends=True) if path.exists() else []

    def records(self) -> list[bytes]:
        """Return the records that the collector has, as it got them."""
        return [record for line in self.tagged() if (record := record_bytes(line))]

    def tagged(self) -> list[bytes]:
        """Return the lines that a collector keeps as the trace's, by their tag."""
        return [line for line in self.collected() if line.split(None, 3)[2].startswith(TAG.encode())]

    def until_collected(self, *signs: bytes) -> None:
        """Wait until the collector has lines with each of these signs."""
        until(lambda: all(any(sign in line for line in self.collected()) for sign in signs), f"collected: {signs!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.running:
            daemon.close()
        self._near.close()
        self._far.close()

    def link(self, *, is_up: bool) -> None:
        """Bring the link to the collector up, or down."""
        self._near.ip(f"link set eth0 {'up' if is_up else 'down'}")
