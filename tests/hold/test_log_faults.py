"""L1 to L4: whatever happens to the log daemon, its collector or the trace's file, nothing is lost or changed unseen.

A machine writes a boot's trace while the fault goes on; rsyslog carries it as the agent tells it to.  What the machine
itself logs must never stop.  (What an absent or blocked daemon costs a boot: tests/blackbox/test_script_output.py.)
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority
from tests.collecting import LOGS, NAME, Site
from tests.daemons import until
from tests.slow.test_log_daemons import MAIN, RSYSLOG, WAYS
from tests.slow.test_log_durability import append, check_whole, forget
from tests.traces import BOOT, trace, verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SEED = 20091123
TIMES = 9 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 1
SUBMISSION = 19
ROUNDS = 2
SMALL_DISK_KIB = 512


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        made.machine.put("etc/rsyslog.conf", MAIN)
        yield made


class Story:
    """A boot whose trace is carried while things happen.

    Attributes:
        site: Where.
        lines: The whole trace; `write` gives the next part of it to the file.
        way: One of `WAYS`.
        target: What rsyslog was told.
    """

    def __init__(self, site: Site, way: str, order: random.Random) -> None:
        self.site = site
        self.lines = trace(100, ends=("shutdown",))
        self._written = 0
        self._order = order
        site.certify(is_mutual="mutual" in way)
        self.way = way
        self.target = site.tell("rsyslog", WAYS[way], programs=RSYSLOG)
        append(site, [])
        self.collector = site.collect()
        self.forwarder = site.send()
        site.until_logging()

    def write(self, count: int = 0) -> bytes:
        """Write some more records, and return the last of them."""
        count = count or self._order.randrange(5, 20)
        part = self.lines[self._written : self._written + count]
        append(self.site, part)
        self._written += len(part)
        return part[-1]

    def arrive(self, line: bytes) -> None:
        """Wait until a record is at the collector."""
        self.site.until_collected(line.strip())

    def has_complained_of_tls(self) -> bool:
        """Return whether rsyslog said that it does not take the collector's certificate."""
        said = self.forwarder.said.read_text()
        return "ertificate" in said or "librelp error 10031" in said

    def anew(self) -> None:
        """Start rsyslog anew, as the agent does: it forgets how far it had read."""
        self.forwarder.kill()
        forget(self.site, self.target)
        self.forwarder = self.site.send()

    def finish(self) -> None:
        """Write what is left, and find all of it at the collector, in order."""
        self.site.until_logged("the machine logs")
        self.arrive(self.write(len(self.lines)))
        check_whole(self.site, self.lines)


def restarts(story: Story) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        story.write()
        story.forwarder.kill(number)
        story.write()
        story.forwarder = story.site.send()
    story.write()
    story.anew()  # a line that rsyslog had read and not yet sent when it was ended comes with the agent's next start


def hangups(story: Story) -> None:
    for _ in range(ROUNDS * 4):
        story.write(5)
        story.forwarder.signal(signal.SIGHUP)


def stopped(story: Story) -> None:
    for _ in range(ROUNDS):
        story.forwarder.signal(signal.SIGSTOP)
        last = story.write()
        story.forwarder.signal(signal.SIGCONT)
        story.arrive(last)


def away(story: Story) -> None:
    story.collector.kill()
    story.write(100)
    story.collector = story.site.collect()


def collector_restarts(story: Story) -> None:
    for _ in range(ROUNDS):
        story.arrive(story.write())
        story.collector.kill()
        story.collector = story.site.collect()


def blocked(story: Story) -> None:
    for number in range(ROUNDS):
        story.collector.signal(signal.SIGSTOP)
        last = story.write()
        story.site.until_logged(f"line {number} while the collector hangs")
        story.collector.signal(signal.SIGCONT)
        story.arrive(last)


def flapping(story: Story) -> None:
    for _ in range(ROUNDS):
        story.site.link(is_up=False)
        story.write()
        story.site.link(is_up=True)
        story.write()


def wrong_certificate(story: Story) -> None:
    """Another's certificate for a while, then the right one again."""
    site, names = story.site, ("own.pem", "own.key")
    right = {name: site.collector.text(f"etc/tls/{name}") for name in names}
    rogue = Authority(site.collector.folder / "rogue").issue(NAME)
    wrong = dict(zip(names, (rogue.cert.read_text(), rogue.key.read_text()), strict=True))
    story.arrive(story.write())
    for given in (wrong, right):
        story.collector.kill()
        for name in names:
            site.collector.put(f"etc/tls/{name}", given[name])
        before = len(site.collected())
        story.collector = site.collect()
        if given is wrong:
            story.write()
            until(story.has_complained_of_tls, "rsyslog complains")
            assert len(site.collected()) == before
    if story.way == "relp-mutual":  # omrelp tries no more; who starts it anew lets it forget how far it had read
        story.anew()


FAULTS: dict[str, tuple[Callable[[Story], None], tuple[str, ...]]] = {
    "restarts": (restarts, ("relp", "relp-mutual")),
    "hangups": (hangups, ("relp", "tcp")),
    "stopped": (stopped, ("relp",)),
    "away": (away, ("relp", "relp-mutual")),
    "collector-restarts": (collector_restarts, ("relp", "relp-mutual")),
    "blocked": (blocked, ("relp", "tls", "tcp")),
    "flapping": (flapping, ("relp", "tcp")),
    "wrong-certificate": (wrong_certificate, ("relp-mutual", "tls")),
}
CASES = [(name, way) for name, (_, ways) in FAULTS.items() for way in ways]


@pytest.mark.parametrize("seed", range(TIMES))
@pytest.mark.parametrize(("fault", "way"), CASES)
def test_every_record_arrives_once_the_fault_is_over(fault: str, way: str, seed: int, site: Site) -> None:
    story = Story(site, way, random.Random(f"{SEED}{fault}{way}{seed}"))
    FAULTS[fault][0](story)
    story.finish()


def test_what_a_collector_with_a_full_disk_lost_is_missed_and_comes_again_at_the_next_start(site: Site) -> None:
    small = site.collector.root / "var/log"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_KIB}k", "tmpfs", str(small)], check=True)
    try:
        story = Story(site, "relp", random.Random(SEED))
        story.arrive(story.write())
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(512))
        story.write(60)
        until(lambda: "error" in story.collector.said.read_text(), "the collector complains")
        filler.unlink()
        story.arrive(story.write(len(story.lines)))
        assert [boot.verdict for boot in verified(site.collected()).boots] == ["broken"]  # omfile lost what it had
        story.anew()
        until(lambda: set(site.records()) >= set(story.lines), "all of it is there")
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


@pytest.mark.parametrize("attack", ["rotated", "deleted"])
def test_a_trace_that_is_taken_away_while_the_collector_is_down_arrives_as_far_as_it_was_read(
    attack: str, site: Site
) -> None:
    story = Story(site, "relp", random.Random(SEED))
    path = site.machine.root / LOGS / f"trace-{BOOT}.jsonl"
    last = story.write(20)
    story.arrive(last)
    if attack == "rotated":
        path.rename(path.with_suffix(".jsonl.1"))
    else:
        path.unlink()
    append(site, story.lines[20:])  # the journal writes another file of that name
    story.arrive(story.lines[-1])
    check_whole(site, story.lines)


def test_a_trace_that_is_cut_is_seen_at_the_collector(site: Site) -> None:
    story = Story(site, "relp", random.Random(SEED))
    path = site.machine.root / LOGS / f"trace-{BOOT}.jsonl"
    story.arrive(story.write(20))
    os.truncate(path, 0)
    append(site, story.lines[30:])
    story.arrive(story.lines[-1])
    assert [boot.verdict for boot in verified(site.collected()).boots] == ["broken"]


def test_as_many_cases_as_a_submission_asks_for() -> None:
    assert len(CASES) + 4 >= SUBMISSION
