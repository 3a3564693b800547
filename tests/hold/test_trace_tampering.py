"""A thousand random changes to lines that have a successor: every one is found, and an untouched trace is intact."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from tests.traces import RSYSLOG, trace, verified

if TYPE_CHECKING:
    from collections.abc import Callable

CHANGES = 1000
SEED = 20_121_015


def flip_a_bit(lines: list[bytes], at: int, chance: random.Random) -> None:
    line = bytearray(lines[at])
    line[chance.randrange(len(line) - 1)] ^= 1 << chance.randrange(8)
    lines[at] = bytes(line)


def edit_a_field(lines: list[bytes], at: int, chance: random.Random) -> None:
    record = json.loads(lines[at])
    key = chance.choice(list(record))
    record[key] = chance.choice(
        [value for value in (0, 7, "x", None, "2020-01-01T00:00:00.000Z") if value != record[key]]
    )
    lines[at] = json.dumps(record, separators=(",", ":")).encode() + b"\n"


def drop_a_field(lines: list[bytes], at: int, chance: random.Random) -> None:
    record = json.loads(lines[at])
    del record[chance.choice(list(record))]
    lines[at] = json.dumps(record, separators=(",", ":")).encode() + b"\n"


def delete(lines: list[bytes], at: int, _chance: random.Random) -> None:
    del lines[at]


def swap(lines: list[bytes], at: int, chance: random.Random) -> None:
    other = chance.choice([place for place in range(len(lines) - 1) if place != at])
    lines[at], lines[other] = lines[other], lines[at]


def insert(lines: list[bytes], at: int, chance: random.Random) -> None:
    record = json.loads(lines[at])
    record[chance.choice(["id", "uid", "exit", "utc"])] = "forged"
    lines.insert(at + chance.randrange(2), json.dumps(record, separators=(",", ":")).encode() + b"\n")


def forge_seq(lines: list[bytes], at: int, chance: random.Random) -> None:
    record = json.loads(lines[at])
    record["seq"] = chance.choice([seq for seq in range(1, len(lines) + 9) if seq != record["seq"]])
    lines[at] = json.dumps(record, separators=(",", ":")).encode() + b"\n"


def pad(lines: list[bytes], at: int, chance: random.Random) -> None:
    junk = chance.choice([b" ", b"\r", b"\0", b"}"])
    lines[at] = lines[at][:-1] + junk + b"\n" if chance.randrange(2) else junk + lines[at]


def cut(lines: list[bytes], at: int, chance: random.Random) -> None:
    ends = [b"\n", b""] if at < len(lines) - 2 else [b"\n"]  # run into the last line, it would have no successor
    lines[at] = lines[at][: chance.randrange(1, len(lines[at]) - 1)] + chance.choice(ends)


TAMPERINGS: tuple[Callable[[list[bytes], int, random.Random], None], ...] = (
    *(flip_a_bit, edit_a_field, drop_a_field, delete, swap, insert, forge_seq, pad, cut),
)


@pytest.mark.parametrize("header", [b"", RSYSLOG])
def test_an_untouched_trace_is_intact(header: bytes) -> None:
    report = verified([header + line for line in trace(20, ends=("shutdown",))])
    assert ([boot.verdict for boot in report.boots], report.foreign, report.damaged) == (["intact"], 0, 0)


def test_each_of_a_thousand_changes_to_lines_with_a_successor_is_found() -> None:
    chance = random.Random(SEED)
    whole = trace(20, ends=("shutdown", "anchor"))
    missed = []
    for number in range(CHANGES):
        lines = list(whole)
        tamper = TAMPERINGS[number % len(TAMPERINGS)]
        at = chance.randrange(len(lines) - 1)
        tamper(lines, at, chance)
        assert lines != whole
        if verified(lines).exit_code != 1:
            missed.append((number, tamper.__name__, at))
    assert missed == []


def test_each_change_to_the_last_line_is_found_with_the_anchor() -> None:
    chance = random.Random(SEED)
    whole = trace(3, ends=("shutdown",))
    anchor = verified(whole).boots[0].head
    for number in range(CHANGES // 10):
        lines = list(whole)
        (flip_a_bit, edit_a_field, drop_a_field, delete, forge_seq)[number % 5](lines, len(lines) - 1, chance)
        assert verified(lines, anchors=(anchor,)).exit_code == 1


def test_an_appended_line_is_found_with_the_anchor() -> None:
    longer = trace(3, ends=("shutdown", "shutdown"))
    anchor = verified(longer[:-1]).boots[0].head
    assert verified(longer, anchors=(anchor,)).exit_code == 2
