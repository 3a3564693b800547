"""What no pilot can do: start twice, start amid a stop, take what is root's, or keep its keeper from its work."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import CannotWriteError
from contextagent.host import Host, poweroff, rights
from contextagent.host.accounts import Account
from contextagent.host.poweroff import command_problem
from contextagent.runner import credential
from contextagent.runner.live import load_live, store_live
from tests.machine import AGENT, Machine
from tests.piloting import Piloted
from tests.watching import PATIENCE_S, Hour, SlowHost, free_port, until

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give away")
SEED = 20091124
CALLS = "write rename mkdir unlinkat openat clone fork vfork pipe2 flock mknodat mknod poll"
MOST = 200 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 8
ALONE = "exec 9>alone; flock -n 9 || echo two >>two; echo x >>starts"


@pytest.fixture
def piloted(machine: Machine, disk: Path) -> Iterator[Piloted]:
    made = Piloted(machine, disk)
    made.policy["stop_budget_s"] = 1
    yield made
    assert made.is_gone_in_time()


@pytest.fixture
def somebody() -> Account:
    return Account(name="somebody", uid=54321, gid=54321, home="/nonexistent", shell="/bin/sh")


def test_a_stop_is_followed_by_no_start(piloted: Piloted) -> None:
    piloted.policy["stop_budget_s"] = 10
    piloted.script("stop.d/slow", "sleep 4")
    with piloted.pilot("echo x >>starts; exit 1", restart={"max": 9, "backoff_s": 2}).boot():
        piloted.wait_for("starts")
        piloted.until("waiting")
        assert piloted.machine.run("run", "stop").code == 0
        assert piloted.place("starts").read_text() == "x\n"


def test_a_start_that_can_not_be_remembered_is_none(piloted: Piloted, monkeypatch: pytest.MonkeyPatch) -> None:
    piloted.policy["watch"]["http"] = f"127.0.0.1:{free_port()}"
    piloted.pilot("echo x >>starts").boot()
    hour = Hour(SlowHost(str(piloted.machine.root)))
    real = os.rename

    def full(old: str, new: str) -> None:
        if new.endswith("/course.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(old, new)

    monkeypatch.setattr(os, "rename", full)
    hour.run(200)
    assert (piloted.state()["state"], piloted.numbers()) == ("refused", [])


def test_a_watch_that_is_killed_before_it_asks_for_the_machines_end_leaves_that_to_the_next(piloted: Piloted) -> None:
    with piloted.pilot("exit 0").boot():
        assert piloted.message() == "200 the pilot has ended"
    host = Host(str(piloted.machine.root))
    live = load_live(host)
    assert live is not None
    store_live(host, live.replace(finish=None))
    for name in ("run/contextagent/ended.json", "etc/joboutputs/shutdown_message"):
        (piloted.machine.root / name).unlink()
    with piloted:
        assert piloted.message() == "200 the pilot has ended"


def test_an_end_is_told_however_long_the_words_for_it_are(piloted: Piloted) -> None:
    with piloted.pilot([f"/{'x' * 200}" * 30]).boot():
        assert piloted.message().startswith("500 cannot start the pilot: its program ")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@needs_root
def test_a_watch_that_is_killed_anywhere_starts_no_pilot_twice(piloted: Piloted) -> None:
    piloted.pilot(f"{ALONE}; sleep 100", on_exit="idle").boot()
    machine = piloted.machine
    words = [*AGENT, "--root", str(machine.root), "watch"]
    places = random.Random(SEED)
    for _ in range(MOST):
        call = places.choice(CALLS.split())
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={places.randrange(1, 60)}"]
        struck = subprocess.Popen(
            ["strace", "-qq", "-o", "/dev/null", *inject, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
        )
        until(lambda: struck.poll() is not None or piloted.state()["state"] == "running", "it is killed, or past it")  # noqa: B023  # it is waited for in this very turn
        if struck.poll() is None:
            os.kill(_child_of(struck.pid), signal.SIGKILL)
        struck.wait(PATIENCE_S)
        with piloted:
            piloted.until("running")
            assert piloted.place("starts").read_text() == "x\n"
            assert piloted.machine.run("pilot", "stop").code == 0
            piloted.until("ended")
        assert not piloted.place("two").exists()
        piloted.place("starts").unlink()
        shutil.rmtree(machine.root / "run/contextagent/pilot")
        assert machine.run("run", "post-network", "--force").code == 0


def _child_of(pid: int) -> int:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


def test_a_pilot_whose_keeper_was_killed_has_gone_before_it_starts_again(piloted: Piloted) -> None:
    hold = (
        "trap '' TERM HUP INT; for i in 1 2 3 4 5 6; do (setsid sh -c 'trap \"\" TERM; sleep 100; sleep 100' &) ; done"
    )
    with piloted.pilot(f"{ALONE}; {hold}; sleep 100", restart={"max": 9, "backoff_s": 0}).boot():
        starts = piloted.place("starts")
        for count in range(1, 4):
            until(lambda: starts.exists() and starts.read_text() == "x\n" * count, "it starts")  # noqa: B023  # as above
            piloted.until("running")
            os.kill(piloted.said(1, "started")["keeper"], signal.SIGKILL)
        assert not piloted.place("two").exists()


@needs_root
def test_a_renewed_credential_gives_nothing_else_away(somebody: Account) -> None:
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        _renew(Machine(Path(root)), somebody)


def _renew(machine: Machine, somebody: Account) -> None:
    host = Host(str(machine.root))
    path = credential.put_copy(host, 1, somebody, b"one")
    precious = machine.put("run/contextagent/live.json", "precious")
    os.link(precious, f"{os.path.dirname(host.files.real(path))}/link")
    credential.put_copy(host, 1, somebody, b"two")
    assert precious.stat().st_uid == 0
    assert host.files.read(path, max_bytes=9) == b"two"


@needs_root
def test_what_is_done_with_an_accounts_rights_ends_in_time_though_the_account_stops_it(
    somebody: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "_PATIENCE_S", 1)
    with pytest.raises(CannotWriteError, match="did not end in time"):
        rights.as_account(somebody, lambda: os.kill(os.getpid(), signal.SIGSTOP))


@needs_root
@pytest.mark.parametrize("is_below", [False, True])
def test_a_command_that_another_could_exchange_by_a_link_is_not_run(
    tmp_path: Path, somebody: Account, *, is_below: bool
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "link"
    link.symlink_to("/bin" if is_below else "/bin/true")
    command = f"{link}/true" if is_below else str(link)
    assert command_problem(command) == ""
    os.chown(link, somebody.uid, somebody.gid, follow_symlinks=False)
    assert "root's alone" in command_problem(command)
    around = tmp_path / "around"
    around.symlink_to(command)
    assert "root's alone" in command_problem(str(around))
    assert poweroff.command_problem("/bin/true") == ""
