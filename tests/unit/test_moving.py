"""What moves while a machine lives, and is written by several processes: records, drains, the status."""

from __future__ import annotations

import fcntl
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import CannotWriteError
from contextagent.features.lifetime import End, Now
from contextagent.host import Host
from contextagent.runner import status
from contextagent.runner.appending import append
from contextagent.runner.drain import DRAIN, load_drain, store_drain
from contextagent.runner.live import Live, store_live
from contextagent.runner.state import State, save
from tests.machine import AGENT, run
from tests.watching import SlowHost

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.runner.appending import Written
    from tests.machine import Machine


@pytest.fixture
def host(machine: Machine) -> SlowHost:
    host = SlowHost(str(machine.root))
    host.files.make_folder(host.run_folder, 0o755)
    save(host, State(instance_id="vm-1", boot_id=host.boot_id()))
    return host


def told(host: Host, epoch_s: int, *, patience_s: float = 0.01) -> Written:
    facts = {"shutdown_epoch_s": epoch_s, "bound_by": "drain"}
    return append(host, "lifetime", facts, instance_id="vm-1", on_full="degrade", patience_s=patience_s)


def trace(machine: Machine) -> Path:
    (path,) = (machine.root / "var/log/contextagent").glob("trace-*.jsonl")
    return path


def test_a_record_is_durable_and_in_the_chain_of_all_others(host: Host, machine: Machine) -> None:
    assert [told(host, number) for number in range(3)] == ["durable"] * 3
    assert [each["seq"] for each in machine.trace()] == [1, 2, 3]
    assert run([*AGENT, "trace", "verify", str(trace(machine))]).code in (0, 2)


def test_a_trace_that_another_process_holds_is_busy_and_nothing_is_written(host: Host, machine: Machine) -> None:
    told(host, 1)
    with trace(machine).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert told(host, 2) == "busy"
        assert told(host, 2, patience_s=0.0) == "busy"
    assert told(host, 3) == "durable"
    assert [each["shutdown_epoch_s"] for each in machine.trace()] == [1, 3]


def test_a_trace_that_cannot_be_written_is_lost_and_not_waited_for(host: Host, machine: Machine) -> None:
    machine.put("var/log/contextagent", "no folder")
    assert told(host, 1) == "lost"


def test_an_event_that_does_not_exist_is_a_bug(host: Host) -> None:
    with pytest.raises(ValueError, match="no event"):
        append(host, "nonsense", {}, instance_id="vm-1", on_full="degrade", patience_s=0.0)


NOW = Now(utc_s=1_800_000_000.0, boot_s=500.0)


@pytest.mark.parametrize("clock", ["wall", "boot"])
def test_a_drain_is_counted_by_the_clock_since_boot_while_the_boot_lasts(host: Host, clock: str) -> None:
    at_s = 500.0 + 900 if clock == "boot" else NOW.utc_s + 900
    end = End(by="drain", clock="boot" if clock == "boot" else "wall", at_s=at_s)
    store_drain(host, "vm-1", end, NOW)
    assert load_drain(host, "vm-1") == End(by="drain", clock="boot", at_s=1400.0)


def test_after_a_reboot_a_drain_stands_on_the_wall_clock(host: Host, machine: Machine) -> None:
    store_drain(host, "vm-1", End(by="drain", clock="boot", at_s=1400.0), NOW)
    machine.reboot()
    assert load_drain(Host(host.root), "vm-1") == End(by="drain", clock="wall", at_s=NOW.utc_s + 900)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"boot_id": "x", "utc_s": "soon"}', '{"boot_id": "x"}'])
def test_a_drain_that_is_damaged_is_none(host: Host, machine: Machine, text: str) -> None:
    machine.put(f"var/lib/contextagent/instances/vm-1/{DRAIN}", text)
    assert load_drain(host, "vm-1") is None


def test_nobody_without_an_instance_is_drained(host: Host) -> None:
    assert load_drain(host, "") is None
    assert load_drain(host, "another") is None


def published(host: Host) -> None:
    state = State(instance_id="vm-1", boot_id=host.boot_id())
    status.publish(host, status.make_status(state, order=("pre-network", "post-network")))


def test_the_status_has_the_lifetime_and_the_pilot_of_this_moment(host: SlowHost, machine: Machine) -> None:
    end = End(by="drain", clock="wall", at_s=2e9)
    store_live(host, Live(boot_id=host.boot_id(), ends=(end,), pilot={"state": "waiting"}))
    published(host)
    assert machine.status()["lifetime"] == {"shutdown_epoch_s": 2_000_000_000, "bound_by": "drain"}
    assert machine.status()["pilot"] == {"state": "waiting"}
    store_live(host, Live(boot_id=host.boot_id()))
    assert machine.status()["pilot"] == {"state": "waiting"}
    status.refresh(host)
    assert (machine.status()["lifetime"], machine.status()["pilot"]) == (None, None)


def test_what_another_boot_left_is_in_no_status(host: SlowHost, machine: Machine) -> None:
    store_live(host, Live(boot_id="another", pilot={"state": "running"}))
    published(host)
    assert machine.status()["pilot"] is None


def test_a_status_that_is_none_is_left_to_the_next_run(host: Host, machine: Machine) -> None:
    status.refresh(host)
    assert not (machine.root / "run/contextagent/status.json").exists()
    for text in ("{", '{"schema": 1, "boot_id": "another"}'):
        machine.put("run/contextagent/status.json", text)
        status.refresh(host)
        assert machine.text("run/contextagent/status.json") == text


def test_whoever_was_stopped_while_writing_the_status_holds_nobody_up(host: Host, machine: Machine) -> None:
    lock = os.open(machine.root / "run/contextagent/status.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    published(host)
    os.close(lock)
    assert machine.status()["instance_id"] == "vm-1"


def test_a_status_that_cannot_be_locked_is_an_error_with_a_name(host: Host, machine: Machine) -> None:
    (machine.root / "run/contextagent/status.lock").mkdir()
    with pytest.raises(CannotWriteError, match=r"cannot lock '/run/contextagent/status\.lock'"):
        published(host)


def test_no_update_of_the_status_is_lost_between_two_processes(host: Host, machine: Machine) -> None:
    """A run publishes while a watch refreshes: whoever comes last, the file has this moment's lifetime."""
    published(host)
    code = (
        "import sys; from contextagent.host import Host; from contextagent.runner import status\n"
        "from contextagent.runner.live import End, Live, store_live\n"
        "host = Host(sys.argv[1])\n"
        "for number in range(1, 200):\n"
        "    end = End(by='drain', clock='wall', at_s=2e9 + number)\n"
        "    store_live(host, Live(boot_id=host.boot_id(), ends=(end,)))\n"
        "    status.refresh(host)\n"
    )
    other = subprocess.Popen([AGENT[0], "-c", code, host.root], cwd=os.fspath(machine.root.parent), env=_here())
    while other.poll() is None:
        published(host)
    assert other.returncode == 0
    assert machine.status()["lifetime"]["shutdown_epoch_s"] == 2_000_000_199


def _here() -> dict[str, str]:
    from tests.machine import REPOSITORY  # noqa: PLC0415  # only this test needs it

    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
