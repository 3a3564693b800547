"""What a machine publishes, from what everybody said: whose word counts, which end binds, and that readers see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextagent.features.lifetime import End, Now
from contextagent.features.readers import check
from contextagent.features.texts import profiles
from contextagent.features.values import Facts, Standing, Voices, is_address, is_folder, sites_variables, standing
from contextagent.model import OWNERS, Supply
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import merge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contextagent.features.readers import Form, Reader
    from contextagent.model import Owner
    from contextagent.policy.settings import Settings

BOOT_EPOCH_S = 1_700_000_000
UP_S = 300.25
NOW_S = BOOT_EPOCH_S + UP_S
FACTS = Facts(
    cpus=4,
    memory_bytes=8_000_000_000,
    swap_bytes=0,
    uuid="4c4c4544-cafe",
    now=Now(utc_s=NOW_S, boot_s=UP_S),
    first_s=7.5,
    seen_s=7.5,
)
READERS: tuple[tuple[Reader, Form], ...] = (
    ("panda", "path"),
    ("dirac", "path"),
    ("dirac", "url"),
    ("dirac-pilot", "url"),
    ("glideinwms", "path"),
    ("glideinwms", "url"),
)
BY_FORM = {("dirac", "path"): ("form-not-read",)}
"""What a reader says of a form whatever the values are: DIRAC is given URLs."""


def said(**values: Any) -> Settings:
    """Return settings by an image's policy; `__` stands for a dot."""
    spoken = {name.replace("__", "."): Setting(value=value) for name, value in values.items()}
    return merge(Layer(voice="image", values=spoken))


def supplied(owner: Owner = "site", **fields: Any) -> dict[Owner, Supply | None]:
    other: Owner = "user" if owner == "site" else "site"
    return {owner: Supply(owner=owner, source="disk:hepix").replace(**fields), other: None}


def stand(
    supplies: Mapping[Owner, Supply | None] | None = None,
    facts: Facts = FACTS,
    policy: Settings | None = None,
    **more: Any,
) -> Standing:
    voices = Voices(settings=policy or said(), supplies=supplies or {}, **more)
    return standing(facts, voices)


def features(**values: str) -> dict[Owner, Supply | None]:
    return supplied(features={name.replace("__", "/"): text for name, text in values.items()})


def test_a_machine_of_which_nobody_says_anything_publishes_nothing() -> None:
    assert stand({"site": None, "user": None}) == Standing()
    assert not stand().values


@pytest.mark.parametrize(
    "values",
    [
        {"lifetime__max_s": 5},
        {"lifetime__shutdowntime": 5},
        {"features__machine__hs06": "10"},
        {"features__job__hs06_job": "10"},
        {"pilot__framework": "command"},
    ],
)
def test_a_policy_that_names_a_feature_a_lifetime_or_a_pilot_is_enough(values: dict[str, Any]) -> None:
    assert stand(policy=said(**values)).values["machine/total_cpu"] == "4"


@pytest.mark.parametrize(
    "more",
    [
        {"read": {"machine/hs06": "10"}},
        {"outputs": "http://192.0.2.1/out"},
        {"drain": End(by="drain", clock="boot", at_s=900.0)},
        {"notice": End(by="notice", clock="wall", at_s=NOW_S + 120)},
    ],
)
def test_a_word_from_outside_the_context_is_enough(more: dict[str, Any]) -> None:
    assert stand(**more).values


def test_a_context_without_a_word_on_features_has_what_the_machine_knows() -> None:
    found = stand(supplied())
    assert not found.is_said
    assert found.values == {
        "machine/total_cpu": "4",
        "machine/log_cores": "4",
        "machine/grace_secs": "600",
        "job/allocated_cpu": "4",
        "job/allocated_CPU": "4",
        "job/grace_secs_job": "600",
        "job/jobstart_secs": str(BOOT_EPOCH_S),
        "job/jobstart": str(BOOT_EPOCH_S),
        "job/job_id": "4c4c4544-cafe",
        "job/max_rss_bytes": "8000000000",
        "job/mem_limit": "8000",
        "job/mem_limit_MB": "8000",
        "job/max_swap_bytes": "0",
    }
    assert found.origins["machine/log_cores"] == "machine/total_cpu"
    assert (found.origins["machine/total_cpu"], found.origins["machine/grace_secs"]) == ("machine", "settings")
    assert (found.lifetime, found.outputs, found.is_outputs_given) == (None, "/etc/joboutputs", False)


def test_what_the_machine_does_not_know_is_left_out() -> None:
    found = stand(supplied(), FACTS.replace(uuid="", memory_bytes=0))
    assert not {"job/job_id", "job/max_rss_bytes", "job/max_swap_bytes"} & found.values.keys()


def test_the_nearest_voice_counts_also_where_it_says_it_in_an_older_word() -> None:
    user = Supply(owner="user", source="disk:hepix", features={"job/mem_limit_MB": "1", "job/hs06_job": "1"})
    supplies = features(job__mem_limit_MB="2", job__hs06_job="2") | {"user": user}
    read = {"job/max_rss_bytes": "3000000", "job/hs06_job": "3", "job/scratch_limit_bytes": "3"}
    found = stand(supplies, read=read, policy=said(features__job__hs06_job="4"))
    assert (found.values["job/max_rss_bytes"], found.values["job/mem_limit"]) == ("2000000", "2")
    assert (found.values["job/hs06_job"], found.values["job/scratch_limit_bytes"]) == ("4", "3")
    assert found.origins["job/max_rss_bytes"] == "job/mem_limit_MB"
    assert (found.origins["job/hs06_job"], found.origins["job/scratch_limit_bytes"]) == ("settings", "service")
    assert found.is_said


def test_one_older_word_is_said_to_come_from_the_present_one_that_it_means() -> None:
    found = stand(features(job__run_limit="10"))
    assert found.origins["job/wall_limit_secs"] == "job/run_limit"
    assert found.origins["job/wall_limit_secs_lrms"] == "job/run_limit"
    assert stand(features(job__wall_limit_secs="600")).origins["job/run_limit"] == "job/wall_limit_secs"


@pytest.mark.parametrize(
    "key",
    [
        *("job/jobstart_secs", "job/jobstart", "machine/grace_secs", "job/grace_secs_job"),
        *("machine/shutdown_command", "machine/syslog", "machine/anything"),
    ],
)
@pytest.mark.parametrize("is_read", [False, True])
def test_a_user_neither_moves_others_ends_nor_says_what_root_acts_on(key: str, is_read: bool) -> None:  # noqa: FBT001  # pytest gives it by name
    values = {key: "1"}
    found = stand(supplied(), read=values, is_read_sites=False) if is_read else stand(supplied("user", features=values))
    assert [problem.reason for problem in found.problems] == ["not-the-users"]
    assert found.values.get(key) != "1"


def test_a_users_own_word_on_its_job_is_published_and_may_end_the_machine_earlier() -> None:
    found = stand(supplied("user", features={"job/anything": "x", "machine/shutdowntime": str(int(NOW_S) + 50)}))
    assert found.values["job/anything"] == "x"
    assert found.lifetime
    assert (found.lifetime.remaining_s, found.lifetime.bound_by) == (49, "shutdowntime")


def test_the_site_and_its_service_may_name_what_is_run_at_the_end() -> None:
    assert stand(features(machine__shutdown_command="/x")).values["machine/shutdown_command"] == "/x"
    assert stand(supplied(), read={"machine/syslog": "log"}).values["machine/syslog"] == "log"


@pytest.mark.parametrize("key", ["machine/a/b", "machine/..", "machine/", "job/a b", "other/x", "x"])
def test_a_key_that_can_be_no_file_is_said_and_left_out(key: str) -> None:
    found = stand(supplied(features={key: "1"}))
    assert [problem.reason for problem in found.problems] == ["bad-feature"]
    assert key not in found.values


def test_a_value_that_its_key_cant_have_is_said_and_left_to_the_next_voice() -> None:
    found = stand(features(machine__total_cpu="many"), read={"machine/total_cpu": "2"})
    assert found.values["machine/total_cpu"] == "2"
    assert [problem.reason for problem in found.problems] == ["bad-feature"]


@pytest.mark.parametrize(
    ("text", "hours"), [("24", 24.0), (" 0.5 ", 0.5), ("87600", 87600.0), ("", None), ("0", None), ("-1", None)]
)
def test_a_time_to_live_is_hours_since_boot(text: str, hours: float | None) -> None:
    found = stand(supplied(variables={"TTL": text}))
    ends = [End(by="ttl", clock="boot", at_s=hours * 3600)] if hours else []
    assert list(found.ends) == ends
    assert bool(found.problems) == bool(text.strip() and not hours)


@pytest.mark.parametrize("text", ["1e3", "ten", "1.5.", "87601", "9" * 400, "1²", ".5"])
def test_a_time_to_live_that_is_no_number_of_hours_is_said_and_passed_over(text: str) -> None:
    found = stand(supplied(variables={"TTL": text}))
    assert not found.ends
    assert [problem.reason for problem in found.problems] == ["bad-feature"]


def test_a_wall_limit_is_counted_from_the_jobs_start_where_that_is_said_and_from_boot_where_not() -> None:
    alone = stand(features(job__run_limit="10"))
    assert alone.ends == (End(by="wall_limit", clock="boot", at_s=600.0),)
    both = stand(features(job__wall_limit_secs="600"), read={"job/jobstart": str(BOOT_EPOCH_S + 100)})
    assert both.ends == (End(by="wall_limit", clock="wall", at_s=BOOT_EPOCH_S + 700.0),)
    assert both.values["machine/shutdowntime"] == str(BOOT_EPOCH_S + 700)


def test_a_policys_lifetime_is_counted_from_the_first_boot_by_either_clock() -> None:
    policy = said(lifetime__max_s=7200)
    assert stand(policy=policy).ends == (End(by="policy", clock="boot", at_s=7207.5),)
    later = FACTS.replace(first_s=NOW_S - 5000, first_clock="wall")
    found = stand(policy=policy, facts=later)
    assert found.lifetime
    assert (found.lifetime.bound_by, found.lifetime.remaining_s) == ("policy", 2200)


def test_a_clock_that_was_set_back_makes_no_policys_lifetime_longer() -> None:
    ahead = FACTS.replace(first_s=NOW_S + 10**8, first_clock="wall")
    found = stand(policy=said(lifetime__max_s=7200), facts=ahead)
    assert found.lifetime
    assert found.lifetime.remaining_s <= 7200


def test_in_1970_an_announced_end_is_far_and_one_of_our_own_as_near_as_ever() -> None:
    young = FACTS.replace(now=Now(utc_s=310.25, boot_s=UP_S))
    announced = stand(features(machine__shutdowntime=str(BOOT_EPOCH_S)), young)
    assert announced.lifetime
    assert announced.lifetime.remaining_s > 10**9
    own = stand(supplied(variables={"TTL": "1"}), young)
    assert own.lifetime
    assert own.lifetime.remaining_s == 3299
    assert own.values["machine/shutdowntime"] == str(10 + 3600)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("http://192.0.2.1/out/", "http://192.0.2.1/out"),
        ("https://site.example/x%20y", "https://site.example/x%20y"),
        ("", ""),
        ("ftp://x/y", ""),
        ("http://x/'; rm -rf /", ""),
        ("https://me:secret@site.example/x", ""),
        ("https://site.example/x?y=1", ""),
        ("relative", ""),
        ("/", ""),
    ],
)
def test_job_outputs_go_where_an_address_is_named(given: str, place: str) -> None:
    user: dict[Owner, Supply | None] = {
        "user": Supply(owner="user", source="disk:hepix", variables={"JOBOUTPUTS": given})
    }
    site = supplied(variables={"JOBOUTPUTS": given})
    for found in (stand(site), stand(user), stand(supplied(), outputs=given)):
        assert (found.outputs, found.is_outputs_given) == (place or "/etc/joboutputs", bool(place))
        assert [problem.reason for problem in found.problems] == (["bad-feature"] if given and not place else [])


@pytest.mark.parametrize(
    ("given", "place"), [("/mnt/outputs/", "/mnt/outputs"), ("/a/../b", ""), ("/a//b", ""), ("/x y", "")]
)
def test_only_the_site_may_name_a_folder_for_job_outputs(given: str, place: str) -> None:
    # what a pilot leaves is put there with the rights of the folder's owner: of root, in /etc/cron.d
    user: dict[Owner, Supply | None] = {
        "user": Supply(owner="user", source="disk:hepix", variables={"JOBOUTPUTS": given})
    }
    for found in (stand(user), stand(supplied(), outputs=given)):
        assert (found.outputs, found.is_outputs_given) == ("/etc/joboutputs", False)
        assert [problem.reason for problem in found.problems] == ["bad-feature"]
    found = stand(supplied(variables={"JOBOUTPUTS": given}))
    assert (found.outputs, found.is_outputs_given) == (place or "/etc/joboutputs", bool(place))


def test_the_sites_job_outputs_go_before_the_users_and_both_before_the_metadatas() -> None:
    supplies = supplied(variables={"JOBOUTPUTS": "http://site"})
    supplies |= {"user": Supply(owner="user", source="disk:hepix", variables={"JOBOUTPUTS": "http://user"})}
    assert stand(supplies, outputs="http://meta").outputs == "http://site"
    assert stand({**supplies, "site": None}, outputs="http://meta").outputs == "http://user"


def test_what_is_no_address_and_no_folder_is_neither() -> None:
    assert is_address("http://x")
    assert not is_address("http://" + "x" * 2000)
    assert is_folder("/x")
    assert not any(map(is_folder, ("", "x", "/x y", "/./x", "/" + "x" * 2000)))


SOON = st.integers(1, 10**8)


def from_the_site(draw: st.DrawFn, ends: dict[str, float]) -> dict[str, str]:
    """Return features that the site says, adding to `ends` how far those are that they set."""
    site = {}
    for by, key in (("shutdowntime", "machine/shutdowntime"), ("shutdowntime_job", "job/shutdowntime_job")):
        if draw(st.booleans()):
            at_s = int(NOW_S) + 1 + draw(SOON)
            site[key], ends[by] = str(at_s), at_s - NOW_S
    if draw(st.booleans()):
        began, limit_s = draw(st.sampled_from((None, BOOT_EPOCH_S, BOOT_EPOCH_S + 100))), int(UP_S) + 1 + draw(SOON)
        site |= {"job/wall_limit_secs": str(limit_s)} | ({"job/jobstart_secs": str(began)} if began else {})
        ends["wall_limit"] = (began or BOOT_EPOCH_S) + limit_s - NOW_S
    return site | ({"job/cpu_limit_secs": str(draw(SOON))} if draw(st.booleans()) else {})


def chosen(draw: st.DrawFn, ends: dict[str, float]) -> dict[str, End]:
    """Return ends that somebody chose, adding to `ends` how far they are."""
    more = {}
    for by in ("notice", "drain"):
        if draw(st.booleans()):
            clock, ends[by] = draw(st.sampled_from(("wall", "boot"))), draw(SOON)
            more[by] = End(by=by, clock=clock, at_s=ends[by] + (NOW_S if clock == "wall" else UP_S))  # type: ignore[arg-type]  # words of the two lists
    return more


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Standing, dict[str, float]]:
    """Return what is published for any combination of ends, each in the future, and how far each is."""
    ends: dict[str, float] = {}
    site, variables, policy = from_the_site(draw, ends), {}, {}
    if draw(st.booleans()):
        hours = draw(st.integers(1, 80_000))
        variables["TTL"], ends["ttl"] = str(hours), hours * 3600 - UP_S
    if draw(st.booleans()):
        policy["lifetime__max_s"] = int(UP_S) + draw(SOON)
        ends["policy"] = FACTS.first_s + policy["lifetime__max_s"] - UP_S
    more: dict[str, Any] = dict(chosen(draw, ends))
    return stand(supplied(features=site, variables=variables), policy=said(**policy), **more), ends


@settings(max_examples=400)
@given(worlds())
def test_of_all_ends_the_first_is_named_and_stands_where_every_reader_looks(
    world: tuple[Standing, dict[str, float]],
) -> None:
    found, ends = world
    if not ends:
        assert found.lifetime is None
        assert "machine/shutdowntime" not in found.values
        return
    first = min(ends.values())
    assert found.lifetime
    assert abs(ends[found.lifetime.bound_by] - first) < 1e-3
    assert found.lifetime.remaining_s == int(round(first, 3))
    shutdown = found.values["machine/shutdowntime"]
    assert shutdown == found.values["job/shutdowntime_job"] == str(found.lifetime.shutdown_epoch_s)
    limit = int(found.values["job/jobstart_secs"]) + int(found.values["job/wall_limit_secs"])
    assert int(shutdown) <= limit
    assert int(found.values["job/cpu_limit_secs"]) > 0
    if int(shutdown) > int(NOW_S):  # a reader that starts in the very last second has no time left to read anything
        for reader, form in READERS:
            told = [each.reason for each in check(reader, form, found.values, NOW_S)]
            assert set(told) <= set(BY_FORM.get((reader, form), ()))


def test_login_shells_are_told_in_both_families_and_csh_keeps_its_history_out() -> None:
    told = profiles("http://192.0.2.1/a!b")
    assert "JOBOUTPUTS='http://192.0.2.1/a!b'\nexport JOBOUTPUTS\n" in told["/etc/profile.d/mjf.sh"]
    assert "setenv JOBOUTPUTS 'http://192.0.2.1/a\\!b'\n" in told["/etc/profile.d/mjf.csh"]


def test_what_the_sites_scripts_see_of_a_users_disk_is_no_word_of_the_sites() -> None:
    variables = {"JOBOUTPUTS": "/etc/cron.d", "MACHINEFEATURES": "/root"}
    user, site = (Supply(owner=owner, source="disk:opennebula", variables=variables) for owner in OWNERS)
    supplies: dict[Owner, Supply | None] = {"user": user, "site": site}
    assert sites_variables(supplies) == {}
    assert stand(supplies).outputs == "/etc/joboutputs"
    assert sites_variables({**supplies, "user": None}) == variables
    assert sites_variables({}) == {}
