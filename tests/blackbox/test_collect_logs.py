"""`collect-logs`: useful in a ticket on any machine, and nobody's secret is in it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.canaries import CANARY, POLICY, disk, has_canary, shouts
from tests.disks import folder_with
from tests.machine import AGENT, Machine, run

if TYPE_CHECKING:
    from tests.machine import Guest

WHOLE = [
    *("README", "versions.json", "status.json", "status.txt", "explain.txt", "settings.json", "memory.json"),
    *("traces/", "verify.json", "receipts/", "files.txt", "missing.txt"),
]


def collected(machine: Machine, path: Path) -> dict[str, bytes]:
    """Return what is in a new archive, by name."""
    done = machine.run("collect-logs", str(path))
    assert done.code == 0, done.err
    with tarfile.open(path) as archive:
        found = [(member, archive.extractfile(member)) for member in archive.getmembers()]
        assert all(member.isreg() and member.mode == 0o600 for member, _ in found)
        return {member.name.partition("/")[2]: file.read() for member, file in found if file}


@pytest.fixture
def booted(machine: Machine, tmp_path: Path) -> Machine:
    """Return a machine that was booted from a disk full of secrets."""
    machine.put("etc/contextagent/policy.yaml", POLICY)
    machine.run("run", "--disk", str(disk(tmp_path / "disk")))
    return machine


def test_a_ticket_tells_how_the_boot_went(booted: Machine, tmp_path: Path) -> None:
    pieces = collected(booted, tmp_path / "x.tar.gz")
    (trace,) = (booted.root / "var/log/contextagent").glob("trace-*")
    (receipt,) = (booted.root / "var/log/contextagent").glob("receipt-*")
    names = {"traces/": f"traces/{trace.name}", "receipts/": f"receipts/{receipt.name}"}
    assert list(pieces) == [names.get(name, name) for name in WHOLE]
    assert pieces[f"traces/{trace.name}"] == trace.read_bytes()
    assert json.loads(pieces["status.json"])["scripts"] == booted.status()["scripts"]
    warnings = {each["message"] for each in json.loads(pieces["status.json"])["warnings"]}
    assert warnings >= {each["message"] for each in booted.status()["warnings"] if "://" not in each["message"]}
    assert b"10-fails  failed  3" in pieces["status.txt"]
    assert b"result failed" in pieces["explain.txt"]
    settings = json.loads(pieces["settings.json"])
    assert settings["user.profile"] == {"value": "unprivileged", "voice": "default", "path": "", "line": 0}
    (collector,) = settings["logging.collectors"]["value"]
    assert (collector["host"], collector["protocol"], collector["key"]) == ("127.0.0.1", "tls", "[20 characters]")
    memory = json.loads(pieces["memory.json"])
    assert "SITE_PASSWORD" in memory["supplies"]["site"]["variables"]
    assert memory["instance_id"] == booted.status()["instance_id"]
    assert [boot["verdict"] for boot in json.loads(pieces["verify.json"])["boots"]] == ["open"]
    assert f"-rw------- {os.getuid()}:{os.getgid()}".encode() in b" ".join(pieces["files.txt"].split())
    assert b"not asked of below --root" in pieces["missing.txt"]


def test_no_secret_of_any_input_is_in_a_ticket(booted: Machine, tmp_path: Path) -> None:
    pieces = collected(booted, tmp_path / "x.tar.gz")
    assert [name for name, data in pieces.items() if has_canary(data)] == []
    assert not has_canary((tmp_path / "x.tar.gz").read_bytes())


def test_no_secret_is_in_a_ticket_though_it_was_written_where_it_does_not_belong(
    booted: Machine, tmp_path: Path
) -> None:
    status = booted.status()
    status["warnings"] = [{"reason": "x", "message": f"said {CANARY} and {CANARY.encode().hex()}", "password": "hush"}]
    booted.put("run/contextagent/status.json", json.dumps(status))
    booted.put(f"var/lib/hepix/context/{CANARY.replace('/', '_')}", "x")
    data = collected(booted, tmp_path / "x.tar.gz")["status.json"]
    assert not has_canary(data)
    (said,) = json.loads(data)["warnings"]
    assert said == {"reason": "x", "message": "said [masked] and [masked]", "password": "[masked]"}


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        ("run/contextagent/status.json", {"status.txt", "explain.txt"}),
        ("var/lib/contextagent/instances/*/state.json", set()),
        ("etc/contextagent/policy.yaml", {"settings.json"}),
        ("var/log/contextagent/trace-*", set()),
        ("var/log/contextagent/receipt-*", set()),
    ],
)
@pytest.mark.parametrize("damage", [b"", b"{", b"\0\xff" * 50])
def test_a_machine_with_a_damaged_file_gives_the_rest(
    booted: Machine, tmp_path: Path, path: str, lost: set[str], damage: bytes
) -> None:
    whole = set(collected(booted, tmp_path / "whole.tar.gz"))
    (file,) = booted.root.glob(path)
    file.write_bytes(damage)
    pieces = collected(booted, tmp_path / "x.tar.gz")
    assert whole - set(pieces) in (lost if damage else set(), lost, set())
    assert not any(has_canary(data) for data in pieces.values())


def test_a_machine_on_which_nothing_ever_ran_gives_what_there_is(machine: Machine, tmp_path: Path) -> None:
    pieces = collected(machine, tmp_path / "x.tar.gz")
    assert list(pieces) == ["README", "versions.json", "settings.json", "verify.json", "files.txt", "missing.txt"]
    assert b"status.txt: cannot tell 'status': the agent has not run in this boot" in pieces["missing.txt"]


def test_a_ticket_is_for_its_caller_alone_and_replaces_nothing(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    collected(machine, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    done = machine.run("collect-logs", str(path))
    assert (done.code, done.err.splitlines()[0]) == (73, f"contextagent: cannot write '{path}': it is there already")
    (tmp_path / "link.tar.gz").symlink_to(tmp_path / "elsewhere")
    assert machine.run("collect-logs", f"{tmp_path}/link.tar.gz").code == 73
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == ["x.tgz"]


@pytest.mark.parametrize(("path", "code"), [("x.zip", 64), ("none/x.tar.gz", 73), ("", 64)])
def test_a_ticket_that_cannot_be_written_leaves_nothing(machine: Machine, tmp_path: Path, path: str, code: int) -> None:
    done = machine.run("collect-logs", f"{tmp_path}/{path}" if path else "")
    assert (done.code, done.err.startswith("contextagent: cannot write '")) == (code, True)
    assert [each for each in tmp_path.rglob("*") if each.is_file() and machine.root not in each.parents] == []


def test_two_tickets_of_a_machine_have_the_same_pieces_in_the_same_order(booted: Machine, tmp_path: Path) -> None:
    for _ in range(2):
        booted.reboot()
        booted.run("run", "--disk", str(tmp_path / "disk"))
    one, two = (collected(booted, tmp_path / name) for name in ("1.tar.gz", "2.tar.gz"))
    assert list(one) == list(two)
    traces = [name for name in one if name.startswith("traces/")]
    assert traces == sorted(traces, reverse=True)
    assert len(traces) == 3
    assert {name for name in one if one[name] != two[name]} <= {"versions.json"}


def test_a_ticket_of_more_than_there_is_room_for_keeps_the_newest_traces(machine: Machine, tmp_path: Path) -> None:
    for number in range(6):
        path = machine.put(f"var/log/contextagent/trace-{number}.jsonl", os.urandom(1 << 20) * 14, 0o600)
        os.utime(path, (number, number))
    pieces = collected(machine, tmp_path / "x.tar.gz")
    assert [name for name in pieces if name.startswith("traces/")] == [f"traces/trace-{n}.jsonl" for n in (5, 4, 3, 2)]
    assert b"traces/trace-1.jsonl: no room for it in 64 MiB" in pieces["missing.txt"]
    assert sum(map(len, pieces.values())) <= 64 << 20


def test_a_whole_machine_asks_its_init_and_says_so_where_that_does_not_answer(guest: Guest, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", str(disk(tmp_path / "disk")), str(guest.root / "handed")], check=True)
    agent = " ".join(AGENT)
    words = f"{agent} run --disk /handed --metadata none; {agent} collect-logs /run/x.tar.gz --format json"
    done = guest.shell("sh", "-c", words)
    facts = json.loads(done.out[done.out.index("{") :])
    assert {"status.txt", "memory.json", "verify.json", "files.txt"} <= set(facts["pieces"])
    unheard = {line.partition(":")[0] for line in facts["missing"]}
    assert unheard | {"units.txt", "journal.txt"} & set(facts["pieces"]) == {"units.txt", "journal.txt"}
    assert not has_canary((guest.root / "run/x.tar.gz").read_bytes())


def test_what_the_log_daemons_were_told_is_in_a_ticket(machine: Machine, tmp_path: Path) -> None:
    machine.put("etc/rsyslog.d/10-contextagent.conf", f"# password={CANARY}\naction(tls.caCert='/etc/ca.pem')\n")
    machine.put("etc/rsyslog.d/20-of-the-image.conf", CANARY)
    pieces = collected(machine, tmp_path / "x.tar.gz")
    told = pieces["logging/etc/rsyslog.d/10-contextagent.conf"]
    assert told == b"# password=[masked]\naction(tls.caCert='/etc/ca.pem')\n"
    assert b"20-of-the-image.conf" in pieces["files.txt"]
    assert not any(has_canary(data) for data in pieces.values())


def test_a_caller_who_may_read_little_gets_that(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        machine = Machine(Path(place) / "machine")
        machine.run("run", "--disk", str(disk(tmp_path / "disk")), "--metadata", "none")
        Path(place).chmod(0o777)
        words = (*AGENT, "--root", str(machine.root), "collect-logs", f"{place}/x.tar.gz", "--format", "json")
        done = run(("setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", *words))
    facts = json.loads(done.out)
    assert done.code == 0, done.err
    assert "status.txt" in facts["pieces"]
    assert not {"memory.json", "verify.json"} & set(facts["pieces"])
    assert "traces: Permission denied" in facts["missing"]


def test_scripts_and_their_outputs_are_in_no_ticket(machine: Machine, tmp_path: Path) -> None:
    medium = folder_with(tmp_path / "disk", "prolog.sh")
    (medium / "prolog.sh").write_text(shouts("one") + "echo this was printed\n# this stands in it\n")
    machine.run("run", "--disk", str(medium))
    everything = b"".join(collected(machine, tmp_path / "x.tar.gz").values())
    assert b"prolog.sh.log" in everything
    assert b"this was printed" not in everything
    assert b"this stands in it" not in everything


def test_what_could_not_be_had_is_said_as_facts_too(machine: Machine, tmp_path: Path) -> None:
    facts = machine.facts("collect-logs", f"{tmp_path}/x.tar.gz")
    assert (facts["path"], facts["bytes"]) == (f"{tmp_path}/x.tar.gz", (tmp_path / "x.tar.gz").stat().st_size)
    assert "status.json: No such file or directory" in facts["missing"]
    assert facts["pieces"][0] == "README"
