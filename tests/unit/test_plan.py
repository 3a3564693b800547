"""The order, frequency and skipping of steps (docs/reference/context.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.collectors import Endpoint, Target, TargetFile
from contextagent.model import Kept, LoginKey, PlacedFile, Script, Supply
from contextagent.plan import Situation, make_plan
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import merge

if TYPE_CHECKING:
    from contextagent.model import Owner, Phase
    from contextagent.policy.settings import Settings

DEFAULTS = merge(Layer(voice="image"))
PHASES: tuple[Phase, ...] = ("pre-network", "post-network", "stop")
owners = st.sampled_from(["site", "user"])


def script(owner: Owner, phase: Phase, name: str, rank: int = 2) -> Script:
    return Script(owner=owner, phase=phase, name=name, rank=rank, sha512=f"{name:0<128}", size_bytes=1, content=name)


@st.composite
def supplies(draw: st.DrawFn, owner: Owner) -> Supply | None:
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from(PHASES), st.from_regex("[a-z]{1,3}", fullmatch=True), st.integers(1, 4)),
            unique_by=lambda key: key[:2],
            max_size=8,
        )
    )
    scripts = tuple(script(owner, phase, name, rank) for phase, name, rank in keys)
    return draw(st.sampled_from([None, Supply(owner=owner, source="disk:hepix", scripts=scripts)]))


def situation(settings: Settings = DEFAULTS, **changes: object) -> Situation:
    return Situation(settings=settings).replace(**changes)


def both(site: Supply | None, user: Supply | None) -> dict[Owner, Supply | None]:
    return {"site": site, "user": user}


@given(site=supplies("site"), user=supplies("user"), late=st.sampled_from([(), ("user",), ("site",), ("user", "site")]))
def test_every_script_is_planned_once_in_the_phase_that_runs_it(
    site: Supply | None, user: Supply | None, late: tuple[Owner, ...]
) -> None:
    steps = make_plan(None, both(site, user), situation(late=late)).steps
    planned = [step.id for step in steps]
    assert sorted(planned) == sorted(each.id for supply in (site, user) if supply for each in supply.scripts)


@given(site=supplies("site"), user=supplies("user"), late=st.booleans(), phase=st.sampled_from(PHASES))
def test_user_comes_before_site_in_each_group_and_after_it_at_stop(
    site: Supply | None, user: Supply | None, *, late: bool, phase: Phase
) -> None:
    steps = make_plan(phase, both(site, user), situation(late=("user", "site") if late else ())).steps
    for group in {(step.late, step.phase) for step in steps}:
        owners_in_order = [step.owner for step in steps if (step.late, step.phase) == group]
        assert owners_in_order == sorted(owners_in_order, reverse=phase != "stop")
    lates = [step.late for step in steps]
    assert lates == sorted(lates, reverse=True)


@given(site=supplies("site"))
def test_within_an_owner_and_phase_the_rank_decides_and_then_the_order_supplied(site: Supply | None) -> None:
    steps = make_plan("post-network", both(site, None), situation()).steps
    ranked = [each for each in site.scripts if each.phase == "post-network"] if site else []
    assert [step.id for step in steps] == [each.id for each in sorted(ranked, key=lambda each: each.rank)]


@given(site=supplies("site"), user=supplies("user"))
def test_the_plan_of_all_phases_is_the_plans_of_each(site: Supply | None, user: Supply | None) -> None:
    whole = make_plan(None, both(site, user), situation()).steps
    assert whole == tuple(step for phase in PHASES for step in make_plan(phase, both(site, user), situation()).steps)


def test_files_and_keys_go_before_the_owners_first_script_of_the_boot() -> None:
    placed = PlacedFile(
        owner="site", target="/etc/motd", sha512="0" * 128, size_bytes=1, mode=0o644, content="files/etc/motd"
    )
    key = LoginKey(owner="site", account="", line="ssh-ed25519 AAAA site")
    site = Supply(
        owner="site", source="disk:hepix", scripts=(script("site", "pre-network", "a"),), files=(placed,), keys=(key,)
    )
    on_time = make_plan("pre-network", both(site, None), situation()).steps
    assert [step.kind for step in on_time] == ["file", "account", "script"]
    late = make_plan("post-network", both(site, None), situation(late=("site",))).steps
    assert [step.kind for step in late] == ["file", "account", "script"]
    assert not make_plan("pre-network", both(site, None), situation(late=("site",))).steps


def test_a_payload_for_another_program_is_placed_where_that_one_looks_for_it() -> None:
    places = ("/var/lib/amiconfig/2007-12-15/user-data", "part-001")
    kept = tuple(
        Kept(name=name, sha512="", size_bytes=1, content=f"context/kept-user/{name}", reason="") for name in places
    )
    user = Supply(owner="user", source="disk:nocloud", kept=kept)
    steps = make_plan("pre-network", both(None, user), situation()).steps
    assert [(step.kind, step.target, step.mode) for step in steps] == [("file", places[0], 0o600)]


def test_a_users_keys_go_to_the_users_account_whatever_account_they_ask_for() -> None:
    user = Supply(
        owner="user", source="disk:nocloud", keys=(LoginKey(owner="user", account="root", line="ssh-rsa AAAA u"),)
    )
    steps = make_plan("pre-network", both(None, user), situation()).steps
    assert [step.target for step in steps] == ["contextuser"]


def test_the_sites_settings_name_keys_for_root_and_for_accounts() -> None:
    site_settings = Layer(
        voice="site",
        values={
            "access.root_keys": Setting(value=("ssh-rsa AAAA r",)),
            "access.accounts": Setting(
                value=({"name": "ops", "keys": ("ssh-rsa AAAA o",)}, {"name": "admin", "sudo": True})
            ),
        },
    )
    settings = merge(Layer(voice="image"), site_settings)
    site = Supply(owner="site", source="disk:hepix", scripts=(script("site", "pre-network", "a"),))
    steps = make_plan("pre-network", both(site, None), situation(settings)).steps
    assert [(step.target, step.lines, step.argument) for step in steps if step.kind == "account"] == [
        ("root", ("ssh-rsa AAAA r",), "there"),
        ("ops", ("ssh-rsa AAAA o",), "make"),
        ("admin", (), "sudo"),
    ]


@pytest.mark.parametrize(
    ("outcome", "rerun", "expected"),
    [
        ("done", "", "once-done"),
        ("interrupted", "", "interrupted"),
        ("interrupted", "safe", None),
        ("running", "", "interrupted"),
    ],
)
def test_a_once_script_that_ended_or_was_interrupted_is_skipped_with_its_reason(
    outcome: str, rerun: str, expected: str | None
) -> None:
    one = script("user", "post-network", "a")
    image = Layer(voice="image", values={f"scripts.{one.id}.rerun": Setting(value=rerun)} if rerun else {})
    user = Supply(owner="user", source="disk:hepix", scripts=(one,))
    known = situation(merge(image), once={one.id: (one.sha512, outcome)})
    (step,) = make_plan("post-network", both(None, user), known).steps
    assert (step.frequency, step.skip) == ("once", expected if not rerun else None)


def test_a_once_script_with_another_digest_and_a_forced_one_run_again() -> None:
    one = script("user", "post-network", "a")
    user = Supply(owner="user", source="disk:hepix", scripts=(one,))
    changed = situation(once={one.id: ("another", "done")})
    forced = situation(once={one.id: (one.sha512, "done")}, is_forced=True)
    assert [make_plan("post-network", both(None, user), each).steps[0].skip for each in (changed, forced)] == [
        None,
        None,
    ]


def test_site_scripts_run_every_boot_and_stop_scripts_at_every_stop() -> None:
    one, end = script("site", "post-network", "a"), script("user", "stop", "z")
    known = situation(once={each.id: (each.sha512, "done") for each in (one, end)})
    given = both(
        Supply(owner="site", source="disk:hepix", scripts=(one,)),
        Supply(owner="user", source="disk:hepix", scripts=(end,)),
    )
    assert [(step.frequency, step.skip) for step in make_plan(None, given, known).steps] == [("every-boot", None)] * 2


def test_after_a_kill_what_was_begun_in_this_boot_is_not_begun_again() -> None:
    done, cut, fresh = (script("site", "pre-network", name) for name in "abc")
    site = Supply(owner="site", source="disk:hepix", scripts=(done, cut, fresh))
    steps = make_plan("pre-network", both(site, None), situation(begun={done.id: "done", cut.id: "interrupted"})).steps
    assert [step.skip for step in steps] == ["done", "interrupted", None]


def test_cloud_init_takes_user_data_only_and_a_full_strict_trace_all_of_the_users() -> None:
    native = script("user", "post-network", "n", rank=2)
    data = script("user", "post-network", "user-data", rank=4).replace(is_user_data=True)
    given = both(
        Supply(owner="site", source="disk:hepix", scripts=(script("site", "post-network", "s"),)),
        Supply(owner="user", source="disk:hepix", scripts=(native, data)),
    )
    cloud_init = make_plan("post-network", given, situation(is_cloud_init=True)).steps
    assert [step.skip for step in cloud_init] == [None, "cloud-init", None]
    withheld = make_plan("post-network", given, situation(is_user_withheld=True)).steps
    assert [step.skip for step in withheld] == ["trace-full", "trace-full", None]


def test_below_a_root_every_script_runs_as_the_caller() -> None:
    site = Supply(owner="site", source="disk:hepix", scripts=(script("site", "post-network", "s"),))
    assert make_plan("post-network", both(site, None), situation(is_caller=True)).steps[0].profile == "caller"
    assert make_plan("post-network", both(site, None), situation()).steps[0].profile == "root"


def test_a_script_keeps_the_limits_of_the_settings() -> None:
    one = script("site", "post-network", "s")
    image = Layer(voice="image", values={f"scripts.{one.id}.wall_s": Setting(value=5)})
    site = Supply(owner="site", source="disk:hepix", scripts=(one,))
    (step,) = make_plan("post-network", both(site, None), situation(merge(image))).steps
    assert step.limits is not None
    assert step.limits.wall_s == 5
    assert step.name == "s"


TOLD = (
    Target(
        daemon="rsyslog",
        files=(TargetFile(path="/etc/rsyslog.d/10-contextagent.conf", text="x"),),
        connect=(Endpoint(host="collector", port=6514, ca="/etc/pki/ca.pem"),),
    ),
    Target(daemon="auditd", files=(TargetFile(path="/etc/audit/rules.d/x", text="y"),)),
)


def log_steps(phase: Phase, supplied: dict[Owner, Supply | None], **changes: object) -> list[str]:
    asked = situation().replace(log_targets=TOLD, logs_wanted=("collector",), **changes)
    steps = make_plan(phase, supplied, asked).steps
    return [step.id.split("/", 2)[2] for step in steps]


def test_a_boot_that_asks_for_no_logging_has_no_step_for_it() -> None:
    assert not make_plan(None, both(None, None), situation()).steps


@pytest.mark.parametrize("phase", ["pre-network", "post-network"])
def test_logging_is_set_up_before_anybodys_scripts_and_compared_between_the_users_and_the_sites(phase: Phase) -> None:
    site = Supply(owner="site", source="disk:hepix", scripts=(script("site", phase, "site.sh"),))
    user = Supply(owner="user", source="disk:hepix", scripts=(script("user", phase, "user.sh"),))
    assert log_steps(phase, both(site, user)) == [
        "logging:rsyslog",
        "logging:auditd",
        "user.sh",
        "logging:rsyslog:again",
        "logging:auditd:again",
        "site.sh",
        "logging:delivered",
    ]
    assert log_steps(phase, both(site, None)) == ["logging:rsyslog", "logging:auditd", "site.sh", "logging:delivered"]


def test_late_scripts_of_the_user_are_followed_by_a_comparison_too_and_no_id_comes_twice() -> None:
    scripts = [(phase, f"{phase}.sh") for phase in PHASES[:2]]
    user = Supply(owner="user", source="x", scripts=tuple(script("user", phase, name) for phase, name in scripts))
    ids = log_steps("post-network", both(None, user), late=("user", "site"))
    assert ids == [
        "logging:rsyslog",
        "logging:auditd",
        "pre-network.sh",
        "logging:rsyslog:again-late",
        "logging:auditd:again-late",
        "post-network.sh",
        "logging:rsyslog:again",
        "logging:auditd:again",
        "logging:delivered",
    ]


def test_at_the_stop_logs_are_compared_and_sent_after_everybodys_scripts() -> None:
    site = Supply(owner="site", source="disk:hepix", scripts=(script("site", "stop", "stop.sh"),))
    user = Supply(owner="user", source="disk:hepix", scripts=(script("user", "stop", "stop.sh"),))
    assert log_steps("stop", both(site, user)) == [
        "stop.sh",
        "stop.sh",
        "logging:rsyslog:again",
        "logging:auditd:again",
        "logging:flush",
    ]


@pytest.mark.parametrize("late", [(), ("site",)])
def test_certificates_among_the_sites_files_are_placed_before_they_are_needed(late: tuple[Owner, ...]) -> None:
    files = tuple(
        PlacedFile(owner="site", target=target, sha512="", size_bytes=1, mode=0o644, content="x")
        for target in ("/etc/motd", "/etc/pki/ca.pem")
    )
    phase: Phase = "post-network" if late else "pre-network"
    ids = log_steps(phase, both(Supply(owner="site", source="x", files=files), None), late=late)
    assert ids == [
        "files/etc/pki/ca.pem",
        "logging:rsyslog",
        "logging:auditd",
        "files/etc/motd",
        "files/etc/pki/ca.pem",
        "logging:delivered",
    ]


def test_a_step_of_logging_is_told_by_the_digest_of_its_files() -> None:
    def digest(text: str) -> str:
        told = TOLD[0].replace(files=(TargetFile(path="/x", text=text),))
        return make_plan("pre-network", both(None, None), situation(log_targets=(told,))).steps[0].sha512

    assert digest("a") == digest("a") != digest("b")
    first = make_plan("pre-network", both(None, None), situation(log_targets=TOLD, is_caller=True)).steps[0]
    assert (first.kind, first.owner, first.profile, first.frequency) == ("reload", "site", "caller", "every-boot")
