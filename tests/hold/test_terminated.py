"""C6: the agent is told to end (SIGTERM, as a shutdown does) at any moment; the next run puts everything right."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.hold import faults

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of its own need root"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

SEED = 20100208
TIMES = 50 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 12
TERMINATE = ["signal=SIGTERM:when={number}"]


def test_after_a_termination_anywhere_the_next_run_leaves_everything_right(tmp_path: Path) -> None:
    points = faults.answer(faults.run_batch({"record": True}, tmp_path / "record"))
    results = faults.campaign(faults.chosen(points, TERMINATE, TIMES, SEED), tmp_path)
    wrong = [
        f"{result['point']}: {result['violations']}\n{result['said']}" for result in results if result["violations"]
    ]
    assert not wrong, f"{len(wrong)} of {TIMES}\n" + "\n".join(wrong)
    assert sum(result["struck"] for result in results) >= TIMES * 9 // 10, (
        "too few were struck: the boot is not the same twice"
    )
