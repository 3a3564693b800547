"""When the watch ends a machine, where its time is the test's: lifetimes, clocks, tries, and who may ask for what."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.features.lifetime import End, Now
from contextagent.host.accounts import Account
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import Settings, merge
from contextagent.runner import ending, wishes
from contextagent.runner.live import Live, load_live, store_live
from contextagent.runner.state import State
from contextagent.watch import requests, room
from contextagent.watch.loop import Signals
from contextagent.watch.requests import Requests
from tests.watching import SlowHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

STANDARD = Settings("standard", {})
PILOT = merge(Layer(voice="image", values={"pilot.framework": Setting(value="command")}))
STOP_S = 60
UTC_S, BOOT_S = 1_800_000_000.0, 1000.0
OUTPUTS = "/etc/joboutputs"


class Slow(SlowHost):
    """A machine whose clocks stand at one moment, whenever it is tested."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.utc_s, self.boot_s = UTC_S, BOOT_S


class Stand:
    """A watch with the one part that ends machines, without the loop around it."""

    def __init__(self, root: Path, *, settings: Settings = STANDARD, **fields: Any) -> None:
        self.host = Slow(str(root))
        for folder in (self.host.run_folder, OUTPUTS):
            self.host.files.make_folder(folder, 0o755)
        live = Live(boot_id=self.host.boot_id(), outputs=OUTPUTS).replace(**fields)
        store_live(self.host, live)
        state = State(instance_id="i", boot_id=live.boot_id)
        self.watch = room.Watch(self.host, settings, state, live)
        self.said: list[str] = []
        self.watch.say = self.said.append  # type: ignore[method-assign, assignment]  # what a log would show
        self.part: Requests = requests.begin(self.watch)
        self.watch.note_clock(self.now())

    def now(self) -> Now:
        return Now(utc_s=self.host.utc_s, boot_s=self.host.boot_s)

    def wake(self) -> float | None:
        """Wake the part, and let a child that it has started end."""
        due_s = self.part.wake(self.now())
        while self.part._child is not None:
            self.watch.readers[self.part._child.fd]()
        return due_s

    def word(self) -> ending.Word | None:
        return ending.word(self.host)

    def drop(self, words: Mapping[str, object]) -> None:
        wishes.ask(self.host, **words)  # type: ignore[arg-type]  # whatever a test asks

    def messages(self) -> str:
        return "\n".join(self.said)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Hear of files that come into the folder as the watch does: without it the kernel would end this process."""
    signals = Signals()
    yield
    signals.close()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Stand]:
    return lambda **words: Stand(tmp_path / "machine", **words)


def boot_end(at_s: float) -> End:
    return End(by="policy", clock="boot", at_s=at_s)


def wall_end(at_s: float) -> End:
    return End(by="shutdowntime", clock="wall", at_s=UTC_S + at_s - BOOT_S)


@pytest.mark.parametrize("end", [boot_end(5000), wall_end(5000)])
def test_a_machine_without_a_pilot_is_finished_when_only_the_stop_phase_fits_in(
    make: Callable[..., Stand], end: End
) -> None:
    stand = make(ends=(end, boot_end(9000)))
    stand.host.move(3000)
    assert stand.wake() == 5000 - STOP_S
    stand.host.move(1000 - STOP_S - 1)
    assert stand.wake() == 5000 - STOP_S
    assert stand.word() is None
    stand.host.move(1)
    stand.wake()
    word = stand.word()
    assert word is not None
    assert (word.line(), word.by, word.goes_off) == (f"100 end of the lifetime ({end.by})", 0, True)


def test_a_pilot_that_was_told_to_end_may_say_how_it_did_for_a_while(make: Callable[..., Stand]) -> None:
    stand = make(ends=(boot_end(5000),), settings=PILOT, pilot={"state": "stopping"})
    stand.host.move(4000 - STOP_S)
    assert stand.wake() == 5000 - STOP_S * 0.75
    stand.drop({"kind": "finish", "code": 200, "text": "stopped"})
    stand.wake()
    word = stand.word()
    assert word is not None
    assert word.code == 200


def test_a_machine_without_an_end_is_never_finished(make: Callable[..., Stand]) -> None:
    stand = make()
    stand.host.move(10**9)
    assert stand.wake() is None
    assert stand.word() is None


def test_an_end_that_comes_because_the_clock_was_set_is_waited_with(make: Callable[..., Stand]) -> None:
    stand = make(ends=(wall_end(50_000),))
    stand.host.move(100)
    stand.wake()
    stand.host.utc_s += 100_000
    assert stand.wake() is None
    assert stand.word() is None
    stand.host.utc_s -= 100_000
    assert stand.wake() == 50_000 - STOP_S, "the clock is set right, and nothing has happened"
    stand.host.utc_s += 100_000
    for _ in range(3):
        stand.wake()
        stand.host.move(room.TICK_S)
    stand.wake()
    assert stand.word() is not None, "it has kept pace for a minute"


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_end_from_before_a_boot_whose_clock_nobody_has_set_yet_is_not_believed(
    make: Callable[..., Stand], *, is_kept: bool
) -> None:
    stand = make(ends=(End(by="shutdowntime", clock="wall", at_s=UTC_S - 2000),), is_outputs_given=True)
    stand.host.is_clock_synchronised = lambda: is_kept  # type: ignore[method-assign]  # as the kernel of a young guest
    stand.host.boot_s = 10.0
    stand.watch.note_clock(stand.now())
    stand.host.move(room.TICK_S)
    due_s = stand.wake()
    assert (stand.word() is not None) == is_kept
    if not is_kept:
        assert due_s == 120
        stand.host.move(50)
        stand.wake()
        assert stand.word() is not None, "nobody sets this clock"


@pytest.mark.parametrize(
    ("fields", "goes_off"),
    [({}, False), ({"is_outputs_given": True}, True), ({"pilot": {"state": "refused"}}, True)],
)
def test_an_end_from_before_the_boot_ends_the_machine_only_where_somebody_waits(
    make: Callable[..., Stand], fields: dict[str, Any], *, goes_off: bool
) -> None:
    stand = make(ends=(wall_end(-1000),), **fields)
    for _ in range(2):
        stand.wake()
    word = stand.word()
    assert word is not None
    assert (word.code, word.goes_off) == (100, goes_off)
    assert stand.messages().count("finishing this machine") == 1


def test_a_lifetime_that_is_over_ends_a_machine_that_was_only_told_of(make: Callable[..., Stand]) -> None:
    stand = make(ends=(boot_end(2000),))
    stand.drop({"kind": "finish", "code": 500, "text": "failed"})
    ending.say(stand.host, code=500, text="failed", by=0, record=lambda *_, **__: None, goes_off=False)
    stand.host.move(1000)
    stand.wake()
    word = stand.word()
    assert word is not None
    assert word.goes_off


def test_a_word_from_before_is_shown_and_gone_on_with(make: Callable[..., Stand], tmp_path: Path) -> None:
    host = Slow(str(tmp_path / "machine"))
    ending.say(host, code=300, text="no work", by=990, record=lambda *_, **__: None)
    stand = make()
    live = load_live(stand.host)
    assert live is not None
    assert (live.finish or {})["code"] == 300
    stand.wake()
    word = stand.word()
    assert word is not None
    assert word.is_told
    again = Requests(stand.watch)
    assert again._word is not None


def test_an_end_that_does_not_come_about_is_tried_five_times_a_minute_apart(make: Callable[..., Stand]) -> None:
    stand = make(outputs="/nowhere")
    stand.host.is_caller = False  # so that it goes on
    stand.host.run = lambda *_, **__: pytest.fail("init")  # type: ignore[method-assign]  # no tool is ever reached
    ending.say(stand.host, code=500, text="x", by=0, record=lambda *_, **__: None, goes_off=False)
    stand.part._word = stand.word()
    for number in range(1, 8):
        due_s = stand.wake()
        assert stand.messages().count("cannot put '/nowhere/shutdown_message'") == min(number, 5)
        assert stand.wake() == (stand.host.boot_s + 60 if number < 5 else None), due_s
        stand.host.move(60)


def test_a_child_that_is_killed_is_said_and_tried_again(make: Callable[..., Stand]) -> None:
    stand = make()
    stand.drop({"kind": "finish", "code": 300, "text": "x"})
    lock = stand.host.lock(f"{stand.host.run_folder}/{ending.TELLING}")
    stand.part.wake(stand.now())
    child = stand.part._child
    assert child is not None
    os.kill(child._pid, 9)
    stand.watch.readers[child.fd]()
    lock.release()
    assert "cannot end this machine: killed, trying again" in stand.messages()
    stand.part._done()
    assert stand.part._child is None, "nothing to hear of"


def test_a_watch_that_ends_lets_its_child_go_on(make: Callable[..., Stand]) -> None:
    stand = make()
    stand.part.close()
    stand.drop({"kind": "finish", "code": 300, "text": "x"})
    stand.part.wake(stand.now())
    child = stand.part._child
    assert child is not None
    stand.part.close()
    os.waitpid(child._pid, 0)
    word = stand.word()
    assert word is not None
    assert word.is_told


@pytest.mark.parametrize(
    ("words", "uid", "said"),
    [
        (
            {"kind": "finish", "code": 500, "text": "x"},
            990,
            "cannot finish this machine for uid 990: code 500 is root's",
        ),
        ({"kind": "finish", "code": 199, "text": "x"}, 990, "code 199 is root's"),
        ({"kind": "finish", "code": "300", "text": "x"}, 990, "it has no code of three digits and no text"),
        ({"kind": "finish", "code": 300, "text": "\n"}, 990, "it has no code of three digits and no text"),
        ({"kind": "drain"}, 990, "'drain' is root's to ask"),
        ({"kind": "dance"}, 0, "nobody knows 'dance'"),
    ],
)
def test_what_somebody_may_not_ask_is_said_and_not_done(
    make: Callable[..., Stand], words: dict[str, Any], uid: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes other accounts' files")
    stand = make()
    account = Account(name="contextuser", uid=990, gid=990, home="/", shell="/bin/sh")
    monkeypatch.setattr(wishes, "asker", lambda *_: account)
    stand.host.is_caller = False
    stand.drop(words)
    (dropped,) = os.scandir(stand.host.files.real(wishes.folder(stand.host)))
    os.chown(dropped.path, uid, uid)
    stand.wake()
    assert said in stand.messages()
    assert stand.word() is None
    assert list(os.scandir(stand.host.files.real(wishes.folder(stand.host)))) == []


def test_what_root_asks_beside_is_handed_to_whoever_answers(make: Callable[..., Stand]) -> None:
    stand = make()
    answered: list[tuple[dict[str, Any], int]] = []
    stand.watch.answers["drain"] = lambda words, uid: answered.append((dict(words), uid))
    stand.drop({"kind": "drain", "in_s": 60})
    stand.wake()
    assert answered == [({"in_s": 60}, os.getuid())]


def test_a_folder_that_cannot_be_made_leaves_the_rest_of_the_watch_alone(tmp_path: Path) -> None:
    root = tmp_path / "machine"
    host = Slow(str(root))
    host.files.make_folder(host.run_folder)
    host.files.write(wishes.folder(host), b"")
    stand = Stand(root, ends=(boot_end(1000),))
    assert "taking no requests" in stand.messages()
    stand.wake()
    assert stand.word() is not None


def test_a_word_that_cannot_be_remembered_is_said_and_the_request_is_gone(make: Callable[..., Stand]) -> None:
    stand = make()
    stand.host.files.make_folder(f"{stand.host.run_folder}/{ending.WORD}/full")
    stand.drop({"kind": "finish", "code": 300, "text": "x"})
    stand.wake()
    assert "going on without it" in stand.messages()


def test_a_finished_machine_says_so_in_its_live_file_and_its_trace(make: Callable[..., Stand]) -> None:
    stand = make()
    stand.drop({"kind": "finish", "code": 300, "text": "no work"})
    stand.wake()
    live = load_live(stand.host)
    assert live is not None
    assert (live.finish or {})["text"] == "no work"
    assert live.is_handed_over
    (trace,) = os.scandir(stand.host.files.real("/var/log/contextagent"))
    with open(trace.path, encoding="ascii") as file:
        records = [json.loads(line) for line in file]
    assert [each["code"] for each in records if each["ev"] == "finish"] == [300]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_what_can_not_be_removed_is_said_once_and_is_in_nobodys_way(
    make: Callable[..., Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wishes, "_MOST", 2)
    stand = make()
    stuck = [f"{wishes.folder(stand.host)}/{name}" for name in "abc"]
    try:
        for path in stuck:
            stand.host.files.make_folder(path)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", stand.host.files.real(path)], check=True)
        stand.drop({"kind": "finish", "code": 300, "text": "no work"})
        stand.watch.is_poked = True
        while stand.watch.is_poked:
            stand.watch.is_poked = False
            stand.wake()
        assert stand.messages().count("cannot remove") == 3
        word = stand.word()
        assert word is not None
        assert word.code == 300
    finally:
        for path in stuck:
            subprocess.run(["umount", stand.host.files.real(path)], check=False)
