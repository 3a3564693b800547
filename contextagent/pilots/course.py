"""The course of one pilot over its starts and ends: when it is started again, and what its last end means."""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

BACKOFF_S, MOST_BACKOFF_S = 10, 3600
"""Before the first new start where the settings say nothing, doubled for each of the next; and the longest."""
BUSY = ("running", "stopping")
"""States of a pilot whose processes run."""
ALIVE = (*BUSY, "starting")
"""States of one whose keeper lives."""
ORDER = (*ALIVE, "waiting", "refused", "ended")
"""Which of several pilots the status tells of."""
DONE, NO_WORK, BY_HOST, SITE, FAILED = 200, 300, 100, 500, 700
ENDINGS = ("exit", "abort", "not-startable")
"""Reasons that a keeper gives for an end; any other is a condition that did not hold, so that nothing was started."""


class Slot(Value):
    """One of the pilots that a machine has at a time, over all its starts.

    Attributes:
        number: From 1.
        starts: How often it was started.
        is_kept: A keeper has it, or had it, and its end has not been heard of yet.
        is_told: Its start is in the trace.
        retry_s: It is not started before this second on the clock since boot.
        is_over: It is not started again in this boot.
        reason: Why it stands as it does: of the refusal, or of its last end.
        message: The same in words.
        code: What its last end means; None before that.
        text: The words to go with that.
        stopped: Why its last end was brought about; empty where it ended by itself.
    """

    number: int
    starts: int = 0
    is_kept: bool = False
    is_told: bool = False
    retry_s: float = 0.0
    is_over: bool = False
    reason: str = ""
    message: str = ""
    code: int | None = None
    text: str = ""
    stopped: str = ""


def ended(slot: Slot, pilot: Mapping[str, Any], told: tuple[int, str], *, is_max_said: bool, now_s: float) -> Slot:
    """Return what comes after an end: another start, later each time, or none.

    With `on_exit: restart` a pilot is started again whatever its end, without a bound unless `restart.max` was set;
    else only one that failed is, and at most `restart.max` times.

    Args:
        slot: The pilot; `stopped` says whether its end was asked for.
        pilot: The settings `pilot.*`, less that word.
        told: What the end means.
        is_max_said: Whether somebody set `restart.max`.
        now_s: This moment on the clock since boot.
    """
    code, text = told
    most = pilot["restart.max"]
    is_restart = pilot["on_exit"] == "restart"
    is_wanted = is_restart or code not in (DONE, NO_WORK)
    is_allowed = slot.starts <= most or (is_restart and not is_max_said)
    slot = slot.replace(is_kept=False, is_told=False, code=code, text=text)
    if slot.stopped or not (is_wanted and is_allowed):
        return slot.replace(is_over=True)
    first_s = pilot["restart.backoff_s"]
    wait_s = min((BACKOFF_S if first_s is None else max(first_s, 1)) * 2 ** min(slot.starts - 1, 12), MOST_BACKOFF_S)
    return slot.replace(retry_s=now_s + wait_s)


def last_word(slots: Iterable[Slot], on_exit: str) -> tuple[int, str] | None:
    """Return how the machine is to be finished; None while a pilot is to come, and where its end ends nothing.

    Work that was done by one of several is what is told; else what the last of them said.
    """
    known = tuple(slots)
    if not all(slot.is_over for slot in known):
        return None
    if any(slot.stopped == "lifetime" for slot in known):
        return BY_HOST, "end of the lifetime"
    if on_exit == "idle" or any(slot.stopped for slot in known):
        return None
    words = [(slot.code, slot.text) for slot in known if slot.code is not None]
    return next((word for word in words if word[0] == DONE), words[-1] if words else None)
