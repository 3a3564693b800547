"""Traces as real collectors write them into files, by the templates that they have, are read as what was sent."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from contextagent.kit.ticket import OWN_WORDS, UNITS
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


OF_THE_AGENT = ("agent's own", {"_SYSTEMD_UNIT": UNITS[1], "_TRANSPORT": "stdout", "SYSLOG_IDENTIFIER": "contextagent"})
OF_SYSTEMD = ("systemd's", {"_PID": "1", "UNIT": UNITS[0], "_TRANSPORT": "journal", "SYSLOG_IDENTIFIER": "systemd"})
OF_OTHERS = (
    ("a script's logger", {"_SYSTEMD_UNIT": UNITS[1], "_TRANSPORT": "syslog", "SYSLOG_IDENTIFIER": "contextagent"}),
    ("a script's cat", {"_SYSTEMD_UNIT": UNITS[1], "_TRANSPORT": "stdout", "SYSLOG_IDENTIFIER": "myscript"}),
    (
        "a script's output",
        {"_SYSTEMD_UNIT": UNITS[1], "_TRANSPORT": "syslog", "SYSLOG_IDENTIFIER": "contextagent-script"},
    ),
    ("another unit", {"_SYSTEMD_UNIT": "x.service", "_TRANSPORT": "stdout", "SYSLOG_IDENTIFIER": "contextagent"}),
    ("a forged unit", {"_PID": "17", "UNIT": UNITS[0], "_TRANSPORT": "journal", "SYSLOG_IDENTIFIER": "systemd"}),
)


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
    keep(station, [(line.decode().rstrip("\n"), {"SYSLOG_IDENTIFIER": "contextagent-trace"}) for line in LINES])
    for form in (*SHORT, "cat", "export"):
        lines = [line for line in asked(station, "-o", form).splitlines(keepends=True) if b'{"v"' in line]
        path = station.root / "var/log" / form
        path.write_bytes(b"".join(lines))
        check(path)


def test_a_ticket_asks_a_journal_for_the_agents_own_words_alone(station: Station) -> None:
    keep(station, [OF_THE_AGENT, *OF_OTHERS, OF_SYSTEMD])
    assert asked(station, "-o", "cat", *OWN_WORDS).decode().splitlines() == [OF_THE_AGENT[0], OF_SYSTEMD[0]]


def keep(station: Station, entries: list[tuple[str, dict[str, str]]]) -> None:
    """Make a journal of these entries on the station, as if they had been sent there."""
    given = [
        {
            "__REALTIME_TIMESTAMP": str(1_795_236_220_123_456 + number),
            "__MONOTONIC_TIMESTAMP": str(number + 1),
            "_BOOT_ID": BOOT.replace("-", ""),
            "_HOSTNAME": "node17",
            **fields,
            "MESSAGE": message,
        }
        for number, (message, fields) in enumerate(entries)
    ]
    text = "".join("".join(f"{name}={value}\n" for name, value in each.items()) + "\n" for each in given)
    words = station.words("journal", "/lib/systemd/systemd-journal-remote", "--output=/var/log/sent.journal", "-")
    done = subprocess.run(words, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def asked(station: Station, *words: str) -> bytes:
    """Return what journalctl prints of the station's journal."""
    command = ("journalctl", f"--file={station.root}/var/log/sent.journal", "--no-pager", *words)
    return subprocess.run(command, capture_output=True, check=True).stdout
