"""A collector's files: `trace verify` beside `sha256sum` and `wc -l`, which read the same bytes but know nothing."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from contextagent.trace.chain import Chain
from tests.bench import lab
from tests.bench.measure import Case, measure, median
from tests.bench.report import Report, Suite, report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.measure import Run

AT_ONCE = 500
"""So many machines boot at the same time: their records come mixed."""
_AGENT = ("python3", "-I", "-S", f"{lab.AGENT_IN_TREE}/__main__.py", "trace", "verify")
_UTC_NS = 1_795_236_220_123_456_789
_BOTH = {"utc_ns": _UTC_NS, "mono_ns": _UTC_NS, "sync": True}
_SCRIPTS = 6


class Day(NamedTuple):
    """What a collector got: `name` as the table shows it, so many boots, each with so many scripts."""

    name: str
    boots: int
    scripts: int

    @property
    def records(self) -> int:
        """How many records that is: of each boot the first, two of each script, and two at the end."""
        return self.boots * (2 * self.scripts + 3)


DAYS = (
    Day("1,000 boots of 15 records", 1000, _SCRIPTS),
    Day("10,000 boots of 15 records", 10_000, _SCRIPTS),
    Day("10 boots of 15,003 records", 10, 7500),
)


def collector(rounds: int) -> Report:
    """Compare what it costs to verify, to digest and to count the same lines."""
    with tempfile.TemporaryDirectory(dir=lab.CACHE) as place:
        folder = Path(place)
        for day in DAYS:
            write(folder / f"{day.boots}.log", day)
        bind = [f"{lab.AGENT}:{lab.AGENT_IN_TREE}", f"{folder}:/mnt"]
        first = f"/mnt/{DAYS[1].boots}.log"
        cases = [
            Case(f"sha256sum: {DAYS[1].name}", ["sha256sum", first], bind, []),
            Case(f"wc -l: {DAYS[1].name}", ["wc", "-l", first], bind, []),
            *(Case(day.name, [*_AGENT, f"/mnt/{day.boots}.log"], bind, []) for day in DAYS),
        ]
        suite = Suite("a collector's files verified", max(rounds // 2, 1), cases)
        runs = measure(suite.cases, suite.rounds)
        sizes = {day: (folder / f"{day.boots}.log").stat().st_size for day in DAYS}
    return report(suite, runs, *(_rate(day, size, runs[day.name]) for day, size in sizes.items()), _per_boot(runs))


def _rate(day: Day, size_bytes: int, runs: list[Run]) -> str:
    cpu_s = median(runs, "cpu_s")
    least_s = min(run.cpu_s for run in runs)
    rates = f"{day.records / cpu_s:,.0f} records a second of CPU (at best {day.records / least_s:,.0f})"
    return f"{day.name}: {day.records:,} records, {size_bytes / 1e6:.0f} MB: {rates}, the start counted in"


def _per_boot(runs: dict[str, list[Run]]) -> str:
    """Return what one more boot takes of memory."""
    few, many = DAYS[:2]
    kib = (median(runs[many.name], "peak_kib") - median(runs[few.name], "peak_kib")) / (many.boots - few.boots)
    return f"memory of one more boot: {kib * 1024:,.0f} bytes"


def write(path: Path, day: Day) -> None:
    """Write a day's records as rsyslog does, those of the machines that boot at the same time mixed."""
    chance = random.Random(day.boots)
    with path.open("wb") as file:
        started = 0
        following: list[Iterator[bytes]] = []
        while started < day.boots or following:
            while started < day.boots and len(following) < AT_ONCE:
                following.append(_records(started, day.scripts))
                started += 1
            place = chance.randrange(len(following))
            line = next(following[place], None)
            if line is None:
                following[place] = following[-1]
                following.pop()
            else:
                file.write(line)


def _records(number: int, scripts: int) -> Iterator[bytes]:
    """Yield the lines of one boot."""
    chain = Chain(boot=f"{number:08x}-0000-4000-8000-000000000000", inst=f"i-{number:08x}", img="image-2026-11")
    header = f"2026-11-21T04:43:40.123456+00:00 node{number} contextagent-trace: ".encode()
    for ev, fields in _events(scripts):
        own = {"head": chain.head, "lost": 0} if ev == "anchor" else fields
        line = chain.line(ev, own, **_BOTH)  # type: ignore[arg-type]  # clocks and a flag, by name
        chain.add(line)
        yield header + line


def _events(scripts: int) -> Iterator[tuple[str, dict[str, object]]]:
    digest = "2c26b46b68ffc68ff99b453c1d3041341342d706483bfa0f98a5e886266e7ae" * 2 + "a4"
    yield "boot", {"agent": "1.0", "agent_sha512": digest, "policy_sha512": digest, "kernel": "6.1.0", "last": None}
    for number in range(scripts):
        script = f"site/post-network/post-network.d/{number:02}-node"
        started = {"uid": 0, "gid": 0, "caps": "all", "profile": "root", "wished": "root", "argv": [script, "start"]}
        yield "start", {"id": script, "sha512": digest, "bytes": 1200, **started, "env_sha512": digest, "late": False}
        ended = {"exit": 0, "signal": None, "reason": "exit", "wall_s": 0.25, "user_s": 0.1, "sys_s": 0.1}
        yield "end", {"id": script, **ended, "out_bytes": 12, "out_sha512": digest, "killed": 0, "sha512_after": digest}
    yield "shutdown", {"reason": "ok"}
    yield "anchor", {}
