"""`trace show`, `trace verify` and `receipt` as a person and a collector call them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest

from contextagent.trace.chain import Chain, line_hash
from tests.machine import AGENT, Machine
from tests.traces import BOOT, RSYSLOG, trace

if TYPE_CHECKING:
    from collections.abc import Callable
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


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_of_a_folder_are_read_as_what_they_hold(
    machine: Machine, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    lines = trace(6, ends=("shutdown",))
    folder = tmp_path / "logs/node17"
    folder.mkdir(parents=True)
    (folder / "trace.log").write_bytes(b"".join(lines[8:]))
    (folder / "trace.log.1").write_bytes(pack(b"".join(RSYSLOG + line for line in lines[:5])))
    (folder / "trace.log.0").write_bytes(pack(b"".join(lines[3:5])) + pack(b"".join(lines[5:8])))
    (tmp_path / "logs/empty").touch()
    (boot,) = machine.facts("trace", "verify", f"{tmp_path}/logs")["boots"]
    assert (boot["verdict"], boot["records"], boot["duplicates"]) == ("intact", 14, 2)
    assert len(machine.facts("trace", "show", f"{tmp_path}/logs")) == 16


def test_verify_reads_packed_standard_input() -> None:
    packed = gzip.compress(b"".join(trace(ends=("shutdown",))))
    done = subprocess.run([*AGENT, "trace", "verify", "-"], input=packed, capture_output=True, check=False)
    assert done.returncode == 0


def many(count: int) -> list[bytes]:
    """Return the traces of many boots, with one that is open and one that is broken."""
    made = [trace(1, boot=f"{number:08x}-0000-4000-8000-000000000000", ends=("shutdown",)) for number in range(count)]
    made[3].pop()
    del made[7][1]
    return [line for lines in made for line in lines]


def test_of_many_boots_verify_counts_all_and_lists_those_that_are_not_intact(machine: Machine, tmp_path: Path) -> None:
    file = collected(tmp_path, many(40))
    done = machine.run("trace", "verify", file)
    lines = done.out.splitlines()
    assert (done.code, lines[:2]) == (
        *(1, ["38 intact, 1 open, 1 broken, of 40 boots", "158 records, 0 of them seen again"]),
    )
    assert [line.split()[0][:8] for line in lines[3:]] == ["00000007", "00000003", "00000007", "00000007"]
    facts = machine.facts("trace", "verify", file)
    assert facts["summary"] == {
        "boots": 40,
        "intact": 38,
        "open": 1,
        "broken": 1,
        "records": 158,
        "duplicates": 0,
    }
    assert len(facts["boots"]) == 40


def test_verify_shows_on_a_terminal_how_far_it_is_once_it_takes_longer(tmp_path: Path) -> None:
    growing = tmp_path / "pipe"
    os.mkfifo(growing)
    ours, theirs = pty.openpty()
    with subprocess.Popen([*AGENT, "trace", "verify", str(growing)], stdout=subprocess.PIPE, stderr=theirs) as done:
        os.close(theirs)
        shown = b""
        with growing.open("wb") as writer:
            os.set_blocking(ours, False)
            while b"contextagent: verifying, " not in shown:
                writer.write(b"foreign\n" * 1000)
                writer.flush()
                try:
                    shown += os.read(ours, 4096)
                except BlockingIOError:
                    continue
    os.close(ours)
    assert done.returncode == 3


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
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"".join(trace()))[:200])
    done = machine.run("trace", verb, f"{tmp_path}/cut.gz")
    assert (done.code, done.err.splitlines()[0].rpartition(":")[0]) == (
        *(64, f"contextagent: cannot read '{tmp_path}/cut.gz': packed, and damaged or cut off"),
    )


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


@pytest.mark.parametrize("ev", ["start", "source", "file"])
def test_the_digest_of_a_script_a_source_or_a_file_leads_to_the_machines(
    machine: Machine, tmp_path: Path, ev: str
) -> None:
    chain = Chain(boot=BOOT, inst="i-1")
    common = {"utc_ns": 0, "mono_ns": 0, "sync": True}
    told = {"start": {"id": "user/stop/x", "sha512": "ab" * 64}, "source": {"sha512": "ab" * 64}}
    line = chain.line(ev, told.get(ev, {"path": "/etc/x", "sha512": "ab" * 64}), **common)  # type: ignore[arg-type]  # two kinds of values
    file = collected(tmp_path, [*trace(4, boot=OTHER), line])
    assert [each["boot"] for each in machine.facts("trace", "show", "--sha512", "AB" * 20, file)] == [BOOT]


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


def test_show_follows_a_file_that_is_rotated_and_one_that_is_cut(machine: Machine, tmp_path: Path) -> None:
    lines = trace(6)
    file = tmp_path / "remote.log"
    file.write_bytes(b"".join(lines[:2]))
    words = (*AGENT, "--root", str(machine.root), "trace", "show", "--follow", "--format", "json", str(file))
    with subprocess.Popen(words, stdout=subprocess.PIPE) as follower:
        stdout = follower.stdout
        assert stdout is not None

        def follows(*seqs: int) -> None:
            assert [json.loads(stdout.readline())["seq"] for _ in seqs] == list(seqs)

        follows(1, 2)
        old = file.rename(tmp_path / "remote.log.1")
        with old.open("ab") as still_open:
            still_open.write(lines[2] + lines[3])
        file.write_bytes(lines[4] + lines[5][:40])
        follows(3, 4, 5)
        with file.open("ab") as rest:
            rest.write(lines[5][40:])
        follows(6)
        os.truncate(file, 0)
        file.write_bytes(lines[6])
        follows(7)
        follower.terminate()


def test_what_is_packed_cannot_be_followed(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"".join(trace())))
    done = machine.run("trace", "show", "--follow", f"{tmp_path}/x.gz")
    assert (done.code, done.err) == (64, f"contextagent: cannot follow '{tmp_path}/x.gz': it is packed\n")
    done = machine.run("trace", "show", "--follow", str(tmp_path))
    assert (done.code, done.err) == (64, f"contextagent: cannot read '{tmp_path}': Is a directory\n")


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
