"""What the watch sends out: a heartbeat, the receipt, and READY to OneGate, each of which may fail without harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority
from tests.puts import Puts
from tests.watching import Hour, SlowHost, Watching, free_port, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine import Machine

TOKEN = "onegate-9f2c71d04be84aa3"
HEARTBEAT = "/joboutputs/vm-heartbeat"


@pytest.fixture
def puts() -> Iterator[Puts]:
    with Puts() as made:
        yield made


def policy(machine: Machine, *, seconds: int = 60, has_heartbeat: bool = True) -> None:
    beat = f"pilot:\n  heartbeat:\n    file: vm-heartbeat\n    seconds: {seconds}\n" if has_heartbeat else ""
    machine.put("etc/contextagent/policy.yaml", f"watch:\n  http: 127.0.0.1:{free_port()}\n{beat}")


def boot(machine: Machine, disk: Path, variables: str, *, epilog: str = "exit 0", code: int = 0) -> None:
    (disk / "context.sh").write_text(variables)
    (disk / "epilog.sh").write_text(f"#!/bin/sh\n{epilog}\n")
    done = machine.run("run", "--disk", str(disk))
    assert done.code == code, done.err


def beats(puts: Puts) -> list[bytes]:
    return [each.body for each in puts.taken if each.path == HEARTBEAT]


def test_a_heartbeat_is_one_line_with_the_time_at_every_beat(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, seconds=60)
    machine.put("proc/loadavg", "0.01 0.02 0.03 1/100 4711\n")
    boot(machine, disk, f"JOBOUTPUTS={puts.url()}\n")
    host = SlowHost(str(machine.root))
    Hour(host).run(10 * 60 - 1)
    assert len(beats(puts)) == 10
    assert len(set(beats(puts))) == 10
    for beat in beats(puts):
        time, *load = beat.decode().removesuffix("\n").split(" ")
        assert time.endswith("Z")
        assert load == ["load", "0.01", "0.02", "0.03"]


def test_a_heartbeat_goes_on_after_what_went_wrong(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, seconds=1)
    boot(machine, disk, f"JOBOUTPUTS={puts.url()}\n")
    puts.statuses[HEARTBEAT] = [500, 500, 403, 302, 201]
    with Watching(machine) as watching:
        until(lambda: len(beats(puts)) >= 6, "it beats again")
    assert watching.log.count("cannot put") == 3, watching.log
    assert watching.log.count("is delivered again") == 1
    assert "/elsewhere" not in puts.bodies()


def test_there_are_never_two_beats_on_the_way(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, seconds=1)
    boot(machine, disk, f"JOBOUTPUTS={puts.url()}\n")
    puts.held.add(HEARTBEAT)
    with Watching(machine):
        until(lambda: len(beats(puts)) >= 5, "five beats are tried")
    assert puts.most_waiting == 1


def test_a_beat_dies_with_a_watch_that_is_killed(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, seconds=60)
    boot(machine, disk, f"JOBOUTPUTS={puts.url()}\n")
    puts.held.add(HEARTBEAT)
    with Watching(machine) as watching:
        until(lambda: puts.waiting, "a beat is on its way")
        watching.process.kill()
        until(lambda: not puts.waiting, "it is given up")
    puts.held.clear()
    with Watching(machine):
        until(lambda: len(beats(puts)) > 1, "the next watch beats at once")


def test_without_a_url_the_heartbeat_goes_into_the_folder(machine: Machine, disk: Path) -> None:
    policy(machine, seconds=1)
    boot(machine, disk, "TTL=24\n")
    path = machine.root / "etc/joboutputs/vm-heartbeat"
    with Watching(machine):
        until(path.exists, "it beats")
        first = path.read_bytes()
        until(lambda: path.read_bytes() != first, "it beats again")
    assert sorted(os.listdir(path.parent)) == ["receipt.json", "vm-heartbeat"]


def test_the_receipt_is_delivered_once_and_as_it_stands(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, has_heartbeat=False)
    boot(machine, disk, f"JOBOUTPUTS={puts.url()}\n")
    puts.statuses["/joboutputs/receipt.json"] = [500, 500, 500, 201]
    host = SlowHost(str(machine.root))
    Hour(host).run(3600)
    Hour(host).run(3600)
    sent = [each.body for each in puts.taken if each.path == "/joboutputs/receipt.json"]
    assert len(sent) == 4  # two tries at once, and two more a minute later
    (kept,) = (machine.root / "var/log/contextagent").glob("receipt-*.json")
    assert set(sent) == {kept.read_bytes()}
    assert json.loads(sent[0])["boot"]


def test_a_receipt_that_is_still_to_come_is_waited_for(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, has_heartbeat=False)
    boot(machine, disk, f"JOBOUTPUTS={puts.url()}\n")
    (kept,) = (machine.root / "var/log/contextagent").glob("receipt-*.json")
    later = kept.rename(machine.root / "receipt")
    host = SlowHost(str(machine.root))
    hour = Hour(host)
    hour.poller.at[host.boot_s + 150] = lambda: later.rename(kept)
    hour.run(600)
    assert [each.path for each in puts.taken] == ["/joboutputs/receipt.json"]


def test_over_tls_and_by_a_name_the_machine_shows_the_pilots_certificate(
    machine: Machine, disk: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    mine = authority.issue("worker1.site.example")
    machine.put("root/proxy.pem", mine.cert.read_text() + mine.key.read_text(), mode=0o600)
    machine.put(f"etc/grid-security/certificates/{authority.hash()}.0", authority.cert.read_text())
    policy(machine, seconds=1)
    (disk / "site.yaml").write_text("pilot:\n  credential:\n    path: /root/proxy.pem\n")
    with Puts(certificate=authority.issue("localhost"), clients=authority) as puts:
        boot(machine, disk, f"JOBOUTPUTS={puts.url(host='localhost')}\n")
        with Watching(machine) as watching:
            until(lambda: len(beats(puts)) > 1 or "cannot" in watching.log, "it beats")
        assert watching.log == ""
    assert {each.subject for each in puts.taken} == {"commonName=worker1.site.example"}


def asking(puts: Puts, token: str = "") -> str:
    lines = ["REPORT_READY=YES", f"ONEGATE_ENDPOINT='{puts.url('')}'", "VMID=42"]
    return "\n".join([*lines, *([f"ONEGATE_TOKEN='{token}'"] if token else []), ""])


def readies(puts: Puts) -> list[tuple[str, bytes, str, str]]:
    wanted = [each for each in puts.taken if "x-onegate-token" in each.headers]
    return [(each.path, each.body, each.headers["x-onegate-token"], each.headers["x-onegate-vmid"]) for each in wanted]


@pytest.mark.parametrize("where", ["variable", "file"])
def test_ready_is_reported_once_a_boot_with_both_headers(machine: Machine, disk: Path, puts: Puts, where: str) -> None:
    policy(machine, has_heartbeat=False)
    if where == "file":
        (disk / "token.txt").write_text(f"{TOKEN}\n")
    for number in (1, 2):
        boot(machine, disk, asking(puts, TOKEN if where == "variable" else ""))
        host = SlowHost(str(machine.root))
        Hour(host).run(600)
        Hour(host).run(600)
        assert readies(puts) == [("/vm", b"READY=YES", TOKEN, "42")] * number
        machine.reboot()


def test_a_service_that_is_busy_is_told_later(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, has_heartbeat=False)
    boot(machine, disk, asking(puts, TOKEN))
    puts.statuses["/vm"] = [503] * 6 + [200]
    Hour(SlowHost(str(machine.root))).run(3600)
    assert len(readies(puts)) == 7


def test_a_boot_that_failed_is_not_ready(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, has_heartbeat=False)
    boot(machine, disk, asking(puts, TOKEN), epilog="exit 1", code=1)
    Hour(SlowHost(str(machine.root))).run(600)
    assert readies(puts) == []


@pytest.mark.parametrize(
    ("lack", "said"),
    [
        ("ONEGATE_ENDPOINT", "there is no ONEGATE_ENDPOINT"),
        ("ONEGATE_TOKEN", "there is no token"),
        ("VMID", "there is no VMID"),
        ("REPORT_READY", ""),
    ],
)
def test_what_is_missing_is_said_once_and_nothing_sent(
    machine: Machine, disk: Path, puts: Puts, capfd: pytest.CaptureFixture[str], lack: str, said: str
) -> None:
    policy(machine, has_heartbeat=False)
    boot(machine, disk, "".join(line + "\n" for line in asking(puts, TOKEN).splitlines() if not line.startswith(lack)))
    Hour(SlowHost(str(machine.root))).run(600)
    assert readies(puts) == []
    log = capfd.readouterr().err
    assert log.count("READY") == (1 if said else 0)
    assert said in log


def test_a_token_that_could_be_two_headers_is_sent_to_nobody(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, has_heartbeat=False)
    boot(machine, disk, asking(puts) + f"ONEGATE_TOKEN=$'{TOKEN}\\r\\nX-Other: 1'\n")
    Hour(SlowHost(str(machine.root))).run(600)
    assert readies(puts) == []


@pytest.mark.parametrize("status", [200, 403, 500])
def test_the_token_is_found_in_nothing_that_others_read_or_that_leaves(
    machine: Machine, disk: Path, puts: Puts, status: int
) -> None:
    policy(machine, seconds=1)
    (disk / "token.txt").write_text(TOKEN)
    boot(machine, disk, asking(puts) + f"JOBOUTPUTS={puts.url()}\n", epilog="env; set; exit 0")
    puts.statuses["/vm"] = [status]
    with Watching(machine) as watching:
        until(lambda: readies(puts) and beats(puts), "it reports and beats")
        others = [path.read_bytes() for path in (machine.root.parent).glob("*.log")]
        mine = [Path(f"/proc/{watching.process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert "READY" not in watching.log or status != 200
    machine.run("run", "stop")
    assert all(TOKEN.encode() not in text for text in (*others, *mine, watching.log.encode()))
    bodies = [each.body for each in puts.taken] + [
        str(each.headers).encode() for each in puts.taken if each.path != "/vm"
    ]
    assert all(TOKEN.encode() not in body for body in bodies)
    for verb in ("status", "explain", "query policy", "trace show", "receipt", "features show"):
        done = machine.run(*verb.split())
        assert TOKEN not in done.out + done.err, verb
    found = {
        str(path.relative_to(machine.root))
        for path in machine.root.rglob("*")
        if path.is_file() and TOKEN.encode() in path.read_bytes()
    }
    private = ("var/lib/contextagent/", "var/lib/hepix/context/token.txt")
    assert all(each.startswith(private) for each in found), found
