"""docs/reference/settings.md says what the schema says.

Where a test fails, the lines that it expected are the ones to put into the page.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from contextagent.policy.presets import PRESETS
from contextagent.policy.schema import PRESET_NAMES, ROWS, describe, find
from contextagent.policy.settings import shown

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def between(marker: str) -> list[str]:
    _, _, rest = PAGE.read_text().partition(f"<!-- {marker} -->\n")
    return rest.partition("<!-- end -->")[0].splitlines()[2:]


def key_lines() -> list[str]:
    lines = []
    for name, kind, default, who, is_supported, meaning in ROWS:
        voices = ", ".join(who.replace("<", "≤").replace(">", "≥").split())
        values = describe(kind).replace("|", "\\|")
        later = "" if is_supported else "later"
        lines.append(f"| `{name}` | {values} | `{shown(default)}` | {voices} | {later} | {meaning} |")
    return lines


def preset_lines() -> list[str]:
    return [
        f"| `{preset}` | {', '.join(f'`{name}: {shown(value)}`' for name, value in values.items()) or 'nothing'} |"
        for preset, values in PRESETS.items()
    ]


def test_the_reference_page_has_every_key_as_the_schema_has_it() -> None:
    assert between("keys") == key_lines()


def test_the_reference_page_has_every_preset_as_it_is() -> None:
    assert between("presets") == preset_lines()


def test_every_preset_that_can_be_chosen_exists() -> None:
    assert tuple(PRESETS) == PRESET_NAMES[1:]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_only_keys_that_there_are(preset: str) -> None:
    assert [name for name in PRESETS[preset] if find(name) is None] == []


def test_no_key_stands_twice_in_the_schema() -> None:
    names = [row[0] for row in ROWS]
    assert len(names) == len(set(names))
