"""The trace's way to the collector: whatever dies on it, every record arrives, in order; what that takes is said."""

from __future__ import annotations

import glob
import random
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.collecting import LOGS, Site
from tests.daemons import until
from tests.machine import AGENT, run
from tests.slow.test_log_daemons import MAIN, RSYSLOG, WAYS
from tests.traces import BOOT, trace, verified

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contextagent.collectors import Target
    from tests.daemons import Daemon

FORWARDER_KILLS, COLLECTOR_KILLS = 20, 5
SEED = 20091103


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        made.machine.put("etc/rsyslog.conf", MAIN)
        yield made


def append(site: Site, lines: list[bytes], *, boot: str = BOOT) -> None:
    """Add records to a boot's trace, as the journal does."""
    with (site.machine.root / LOGS / f"trace-{boot}.jsonl").open("ab") as file:
        file.write(b"".join(lines))


def until_arrived(site: Site, *lines: bytes) -> None:
    site.until_collected(*(line.strip() for line in lines))


def check_whole(site: Site, *boots: list[bytes]) -> int:
    """Check that each boot's records are there, first come in order, and return how many came again."""
    report = verified(site.collected())
    assert {(boot.verdict, boot.records) for boot in report.boots} == {("intact", len(lines)) for lines in boots}
    assert len(report.boots) == len(boots)
    first_come = list(dict.fromkeys(site.records()))
    for lines in boots:
        assert [line for line in first_come if line in set(lines)] == lines
    return sum(boot.duplicates for boot in report.boots)


@pytest.mark.parametrize("way", ["relp", "relp-mutual"])
def test_every_record_arrives_in_order_though_rsyslog_is_killed_20_times_and_the_collector_5_times(
    way: str, site: Site
) -> None:
    site.certify(is_mutual=True)
    site.tell("rsyslog", WAYS[way], programs=RSYSLOG)
    lines = trace(500, ends=("shutdown",))
    order = random.Random(SEED)
    kills = ["forwarder"] * FORWARDER_KILLS + ["collector"] * COLLECTOR_KILLS
    order.shuffle(kills)
    append(site, [])
    forwarder, collector = site.send(), site.collect()
    step = len(lines) // (len(kills) + 1)
    for number, kill in enumerate(kills):
        chunk = lines[number * step : (number + 1) * step]
        append(site, chunk)
        until_arrived(site, chunk[order.randrange(len(chunk) - 1)])  # in the middle, or so
        if kill == "forwarder":
            forwarder.kill()
            forwarder = site.send()
        else:
            collector.kill()
            collector = site.collect()
    append(site, lines[len(kills) * step :])
    until_arrived(site, lines[-1])
    check_whole(site, lines)
    done = run((*AGENT, "trace", "verify", str(site.collector.root / "var/log/all")))
    assert done.code == 0, done.out
    assert "intact" in done.out


@pytest.mark.parametrize("way", ["relp", "tls", "tcp"])
def test_every_record_of_each_boot_arrives_though_the_collector_was_away_until_the_last(way: str, site: Site) -> None:
    site.certify()
    site.tell("rsyslog", WAYS[way], programs=RSYSLOG)
    names = [f"5a1f0c9e-0000-4000-8000-00000000000{number}" for number in range(3)]
    boots = [trace(100, boot=name, ends=("shutdown",)) for name in names]
    for name, lines, number in zip(names, boots, (signal.SIGTERM, signal.SIGKILL, None), strict=True):
        append(site, lines[:50], boot=name)
        forwarder = site.send()
        append(site, lines[50:], boot=name)
        until(partial(has_tried, forwarder), "it has tried")
        if number:
            forwarder.kill(number)
            site.machine.put("said", "")
    site.collect()
    until_arrived(site, *(lines[-1] for lines in boots))
    assert check_whole(site, *boots) <= 2


def has_tried(daemon: Daemon) -> bool:
    """Return whether a daemon complained of its collector."""
    said = daemon.said.read_text()
    return "error" in said or "cannot connect" in said


def forget(site: Site, target: Target) -> None:
    """Let rsyslog forget how far it has read the trace, as the agent does before it starts rsyslog anew."""
    name = f"trace-{BOOT}.jsonl"
    path = site.machine.root / LOGS / name
    words = {"inode": path.stat().st_ino, "name": name, "dashed": f"/{LOGS}/{name}".replace("/", "-")}
    found = [each for glob_ in target.positions for each in glob.glob(f"{site.machine.root}{glob_.format(**words)}")]
    assert found
    for each in found:
        site.machine.root.joinpath(each).unlink()


@pytest.mark.parametrize("way", ["relp", "tcp"])
def test_what_was_on_its_way_when_both_died_comes_again_once_rsyslog_forgot_its_position(way: str, site: Site) -> None:
    target = site.tell("rsyslog", WAYS[way], programs=RSYSLOG)
    lines = trace(100, ends=("shutdown",))
    append(site, lines[:100])
    collector, forwarder = site.collect(), site.send()
    until_arrived(site, lines[99])
    collector.signal(signal.SIGSTOP)
    append(site, lines[100:180])
    positions = f"{site.machine.root}/var/spool/rsyslog/imfile-state:*"
    end = sum(map(len, lines[:110]))
    until(
        lambda: any(f'"curr_offs": {offset}' in text for text in texts(positions) for offset in offsets(lines, end)), ""
    )
    collector.kill()
    forwarder.kill()
    site.collect()
    forwarder = site.send()
    append(site, lines[180:])
    until_arrived(site, lines[-1])
    lost = set(lines) - set(site.records())
    forwarder.kill(signal.SIGTERM)
    forget(site, target)
    site.send()
    until_arrived(site, *lines)
    assert lost  # else this test shows nothing
    report = verified(site.collected())
    assert [boot.records for boot in report.boots] == [len(lines)]


def texts(pattern: str) -> list[str]:
    found = []
    for path in glob.glob(pattern):
        with open(path) as file:
            found.append(file.read())
    return found


def offsets(lines: list[bytes], start: int) -> list[int]:
    """Return where lines end, from an offset on."""
    ends, position = [], 0
    for line in lines:
        position += len(line)
        ends.append(position)
    return [end for end in ends if end >= start]
