"""A machine's pilot, from the boot that marks it to the end that it brings about, by the real watch and keeper."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.piloting import Piloted
from tests.watching import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine import Machine


@pytest.fixture
def piloted(machine: Machine, disk: Path) -> Piloted:
    return Piloted(machine, disk)


@pytest.fixture
def running(piloted: Piloted) -> Iterator[Piloted]:
    """Return a machine whose pilot runs until it is told to end, and then exits with 3."""
    command = "trap 'exit 3' TERM; touch ready; while :; do sleep 0.1; done"
    with piloted.pilot(command, on_exit="idle").boot() as made:
        made.until("running")
        made.wait_for("ready")
        yield made


# ---- its life ----


def test_a_pilot_is_marked_by_the_boot_and_started_by_the_watch(piloted: Piloted) -> None:
    piloted.pilot("echo hello; sleep 1; exit 0").boot()
    waiting = {"framework": "command", "state": "waiting", "reason": None, "pid": None, "code": None}
    assert piloted.state() == waiting
    with piloted:
        running = piloted.until("running")
        assert isinstance(running["pid"], int)
        assert piloted.until("ended") == {**waiting, "state": "ended", "reason": "exit", "code": 200}
        assert piloted.message() == "200 the pilot has ended"
    assert piloted.log() == "hello\n"
    assert piloted.records() == [("running", None), ("ended", "exit")]


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        ("exit 3", {}, "700 the pilot exited with 3"),
        ("kill -9 $$", {}, "700 signal 9 ended the pilot"),
        ("exit 3", {"result": {"exit_codes": {"3": 300}}}, "300 the pilot exited with 3"),
        ("touch work", {"result": {"empty_file": "work"}}, "300 no work"),
        ("echo x >work", {"result": {"empty_file": "work"}}, "200 the pilot has ended"),
        (
            "echo 'Nothing to do'",
            {"result": {"log_patterns": [{"pattern": "Nothing to do", "code": 300}]}},
            "300 its log says 'Nothing to do'",
        ),
        (["/nowhere/pilot"], {}, "500 cannot start the pilot: its program '/nowhere/pilot': No such file or directory"),
    ],
)
def test_the_pilots_end_is_told_to_the_job_outputs(
    piloted: Piloted, command: Any, settings: dict[str, Any], message: str
) -> None:
    with piloted.pilot(command, **settings).boot():
        assert piloted.message() == message


def test_an_idle_end_ends_nothing_else(piloted: Piloted) -> None:
    with piloted.pilot("exit 3", on_exit="idle").boot():
        assert piloted.until("ended")["code"] == 700
        assert piloted.machine.run("finish", "200", "by hand").code == 0
        assert piloted.message() == "200 by hand"


def test_a_pilot_that_fails_is_started_again_as_often_as_is_allowed(piloted: Piloted) -> None:
    command = "echo x >>tries; exit 1"
    with piloted.pilot(command, restart={"max": 2, "backoff_s": 1}).boot():
        assert piloted.message() == "700 the pilot exited with 1"
    assert piloted.place("tries").read_text() == "x\n" * 3


def test_each_of_several_pilots_has_its_own_folder_and_log(piloted: Piloted) -> None:
    with piloted.pilot("pwd; sleep 1", instances=2).boot():
        assert piloted.message() == "200 the pilot has ended"
        assert [piloted.log(number).strip()[-7:] for number in (1, 2)] == ["pilot-1", "pilot-2"]


def test_the_environment_names_the_features_in_the_form_that_is_asked_for(piloted: Piloted) -> None:
    piloted.policy["watch"] = {"http": "127.0.0.1:9253"}
    command = "echo $MACHINEFEATURES $JOBFEATURES $JOBOUTPUTS"
    with piloted.pilot(command, features="url").boot():
        piloted.message()
        folder = piloted.machine.root
        addresses = "http://127.0.0.1:9253/machinefeatures http://127.0.0.1:9253/jobfeatures"
        assert piloted.log() == f"{addresses} {folder}/etc/joboutputs\n"


# ---- what keeps it from starting ----


def refused(piloted: Piloted, *, code: int = 0) -> str:
    with piloted.boot(code=code):
        state = piloted.until("refused")
        assert piloted.numbers() == [] or not piloted.said(1, "started")
        return str(state["reason"])


def test_a_site_script_that_fails_refuses_the_pilot(piloted: Piloted) -> None:
    assert refused(piloted.pilot().script("epilog.sh", "exit 1"), code=1) == "site-failed"


def test_a_site_script_that_fails_and_may_does_not(piloted: Piloted) -> None:
    piloted.pilot("true").script("epilog.sh", "exit 1")
    piloted.site["scripts"] = {"site/post-network/epilog.sh": {"on_error": "continue"}}
    with piloted.boot(code=2):
        assert piloted.until("ended")["code"] == 200


def test_exit_100_of_a_site_script_is_a_veto(piloted: Piloted) -> None:
    assert refused(piloted.pilot().script("epilog.sh", "exit 100")) == "veto"


def test_a_ban_refuses_the_pilot(piloted: Piloted) -> None:
    piloted.pilot().site["ban"] = {"pilot": True}
    assert refused(piloted) == "banned"


def test_without_the_trace_that_is_asked_for_there_is_no_pilot(piloted: Piloted) -> None:
    assert refused(piloted.pilot(require_trace="configured")) == "trace"


@pytest.mark.parametrize("left_s", [-1000, 0, 100, 4000])
def test_too_little_lifetime_refuses_the_pilot(piloted: Piloted, left_s: int) -> None:
    piloted.pilot(min_lifetime_s=4100).site["lifetime"] = {"shutdowntime": int(time.time()) + left_s}
    piloted.policy["stop_budget_s"] = 1
    with piloted.boot():
        assert piloted.until("refused")["reason"] in ("lifetime", "finished")
        assert piloted.numbers() == []


def test_a_missing_credential_refuses_the_pilot_until_it_is_there(piloted: Piloted) -> None:
    settings = {"credential": {"kind": "token", "path": "/etc/token", "env": "TOKEN"}}
    with piloted.pilot("cat $TOKEN", **settings).boot():
        assert piloted.until("refused")["reason"] == "credential"
        assert piloted.watch is not None
        assert "cannot use '/etc/token' as the pilot's credential: No such file" in piloted.watch.log
        piloted.machine.put("etc/token", "secret", mode=0o600)
        course = piloted.machine.root / "run/contextagent/pilot/course.json"
        plain = json.loads(course.read_text())
        plain["1"]["retry_s"] = 0.0  # a minute has passed
        course.write_text(json.dumps(plain))
        piloted.watched_again()
        assert piloted.until("ended")["code"] == 200
    assert piloted.log() == "secret"
    assert "secret" not in piloted.machine.text("run/contextagent/status.json")


def test_a_site_that_takes_its_veto_back_lets_the_pilot_start(piloted: Piloted) -> None:
    veto = piloted.machine.put("etc/contextagent/no-pilot", "")
    with piloted.pilot("true").boot():
        assert piloted.until("refused")["reason"] == "no-pilot-file"
        piloted.look()
        veto.unlink()
        piloted.look()
        assert piloted.until("ended")["code"] == 200
    assert piloted.records()[0] == ("refused", "no-pilot-file")
    assert len(piloted.records()) == 3  # the second look at the veto is no news


def test_a_ban_that_is_lifted_by_a_run_by_hand_lets_the_pilot_start(piloted: Piloted) -> None:
    piloted.pilot("true").site["ban"] = {"pilot": True}
    with piloted.boot():
        assert piloted.until("refused")["reason"] == "banned"
        piloted.site["ban"] = {"pilot": False}
        piloted.machine.put("etc/contextagent/policy.yaml", "watch: {http: 'off'}\n")
        piloted.boot()
        piloted.look()
        assert piloted.until("ended")["code"] == 200


def test_that_time_passes_is_no_news_of_a_refusal(piloted: Piloted) -> None:
    piloted.site["lifetime"] = {"shutdowntime": int(time.time()) + 3000}
    with piloted.pilot(min_lifetime_s=4000).boot():
        piloted.until("refused")
        course = piloted.machine.root / "run/contextagent/pilot/course.json"
        before = course.read_text()

        def is_looked_at_again() -> bool:
            piloted.look()
            return course.read_text() != before

        until(is_looked_at_again, "it looked again, a second later")
    assert piloted.records() == [("refused", "lifetime")]


def test_a_veto_does_not_end_a_pilot_that_runs(running: Piloted) -> None:
    running.machine.put("etc/contextagent/no-pilot", "")
    running.look()
    assert running.state()["state"] == "running"


# ---- its end ----


def test_a_pilot_is_told_to_end_before_the_machine_does(piloted: Piloted) -> None:
    piloted.policy["stop_budget_s"] = 1
    piloted.site["lifetime"] = {"shutdowntime": int(time.time()) + 12, "grace_s": 0}
    with piloted.pilot("trap 'echo told; exit 3' TERM; while :; do sleep 0.1; done").boot():
        piloted.until("running")
        assert piloted.message() == "100 end of the lifetime"
        assert piloted.until("ended")["code"] == 700
    assert piloted.log().endswith("told\n")
    assert ("stopping", "lifetime") in piloted.records()


def test_a_stop_by_hand_ends_the_pilot_and_not_the_machine(running: Piloted) -> None:
    assert running.machine.run("pilot", "status").out.startswith("the pilot (command) runs")
    assert running.machine.run("pilot", "stop").code == 0
    assert running.until("ended")["reason"] == "asked"
    assert running.machine.facts("pilot", "status")["state"] == "ended"
    assert running.machine.run("pilot", "stop").code == 3
    assert running.is_gone_in_time()
    assert not (running.machine.root / "etc/joboutputs/shutdown_message").exists()


def test_the_stop_phase_ends_the_pilot_first(running: Piloted) -> None:
    assert running.machine.run("run", "stop").code == 0
    assert running.until("ended")["reason"] == "stop"
    assert running.is_gone_in_time()


def test_a_pilot_is_stopped_though_its_context_has_gone(running: Piloted) -> None:
    assert running.machine.run("run", "--disk", "none").code == 0
    assert running.machine.run("run", "stop", "--disk", "none").code == 0
    assert running.is_gone_in_time()
    assert running.until("ended")["reason"] == "stop"


def test_a_stop_without_a_watch_still_tells_how_the_pilot_ended(running: Piloted) -> None:
    assert running.watch is not None
    running.watch.process.terminate()
    running.watch.process.wait()
    assert running.machine.run("run", "stop").code == 0
    assert running.state()["state"] == "ended"
    last = [each for each in running.machine.trace() if each["ev"] == "pilot"][-1]
    assert (last["state"], last["reason"], last["exit"]) == ("ended", "stop", 3)


def test_a_machine_without_a_pilot_has_none_to_tell_of(piloted: Piloted) -> None:
    piloted.script("epilog.sh", "true").boot()
    assert piloted.machine.run("pilot", "status").code == 3
    assert piloted.machine.run("pilot", "stop").code == 3
    assert piloted.machine.status()["pilot"] is None


# ---- what is killed ----


def test_a_killed_watch_leaves_the_pilot_alone_and_the_next_one_hears_its_end(running: Piloted) -> None:
    pid = running.state()["pid"]
    running.watched_again()
    assert running.until("running")["pid"] == pid
    os.kill(pid, signal.SIGTERM)
    assert running.until("ended")["code"] == 700
    assert running.records() == [("running", None), ("ended", "exit")]


def test_an_end_that_no_watch_saw_is_heard_by_the_next(running: Piloted) -> None:
    assert running.watch is not None
    running.watch.process.kill()
    running.watch.process.wait()
    os.kill(running.state()["pid"], signal.SIGTERM)
    until(lambda: running.said(1, "ended"), "the keeper has written it")
    with running:
        assert running.until("ended")["code"] == 700


def test_a_killed_keeper_takes_the_pilot_along_and_that_is_told(running: Piloted) -> None:
    os.kill(running.said(1, "started")["keeper"], signal.SIGKILL)
    assert running.until("ended")["reason"] == "lost"
    assert running.is_gone_in_time()


# ---- what a user's script leaves ----


EPILOG = "printf '#!/bin/sh\\necho pilot $0 $1 $CONTEXTAGENT_OWNER\\nsleep 1\\n' >epilog.sh"


def test_what_a_users_script_leaves_is_the_pilot_where_the_policy_lets_it(piloted: Piloted) -> None:
    piloted.policy["pilot"] = {"from_user": True}
    piloted.script("user/post-network.d/10-get", EPILOG)
    planned = piloted.boot().machine.run("plan", "--disk", str(piloted.disk)).out
    assert "epilog.sh, if the user's scripts leave one" in planned
    with piloted:
        assert piloted.until("ended")["code"] == 200
    assert piloted.log() == f"pilot {piloted.machine.root}/var/lib/hepix/context/epilog.sh start user\n"


def test_elsewhere_one_warning_names_the_key(piloted: Piloted) -> None:
    piloted.script("user/post-network.d/10-get", EPILOG).boot(code=0)
    assert [each["reason"] for each in piloted.machine.status()["warnings"]] == ["pilot-not-allowed"]
    assert piloted.machine.status()["pilot"] is None


def test_the_sites_pilot_goes_before_what_a_user_leaves(piloted: Piloted) -> None:
    piloted.policy["pilot"] = {"from_user": True}
    with piloted.script("user/post-network.d/10-get", EPILOG).pilot("echo the site").boot():
        assert piloted.until("ended")["code"] == 200
    assert piloted.log() == "the site\n"
    assert [each["reason"] for each in piloted.machine.status()["warnings"]] == ["pilot-not-allowed"]
