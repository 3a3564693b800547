"""What `check` says of features, for each reader; docs/reference/features.md says what the vocabulary says.

Where a test of the page fails, the lines that it expected are the ones to put into the page.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from contextagent.features.readers import FORMS, READERS, USES, check
from contextagent.features.vocabulary import FEATURES, OLDER, OLDER_ALONE, kind_of, published

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "features.md"
NOW = 1_800_000_000
GOOD, _ = published(
    {
        **{key: "3600" for key, kind in FEATURES.items() if kind in ("count", "seconds", "bytes", "number")},
        "machine/shutdowntime": str(NOW + 2600),
        "job/shutdowntime_job": str(NOW + 2600),
        "job/jobstart_secs": str(NOW - 1000),
        "job/job_id": "4c4c4544-0000-4000-8000-00000000cafe",
    }
)
READ = [("panda", "path"), ("dirac", "url"), ("dirac-pilot", "url"), ("glideinwms", "path"), ("glideinwms", "url")]
KEYS = [(reader, form, use.key) for reader, form in READ for use in USES[reader, form] if use.parse != "nothing"]  # type: ignore[index]  # words of two lists


def between(marker: str) -> list[str]:
    _, _, rest = PAGE.read_text().partition(f"<!-- {marker} -->\n")
    return rest.partition("<!-- end -->")[0].splitlines()[2:]


@pytest.mark.parametrize(("reader", "form"), READ)
def test_a_reader_in_its_own_form_has_nothing_to_say_of_good_features(reader: str, form: str) -> None:
    assert check(reader, form, GOOD, NOW) == ()  # type: ignore[arg-type]  # words of two lists


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_one_form_at_least_in_part(reader: str) -> None:
    assert any(USES[reader, form] for form in FORMS)  # type: ignore[index]  # words of two lists


@pytest.mark.parametrize(("reader", "form"), [("panda", "url"), ("dirac", "path"), ("dirac-pilot", "path")])
def test_a_form_that_a_reader_can_not_read_is_said_even_of_good_features(reader: str, form: str) -> None:
    problems = check(reader, form, GOOD, NOW)  # type: ignore[arg-type]  # words of two lists
    assert {problem.reason for problem in problems} == {"form-not-read"}


@pytest.mark.parametrize(("reader", "form", "key"), sorted(set(KEYS)))
def test_a_mistake_in_any_key_that_a_reader_reads_is_found_and_named(reader: str, form: str, key: str) -> None:
    text = 'a "b"' if kind_of(key) == "text" and reader == "glideinwms" else "\x01"
    problems = check(reader, form, {**GOOD, key: text}, NOW)  # type: ignore[arg-type]  # words of two lists
    assert any(problem.reason == "feature-misread" and f"'{key}'" in problem.message for problem in problems)


@pytest.mark.parametrize("text", ["123", "12-34", "1.5", "a  b", "a*", "a\\b", 'a"b'])
def test_a_text_that_a_shell_changes_is_found(text: str) -> None:
    problems = check("glideinwms", "path", {**GOOD, "job/job_id": text}, NOW)
    assert [problem.reason for problem in problems] == ["feature-misread"]


@pytest.mark.parametrize("text", ["12-34-56", "a-1", "1a", "12 34 56", " a "])
def test_a_text_that_a_shell_leaves_alone_is_right(text: str) -> None:
    assert check("glideinwms", "path", {**GOOD, "job/job_id": text}, NOW) == ()


def test_an_end_that_a_reader_does_not_look_at_is_said_where_it_comes_first() -> None:
    values = {**GOOD, "job/wall_limit_secs": "1800"}
    for reader, form, part in (("panda", "path", "monitor.py"), ("dirac", "url", "MJF.py")):
        problems = check(reader, form, values, NOW)  # type: ignore[arg-type]  # words of two lists
        assert any(problem.reason == "end-not-seen" and f"'{part}'" in problem.message for problem in problems)
    assert any("check_wn_drainstate" in problem.message for problem in check("glideinwms", "url", values, NOW))


def test_the_reference_page_has_every_present_name_as_the_vocabulary_has_it() -> None:
    assert between("present") == [f"| `{key}` | {kind} |" for key, kind in FEATURES.items()]


def test_the_reference_page_has_every_conversion_as_the_vocabulary_has_it() -> None:
    units = {"count": "", "seconds": " s", "epoch": " s", "bytes": " bytes"}
    assert between("older") == [
        f"| `{older}` | `{key}` | {factor}{units[kind_of(key)]} |" for older, (key, factor) in OLDER.items()
    ]


def test_the_reference_page_has_every_older_name_that_stands_alone() -> None:
    assert between("alone") == [f"| `{key}` | {kind} |" for key, kind in OLDER_ALONE.items()]
