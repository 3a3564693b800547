"""The watch's loop, where an hour takes no time: its wake-ups, its parts, its clocks, what it takes over."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.errors import CannotWriteError
from contextagent.features.lifetime import End, lifetime
from contextagent.runner.live import Live, clocks, load_live, store_live
from tests.watching import Hour, SlowHost, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.features.lifetime import Now
    from tests.machine import Machine

HOUR_S = 3600


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def host(machine: Machine, disk: Path, port: int) -> SlowHost:
    """Return a machine that was booted by an agent, and is watched by a test from then on."""
    machine.put(
        "etc/contextagent/policy.yaml",
        f"watch:\n  http: 127.0.0.1:{port}\nlifetime:\n  max_s: 86400\n  grace_s: 300\n",
    )
    (disk / "context.sh").write_text("TTL=48\n")
    (disk / "prolog.sh").write_text("#!/bin/sh\n")
    done = machine.run("run", "--disk", str(disk))
    assert done.code == 0, done.err
    return SlowHost(str(machine.root))


class Noted:
    """A part that notes when it was called, and wants what a test wants."""

    def __init__(self, every_s: float | None = None, *, error: Exception | None = None) -> None:
        self.calls: list[float] = []
        self.is_closed = False
        self._every_s = every_s
        self._error = error

    def wake(self, now: Now) -> float | None:
        self.calls.append(now.boot_s)
        if self._error is not None:
            raise self._error
        return None if self._every_s is None else now.boot_s + self._every_s

    def close(self) -> None:
        self.is_closed = True


def seconds(part: Noted, hour: Hour, start_s: float) -> list[int]:
    del hour
    return [round(call - start_s) for call in part.calls]


def test_an_idle_watch_wakes_up_at_most_once_a_minute(host: SlowHost) -> None:
    hour = Hour(host)
    hour.run(HOUR_S)
    assert len(hour.poller.naps_s) <= HOUR_S / 60
    assert min(hour.poller.naps_s) > 59  # no minute has two
    assert hour.loop.wake_ups <= len(hour.poller.naps_s) + 3  # the receipt is handed over once, and SIGTERM comes


def test_an_idle_watch_writes_nothing(host: SlowHost, machine: Machine) -> None:
    Hour(host).run(120)
    places = [path for path in machine.root.rglob("*") if "finish" not in path.parts and not path.is_symlink()]
    before = {path: path.stat().st_mtime_ns for path in places if path.is_file()}
    Hour(host).run(HOUR_S)
    changed = [str(path) for path, at_ns in before.items() if path.stat().st_mtime_ns != at_ns]
    assert not changed


def test_all_parts_share_each_wake_up(host: SlowHost) -> None:
    parts = [Noted(60), Noted(60), Noted(), Noted(1e9)]
    hour = Hour(host, parts)
    start_s = host.boot_s
    hour.run(300)
    for part in parts:
        assert seconds(part, hour, start_s)[:5] == [0, 60, 120, 180, 240]
    assert hour.loop.wake_ups <= 7


def test_a_part_is_called_when_it_wants_to_be(host: SlowHost) -> None:
    part = Noted(7)
    hour = Hour(host, [part])
    start_s = host.boot_s
    hour.run(30)
    assert seconds(part, hour, start_s)[:5] == [0, 7, 14, 21, 28]


def test_a_part_that_fails_keeps_no_other_from_its_work_and_is_tried_again(
    host: SlowHost, capfd: pytest.CaptureFixture[str]
) -> None:
    broken, fine = Noted(error=CannotWriteError("cannot write '/x': no room")), Noted(60)
    Hour(host, [broken, fine]).run(300)
    assert len(broken.calls) == len(fine.calls) > 4
    assert capfd.readouterr().err.count("cannot write '/x': no room, trying again every minute") == 1
    assert broken.is_closed
    assert fine.is_closed


def test_a_part_that_is_always_due_neither_spins_nor_keeps_signals_from_being_heard(host: SlowHost) -> None:
    class Hasty(Noted):
        def wake(self, now: Now) -> float | None:
            super().wake(now)
            host.move(0.02)  # it takes its time as well
            return now.boot_s - 5

    part = Hasty()
    hour = Hour(host, [part])
    start_s = host.boot_s
    hour.run(3)
    assert host.boot_s - start_s < 4
    assert len(part.calls) <= 3 / 0.02 + 3


def test_a_name_in_a_watched_folder_wakes_all_parts_at_once(host: SlowHost, machine: Machine) -> None:
    machine.put("run/contextagent/box/here", "")
    part = Noted()
    hour = Hour(host, [part])
    hour.watch.at_change("/run/contextagent/box")
    start_s = host.boot_s
    hour.poller.at[start_s + 10] = lambda: machine.put("run/contextagent/box/dropped", "x")
    hour.run(30)
    assert seconds(part, hour, start_s)[:2] == [0, 10]


def test_a_folder_that_comes_later_is_watched_from_then_on(host: SlowHost, machine: Machine) -> None:
    part = Noted()
    hour = Hour(host, [part])
    hour.watch.at_change("/run/contextagent/late")
    start_s = host.boot_s
    hour.poller.at[start_s + 10] = lambda: machine.put("run/contextagent/late/first", "x")
    hour.poller.at[start_s + 70] = lambda: machine.put("run/contextagent/late/second", "x")
    hour.run(90)
    assert seconds(part, hour, start_s)[:3] == [0, 60, 70]


def test_sighup_begins_anew_and_sigterm_wins(host: SlowHost) -> None:
    part = Noted()
    hour = Hour(host, [part])
    hour.poller.at[host.boot_s + 5] = lambda: os.kill(os.getpid(), signal.SIGHUP)
    assert hour.loop.run() == "again"
    hour._signals.close()
    assert part.is_closed
    hour = Hour(host, [Noted()])

    def both() -> None:
        for number in (signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)

    hour.poller.at[host.boot_s + 5] = both
    assert hour.loop.run() == "end"
    hour._signals.close()


def test_a_child_of_the_watch_dies_of_sigterm_and_writes_nothing_to_its_pipe(host: SlowHost) -> None:
    hour = Hour(host, [])
    pid = os.fork()
    if pid == 0:
        try:
            os.kill(os.getpid(), signal.SIGCHLD)
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os._exit(7)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert set(hour._signals.numbers()) <= {signal.SIGCHLD}  # the child's own end
    hour._signals.close()


def test_the_end_stands_still_while_the_clock_is_kept(host: SlowHost, machine: Machine) -> None:
    before = machine.text("etc/machinefeatures/shutdowntime")
    hour = Hour(host)
    for minute in range(20):
        hour.poller.at[host.boot_s + 30 + 60 * minute] = lambda: setattr(host, "utc_s", host.utc_s + 0.05)
    hour.run(1230)
    assert machine.text("etc/machinefeatures/shutdowntime") == before
    assert not [each for each in machine.trace() if each["ev"] == "lifetime"][1:]


@pytest.mark.parametrize("step_s", [-86_400.0, 3600.0, 1_000_000.0])
def test_a_step_of_the_clock_moves_what_is_published_and_not_what_is_left(
    host: SlowHost, machine: Machine, step_s: float
) -> None:
    before = int(machine.text("etc/machinefeatures/shutdowntime"))
    hour = Hour(host)
    live = load_live(host)
    assert live is not None
    left = lifetime(live.ends, clocks(host, live))
    assert left is not None
    hour.poller.at[host.boot_s + 5] = lambda: setattr(host, "utc_s", host.utc_s + step_s)
    hour.run(70)
    after = load_live(host)
    assert after is not None
    now_left = lifetime(after.ends, clocks(host, after))
    assert now_left is not None
    assert abs(int(machine.text("etc/machinefeatures/shutdowntime")) - before - step_s) <= 2
    assert abs(left.remaining_s - 70 - now_left.remaining_s) <= 2
    assert abs(machine.status()["lifetime"]["shutdown_epoch_s"] - before - step_s) <= 2
    told = [each for each in machine.trace() if each["ev"] == "lifetime"]
    assert told[-1]["shutdown_epoch_s"] == int(machine.text("etc/machinefeatures/shutdowntime"))


def test_a_clock_that_was_just_set_is_not_believed_for_a_minute(host: SlowHost) -> None:
    hour = Hour(host, [])
    watch = hour.watch
    assert watch.is_clock_steady(watch.now())
    host.move(60)
    assert watch.is_clock_steady(watch.now())
    host.utc_s += 1000
    assert not watch.is_clock_steady(watch.now())
    host.move(30)
    assert not watch.is_clock_steady(watch.now())
    host.move(31)
    assert watch.is_clock_steady(watch.now())
    hour._signals.close()


def test_a_clock_that_was_set_before_the_watch_began_is_not_believed_either(host: SlowHost) -> None:
    host.utc_s += 1000
    hour = Hour(host, [])
    assert not hour.watch.is_clock_steady(hour.watch.now())
    hour._signals.close()


def test_what_another_process_of_ours_publishes_is_taken_up_and_not_undone(host: SlowHost) -> None:
    hour = Hour(host, [])
    hour._signals.close()
    watch = hour.watch
    theirs = watch.live.replace(pilot={"framework": "command", "state": "waiting"})
    store_live(host, theirs)
    watch.change(is_handed_over=True)
    live = load_live(host)
    assert live == theirs.replace(is_handed_over=True) == watch.live


def test_what_a_run_by_hand_publishes_makes_the_watch_begin_anew(host: SlowHost, machine: Machine) -> None:
    hour = Hour(host)
    policy = machine.text("etc/contextagent/policy.yaml").replace("86400", "7200")

    def run_again() -> None:
        machine.put("etc/contextagent/policy.yaml", policy)
        assert machine.run("run", "--force", "--disk", str(machine.root.parent / "disk")).code == 0

    hour.poller.at[host.boot_s + 30] = run_again
    assert hour.loop.run() == "again"
    hour._signals.close()
    assert load_live(host) == hour.watch.live
    Hour(host).run(130)
    live = load_live(host)
    assert live is not None
    left = lifetime(live.ends, clocks(host, live))
    assert left is not None
    assert left.remaining_s < 7300


def test_a_change_is_in_the_status_at_once(host: SlowHost, machine: Machine) -> None:
    hour = Hour(host, [])
    hour._signals.close()
    pilot = {"framework": "command", "state": "running", "reason": None, "pid": 7, "code": None}
    hour.watch.change(pilot=pilot, ends=(End(by="drain", clock="boot", at_s=host.boot_s + 90),))
    status = machine.status()
    assert status["pilot"] == pilot
    assert status["lifetime"]["bound_by"] == "drain"


def test_a_live_file_that_is_no_more_is_passed_over(host: SlowHost, machine: Machine) -> None:
    hour = Hour(host, [])
    hour._signals.close()
    before = hour.watch.live
    machine.put("run/contextagent/live.json", "{")
    hour.watch.reread()
    assert hour.watch.live == before
    assert not hour.watch.is_stale


def test_a_missing_record_waits_for_the_trace_in_its_turn(host: SlowHost, machine: Machine) -> None:
    import fcntl  # noqa: PLC0415  # another process's hold, as far as the kernel can tell

    hour = Hour(host, [])
    hour._signals.close()
    (path,) = (machine.root / "var/log/contextagent").glob("trace-*.jsonl")
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not hour.watch.record("lifetime", shutdown_epoch_s=1, bound_by="drain")
        assert not hour.watch.record("lifetime", shutdown_epoch_s=2, bound_by="drain")
        assert hour.watch.due_s <= host.boot_s + 1
        fcntl.flock(held, fcntl.LOCK_UN)
    assert hour.watch.record("lifetime", shutdown_epoch_s=3, bound_by="drain")
    ends: list[Any] = [each["shutdown_epoch_s"] for each in machine.trace() if each["ev"] == "lifetime"]
    assert ends[-3:] == [1, 2, 3]


def test_a_watch_with_no_state_of_this_boot_keeps_what_was_published(host: SlowHost, machine: Machine) -> None:
    before = machine.text("etc/machinefeatures/shutdowntime")
    for state in (machine.root / "var/lib/contextagent").rglob("state.json"):
        state.unlink()
    hour = Hour(host)
    hour.run(130)
    assert machine.text("etc/machinefeatures/total_cpu")
    assert abs(int(machine.text("etc/machinefeatures/shutdowntime")) - int(before)) < 86_400 * 2


def test_live_speaks_of_one_boot_only(host: SlowHost) -> None:
    live = load_live(host)
    assert live is not None
    store_live(host, Live(boot_id="another"))
    assert load_live(host) is None
