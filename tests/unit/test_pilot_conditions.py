"""When a pilot may start, when it is started again, and what the end of the last one means: all without a machine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.model import PHASES, Script, Supply
from contextagent.pilots.conditions import Standing, refusal
from contextagent.pilots.course import MOST_BACKOFF_S, Slot, ended, last_word
from contextagent.pilots.signals import SIGNALS, number_of
from contextagent.pilots.steps import account_of, is_asked, may_leave, pilot_steps
from contextagent.policy.settings import Settings, load_material, merge
from tests.pilots import DEFAULTS

FINE = Standing(result="ok", remaining_s=1000.0, stop_s=120.0)


def report(**changes: Any) -> dict[str, Any]:
    base = {"id": "site/post-network/epilog.sh", "owner": "site", "state": "ok", "exit_code": 0, "reason": None}
    return {**base, "on_error": "no-pilot", **changes}


FAILED = report(state="failed", exit_code=1)
VETO = report(exit_code=100, reason="vetoes the pilot")
REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"is_finished": True}, "finished", "this machine has been finished"),
    (
        {"result": "failed", "reports": (report(), FAILED)},
        "site-failed",
        "the site's script 'site/post-network/epilog.sh' did not succeed (failed)",
    ),
    (
        {"result": "failed", "reports": (report(state="skipped", reason="budget"),)},
        "site-failed",
        "the site's script 'site/post-network/epilog.sh' did not succeed (budget)",
    ),
    ({"result": "failed", "missing": "'disk' is broken"}, "site-failed", "'disk' is broken"),
    ({"result": "failed"}, "site-failed", "the site's part of the context could not be had"),
    (
        {"reports": (VETO,)},
        "veto",
        "the site's script 'site/post-network/epilog.sh' vetoes it (exit code 100)",
    ),
    ({"is_banned": True}, "banned", "the site's setting 'ban.pilot' is yes"),
    ({"has_no_pilot_file": True}, "no-pilot-file", "'/etc/contextagent/no-pilot' is there"),
    (
        {"required": "reachable", "delivered": "configured"},
        "trace",
        "the trace is to be 'reachable' ('pilot.require_trace'), and is 'configured'",
    ),
    (
        {"is_trace_full": True, "on_full": "strict"},
        "trace-full",
        "the trace can't be written, and 'trace.on_full' is strict",
    ),
    (
        {"remaining_s": 0.0},
        "lifetime",
        "this machine's lifetime is over, less than the 120 s of the time to stop it again",
    ),
    (
        {"remaining_s": -5.0},
        "lifetime",
        "this machine's lifetime is over, less than the 120 s of the time to stop it again",
    ),
    ({"remaining_s": 120.0}, "lifetime", "120 s are left to live, less than the 120 s of the time to stop it again"),
    (
        {"remaining_s": 999.0, "min_lifetime_s": 1000},
        "lifetime",
        "999 s are left to live, less than the 1000 s of 'pilot.min_lifetime_s'",
    ),
    ({"account": "this machine has no account 'x'"}, "no-account", "this machine has no account 'x'"),
]


def test_a_pilot_starts_where_nothing_is_against_it() -> None:
    assert refusal(FINE) is None
    assert refusal(FINE.replace(remaining_s=None, min_lifetime_s=10_000)) is None
    assert refusal(FINE.replace(remaining_s=1000.0, min_lifetime_s=1000)) is None


@pytest.mark.parametrize(("changes", "reason", "cause"), REFUSALS)
def test_each_condition_that_does_not_hold_has_words_of_its_own(
    changes: dict[str, Any], reason: str, cause: str
) -> None:
    problem = refusal(FINE.replace(**changes))
    assert problem is not None
    assert (problem.reason, problem.message) == (reason, f"cannot start the pilot: {cause}")


@given(st.lists(st.sampled_from(range(len(REFUSALS))), min_size=1, max_size=4))
def test_no_other_condition_makes_up_for_one_that_does_not_hold(chosen: list[int]) -> None:
    standing = FINE
    for index in chosen:
        standing = standing.replace(**REFUSALS[index][0])
    assert refusal(standing) is not None


@pytest.mark.parametrize(
    "script",
    [
        report(owner="user", state="failed", exit_code=1, on_error="no-pilot"),
        report(owner="user", exit_code=100),
        report(state="failed", exit_code=1, on_error="continue"),
        report(state="skipped", reason="once-done"),
        report(state="pending", exit_code=None),
    ],
)
def test_what_a_script_did_that_the_pilot_does_not_hang_on_does_not_keep_it(script: dict[str, Any]) -> None:
    assert refusal(FINE.replace(result="degraded", reports=(script,))) is None


def test_a_full_trace_keeps_the_pilot_only_where_the_policy_is_strict() -> None:
    assert refusal(FINE.replace(is_trace_full=True)) is None


# ---- again, or not ----


def after(slot: Slot, told: tuple[int, str] = (700, "x"), *, is_max_said: bool = False, **pilot: Any) -> Slot:
    settings = {**DEFAULTS, **{name.replace("__", "."): value for name, value in pilot.items()}}
    return ended(slot, settings, told, is_max_said=is_max_said, now_s=1000.0)


STARTED = Slot(number=1, starts=1, is_kept=True, is_told=True)


def test_a_pilot_is_not_started_again_unless_the_settings_say_so() -> None:
    slot = after(STARTED)
    assert (slot.is_over, slot.is_kept, slot.is_told, slot.code, slot.text) == (True, False, False, 700, "x")


def test_one_that_failed_is_started_again_as_often_as_is_allowed_and_later_each_time() -> None:
    slot, waits = STARTED, []
    while not (slot := after(slot, restart__max=3)).is_over:
        waits.append(slot.retry_s - 1000.0)
        slot = slot.replace(starts=slot.starts + 1)
    assert waits == [10.0, 20.0, 40.0]


@pytest.mark.parametrize("code", [200, 300])
def test_one_that_has_done_its_work_is_not_started_again(code: int) -> None:
    assert after(STARTED, (code, ""), restart__max=3).is_over
    assert not after(STARTED, (code, ""), restart__max=3, on_exit="restart").is_over


def test_restart_without_a_bound_goes_on_and_slows_down() -> None:
    slot = after(STARTED.replace(starts=1000), (200, ""), on_exit="restart")
    assert (slot.is_over, slot.retry_s) == (False, 1000.0 + MOST_BACKOFF_S)
    assert after(STARTED, (200, ""), is_max_said=True, on_exit="restart").is_over


@given(st.integers(1, 10**6), st.integers(0, 10**5))
def test_a_storm_of_starts_is_impossible_whatever_is_set(starts: int, backoff_s: int) -> None:
    slot = after(STARTED.replace(starts=starts), on_exit="restart", restart__backoff_s=backoff_s)
    assert slot.retry_s - 1000.0 >= 1


@pytest.mark.parametrize("why", ["lifetime", "asked", "stop", "signal"])
def test_one_that_was_stopped_is_not_started_again(why: str) -> None:
    assert after(STARTED.replace(stopped=why), on_exit="restart").is_over


OVER = Slot(number=1, is_over=True, code=700, text="x")


@pytest.mark.parametrize(
    ("slots", "on_exit", "word"),
    [
        ([OVER], "finish", (700, "x")),
        ([OVER], "restart", (700, "x")),
        ([OVER], "idle", None),
        ([OVER, Slot(number=2)], "finish", None),
        ([OVER, OVER.replace(code=200, text="y")], "finish", (200, "y")),
        ([OVER.replace(code=200, text="y"), OVER], "finish", (200, "y")),
        ([OVER, OVER.replace(code=300, text="z")], "finish", (300, "z")),
        ([OVER.replace(stopped="lifetime")], "finish", (100, "end of the lifetime")),
        ([OVER.replace(stopped="lifetime")], "idle", (100, "end of the lifetime")),
        ([OVER.replace(stopped="asked")], "finish", None),
        ([OVER.replace(code=None)], "finish", None),
    ],
)
def test_the_last_end_says_how_the_machine_is_finished(
    slots: list[Slot], on_exit: str, word: tuple[int, str] | None
) -> None:
    assert last_word(slots, on_exit) == word


# ---- signals ----


@pytest.mark.parametrize(
    ("name", "number"), [("TERM", 15), ("SIGTERM", 15), ("sigint", 2), ("10", 10), ("99", 15), ("nonsense", 15)]
)
def test_a_signal_is_known_by_name_or_number(name: str, number: int) -> None:
    assert number_of(name) == number
    assert number_of(str(SIGNALS["KILL"])) == 9


# ---- its steps ----


def settings(image: str = "", site: str = "", user: str = "") -> Settings:
    voices = (("site", site), ("user", user))
    return merge(
        load_material("image", "policy.yaml", image.encode()),
        *(load_material(voice, "s.yaml", text.encode()) for voice, text in voices),  # type: ignore[arg-type]  # literals
    )


def supply(*names: str) -> Supply:
    scripts = tuple(
        Script(owner="user", phase="post-network", name=name, rank=1, sha512="", size_bytes=0, content="")
        for name in names
    )
    return Supply(owner="user", source="disk", scripts=scripts)


def ids(settings: Settings, user: Supply | None = None, *, is_caller: bool = False) -> list[tuple[str, str]]:
    steps = [step for each in PHASES for step in pilot_steps(each, user, settings, is_caller=is_caller)]
    return [(step.id, step.profile) for step in steps]


PILOT = "pilot: {framework: command, command: /bin/true}"


def test_a_machine_that_is_to_have_no_pilot_has_no_step_for_one() -> None:
    assert ids(settings(), supply("user-data")) == []
    assert not is_asked(settings(), supply("user-data"))


def test_the_pilot_is_its_owners_last_step_and_its_first_to_stop() -> None:
    assert ids(settings(site=PILOT)) == [
        ("site/post-network/pilot", "unprivileged"),
        ("site/stop/pilot", "unprivileged"),
    ]
    assert ids(settings(image=PILOT), is_caller=True)[0] == ("site/post-network/pilot", "caller")
    assert ids(settings("pilot: {from_user: yes}", user=PILOT))[0] == ("user/post-network/pilot", "unprivileged")


def test_a_pilot_that_is_there_is_stopped_whatever_the_settings_say_by_now() -> None:
    steps = [step for phase in PHASES for step in pilot_steps(phase, None, settings(), is_caller=True, is_there=True)]
    assert [step.id for step in steps] == ["user/stop/pilot"]


def test_what_the_users_scripts_leave_is_planned_by_these_words() -> None:
    allowed = settings("pilot: {from_user: yes}")
    assert ids(allowed, supply("user-data")) == [
        ("user/post-network/epilog.sh, if the user's scripts leave one", "unprivileged"),
        ("user/stop/pilot", "unprivileged"),
    ]
    assert ids(allowed, supply("user-data", "epilog.sh")) == []
    assert ids(allowed, supply()) == []
    assert not may_leave(settings("pilot: {from_user: yes}", PILOT), supply("user-data"))
    root = settings("user: {profile: root, ceiling: root}\npilot: {from_user: yes}")
    assert ids(root, supply("user-data"))[0][1] == "root"


def test_the_pilots_account_is_the_users_unless_it_is_named() -> None:
    assert account_of(settings(site=PILOT)) == "contextuser"
    assert account_of(settings(site="pilot: {framework: command, command: /bin/true, user: plt}")) == "plt"
    assert account_of(settings("user: {account: other}", PILOT)) == "other"


def test_other_settings_make_another_step() -> None:
    one, other = (settings(site=PILOT.replace("true", name)) for name in ("true", "false"))
    digests = {next(iter(pilot_steps("stop", None, each, is_caller=False))).sha512 for each in (one, other)}
    assert len(digests) == 2
