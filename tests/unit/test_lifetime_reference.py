"""The page on a machine's end says what the code does."""

from __future__ import annotations

import re

from contextagent.features.lifetime import BOUNDS
from contextagent.host import poweroff
from contextagent.policy.schema import find
from contextagent.runner import ending, wishes
from contextagent.watch import requests
from tests.machine import REPOSITORY

PAGE = (REPOSITORY / "docs/reference/lifetime.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_end_has_its_row_in_the_order_in_which_they_count() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section("The ends"), re.MULTILINE)
    assert tuple(rows[1:]) == BOUNDS, "behind the heading"


def test_the_codes_that_are_roots_are_said_to_be() -> None:
    rows = re.findall(r"^\| (\d00) \|.*\| (.*) \|$", section("Codes"), re.MULTILINE)
    assert [code for code, who in rows if "root" in who] == [
        str(code) for code in range(100, 1000, 100) if ending.is_ours(code)
    ]
    assert f"at most {wishes._MAX_TEXT} characters" in PAGE
    assert f"from {ending.CODES[0]} to {ending.CODES[-1]}" in PAGE


def test_the_times_are_those_of_the_code() -> None:
    steps = section("What happens at the end")
    assert f"within {ending.OUTPUTS_S:g} s" in steps
    assert f"within {ending.MESSAGE_S:g} s" in steps
    assert f"at most {poweroff.COMMAND_S:g} s" in steps
    assert requests._RETRY_S == 60
    assert requests._MOST_TRIES == 5
    assert "every minute, five times in all" in steps
    assert requests._PILOT_SHARE == 0.75
    assert "¾ `stop_budget_s`" in PAGE


def test_requests_are_as_the_page_says() -> None:
    said = section("Requests")
    assert f"({wishes.MODE:04o}," in said
    assert f"at most {wishes.MAX_BYTES} bytes" in said


def test_the_word_that_is_remembered_has_the_keys_of_the_page() -> None:
    row = next(line for line in section("Files").splitlines() if ending.WORD in line)
    assert set(ending.Word._fields) | {"schema"} <= set(re.findall(r"`(\w+)`", row))


def test_init_waits_as_long_for_the_stop_phase_as_the_page_says() -> None:
    unit = (REPOSITORY / "init/systemd/contextagent.service").read_text()
    (wait_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert f"gives the stop phase {wait_s} s (`TimeoutStopSec`)" in PAGE
    for name in ("pilot.stop.timeout_s", "stop_budget_s"):
        setting = find(name)
        assert setting is not None
        assert f"`{name}` ({setting.default})" in PAGE
