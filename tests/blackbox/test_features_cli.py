"""The verbs about machine and job features: what they say, and what they end with."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from contextagent.features.vocabulary import FEATURES, published
from tests.serving import Serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

FOLDERS = {"machine": "machinefeatures", "job": "jobfeatures"}


def good() -> dict[str, str]:
    """Return features that every reader reads rightly in its own form, by file below `/etc`."""
    now = int(time.time())
    said = {key: "3600" for key, kind in FEATURES.items() if kind in ("count", "seconds", "bytes", "number")}
    ends = {"machine/shutdowntime": str(now + 2600), "job/shutdowntime_job": str(now + 2600)}
    values, _ = published({**said, **ends, "job/jobstart_secs": str(now - 1000), "job/job_id": "4c4c4544-cafe"})
    return {f"{FOLDERS[key.partition('/')[0]]}/{key.partition('/')[2]}": text for key, text in values.items()}


def lay(folder: Path, values: dict[str, str]) -> Path:
    for name, text in values.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize("reader", ["panda", "glideinwms"])
def test_a_reader_of_folders_has_nothing_to_say_of_good_features(machine: Machine, reader: str) -> None:
    lay(machine.root / "etc", good())
    done = machine.run("features", "check", "--as", reader)
    assert (done.code, done.err) == (0, "")
    facts = machine.facts("features", "check", "--as", reader)
    assert (facts["reader"], facts["form"], facts["problems"]) == (reader, "path", [])


@pytest.mark.parametrize("reader", ["dirac", "dirac-pilot"])
def test_a_reader_of_urls_is_asked_about_what_is_served(machine: Machine, tmp_path: Path, reader: str) -> None:
    with Serving(lay(tmp_path / "served", good())) as service:
        machine.put("etc/contextagent/policy.yaml", f"watch: {{http: '127.0.0.1:{service.port}'}}")
        done = machine.run("features", "check", "--as", reader)
        assert (done.code, done.err) == (0, "")
        (tmp_path / "served/jobfeatures/allocated_cpu").unlink()
        done = machine.run("features", "check", "--as", reader)
        assert done.code == 1
        assert "'job/allocated_cpu': it is missing" in done.out


def test_a_form_that_a_reader_can_not_read_is_a_problem(machine: Machine) -> None:
    lay(machine.root / "etc", good())
    done = machine.run("features", "check", "--as", "dirac-pilot", "--form", "path")
    assert (done.code, done.err) == (1, "")
    assert "1 CPU without a word" in done.out


def test_a_mistake_is_named_with_reader_key_and_value(machine: Machine) -> None:
    lay(machine.root / "etc", {**good(), "machinefeatures/shutdowntime": "tomorrow"})
    done = machine.run("features", "check", "--as", "panda")
    assert done.code == 1
    assert "'machine/shutdowntime'" in done.out
    assert "tomorrow" in done.out
    (problem, *_) = machine.facts("features", "check", "--as", "panda")["problems"]
    assert problem["reason"] == "feature-misread"


@pytest.mark.parametrize("words", [["show"], ["check", "--as", "panda"], ["check", "--as", "dirac"]])
def test_where_nothing_is_published_the_answer_is_not_known(machine: Machine, words: list[str]) -> None:
    machine.put("etc/contextagent/policy.yaml", "watch: {http: '127.0.0.1:1'}")
    done = machine.run("features", *words)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("contextagent: cannot ")


def test_where_nothing_is_served_by_policy_a_url_can_not_be_checked(machine: Machine) -> None:
    machine.put("etc/contextagent/policy.yaml", "watch: {http: off}")
    lay(machine.root / "etc", good())
    done = machine.run("features", "check", "--as", "dirac")
    assert done.code == 3
    assert "watch.http" in done.err


@pytest.mark.parametrize(
    "words", [["check"], ["check", "--as", "slurm"], ["check", "--as", "panda", "--form", "x"], []]
)
def test_words_that_name_no_reader_or_form_are_a_mistake(machine: Machine, words: list[str]) -> None:
    assert machine.run("features", *words).code == 64


def test_a_service_that_never_ends_its_answer_does_not_hold_the_check(machine: Machine, tmp_path: Path) -> None:
    with Serving(lay(tmp_path / "served", good()), "--fault", "drip") as service:
        machine.put("etc/contextagent/policy.yaml", f"watch: {{http: '127.0.0.1:{service.port}'}}")
        done = machine.run("features", "check", "--as", "dirac")
    assert done.code == 65
    assert "cannot read 'http://127.0.0.1:" in done.err
