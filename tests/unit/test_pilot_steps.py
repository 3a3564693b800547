"""What a phase does about the pilot: it is marked as wanted, or stopped, and an epilog.sh that is left is seen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.model import Plan, Step
from contextagent.pilots.steps import IF_LEFT
from contextagent.policy.settings import load_material, merge
from contextagent.runner import keeper, pilotsteps, wishes
from contextagent.runner.folders import WORKING
from contextagent.runner.live import Live, load_live, store_live
from contextagent.runner.phase import PhaseRun
from tests.pilots import Hangar
from tests.unit.test_phase import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contextagent.model import Phase


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    made.host.files.make_folder(made.host.run_folder, 0o755)
    yield made
    made.journal.close()


@pytest.fixture
def hangar() -> Iterator[Hangar]:
    with Hangar() as made:
        yield made


def pilot_step(phase: Phase = "post-network", target: str = "panda") -> Step:
    owner = "user" if target == IF_LEFT else "site"
    return Step(
        id=f"{owner}/{phase}/pilot",
        kind="pilot",
        owner=owner,  # type: ignore[arg-type]  # one of the two
        phase=phase,
        sha512="",
        profile="caller",
        limits=None,
        frequency="every-boot",
        skip=None,
        late=False,
        target=target,
        argument="stop" if phase == "stop" else "start",
    )


def pilot_of(stand: Stand) -> dict[str, Any] | None:
    live = load_live(stand.host)
    return dict(live.pilot) if live and live.pilot else None


WAITING = {"framework": "panda", "state": "waiting", "reason": None, "pid": None, "code": None}


def test_the_last_step_marks_the_pilot_as_wanted_and_wakes_the_watch(stand: Stand) -> None:
    work = stand.phase(pilot_step())
    assert (pilot_of(stand), work.problems) == (WAITING, [])
    assert stand.host.files.exists(f"{stand.host.run_folder}/pilot/wanted")


def test_a_pilot_that_is_on_its_way_is_not_marked_anew(stand: Stand) -> None:
    stand.phase(pilot_step())
    live = load_live(stand.host)
    assert live is not None
    store_live(stand.host, live.replace(pilot={**WAITING, "state": "running", "pid": 7}))
    stand.phase(pilot_step())
    assert (pilot_of(stand) or {})["pid"] == 7


def test_what_the_users_scripts_left_is_marked_and_their_folder_stays_in_place(stand: Stand) -> None:
    leave = "echo '#!/bin/sh' >epilog.sh\n"
    work = stand.phase(
        stand.step("user-data", leave, "user"), stand.step("last", owner="site"), pilot_step(target=IF_LEFT)
    )
    assert (pilot_of(stand) or {})["framework"] == "command"
    assert stand.host.files.exists(f"{WORKING}/epilog.sh")
    assert work.warnings == []


def test_nothing_is_marked_where_nothing_was_left(stand: Stand) -> None:
    for number, command in enumerate(("true", "mkdir epilog.sh")):
        work = stand.phase(stand.step(f"part-{number}", f"{command}\n", "user"), pilot_step(target=IF_LEFT))
        assert (pilot_of(stand), work.warnings) == (None, [])


def test_what_is_left_where_it_is_not_allowed_is_named_once(stand: Stand) -> None:
    work = stand.phase(stand.step("user-data", "echo >epilog.sh\n", "user"))
    (warning,) = work.warnings
    assert warning.reason == "pilot-not-allowed"
    assert "'pilot.from_user: yes' in the image's policy" in warning.message
    assert work.problems == []


def test_what_is_no_file_or_is_a_script_of_that_name_is_no_pilot(stand: Stand) -> None:
    assert stand.phase(stand.step("user-data", "mkdir epilog.sh\n", "user")).warnings == []
    assert stand.phase(stand.step("epilog.sh", "echo >epilog.sh; true\n", "user")).warnings == []


def test_a_pilot_that_can_not_be_marked_is_a_problem_and_ends_nothing(stand: Stand) -> None:
    stand.host.files.create(f"{stand.host.run_folder}/pilot", [b""])
    work = stand.phase(pilot_step())
    assert [each.reason for each in work.problems] == ["cannot-write"]


# ---- its account ----


POLICY = b"pilot: {framework: command, command: /bin/true, user: plt}"


def test_the_users_account_is_made_for_a_pilot_and_no_other(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(stand.host, "is_caller", False)
    monkeypatch.setattr(stand.host, "make_account", lambda name, _home: asked.append(name))
    settings = merge(load_material("image", "p.yaml", POLICY.replace(b", user: plt", b"")))
    for each in (merge(load_material("image", "p.yaml", POLICY)), settings):
        assert pilotsteps.make_account(stand.host, each, "/home") == ()
    assert asked == ["contextuser"]
    monkeypatch.undo()
    assert pilotsteps.make_account(stand.host, settings, "/home") == ()  # below a root none is made


def test_an_account_that_can_not_be_made_is_told(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = merge(load_material("image", "p.yaml", POLICY.replace(b", user: plt", b"")))
    stand.host.is_caller = False
    monkeypatch.setattr(stand.host, "run", lambda *_args, **_more: Finished127())
    (problem,) = pilotsteps.make_account(stand.host, settings, "/home")
    assert (problem.reason, problem.message.endswith("starting no pilot")) == ("no-account", True)


class Finished127:
    """No tool is there."""

    is_ok = False

    def text(self) -> str:
        return ""


# ---- stopping ----


def stop(hangar: Hangar, tmp_path: Path) -> tuple[PhaseRun, Stand]:
    stand = Stand(tmp_path)
    stand.host.files.make_folder(stand.host.run_folder, 0o755)
    os.symlink(hangar.real(f"{hangar.host.run_folder}/pilot"), stand.host.files.real(f"{stand.host.run_folder}/pilot"))
    work = PhaseRun(
        host=stand.host,
        journal=stand.journal,
        folders=stand.folders,
        around=stand.around(),
        begun={},
        remember=lambda _: True,
        tell=lambda _: None,
    )
    work.run(Plan(phase="stop", steps=(pilot_step("stop"), stand.step("last", "exit 0\n"))))
    return work, stand


def test_a_stop_ends_the_pilot_before_anything_else(hangar: Hangar, tmp_path: Path) -> None:
    hangar.start("trap 'exit 3' TERM; touch ready; sleep 100 & wait")
    hangar.wait_for("/home/pilot-1/ready")
    work, stand = stop(hangar, tmp_path)
    assert hangar.ended().ended["stopped"] == "stop"
    assert (work.problems, [each["state"] for each in work.reports]) == ([], ["ok"])
    told = [(each["state"], each["reason"], each.get("exit")) for each in stand.events("pilot")]
    assert told == [("stopping", "stop", None), ("ended", "stop", 3)]
    assert [each["ev"] for each in stand.events("pilot", "start")] == ["pilot", "pilot", "start"]
    stand.journal.close()


def test_a_stop_without_a_pilot_records_nothing(stand: Stand) -> None:
    work = stand.phase(pilot_step("stop"))
    assert (stand.events("pilot"), work.problems) == ([], [])


def test_the_status_says_that_the_pilot_has_ended(hangar: Hangar) -> None:
    stand_live = Live(boot_id=hangar.host.boot_id(), pilot={**WAITING, "state": "running"})
    store_live(hangar.host, stand_live)
    hangar.start("sleep 100")
    hangar.running()
    noted: list[dict[str, Any]] = []

    class Notes:
        def record(self, ev: str, **facts: Any) -> bool:
            noted.append({"ev": ev, **facts})
            return True

    assert pilotsteps.stop(hangar.host, Notes()) == ()  # type: ignore[arg-type]  # all of it that is used
    live = load_live(hangar.host)
    assert live is not None
    assert live.pilot == {**WAITING, "state": "ended", "reason": "stop"}
    assert noted[0]["framework"] == "panda"


def test_where_a_watch_tells_how_it_ended_the_stop_does_not(hangar: Hangar, monkeypatch: pytest.MonkeyPatch) -> None:
    hangar.start("sleep 100")
    hangar.running()
    noted: list[str] = []

    class Notes:
        def record(self, _ev: str, **facts: Any) -> bool:
            noted.append(facts["state"])
            return True

    monkeypatch.setattr(wishes, "is_watched", lambda _: True)
    pilotsteps.stop(hangar.host, Notes())  # type: ignore[arg-type]  # as above
    assert noted == ["stopping"]


def test_one_that_can_not_be_killed_is_a_problem(hangar: Hangar, monkeypatch: pytest.MonkeyPatch) -> None:
    hangar.start("sleep 100")
    rest = (hangar.running(),)
    monkeypatch.setattr(keeper, "stop_all", lambda *_args, **_more: rest)

    class Notes:
        def record(self, *_args: Any, **_more: Any) -> bool:
            return True

    (problem,) = pilotsteps.stop(hangar.host, Notes())  # type: ignore[arg-type]  # as above
    assert problem.message == "cannot stop pilot 1: it can't be killed, going on"
