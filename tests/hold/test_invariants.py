"""The judge of the fault tests is not blind: each damage, done by hand to a healthy machine, is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hold.arena import REFUSED_MARK, Arena
from tests.hold.invariants import violations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def trace(arena: Arena) -> Path:
    return next((arena.root / "var/log/contextagent").glob("trace-*.jsonl"))


def effect(arena: Arena, *lines: str) -> None:
    with arena.effects.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


DAMAGES: dict[str, tuple[str, Callable[[Arena], object]]] = {
    "a record is lost": (
        "I1",
        lambda arena: trace(arena).write_bytes(trace(arena).read_bytes()[:-400].rpartition(b"\n")[0]),
    ),
    "a record is changed": (
        "I1",
        lambda arena: trace(arena).write_text(trace(arena).read_text().replace("found", "FOUND", 1)),
    ),
    "a script ran twice": ("I2", lambda arena: effect(arena, "begin user/post-network/epilog.sh")),
    "a refused payload ran": ("I3", lambda arena: effect(arena, REFUSED_MARK)),
    "the user came last": ("I4", lambda arena: effect(arena, "begin user/pre-network/prolog.sh")),
    "a file was put elsewhere": ("I5", lambda arena: arena.put("etc/shadow", "")),
    "a temporary file is left": ("I6", lambda arena: arena.put("var/lib/contextagent/.new-0", "")),
    "the result is another": (
        "I7",
        lambda arena: arena.put(
            "run/contextagent/status.json", arena.text("run/contextagent/status.json").replace('"ok"', '"failed"', 1)
        ),
    ),
}


@pytest.mark.parametrize(("invariant", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_machine_is_told_from_a_healthy_one(
    tmp_path: Path, invariant: str, damage: Callable[[Arena], object]
) -> None:
    arena = Arena(tmp_path)
    arena.both_owners()
    said = arena.boot().output
    clean, durable = arena.tree(), arena.traces()
    assert violations(arena, durable=durable, said=said, clean=clean, clean_result="ok") == []
    damage(arena)
    found = violations(arena, durable=durable, said=said, clean=clean, clean_result="ok")
    assert any(each.startswith(invariant) for each in found), found
