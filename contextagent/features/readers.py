"""What the programs that read features make of them: which form each takes, and where each goes wrong without a word.

A reader is several programs, and they differ.  Each row of `USES` was found by running the program, and holds while it
is as old as the table in docs/reference/features.md says; glideinWMS and the DIRAC Pilot are in no package index.
"""

from __future__ import annotations

from contextagent.features.vocabulary import FEATURES, kind_of, value_problem
from contextagent.model import Problem, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Literal

    Reader = Literal["panda", "dirac", "dirac-pilot", "glideinwms"]
    Form = Literal["path", "url"]
    Parse = Literal["int", "text", "shell", "nothing"]

READERS: tuple[Reader, ...] = ("panda", "dirac", "dirac-pilot", "glideinwms")
FORMS: tuple[Form, ...] = ("path", "url")


class Use(Value):
    """How one program reads one key.

    Attributes:
        part: The program: a file or a class of the reader's.
        parse: `int`: Python's, which allows blanks at both ends and a plus; `text`: as it is, less one newline;
            `shell`: less the newlines at its end; `nothing`: the key has to be there, and that is all.
        broken: What the program does with what it can't parse.
        without: What it does where the key is missing; empty if it rightly goes without it.
    """

    part: str
    key: str
    parse: Parse
    broken: str = ""
    without: str = ""


_JOBSTART, _WALL, _CPU = "job/jobstart_secs", "job/wall_limit_secs", "job/cpu_limit_secs"
_SHUTDOWN, _SHUTDOWN_JOB = "machine/shutdowntime", "job/shutdowntime_job"

_NO_END = "it goes on as if there were no such end"
_TYPE_ERROR = "it raises a TypeError, and its caller then watches for no end at all"
_NO_LIMITS = "it gives an error instead of limits"
_ONE_CPU = "it takes 1 CPU"
_BY_URL = tuple(
    Use(part="MJF.py", key=key, parse="int", broken=_NO_END, without=_TYPE_ERROR) for key in (_SHUTDOWN, _SHUTDOWN_JOB)
)

USES: Mapping[tuple[Reader, Form], tuple[Use, ...]] = {
    ("panda", "path"): (
        Use(part="monitor.py", key=_SHUTDOWN, parse="int", broken=_NO_END),
        *(Use(part="features.py", key=key, parse="text", broken="it reports it like that") for key in FEATURES),
    ),
    ("panda", "url"): (),
    ("dirac", "path"): (
        *_BY_URL,
        *(Use(part="MJF.py", key=key, parse="int", broken=_NO_END, without=_TYPE_ERROR) for key in (_JOBSTART, _WALL)),
    ),
    ("dirac", "url"): (
        *_BY_URL,
        *(Use(part="MJF.py", key=key, parse="nothing", without=_TYPE_ERROR) for key in (_JOBSTART, _WALL)),
        Use(
            part="MJFResourceUsage",
            key=_WALL,
            parse="int",
            broken="it raises a TypeError, or gives an error where there is no shutdowntime",
            without="it raises a TypeError, or gives an error where there is no shutdowntime",
        ),
        Use(
            part="MJFResourceUsage",
            key=_JOBSTART,
            parse="int",
            broken="it takes the moment of asking for the start",
            without="it takes the moment of asking for the start",
        ),
        Use(part="MJFResourceUsage", key=_CPU, parse="int", broken=_NO_LIMITS, without=_NO_LIMITS),
        Use(part="MJFResourceUsage", key=_SHUTDOWN, parse="int", broken=_NO_END),
        Use(
            part="JobParameters",
            key="job/allocated_cpu",
            parse="int",
            broken="it raises a ValueError",
            without="it takes 1 CPU, unless DIRAC's configuration knows a number",
        ),
        Use(part="JobParameters", key="job/max_rss_bytes", parse="int", broken="it raises a ValueError"),
    ),
    ("dirac-pilot", "path"): (),
    ("dirac-pilot", "url"): (
        Use(part="pilotTools.py", key="job/allocated_cpu", parse="int", broken=_ONE_CPU, without=_ONE_CPU),
    ),
    **{
        ("glideinwms", form): (
            *(
                Use(part="check_wn_drainstate.sh", key=key, parse="shell", broken="it neither drains nor preempts")
                for key in (_SHUTDOWN_JOB, _SHUTDOWN)
            ),
            *(
                Use(part="mjf_setparams.sh", key=key, parse="shell", broken="it advertises something else")
                for key in FEATURES
            ),
        )
        for form in FORMS
    },
}
"""What each reader reads in either form."""

NOT_READ: Mapping[tuple[Reader, Form], tuple[tuple[str, str], ...]] = {
    ("panda", "url"): (
        ("features.py", "it takes the address for a folder that is not there, and goes without features"),
        ("monitor.py", "it sees no shutdowntime, and does not stop before the end"),
    ),
    ("dirac", "path"): (("MJFResourceUsage", _NO_LIMITS), ("JobParameters", "it takes 1 CPU, and no limit of memory")),
    ("dirac-pilot", "path"): (("pilotTools.py", "it takes 1 CPU without a word"),),
}
"""Programs that can't read one form at all, and what they do then."""

_BLANKS = " \t\n\r\v\f"


def check(reader: Reader, form: Form, values: Mapping[str, str], now: float) -> tuple[Problem, ...]:
    """Return what a reader would read wrongly of these values (`job/NAME` to the file's text) if it started now.

    None where it reads everything that it looks at rightly, and the end that it goes by is the one that comes first.
    """
    problems = [
        Problem(reason="form-not-read", message=f"cannot have '{part}' of {reader} read a {_words(form)}: {cause}")
        for part, cause in NOT_READ.get((reader, form), ())
    ]
    wrong: set[str] = set()
    for use in USES[reader, form]:
        if found := _problem_of(reader, use, values):
            problems.append(found)
            wrong.add(use.part)
    whole = {
        key: int(text) for key, raw in values.items() if kind_of(key) in _WHOLE and _is_right(key, text := _clean(raw))
    }
    for part in dict.fromkeys(use.part for use in USES[reader, form]):
        if part not in wrong and (cause := _end_problem(part, form, whole, int(now))):
            message = f"cannot have '{part}' of {reader} see the end that comes first: {cause}"
            problems.append(Problem(reason="end-not-seen", message=message))
    return tuple(problems)


_WHOLE = ("count", "seconds", "epoch", "bytes")


def _words(form: Form) -> str:
    return "folder" if form == "path" else "URL"


def _clean(raw: str) -> str:
    """Return a number without what Python's `int` allows around it."""
    return raw.strip(_BLANKS).removeprefix("+")


def _is_right(key: str, text: str) -> bool:
    return not value_problem(key, text)


def _problem_of(reader: Reader, use: Use, values: Mapping[str, str]) -> Problem | None:
    if use.key not in values:
        message = f"cannot have '{use.part}' of {reader} read '{use.key}': it is missing, {use.without}"
        return Problem(reason="feature-missing", message=message) if use.without else None
    raw = values[use.key]
    cause = _cause(use, raw)
    message = f"cannot have '{use.part}' of {reader} read '{use.key}': {cause}: '{raw[:64]}', {use.broken}"
    return Problem(reason="feature-misread", message=message) if cause else None


def _cause(use: Use, raw: str) -> str:
    """Return why a program can't parse what a file holds, or can't use it; empty if it can."""
    if use.parse == "nothing":
        return ""
    if use.parse == "text":
        return value_problem(use.key, raw.removesuffix("\n"))
    if use.parse == "shell":
        return value_problem(use.key, raw.rstrip("\n")) or _shell_problem(use.key, raw.rstrip("\n"))
    cause = value_problem(use.key, _clean(raw))
    is_zero = use.part == "MJFResourceUsage" and use.key in (_CPU, _WALL) and not cause and not int(raw)
    return "it is 0, which counts as missing" if is_zero else cause


def _shell_problem(key: str, text: str) -> str:
    """Return what a shell that quotes too little makes of a text; a number goes through it unchanged."""
    if kind_of(key) != "text":
        return ""
    if any(char in '"\\*?[' for char in text) or "  " in text:
        return "it has a quote, a backslash, a wildcard or two blanks together, which a shell changes"
    digits = text.lstrip("0123456789")
    is_number = digits != text and (not digits or (digits[1:].isascii() and digits[1:].isdigit()))
    return "it looks like a number or a sum" if is_number else ""


def _end_problem(part: str, form: Form, whole: Mapping[str, int], now: int) -> str:
    """Return why the end that a program goes by is not the first one; empty for one that looks at no end."""
    ends = dict(_ends(whole))
    first = min(ends.values(), default=None)
    match part:
        case "monitor.py":
            seen = whole.get(_SHUTDOWN)
            if seen is not None and seen < now:
                return "'machine/shutdowntime' is before its own start, and so ignored"
        case "MJF.py":
            seen = min(end for name, end in ends.items() if form == "path" or name != _WALL)
        case "MJFResourceUsage":
            if whole[_JOBSTART] == now:
                return "'job/jobstart_secs' is this very second; it gives an error until the next"
            seen = whole[_JOBSTART] + _limit_of_usage(whole, now)
            if seen == whole[_JOBSTART]:
                return "none is left between 'job/jobstart_secs' and it; it gives an error"
        case "check_wn_drainstate.sh":
            seen = min((end for name, end in ends.items() if name != _WALL), default=None)
        case _:
            return ""
    if seen == first:
        return ""
    name = next(name for name, end in ends.items() if end == first)
    return f"'{name}' says {first}, it goes by {'none' if seen is None else seen}"


def _ends(whole: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield each end that the values know, by the key that sets it."""
    yield from ((key, whole[key]) for key in (_SHUTDOWN, _SHUTDOWN_JOB) if key in whole)
    if _JOBSTART in whole and _WALL in whole:
        yield _WALL, whole[_JOBSTART] + whole[_WALL]


def _limit_of_usage(whole: Mapping[str, int], now: int) -> int:
    """Return the wall limit as MJFResourceUsage counts it: from now where it compares, from the start where it cuts.

    So a shutdowntime between the limit counted from the start and the limit counted from now makes the limit longer.
    """
    shutdown = whole.get(_SHUTDOWN)
    if shutdown is None or not whole[_JOBSTART] or now + whole[_WALL] <= shutdown:
        return whole[_WALL]
    return shutdown - whole[_JOBSTART]
