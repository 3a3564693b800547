"""What a part of the bench comes to: text to print, figures to keep, and whether everybody did the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.bench.measure import Case, Run, median, noise

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Suite(NamedTuple):
    """Cases that do the same work; figures are set against the first one's."""

    title: str
    rounds: int
    cases: list[Case]


class Report(NamedTuple):
    """What one part came to.

    Attributes:
        text: For people: tables, and a line for what no table shows.
        figures: For programs: whatever JSON can hold, every single figure in it.
        is_right: Whether every competitor did the work, whatever it cost.
    """

    text: str
    figures: object
    is_right: bool


def report(suite: Suite, runs: dict[str, list[Run]], *remarks: str) -> Report:
    """Return what a comparison came to, with these lines below its table."""
    first = runs[suite.cases[0].name]
    lines = [table(suite, runs), f"noise of the first: {noise(first):.0%} of its CPU time", *remarks]
    figures = {name: [each._asdict() for each in case] for name, case in runs.items()}
    return Report("\n".join(lines), figures, all(each.is_right for case in runs.values() for each in case))


def table(suite: Suite, runs: dict[str, list[Run]]) -> str:
    """Return a comparison's figures as aligned text."""
    base = runs[suite.cases[0].name]
    head = ["", "CPU ms", "least", "x first", "wall ms", "least", "x first", "peak MiB", "right"]
    is_served = any(case.service for case in suite.cases)
    rows = [[*head, "requests", "connections"] if is_served else head]
    for name, each in runs.items():
        cpu, wall = median(each, "cpu_s"), median(each, "wall_s")
        row = [
            name,
            f"{cpu * 1e3:.1f}",
            f"{min(run.cpu_s for run in each) * 1e3:.1f}",
            f"{cpu / median(base, 'cpu_s'):.1f}",
            f"{wall * 1e3:.1f}",
            f"{min(run.wall_s for run in each) * 1e3:.1f}",
            f"{wall / median(base, 'wall_s'):.1f}",
            f"{median(each, 'peak_kib') / 1024:.1f}",
            f"{sum(run.is_right for run in each)}/{len(each)}",
        ]
        asked = [_span(run.requests for run in each), _span(run.connections for run in each)]
        rows.append([*row, *asked] if is_served else row)
    return f"{suite.title} (medians of {len(base)}, one after another in turn)\n{aligned(rows)}"


def _span(counts: Iterable[int]) -> str:
    """Return the least and the most, where they differ."""
    each = sorted(set(counts))
    return str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines, with columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
