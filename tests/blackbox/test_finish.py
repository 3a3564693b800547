"""The end of a machine with real processes: a watch, requests, a server of job outputs, an init that only notes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import AGENT
from tests.puts import Puts
from tests.watching import Watching, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Done, Guest, Machine

MESSAGE = "etc/joboutputs/shutdown_message"
BOOT = ("run", "--disk")
POLICY = "watch: {http: off}\nlifetime: {max_s: 86400}\n"


@pytest.fixture
def up(machine: Machine, disk: Path) -> Machine:
    """Return a machine that is up, with features and a way to hear requests."""
    machine.put("etc/contextagent/policy.yaml", POLICY)
    (disk / "prolog.sh").write_text("#!/bin/sh\nexit 0\n")
    assert machine.run(*BOOT, str(disk)).code == 0
    return machine


def told(machine: Machine) -> str:
    """Return the message as far as there is one."""
    path = machine.root / MESSAGE
    return path.read_text() if path.exists() else ""


def finishes(machine: Machine) -> list[tuple[int, str, int]]:
    """Return the trace's records of the end."""
    return [(each["code"], each["text"], each["uid"]) for each in machine.trace() if each["ev"] == "finish"]


def messages(puts: Puts) -> list[bytes]:
    """Return every message that was put."""
    return [each.body for each in puts.taken if each.path.endswith("/shutdown_message")]


def test_the_watch_tells_a_finish_once_and_the_stop_leaves_it_at_that(up: Machine) -> None:
    with Watching(up) as watching:
        done = up.run("finish", "300", "no\nmore work")
        assert (done.code, done.err) == (0, "")
        assert done.out == "asked for the end of this machine: 300 no more work; the watch tells /etc/joboutputs\n"
        until(lambda: told(up), "the message is there")
        again = up.run("finish", "200", "done")
        assert (again.code, again.out) == (0, "this machine is finished already: 300 no more work\n")
        until(lambda: "no machine is powered off" in watching.log, "the child has ended")
    assert up.run("run", "stop").code == 0
    assert up.run("run", "stop").out == "contextagent: stop already done in this boot\n"
    assert told(up) == "300 no more work"
    assert finishes(up) == [(300, "no more work", os.getuid())]
    assert json.loads(up.text("etc/joboutputs/receipt.json"))
    assert up.run("trace", "verify").code == 0


def test_without_a_watch_the_caller_sees_to_the_end_itself(up: Machine) -> None:
    done = up.run("finish", "200", "all work done")
    assert (done.code, done.out) == (0, "finished this machine: 200 all work done\n")
    assert done.err == f"contextagent: below '{up.root}' no machine is powered off, leaving it at that\n"
    assert (told(up), finishes(up)) == ("200 all work done", [(200, "all work done", os.getuid())])


def test_of_many_words_at_once_one_counts(up: Machine) -> None:
    codes = range(200, 208)
    with ThreadPoolExecutor(len(codes)) as threads:
        done = list(threads.map(lambda code: up.run("finish", str(code), "me first"), codes))
    ((code, text, _),) = finishes(up)
    assert (text, told(up)) == ("me first", f"{code} me first")
    assert {each.code for each in done} == {0}


def test_a_machine_that_never_booted_with_the_agent_can_be_finished(machine: Machine) -> None:
    assert machine.run("finish", "700", "try again").code == 0
    assert told(machine) == "700 try again"


def test_a_stop_that_nobody_asked_for_is_told_as_100(up: Machine) -> None:
    assert up.run("run", "stop").code == 0
    assert told(up) == "100 shutdown as requested by the machine's host"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("99", "x"), "'99': CODE is three digits, from 100 to 999"),
        (("099", "x"), "'099': CODE is three digits"),
        (("1000", "x"), "'1000': CODE is three digits"),
        (("+30", "x"), "'+30': CODE is three digits"),
        (("\u0663\u0660\u0660", "x"), "CODE is three digits"),
        (("300", " \t\n"), "cannot finish with 300: the text is empty"),
        (("300",), "missing TEXT"),
        (("300", "no", "work"), "'work': one word too many"),
    ],
)
def test_a_word_that_is_none_is_a_mistake_of_the_caller(up: Machine, words: tuple[str, ...], cause: str) -> None:
    done = up.run("finish", *words)
    assert done.code == 64
    assert cause in done.err
    assert finishes(up) == []


def test_a_failed_site_part_is_put_where_the_site_wants_its_outputs(machine: Machine, disk: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", "watch: {http: off}\n")
    with Puts() as puts:
        (disk / "context.sh").write_text(f"JOBOUTPUTS={puts.url()}\n")
        (disk / "prolog.sh").write_text('#!/bin/sh\n[ "$1" = stop ] || exit 7\n')
        assert machine.run(*BOOT, str(disk)).code == 1
        text = b"500 site contextualisation failed: site/pre-network/prolog.sh: exit code 7"
        assert puts.bodies()["/joboutputs/shutdown_message"] == text
        with Watching(machine) as watching:
            until(lambda: "no machine is powered off" in watching.log, "the watch would power off")
        machine.run("run", "stop")
        assert messages(puts) == [text], "once"
        assert json.loads(puts.bodies()["/joboutputs/receipt.json"])["scripts"][-1]["id"] == "site/stop/prolog.sh"


def test_a_failed_machine_that_nobody_waits_for_stays_up_and_can_still_be_finished(
    machine: Machine, disk: Path
) -> None:
    machine.put("etc/contextagent/policy.yaml", POLICY)
    (disk / "prolog.sh").write_text("#!/bin/sh\nexit 7\n")
    assert machine.run(*BOOT, str(disk)).code == 1
    assert told(machine).startswith("500 ")
    with Watching(machine) as watching:
        machine.run("finish", "300", "no work")
        until(lambda: told(machine).startswith("300 "), "the word that ends it counts")
        until(lambda: "no machine is powered off" in watching.log, "and ends it")
    assert [code for code, *_ in finishes(machine)] == [500, 300]


def test_what_is_no_request_is_removed_said_and_ends_nothing(up: Machine) -> None:
    box = up.root / "run/contextagent/finish"
    with Watching(up) as watching:
        wrong: dict[str, Any] = {
            "text": "not json",
            "code": {"ask": "finish", "code": 1000, "text": "x"},
            "flag": {"ask": "finish", "code": True, "text": "x"},
            "words": {"ask": "finish", "code": 300},
            "other": {"ask": "dance"},
        }
        for name, words in wrong.items():
            (up.root / name).write_text(json.dumps(words) if isinstance(words, dict) else words)
            (up.root / name).rename(box / name)
        (box / "link").symlink_to(up.root / "etc/passwd")
        (box / "folder/inner").mkdir(parents=True)
        until(lambda: not list(box.iterdir()), "all of them are gone")
        until(lambda: watching.log.count("cannot ") == 7, "each is said")
        assert up.text("etc/passwd")
        assert up.run("finish", "300", "no work").code == 0
        until(lambda: told(up) == "300 no work", "a right one is heard")
    assert [code for code, *_ in finishes(up)] == [300]


def test_a_request_that_was_dropped_before_a_watch_came_is_heard(up: Machine) -> None:
    box = up.root / "run/contextagent/finish"
    assert box.stat().st_mode & 0o7777 == 0o730
    (box / "early").write_text('{"ask": "finish", "code": 600, "text": "no task queue"}')
    with Watching(up):
        until(lambda: told(up) == "600 no task queue", "it is told")


def test_a_watch_that_is_killed_leaves_the_end_to_the_next_one(machine: Machine, disk: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", "watch: {http: off}\n")

    with Puts(statuses={"/joboutputs/shutdown_message": [403, 201]}) as puts:
        (disk / "context.sh").write_text(f"JOBOUTPUTS={puts.url()}\n")
        assert machine.run(*BOOT, str(disk)).code == 0
        with Watching(machine) as watching:
            machine.run("finish", "300", "no work")
            until(lambda: messages(puts), "it was tried")
            watching.process.send_signal(signal.SIGKILL)
            watching.process.wait()
        with Watching(machine):
            until(lambda: len(messages(puts)) == 2, "it is tried again")
            until(lambda: json.loads(machine.text("run/contextagent/ended.json"))["is_told"], "it was taken")
    assert set(messages(puts)) == {b"300 no work"}
    assert finishes(machine) == [(300, "no work", os.getuid())]


@pytest.mark.parametrize("ago_s", [100_000_000, 0])
def test_a_lifetime_that_is_over_ends_the_machine_with_100(machine: Machine, disk: Path, ago_s: int) -> None:
    end_s = int(time.time()) + 1 - ago_s
    machine.put(
        "etc/contextagent/policy.yaml", f"watch: {{http: off}}\nlifetime: {{shutdowntime: {end_s}, grace_s: 0}}\n"
    )
    (disk / "prolog.sh").write_text("#!/bin/sh\nexit 0\n")
    assert machine.run(*BOOT, str(disk)).code == 0
    with Watching(machine):
        until(lambda: told(machine) == "100 end of the lifetime (shutdowntime)", "it is told")
    ended = json.loads(machine.text("run/contextagent/ended.json"))
    assert ended["goes_off"] == (ago_s == 0), "an end before the boot ends no machine that nobody waits for"


INIT = """#!/bin/sh
echo "$*: $(cat /etc/joboutputs/shutdown_message)" >>/run/called
"""
"""A `shutdown` that only notes how it was called, and what had been told by then."""
ENTER = """
agent() { %(agent)s "$@"; }
as() { # with process ids of its own, as a pilot has them
    user=$1; shift
    unshare --pid --fork --mount-proc setpriv --reuid $user --regid $user --clear-groups %(agent)s "$@"
}
said() { "$@" >>/run/out 2>&1; echo "$?" >>/run/codes; }
agent run --disk /handed --metadata none >/dev/null 2>&1
"""


def inside(guest: Guest, words: str) -> Done:
    """Run a piece of shell in a view of the whole machine that has booted."""
    guest.put("etc/contextagent/policy.yaml", POLICY)
    guest.put("handed/prolog.sh", "#!/bin/sh\nexit 0\n", 0o755)
    guest.put("usr/sbin/shutdown", INIT, 0o755)
    agent = shlex.join(AGENT)
    return guest.shell("sh", "-c", ENTER % {"agent": agent} + words)


WATCHED = """
agent watch 2>/run/watch.log &
while ! [ -s /run/contextagent/watch.pid ]; do sleep 0.05; done
"""


def test_the_pilots_own_account_ends_its_machine_and_nobody_elses_does(guest: Guest) -> None:
    done = inside(
        guest,
        WATCHED
        + """
        stat -c '%a %U' /run/contextagent/finish
        for code in 100 199 500 599; do said as 990 finish $code "a lie"; done
        said as 65534 finish 300 "not mine"
        said as 990 finish 300 "no more work"
        while ! [ -s /run/called ]; do sleep 0.05; done
        while ! grep -qs '"is_off":true' /run/contextagent/ended.json; do sleep 0.05; done
        said as 990 finish 200 "done"
        kill $(cat /run/contextagent/watch.pid)
        wait
        """,
    )
    assert (done.code, done.err) == (0, "")
    assert done.out == "730 root\n"
    assert guest.text("run/codes").split() == ["77"] * 5 + ["0", "0"], guest.text("run/out")
    assert "only root and the pilot's account may" in guest.text("run/out")
    assert guest.text("run/called") == "-h now: 300 no more work\n", "once, after all was told"
    assert finishes(guest) == [(300, "no more work", 990)]


def test_where_no_watch_runs_only_root_can_end_the_machine(guest: Guest) -> None:
    done = inside(
        guest, "said as 990 finish 300 'no work'; said agent finish 500 'bad node'; said agent finish 300 again"
    )
    assert (done.code, done.err) == (0, "")
    assert guest.text("run/codes").split() == ["75", "0", "0"], guest.text("run/out")
    assert "root can do without" in guest.text("run/out")
    assert guest.text("run/called") == "-h now: 500 bad node\n"


def test_the_watch_runs_the_sites_own_command_in_the_place_of_init(guest: Guest) -> None:
    guest.put("opt/site/end", "#!/bin/sh\necho ours >>/run/called\n", 0o755)
    for folder in ("opt", "opt/site"):
        (guest.root / folder).chmod(0o755)
    guest.put("handed/features/machine/shutdown_command", "/opt/site/end")
    done = inside(
        guest,
        WATCHED
        + """
        said as 990 finish 200 "done"
        while ! grep -qs '"is_off":true' /run/contextagent/ended.json; do sleep 0.05; done
        kill $(cat /run/contextagent/watch.pid)
        wait
        """,
    )
    assert (done.code, done.err) == (0, "")
    assert guest.text("run/called") == "ours\n"


PILOT = """
echo begun >log
trap 'echo last words >>log; exit 0' TERM
while test ! -e leave; do sleep 0.05; done
echo left >>log
exit 3
"""


def with_pilot(machine: Machine, disk: Path, puts: Puts, **more: object) -> None:
    """Boot a machine whose pilot writes a log until it is told to end, or a file says that it may leave."""
    machine.put("etc/contextagent/policy.yaml", "watch: {http: off}\n")
    pilot = {
        "framework": "command",
        "command": ["/bin/sh", "-c", PILOT],
        "workdir": "/pilot",
        "outputs": ["*og"],
        "result": {"exit_codes": {"3": 300}},
        **more,
    }
    (disk / "site.json").write_text(json.dumps({"pilot": pilot}))
    (disk / "context.sh").write_text(f"JOBOUTPUTS={puts.url()}\n")
    assert machine.run(*BOOT, str(disk)).code == 0


def test_a_pilots_end_is_told_by_its_code_with_all_that_it_wrote(machine: Machine, disk: Path) -> None:
    with Puts() as puts:
        with_pilot(machine, disk, puts)
        with Watching(machine) as watching:
            until((machine.root / "pilot/log").exists, "the pilot runs")
            machine.put("pilot/leave", "")
            until(lambda: messages(puts), "it is told")
            until(lambda: "no machine is powered off" in watching.log, "the child has ended")
        assert [message[:4] for message in messages(puts)] == [b"300 "]
        assert puts.bodies()["/joboutputs/log"] == b"begun\nleft\n"
        places = [each.path.rpartition("/")[2] for each in puts.taken]
        assert places.index("log") < places.index("shutdown_message"), "who hears of the end finds the outputs there"
        machine.run("run", "stop")
        assert places.count("log") == 1
        assert len(messages(puts)) == 1


def test_a_stop_ends_the_pilot_and_then_hands_over_its_last_words(machine: Machine, disk: Path) -> None:
    with Puts() as puts:
        with_pilot(machine, disk, puts)
        (disk / "epilog.sh").write_text("#!/bin/sh\n")
        with Watching(machine) as watching:
            until((machine.root / "pilot/log").exists, "the pilot runs")
            watching.process.send_signal(signal.SIGTERM)
            watching.process.wait()
        assert not messages(puts), "a watch that ends does not end the machine"
        assert machine.run("run", "stop").code == 0
        assert puts.bodies()["/joboutputs/log"] == b"begun\nlast words\n"
        assert messages(puts) == [b"100 shutdown as requested by the machine's host"]
        kinds = [each["ev"] for each in machine.trace()]
        assert kinds.index("finish") < kinds.index("shutdown")


def test_a_pilot_that_finishes_its_machine_itself_is_stopped_with_it(machine: Machine, disk: Path) -> None:
    with Puts() as puts:
        with_pilot(machine, disk, puts)
        with Watching(machine):
            until((machine.root / "pilot/log").exists, "the pilot runs")
            assert machine.run("finish", "300", "no more work").code == 0
            until(lambda: messages(puts), "it is told at once")
            assert puts.bodies()["/joboutputs/log"] == b"begun\n"
        assert machine.run("run", "stop").code == 0
        assert puts.bodies()["/joboutputs/log"] == b"begun\nlast words\n", "once more, since it was not over"
        assert messages(puts) == [b"300 no more work"]
