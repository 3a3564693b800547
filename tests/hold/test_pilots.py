"""P1: pilots that are missing, die at once, come back in a storm, leave children; and lifetimes that make no sense."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.piloting import Piloted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine import Machine

RANDOM = 40 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 4


@pytest.fixture
def piloted(machine: Machine, disk: Path) -> Iterator[Piloted]:
    made = Piloted(machine, disk)
    made.policy["stop_budget_s"] = 1
    yield made
    assert made.is_gone_in_time()


HOSTILE = {
    "double fork": "(setsid sh -c '(sleep 100 &) ; exit' &) ; sleep 0.2",
    "daemon without its output": "setsid sleep 100 </dev/null >/dev/null 2>&1 & sleep 0.2",
    "ignores all it can": "trap '' TERM INT HUP QUIT USR1; (trap '' TERM; setsid sleep 100 &) ; sleep 0.2",
    "a forest": "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4; do setsid sleep 100 & done) & done; sleep 0.5",
    "children of a killed shell": "sleep 100 & sleep 101 & kill -9 $$",
    "stopped children": "sh -c 'kill -STOP $$' & sleep 0.3",
    "closes everything": "exec <&- >&- 2>&-; sleep 100 & exit 0",
    "holds the pipe": "sleep 100 & exit 0",
    "forks as it dies": "while :; do sleep 100 & sleep 0.01; done & sleep 0.5; exit 0",
    "writes for ever": "yes & sleep 0.3; exit 0",
}


@pytest.mark.parametrize("command", HOSTILE.values(), ids=HOSTILE)
def test_nothing_is_left_of_a_pilot_whatever_it_left(piloted: Piloted, command: str) -> None:
    with piloted.pilot(command, on_exit="idle").boot():
        piloted.until("ended")
        assert piloted.is_gone_in_time()
        assert piloted.said(1, "ended")["out_bytes"] >= 0


@pytest.mark.parametrize("command", HOSTILE.values(), ids=HOSTILE)
def test_nothing_is_left_of_a_pilot_that_is_stopped_amid_what_it_does(piloted: Piloted, command: str) -> None:
    with piloted.pilot(f"touch ready; {command}; sleep 100", on_exit="idle").boot():
        piloted.wait_for("ready")
        assert piloted.machine.run("pilot", "stop").code in (0, 3)  # 3: it has ended by itself
        piloted.until("ended")
        assert piloted.is_gone_in_time()


@pytest.mark.parametrize("command", [["/nowhere/pilot"], ["no-such-program"], ["/etc"], ["/etc/passwd"]])
def test_a_program_that_is_not_there_ends_the_machine_with_500(piloted: Piloted, command: list[str]) -> None:
    with piloted.pilot(command).boot():
        assert piloted.message().startswith("500 cannot start the pilot: its program ")
        assert (piloted.state()["state"], piloted.state()["reason"]) == ("ended", "not-startable")


def test_a_pilot_that_dies_at_once_is_told_of_like_any_other(piloted: Piloted) -> None:
    with piloted.pilot("exit 1").boot():
        assert piloted.message() == "700 the pilot exited with 1"
    assert piloted.records() == [("running", None), ("ended", "exit")]


def test_a_storm_of_starts_is_held_back_and_ends(piloted: Piloted) -> None:
    with piloted.pilot("echo x >>tries; exit 1", restart={"max": 3, "backoff_s": 0}).boot():
        began_s = time.monotonic()
        assert piloted.message() == "700 the pilot exited with 1"
        assert time.monotonic() - began_s > 6  # 1, 2 and 4 seconds lie between
    assert piloted.place("tries").read_text() == "x\n" * 4


def test_a_storm_does_not_begin_anew_with_each_watch(piloted: Piloted) -> None:
    with piloted.pilot("echo x >>tries; exit 1", restart={"max": 2, "backoff_s": 1}).boot():
        for _ in range(3):
            piloted.wait_for("tries")
            piloted.watched_again()
        assert piloted.message() == "700 the pilot exited with 1"
    assert len(piloted.place("tries").read_text().split()) <= 3


@pytest.mark.parametrize("left_s", [-(10**9), -1, 0, 1, 3])
def test_no_pilot_starts_where_the_lifetime_is_past_or_as_good_as(piloted: Piloted, left_s: int) -> None:
    piloted.site["lifetime"] = {"shutdowntime": max(int(time.time()) + left_s, 0)}
    with piloted.pilot().boot():
        assert piloted.until("refused")["reason"] == "lifetime"
        assert piloted.message().startswith("100 ")
    assert piloted.numbers() == []


def test_a_pilot_starts_where_no_lifetime_is_known(piloted: Piloted) -> None:
    with piloted.pilot("true", min_lifetime_s=10**6).boot():
        assert piloted.until("ended")["code"] == 200


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema":1}', b"\0" * 100])
def test_what_is_known_of_the_lifetime_may_be_lost_and_the_pilot_lives_on(piloted: Piloted, damage: bytes) -> None:
    with piloted.pilot("touch ready; sleep 100", on_exit="idle").boot():
        piloted.wait_for("ready")
        pid = piloted.until("running")["pid"]
        piloted.machine.put("run/contextagent/live.json", damage)
        piloted.look()
        assert piloted.machine.run("run", "stop").code == 0
        assert not os.path.exists(f"/proc/{pid}")


def test_a_lifetime_that_grows_short_ends_the_pilot_in_time(piloted: Piloted) -> None:
    with piloted.pilot("trap 'exit 3' TERM; touch ready; while :; do sleep 0.1; done").boot():
        piloted.wait_for("ready")
        assert piloted.machine.run("drain", "--in", "4", "--force").code == 0
        assert piloted.message() == "100 end of the lifetime"
        assert ("stopping", "lifetime") in piloted.records()


# ---- those who mind it are killed ----


def test_the_watch_is_killed_over_and_over_and_the_pilot_does_not_notice(piloted: Piloted) -> None:
    with piloted.pilot("touch ready; trap 'exit 4' TERM; while :; do sleep 0.1; done", on_exit="idle").boot():
        piloted.wait_for("ready")
        pid = piloted.until("running")["pid"]
        for _ in range(5):
            piloted.watched_again()
        assert piloted.until("running")["pid"] == pid
        os.kill(pid, signal.SIGTERM)
        assert piloted.until("ended")["code"] == 700
    assert piloted.records() == [("running", None), ("ended", "exit")]
    assert piloted.machine.run("trace", "verify").code in (0, 2)


def test_a_watch_that_is_killed_as_it_starts_a_pilot_starts_no_second_one(piloted: Piloted) -> None:
    piloted.pilot("echo x >>tries; sleep 100", on_exit="idle").boot()
    for delay_s in (0.0, 0.01, 0.03, 0.06, 0.1, 0.15):
        piloted.__enter__()
        assert piloted.watch is not None
        time.sleep(delay_s)  # a moment of the start, not a wait for anything
        piloted.watch.process.kill()
        piloted.watch.process.wait()
    with piloted:
        piloted.until("running")
        piloted.wait_for("tries")
        living = [pid for pid in piloted.survivors() if os.path.exists(f"/proc/{pid}")]
        assert 1 <= len(living) <= 3  # the shell, its sleep, and one between fork and exec


def test_a_killed_keeper_leaves_nothing_and_is_told_of(piloted: Piloted) -> None:
    with piloted.pilot("(setsid sleep 100 &) ; touch ready; sleep 100", on_exit="idle").boot():
        piloted.wait_for("ready")
        piloted.until("running")
        os.kill(piloted.said(1, "started")["keeper"], signal.SIGKILL)
        assert piloted.until("ended")["reason"] == "lost"
        assert piloted.is_gone_in_time()


def test_keeper_and_watch_killed_together_leave_nothing(piloted: Piloted) -> None:
    with piloted.pilot("(setsid sleep 100 &) ; touch ready; sleep 100", on_exit="idle").boot():
        piloted.wait_for("ready")
        piloted.until("running")
        assert piloted.watch is not None
        os.kill(piloted.said(1, "started")["keeper"], signal.SIGKILL)
        piloted.watched_again()
        assert piloted.until("ended")["reason"] == "lost"
        assert piloted.is_gone_in_time()


def test_damage_to_what_is_remembered_starts_no_storm(piloted: Piloted) -> None:
    with piloted.pilot("echo x >>tries; sleep 100", on_exit="idle").boot():
        piloted.wait_for("tries")
        pid = piloted.until("running")["pid"]
        piloted.machine.put("run/contextagent/pilot/course.json", b"{")
        piloted.watched_again()
        piloted.look()
        assert piloted.until("running")["pid"] == pid
    assert piloted.place("tries").read_text() == "x\n"


@pytest.mark.parametrize("seed", range(RANDOM))
def test_a_random_pilot_that_is_killed_at_random_leaves_nothing(piloted: Piloted, seed: int) -> None:
    dice = random.Random(seed)
    command = "; ".join(dice.choice(list(HOSTILE.values())) for _ in range(3)) + "; sleep 100"
    with piloted.pilot(f"touch ready; {command}", on_exit="idle").boot():
        piloted.wait_for("ready")
        piloted.until("running", "ended")
        for _ in range(3):
            told = piloted.said(1, "started")
            victim = dice.choice([told["keeper"], told["supervisor"], told["pid"]])
            if victim and os.path.exists(f"/proc/{victim}"):
                os.kill(victim, signal.SIGKILL)
            if dice.random() < 0.5:
                piloted.watched_again()
        piloted.until("ended")
