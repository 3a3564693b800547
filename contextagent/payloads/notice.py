"""The notice that EC2 gives before it takes an instance away: when that will be."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.errors import BrokenSourceError

ACTION = "/latest/meta-data/spot/instance-action"
"""Path of the notice; 404 where there is none, and on instances that are no spot instances."""
_DAYS = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_SHAPE = "dddd-dd-ddTdd:dd:ddZ"
_EPOCH_YEAR = 1970


def instance_action(data: bytes) -> int:
    """Return when the instance is stopped, hibernated or terminated, seconds since 1970.

    All three end what runs on it as far as a pilot is concerned: `{"action": "stop", "time": "2026-11-21T08:22:00Z"}`.

    Raises:
        BrokenSourceError: It is no such notice.
    """
    try:
        plain = jsontext.loads(data)
        return _epoch_s(plain["time"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        message = f"cannot read '{ACTION}': no notice that says a time"
        raise BrokenSourceError(message, reason="bad-notice") from error


def _epoch_s(text: str) -> int:
    """Return a UTC time of that one form as seconds since 1970; `time.strptime` would load a module of expressions.

    Raises:
        ValueError: It has another form, or names no such day.
    """
    is_shaped = len(text) == len(_SHAPE) and all(
        "0" <= char <= "9" if shape == "d" else char == shape for char, shape in zip(text, _SHAPE, strict=True)
    )
    if not is_shaped:
        raise ValueError("not a time of the form 2026-11-21T08:22:00Z")
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    hour, minute, second = int(text[11:13]), int(text[14:16]), int(text[17:19])
    is_leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    lengths = (31, 28 + is_leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not (year >= _EPOCH_YEAR and 1 <= month <= len(lengths) and 1 <= day <= lengths[month - 1]):
        raise ValueError("no such day")
    if hour > 23 or minute > 59 or second > 60:  # noqa: PLR2004  # a clock's; a leap second is the 61st
        raise ValueError("no such time of day")
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 - 719_162
    days += _DAYS[month - 1] + (is_leap and month > 2) + day - 1  # noqa: PLR2004  # February is the second
    return ((days * 24 + hour) * 60 + minute) * 60 + second
