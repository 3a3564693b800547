"""What nobody can do to the watch: blind it, deafen it, take its place, or have it give up."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.features.lifetime import End, Now
from contextagent.host import Host
from contextagent.runner import ending, wishes
from contextagent.runner.live import load_live, store_live
from contextagent.watch import heartbeat
from contextagent.watch.entry import gather
from contextagent.watch.loop import Loop, Signals
from tests.watching import Hour, SlowHost, Watching, free_port, until

if TYPE_CHECKING:
    from contextagent.watch.room import Watch
    from tests.machine import Machine


@pytest.fixture
def booted(machine: Machine, disk: Path) -> Machine:
    _policy(machine, "{max_s: 86400}")
    (disk / "prolog.sh").write_text("#!/bin/sh\n")
    assert machine.run("run", "--disk", str(disk)).code == 0
    return machine


def _policy(machine: Machine, lifetime: str) -> None:
    http = f"127.0.0.1:{free_port()}"
    machine.put("etc/contextagent/policy.yaml", f"watch: {{http: {http}}}\nlifetime: {lifetime}\n")


@pytest.mark.parametrize("text", ["x" * 1000, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 500, '"' * 1000])
def test_a_user_with_thousands_of_features_does_not_outlive_the_sites_end(
    machine: Machine, disk: Path, text: str
) -> None:
    _policy(machine, "{max_s: 86400}")
    (disk / "prolog.sh").write_text("#!/bin/sh\n")
    (disk / "user/features/job").mkdir(parents=True)
    (disk / "user/prolog.sh").write_text("#!/bin/sh\n")
    for number in range(1000):
        (disk / f"user/features/job/extra{number}").write_text(text)
    assert machine.run("run", "--disk", str(disk)).code in (0, 2)
    assert 0 < machine.facts("remaining")["remaining_s"] <= 86400
    with Watching(machine) as watching:
        assert watching.process.poll() is None
        assert watching.memory_mib() < 64


class Restless:
    """A part that always has more to do, as one whose folder is filled by somebody faster than it can be emptied."""

    def __init__(self, watch: Watch) -> None:
        self.calls = 0
        self._watch = watch

    def wake(self, _now: Now) -> None:
        self.calls += 1
        assert self.calls < 100, "the loop hears nothing any more"
        if self.calls == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        self._watch.poke()

    def close(self) -> None:
        """Nothing is held."""


def test_a_flood_of_requests_does_not_deafen_the_watch(booted: Machine) -> None:
    host = SlowHost(str(booted.root))
    live = load_live(host)
    assert live is not None
    watch = gather(host, None, live)
    signals = Signals()
    try:
        assert Loop(watch, [Restless(watch)], signals).run() == "end"
    finally:
        signals.close()


def test_who_may_only_read_the_watchs_mark_can_not_stand_in_for_it(booted: Machine) -> None:
    with Watching(booted) as watching:
        mark = os.open(booted.root / "run/contextagent/watch.pid", os.O_RDONLY)
        try:
            assert wishes.is_watched(Host(str(booted.root)))
            watching.process.kill()
            watching.process.wait()
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert not wishes.is_watched(Host(str(booted.root)))
        finally:
            os.close(mark)


def test_a_machine_without_a_process_to_spare_ends_when_it_has_one_again(
    booted: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = SlowHost(str(booted.root))
    live = load_live(host)
    assert live is not None
    store_live(host, live.replace(is_outputs_given=True))
    hour = Hour(host)
    wishes.ask(host, "finish", code=300, text="no more work")
    real = os.fork

    def none() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", none)
    hour.poller.at[host.boot_s + 1000] = lambda: monkeypatch.setattr(os, "fork", real)
    hour.run(1200)
    said = ending.word(host)
    assert said is not None
    assert (said.code, said.is_told) == (300, True)


def test_a_machine_whose_run_folder_is_full_ends_all_the_same(booted: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    host = SlowHost(str(booted.root))
    live = load_live(host)
    assert live is not None
    store_live(host, live.replace(is_outputs_given=True))
    hour = Hour(host)
    real = os.open
    folder = host.files.real(host.run_folder)

    def full(path: str, flags: int, *words: Any, **named: Any) -> int:
        if flags & os.O_CREAT and str(path).startswith(folder) and not os.path.exists(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *words, **named)

    monkeypatch.setattr(os, "open", full)
    hour.run(86_400)
    assert booted.text("etc/joboutputs/shutdown_message") == "100 end of the lifetime (policy)"
    assert [each["code"] for each in booted.trace() if each["ev"] == "finish"] == [100]


@pytest.mark.parametrize("years", [-30, 10])
def test_a_clock_that_is_set_by_years_for_half_of_each_minute_ends_no_machine(booted: Machine, years: int) -> None:
    host = SlowHost(str(booted.root))
    live = load_live(host)
    assert live is not None
    ends = (End(by="shutdowntime", clock="wall", at_s=host.utc_s + 30_000),)
    store_live(host, live.replace(ends=ends, is_outputs_given=True))
    _policy(booted, f"{{shutdowntime: {int(ends[0].at_s)}}}")
    hour = Hour(host)

    def step(seconds: float) -> None:
        host.utc_s += seconds

    by_s = years * 365 * 86_400
    for minute in range(20):
        hour.poller.at[host.boot_s + 60 * minute + 20] = lambda: step(by_s)
        hour.poller.at[host.boot_s + 60 * minute + 50] = lambda: step(-by_s)
    hour.run(1300)
    assert ending.word(host) is None


def test_an_account_that_stops_whoever_puts_its_heartbeat_stops_one_beat(booted: Machine) -> None:
    live = load_live(Host(str(booted.root)))
    assert live is not None
    _policy(booted, "{max_s: 86400}\npilot: {heartbeat: {file: beat, seconds: 1}}")
    watch = gather(Host(str(booted.root)), None, live)
    part = heartbeat.begin(watch)
    assert part is not None
    now = watch.now()
    part.wake(now)
    _stop_children()
    beat = booted.root / "etc/joboutputs/beat"
    beat.unlink(missing_ok=True)  # one that was faster
    part.wake(Now(utc_s=now.utc_s + 5, boot_s=now.boot_s + 5))
    part.wake(Now(utc_s=now.utc_s + 60, boot_s=now.boot_s + 60))
    until(beat.exists, "it beats again")
    part.close()


def _stop_children() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), signal.SIGSTOP)
