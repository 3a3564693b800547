"""C1, C2, C3: kills and errors at state-changing system calls of a boot; the next run puts everything right."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.hold import faults

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of its own need root"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

SEED = 20091109  # the working group's first slides; change it for another walk
KILL = ["signal=SIGKILL:when={number}"]
ONE_SHOT = [f"error={name}:when={{number}}" for name in faults.ERRORS]
STICKY = [
    f"error={name}:when={{number}}+" for name in faults.ERRORS if name != "EINTR"
]  # for ever EINTR is no real fault


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[Any]]]:
    """Every state-changing system call of each scenario's boot."""
    return faults.answer(faults.run_batch({"record": True}, tmp_path_factory.mktemp("record") / "work"))


LOGGING = "logging"
"""The scenario of a site that wants its logs sent; it has a share of its own."""


@pytest.mark.parametrize(
    ("fault", "count"), [(KILL, 150), (ONE_SHOT, 150), (STICKY, 60)], ids=["killed", "one error", "errors for ever"]
)
def test_after_a_fault_anywhere_the_next_run_leaves_everything_right(
    points: dict[str, list[list[Any]]], tmp_path: Path, fault: list[str], count: int
) -> None:
    hold({name: found for name, found in points.items() if name != LOGGING}, tmp_path, fault, count)


@pytest.mark.parametrize(
    ("fault", "count"), [(KILL, 40), (ONE_SHOT, 40), (STICKY, 20)], ids=["killed", "one error", "errors for ever"]
)
def test_after_a_fault_in_a_boot_that_sets_logging_up_the_next_run_leaves_everything_right(
    points: dict[str, list[list[Any]]], tmp_path: Path, fault: list[str], count: int
) -> None:
    hold({LOGGING: points[LOGGING]}, tmp_path, fault, count)


def hold(points: dict[str, list[list[Any]]], tmp_path: Path, fault: list[str], count: int) -> None:
    """Let faults strike at some of these points, and check what is left after the next run."""
    results = faults.campaign(faults.chosen(points, fault, count, SEED), tmp_path)
    wrong = [
        f"{result['point']}: {result['violations']}\n{result['said']}" for result in results if result["violations"]
    ]
    assert not wrong, f"{len(wrong)} of {count}\n" + "\n".join(wrong[:20])
    assert sum(result["struck"] for result in results) >= count * 9 // 10, (
        "too few faults struck: the boot is not the same twice"
    )
