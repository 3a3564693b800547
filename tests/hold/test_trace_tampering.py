"""A thousand random changes to lines that have a successor: every one is found, and an untouched trace is intact.

First in a trace alone, then in what a collector has of it: behind syslog headers, among other machines' traces and
foreign lines, and sent in part again.
"""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING

import pytest

from tests.traces import BOOT, RSYSLOG, trace, verified

if TYPE_CHECKING:
    from collections.abc import Callable

    from contextagent.trace.verify import BootVerdict, Report

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


OTHERS = [f"00000000-1111-4222-8333-{number:012}" for number in range(8)]
HEADERS = (
    *(RSYSLOG, b"Nov 21 04:43:40 node17 contextagent-trace: ", b""),
    b"<13>1 2026-11-21T04:43:40.1Z node17 contextagent-trace - - -  ",
)
WHOLE = trace(20, ends=("shutdown", "anchor"))


def sent(lines: list[bytes], chance: random.Random) -> list[bytes]:
    """Return a trace as it is sent at least once: now and then again from an earlier record on."""
    arrived, at = list[bytes](), 0
    while at < len(lines):
        if chance.randrange(8) == 0:
            at -= chance.randrange(min(at, 6) + 1)
        arrived.append(lines[at])
        at += 1
    return arrived


def collected(victim: list[bytes], chance: random.Random) -> list[bytes]:
    """Return a collector's file: a victim's lines among those of others, behind headers."""
    queues = [victim, *(sent(trace(chance.randrange(6), boot=boot, ends=("shutdown",)), chance) for boot in OTHERS)]
    turns = [number for number, queue in enumerate(queues) for _ in queue]
    chance.shuffle(turns)
    following = [iter(queue) for queue in queues]
    file = list[bytes]()
    for number in turns:
        if chance.randrange(10) == 0:
            file.append(RSYSLOG + b"sshd[12]: something else\n")
        file.append(chance.choice(HEADERS) + next(following[number]))
    return file


def judged(report: Report) -> BootVerdict:
    """Return the victim's verdict; all others are intact."""
    verdicts = {boot.boot: boot for boot in report.boots}
    assert {verdicts[boot].verdict for boot in OTHERS} == {"intact"}
    return verdicts[BOOT]


def test_what_is_sent_again_among_others_is_intact() -> None:
    chance = random.Random(SEED)
    for _ in range(20):
        victim = sent(WHOLE, chance)
        boot = judged(verified(collected(victim, chance)))
        assert (boot.verdict, boot.records, boot.duplicates) == ("intact", len(WHOLE), len(victim) - len(WHOLE))


def test_each_of_a_thousand_changes_to_a_forwarded_trace_is_found_and_the_first_bad_record_named() -> None:
    chance = random.Random(SEED)
    missed = []
    for number in range(CHANGES):
        victim = sent(WHOLE, chance)
        once = [place for place, line in enumerate(victim) if victim.count(line) == 1 and line != WHOLE[-1]]
        lines, tamper = list(victim), TAMPERINGS[number % len(TAMPERINGS)]
        at, other = chance.sample(once, 2)
        touched = [victim[at]]
        if tamper is swap:
            lines[at], lines[other] = lines[other], lines[at]
            touched.append(victim[other])
        else:
            tamper(lines, at, chance)
        lines = [line if line.endswith(b"\n") else line + b"\n" for line in lines]  # what follows is another's line
        numbers = [WHOLE.index(line) + 1 for line in touched]
        forged = re.match(rb'{"v":1,"seq":([1-9]\d*),', lines[at])
        numbers += [int(forged[1])] if forged else []
        boot = judged(verified(collected(lines, chance)))
        if boot.verdict != "broken" or not boot.fault or boot.fault.seq != min(numbers):
            missed.append((number, tamper.__name__, numbers, boot))
    assert missed == []


@pytest.mark.parametrize("cut_lines", [1, 2, 7])
def test_a_tail_that_is_cut_off_leaves_a_forwarded_trace_open_and_its_anchor_missing(cut_lines: int) -> None:
    chance = random.Random(SEED + cut_lines)
    whole = trace(20)
    anchor = verified(whole).boots[0].head
    file = collected(sent(whole[:-cut_lines], chance), chance)
    assert judged(verified(file)).verdict == "open"
    report = verified(file, anchors=(anchor,))
    assert (judged(report).verdict, report.missing_anchors, report.exit_code) == ("open", (anchor,), 1)


def test_each_change_to_the_last_line_of_a_forwarded_trace_is_found_with_the_anchor() -> None:
    chance = random.Random(SEED)
    anchor = verified(WHOLE).boots[0].head
    for number in range(CHANGES // 10):
        lines = list(WHOLE)
        (flip_a_bit, edit_a_field, drop_a_field, delete, forge_seq)[number % 5](lines, len(lines) - 1, chance)
        assert verified(collected(lines, chance), anchors=(anchor,)).exit_code == 1
