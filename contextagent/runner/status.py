"""What came out: the result of a boot, and `status.json` that tells it (docs/reference/cli.md)."""

from __future__ import annotations

import fcntl
import os
import time

from contextagent import __version__, jsontext
from contextagent.errors import CannotWriteError
from contextagent.model import PHASES, Problem
from contextagent.trace.records import rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from contextagent.host import Host
    from contextagent.model import Owner, Phase, PhaseState, Result, Verdict
    from contextagent.runner.state import State

LIVE = "live.json"
"""What of a machine changes while it lives (`runner.live`), below `Host.run_folder`."""
STATUS = "status.json"
"""Its name below `Host.run_folder`."""
_MAX_LIVE_BYTES = 1 << 20
"""As in `runner.live`."""
_LOCK = "status.lock"
_TRIES, _TRY_S = 500, 0.002
SCHEMA = 1
EXIT_CODES: Mapping[str, int] = {"ok": 0, "none": 0, "running": 0, "failed": 1, "degraded": 2}
_DEGRADING = ("cloud-init", "bad-feature", "bad-url", "feature-not-read")
"""Warnings of what somebody goes without."""
_FINE = ("ok", "pending")
_FINE_SKIPS = ("once-done", "cloud-init", "interrupted")


def phase_state(reports: Sequence[Mapping[str, Any]], problems: Sequence[Problem] = ()) -> PhaseState:
    """Return how a phase went, from its scripts' reports and what else went wrong in it."""
    troubled = [report for report in reports if not _is_fine(report)]
    if any(report["owner"] == "site" and report["on_error"] == "no-pilot" for report in troubled):
        return "failed"
    return "degraded" if troubled or problems else "ok"


def _is_fine(report: Mapping[str, Any]) -> bool:
    return report["state"] in _FINE or (report["state"] == "skipped" and report["reason"] in _FINE_SKIPS)


def result_of(state: State) -> Result:
    """Return the boot's result so far: `failed` only where the site's part is missing or failed.

    cloud-init running the user's part instead is `degraded` at best, since "user before site" can't be promised then;
    so is a feature that was said and could not be published.
    """
    states = [phase["state"] for phase in state.phases.values()]
    if "running" in states:
        return "running"
    missing = {each.owner for each in state.verdicts if _is_missing(state, each.owner)}
    if "failed" in states or "site" in missing or any(each.reason == "invalid-site-settings" for each in state.errors):
        return "failed"
    if (
        "degraded" in states
        or state.errors
        or any(each.reason in _DEGRADING for each in state.warnings)
        or missing
        or any(each.verdict == "broken" for each in state.verdicts)
    ):
        return "degraded"
    return "ok" if any(supply and (supply.is_material or supply.keys) for supply in state.supplies.values()) else "none"


def _is_missing(state: State, owner: Owner) -> bool:
    """Whether an owner's part could not be had; the last source asked may have had it (`disk.broken: next`)."""
    said = [each.verdict for each in state.verdicts if each.owner == owner]
    is_down = state.is_service_required and "unreachable" in said
    return said[-1] != "found" and ("broken" in said or is_down)


def make_status(state: State, *, order: Sequence[Phase], environment: str = "unknown") -> dict[str, Any]:
    """Return `status.json`, schema 1, of what is remembered of this boot.

    Args:
        state: The instance's memory.
        order: The phases that a boot has, for those that have not begun.
        environment: Verdict on the software environment.
    """
    supplies = {owner: supply for owner, supply in state.supplies.items() if supply and supply.is_material}
    is_cloud_init = any(each.reason == "cloud-init" for each in state.warnings)
    sources = {owner: supplies[owner].source if owner in supplies else None for owner in ("site", "user")}
    if is_cloud_init:
        sources["user"] = "cloud-init"
    never = {"state": "pending", "started": None, "finished": None, "duration_s": None}
    return {
        "schema": SCHEMA,
        "agent": __version__,
        "boot_id": state.boot_id,
        "instance_id": state.instance_id,
        "image": None,
        "result": result_of(state),
        "sources": sources,
        "verdicts": [_without_facts(each) for each in state.verdicts],
        "trust": {owner: supply.trust for owner, supply in supplies.items()},
        "phases": {phase: dict(state.phases.get(phase, never)) for phase in order},
        "scripts": [_shown(report) for report in state.reports],
        "lifetime": None,
        "pilot": None,
        "logging": {
            "targets": list(state.logging.get("targets", ())),
            "delivered": state.logging.get("delivered", "none"),
        },
        "environment": environment,
        "warnings": [_said(each) for each in state.warnings],
        "errors": [_said(each) for each in (*state.errors, *_not_had(state))],
    }


def _not_had(state: State) -> list[Problem]:
    """Return an error for each source that could not be used, and for a service that was needed and not there."""
    words = ("broken", "unreachable") if state.is_service_required else ("broken",)
    return [
        Problem(
            reason=each.reason.partition(":")[0],
            message=f"cannot use '{each.source}' for the {each.owner}: {each.reason.partition(': ')[2] or each.reason}",
        )
        for each in state.verdicts
        if each.verdict in words
    ]


def _without_facts(verdict: Verdict) -> dict[str, Any]:
    return {name: value for name, value in verdict.fields() if name != "facts"}


def _shown(report: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "on_error"}


def _said(problem: Problem) -> dict[str, str]:
    return {"reason": problem.reason, "message": problem.text()}


def status_path(host: Host) -> str:
    """Return the guest path of this boot's status."""
    return f"{host.run_folder}/{STATUS}"


def publish(host: Host, status: dict[str, Any]) -> None:
    """Put `status.json` in place for everybody to read, with what moves while the machine lives as it is right now.

    Raises:
        CannotWriteError: It could not be written.
    """
    host.files.make_folder(host.run_folder, 0o755)
    lock = _hold(host)
    try:
        _put(host, status)
    finally:
        os.close(lock)


def refresh(host: Host) -> None:
    """Bring the lifetime and the pilot in this boot's `status.json` up to date; nothing is done where there is none.

    Raises:
        CannotWriteError: It could not be written.
    """
    lock = _hold(host)
    try:
        status = read_status(host)
        if status is not None and status.get("boot_id") == host.boot_id():
            _put(host, status)
    except ValueError:
        return  # somebody with root's rights wrote there; the next `run` puts a whole one in its place
    finally:
        os.close(lock)


def _put(host: Host, status: dict[str, Any]) -> None:
    try:  # as it stands there: a boot that has nothing else to do with it does without `runner.live`
        live = jsontext.loads(host.files.read(f"{host.run_folder}/{LIVE}", max_bytes=_MAX_LIVE_BYTES))
        if live["boot_id"] == status["boot_id"]:
            status = {**status, "lifetime": live["lifetime"], "pilot": live["pilot"]}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing was published
    host.files.write(status_path(host), jsontext.dumps(status).encode() + b"\n", mode=0o644)


def _hold(host: Host) -> int:
    """Return a descriptor that keeps other writers of the status away until it is closed.

    A run and the watch both write it.  One that was stopped while it did so is not waited for any longer than this.

    Raises:
        CannotWriteError: The lock can't be made.
    """
    path = f"{host.run_folder}/{_LOCK}"
    try:
        fd = os.open(host.files.real(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot lock '{path}': {error.strerror}"
        raise CannotWriteError(message) from error
    for _ in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_TRY_S)
        else:
            break
    return fd


def running(started: str) -> dict[str, Any]:
    """Return a phase that has begun, as in status.json."""
    return {"state": "running", "started": started, "finished": None, "duration_s": None}


def tell_running(host: Host, state: State, phase: Phase) -> None:
    """Publish that a phase is under way, before what it waits for: who asks for the result is to wait as well."""
    phases = {**state.phases, phase: running(rfc3339(host.utc_ns()))}
    try:
        publish(host, make_status(state.replace(phases=phases), order=PHASES))
    except CannotWriteError:
        return  # the phase itself says so, where it can't be written either


def read_status(host: Host) -> dict[str, Any] | None:
    """Return the published status, or None where no run has published one since the machine started.

    Raises:
        ValueError: It is no status of this schema.
    """
    try:
        data = host.files.read(status_path(host), max_bytes=64 << 20)
    except OSError:
        return None
    status = jsontext.loads(data)
    if not isinstance(status, dict) or status.get("schema") != SCHEMA:
        message = "not a status of schema 1"
        raise ValueError(message)
    return status
