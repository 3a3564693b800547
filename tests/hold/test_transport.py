"""N1 to N5: whatever a metadata service, a rogue or the network does, the verdict is right, and what was had is run."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.hold import transport_networks
from tests.hold.transport import DIALECTS, clean_tree, wrong
from tests.hold.transport_faults import FAMILIES, drawn, well_packed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hold.transport import Case

SEED = 20091109  # the working group's first slides; change it for another walk
TIMES = 68 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 1
AT_ONCE = 4
"""Most of a case is waiting for a deadline."""

NETWORKS = 18
SUBMISSION = 146

Trees = dict[tuple[str, bool], dict[str, str]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Return what a machine without faults looks like in the end, by dialect and whether it booted well before."""
    folder = tmp_path_factory.mktemp("clean")
    keys = [(dialect, is_warm) for dialect in DIALECTS for is_warm in (False, True)]
    return {key: clean_tree(folder / f"{key[0]}-{key[1]}", key[0], is_warm=key[1]) for key in keys}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_fault_of_the_service_gets_its_verdict_and_costs_nobody_else_anything(
    family: str, clean: Trees, tmp_path_factory: pytest.TempPathFactory
) -> None:
    count = FAMILIES[family][0] * TIMES
    folder = tmp_path_factory.mktemp(family)

    def checked(case: Case) -> list[str]:
        found = wrong(case, folder / case.name, clean[case.dialect, case.is_warm])
        return [f"{case.name} ({case.fault.name}, {case.target}, {case.dialect}, named: {case.is_named}, "
                f"warm: {case.is_warm}): {each}" for each in found]  # fmt: skip

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(checked, drawn(family, count, random.Random(f"{SEED}{family}"))))
    failures = [each for found in results for each in found]
    assert not failures, "\n".join(failures)
    assert len(results) == count


def test_each_network_gets_its_verdict_and_the_next_boot_is_as_any_other(
    clean: Trees, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("N4")
    scenes = transport_networks.drawn(NETWORKS * TIMES, random.Random(f"{SEED}N4"))

    def checked(number: int) -> list[str]:
        found = transport_networks.wrong(scenes[number], folder / str(number), clean["ec2", False])
        return [f"N4-{number} ({scenes[number].name}): {each}" for each in found]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = [each for found in pool.map(checked, range(len(scenes))) for each in found]
    assert not failures, "\n".join(failures)


def test_the_cases_of_a_submission_are_as_many_as_promised() -> None:
    assert NETWORKS + sum(count for count, _ in FAMILIES.values()) == SUBMISSION


def test_the_checks_see_a_boot_that_went_otherwise(clean: Trees, tmp_path: Path) -> None:
    """A case that expects a refusal of what is sound, and a clean tree that is another's: both must be told."""
    case = drawn("N3", 1, random.Random(SEED))[0]
    case = case._replace(
        target="bundle", is_warm=False, fault=well_packed(random.Random(SEED))._replace(verdict="broken")
    )
    found = wrong(case, tmp_path, {**clean[case.dialect, False], "etc/more": "100644"})
    assert [each for each in found if each.startswith("site: found")]
    assert [each for each in found if each.startswith("site/post-network/epilog.sh ran")]
    assert "I7: missing: etc/more" in found
