"""Every feature's name, and the older ones: one set of values, two vocabularies, conversions in one place.

A key is `machine/NAME` or `job/NAME`, as in a context's `features/` folder.  The names and units are those of the HEPiX
machine/job features (HSF-TN-2016-02); the older ones those of its drafts from 2011 on, which pilots still read.
"""

from __future__ import annotations

from contextagent.model import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    Kind = Literal["count", "seconds", "epoch", "bytes", "number", "text"]

FEATURES: Mapping[str, Kind] = {
    "machine/total_cpu": "count",
    "machine/hs06": "number",
    "machine/shutdowntime": "epoch",
    "machine/grace_secs": "seconds",
    "job/allocated_cpu": "count",
    "job/hs06_job": "number",
    "job/shutdowntime_job": "epoch",
    "job/grace_secs_job": "seconds",
    "job/jobstart_secs": "epoch",
    "job/job_id": "text",
    "job/wall_limit_secs": "seconds",
    "job/cpu_limit_secs": "seconds",
    "job/max_rss_bytes": "bytes",
    "job/max_swap_bytes": "bytes",
    "job/scratch_limit_bytes": "bytes",
}
"""The present vocabulary; all but `text` are written as a number, and all but `number` as a whole one."""

OLDER: Mapping[str, tuple[str, int]] = {
    "machine/log_cores": ("machine/total_cpu", 1),
    "job/allocated_CPU": ("job/allocated_cpu", 1),
    "job/jobstart": ("job/jobstart_secs", 1),
    "job/run_limit": ("job/wall_limit_secs", 60),
    "job/wall_limit_secs_lrms": ("job/wall_limit_secs", 1),
    "job/cpu_limit": ("job/cpu_limit_secs", 60),
    "job/cpu_limit_secs_lrms": ("job/cpu_limit_secs", 1),
    "job/mem_limit": ("job/max_rss_bytes", 1000**2),
    "job/mem_limit_MB": ("job/max_rss_bytes", 1000**2),
    "job/disk_limit_GB": ("job/scratch_limit_bytes", 1000**3),
}
"""An older name to the present one, and how many of the present unit one of the older is.

`run_limit` and `cpu_limit` are minutes.  The drafts give `mem_limit` no unit; it is taken, and published, as
megabytes of 1000 squared, like `mem_limit_MB`.  What does not divide is rounded down: a limit is never stretched.
"""

OLDER_ALONE: Mapping[str, Kind] = {
    "machine/phys_cores": "count",
    "machine/jobslots": "count",
    "machine/shutdown_command": "text",
    "job/cpufactor_lrms": "number",
}
"""Older names that nothing else says; a site's own extras, such as `machine/syslog`, are text as well."""

MAX_EPOCH_S = 253_402_300_799
MAX_VALUE_BYTES = 1024


def is_extra(key: str) -> bool:
    """Return whether a key is a site's own: in neither vocabulary."""
    return key not in FEATURES and key not in OLDER and key not in OLDER_ALONE


def kind_of(key: str) -> Kind:
    """Return what a feature's value is; a site's own is text."""
    if key in OLDER:
        key = OLDER[key][0]
    return FEATURES.get(key) or OLDER_ALONE.get(key) or "text"


def value_problem(key: str, text: str) -> str:
    """Return why `text` can't be the feature's value, or an empty string if it can."""
    kind = kind_of(key)
    if len(text.encode("utf-8", "surrogatepass")) > MAX_VALUE_BYTES:
        return f"it is longer than {MAX_VALUE_BYTES} bytes"
    if any(char < " " or char == "\x7f" for char in text):
        return "it has a control character"
    if kind == "text":
        return "" if text else "it is empty"
    if kind == "number":
        return "" if _is_decimal(text) else "it is not a number such as 10 or 10.5"
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_EPOCH_S)) + 6):
        return f"it is not a whole number of {_UNITS[kind]}" if kind in _UNITS else "it is not a whole number"
    if kind == "epoch" and int(text) > MAX_EPOCH_S:
        return "it is no time before the year 10000"
    return "it is 0" if kind == "count" and int(text) == 0 else ""


_UNITS = {"seconds": "seconds", "epoch": "seconds since 1970", "bytes": "bytes"}


def published(said: Mapping[str, str]) -> tuple[dict[str, str], tuple[Problem, ...]]:
    """Return every feature in both vocabularies, sorted by key, from what was said in either.

    The present name wins over an older one, and of two older ones the first in `OLDER`; a contradiction is a problem,
    as is a value that its key can't have, which is left out.
    """
    problems: list[Problem] = []
    values: dict[str, str] = {}
    for key, text in said.items():
        if cause := value_problem(key, text):
            message = f"cannot publish '{key}': {cause}: '{text[:64]}', going on without it"
            problems.append(Problem(reason="bad-feature", message=message))
        else:
            values[key] = text
    for older, (key, factor) in OLDER.items():
        if older in values:
            meant = values.setdefault(key, str(int(values[older]) * factor))
            if int(meant) // factor != int(values[older]):
                message = f"cannot publish '{older}' as {values[older]}: '{key}' says {meant}, which counts"
                problems.append(Problem(reason="contradiction", message=message))
    values |= {older: str(int(values[key]) // factor) for older, (key, factor) in OLDER.items() if key in values}
    return dict(sorted(values.items())), tuple(problems)


def _is_decimal(text: str) -> bool:
    whole, _, fraction = text.partition(".")
    return text.isascii() and whole.isdigit() and (fraction.isdigit() or "." not in text)
