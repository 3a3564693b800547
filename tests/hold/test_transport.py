"""N1 to N5: whatever a metadata service, a rogue or the network does, the verdict is right, and what was had is run."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.hold.transport import DIALECTS, clean_tree, wrong
from tests.hold.transport_faults import FAMILIES, drawn

if TYPE_CHECKING:
    from tests.hold.transport import Case

SEED = 20091109  # the working group's first slides; change it for another walk
TIMES = 68 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 1
AT_ONCE = 8
"""Most of a case is waiting for a deadline."""

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
    assert not [each for found in results for each in found]
    assert len(results) == count
