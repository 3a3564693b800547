"""Features in two vocabularies, and the end that comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.features.lifetime import BOUNDS, End, Now, chosen_end, lifetime
from contextagent.features.vocabulary import FEATURES, OLDER, OLDER_ALONE, published, value_problem
from contextagent.payloads.names import is_feature_key

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

WHOLE = st.integers(1, 10**11)
MOMENTS = st.builds(Now, utc_s=st.integers(0, 4 * 10**9), boot_s=st.integers(0, 10**7))


def ends(now: Now) -> SearchStrategy[list[End]]:
    """Return lists of ends, each at most ten years before or after `now`."""
    left = st.integers(-(10**8), 3 * 10**8)

    def at(by: str, clock: str, left_s: int) -> End:
        return End(by=by, clock=clock, at_s=left_s + (now.utc_s if clock == "wall" else now.boot_s))  # type: ignore[arg-type]  # words of the two lists

    return st.lists(st.builds(at, st.sampled_from(BOUNDS), st.sampled_from(("wall", "boot")), left), min_size=1)


def test_every_name_can_be_a_file_below_its_folder() -> None:
    for key in (*FEATURES, *OLDER, *OLDER_ALONE):
        folder, _, name = key.partition("/")
        assert folder in ("machine", "job")
        assert is_feature_key(name)


@given(st.sampled_from(sorted(OLDER)), WHOLE)
def test_an_older_name_alone_says_the_present_one_too(older: str, value: int) -> None:
    key, factor = OLDER[older]
    values, problems = published({older: str(value)})
    assert not problems
    assert values[older] == str(value)
    assert values[key] == str(value * factor)


@given(st.dictionaries(st.sampled_from(sorted(key for key, _ in OLDER.values())), WHOLE.map(str)))
def test_no_older_name_ever_promises_more_than_the_present_one(said: dict[str, str]) -> None:
    values, problems = published(said)
    assert not problems
    for older, (key, factor) in OLDER.items():
        assert (older in values) == (key in values)
        if older in values:
            assert 0 <= int(values[key]) - int(values[older]) * factor < factor


@given(st.dictionaries(st.sampled_from(sorted([*FEATURES, *OLDER, *OLDER_ALONE])), st.text(max_size=20)))
def test_what_is_published_can_be_published_again_unchanged(said: dict[str, str]) -> None:
    values, _ = published(said)
    assert published(values) == (values, ())
    assert all(value_problem(key, text) == "" for key, text in values.items())


def test_minutes_of_the_2012_drafts_are_seconds_of_the_present() -> None:
    values, _ = published({"job/run_limit": "1440", "job/cpu_limit": "2880", "job/mem_limit": "2048"})
    assert values["job/wall_limit_secs"] == "86400"
    assert values["job/cpu_limit_secs"] == "172800"
    assert values["job/max_rss_bytes"] == "2048000000"


def test_the_present_name_counts_where_an_older_one_contradicts_it_and_the_contradiction_is_said() -> None:
    values, problems = published({"job/wall_limit_secs": "3659", "job/run_limit": "61"})
    assert values["job/run_limit"] == "60"
    assert [problem.reason for problem in problems] == ["contradiction"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("machine/total_cpu", "0"),
        ("machine/total_cpu", "4 "),
        ("machine/total_cpu", "٤"),
        ("machine/shutdowntime", "-1"),
        ("machine/shutdowntime", "253402300800"),
        ("machine/hs06", "1e3"),
        ("machine/hs06", "nan"),
        ("job/wall_limit_secs", "1.5"),
        ("job/job_id", ""),
        ("job/job_id", "a\nb"),
        ("machine/syslog", "x" * 1025),
    ],
)
def test_a_value_that_its_key_cannot_have_is_left_out_and_named(key: str, text: str) -> None:
    values, problems = published({key: text})
    assert values == {}
    assert [problem.reason for problem in problems] == ["bad-feature"]
    assert key in problems[0].message


@given(st.data(), MOMENTS)
def test_the_end_that_comes_first_binds(data: st.DataObject, now: Now) -> None:
    all_ends = data.draw(ends(now))
    found = lifetime(all_ends, now)
    assert found
    least_s = min(end.left_s(now) for end in all_ends)
    assert found.remaining_s == max(least_s, 0)
    tied = [end.by for end in all_ends if end.left_s(now) == least_s]
    assert found.bound_by == min(tied, key=BOUNDS.index)
    assert lifetime(reversed(all_ends), now) == found


@given(MOMENTS, st.integers(-(10**9), 10**9), st.integers(1, 10**8))
def test_a_step_of_the_wall_clock_does_not_move_an_end_of_our_own(now: Now, step_s: int, left_s: int) -> None:
    end = End(by="ttl", clock="boot", at_s=now.boot_s + left_s)
    before, after = lifetime([end], now), lifetime([end], now.replace(utc_s=now.utc_s + step_s))
    assert before
    assert after
    assert before.remaining_s == after.remaining_s == left_s
    assert after.shutdown_epoch_s == max(now.utc_s + step_s + left_s, 0)


@given(MOMENTS, st.integers(0, 10**6), st.integers(0, 10**6))
def test_an_end_that_the_agent_chooses_gives_at_least_the_grace(now: Now, wished_s: int, grace_s: int) -> None:
    end = chosen_end("drain", wished_s, grace_s, now)
    assert end.left_s(now) == max(wished_s, grace_s)


def test_without_an_end_nothing_is_known() -> None:
    assert lifetime([], Now(utc_s=0, boot_s=0)) is None
