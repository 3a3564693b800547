"""C4, C5: the power of a real machine is cut at seeded moments, also while it recovers; nothing durable may be lost.

The negative control is the same machine, cut at the same moments, whose agent's flushes do nothing: it must lose.
"""

from __future__ import annotations

import os
import random
import sys
from typing import TYPE_CHECKING

import pytest

from tests.vm.power import Clean, PoweredMachine, burn_context, moment, powered

if TYPE_CHECKING:
    from pathlib import Path

SEED = 20100414
IS_CAMPAIGN = bool(os.environ.get("CONTEXTAGENT_CAMPAIGN"))
CUTS, CUTS_IN_RECOVERY, CONTROLS = (200, 60, 20) if IS_CAMPAIGN else (6, 2, 2)

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with scripts of both owners, some of which may run once only."""
    return burn_context(tmp_path_factory.mktemp("context"))


@pytest.fixture(scope="module")
def clean(iso: Path, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """What is right: a machine that never lost its power."""
    return powered(tmp_path_factory.mktemp("powered"), iso)


@pytest.mark.parametrize(("times", "cuts"), [(CUTS, 1), (CUTS_IN_RECOVERY, 2)], ids=["C4", "C5, also in the recovery"])
def test_nothing_durable_is_lost_and_the_next_boot_puts_all_right(
    iso: Path, clean: Clean, tmp_path: Path, times: int, cuts: int
) -> None:
    draw = random.Random(SEED + cuts)
    wrong = []
    for number in range(times):
        machine = PoweredMachine(tmp_path / str(number), iso)
        moments = [moment(draw) for _ in range(cuts)]
        for each in moments:
            machine.cut(each, clean)
        found = machine.violations(machine.boot(), clean)
        wrong += [f"{number}, cut at {moments}: {found}"] if found else []
        (tmp_path / str(number) / "root.ext4").unlink()
    assert not wrong, f"{len(wrong)} of {times}\n" + "\n".join(wrong)


def test_a_machine_whose_flushes_do_nothing_is_found_out(iso: Path, clean: Clean, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    lost, wrong = [], []
    for number in range(CONTROLS):
        machine = PoweredMachine(tmp_path / str(number), iso, is_control=True)
        machine.cut(moment(draw, "POWER .* done", "trace: anchor"), clean)
        lost.append(len(machine.lost))
        if number % 10 == 0:
            wrong = machine.violations(machine.boot(), clean)
        (tmp_path / str(number) / "root.ext4").unlink()
    sys.stdout.write(f"the control lost known records in {sum(map(bool, lost))} of {CONTROLS} cuts: {lost}; {wrong}\n")
    assert any(lost), "without a machine that loses, one that does not proves nothing"
