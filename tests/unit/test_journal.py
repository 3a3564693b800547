"""The trace's file under faults (docs/reference/trace.md): real file systems, full, read-only, without reservations."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contextagent.host import Host
from contextagent.runner import reserve
from contextagent.runner.journal import LOGS, Journal, last_record, read_records, receipt_path, trace_path
from contextagent.trace.chain import GENESIS, line_hash
from contextagent.trace.verify import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contextagent.trace.verify import BootVerdict

BOOT = "00000000-0000-4000-8000-000000000001"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system of its own needs root")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    facts = tmp_path / "proc/sys/kernel/random"
    facts.mkdir(parents=True)
    (facts / "boot_id").write_text(BOOT + "\n")
    (tmp_path / "var/log").mkdir(parents=True)
    return Host(str(tmp_path))


@contextmanager
def mounted(kind: str, folder: Path, options: str = "mode=0755") -> Iterator[None]:
    subprocess.run(["mount", "-t", kind, "-o", options, kind, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def logs(host: Host) -> str:
    return host.files.real(LOGS)


def path(host: Host) -> str:
    return host.files.real(trace_path(BOOT))


def opened(host: Host) -> Journal:
    return Journal.open(host, instance_id="i-1", image="img")


def written(host: Host, records: int = 5) -> Journal:
    journal = opened(host)
    for number in range(records):
        assert journal.record("start", id=f"user/stop/{number}", sha512="ab" * 64)
    return journal


def lines(host: Host) -> list[bytes]:
    with open(path(host), "rb") as file:
        return file.read().split(b"\n")


def append(host: Host, data: bytes) -> None:
    with open(path(host), "ab") as file:
        file.write(data)


def verdict(host: Host) -> BootVerdict:
    verifier = Verifier()
    with open(path(host), "rb") as file:
        verifier.feed([file.read()])
    (boot,) = verifier.report().boots
    return boot


def fill(folder: str) -> str:
    """Use up a file system to the last byte, and return the file that does it."""
    name = f"{folder}/ballast"
    with open(name, "wb", buffering=0) as file:
        size_bytes = 1 << 16
        while size_bytes:
            try:
                file.write(bytes(size_bytes))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size_bytes //= 2
    return name


def test_records_are_lines_of_a_file_that_is_the_agents_alone(host: Host) -> None:
    journal = written(host, 2)
    assert journal.anchor()
    records = list(journal.events())
    assert [(record["seq"], record["ev"], record["inst"], record["img"]) for record in records] == [
        *((1, "start", "i-1", "img"), (2, "start", "i-1", "img"), (3, "anchor", "i-1", "img")),
    ]
    assert records[2]["head"] == records[2]["prev"]
    assert (journal.seq, journal.head) == (3, line_hash(lines(host)[2]))
    assert [os.stat(name).st_mode & 0o777 for name in (path(host), logs(host))] == [0o600, 0o700]
    assert (journal.is_full, journal.lost, journal.problems) == (False, 0, [])


def test_records_written_together_are_made_durable_together(host: Host) -> None:
    journal = opened(host)
    assert journal.sync()
    assert journal.record("boot", is_durable=False, agent="1")
    assert journal.record("network", is_durable=False, state="up")
    assert journal.sync()
    assert verdict(host).records == 2


def test_the_next_process_takes_the_chain_up(host: Host) -> None:
    written(host).close()
    journal = opened(host)
    assert (journal.seq, journal.head) == (5, line_hash(lines(host)[4]))
    assert journal.record("shutdown", reason="ok")
    assert verdict(host).verdict == "intact"


def test_a_journal_that_was_closed_opens_again_when_it_is_needed(host: Host) -> None:
    journal = written(host)
    journal.close()
    journal.close()
    assert journal.record("shutdown")
    assert verdict(host).verdict == "intact"


def test_two_processes_may_write_in_turns(host: Host) -> None:
    one, two = opened(host), opened(host)
    for _ in range(3):
        assert one.record("network", state="up")
        assert two.record("lifetime", bound_by="ttl")
    assert two.record("shutdown")
    assert (verdict(host).verdict, verdict(host).records) == ("intact", 7)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.data())
def test_whatever_is_left_of_a_last_line_is_cut_off_and_the_chain_goes_on(host: Host, data: st.DataObject) -> None:
    if os.path.exists(path(host)):
        os.unlink(path(host))
    written(host, 3).close()
    size_bytes = os.path.getsize(path(host))
    kept_bytes = data.draw(st.integers(0, size_bytes))
    os.truncate(path(host), kept_bytes)
    whole = len([line for line in lines(host)[:-1] if line])
    journal = opened(host)
    assert journal.seq == whole
    assert journal.record("shutdown")
    assert (verdict(host).verdict, verdict(host).records) == ("intact", whole + 1)
    journal.close()


def test_zeros_that_a_power_cut_left_behind_the_last_line_are_cut_off(host: Host) -> None:
    written(host).close()
    append(host, bytes(5000))
    journal = opened(host)
    assert (journal.seq, journal.problems) == (5, [])
    assert journal.record("shutdown")
    assert verdict(host).verdict == "intact"


def test_what_was_reserved_is_reserved_again_behind_a_torn_line(host: Host) -> None:
    written(host).close()
    append(host, b"{")
    opened(host)
    assert os.stat(path(host)).st_blocks * 512 >= reserve.RESERVES_BYTES[0]


@pytest.mark.parametrize("size_bytes", [10, 100, 20_000])
def test_a_damaged_last_line_stays_as_evidence_and_the_chain_goes_on_behind_it(host: Host, size_bytes: int) -> None:
    written(host).close()
    append(host, b"\xff" * size_bytes + b"\n")
    journal = opened(host)
    assert [problem.reason for problem in journal.problems] == ["trace-damaged"]
    assert journal.record("shutdown")
    assert json.loads(lines(host)[6])["prev"] == line_hash(lines(host)[5])
    boot = verdict(host)
    assert (boot.verdict, boot.fault and boot.fault.seq, boot.seq) == ("broken", 6, 7)


def test_a_file_of_nothing_but_damage_begins_a_chain_that_shows_it(host: Host) -> None:
    opened(host).close()
    append(host, b"x\ny\n")
    journal = opened(host)
    assert journal.record("shutdown")
    assert [journal.seq, verdict(host).verdict] == [3, "broken"]


def test_a_file_without_a_record_in_64_mib_is_left_alone_and_the_boot_goes_on(host: Host) -> None:
    opened(host).close()
    os.truncate(path(host), 70 << 20)
    append(host, b"\n")
    journal = opened(host)
    assert journal.is_full
    assert "no record" in journal.problems[0].message
    assert not journal.record("shutdown")
    assert last_record(host, BOOT) is None
    assert list(journal.events()) == []


@pytest.mark.parametrize("what", ["link", "folder", "fifo"])
def test_what_stands_in_the_traces_place_is_set_aside_and_nothing_is_written_through_it(host: Host, what: str) -> None:
    os.mkdir(logs(host))
    victim = f"{host.root}/victim"
    match what:
        case "link":
            os.symlink(victim, path(host))
        case "folder":
            os.mkdir(path(host))
        case _:
            os.mkfifo(path(host))
    journal = written(host, 1)
    assert [problem.reason for problem in journal.problems] == ["trace-replaced"]
    assert not os.path.exists(victim)
    assert verdict(host).records == 1
    assert len([name for name in os.listdir(logs(host)) if name.startswith(".set-aside-")]) == 1


def test_a_folder_of_logs_that_is_a_link_is_not_followed(host: Host) -> None:
    elsewhere = f"{host.root}/elsewhere"
    os.mkdir(elsewhere)
    os.symlink(elsewhere, logs(host))
    journal = opened(host)
    assert not journal.record("boot", agent="1")
    assert (journal.is_full, journal.lost, os.listdir(elsewhere)) == (True, 1, [])


@pytest.mark.parametrize(("on_full", "then"), [("degrade", "on the console"), ("strict", "no user script")])
def test_what_follows_when_the_trace_is_full_is_said_once(host: Host, on_full: str, then: str) -> None:
    with open(logs(host), "wb"):
        journal = Journal.open(host, instance_id="i", on_full=on_full)
    assert not journal.record("boot")
    assert not journal.record("boot")
    assert not journal.sync()
    assert [(problem.reason, then in problem.message) for problem in journal.problems] == [("trace-full", True)]


def test_a_boot_id_that_is_a_path_leads_nowhere(host: Host) -> None:
    assert trace_path("../../etc/x é") == f"{LOGS}/trace-______etc_x__.jsonl"
    assert receipt_path(BOOT) == f"{LOGS}/receipt-{BOOT}.json"
    assert last_record(host, "../x") is None
    assert list(read_records(host, "../x")) == []


def test_the_last_record_is_what_the_next_boot_names(host: Host) -> None:
    journal = opened(host)
    assert last_record(host, BOOT) is None
    assert journal.record("shutdown")
    assert last_record(host, BOOT) == {"boot": BOOT, "seq": 1, "hash": journal.head}
    assert journal.head != GENESIS


def test_lines_that_are_no_records_are_passed_over(host: Host) -> None:
    journal = written(host, 1)
    append(host, b"{}\n" + b"x" * 10_000 + b"\n")
    assert journal.record("shutdown")
    assert [record["ev"] for record in journal.events()] == ["start", "shutdown"]


def test_an_unknown_event_is_a_bug_and_leaves_the_trace_usable(host: Host) -> None:
    journal = opened(host)
    with pytest.raises(ValueError, match="no event"):
        journal.record("party")
    assert opened(host).record("shutdown")


def test_a_writer_that_never_lets_go_of_the_lock_costs_its_patience_once(host: Host) -> None:
    journal = opened(host)
    journal._patience_s = 0.004
    with open(path(host), "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not journal.record("network", state="up")
        assert journal._patience_s <= 0
        assert not journal.record("network", state="up")
    assert journal.record("shutdown")
    assert (journal.lost, verdict(host).verdict) == (2, "intact")


def test_what_can_not_be_made_durable_is_not_called_durable(host: Host) -> None:
    journal = opened(host)
    read_fd, write_fd = os.pipe()  # refuses to be synchronised
    own_fd, journal._fd = journal._fd, write_fd
    journal._is_dirty = True
    with open(host.files.real(reserve.RESERVE), "wb"):
        assert not journal.sync()
    assert (journal.is_full, os.path.exists(host.files.real(reserve.RESERVE))) == (True, False)
    assert not journal.sync()
    journal._fd = own_fd
    assert journal.sync()
    os.close(read_fd)
    os.close(write_fd)


def test_a_file_that_refuses_writing_and_cutting_loses_the_record_and_nothing_else(host: Host) -> None:
    journal = written(host, 1)
    own_fd = journal._fd
    journal._fd = os.open("/dev/full", os.O_RDWR)
    journal._end_bytes = 0
    assert not journal.record("network", state="up")
    os.close(journal._fd)
    journal._fd = own_fd
    assert journal.record("shutdown")
    assert (journal.lost, verdict(host).verdict) == (1, "intact")


@needs_root
def test_a_full_disk_takes_back_half_a_line_and_the_trace_goes_on_when_there_is_room(
    host: Host, tmp_path: Path
) -> None:
    with mounted("tmpfs", tmp_path / "var/log", "size=128k"):
        journal = written(host)
        ballast = fill(logs(host))
        for number in range(20):
            journal.record("start", id=f"user/stop/{number}", sha512="cd" * 64, argv=["x" * 1000])
        assert journal.is_full
        assert journal.lost > 0
        assert lines(host)[-1] == b""
        os.unlink(ballast)
        assert journal.anchor()
        assert list(journal.events())[-1]["lost"] == journal.lost
        assert journal.record("shutdown")
        assert verdict(host).verdict == "intact"
        assert [problem.reason for problem in journal.problems] == ["trace-full"]
        assert "No space left on device" in journal.problems[0].message
        journal.close()


@needs_root
def test_what_was_reserved_in_the_file_serves_when_the_disk_is_full(host: Host, tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "var/log", "size=2M"):
        journal = written(host)
        fill(logs(host))
        for number in range(400):
            assert journal.record("start", id=f"user/stop/{number}", sha512="cd" * 64)
        assert not journal.is_full
        journal.close()


@needs_root
def test_where_the_file_system_reserves_nothing_a_file_beside_is_given_up_once(host: Host, tmp_path: Path) -> None:
    with mounted("ramfs", tmp_path / "var/log"):
        opened(host).close()
        assert os.path.getsize(host.files.real(reserve.RESERVE)) == reserve.RESERVES_BYTES[0]
        os.unlink(path(host))
        opened(host).close()  # the reserve of an earlier boot serves as well
    with mounted("tmpfs", tmp_path / "var/log", "size=192k"):
        journal = written(host)
        with open(host.files.real(reserve.RESERVE), "wb") as file:
            file.write(bytes(1 << 15))
        fill(logs(host))
        for number in range(10):
            assert journal.record("start", id=f"user/stop/{number}", sha512="cd" * 64, argv=["x" * 1000])
        assert not os.path.exists(host.files.real(reserve.RESERVE))
        assert not journal.is_full
        journal.close()


@needs_root
def test_a_file_system_that_is_read_only_at_first_gets_the_trace_once_it_is_not(host: Host, tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "var/log", "size=2M,ro"):
        journal = opened(host)
        assert not journal.record("network", state="up")
        assert "Read-only file system" in journal.problems[0].message
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path / "var/log")], check=True)
        assert journal.record("shutdown")
        assert (journal.seq, journal.lost, verdict(host).verdict) == (1, 1, "intact")
        journal.close()


@needs_root
def test_a_file_system_that_turns_read_only_says_so_and_loses_what_it_must(host: Host, tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "var/log", "size=2M"):
        written(host).close()
        append(host, b"torn")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "var/log")], check=True)
        assert not opened(host).record("network", state="up")
        reserve.give_back_older(host)
        host.is_clock_synchronised = lambda: True  # type: ignore[method-assign]  # whether this machine's is, varies
        reserve.forget_old(host, keep_days=-1)
        assert os.path.exists(path(host))


def test_what_earlier_boots_did_not_use_is_given_back_and_their_age_stays(host: Host) -> None:
    written(host).close()
    older = path(host).replace("trace-", "trace-older-")
    os.rename(path(host), older)
    os.utime(older, ns=(10**18, 10**18))
    with open(f"{logs(host)}/notes", "wb"):
        opened(host).close()
    assert os.stat(older).st_blocks * 512 < 1 << 16
    assert os.stat(older).st_mtime_ns == 10**18


@pytest.mark.parametrize(("clock", "left"), [("synchronised", 1), ("free", 4)])
def test_old_traces_and_receipts_go_when_the_clock_can_be_trusted(host: Host, clock: str, left: int) -> None:
    opened(host).close()
    for name in ("trace-old.jsonl", "receipt-old.json", "trace-older.jsonl"):
        with open(f"{logs(host)}/{name}", "wb"):
            os.utime(f"{logs(host)}/{name}", ns=(0, host.utc_ns() - 91 * 86_400 * 10**9))
    host.is_clock_synchronised = lambda: clock == "synchronised"  # type: ignore[method-assign]  # as above
    reserve.forget_old(host, keep_days=90)
    assert len(os.listdir(logs(host))) == left


def replace(host: Host) -> None:
    os.unlink(path(host))
    append(host, b"forged\n")


ATTACKS: dict[str, Callable[[Host], None]] = {
    "removed": lambda host: os.unlink(path(host)),
    "moved away": lambda host: os.rename(path(host), f"{path(host)}.away"),
    "replaced": replace,
    "folder removed": lambda host: shutil.rmtree(os.path.dirname(path(host))),
}


@pytest.mark.parametrize("how", ATTACKS)
def test_a_trace_that_is_taken_away_while_the_agent_runs_is_put_back_whole(host: Host, how: str) -> None:
    journal = written(host)
    before = lines(host)
    ATTACKS[how](host)
    assert journal.record("shutdown")
    assert [problem.reason for problem in journal.problems] == ["trace-deleted"]
    assert lines(host)[: len(before) - 1] == before[:-1]
    assert os.stat(path(host)).st_mode & 0o777 == 0o600
    assert (verdict(host).verdict, verdict(host).records) == ("intact", 6)
    journal.close()


def test_a_trace_that_is_cut_while_the_agent_runs_shows_it_and_a_collector_that_has_it_all_can_verify(
    host: Host,
) -> None:
    journal = written(host)
    collected = lines(host)
    os.truncate(path(host), 0)
    assert journal.record("shutdown")
    assert [problem.reason for problem in journal.problems] == ["trace-cut"]
    assert verdict(host).verdict == "broken"
    collected = [line for line in collected if line] + [lines(host)[0]]
    verifier = Verifier()
    verifier.feed([b"\n".join(collected) + b"\n"])
    assert [boot.verdict for boot in verifier.report().boots] == ["intact"]
    journal.close()
