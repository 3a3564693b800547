"""How a machine ends: said once, told whole, brought about; and who may ask for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import CannotWriteError, TryLaterError
from contextagent.host import Host
from contextagent.host.dropbox import Dropped
from contextagent.host.process import Finished
from contextagent.model import Problem, Verdict
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import Settings, merge
from contextagent.runner import ending, wishes
from contextagent.runner.handover import hand_over
from contextagent.runner.journal import LOGS, receipt_path
from contextagent.runner.live import Live, load_live, store_live
from contextagent.runner.state import State
from tests.machine import REPOSITORY
from tests.puts import Puts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STANDARD = Settings("standard", {})
OUTPUTS = "/etc/joboutputs"


class Real(Host):
    """A machine below a folder that takes itself for the whole one, but whose system tools are only noted."""

    def __init__(self, root: str, *, codes: Mapping[str, int] | None = None) -> None:
        super().__init__(root)
        self.is_caller = False
        self.codes = codes or {}
        self.called: list[str] = []

    def run(self, argv: Sequence[str], **_: object) -> Finished:
        """Note what would have been run: nobody may ask this machine's own init for its end."""
        self.called.append(" ".join(argv))
        return Finished(exit_code=self.codes.get(argv[0], 0), output=b"first\nit said no\n")

    def announce(self, text: str) -> None:
        """Say nothing on this machine's console."""


class Trace:
    """What was recorded."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def __call__(self, ev: str, **facts: object) -> bool:
        self.records.append({"ev": ev, **facts})
        return True


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(str(tmp_path / "root"))
    host.files.make_folder(OUTPUTS, 0o755)
    host.files.make_folder(LOGS)
    host.files.write(receipt_path(host.boot_id()), b"{}\n")
    return host


def live_of(host: Host, **fields: object) -> Live:
    """Return what is known of a machine, and store it."""
    live = Live(boot_id=host.boot_id(), outputs=OUTPUTS).replace(**fields)
    host.files.make_folder(host.run_folder, 0o755)
    store_live(host, live)
    return live


def said(host: Host) -> ending.Word:
    found = ending.word(host)
    assert found is not None
    return found


def message(host: Host) -> str:
    return host.files.read(f"{OUTPUTS}/{ending.MESSAGE}", max_bytes=1000).decode()


def with_settings(**values: object) -> Settings:
    """Return settings; a double underscore stands for a dot."""
    spoken = {name.replace("__", "."): Setting(value=value) for name, value in values.items()}
    return merge(Layer(voice="image", values=spoken))


def reasons(problems: Sequence[Problem]) -> list[str]:
    return [problem.reason for problem in problems]


def test_the_first_word_on_the_end_counts_and_is_recorded_once(host: Host, trace: Trace) -> None:
    first, is_first = ending.say(host, code=300, text="no\nmore \t work\x1b[0m", by=990, record=trace)
    second, is_second = ending.say(host, code=200, text="done", by=0, record=trace)
    assert (is_first, is_second) == (True, False)
    assert first == second == said(host)
    assert (first.line(), first.by) == ("300 no more work [0m", 990)
    assert not ending.is_ours(first.code)
    assert trace.records == [{"ev": "finish", "code": 300, "text": "no more work [0m", "uid": 990}]


def test_a_word_that_ends_the_machine_counts_after_one_that_did_not(host: Host, trace: Trace) -> None:
    ending.say(host, code=500, text="failed", by=0, record=trace, goes_off=False)
    assert not ending.say(host, code=100, text="stop", by=0, record=trace, goes_off=False)[1]
    assert ending.say(host, code=300, text="no work", by=0, record=trace)[1]
    assert said(host).code == 300


@pytest.mark.parametrize(
    "change",
    [{"boot_id": "another"}, {"schema": 2}, {"more": 1}, {"code": None, "schema": None}],
)
def test_what_is_no_word_of_this_boot_is_not_taken_for_one(host: Host, trace: Trace, change: dict[str, Any]) -> None:
    ending.say(host, code=300, text="no work", by=0, record=trace)
    path = f"{host.run_folder}/{ending.WORD}"
    plain = {**json.loads(host.files.read(path, max_bytes=10_000)), **change}
    host.files.write(path, json.dumps(plain).encode())
    assert ending.word(host) is None


def test_a_word_that_cannot_be_remembered_is_not_said(host: Host, trace: Trace) -> None:
    host.files.make_folder(f"{host.run_folder}/{ending.WORD}/full")
    with pytest.raises(CannotWriteError, match="cannot write"):
        ending.say(host, code=300, text="no work", by=0, record=trace)
    assert trace.records == []


def test_a_finished_machine_has_told_its_outputs_in_one_line_without_an_end(host: Host, trace: Trace) -> None:
    live, problems = ending.finish(
        host, live_of(host), code=300, text="no more work", by=0, settings=STANDARD, record=trace
    )
    assert message(host) == "300 no more work"
    assert host.files.read(f"{OUTPUTS}/receipt.json", max_bytes=100) == b"{}\n"
    assert live.finish == {"code": 300, "text": "no more work", "by": 0, "utc": said(host).utc}
    assert live.is_handed_over
    assert reasons(problems) == ["caller"], "below another root nothing is powered off, and that is said"
    assert said(host).is_told
    assert not said(host).is_off


def test_a_second_finish_tells_the_first_ones_word(host: Host, trace: Trace) -> None:
    for code in (300, 200):
        live, _ = ending.finish(host, live_of(host), code=code, text="x", by=0, settings=STANDARD, record=trace)
        assert (live.finish or {})["code"] == 300
    assert message(host) == "300 x"


def test_a_message_goes_by_put_and_again_until_it_is_taken(host: Host, trace: Trace) -> None:
    path = "/joboutputs/shutdown_message"
    with Puts(statuses={path: [403, 201]}) as puts:
        live = live_of(host, outputs=puts.url())
        ending.say(host, code=700, text="später", by=0, record=trace)
        live, problems = ending.tell(host, live, STANDARD)
        assert (reasons(problems), said(host).is_told) == (["output-not-delivered"], False)
        assert said(host).tries == 1, "the next one is given less time"
        live, problems = ending.tell(host, live, STANDARD)
        assert (reasons(problems), said(host).is_told) == ([], True)
        ending.tell(host, live, STANDARD)
        assert [each.body for each in puts.taken if each.path == path] == ["700 später".encode()] * 2
        assert puts.bodies()["/joboutputs/receipt.json"] == b"{}\n"


def test_nothing_is_told_or_brought_about_that_nobody_said(host: Host) -> None:
    live = live_of(host)
    assert ending.tell(host, live, STANDARD) == (live, ())
    assert ending.act(host, live, STANDARD) == (live, ())
    assert not host.files.exists(f"{OUTPUTS}/{ending.MESSAGE}")


def test_init_is_asked_once_to_power_the_machine_off(tmp_path: Path, host: Host, trace: Trace) -> None:
    real = Real(host.root)
    ending.say(real, code=200, text="done", by=0, record=trace)
    for _ in range(2):
        _, problems = ending.act(real, live_of(real), STANDARD)
        assert problems == ()
    assert real.called in (["shutdown -h now"], ["systemctl poweroff --no-block"])
    assert said(real).is_off
    assert tmp_path.exists()


def test_a_word_that_does_not_end_the_machine_leaves_it_up(host: Host, trace: Trace) -> None:
    real = Real(host.root)
    ending.say(real, code=500, text="failed", by=0, record=trace, goes_off=False)
    ending.act(real, live_of(real), STANDARD)
    assert real.called == []
    assert message(real) == "500 failed"


def test_the_sites_command_takes_the_place_of_init(host: Host, trace: Trace) -> None:
    real = Real(host.root)
    live = live_of(real, features={ending.COMMAND: "/bin/true"})
    ending.finish(real, live, code=200, text="done", by=0, settings=STANDARD, record=trace)
    assert real.called == ["/bin/true"]
    assert said(real).is_off


@pytest.mark.parametrize("command", ["/bin/true", "/tmp", "true -x", "/nowhere/at/all"])
def test_where_the_sites_command_fails_init_is_asked(host: Host, trace: Trace, command: str) -> None:
    real = Real(host.root, codes={"/bin/true": 3})
    live = live_of(real, features={ending.COMMAND: command})
    _, problems = ending.finish(real, live, code=200, text="done", by=0, settings=STANDARD, record=trace)
    assert reasons(problems) == ["shutdown-command"]
    assert problems[0].message.startswith(f"cannot run shutdown_command '{command}': ")
    assert problems[0].message.endswith(", asking init instead")
    assert real.called[-1].split()[0] in ("shutdown", "systemctl")
    assert said(real).is_off


def test_a_machine_that_nobody_takes_down_says_so_and_may_be_tried_again(host: Host, trace: Trace) -> None:
    real = Real(host.root, codes=dict.fromkeys(("shutdown", "systemctl", "poweroff"), 1))
    _, problems = ending.finish(real, live_of(real), code=200, text="x", by=0, settings=STANDARD, record=trace)
    assert reasons(problems) == ["no-power-off"]
    assert "shutdown: it said no; poweroff: it said no" in problems[0].message
    assert not said(real).is_off


def test_what_a_pilot_may_still_write_is_handed_over_again(host: Host, trace: Trace) -> None:
    ending.say(host, code=200, text="done", by=0, record=trace)
    live, _ = ending.tell(host, live_of(host, pilot={"state": "running"}), STANDARD)
    assert not live.is_handed_over
    live, _ = ending.tell(host, live.replace(pilot={"state": "ended"}), STANDARD)
    assert live.is_handed_over


def test_where_its_mark_cannot_be_written_it_is_said_and_done_again(host: Host, trace: Trace) -> None:
    ending.say(host, code=200, text="done", by=0, record=trace)
    word = said(host)
    live = live_of(host)
    host.files.remove(f"{host.run_folder}/{ending.WORD}")
    host.files.make_folder(f"{host.run_folder}/{ending.WORD}/full")
    _, problems = ending._tell(host, live, STANDARD, word)
    assert reasons(problems) == ["cannot-write"]
    assert message(host) == "200 done"


def test_an_end_is_late_but_not_left_out_where_another_keeps_its_lock(
    host: Host, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_SAYING_S", 0.1)
    monkeypatch.setattr(ending, "_TELLING_S", 0.1)
    live = live_of(host)
    with host.lock(f"{host.run_folder}/{ending.SAYING}"), host.lock(f"{host.run_folder}/{ending.TELLING}"):
        with pytest.raises(TryLaterError):
            host.lock(f"{host.run_folder}/{ending.SAYING}")
        ending.say(host, code=200, text="done", by=0, record=trace, goes_off=False)
        ending.act(host, live, STANDARD)
        ending.tell(host, live, STANDARD)
    assert message(host) == "200 done"


def report(**fields: object) -> dict[str, Any]:
    plain = {"id": "site/stop/x", "owner": "site", "on_error": "no-pilot", "state": "ok", "exit_code": 0, "reason": ""}
    return {**plain, **fields}


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (State(instance_id="i", reports=(report(), report(state="failed", exit_code=3))), "site/stop/x: exit code 3"),
        (State(instance_id="i", reports=(report(state="timeout", exit_code=None),)), "site/stop/x: timeout"),
        (State(instance_id="i", reports=(report(state="skipped", reason="budget", exit_code=None),)), "x: skipped"),
        (
            State(
                instance_id="i",
                reports=(report(state="failed", owner="user"), report(state="failed", on_error="continue")),
                errors=(Problem(reason="invalid-site-settings", message="…"),),
            ),
            ": invalid-site-settings",
        ),
        (
            State(
                instance_id="i",
                verdicts=(
                    Verdict(owner="user", source="disk", verdict="absent", reason="no-disk", duration_s=0),
                    Verdict(owner="site", source="disk", verdict="broken", reason="torn: it is", duration_s=0),
                ),
            ),
            ": torn",
        ),
        (State(instance_id="i"), ": no site part"),
    ],
)
def test_a_failed_boot_is_told_with_what_failed(host: Host, trace: Trace, state: State, why: str) -> None:
    live_of(host)
    assert ending.after_boot(host, state, STANDARD, record=trace) == ()
    assert message(host).startswith("500 site contextualisation failed: ")
    assert message(host).endswith(why)
    live = load_live(host)
    assert live is not None
    assert (live.finish or {})["code"] == 500


@pytest.mark.parametrize(
    ("fields", "settings", "goes_off"),
    [
        ({}, STANDARD, False),
        ({"is_outputs_given": True}, STANDARD, True),
        ({"pilot": {"state": "waiting"}}, STANDARD, True),
        ({}, with_settings(pilot__framework="command"), True),
    ],
)
def test_a_failed_machine_ends_only_where_somebody_waits_for_its_outputs_or_its_pilot(
    host: Host, trace: Trace, fields: dict[str, Any], settings: Settings, *, goes_off: bool
) -> None:
    live_of(host, **fields)
    ending.after_boot(host, State(instance_id="i"), settings, record=trace)
    assert said(host).goes_off == goes_off


def test_a_failed_boot_says_nothing_where_nobody_waits_or_more_was_said(host: Host, trace: Trace) -> None:
    assert ending.after_boot(host, State(instance_id="i"), STANDARD, record=trace) == ()
    assert ending.word(host) is None
    live_of(host)
    ending.say(host, code=300, text="no work", by=0, record=trace)
    assert ending.after_boot(host, State(instance_id="i"), STANDARD, record=trace) == ()
    assert not host.files.exists(f"{OUTPUTS}/{ending.MESSAGE}")


def test_a_stop_tells_100_where_nobody_said_how_the_machine_ends(host: Host, trace: Trace) -> None:
    assert ending.at_stop(host, STANDARD, record=trace) == ()
    assert ending.word(host) is None, "nothing was published, so nobody waits"
    live_of(host)
    assert ending.at_stop(host, STANDARD, record=trace) == ()
    assert message(host) == "100 shutdown as requested by the machine's host"
    assert trace.records[-1]["code"] == 100


def test_a_stop_tells_what_was_said_and_could_not_be_told_before(host: Host, trace: Trace) -> None:
    live_of(host)
    ending.say(host, code=300, text="no work", by=0, record=trace)
    assert ending.at_stop(host, STANDARD, record=trace) == ()
    assert message(host) == "300 no work"


def test_neither_a_boot_nor_a_stop_ends_because_nothing_can_be_remembered(host: Host, trace: Trace) -> None:
    live_of(host)
    host.files.make_folder(f"{host.run_folder}/{ending.WORD}/full")
    assert reasons(ending.at_stop(host, STANDARD, record=trace)) == ["cannot-write"]
    assert reasons(ending.after_boot(host, State(instance_id="i"), STANDARD, record=trace)) == ["cannot-write"]


def pilot(host: Host, number: int, *names: str) -> str:
    """Make what a pilot's keeper and the pilot left, and return its folder."""
    place, workdir = f"{host.run_folder}/pilot/{number}", f"/home/pilot-{number}"
    for folder in (place, workdir):
        host.files.make_folder(folder)
    host.files.write(f"{place}/started", json.dumps({"workdir": workdir, "account": None}).encode())
    host.files.write(f"{place}/ended", b'{"reason": "exit"}')
    for name in names:
        host.files.write(f"{workdir}/{name}", f"{number} {name}".encode())
    return workdir


def handed(host: Host) -> set[str]:
    return {entry.name for entry in host.files.folder(OUTPUTS)}


def test_every_pilots_outputs_are_handed_over_by_name_or_pattern(host: Host) -> None:
    for number in (1, 2):
        pilot(host, number, "a.log", "b.log", "result", "core")
    host.files.write("/home/whole", b"whole")
    settings = with_settings(pilot__outputs=("*.log", "result", "/home/whole", "none/*.log"))
    assert hand_over(host, live_of(host), settings, total_s=20) == ()
    named = {"a.log", "b.log", "result", "whole"}
    assert handed(host) == {*named, *(f"2-{name}" for name in named), "receipt.json"}


def test_an_output_that_is_missing_is_said_and_the_others_are_handed_over(host: Host, trace: Trace) -> None:
    pilot(host, 1, "b")
    settings = with_settings(pilot__outputs=("a", "b"))
    assert reasons(hand_over(host, live_of(host), settings, total_s=0)) == ["output-not-delivered"]
    assert handed(host) == {"b", "receipt.json"}
    ending.say(host, code=200, text="x", by=0, record=trace)
    live, _ = ending.tell(host, live_of(host), settings)
    assert not live.is_handed_over, "the stop phase tries once more"


def test_outputs_that_are_handed_over_are_left_at_that_but_the_receipt_grows(host: Host) -> None:
    pilot(host, 1, "a")
    live = live_of(host, is_handed_over=True)
    hand_over(host, live, with_settings(pilot__outputs=("a",)), total_s=20)
    assert handed(host) == {"receipt.json"}


def test_a_receipt_that_nobody_takes_is_said(host: Host) -> None:
    with Puts(statuses={"/joboutputs/receipt.json": [403]}) as puts:
        problems = hand_over(host, live_of(host, outputs=puts.url()), STANDARD, total_s=20)
    assert reasons(problems) == ["output-not-delivered"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root acts with another account's rights")
def test_root_reads_no_output_that_the_pilots_account_could_not_read(tmp_path: Path, host: Host) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2], tmp_path / "root"):
        folder.chmod(0o755)
    workdir = pilot(host, 1)
    real = Real(host.root)
    real.files.make_folder("/etc", 0o755)
    real.files.write("/etc/passwd", b"pilot:x:990:990::/home/pilot-1:/bin/sh\n", mode=0o644)
    real.files.write("/etc/secret", b"root's own")
    real.files.make_folder("/etc/closed")
    real.files.write("/etc/closed/name", b"root's own", mode=0o644)
    real.files.write(f"{workdir}/mine", b"mine", mode=0o644)
    real.files.make_folder("/home", 0o755)
    real.files.give(workdir, 990, 990)
    started = {"workdir": workdir, "account": "pilot"}
    real.files.write(f"{real.run_folder}/pilot/1/started", json.dumps(started).encode())
    settings = with_settings(pilot__outputs=("/etc/secret", "/etc/closed/*", "*"))
    problems = hand_over(real, live_of(real), settings, total_s=20)
    assert reasons(problems) == ["output-not-delivered"], "the names in a closed folder are not even told"
    assert handed(real) == {"mine", "receipt.json"}


@pytest.mark.parametrize(
    ("dropped", "said"),
    [
        (Dropped(name="x", problem="it is a link"), "it is a link"),
        (Dropped(name="x", uid=1234, data=b'{"ask": "finish"}'), "it is uid 1234's"),
        (Dropped(name="x", uid=0, data=b"{"), "it is no JSON"),
        (Dropped(name="x", uid=0, data=b"\xff"), "it is no JSON"),
        (Dropped(name="x", uid=0, data=b"[" * 4000), "it is no JSON"),
        (Dropped(name="x", uid=0, data=b"[]"), "it does not say what it asks"),
        (Dropped(name="x", uid=0, data=b'{"ask": 1}'), "it does not say what it asks"),
        (
            Dropped(name="x", uid=990, data=b'{"ask": "finish", "code": 300}'),
            wishes.Wish(ask="finish", words={"code": 300}, uid=990),
        ),
    ],
)
def test_a_request_is_judged_by_whose_it_is_and_what_it_says(dropped: Dropped, said: object) -> None:
    assert wishes._judged(dropped, {0, 990}) == said


def test_requests_come_in_the_order_in_which_they_were_dropped_and_go_when_they_are_done(host: Host) -> None:
    assert wishes.open_folder(host, STANDARD) == ()
    assert wishes.waiting(host, STANDARD) == []
    for code in (300, 200, 700):
        wishes.ask(host, "finish", code=code, text="x")
    found = wishes.waiting(host, STANDARD)
    assert [wish.words["code"] for _, wish in found if isinstance(wish, wishes.Wish)] == [300, 200, 700]
    for dropped, _ in found:
        wishes.done(host, dropped)
    assert wishes.waiting(host, STANDARD) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands a folder to a group")
@pytest.mark.parametrize(("settings", "gid"), [(STANDARD, 990), (with_settings(pilot__user="atlas"), 991)])
def test_the_folder_for_requests_is_the_pilots_accounts_to_write_into_and_roots_to_read(
    host: Host, settings: Settings, gid: int
) -> None:
    real = Real(host.root)
    real.files.write("/etc/passwd", b"contextuser:x:990:990::/x:/bin/sh\natlas:x:991:991::/x:/bin/sh\n")
    assert wishes.open_folder(real, settings) == ()
    found = os.stat(real.files.real(wishes.folder(real)))
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o730, 0, gid)
    wishes.ask(real, "finish", code=300, text="x")
    (dropped,) = os.scandir(real.files.real(wishes.folder(real)))
    os.chown(dropped.path, gid, gid)
    ((_, wish),) = wishes.waiting(real, settings)
    assert isinstance(wish, wishes.Wish)
    assert wish.uid == gid


def test_a_machine_without_the_account_takes_requests_of_root_alone(host: Host) -> None:
    real = Real(host.root)
    assert wishes.open_folder(real, STANDARD) == ()
    wishes.ask(real, "finish", code=300, text="x")
    assert len(wishes.waiting(real, STANDARD)) == 1


def test_a_folder_that_cannot_be_made_is_said(host: Host) -> None:
    host.files.make_folder(host.run_folder)
    host.files.write(wishes.folder(host), b"")
    assert reasons(wishes.open_folder(host, STANDARD)) == ["cannot-write"]


def is_watched(host: Host) -> bool:
    """Ask in another process, as everybody does."""
    pid = os.fork()
    if pid == 0:
        os._exit(wishes.is_watched(host))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_a_watch_is_known_by_what_it_holds_and_not_by_a_number(host: Host) -> None:
    host.files.make_folder(host.run_folder)
    path = f"{host.run_folder}/{wishes.WATCH_PID}"
    assert not is_watched(host)
    host.files.write(path, f"{os.getpid()}\n".encode(), mode=0o644)
    assert not is_watched(host), "one that was killed"
    mark = wishes.Mark(host)
    for _ in range(2):
        mark.put()
        assert is_watched(host)
    assert host.files.read(path, max_bytes=100) == f"{os.getpid()}\n".encode()
    assert os.stat(host.files.real(path)).st_mode & 0o777 == 0o644
    for _ in range(2):
        mark.remove()
        assert not is_watched(host)
        assert not host.files.exists(path)


def test_a_watch_that_was_killed_is_none_from_then_on(host: Host) -> None:
    host.files.make_folder(host.run_folder)
    assert not wishes.is_watched(host)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        wishes.Mark(host).put()
        os.write(write_end, b"x")
        signal.pause()
    assert os.read(read_end, 1)
    assert wishes.is_watched(host)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not wishes.is_watched(host)
    os.close(read_end)
    os.close(write_end)


def test_a_mark_that_cannot_be_put_is_an_error_and_one_that_cannot_be_removed_is_none(host: Host) -> None:
    path = f"{host.run_folder}/{wishes.WATCH_PID}"
    host.files.make_folder(f"{path}/full")
    mark = wishes.Mark(host)
    with pytest.raises(CannotWriteError, match=r"cannot write '/run/contextagent/watch\.pid'"):
        mark.put()
    mark.remove()
    host.files.remove(path)
    mark.put()
    host.files.remove(host.run_folder)
    host.files.write(host.run_folder, b"")
    mark.remove()
    assert not wishes.is_watched(host)


def test_an_end_does_not_hang_on_a_lock_that_can_not_be_made(host: Host) -> None:
    for name in (ending.SAYING, ending.TELLING):
        host.files.make_folder(f"{host.run_folder}/{name}")
    unwritten = ending.made(host, code=300, text="no work", by=0)
    ending.act(host, live_of(host), STANDARD, unwritten)
    assert host.files.read("/etc/joboutputs/shutdown_message", max_bytes=99) == b"300 no work"
    assert ending.say(host, code=300, text="no work", by=0, record=lambda *_, **__: None)[1] is False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")
def test_a_watch_is_seen_from_where_process_ids_are_others(host: Host) -> None:
    host.files.make_folder(host.run_folder, 0o755)
    mark = wishes.Mark(host)
    mark.put()
    code = "import sys; from contextagent.host import Host; from contextagent.runner import wishes"
    code += "; print(wishes.is_watched(Host(sys.argv[1])))"
    words = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, host.root]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    mark.remove()
    assert done.stdout == "True\n"


@given(st.text(max_size=400))
def test_any_text_becomes_one_line_that_a_console_can_show(text: str) -> None:
    line = wishes.one_line(text)
    assert len(line) <= wishes._MAX_TEXT
    assert line.isprintable()
    assert line == line.strip() == wishes.one_line(line)
    line.encode()  # no lone surrogate is left


@given(st.binary(max_size=200), st.integers(0, 3))
def test_whatever_is_dropped_is_a_request_or_said_not_to_be(data: bytes, uid: int) -> None:
    judged = wishes._judged(Dropped(name="x", uid=uid, data=data), {0, 1})
    assert isinstance(judged, (str, wishes.Wish))
    assert judged
