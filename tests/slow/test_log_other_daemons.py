"""syslog-ng, a classic syslogd, journald and auditd: what the agent tells each, told to the real one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from contextagent.collectors import Logging
from tests.collecting import NAME, Site
from tests.daemons import packages, until
from tests.slow.test_log_daemons import JUDGED, WAYS, check_arrival, put_trace
from tests.traces import verified

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemons import Daemon, Station

SYSLOG_NG = ("/usr/sbin/syslog-ng", "-F", "--no-caps")
PROGRAMS = {"syslog-ng": "/usr/sbin/syslog-ng"}
CARRIED = ("tls", "tls-mutual", "tcp", "udp")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


@pytest.fixture
def syslog_ng(site: Site) -> Site:
    shutil.copytree(packages("syslog-ng") / "etc/syslog-ng", site.machine.root / "etc/syslog-ng")
    (site.machine.root / "var/lib/syslog-ng").mkdir()
    main = site.machine.root / "etc/syslog-ng/syslog-ng.conf"
    assert "       system();\n" in main.read_text()  # which reads this machine's kernel log as well
    main.write_text(main.read_text().replace("system();", 'unix-dgram("/dev/log");'))
    return site


@pytest.mark.parametrize("way", CARRIED)
def test_syslog_ng_carries_the_trace_byte_for_byte_and_the_logs(way: str, syslog_ng: Site) -> None:
    site = syslog_ng
    site.certify(is_mutual="mutual" in way)
    target = site.tell("syslog_ng", WAYS[way], programs=PROGRAMS, modules=("libdisk-buffer",))
    done = site.machine.ask("syslog-ng", *target.check)
    assert done.code == 0, done.err
    lines = put_trace(site)
    site.collect()
    site.send("syslog-ng", *SYSLOG_NG)
    check_arrival(site, lines)
    assert not [line for line in site.collected() if line in lines]


def test_syslog_ng_sends_nothing_to_a_collector_with_another_name(syslog_ng: Site) -> None:
    site = syslog_ng
    authority = site.certify()
    site.certify(server=authority.issue("other.site.example"))
    site.tell("syslog_ng", WAYS["tls"], programs=PROGRAMS)
    put_trace(site)
    site.collect()
    daemon = site.send("syslog-ng", *SYSLOG_NG, "--stderr")
    site.until_logging()
    site.log("sshd", "Accepted publickey for root", priority="authpriv.info")
    until(lambda: "ertificate" in daemon.said.read_text(), "syslog-ng complains")
    assert site.collected() == []


def test_syslog_ng_reads_a_new_drop_in_on_a_hangup(syslog_ng: Site) -> None:
    site = syslog_ng
    site.collect()
    daemon = site.send("syslog-ng", *SYSLOG_NG)
    site.until_logging()
    target = site.tell("syslog_ng", WAYS["tcp"], programs=PROGRAMS)
    assert "reload-or-try-restart" in target.take_up
    lines = put_trace(site)
    daemon.signal(signal.SIGHUP)
    check_arrival(site, lines)


def test_syslog_ng_sends_the_trace_when_the_collector_was_away_all_boot(syslog_ng: Site) -> None:
    site = syslog_ng
    site.tell("syslog_ng", WAYS["tcp"], programs=PROGRAMS)
    lines = put_trace(site)
    for number in (signal.SIGTERM, signal.SIGKILL):
        daemon = site.send("syslog-ng", *SYSLOG_NG)
        site.until_logging()
        until(partial(is_reading, daemon.pid), "the trace is open")
        daemon.kill(number)
        (site.machine.root / "dev/log").unlink(missing_ok=True)
    site.collect()
    site.send("syslog-ng", *SYSLOG_NG)
    site.until_collected(lines[-1].strip())
    assert [boot.verdict for boot in verified(site.collected()).boots] == ["intact"]


def is_reading(pid: int) -> bool:
    """Return whether a process has the trace open."""
    links = (os.path.join(f"/proc/{pid}/fd", fd) for fd in os.listdir(f"/proc/{pid}/fd"))
    return any("/trace-" in os.readlink(link) for link in links if os.path.islink(link))


def test_sysklogd_sends_logs_and_markers_by_udp_and_reads_its_file_anew_on_a_hangup(site: Site) -> None:
    site.machine.put("etc/syslog.conf", "*.*\t/var/log/local\n")
    site.collect()
    daemon = site.send("inetutils", "/usr/sbin/syslogd", "--no-detach", "--no-klog")
    site.until_logging()
    collector = JUDGED
    target = site.tell("sysklogd", collector, programs={"syslogd": "/usr/sbin/syslogd"})
    assert [problem.reason for problem in target.problems] == ["plain-udp"]
    assert not target.carries_trace
    assert site.machine.text("etc/syslog.conf").startswith("*.*\t/var/log/local\n# contextagent begin")
    daemon.signal(signal.SIGHUP)
    until(lambda: "restart" in site.machine.text("var/log/local"), "it has read its file")
    site.log("sshd", "Accepted publickey for root", priority="authpriv.info")
    site.log("contextagent-script", "the marker of a script", priority="daemon.notice")
    site.log("image", "a detail", priority="user.debug")
    site.until_collected(b"Accepted publickey", b"the marker of a script")
    assert not [line for line in site.collected() if b"a detail" in line]


def test_auditd_rules_are_taken_by_augenrules_with_the_lock_as_the_last_line(site: Site) -> None:
    logging = Logging(audit=True)
    programs = {"auditctl": "/sbin/auditctl", "augenrules": "/sbin/augenrules"}
    for name in ("10-image.rules", "audit.rules"):
        site.machine.put(
            f"etc/audit/rules.d/{name}", "-D\n-b 8192\n" if name == "audit.rules" else "-w /etc/shadow -p wa\n"
        )
    target = site.tell("auditd", programs=programs, logging=logging)
    assert target.check == ("/sbin/augenrules", "--check")
    done = site.machine.ask("audit", *target.check)
    assert "should be updated" in done.out + done.err, done
    # put together without `--load`: this kernel's rules are not the test's to lock
    assert site.machine.ask("audit", "/sbin/augenrules").code == 0
    rules = site.machine.text("etc/audit/audit.rules").splitlines()
    assert [line for line in rules if line][-1] == "-e 2"
    assert "-a always,exit -F arch=b64 -S execve -k contextagent-exec" in rules
    assert site.machine.ask("audit", *target.check).out.strip().endswith("No change")


JOURNAL = "run/systemd/journal/dev-log"


def start_journald(site: Site) -> Daemon:
    """Start journald, and wait until it takes log lines."""
    site.machine.put("etc/machine-id", f"{'0123456789abcdef' * 2}\n")
    (site.machine.root / JOURNAL).parent.mkdir(parents=True, exist_ok=True)
    daemon = site.send("journal", "/usr/lib/systemd/systemd-journald")
    until((site.machine.root / JOURNAL).exists, "journald listens")
    return daemon


def journal(station: Station, folder: str) -> str:
    """Return what the journal of a folder holds."""
    return station.ask("journal", "/usr/bin/journalctl", "--directory", folder, "--output", "cat").out


def test_journald_keeps_the_journal_on_the_disk_and_gives_it_to_the_syslog_daemon(site: Site) -> None:
    target = site.tell("journald", WAYS["tcp"], programs={"systemd-journald": "/usr/lib/systemd/systemd-journald"})
    assert "try-restart" in target.take_up
    assert not (site.machine.root / "var/log/journal").exists()
    path = site.machine.root / "run/systemd/journal"
    path.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path / "syslog"))
        syslog.settimeout(60)
        daemon = start_journald(site)
        site.log("sshd", "Accepted publickey for root", priority="authpriv.info", path=JOURNAL)
        while b"Accepted publickey" not in syslog.recv(1 << 16):
            pass
    daemon.signal(signal.SIGUSR1)  # as systemd-journal-flush.service does
    until((site.machine.root / "var/log/journal").exists, "the journal is on the disk")
    until(lambda: "Accepted publickey" in journal(site.machine, "/var/log/journal"), "it holds the line")


def test_the_journal_is_uploaded_to_a_real_receiver(site: Site) -> None:
    url = f"http://{NAME}:19532"
    programs = {"systemd-journal-upload": "/usr/lib/systemd/systemd-journal-upload"}
    target = site.tell("journal_upload", programs=programs, logging=Logging(journal_upload=url))
    assert target.sends == (url,)
    start_journald(site)
    site.log("contextagent-script", "the marker of a script", priority="daemon.notice", path=JOURNAL)
    until(lambda: "the marker of a script" in journal(site.machine, "/run/log/journal"), "it is in the journal")
    (site.collector.root / "var/log/received").mkdir()
    receive = ("--listen-http=19532", "--output=/var/log/received/all.journal", "--split-mode=none")
    site.running.append(site.collector.start("journal", "/usr/lib/systemd/systemd-journal-remote", *receive))
    until(lambda: 19532 in site.listening(), "the receiver listens")
    words = ("--directory=/run/log/journal", "--save-state=/var/lib/uploaded")
    site.running.append(site.machine.start("journal", programs["systemd-journal-upload"], *words))
    until(lambda: "the marker of a script" in journal(site.collector, "/var/log/received"), "it is at the receiver")
