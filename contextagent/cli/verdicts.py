"""Whether traces are whole, told to people and programs: `trace verify`."""

from __future__ import annotations

import os
from functools import partial

from contextagent.cli.streams import STDIN, chunks, sources
from contextagent.cli.text import Progress, printable, table
from contextagent.trace.verify import VERDICTS, Verifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contextagent.cli.text import Shell
    from contextagent.trace.verify import BootVerdict, Report

_FEW_BOOTS = 20
"""So many are all listed; of more, only those that are not intact."""
_HEADINGS = ("BOOT", "INSTANCE", "VERDICT", "RECORDS", "AGAIN", "BECAUSE")


def verify(files: Sequence[str], anchors: Sequence[str], shell: Shell) -> int:
    """Verify a collector's files, or this machine's own traces; return what was found as an exit code.

    Raises:
        UsageError: A file can't be read.
        UnknownError: None was named, and this machine has no trace.
    """
    paths = sources(files, shell.host)
    sizes = [os.path.getsize(path) if os.path.isfile(path) else 0 for path in paths]
    total = 0 if STDIN in paths else sum(sizes)
    verifier, progress, before = Verifier(anchors), Progress(shell, "verifying"), 0
    try:
        for path, size in zip(paths, sizes, strict=True):
            verifier.feed(chunks(path, partial(_show, progress, before, total)))
            before += size
    finally:
        progress.end()
    report = verifier.report()
    shell.emit(_plain(report), "\n".join(_lines(report)))
    return report.exit_code


def _show(progress: Progress, before: int, total: int, count: int) -> None:
    progress.show(before + count, total)


def _plain(report: Report) -> dict[str, object]:
    return {
        "summary": _summary(report),
        "boots": [{**boot.as_dict(), "fault": boot.fault and boot.fault.as_dict()} for boot in report.boots],
        "foreign": report.foreign,
        "damaged": report.damaged,
        "missing_anchors": list(report.missing_anchors),
    }


def _summary(report: Report) -> dict[str, int]:
    verdicts = [boot.verdict for boot in report.boots]
    return {
        "boots": len(verdicts),
        **{verdict: verdicts.count(verdict) for verdict in VERDICTS},
        "records": sum(boot.records for boot in report.boots),
        "duplicates": sum(boot.duplicates for boot in report.boots),
    }


def _lines(report: Report) -> Iterator[str]:
    boots: Sequence[BootVerdict] = report.boots
    if not boots:
        yield "no record at all"
    if len(boots) > _FEW_BOOTS:
        counts = _summary(report)
        yield ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS) + f", of {len(boots)} boots"
        yield f"{counts['records']} records, {counts['duplicates']} of them seen again"
        boots = [boot for verdict in reversed(VERDICTS[1:]) for boot in boots if boot.verdict == verdict]
    if boots:
        yield table(
            _HEADINGS,
            [
                (boot.boot, boot.inst or "-", boot.verdict, boot.records, boot.duplicates, boot.because)
                for boot in boots
            ],
        )
    for boot in boots:
        if boot.fault:
            yield f"{printable(boot.boot)}: record {boot.fault.seq}: expected {boot.fault.expected or 'one record'}"
            yield f"{printable(boot.boot)}: record {boot.fault.seq}: found {boot.fault.found or 'none'}"
    yield from (f"no record has the anchor {anchor}" for anchor in report.missing_anchors)
    for count, what in ((report.foreign, "no trace records"), (report.damaged, "damaged")):
        if count:
            yield f"{count} lines are {what}"
