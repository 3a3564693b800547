"""`trace show`, `trace verify` and `receipt` as a person and a collector call them."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from contextagent.trace.chain import line_hash
from tests.machine import AGENT, Machine
from tests.traces import BOOT, RSYSLOG, trace

if TYPE_CHECKING:
    from pathlib import Path

OTHER = "5a1f0c9e-0000-4000-8000-000000000002"
LOGS = "var/log/contextagent"


def keep(machine: Machine, lines: list[bytes], boot: str = BOOT) -> Path:
    machine.put("proc/sys/kernel/random/boot_id", boot + "\n")
    return machine.put(f"{LOGS}/trace-{boot}.jsonl", b"".join(lines), 0o600)


def collected(tmp_path: Path, lines: list[bytes], name: str = "remote.log") -> str:
    (tmp_path / name).write_bytes(b"".join(RSYSLOG + line for line in lines))
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("lines", "code", "verdict"),
    [
        (trace(ends=("shutdown", "anchor")), 0, "intact"),
        (trace(), 2, "open"),
        ([*trace()[:3], *trace()[4:]], 1, "broken"),
    ],
)
def test_verify_tells_a_machines_own_trace_by_word_and_exit_code(
    machine: Machine, lines: list[bytes], code: int, verdict: str
) -> None:
    keep(machine, lines)
    assert machine.run("trace", "verify").code == code
    (boot,) = machine.facts("trace", "verify")["boots"]
    assert (boot["boot"], boot["inst"], boot["verdict"]) == (BOOT, "i-17", verdict)


def test_verify_reads_a_collectors_file_of_many_machines(machine: Machine, tmp_path: Path) -> None:
    mixed = [*trace(ends=("shutdown",)), b"something else\n", *trace(boot=OTHER)]
    done = machine.run("trace", "verify", collected(tmp_path, mixed))
    assert done.code == 2
    assert [line.split()[2:5] for line in done.out.splitlines()[1:3]] == [["intact", "8", "0"], ["open", "7", "0"]]
    assert "1 lines are no trace records" in done.out


def test_verify_takes_anchors_and_says_which_no_record_has(machine: Machine, tmp_path: Path) -> None:
    lines = trace()
    file = collected(tmp_path, lines)
    assert machine.run("trace", "verify", "--anchor", line_hash(lines[-1]), file).code == 0
    done = machine.run("trace", "verify", file, "--anchor", line_hash(lines[-1]), "--anchor", "ab" * 32)
    assert done.code == 1
    assert f"no record has the anchor {'ab' * 32}" in done.out


def test_verify_names_the_first_bad_record_with_what_was_expected_and_found(machine: Machine, tmp_path: Path) -> None:
    lines = trace()
    changed = lines[3].replace(b'"uid":990', b'"uid":0')
    done = machine.run("trace", "verify", collected(tmp_path, [*lines[:3], changed, *lines[4:]]))
    assert done.code == 1
    assert f"record 4: expected {line_hash(lines[3])}" in done.out
    assert f"record 4: found {line_hash(changed)}" in done.out


def test_verify_reads_standard_input() -> None:
    lines = b"".join(trace(ends=("shutdown",)))
    done = subprocess.run([*AGENT, "trace", "verify", "-"], input=lines, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"intact" in done.stdout


def test_verify_of_nothing_is_not_intact(machine: Machine, tmp_path: Path) -> None:
    assert machine.run("trace", "verify").code == 3
    empty = tmp_path / "empty"
    empty.touch()
    done = machine.run("trace", "verify", str(empty))
    assert (done.code, done.out) == (3, "no record at all\n")


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_a_file_that_cannot_be_read_is_named_with_the_cause(machine: Machine, tmp_path: Path, verb: str) -> None:
    done = machine.run("trace", verb, f"{tmp_path}/none")
    assert (done.code, done.err) == (64, f"contextagent: cannot read '{tmp_path}/none': No such file or directory\n")
    done = machine.run("trace", verb, str(tmp_path))
    assert (done.code, done.err) == (64, f"contextagent: cannot read '{tmp_path}': Is a directory\n")


@pytest.mark.parametrize(
    "words", [("verify", "--anchor", "xyz"), ("show", "--sha512", "abc"), ("show", "--since", "teatime"), ("frob",), ()]
)
def test_words_that_are_off_are_a_usage_error(machine: Machine, words: tuple[str, ...]) -> None:
    keep(machine, trace())
    done = machine.run("trace", *words)
    assert done.code == 64
    assert done.err.startswith(
        "contextagent: cannot understand " if words else "contextagent: cannot run 'trace': missing "
    )


@pytest.mark.parametrize(
    ("words", "seqs"),
    [
        ((), [1, 2, 3, 4, 5, 6, 7]),
        (("--event", "end"), [3, 5, 7]),
        (("--owner", "user", "--event", "start"), [2, 4, 6]),
        (("--owner", "site"), []),
        (("--phase", "post-network"), [2, 3, 4, 5, 6, 7]),
        (("--phase", "stop"), []),
        (("--sha512", f"{1:0128x}"), [4]),
        (("--sha512", "0" * 100), [2, 4, 6]),
        (("--instance", "i-17", "--event", "boot"), [1]),
        (("--instance", "i-18"), []),
        (("--since", "2026-11-21T05:43:40.123+01:00"), [1, 2, 3, 4, 5, 6, 7]),
        (("--since", "2026-11-21T04:43:41"), []),
        (("--since", "99999d"), [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_show_prints_the_records_that_fit(machine: Machine, words: tuple[str, ...], seqs: list[int]) -> None:
    keep(machine, trace())
    assert [record["seq"] for record in machine.facts("trace", "show", *words)] == seqs
    assert len(machine.run("trace", "show", *words).out.splitlines()) == 1 + len(seqs)


def test_show_answers_which_machines_ran_a_script(machine: Machine, tmp_path: Path) -> None:
    file = collected(tmp_path, [*trace(1), *trace(3, boot=OTHER)])
    boots = {record["boot"] for record in machine.facts("trace", "show", "--sha512", f"{2:0128x}", file)}
    assert boots == {OTHER}


def test_show_lets_no_name_move_the_cursor(machine: Machine) -> None:
    keep(machine, [json.dumps({**json.loads(trace(0)[0]), "kernel": "\x1b[2J\u202e\n"}).encode() + b"\n"])
    out = machine.run("trace", "show").out
    assert "\\x1b[2J\\u202e" in out
    assert all(char.isprintable() or char == "\n" for char in out)
    assert len(out.splitlines()) == 2


def test_show_follows_what_is_appended(machine: Machine) -> None:
    lines = trace()
    file = keep(machine, [*lines[:3], lines[3][:50]])
    words = (*AGENT, "--root", str(machine.root), "trace", "show", "--follow", "--format", "json")
    with subprocess.Popen(words, stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert [json.loads(follower.stdout.readline())["seq"] for _ in range(3)] == [1, 2, 3]
        with file.open("ab") as trace_file:
            trace_file.write(lines[3][50:] + b"".join(lines[4:]))
        assert [json.loads(follower.stdout.readline())["seq"] for _ in range(4)] == [4, 5, 6, 7]
        follower.terminate()


def test_own_traces_come_oldest_first(machine: Machine) -> None:
    os.utime(keep(machine, trace(0)), (2, 2))
    os.utime(keep(machine, trace(0, boot=OTHER), OTHER), (1, 1))
    assert [record["boot"] for record in machine.facts("trace", "show")] == [OTHER, BOOT]


def test_a_receipt_tells_what_was_written_of_it_and_what_the_trace_says_since(machine: Machine) -> None:
    lines = trace(ends=("shutdown",))
    keep(machine, lines)
    made = machine.facts("receipt")
    assert made["last"] == {"seq": 8, "hash": line_hash(lines[-1])}
    limited = [{**made["scripts"][0], "limits": {"wall_s": 600}, "environment": ["PATH"], "exit": 77}]
    machine.put(
        f"{LOGS}/receipt-{BOOT}.json",
        json.dumps({**made, "trust": {"site": "channel"}, "scripts": limited, "last": None}),
    )
    receipt = machine.facts("receipt")
    assert (receipt["trust"], receipt["last"], len(receipt["scripts"])) == ({"site": "channel"}, made["last"], 3)
    assert receipt["scripts"][0] == {**limited[0], "exit": 0}
    machine.put(f"{LOGS}/receipt-{BOOT}.json", "torn")
    assert machine.facts("receipt", "--boot", BOOT) == made
    out = machine.run("receipt").out
    assert (
        "  user/post-network/post-network.d/00  0000000000000000  -        990  exit    0     0.25" in out.splitlines()
    )
    assert f"last: record 8, hash {line_hash(lines[-1])}" in out.splitlines()


def test_a_receipt_of_a_boot_that_left_nothing_is_not_known(machine: Machine) -> None:
    done = machine.run("receipt", "--boot", "../../etc/passwd")
    assert done.code == 3
    assert done.err.startswith("contextagent: cannot find the receipt of boot '../../etc/passwd'")
