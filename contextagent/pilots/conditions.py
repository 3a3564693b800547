"""Whether a pilot may start now: each condition that does not hold is a refusal with a reason and words of its own.

The conditions are the contract's (docs/reference/pilots.md).  Most can change while a machine lives, so the watch asks
again and again; what only the pilot's own account can see (its credential, its folders of certificates) is looked at
by the keeper, right before the start.
"""

from __future__ import annotations

from contextagent.model import Problem, Value
from contextagent.trace.delivery import is_trace_enough

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from contextagent.trace.delivery import Delivered, Required

NO_PILOT = "/etc/contextagent/no-pilot"
"""Whoever has root's rights on the machine puts this file there to keep pilots from it, and takes it away again."""
VETO_EXIT = 100
"""A site's script that ends so vetoes the pilot, and is `ok` (docs/reference/cli.md, exit codes)."""
_FINE_SKIPS = ("once-done", "cloud-init", "interrupted")


class Standing(Value):
    """All that a start depends on.

    Attributes:
        result: The boot's result so far (`runner.status.result_of`).
        reports: One dict a script, as in status.json.
        missing: Why the site's part could not be had; empty as a rule.
        is_banned: The setting `ban.pilot`.
        has_no_pilot_file: Whether `NO_PILOT` is there.
        required: The setting `pilot.require_trace`.
        delivered: What is known of this boot's trace.
        is_trace_full: Whether the trace could not be written.
        on_full: The setting `trace.on_full`.
        remaining_s: Seconds until the machine's end; None where none is known.
        min_lifetime_s: The setting; None for no more than it takes to stop again.
        stop_s: Seconds before its end at which a pilot is told to stop.
        is_finished: Whether somebody has said that this machine can go.
        account: Why the pilot has no account to run as; empty where it has.
    """

    result: str
    reports: tuple[Mapping[str, Any], ...] = ()
    missing: str = ""
    is_banned: bool = False
    has_no_pilot_file: bool = False
    required: Required = "no"
    delivered: Delivered = "none"
    is_trace_full: bool = False
    on_full: str = "degrade"
    remaining_s: float | None = None
    min_lifetime_s: int | None = None
    stop_s: float = 0
    is_finished: bool = False
    account: str = ""


def refusal(standing: Standing) -> Problem | None:
    """Return why the pilot must not start now; None where it may.

    What the site says of its machine goes before what the machine says of itself.
    """
    return next(iter(_refusals(standing)), None)


def _refusals(now: Standing) -> Iterable[Problem]:
    yield from _said_by_site(now)
    if not is_trace_enough(now.required, now.delivered):
        cause = f"the trace is to be '{now.required}' ('pilot.require_trace'), and is '{now.delivered}'"
        yield _no("trace", cause)
    if now.is_trace_full and now.on_full == "strict":
        yield _no("trace-full", "the trace can't be written, and 'trace.on_full' is strict")
    if now.remaining_s is not None:
        yield from _too_late(now, now.remaining_s)
    if now.account:
        yield _no("no-account", now.account)
    if now.is_finished:  # last, since the machine may be finished because of one of the others
        yield _no("finished", "this machine has been finished")


def _said_by_site(now: Standing) -> Iterable[Problem]:
    if now.result == "failed":
        yield _no("site-failed", _failed(now))
    for report in now.reports:
        if report["owner"] == "site" and report["exit_code"] == VETO_EXIT:
            yield _no("veto", f"the site's script '{report['id']}' vetoes it (exit code {VETO_EXIT})")
    if now.is_banned:
        yield _no("banned", "the site's setting 'ban.pilot' is yes")
    if now.has_no_pilot_file:
        yield _no("no-pilot-file", f"'{NO_PILOT}' is there")


def _too_late(now: Standing, remaining_s: float) -> Iterable[Problem]:
    least_s = max(now.min_lifetime_s or 0, now.stop_s)
    if remaining_s <= now.stop_s or remaining_s < least_s:
        left = "this machine's lifetime is over" if remaining_s <= 0 else f"{int(remaining_s)} s are left to live"
        named = "'pilot.min_lifetime_s'" if least_s > now.stop_s else "the time to stop it again"
        yield _no("lifetime", f"{left}, less than the {int(least_s)} s of {named}")


def _failed(now: Standing) -> str:
    """Return what of the site's part failed."""
    for report in now.reports:
        is_required = report["owner"] == "site" and report.get("on_error") == "no-pilot"
        if is_required and report["state"] not in ("ok", "pending") and report["reason"] not in _FINE_SKIPS:
            return f"the site's script '{report['id']}' did not succeed ({report['reason'] or report['state']})"
    return now.missing or "the site's part of the context could not be had"


def _no(reason: str, cause: str) -> Problem:
    return Problem(reason=reason, message=f"cannot start the pilot: {cause}")
