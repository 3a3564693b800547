"""What `trace verify` finds in a collector's files (docs/reference/trace.md)."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.trace.boots import MAX_SPANS, WINDOW
from contextagent.trace.chain import GENESIS, line_hash
from contextagent.trace.syslog import lines_of
from contextagent.trace.verify import Verifier
from tests.traces import BOOT, RSYSLOG, trace, verified

OTHER = "5a1f0c9e-0000-4000-8000-000000000002"
HEADERS = [
    b"",
    RSYSLOG,
    b"Nov 21 04:43:40 node17 contextagent[12]: ",
    b"Nov  1 04:43:40 node17 contextagent ",
    b'<13>1 2026-11-21T04:43:40.1Z node17 contextagent 12 - [x@1 a="{"] ',
    b"<13>Nov 21 04:43:40 node17 contextagent: ",
    b"152 <13>1 2026-11-21T04:43:40+01:00 node17 contextagent - - - ",
    b'<13>1 2026-11-21T04:43:40.1Z node17 contextagent 12 - [x@1 a="\\"] {"][y@2 b="c"] ',
    b"<13>1 2026-11-21T04:43:40.1Z node17 contextagent-trace - - -  ",
    b"Nov 21 2026 04:43:40 node17 contextagent: ",
    b"2026 Nov 21 04:43:40.123 node17 contextagent: ",
    b"2026-11-21 04:43:40.123 2001:db8::17 contextagent-trace ",
    b"2026-11-21T04:43:40Z node17 local6.info contextagent: ",
    b"1795236220.123456 node17 contextagent[1]: ",
    b"1795236220 node17 contextagent-trace: ",
    b"Sat 2026-11-21 04:43:40 UTC node17 contextagent-trace: ",
    b"MESSAGE=",
    b"Nov 21 04:43:40 node17 contextagent-trace:",
    b"<13>1 2026-11-21T04:43:40.1Z node17 contextagent 12 - - \xef\xbb\xbf",
]
NO_HEADERS = [
    *(b"X", b" ", b"x Nov 21 04:43:40 ", b"{", b"<13>", RSYSLOG + b"}", RSYSLOG + b" ", RSYSLOG[:-2], RSYSLOG + b"[ "),
    b"Nov 21 04:43:40 node17 contextagent: message repeated 2 times: [ ",
    b"Nov 21 04:43:40 node17 contextagent: message repeated 2 times: [",
]

BOOTS = [f"5a1f0c9e-0000-4000-8000-{number:012}" for number in range(4)]
SENT = [trace(number, boot=boot, ends=("shutdown", "anchor")) for number, boot in enumerate(BOOTS)]


def reseal(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}, separators=(",", ":")).encode() + b"\n"


def verdict(*streams: list[bytes], anchors: tuple[str, ...] = ()) -> str:
    (boot,) = verified(*streams, anchors=anchors).boots
    return boot.verdict


@pytest.mark.parametrize("header", HEADERS)
def test_a_trace_that_ends_with_the_shutdown_is_intact_behind_any_header(header: bytes) -> None:
    report = verified([header + line for line in trace(ends=("shutdown",))])
    (boot,) = report.boots
    assert (boot.verdict, boot.records, boot.duplicates, boot.inst, boot.img) == ("intact", 8, 0, "i-17", "image")
    assert report.exit_code == 0


def test_an_anchor_after_the_shutdown_is_part_of_the_end() -> None:
    assert verdict(trace(ends=("shutdown", "anchor"))) == "intact"


@pytest.mark.parametrize("ends", [(), ("anchor",), ("shutdown", "anchor", "anchor")])
def test_a_trace_without_a_known_end_is_open(ends: tuple[str, ...]) -> None:
    report = verified(trace(ends=ends))
    assert report.boots[0].verdict == "open"
    assert "cannot tell" in report.boots[0].because
    assert report.exit_code == 2


def test_an_anchor_at_the_end_makes_a_trace_intact() -> None:
    lines = trace()
    assert verdict(lines, anchors=(line_hash(lines[-1]).upper(), line_hash(lines[2]))) == "intact"


def test_records_behind_the_anchor_are_vouched_for_by_nothing_even_by_a_shutdown() -> None:
    lines = trace(ends=("shutdown",))
    report = verified(lines, anchors=(line_hash(lines[-2]),))
    assert report.boots[0].verdict == "open"
    assert report.boots[0].because.endswith("record 7")


def test_an_anchor_that_no_record_has_breaks_the_only_boot_it_can_belong_to() -> None:
    lines = trace(ends=("shutdown",))
    report = verified(lines[:-1], anchors=(line_hash(lines[-1]),))
    assert (report.boots[0].verdict, report.exit_code) == ("broken", 1)
    assert report.missing_anchors == (line_hash(lines[-1]),)


def test_an_anchor_that_no_record_has_is_an_error_whichever_boot_it_belongs_to() -> None:
    report = verified(trace(ends=("shutdown",)), trace(boot=OTHER, ends=("shutdown",)), anchors=("ab" * 32,))
    assert [boot.verdict for boot in report.boots] == ["intact", "intact"]
    assert report.exit_code == 1


def claim(lines: list[bytes], **changes: object) -> dict[str, object]:
    return {"boot": BOOT, "seq": len(lines), "hash": line_hash(lines[-1]), **changes}


def test_the_next_boots_first_record_vouches_for_the_end_of_this_one() -> None:
    lines = trace()
    report = verified(lines, trace(boot=OTHER, last=claim(lines), ends=("shutdown",)))
    assert [boot.verdict for boot in report.boots] == ["intact", "intact"]


def test_records_that_the_next_boot_names_and_nobody_has_are_missing() -> None:
    lines = trace()
    report = verified(lines[:-1], trace(boot=OTHER, last=claim(lines), ends=("shutdown",)))
    assert report.boots[0].verdict == "broken"
    assert report.boots[0].fault is not None
    assert (report.boots[0].fault.seq, report.boots[0].fault.expected) == (7, line_hash(lines[-1]))
    further = verified(lines[:-2], trace(boot=OTHER, last=claim(lines), ends=("shutdown",)))
    assert further.boots[0].fault is not None
    assert (further.boots[0].fault.seq, further.boots[0].fault.expected) == (6, "")


def test_a_last_record_that_the_next_boot_knows_otherwise_is_changed() -> None:
    lines = trace()
    changed = [*lines[:-1], reseal(lines[-1], exit=1)]
    report = verified(changed, trace(boot=OTHER, last=claim(lines), ends=("shutdown",)))
    assert (report.boots[0].verdict, report.boots[0].fault and report.boots[0].fault.seq) == ("broken", 7)


def test_a_record_that_the_next_boot_names_may_have_later_ones_behind_it() -> None:
    lines = trace()
    report = verified(lines, trace(boot=OTHER, last=claim(lines[:5]), ends=("shutdown",)))
    assert report.boots[0].verdict == "open"


def test_a_broken_trace_vouches_for_no_other() -> None:
    lines = trace()
    later = trace(boot=OTHER, last=claim(lines), ends=("shutdown",))
    report = verified(lines, [*later[:2], *later[3:]])
    assert [boot.verdict for boot in report.boots] == ["open", "broken"]


@pytest.mark.parametrize(
    "last", [{"boot": BOOT}, {"boot": 1, "seq": 2, "hash": "x"}, {"boot": BOOT, "seq": 7, "hash": "é"}]
)
def test_a_first_record_that_names_nonsense_vouches_for_nothing(last: dict) -> None:
    report = verified(trace(), trace(boot=OTHER, last=last, ends=("shutdown",)))
    assert report.boots[1].verdict == "intact"
    assert report.boots[0].verdict != "intact"


def test_a_changed_line_is_the_first_bad_record_with_what_was_expected_and_found() -> None:
    lines = trace(ends=("shutdown",))
    changed = reseal(lines[3], uid=0)
    report = verified([*lines[:3], changed, *lines[4:]])
    fault = report.boots[0].fault
    assert fault is not None
    assert (fault.seq, fault.expected, fault.found) == (4, line_hash(lines[3]), line_hash(changed))
    assert report.exit_code == 1


def test_a_changed_prev_is_blamed_on_the_record_that_has_it() -> None:
    lines = trace(ends=("shutdown",))
    lines[3] = reseal(lines[3], prev="ab" * 32)
    fault = verified(lines).boots[0].fault
    assert fault is not None
    assert fault.seq == 4


@pytest.mark.parametrize("last", [4, 5, 6])
def test_of_several_changed_neighbours_the_first_is_named(last: int) -> None:
    lines = trace(ends=("shutdown",))
    lines[1:last] = [reseal(line, mono_ns=99) for line in lines[1:last]]
    fault = verified(lines).boots[0].fault
    assert fault is not None
    assert fault.seq == 2


def test_a_file_whose_lines_were_given_other_ends_is_changed_from_its_first_record_on() -> None:
    fault = verified([line.replace(b"\n", b"\r\n") for line in trace(ends=("shutdown",))]).boots[0].fault
    assert fault is not None
    assert fault.seq == 1


def test_a_missing_record_is_named_with_the_hash_that_the_next_one_expects() -> None:
    lines = trace(ends=("shutdown",))
    fault = verified([*lines[:3], *lines[4:]]).boots[0].fault
    assert fault is not None
    assert (fault.seq, fault.expected, fault.found) == (4, line_hash(lines[3]), "")


def test_missing_first_records_are_missing() -> None:
    fault = verified(trace()[2:]).boots[0].fault
    assert fault is not None
    assert (fault.seq, fault.found) == (1, "")


def test_a_first_record_that_names_another_before_it_is_bad() -> None:
    lines = trace(0)
    fault = verified([reseal(lines[0], prev="ab" * 32)]).boots[0].fault
    assert fault is not None
    assert (fault.seq, fault.expected) == (1, GENESIS)


def test_the_earliest_of_several_faults_is_told() -> None:
    lines = trace(6, ends=("shutdown",))
    fault = verified([*lines[:2], *lines[3:8], *lines[9:]]).boots[0].fault
    assert fault is not None
    assert fault.seq == 3


def test_two_records_that_changed_places_are_found() -> None:
    lines = trace(ends=("shutdown",))
    lines[3], lines[4] = lines[4], lines[3]
    assert verdict(lines) == "broken"


def test_a_record_moved_to_the_end_is_found() -> None:
    lines = trace(ends=("shutdown",))
    assert verdict([*lines[:3], *lines[4:], lines[3]]) == "broken"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)), max_size=6))
def test_blocks_sent_again_are_counted_apart(blocks: list[tuple[int, int]]) -> None:
    lines = trace(20, ends=("shutdown",))
    sent = list(lines)
    for position, length in sorted(blocks, reverse=True):
        sent[position:position] = lines[max(position - length, 0) : position]
    report = verified(sent)
    assert (report.boots[0].verdict, report.boots[0].duplicates) == ("intact", len(sent) - len(lines))
    assert report.boots[0].records == len(lines)


@given(st.data())
def test_however_boots_interleave_and_are_sent_again_from_an_earlier_record_all_are_intact(data: st.DataObject) -> None:
    queues = [list(SENT[number]) for number in range(data.draw(st.integers(1, len(SENT))))]
    numbers = st.integers(0, len(queues) - 1)
    sent, at = [], [0] * len(queues)
    for number in data.draw(st.lists(numbers, max_size=80)):
        is_over = at[number] == len(queues[number])
        if is_over or data.draw(st.integers(0, 7)) == 0:  # the forwarder was killed, and sends again what it had sent
            at[number] -= data.draw(st.integers(int(is_over), at[number]))
        sent.append((number, at[number]))
        at[number] += 1
    for number, queue in enumerate(queues):
        sent += [(number, place) for place in range(at[number], len(queue))]
    lines = [data.draw(st.sampled_from(HEADERS)) + queues[number][place] for number, place in sent]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(lines)), max_size=3)))
    files = [lines[left:right] for left, right in zip([0, *cuts], [*cuts, len(lines)], strict=True)]
    report = verified(*data.draw(st.permutations(files)))
    assert {boot.boot: boot.verdict for boot in report.boots} == dict.fromkeys(BOOTS[: len(queues)], "intact")
    assert sum(boot.duplicates for boot in report.boots) == len(sent) - sum(map(len, queues))


def test_a_whole_trace_longer_than_what_is_remembered_may_come_twice() -> None:
    lines = trace(WINDOW, ends=("shutdown",))
    report = verified(lines, lines)
    assert (report.boots[0].verdict, report.boots[0].duplicates) == ("intact", len(lines))


def held_bytes(boots: int, scripts: int) -> int:
    """Return what a verifier holds of so many boots with so many scripts, once it has read them all."""
    names = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(boots)]
    chunks = [b"".join(trace(scripts, boot=name, ends=("shutdown",))) for name in names]
    tracemalloc.start()
    verifier = Verifier()
    verifier.feed(chunk[at : at + 4096] for chunk in chunks for at in range(0, len(chunk), 4096))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert verifier.report().exit_code == 0
    return held


def test_what_is_held_of_a_boot_is_small_and_bounded_however_long_it_is() -> None:
    assert held_bytes(200, 6) / 200 < 3 * 1024
    assert held_bytes(1, 3 * WINDOW) - held_bytes(1, WINDOW) < 1024
    assert held_bytes(1, WINDOW) < 48 * 1024


def test_an_old_record_repeated_with_changes_is_found_though_it_is_not_remembered() -> None:
    lines = trace(WINDOW, ends=("shutdown",))
    forged = reseal(lines[5], utc="2027-01-01T00:00:00.000Z")
    assert verdict([*lines[:-1], forged, lines[-1]]) == "broken"
    assert verdict(lines, [*lines[:5], forged, *lines[6:]]) == "broken"
    assert verdict(lines, lines[:8], [*lines[:5], forged]) == "broken"


def test_a_second_record_with_a_known_number_is_found() -> None:
    lines = trace(ends=("shutdown",))
    assert verdict([*lines[:5], reseal(lines[2], uid=0), *lines[5:]]) == "broken"


def test_files_may_come_in_any_order() -> None:
    lines = trace(6, ends=("shutdown",))
    parts = [lines[8:12], lines[:4], lines[4:8], lines[12:], lines[2:6]]
    report = verified(*parts)
    assert (report.boots[0].verdict, report.boots[0].records, report.boots[0].duplicates) == ("intact", 14, 4)


def test_files_that_do_not_fit_together_are_found() -> None:
    lines = trace(6, ends=("shutdown",))
    changed = reseal(lines[7], exit=1)
    assert verdict(lines[8:], [*lines[:7], changed]) == "broken"
    assert verdict(lines[8:], lines[:7]) == "broken"
    assert verdict(lines[8:], [*lines[:4], lines[8], *lines[4:8]]) == "intact"
    assert verdict(lines[8:], lines[:4], [lines[0], lines[6], lines[4]]) == "broken"


def test_a_record_that_jumps_to_the_end_of_another_piece_is_out_of_its_place() -> None:
    lines = trace(8, ends=("shutdown",))
    assert verdict(lines[8:10], [*lines[:2], lines[10], *lines[2:8], *lines[11:]]) == "broken"


def test_a_boot_in_too_many_pieces_is_broken_and_takes_no_more_memory() -> None:
    lines = trace(2 * MAX_SPANS)
    pieces = [[line] for line in lines[::2]]
    assert verdict(*pieces) == "broken"


def test_boots_of_many_machines_are_told_apart_in_one_stream() -> None:
    one, two = trace(ends=("shutdown",)), trace(boot=OTHER)
    mixed = [line for pair in zip(one, [*two, b"kernel: something else\n"], strict=True) for line in pair]
    report = verified(mixed)
    assert {boot.boot: boot.verdict for boot in report.boots} == {BOOT: "intact", OTHER: "open"}
    assert (report.foreign, report.damaged, report.exit_code) == (1, 0, 2)


def test_lines_that_only_look_like_records_are_counted_as_damaged() -> None:
    report = verified(
        [b'{"v":1,"seq":x,"prev":"y"\n', b'{"v": 1, "seq": 2, "prev": "", "boot": "b"}\n', b"\n", b"{}\n"]
    )
    assert (report.damaged, report.foreign, report.exit_code) == (2, 2, 3)


@pytest.mark.parametrize("prefix", NO_HEADERS)
def test_what_is_no_syslog_header_is_a_change_of_the_line(prefix: bytes) -> None:
    lines = trace(ends=("shutdown",))
    assert verdict([*lines[:3], prefix + lines[3], *lines[4:]]) == "broken"


def test_a_boot_id_that_needs_escapes_is_a_boot_like_others() -> None:
    lines = trace(boot='a"b\\é')
    report = verified(lines, trace(boot=OTHER, last={"boot": 'a"b\\é', "seq": 7, "hash": line_hash(lines[-1])}))
    assert report.boots[0].verdict == "intact"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.text(max_size=5), st.lists, max_leaves=3
)
LAST = st.fixed_dictionaries(
    {"boot": st.sampled_from([BOOT, OTHER]) | JSON, "seq": JSON, "hash": JSON | st.just("ab" * 32)}
)


@given(st.data())
def test_whatever_forged_records_say_there_is_a_verdict(data: st.DataObject) -> None:
    last: Any = data.draw(LAST | JSON)
    lines = [*trace(1, ends=("shutdown",)), *trace(1, boot=OTHER, last=last)]
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        key = data.draw(st.sampled_from(["v", "seq", "prev", "boot", "inst", "img", "utc", "ev", "last", "id"]))
        lines.insert(at, reseal(lines[at], **{key: data.draw(JSON | LAST if key == "last" else JSON)}))
    report = verified(lines, data.draw(st.permutations(lines)))
    assert report.exit_code in (0, 1, 2)
    assert all(type(boot.inst) is str for boot in report.boots)


@given(st.lists(st.binary(max_size=60) | st.sampled_from(trace(2))), st.lists(st.integers(1, 40), min_size=1))
def test_any_bytes_have_a_verdict(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    chunks = [data[at : at + cuts[0]] for at in range(0, len(data), cuts[0])]
    verifier = Verifier()
    verifier.feed(chunks)
    assert verifier.report().exit_code in (0, 1, 2, 3)


@given(st.lists(st.binary(max_size=20)))
def test_lines_come_whole_however_the_bytes_are_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces) + b"\n"
    assert list(lines_of([*pieces, b"\n"])) == whole.split(b"\n")[:-1]


def test_an_endless_line_takes_no_memory_and_the_next_one_is_read() -> None:
    lines = trace(ends=("shutdown",))
    endless = [b"x" * (1 << 16) for _ in range(64)]
    chunks = [*endless, b"\n", *lines]
    assert max(map(len, lines_of(chunks))) <= 1 << 18


def test_a_last_line_that_was_written_whole_and_cannot_be_read_is_bad() -> None:
    lines = trace(ends=("shutdown",))
    assert verdict([*lines[:-1], lines[-1][:200] + b"\n"]) == "broken"


def test_a_last_line_that_is_still_being_written_is_left_out() -> None:
    lines = trace()
    assert verified([*lines, trace(4)[7][:90]]).boots[0].records == 7
    assert verified([*lines[:-1], lines[-1][:-1]]).boots[0].records == 7
