"""The trace: its keys, its chain, and when it is durable."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, run
from tests.spec.scenes import boot, ids, lay, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

EVERY = ["v", "seq", "prev", "boot", "inst", "img", "utc", "mono_ns", "sync", "ev"]
KEYS = {
    "boot": "agent agent_sha512 policy_sha512 kernel image baseline modes last",
    "source": "owner source verdict reason bytes sha512",
    "start": "id sha512 bytes uid gid caps profile wished argv env_sha512 late",
    "end": "id exit signal reason wall_s user_s sys_s maxrss_bytes out_bytes out_sha512 killed sha512_after",
}


@pytest.fixture
def booted(machine: Machine, disk: Path) -> Machine:
    """Return a machine that was booted and stopped."""
    lay(disk, says(machine, "epilog.sh", "user/epilog.sh", "stop.d/x"))
    boot(machine, disk)
    boot(machine, disk, "stop")
    return machine


def lines(machine: Machine) -> list[bytes]:
    return b"".join(path.read_bytes() for path in (machine.root / "var/log/contextagent").glob("*.jsonl")).splitlines()


def test_every_record_has_the_promised_keys(booted: Machine) -> None:
    for record in booted.trace():
        assert list(record)[:10] == EVERY
        for key in KEYS.get(record["ev"], "").split():
            assert key in record, (record["ev"], key)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["utc"])
        assert isinstance(record["sync"], bool)
        assert record["v"] == 1
    events = [record["ev"] for record in booted.trace()]
    assert events[0] == "boot"
    assert events.count("boot") == 1
    assert events.count("anchor") >= 3, "one at each phase's end"
    assert events[-1] == "shutdown"


def test_every_line_names_the_hash_of_the_line_before(booted: Machine) -> None:
    prev = "0" * 64
    for number, line in enumerate(lines(booted), 1):
        record = json.loads(line)
        assert (record["seq"], record["prev"]) == (number, prev)
        prev = hashlib.sha256(line).hexdigest()


def test_a_whole_boot_verifies_as_intact_with_0_and_one_that_was_not_stopped_as_open_with_2(
    booted: Machine, disk: Path
) -> None:
    assert booted.run("trace", "verify").code == 0
    booted.reboot()
    boot(booted, disk)
    done = booted.run("trace", "verify", "--format", "json")
    assert done.code == 2
    assert [each["verdict"] for each in json.loads(done.out)["boots"]] == ["intact", "open"]


def test_a_second_stop_leaves_the_trace_intact(booted: Machine, disk: Path) -> None:
    boot(booted, disk, "stop")
    assert booted.run("trace", "verify").code == 0


def test_the_next_boots_first_record_names_the_last_one_of_the_boot_before(booted: Machine, disk: Path) -> None:
    last = lines(booted)[-1]
    before = booted.status()["boot_id"]
    booted.reboot()
    boot(booted, disk)
    found = next(record for record in booted.trace() if record["ev"] == "boot" and record["boot"] != before)["last"]
    assert found == {"boot": before, "seq": json.loads(last)["seq"], "hash": hashlib.sha256(last).hexdigest()}


def test_names_and_output_forge_no_record_and_every_line_is_short_ascii(machine: Machine, disk: Path) -> None:
    evil = 'x\u202e" , "ev": "end'
    lay(disk, {f"post-network.d/{evil}": "exit 0", f"post-network.d/{'ü' * 120}": "exit 0"})
    lay(disk, {"user/post-network.d/ok": 'printf \'{"v":1,"ev":"end"}\\n\'; exit 1', f"files/etc/{'é' * 100}": "x"})
    boot(machine, disk)
    for line in lines(machine):
        assert line.isascii()
        assert len(line) < 4000
        json.loads(line)
    assert f"site/post-network/post-network.d/{evil}" in ids(machine)
    assert machine.run("trace", "verify").code == 2


def test_a_start_is_durable_before_its_script_is_executed(machine: Machine, disk: Path, tmp_path: Path) -> None:
    lay(disk, {"epilog.sh": "#!/bin/sh\ntrue\n"})
    log = tmp_path / "strace"
    calls = "trace=execve,write,pwrite64,writev,fsync,fdatasync"
    strace = ("strace", "-f", "-y", "-s", "100000", "-e", calls, "-o", str(log))
    done = run((*strace, *AGENT, "--root", str(machine.root), "run", "--metadata", "none", "--disk", str(disk)))
    assert done.code == 0, done.err
    seen = log.read_text().splitlines()
    executed = next(at for at, line in enumerate(seen) if "execve(" in line and "epilog.sh" in line)
    written = next(at for at, line in enumerate(seen) if "write" in line and '\\"ev\\":\\"start\\"' in line)
    synced = next(at for at, line in enumerate(seen) if at > written and "sync(" in line and "trace-" in line)
    assert written < synced < executed


def test_the_start_names_what_runs_by_digest_and_the_end_what_is_left(machine: Machine, disk: Path) -> None:
    text = b"#!/bin/sh\necho hello\nexit 3\n"
    lay(disk, {"epilog.sh": text})
    boot(machine, disk)
    start, end = (next(each for each in machine.trace() if each["ev"] == event) for event in ("start", "end"))
    digest = hashlib.sha512(text).hexdigest()
    assert (start["sha512"], start["bytes"], end["sha512_after"]) == (digest, len(text), digest)
    assert (end["exit"], end["signal"], end["reason"], end["out_bytes"]) == (3, None, "exit", 6)
    assert end["out_sha512"] == hashlib.sha512(b"hello\n").hexdigest()
    assert start["argv"][-1] == "start"
    asked = machine.run("trace", "show", "--sha512", digest, "--format", "json")
    assert next(each["id"] for each in json.loads(asked.out)) == "site/post-network/epilog.sh"


def test_the_source_record_tells_what_was_taken(booted: Machine) -> None:
    found = {each["owner"]: each for each in booted.trace() if each["ev"] == "source"}
    assert {owner: each["source"] for owner, each in found.items()} == {"site": "disk:hepix", "user": "disk:hepix"}
    assert all(each["bytes"] > 0 and len(each["sha512"]) >= 64 for each in found.values())


def test_no_secret_of_a_context_is_in_trace_status_or_messages(machine: Machine, disk: Path) -> None:
    lay(disk, {"context.sh": "ONEGATE_TOKEN=CANARYSECRET\nDB_PASSWORD=CANARYSECRET\nUSER_DATA='CANARYSECRET'\n"})
    lay(disk, {"epilog.sh": "echo CANARYSECRET; exit 1\n", "user/epilog.sh": "echo CANARYSECRET\n"})
    done = boot(machine, disk)
    told = [done.out, done.err, json.dumps(machine.status()), b"\n".join(lines(machine)).decode()]
    told += [machine.run(verb).out for verb in ("status", "explain", "plan", "receipt", "analyze", "trace show")]
    assert "CANARYSECRET" not in "".join(told)
