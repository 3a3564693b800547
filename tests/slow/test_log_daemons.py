"""What the agent tells each log daemon, told to the real one: its checker takes it, and a real collector gets the logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contextagent.collectors import Collector
from tests.collecting import LOGS, NAME, RELP_TLS, Site
from tests.traces import BOOT, trace, verified

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RSYSLOG = {"rsyslogd": "/usr/sbin/rsyslogd"}
MAIN = """
$WorkDirectory /var/spool/rsyslog
module(load="imuxsock")
$IncludeConfig /etc/rsyslog.d/*.conf
*.* /var/log/local
"""
CA = {"ca": "/etc/tls/ca.pem"}
OWN = {**CA, "cert": "/etc/tls/own.pem", "key": "/etc/tls/own.key"}
WAYS = {
    "relp": Collector(host=NAME),
    "relp-mutual": Collector(host=NAME, port=RELP_TLS, **OWN),
    "tls": Collector(host=NAME, protocol="tls", **CA),
    "tls-mutual": Collector(host=NAME, protocol="tls", **OWN),
    "tcp": Collector(host=NAME, protocol="tcp"),
    "udp": Collector(host=NAME, protocol="udp"),
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        made.machine.put("etc/rsyslog.conf", MAIN)
        yield made


def put_trace(site: Site) -> list[bytes]:
    """Write a boot's trace on the machine, a line of the greatest length in it, and return its lines."""
    lines = trace(3, ends=("shutdown",))
    site.machine.put(f"{LOGS}/trace-{BOOT}.jsonl", b"".join(lines), mode=0o600)
    return lines


def check_arrival(site: Site, lines: list[bytes]) -> None:
    """Check that logs and trace arrive, whole."""
    site.until_logging()
    site.log("sshd", "Accepted publickey for root", priority="authpriv.info")
    site.log("contextagent-script", "the marker of a script", priority="daemon.notice")
    site.until_collected(b"Accepted publickey", b"the marker of a script", lines[-1].strip())
    assert site.records() == lines
    assert [boot.verdict for boot in verified(site.collected()).boots] == ["intact"]


@pytest.mark.parametrize("way", WAYS)
def test_rsyslog_carries_the_trace_byte_for_byte_and_the_logs(way: str, site: Site) -> None:
    site.certify(is_mutual="mutual" in way)
    target = site.tell("rsyslog", WAYS[way], programs=RSYSLOG)
    lines = put_trace(site)
    for check in (target.check, [word.replace("{file}", target.files[0].path) for word in target.check_alone]):
        done = site.machine.ask("rsyslog", *check)
        assert done.code == 0, done.err
    site.collect()
    site.send()
    check_arrival(site, lines)
