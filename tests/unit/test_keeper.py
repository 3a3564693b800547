"""A pilot and its keeper, for real: its start, its rights, its ends, and that nothing is left of it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from typing import TYPE_CHECKING

import pytest

from contextagent import jsontext
from contextagent.errors import CannotWriteError
from contextagent.host import kept
from contextagent.pilots.course import Slot
from contextagent.runner import keeper, keeping
from contextagent.runner.capture import KEPT_BYTES
from tests.pilots import PATIENCE_S, Hangar

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing to another account needs root")
HUNDRED = "sleep 100 & wait"


@pytest.fixture
def hangar() -> Iterator[Hangar]:
    with Hangar() as made:
        yield made


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# ---- start and end ----


def test_a_pilot_is_started_in_its_own_folder_and_its_end_is_told(hangar: Hangar) -> None:
    hangar.start("pwd; echo $MACHINEFEATURES; exit 7")

    found = hangar.ended()
    assert (found.state, found.ended["reason"], found.ended["exit_code"], found.ended["signal"]) == (
        "ended",
        "exit",
        7,
        None,
    )
    assert hangar.log() == f"{hangar.real('/home/pilot-1')}\n/etc/machinefeatures\n"
    assert found.ended["out_bytes"] == len(hangar.log())
    log = os.stat(hangar.real(keeper.log_path("i", 1)))
    assert stat.S_IMODE(log.st_mode) == 0o600


def test_a_pilot_runs_on_when_whoever_had_it_started_has_gone(hangar: Hangar) -> None:
    pid = os.fork()
    if not pid:
        hangar.start(HUNDRED)
        os._exit(0)
    os.waitpid(pid, 0)

    found = hangar.running()
    assert found.pid is not None
    assert os.getsid(found.started["keeper"]) not in (os.getsid(0), pid)


def test_a_pilots_own_process_is_what_is_told_as_its_pid(hangar: Hangar) -> None:
    hangar.start("echo $$ >pid; " + HUNDRED)
    hangar.wait_for("/home/pilot-1/pid")
    assert hangar.running().pid == int(hangar.host.files.read("/home/pilot-1/pid", max_bytes=99))


@needs_root
def test_a_pilot_that_ends_at_once_has_no_pid_rather_than_a_wrong_one(hangar: Hangar) -> None:
    hangar.start("exit 0", is_account=True)
    assert hangar.ended().started["pid"] != 0


def test_what_a_pilot_leaves_dies_with_it_wherever_it_went(hangar: Hangar) -> None:
    hangar.start("(setsid sh -c 'sleep 100 & sleep 101 &' &) ; nohup sleep 102 >/dev/null 2>&1 & sleep 0.2")
    assert hangar.ended().ended["exit_code"] == 0
    assert hangar.survivors() == []


def test_output_is_kept_in_part_and_counted_whole(hangar: Hangar) -> None:
    hangar.start("head -c 3000000 /dev/zero; echo end")

    assert hangar.ended().ended["out_bytes"] == 3_000_004
    assert hangar.host.files.size(keeper.log_path("i", 1)) < 2 * KEPT_BYTES + 100
    assert hangar.log().endswith("end\n")
    assert keeper.log_tail(hangar.host, keeper.log_path("i", 1)).endswith(b"end\n")
    assert keeper.log_tail(hangar.host, "/nowhere") == b""


def test_the_log_of_the_attempt_before_is_kept(hangar: Hangar) -> None:
    for word in ("first", "second"):
        hangar.start(f"echo {word}")
        hangar.ended()
    assert hangar.log() == "second\n"
    previous = keeper.log_path("i", 1).replace(".log", ".previous.log")
    assert hangar.host.files.read(previous, max_bytes=99) == b"first\n"


def test_a_pilot_has_one_keeper_at_a_time(hangar: Hangar) -> None:
    hangar.start(HUNDRED)
    hangar.running()
    with pytest.raises(BlockingIOError):
        hangar.start("true")
    assert keeper.look_at(hangar.host, 1).state == "running"


def test_several_pilots_do_not_meet(hangar: Hangar) -> None:
    for number in (1, 2):
        hangar.start(f"echo {number}", number=number)
    for number in (1, 2):
        hangar.ended(number=number)
        assert hangar.log(number=number) == f"{number}\n"
    assert [each.number for each in keeper.look(hangar.host)] == [1, 2]


def test_the_order_does_not_stay_for_others_to_read(hangar: Hangar) -> None:
    hangar.start(HUNDRED)
    hangar.running()
    assert not hangar.host.files.exists(f"{keeper.folder(hangar.host, 1)}/{keeper.ORDER}")
    assert stat.S_IMODE(os.stat(hangar.real(keeper.folder(hangar.host, 1))).st_mode) == 0o700


# ---- being told to stop ----


def test_a_pilot_is_told_to_end_and_may_do_so_in_order(hangar: Hangar) -> None:
    hangar.start("trap 'echo in order; exit 5' TERM; touch ready; sleep 100 & wait")
    hangar.wait_for("/home/pilot-1/ready")

    assert keeper.stop_all(hangar.host, why="asked") == ()
    found = keeper.look_at(hangar.host, 1)
    assert (found.ended["stopped"], found.ended["exit_code"], hangar.log()) == ("asked", 5, "in order\n")


def test_what_a_shell_waits_for_may_end_in_order_although_the_shell_dies_at_once(hangar: Hangar) -> None:
    hangar.start("sh -c 'trap \"sleep 0.5; echo in order; exit\" TERM; touch ready; sleep 100 & wait'; true")
    hangar.wait_for("/home/pilot-1/ready")

    keeper.stop_all(hangar.host, why="asked")
    assert keeper.look_at(hangar.host, 1).ended["signal"] == signal.SIGTERM
    assert hangar.log() == "in order\n"


def test_the_signal_is_the_one_of_the_settings(hangar: Hangar) -> None:
    hangar.start(
        "trap 'exit 6' USR1; trap '' TERM; touch ready; while :; do sleep 0.1; done", pilot={"stop.signal": "SIGUSR1"}
    )
    hangar.wait_for("/home/pilot-1/ready")
    keeper.stop_all(hangar.host, why="asked")
    assert keeper.look_at(hangar.host, 1).ended["exit_code"] == 6


def test_a_pilot_that_does_not_end_is_killed_when_its_time_is_over(hangar: Hangar) -> None:
    hangar.start("trap '' TERM; touch ready; while :; do sleep 0.1; done", pilot={"stop.timeout_s": 1})
    hangar.wait_for("/home/pilot-1/ready")

    assert keeper.ask_stop(hangar.host, 1, why="lifetime")
    hangar.until(lambda each: each.state in ("stopping", "ended"))
    found = hangar.ended()
    assert (found.ended["stopped"], found.ended["signal"]) == ("lifetime", signal.SIGKILL)
    assert hangar.survivors() == []


def test_a_second_request_to_stop_changes_nothing(hangar: Hangar) -> None:
    hangar.start("trap 'sleep 0.3; exit 5' TERM; touch ready; sleep 100 & wait; sleep 1")
    hangar.wait_for("/home/pilot-1/ready")
    for why in ("lifetime", "stop"):
        assert keeper.ask_stop(hangar.host, 1, why=why)
    assert hangar.ended().ended["stopped"] == "lifetime"


def test_a_stop_command_ends_it_by_the_number_that_it_has_itself(hangar: Hangar) -> None:
    hangar.start(
        "echo $$ >pid; trap 'exit 8' USR2; touch ready; while :; do sleep 0.1; done",
        pilot={"stop.command": "kill -USR2 $(cat pid)"},
        is_account=os.geteuid() == 0,
    )
    hangar.wait_for("/home/pilot-1/ready")
    keeper.stop_all(hangar.host, why="asked")
    assert keeper.look_at(hangar.host, 1).ended["exit_code"] == 8


@pytest.mark.parametrize("command", ["false", "/nowhere/at/all"])
def test_a_stop_command_that_fails_is_followed_by_the_signal(hangar: Hangar, command: str) -> None:
    hangar.start("trap 'exit 9' TERM; touch ready; while :; do sleep 0.1; done", pilot={"stop.command": command})
    hangar.wait_for("/home/pilot-1/ready")
    keeper.stop_all(hangar.host, why="asked")
    assert keeper.look_at(hangar.host, 1).ended["exit_code"] == 9


def test_a_stop_command_that_hangs_does_not_hold_the_end_up(hangar: Hangar) -> None:
    hangar.start("touch ready; sleep 100", pilot={"stop.command": ["sleep", "99"], "stop.timeout_s": 1})
    hangar.wait_for("/home/pilot-1/ready")
    keeper.stop_all(hangar.host, why="asked")
    assert keeper.look_at(hangar.host, 1).ended["signal"] == signal.SIGKILL
    assert hangar.survivors() == []


def test_a_pilot_that_is_told_to_stop_before_it_runs_is_stopped_all_the_same(hangar: Hangar) -> None:
    hangar.start("sleep 100")
    keeper.stop_all(hangar.host, why="asked")
    assert not keeper.look_at(hangar.host, 1).is_alive
    assert hangar.survivors() == []


def test_nobody_is_told_anything_where_there_is_no_keeper(hangar: Hangar) -> None:
    assert not keeper.ask_stop(hangar.host, 1, why="asked")
    assert keeper.stop_all(hangar.host, why="asked") == ()
    assert keeper.look(hangar.host) == ()
    assert kept.wait_gone(hangar.host.files, keeper.folder(hangar.host, 1), 0.0)
    hangar.start()
    hangar.ended()
    assert keeper.stop_all(hangar.host, why="asked") == ()


def test_a_keeper_that_dies_before_it_can_be_told_is_not_waited_for(
    hangar: Hangar, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = kept.lay_out(hangar.host.files, keeper.folder(hangar.host, 1))

    asked: list[str] = []

    def die(*_: object, why: str) -> bool:
        asked.append(why)
        if len(asked) > 1:
            os.close(lock)
        return False

    monkeypatch.setattr(keeper, "ask_stop", die)
    assert keeper.stop_all(hangar.host, why="asked") == ()


# ---- being killed ----


def test_a_killed_keeper_takes_all_of_its_pilot_along(hangar: Hangar) -> None:
    hangar.start("(setsid sh -c 'sleep 100 & wait' &) ; sleep 101 & wait")
    kill(hangar.running().started["keeper"])

    assert hangar.ended().state == "lost"
    gone_s = time.monotonic() + PATIENCE_S
    while hangar.survivors():
        assert time.monotonic() < gone_s


def test_a_killed_supervisor_is_an_end_like_any_other(hangar: Hangar) -> None:
    hangar.start("(setsid sh -c 'sleep 100 & wait' &) ; sleep 101 & wait", is_account=os.geteuid() == 0)
    kill(hangar.running().started["supervisor"])

    found = hangar.ended()
    assert (found.ended["reason"], found.ended["exit_code"]) == ("abort", None)
    assert hangar.survivors() == []


def test_a_killed_supervisor_without_a_namespace_leaves_nothing_either(hangar: Hangar) -> None:
    hangar.start("(setsid sh -c '(setsid sleep 100 &) ; sleep 101 & wait' &) ; touch ready; sleep 102 & wait")
    hangar.wait_for("/home/pilot-1/ready")
    kill(hangar.running().started["supervisor"])
    assert hangar.ended().ended["reason"] == "abort"
    assert hangar.survivors() == []


def test_a_pid_that_another_process_has_by_now_does_not_make_a_keeper_alive(hangar: Hangar) -> None:
    place = keeper.folder(hangar.host, 1)
    os.close(kept.lay_out(hangar.host.files, place))
    hangar.host.files.write(f"{place}/{keeper.STARTED}", b'{"pid":1,"keeper":1}')
    assert keeper.look_at(hangar.host, 1).state == "lost"


# ---- rights ----


@needs_root
def test_a_pilot_has_its_accounts_rights_and_no_groups_of_others(hangar: Hangar) -> None:
    hangar.start("id -u; id -g; id -G; umask; stat -c %a .; cat /proc/self/status", is_account=True)
    hangar.ended()
    uid = str(hangar.account.uid)
    assert hangar.log().split("\n")[:5] == [uid, uid, uid, "0077", "700"]
    assert "NoNewPrivs:\t0" in hangar.log()
    assert "CapEff:\t0000000000000000" in hangar.log()
    assert "CapBnd:\t0000000000000000" not in hangar.log()


@needs_root
def test_set_uid_programs_work_for_a_pilot(hangar: Hangar) -> None:
    shutil.copy("/usr/bin/id", hangar.real("/id"))
    os.chmod(hangar.real("/id"), 0o4755)
    hangar.start(f"{hangar.real('/id')} -u; {hangar.real('/id')} -ru", is_account=True)
    hangar.ended()
    assert hangar.log() == f"0\n{hangar.account.uid}\n"


# ---- the keeper's own process, in this one ----


def keep(hangar: Hangar, command: str = "exit 0", **changes: object) -> dict[str, object]:
    """Be the keeper, and return what it wrote at the end."""
    order = hangar.order(command, **changes)  # type: ignore[arg-type]  # each by its own name
    place = keeper.folder(hangar.host, 1)
    lock = kept.lay_out(hangar.host.files, place)
    try:
        hangar.host.files.write(f"{place}/{keeper.ORDER}", jsontext.dumps(dict(order.fields())).encode())
        keeping.keep(hangar.host, 1)
    finally:
        os.close(lock)
    return dict(keeper.look_at(hangar.host, 1).ended)


def say(hangar: Hangar, words: str) -> str:
    """Return what a pilot does to tell its keeper something."""
    return f"echo {words} >{hangar.real(keeper.folder(hangar.host, 1))}/{kept.CONTROL}"


def test_a_keeper_minds_its_pilot_to_the_end(hangar: Hangar) -> None:
    ended = keep(hangar, "echo hi; exit 3")
    assert (ended["reason"], ended["exit_code"], ended["stopped"], ended["out_bytes"]) == ("exit", 3, "", 3)


def test_a_keeper_does_what_it_is_told(hangar: Hangar) -> None:
    assert keep(hangar, f"{say(hangar, 'stop why')}; sleep 100")["stopped"] == "why"
    assert keep(hangar, f"{say(hangar, 'stop')}; sleep 100")["stopped"] == "asked"
    assert keep(hangar, f"{say(hangar, 'dance')}; {say(hangar, 'kill')}; sleep 100")["stopped"] == "killed"
    twice = f"trap 'exit 4' TERM; {say(hangar, 'stop a')}; {say(hangar, 'stop b')}; sleep 100 & wait; sleep 1"
    assert keep(hangar, twice)["stopped"] == "a"


def test_a_keeper_stops_its_pilot_in_order_though_that_can_not_be_written_down(hangar: Hangar) -> None:
    in_the_way = f"mkdir -p {hangar.real(keeper.folder(hangar.host, 1))}/{keeper.STOPPING}/full"
    ended = keep(hangar, f"trap 'exit 4' TERM; {in_the_way}; {say(hangar, 'stop x')}; sleep 100 & wait; sleep 1")
    assert (ended["stopped"], ended["exit_code"]) == ("x", 4)


def test_a_keeper_kills_what_does_not_end_in_time(hangar: Hangar) -> None:
    ended = keep(
        hangar, f"trap '' TERM; {say(hangar, 'stop x')}; while :; do sleep 0.1; done", pilot={"stop.timeout_s": 1}
    )
    assert ended["signal"] == signal.SIGKILL


@pytest.mark.parametrize(("command", "code"), [("false", 9), ("kill -9 $PPID", 9), (["/nowhere"], 9), ("true", None)])
def test_a_keeper_runs_the_stop_command(hangar: Hangar, command: object, code: int | None) -> None:
    pilot = {"stop.command": command, "stop.timeout_s": 1}
    ended = keep(hangar, f"trap 'exit 9' TERM; {say(hangar, 'stop x')}; while :; do sleep 0.1; done", pilot=pilot)
    assert ended["exit_code"] == code


def test_a_stop_command_that_can_not_be_started_is_no_harm(hangar: Hangar, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(11, "no process")

    monkeypatch.setattr(kept, "inside", refuse)
    ended = keep(
        hangar, f"trap 'exit 9' TERM; {say(hangar, 'stop x')}; sleep 100 & wait", pilot={"stop.command": "true"}
    )
    assert ended["exit_code"] == 9


def test_a_pilot_that_is_not_there_is_told_as_such(hangar: Hangar) -> None:
    ended = keep(hangar, pilot={"command": "/nowhere/pilot"})
    assert ended == {
        "reason": "not-startable",
        "detail": "cannot start the pilot: its program '/nowhere/pilot': No such file or directory",
    }
    ended = keep(hangar, pilot={"command": "no-such-program"})
    assert ended["detail"] == "cannot start the pilot: its program 'no-such-program' is in no folder of PATH"


@needs_root
def test_a_folder_that_the_account_can_not_enter_is_named(hangar: Hangar) -> None:
    hangar.host.files.make_folder("/home/pilot-1", 0)
    hangar.host.files.give("/home/pilot-1", hangar.account.uid, hangar.account.gid)
    assert keep(hangar, is_account=True)["detail"] == "cannot start the pilot: its folder: Permission denied"


def test_an_order_that_can_not_be_read_is_an_end(hangar: Hangar) -> None:
    place = keeper.folder(hangar.host, 1)
    os.close(kept.lay_out(hangar.host.files, place))
    keeping.keep(hangar.host, 1)
    assert keeper.look_at(hangar.host, 1).ended["detail"] == "cannot start the pilot: No such file or directory"
    os.close(kept.lay_out(hangar.host.files, place))
    hangar.host.files.write(f"{place}/{keeper.ORDER}", b"{")
    keeping.keep(hangar.host, 1)
    assert keeper.look_at(hangar.host, 1).ended["reason"] == "abort"


def test_a_log_that_can_not_be_kept_does_not_keep_the_pilot_from_its_work(hangar: Hangar) -> None:
    hangar.host.files.create("/blocked", [b""])
    assert keep(hangar, "echo hi", log="/blocked/pilot-1.log")["out_bytes"] == 3


def test_a_killed_supervisor_is_told_as_such(hangar: Hangar) -> None:
    assert keep(hangar, "kill -9 $PPID; sleep 100")["reason"] == "abort"


def test_a_terminated_keeper_stops_its_pilot_first(hangar: Hangar, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("adopt_orphans", "kill_orphans"):  # this process has other children
        monkeypatch.setattr(kept, name, lambda: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    order = hangar.order(f"trap 'exit 3' TERM; kill -TERM {os.getpid()}; sleep 100 & wait; sleep 1")
    place = keeper.folder(hangar.host, 1)
    lock = kept.lay_out(hangar.host.files, place)
    hangar.host.files.write(f"{place}/{keeper.ORDER}", jsontext.dumps(dict(order.fields())).encode())
    try:
        keeping.main((hangar.host.root, "1"))
    finally:
        os.close(lock)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert keeper.look_at(hangar.host, 1).ended["stopped"] == "signal"


def test_what_can_not_be_killed_in_time_goes_with_its_supervisor(
    hangar: Hangar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_KILL_S", -1.0)  # no time at all
    assert keep(hangar, f"{say(hangar, 'kill')}; sleep 100")["stopped"] == "killed"
    assert hangar.survivors() == []


@needs_root
def test_a_credential_is_read_again_as_often_as_is_asked(hangar: Hangar) -> None:
    hangar.host.files.write("/cred", b"one")
    pilot = {"credential.path": "/cred", "credential.refresh_s": 1, "credential.env": "CRED"}
    change = "touch ready; until grep -q two $CRED; do sleep 0.1; done"
    order = hangar.order(change, is_account=True, pilot=pilot)
    keeper.start(hangar.host, order)
    hangar.wait_for("/home/pilot-1/ready")
    hangar.host.files.write("/cred", b"two")
    assert hangar.ended().ended["exit_code"] == 0
    hangar.host.files.write("/cred", b"one")
    ended = keep(hangar, f"rm {hangar.real('/cred')}; sleep 1.5", pilot={**pilot, "credential.path": "/cred"})
    assert ended["credential"] == ""  # of one's own nothing is copied
    hangar.host.files.write("/cred", b"one")
    ended = keep(hangar, "sleep 1.5", is_account=True, pilot=pilot)
    assert ended["exit_code"] == 0


def test_news_that_nobody_takes_do_not_block_a_keeper(hangar: Hangar) -> None:
    place = keeper.folder(hangar.host, 1)
    os.close(kept.lay_out(hangar.host.files, place))
    news = kept.tell_news(hangar.host.files, place)
    try:
        while True:
            os.write(news, b"." * 4096)
    except BlockingIOError:
        keeping._tell(news)
    os.close(news)


# ---- what is remembered ----


def test_the_course_of_pilots_is_remembered_and_damage_is_not_believed(hangar: Hangar) -> None:
    assert keeper.load_course(hangar.host) == {}
    course = {1: Slot(number=1, starts=3, reason="x"), 2: Slot(number=2)}
    keeper.store_course(hangar.host, course)
    assert keeper.load_course(hangar.host) == course
    path = f"{hangar.host.run_folder}/{keeper.FOLDER}/{keeper.COURSE}"
    for damage in (b"{", b"[]", b'{"one": {}}', b'{"1": {"no": 1}}', b'{"1": 2}'):
        hangar.host.files.write(path, damage)
        assert keeper.load_course(hangar.host) == {}


def test_an_empty_file_is_known_by_its_size_or_absence(hangar: Hangar) -> None:
    hangar.start("touch empty; echo x >full")
    found = hangar.ended()
    empty = {name: keeper.is_empty(hangar.host, found, name) for name in ("empty", "full", "none", "/etc/none")}
    assert empty == {"empty": True, "full": False, "none": True, "/etc/none": True}
    assert (found.account, found.workdir) == (None, "/home/pilot-1")


def test_an_order_that_no_keeper_has_read_is_known_as_such(hangar: Hangar) -> None:
    assert not keeper.is_taken_up(hangar.host, 1)
    place = keeper.folder(hangar.host, 1)
    os.close(kept.lay_out(hangar.host.files, place))
    hangar.host.files.write(f"{place}/{keeper.ORDER}", b"{}")
    assert not keeper.is_taken_up(hangar.host, 1)
    hangar.start()
    hangar.ended()
    assert keeper.is_taken_up(hangar.host, 1)


def test_when_the_state_was_written_is_told(hangar: Hangar) -> None:
    assert keeper.state_changed_ns(hangar.host, "i") == 0


def test_a_pilot_that_can_not_be_killed_is_named(hangar: Hangar, monkeypatch: pytest.MonkeyPatch) -> None:
    hangar.start(HUNDRED)
    hangar.running()
    monkeypatch.setattr(keeper, "MARGIN_S", -21.0)  # less than no time
    monkeypatch.setattr(kept, "order", lambda *_: True)  # nobody hears it
    assert [each.number for each in keeper.stop_all(hangar.host, why="asked")] == [1]
    monkeypatch.undo()


def test_an_order_that_can_not_be_written_starts_nothing(hangar: Hangar) -> None:
    hangar.host.files.create(f"{hangar.host.run_folder}/{keeper.FOLDER}", [b""])
    with pytest.raises(CannotWriteError):
        hangar.start()
