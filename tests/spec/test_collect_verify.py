"""`trace verify` and `trace show` on what a collector has: every header and mixture, exit codes, no forged line."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import AGENT
from tests.traces import BOOT, RSYSLOG, trace

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SECOND, THIRD = (f"{BOOT[:-1]}{number}" for number in "23")
HEADERS = {
    "none": b"",
    "rfc3164": b"Nov 21 04:43:40 node17 contextagent-trace: ",
    "rfc3164 with a priority": b"<29>Nov 21 04:43:40 node17 contextagent-trace: ",
    "a day below ten": b"Nov  1 04:43:40 10.0.0.1 contextagent-trace: ",
    "with a pid": b"Nov 21 04:43:40 node17 contextagent-trace[123]: ",
    "an IPv6 host": b"Nov 21 04:43:40 2001:db8::1 contextagent-trace: ",
    "rfc3339": RSYSLOG,
    "nanoseconds and an offset": b"2026-11-21T04:43:40.123456789+01:00 node17 contextagent-trace: ",
    "rfc5424": b"<29>1 2026-11-21T04:43:40.123456+00:00 node17 contextagent-trace - - - ",
    "rfc5424 with data": b'<29>1 2026-11-21T04:43:40.1Z node17 contextagent-trace 1 ID47 [ex@1 a="b {x} ]"] ',
}


def ask(*words: str, data: bytes | None = None) -> tuple[int, str]:
    """Return the exit code and the output of the agent, given this input."""
    done = subprocess.run([*AGENT, "trace", *words], input=data, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode()


def verify(lines: Iterable[bytes], *words: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the report."""
    code, out = ask("verify", "-", "--format", "json", *words, data=b"".join(lines))
    return code, json.loads(out)


def changed(lines: list[bytes], *seqs: int) -> list[bytes]:
    """Return the lines with these changed, each so that only its own hash is another."""
    return [
        line.replace(b'"mono_ns":', b'"mono_ns":9') if number in seqs else line for number, line in enumerate(lines, 1)
    ]


def forged(line: bytes, **words: object) -> bytes:
    """Return a record with other words in it."""
    return json.dumps({**json.loads(line), **words}, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize("name", HEADERS)
def test_a_trace_is_read_behind_every_header(name: str) -> None:
    code, report = verify(HEADERS[name] + line for line in trace(ends=("shutdown",)))
    assert (code, [boot["verdict"] for boot in report["boots"]]) == (0, ["intact"])
    assert (report["foreign"], report["damaged"], report["missing_anchors"]) == (0, 0, [])


def test_the_exit_code_is_that_of_the_worst_boot_and_all_are_told_apart() -> None:
    whole, cut, bad = trace(ends=("shutdown",)), trace(boot=SECOND), changed(trace(boot=THIRD, ends=("shutdown",)), 3)
    mixed = [RSYSLOG + line for lines in zip(whole, [*cut, b""], bad, strict=True) for line in lines if line]
    code, report = verify([*mixed, *mixed[3:9]])
    assert code == 1
    assert report["summary"] == dict(boots=3, intact=1, open=1, broken=1, records=23, duplicates=6)  # noqa: C408  # short
    verdicts = {boot["boot"]: boot for boot in report["boots"]}
    assert verdicts[SECOND]["fault"] is None
    assert "cannot tell" in verdicts[SECOND]["because"]
    fault = verdicts[THIRD]["fault"]
    assert fault["seq"] == 3
    assert fault["expected"] == hashlib.sha256(trace(boot=THIRD)[2].rstrip(b"\n")).hexdigest()
    assert fault["found"] == hashlib.sha256(bad[2].rstrip(b"\n")).hexdigest()
    assert verify([*whole, *cut])[0] == 2
    assert verify(whole)[0] == 0


@pytest.mark.parametrize("seqs", [(2,), (2, 5), (3, 4, 5), tuple(range(1, 12))])
def test_the_first_break_is_the_one_that_is_named(seqs: tuple[int, ...]) -> None:
    code, report = verify(changed(trace(5, ends=("shutdown",)), *seqs))
    assert (code, report["boots"][0]["fault"]["seq"]) == (1, seqs[0])


def test_an_anchor_makes_an_open_trace_intact_and_tells_a_changed_or_added_last_line() -> None:
    lines = trace()
    anchor = hashlib.sha256(lines[-1].rstrip(b"\n")).hexdigest()
    assert verify(lines)[0] == 2
    assert verify(lines, "--anchor", anchor)[0] == 0
    assert verify(changed(lines, len(lines)), "--anchor", anchor)[0] == 1
    assert verify([*lines, forged(lines[-1], seq=8, prev=anchor)], "--anchor", anchor)[0] in (1, 2)
    assert verify(lines[:-1], "--anchor", anchor)[0] == 1
    assert verify(lines, "--anchor", "0" * 64)[0] == 1
    assert ask("verify", "-", "--anchor", "xyz", data=b"")[0] == 64


@pytest.mark.parametrize("place", [3, 5, 8])
def test_a_second_version_of_a_record_is_never_a_duplicate(place: int) -> None:
    lines = [RSYSLOG + line for line in trace(ends=("shutdown",))]
    other = RSYSLOG + forged(trace()[2], exit=7)
    code, report = verify([*lines[:place], other, *lines[place:]])
    assert (code, report["boots"][0]["fault"]["seq"]) == (1, 3)


def test_what_is_no_record_is_counted_and_changes_no_verdict() -> None:
    lines = trace(ends=("shutdown",))
    odd = [
        *(b"sshd: hello\n", b"\0\0\n", b"[]\n", b'{"v":2}\n', b"[" * 100_000 + b"\n", b"x" * 20_000_000 + b"\n"),
        *(b'{"v":1,"seq":1,"boot":{"a":1},"ev":[1]}\n', b'{"v":1,"seq":1e999,"boot":"x"}\n'),
        *(b'{"v":1,"seq":' + b"9" * 5000 + b"}\n", b"Nov 21 04:43:40 h sshd: {}\n"),
    ]
    code, report = verify([*odd, *lines, *odd])
    assert (code, [boot["verdict"] for boot in report["boots"]]) == (0, ["intact"])
    assert report["foreign"] + report["damaged"] == 2 * len(odd)


def test_packed_files_are_read_and_one_that_is_cut_is_said(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(trace(ends=("shutdown",))))
    for name, part in (("whole.gz", data), ("cut.gz", data[:-20])):
        (tmp_path / name).write_bytes(part)
    assert ask("verify", f"{tmp_path}/whole.gz")[0] == 0
    assert ask("verify", "-", data=data)[0] == 0
    code, out = ask("verify", f"{tmp_path}/cut.gz")
    assert (code, out) == (64, "")


def test_no_word_of_a_record_reaches_the_terminal_as_it_is() -> None:
    for word in ("\u202egnp", "\x1b[2J", "a\nb", "\0"):
        first = forged(trace()[0], inst=word, img=word)
        second = forged(trace()[1], id=word, argv=[word], inst=word)
        for verb in ("verify", "show"):
            out = ask(verb, "-", data=first + second)[1]
            assert word not in out
            assert "\x1b" not in out


def test_which_machines_ran_this_is_answered_over_all_of_them() -> None:
    digest = f"{1:0128x}"
    data = b"".join(
        RSYSLOG + line for boot in (BOOT, SECOND, THIRD) for line in trace(3 if boot != THIRD else 1, boot=boot)
    )
    code, out = ask("show", "-", "--sha512", digest, "--format", "json", data=data)
    assert (code, {record["boot"] for record in json.loads(out)}) == (0, {BOOT, SECOND})
    code, out = ask("show", "-", "--sha512", "f" * 128, "--format", "json", data=data)
    assert json.loads(out) == []
    assert ask("show", "-", "--sha512", "zz", data=data)[0] == 64
