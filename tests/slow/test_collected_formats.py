"""Traces as real collectors write them into files, by the templates that they have, are read as what was sent."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.daemons import Station, until
from tests.network import Namespace
from tests.traces import BOOT, trace, verified

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINES = trace(5, wide=True, ends=("shutdown", "anchor"))
RSYSLOG = """
global(workDirectory="/var/spool/rsyslog")
module(load="imfile")
input(type="imfile" file="/var/log/trace.jsonl" tag="contextagent-trace:" ruleset="all")
ruleset(name="all") {{
{actions}
}}
"""
TEMPLATES = ("TraditionalFileFormat", "FileFormat", "SyslogProtocol23Format")
SYSLOG_NG = """@version: 3.38
source s { file("/var/log/trace.jsonl" program-override("contextagent-trace") flags(no-parse) follow-freq(0.1)); };
destination d_default { file("/var/log/default"); };
destination d_iso { file("/var/log/iso" template("$ISODATE $HOST $MSGHDR$MSG\\n")); };
destination d_full { file("/var/log/full" template("$FULLDATE $HOST $FACILITY.$PRIORITY $MSGHDR$MSG\\n")); };
destination d_unix { file("/var/log/unix" template("$UNIXTIME $HOST $MSGHDR$MSG\\n")); };
destination d_protocol { file("/var/log/protocol" flags(syslog-protocol)); };
destination d_bare { file("/var/log/bare" template("$MSG\\n")); };
log { source(s); destination(d_default); destination(d_iso); destination(d_full); destination(d_unix);
  destination(d_protocol); destination(d_bare); };
"""
SHORT = ("short", "short-full", "short-iso", "short-iso-precise", "short-precise", "short-unix", "with-unit")


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    namespace = Namespace()
    made = Station(tmp_path, namespace)
    made.put("var/log/trace.jsonl", b"".join(LINES))
    yield made
    namespace.close()


def check(path: Path) -> None:
    """Check that a collector's file is read as what was sent, and nothing else is in it."""
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= len(LINES), f"{path.name} has all")
    report = verified(path.read_bytes().splitlines(keepends=True))
    assert [(boot.boot, boot.verdict, boot.records) for boot in report.boots] == [(BOOT, "intact", len(LINES))], path
    assert (report.foreign, report.damaged) == (0, 0)


def test_files_of_rsyslog_with_each_of_its_templates(station: Station) -> None:
    actions = [f'  action(type="omfile" file="/var/log/{name}" template="RSYSLOG_{name}")' for name in TEMPLATES]
    station.put("etc/rsyslog.conf", RSYSLOG.format(actions="\n".join(actions)))
    with station.start("rsyslog", "/usr/sbin/rsyslogd", "-n", "-iNONE"):
        for name in TEMPLATES:
            check(station.root / "var/log" / name)


def test_files_of_syslog_ng_with_usual_templates(station: Station) -> None:
    station.put("etc/syslog-ng/syslog-ng.conf", SYSLOG_NG)
    (station.root / "var/lib/syslog-ng").mkdir(parents=True)
    with station.start("syslog-ng", "/usr/sbin/syslog-ng", "-F", "--no-caps"):
        for name in ("default", "iso", "full", "unix", "protocol", "bare"):
            check(station.root / "var/log" / name)


def test_what_journalctl_prints_of_a_journal_that_was_sent(station: Station) -> None:
    entries = [
        f"__REALTIME_TIMESTAMP={1_795_236_220_123_456 + number}\n__MONOTONIC_TIMESTAMP={number + 1}\n"
        f"_BOOT_ID={BOOT.replace('-', '')}\nSYSLOG_IDENTIFIER=contextagent-trace\n_HOSTNAME=node17\n"
        f"MESSAGE={line.decode()}\n"
        for number, line in enumerate(LINES)
    ]
    remote = station.words("journal", "/lib/systemd/systemd-journal-remote", "--output=/var/log/sent.journal", "-")
    done = subprocess.run(remote, input="".join(entries), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for form in (*SHORT, "cat", "export"):
        words = ("journalctl", f"--file={station.root}/var/log/sent.journal", "-o", form, "--no-pager")
        shown = subprocess.run(words, capture_output=True, check=True)
        path = station.root / "var/log" / form
        lines = [line for line in shown.stdout.splitlines(keepends=True) if b'{"v"' in line]
        path.write_bytes(b"".join(lines))
        check(path)
