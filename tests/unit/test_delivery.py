"""No trace, no pilot: what is required of a trace, and what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contextagent.trace.delivery import is_trace_enough

if TYPE_CHECKING:
    from contextagent.trace.delivery import Delivered, Required

ENOUGH = {
    ("no", "none"): True,
    ("no", "no"): True,
    ("no", "configured"): True,
    ("no", "reachable"): True,
    ("configured", "none"): False,
    ("configured", "no"): False,
    ("configured", "configured"): True,
    ("configured", "reachable"): True,
    ("reachable", "none"): False,
    ("reachable", "no"): False,
    ("reachable", "configured"): False,
    ("reachable", "reachable"): True,
}


@pytest.mark.parametrize(("words", "is_enough"), ENOUGH.items(), ids=map("-".join, ENOUGH))
def test_a_pilot_needs_the_trace_to_go_at_least_as_far_as_is_required(
    words: tuple[Required, Delivered], *, is_enough: bool
) -> None:
    assert is_trace_enough(*words) is is_enough
