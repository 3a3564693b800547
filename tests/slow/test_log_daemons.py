"""What the agent tells rsyslog, told to the real one: its checker takes it, and a real collector gets the logs."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest

from contextagent.collectors import Collector
from contextagent.trace.records import MAX_LINE_BYTES
from tests.certificates import Authority
from tests.collecting import LOGS, NAME, RELP_TLS, Site
from tests.daemons import until
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
PLAIN = Collector(host=NAME)
JUDGED = PLAIN.replace(protocol="tls", ca="/etc/tls/ca.pem")
MUTUAL = JUDGED.replace(cert="/etc/tls/own.pem", key="/etc/tls/own.key")
WAYS = {
    "relp": PLAIN,
    "relp-mutual": MUTUAL.replace(protocol="relp", port=RELP_TLS),
    "tls": JUDGED,
    "tls-mutual": MUTUAL,
    "tcp": PLAIN.replace(protocol="tcp"),
    "udp": PLAIN.replace(protocol="udp"),
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        made.machine.put("etc/rsyslog.conf", MAIN)
        yield made


def put_trace(site: Site) -> list[bytes]:
    """Write a boot's trace on the machine, a line of the greatest length in it, and return its lines."""
    lines = trace(3, wide=True, ends=("shutdown",))
    assert max(map(len, lines)) > MAX_LINE_BYTES - 100
    site.machine.put(f"{LOGS}/trace-{BOOT}.jsonl", b"".join(lines), mode=0o600)
    return lines


FORGED = f'{{"v":1,"seq":5,"prev":"00","boot":"{BOOT}","inst":"i-17","ev":"shutdown"}}'
FORGERIES = (
    f"<29>Nov 21 10:00:00 contextagent-trace: {FORGED}",
    f"<29>Nov 21 10:00:00 contextagent-trace[1]: {FORGED}",
    f"<29>Nov 21 10:00:00 contextagent-trace/x: {FORGED}",
    f"<29>Nov 21 10:00:00 : contextagent-trace: {FORGED}",
    f"<29>Nov 21 10:00:00  contextagent-trace: {FORGED}",
    f"<13>contextagent-trace: {FORGED}",
    f"<191>Nov 21 10:00:00 contextagent-trace: {FORGED}",
)


def check_no_forgery(site: Site, lines: list[bytes]) -> None:
    """Check that no line that anybody may log becomes a record at a collector that goes by the tag."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        for number, each in enumerate(FORGERIES):
            log.sendto(f"{each} {number}".encode(), str(site.machine.root / "dev/log"))
    site.until_collected(*(f"}} {number}".encode() for number in range(len(FORGERIES))))
    assert all(b" contextagent-forged" in line for line in site.collected() if FORGED.encode() in line)
    assert len(site.tagged()) == len(lines)


def check_arrival(site: Site, lines: list[bytes]) -> None:
    """Check that logs and trace arrive, whole."""
    site.until_logging()
    site.log("sshd", "Accepted publickey for root", priority="authpriv.info")
    site.log("contextagent-script", "the marker of a script", priority="daemon.notice")
    site.until_collected(b"Accepted publickey", b"the marker of a script", lines[-1].strip())
    check_no_forgery(site, lines)
    assert site.records() == lines
    assert [boot.verdict for boot in verified(site.tagged()).boots] == ["intact"]


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


def test_rsyslog_takes_openssl_where_there_is_no_gnutls(site: Site) -> None:
    site.certify()
    site.tell("rsyslog", WAYS["tls"], programs=RSYSLOG, modules=("imfile", "omrelp", "lmnsd_ossl"))
    lines = put_trace(site)
    site.collect()
    site.send()
    check_arrival(site, lines)


@pytest.mark.parametrize(("asked", "modules", "missing"), [("relp", (), "omrelp"), ("tls", ("omrelp",), "TLS")])
def test_rsyslog_sends_in_the_clear_and_says_so_where_a_module_is_missing(
    asked: str, modules: tuple[str, ...], missing: str, site: Site
) -> None:
    site.certify()
    target = site.tell("rsyslog", WAYS[asked], programs=RSYSLOG, modules=modules)
    assert [problem.reason for problem in target.problems] == ["plain-tcp"]
    assert missing in target.problems[0].message
    assert target.sends == (f"tcp://{NAME}:514",)
    lines = put_trace(site)
    site.collect()
    site.send()
    check_arrival(site, lines)


@pytest.mark.parametrize("way", ["relp-mutual", "tls", "tls-mutual"])
@pytest.mark.parametrize("fault", ["another name", "another authority"])
def test_rsyslog_sends_nothing_to_a_collector_with_a_wrong_certificate(way: str, fault: str, site: Site) -> None:
    authority = site.certify(is_mutual="mutual" in way)
    if fault == "another name":
        wrong = authority.issue("other.site.example")
    else:
        wrong = Authority(site.collector.folder / "rogue").issue(NAME)
    for place, path in (("own.pem", wrong.cert), ("own.key", wrong.key)):
        site.collector.put(f"etc/tls/{place}", path.read_text())
    site.tell("rsyslog", WAYS[way], programs=RSYSLOG)
    put_trace(site)
    site.collect()
    daemon = site.send()
    site.until_logging()
    site.log("sshd", "Accepted publickey for root", priority="authpriv.info")
    signs = ("certificate", "handshake failed", "not permitted", "librelp error 10031", "peer name")
    until(lambda: any(sign in daemon.said.read_text() for sign in signs), "rsyslog complains")
    assert site.collected() == []


def test_rsyslog_reads_a_new_drop_in_when_it_is_restarted_and_not_by_a_hangup(site: Site) -> None:
    site.collect()
    daemon = site.send()
    site.until_logging()
    target = site.tell("rsyslog", WAYS["relp"], programs=RSYSLOG)
    daemon.signal(signal.SIGHUP)
    lines = put_trace(site)
    site.log("sshd", "before the restart", priority="authpriv.info")
    until(lambda: "before the restart" in site.machine.text("var/log/local"), "it is logged on the machine")
    until(lambda: "rsyslogd was HUPed" in site.machine.text("var/log/local"), "rsyslog took the signal")
    assert site.collected() == []
    assert "try-restart" in target.take_up
    daemon.kill(signal.SIGTERM)
    site.send()
    check_arrival(site, lines)


@pytest.mark.parametrize("version", ["5.8.10", "7.4.4", "8.24.0"])
@pytest.mark.parametrize("way", ["tls", "tcp"])
def test_what_an_older_rsyslog_is_told_a_newer_one_takes(version: str, way: str, site: Site) -> None:
    site.certify()
    target = site.tell("rsyslog", WAYS[way], programs=RSYSLOG, version=version)
    said = site.machine.ask("rsyslog", *target.check).err.splitlines()
    kept = [line for line in said if "config validation run" not in line and line]
    assert all("deprecated" in line for line in kept), kept
    lines = put_trace(site)
    site.collect()
    site.send()
    check_arrival(site, lines)


def test_rsyslog_is_told_to_read_the_drop_in_where_it_reads_none(site: Site) -> None:
    site.machine.put("etc/rsyslog.conf", 'module(load="imuxsock")\n*.* /var/log/local\n')
    site.tell("rsyslog", WAYS["relp"], programs=RSYSLOG)
    lines = put_trace(site)
    site.collect()
    site.send()
    check_arrival(site, lines)


@pytest.mark.parametrize("place", ["rsyslog.conf", "rsyslog.d/05-image.conf", "rsyslog.d/50-image.conf"])
def test_rsyslog_carries_the_trace_beside_files_that_the_image_reads_by_the_same_module(place: str, site: Site) -> None:
    own = 'module(load="imfile")\ninput(type="imfile" file="/var/log/image" tag="image:")\n'
    site.machine.put(f"etc/{place}", (MAIN if place == "rsyslog.conf" else "") + own)
    if place == "rsyslog.conf":  # the drop-in is read behind it there
        site.machine.put("etc/rsyslog.conf", own + MAIN)
    site.machine.put("var/log/image", "a line of the image's own file\n")
    target = site.tell("rsyslog", WAYS["relp"], programs=RSYSLOG)
    if target.check:
        done = site.machine.ask("rsyslog", *target.check)
        assert done.code == 0, done.err
    lines = put_trace(site)
    site.collect()
    site.send()
    check_arrival(site, lines)
    until(lambda: "a line of the image's own file" in site.machine.text("var/log/local"), "the image's file is read")


def test_syslog_of_the_machine_goes_on_while_the_collector_is_away(site: Site) -> None:
    site.tell("rsyslog", WAYS["relp"], programs=RSYSLOG)
    put_trace(site)
    site.send()
    site.until_logging()
    for number in range(200):
        site.log("image", f"line {number} while nobody listens", priority="user.notice")
    until(lambda: "line 199 while" in site.machine.text("var/log/local"), "it is logged on the machine")
