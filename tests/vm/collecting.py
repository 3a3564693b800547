"""The kind of guest that has rsyslog, and a collector at the other end of its network card."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.collecting import RSYSLOGD, rsyslog_collector
from tests.daemons import Station
from tests.network import SERVICE
from tests.vm.contexts import burn, put_scripts
from tests.vm.guest import Outside
from tests.vm.image import Kind
from tests.vm.systemd import SYSTEMD, fit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGGING = Kind("logging", (*SYSTEMD.packages, "rsyslog", "rsyslog-relp"), "el6", fit, __file__)


@contextmanager
def collecting(folder: Path) -> Iterator[tuple[Outside, Station]]:
    """Run a collector (RELP, port 2514) in the world of a guest, at the address that a metadata service would have."""
    with Outside() as outside:
        station = Station(folder, outside)
        station.put("etc/rsyslog.conf", rsyslog_collector())
        with station.start("rsyslog", *RSYSLOGD):
            yield outside, station


def collected(station: Station) -> list[bytes]:
    """Return the lines of the collector's file."""
    path = station.root / "var/log/all"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def burn_logging(folder: Path) -> Path:
    """Return a context disk whose site names that collector."""
    put_scripts(folder)
    collector = {"host": SERVICE, "port": 2514, "protocol": "relp"}
    (folder / "site.json").write_text(json.dumps({"logging": {"collectors": [collector]}}))
    return burn(folder)
