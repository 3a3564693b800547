"""Log daemons are told what the site wants, checked, compared after the user's scripts, and taken back if they fail.

The daemon here is a stand-in, with real processes, files and commands: it comes up if its configuration has no `bad` in
it.  Debian's own daemons are in tests/slow.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.collectors import BEGIN, END, Endpoint, Target, TargetFile
from contextagent.errors import CannotWriteError
from contextagent.host import Host
from contextagent.host.daemons import running
from contextagent.model import Plan, Step
from contextagent.policy.settings import Settings
from contextagent.runner import logfiles, logpositions
from contextagent.runner.execution import execute
from contextagent.runner.folders import Folders
from contextagent.runner.journal import Journal, trace_path
from contextagent.runner.logsetup import LogSetup
from contextagent.runner.state import State, instance_folder
from contextagent.runner.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contextagent.model import Phase

_NUMBERS = itertools.count()
DROP_IN = "/etc/clogd.d/10-contextagent.conf"
MAIN = "/etc/clogd.conf"
LOOKS = """#!/bin/sh
! grep -qs bad "$@"
"""
TAKES_UP = """#!/bin/sh
# {0}: the folder of the stand-in; {1}: its name; {2}: whether one that has stopped is started, too
echo "$0" >>{0}/asked
pid=$(cat {0}/pid)
if [ -z "{2}" ] && ! kill -0 $pid 2>/dev/null; then exit 0; fi
kill -9 $pid 2>/dev/null
if grep -qs bad {0}/root{3} {0}/root{4}; then exit 0; fi
{0}/{1} 1000 </dev/null >/dev/null 2>&1 &
echo $! >{0}/pid
"""


class Machine(Host):
    """A machine below a root whose daemons are this machine's processes, and whose console is a list."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.is_caller = False
        self.console: list[str] = []

    def announce(self, text: str) -> None:
        self.console.append(text)


class Stand:
    """A machine with a log daemon of its own kind, and what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"c{os.getpid() % 10**6}-{next(_NUMBERS)}"
        self.host = Machine(str(folder / "root"))
        self.journal = Journal.open(self.host, instance_id="i")
        self.put(MAIN, "main\n")
        self._program("check", LOOKS)
        for name, mark in (("take_up", ""), ("bring_back", "yes")):
            self._program(name, TAKES_UP.format(folder, self.name, mark, DROP_IN, MAIN))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.known: dict[str, Any] = {}
        self.start("sleep", "1000")

    def _program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def start(self, program: str, *words: str, stdin: Any = None) -> None:
        """Start a program of this machine under the daemon's name."""
        path = self.folder / self.name
        path.unlink(missing_ok=True)
        shutil.copy(f"/bin/{program}", path)
        process = subprocess.Popen([str(path), *words], stdin=stdin)
        (self.folder / "pid").write_text(str(process.pid))
        self._processes.append(process)
        while process.pid not in [each.pid for each in running(self.name)]:
            os.sched_yield()

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the process, and wait until it has."""
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        os.kill(self.pid, number)
        place = Path(f"/proc/{self.pid}/stat")
        while place.exists() and place.read_text().rpartition(") ")[2][:1] not in "TZX":
            os.sched_yield()

    def close(self) -> None:
        self.journal.close()
        for pid in {self.pid, *(each.pid for each in running(self.name))}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.kill()
            process.wait()

    def put(self, path: str, text: str) -> None:
        target = Path(self.host.files.real(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def text(self, path: str = DROP_IN) -> str | None:
        target = Path(self.host.files.real(path))
        return target.read_text() if target.exists() else None

    def asked(self) -> list[str]:
        """Return which commands the daemon got."""
        path = self.folder / "asked"
        return [Path(line).name for line in path.read_text().split()] if path.exists() else []

    def told(self, text: str = "good\n", **changes: Any) -> Target:
        real = self.host.files.real
        target = Target(
            daemon="clog",
            files=(TargetFile(path=DROP_IN, text=text),),
            check=(str(self.folder / "check"), real(MAIN), real(DROP_IN)),
            check_alone=(str(self.folder / "check"), "{file}"),
            take_up=(str(self.folder / "take_up"), "restart"),
            bring_back=(str(self.folder / "bring_back"), "restart"),
            process=self.name,
            carries_trace=True,
            sends=("tcp://127.0.0.1:1",),
        )
        return target.replace(**changes)

    def take(self, told: Target, *arguments: str, phase: Phase = "post-network") -> LogSetup:
        """Take steps of one phase, with what is known from the one before."""
        setup = LogSetup(self.host, self.journal, self.known)
        for argument in arguments:
            setup.take(self.step(argument, told, phase=phase))
        self.known = setup.known
        return setup

    def step(self, argument: str, *told: Target, phase: Phase = "post-network") -> Step:
        """Return a step as the plan has it."""
        return Step(
            id=f"site/{phase}/logging:{argument}",
            kind="reload",
            owner="site",
            phase=phase,
            sha512="" if argument in ("delivered", "flush") else "d" * 64,
            profile="root",
            limits=None,
            frequency="every-boot",
            skip=None,
            late=False,
            argument=argument,
            told=told,
            lines=("127.0.0.1",),
        )

    def records(self) -> list[dict[str, Any]]:
        return [record for record in self.journal.events() if record["ev"] == "logging"]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.close()


def reasons(setup: LogSetup) -> tuple[list[str], list[str]]:
    return [each.reason for each in setup.problems], [each.reason for each in setup.warnings]


def test_before_the_network_a_daemon_is_told_by_file_only(stand: Stand) -> None:
    setup = stand.take(stand.told(), "first", "delivered", phase="pre-network")
    assert stand.text() == "good\n"
    assert stand.asked() == []
    assert reasons(setup) == ([], [])
    assert stand.known["delivered"] == "configured"
    assert [(record["delivered"], record["reason"]) for record in stand.records()] == [
        ("configured", "clog: written"),
        ("configured", "there is no network yet"),
    ]


def test_a_daemon_that_runs_since_before_is_made_to_take_it_up_once(stand: Stand) -> None:
    before = stand.pid
    stand.take(stand.told(), "first", phase="pre-network")
    setup = stand.take(stand.told(), "first", "delivered")
    assert stand.asked() == ["take_up"]
    assert [each.pid for each in running(stand.name)] == [stand.pid] != [before]
    assert reasons(setup) == ([], [])
    stand.take(stand.told(), "first", "again", "delivered")
    assert stand.asked() == ["take_up"]


def test_a_daemon_is_made_to_take_it_up_though_the_agent_that_wrote_it_was_killed(stand: Stand) -> None:
    stand.take(stand.told(), "first", phase="pre-network")
    stand.known = {}
    stand.take(stand.told(), "first")
    assert stand.asked() == ["take_up"]


def test_a_daemon_that_does_not_run_is_not_started(stand: Stand) -> None:
    stand.kill()
    setup = stand.take(stand.told(), "first", "again", "delivered")
    assert stand.asked() == []
    assert reasons(setup) == ([], [])
    assert stand.records()[-1]["reason"] == f"'{stand.name}' does not run"
    assert stand.known["delivered"] == "configured"


@pytest.mark.parametrize("alone", [True, False])
def test_what_the_checker_refuses_never_stands_there(stand: Stand, *, alone: bool) -> None:
    stand.put(DROP_IN, "earlier\n")
    told = stand.told("bad\n") if alone else stand.told("bad\n", check_alone=())
    setup = stand.take(told, "first", "again", "delivered")
    assert stand.text() is None  # an earlier boot's is another site's, perhaps
    assert os.listdir(stand.host.files.real("/etc/clogd.d")) == []
    assert stand.asked() == []
    assert reasons(setup) == (["logging-refused"], [])
    assert stand.known["delivered"] == "no"
    assert stand.known["targets"] == []
    assert reasons(stand.take(told, "first", "delivered")) == ([], [])


def test_a_checker_that_hangs_refuses(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contextagent.runner.logfiles._CHECK_S", 0.2)
    setup = stand.take(stand.told(check_alone=("sleep", "1000")), "first")
    assert "nothing within 0.2 s" in setup.problems[0].message
    assert stand.text() is None


def test_a_checker_that_cannot_be_run_now_says_nothing_and_is_asked_again(stand: Stand) -> None:
    setup = stand.take(stand.told(check_alone=("/no/such/checker",)), "first")
    assert setup.problems[0].message.startswith("cannot run '/no/such/checker': ")
    assert reasons(setup) == (["logging-failed"], [])
    assert stand.text() is None
    assert os.listdir(stand.host.files.real("/etc/clogd.d")) == []
    assert reasons(stand.take(stand.told(), "first")) == ([], [])
    assert stand.text() == "good\n"


def test_an_image_whose_own_configuration_is_refused_gets_ours_all_the_same(stand: Stand) -> None:
    stand.put(MAIN, "bad\n")
    setup = stand.take(stand.told(), "first", phase="pre-network")
    assert stand.text() == "good\n"
    assert reasons(setup) == ([], ["logging-image"])


def test_a_daemon_that_does_not_come_up_gets_its_own_configuration_back(stand: Stand) -> None:
    told = stand.told("bad\n", check=(), check_alone=())
    setup = stand.take(told, "first", "delivered")
    assert stand.text() is None
    assert stand.asked() == ["take_up", "bring_back"]
    while not running(stand.name):
        os.sched_yield()  # it was not waited for
    assert reasons(setup) == (["logging-refused"], [])
    assert stand.known["delivered"] == "no"


def test_lines_in_a_file_of_others_leave_the_rest_of_it_alone(stand: Stand) -> None:
    os.chmod(stand.host.files.real(MAIN), 0o640)
    told = stand.told(files=(TargetFile(path=MAIN, text="ours\n", is_block=True),), check=())
    stand.take(told, "first", phase="pre-network")
    whole = f"main\n{BEGIN}\nours\n{END}\n"
    assert stand.text(MAIN) == whole
    assert os.stat(stand.host.files.real(MAIN)).st_mode & 0o777 == 0o640
    stand.take(told.replace(files=(TargetFile(path=MAIN, text="new\n", is_block=True),)), "first")
    assert stand.text(MAIN) == whole.replace("ours", "new")


def change(stand: Stand) -> None:
    stand.put(DROP_IN, "*.* @evil\n")


def change_and_change_back(stand: Stand) -> None:
    stand.put(DROP_IN, "*.* @evil\n")
    stand.put(DROP_IN, "good\n")


def remove(stand: Stand) -> None:
    os.unlink(stand.host.files.real(DROP_IN))


def link(stand: Stand) -> None:
    remove(stand)
    os.symlink("/dev/null", stand.host.files.real(DROP_IN))


def remove_folder(stand: Stand) -> None:
    shutil.rmtree(stand.host.files.real("/etc/clogd.d"))


def put_folder(stand: Stand) -> None:
    remove(stand)
    stand.put(f"{DROP_IN}/inside", "")


def put_file_for_folder(stand: Stand) -> None:
    remove_folder(stand)
    stand.put("/etc/clogd.d", "x")


ATTACKS: dict[Callable[[Stand], None], str] = {
    put_file_for_folder: f"'{DROP_IN}' was changed",
    put_folder: f"'{DROP_IN}' was changed",
    change: f"'{DROP_IN}' was changed",
    change_and_change_back: f"'{DROP_IN}' was written to",
    remove: f"'{DROP_IN}' was removed",
    link: f"'{DROP_IN}' was removed",
    remove_folder: f"'{DROP_IN}' was removed",
    Stand.kill: "was stopped",
    Stand.stop: "was stopped",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_user_script_did_to_the_logging_is_said_and_mended_before_the_sites_scripts(
    stand: Stand, attack: Callable[[Stand], None]
) -> None:
    told = ATTACKS[attack]
    stand.take(stand.told(), "first", "delivered")
    before = stand.pid
    attack(stand)
    after = stand.take(stand.told(), "again")
    assert told in after.warnings[0].message
    assert after.warnings[0].message.endswith("while the user's scripts ran, putting it back")
    assert told in stand.records()[-1]["reason"]
    assert reasons(after) == ([], ["logging-changed"])
    assert stand.text() == "good\n"
    assert [each.pid for each in running(stand.name)] == [stand.pid] != [before]
    assert reasons(stand.take(stand.told(), "again")) == ([], [])


def test_a_daemon_that_cannot_be_brought_back_is_said_and_holds_up_nothing(stand: Stand) -> None:
    told = stand.told(bring_back=("false", "restart"))
    stand.take(told, "first", "delivered")
    stand.kill()
    setup = stand.take(told, "again", "delivered")
    assert reasons(setup) == (["logging-failed"], ["logging-changed", "logging-command"])
    assert stand.known["delivered"] == "configured"


def test_only_a_running_daemon_and_a_collector_that_answers_make_the_trace_reachable(stand: Stand) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        told = stand.told(connect=(Endpoint(host="127.0.0.1", port=port),), sends=(f"tcp://127.0.0.1:{port}",))
        assert reasons(stand.take(told, "first", "delivered")) == ([], [])
        assert stand.known["delivered"] == "reachable"
        assert stand.known["targets"] == [f"clog tcp://127.0.0.1:{port}"]
        stand.take(told.replace(carries_trace=False), "first", "delivered")
        assert stand.known["delivered"] == "configured"
        stand.kill()
        stand.take(told, "first", "delivered")
        assert stand.known["delivered"] == "configured"
        stand.start("sleep", "1000")
    setup = stand.take(told, "first", "delivered")
    assert stand.known["delivered"] == "configured"
    assert reasons(setup) == (["collector-unreachable"], [])
    assert setup.problems[0].message == (
        f"cannot reach the collector '127.0.0.1:{port}': Connection refused, the log daemon goes on trying"
    )


def test_by_udp_nothing_more_than_configured_is_ever_known(stand: Stand) -> None:
    stand.take(stand.told(sends=("udp://127.0.0.1:514",)), "first", "delivered")
    assert stand.known["delivered"] == "configured"
    assert stand.records()[-1]["reason"] == "by UDP nothing comes back"


def test_a_machine_without_any_log_daemon_is_a_target_that_failed(stand: Stand) -> None:
    setup = LogSetup(stand.host, stand.journal, {})
    setup.take(stand.step("delivered"))
    assert reasons(setup) == (["logging-none"], [])
    assert setup.known["delivered"] == "no"


@pytest.fixture
def reader(stand: Stand) -> Stand:
    """Return a machine whose daemon follows the trace, as imfile does."""
    stand.take(stand.told(), "first", "delivered")
    stand.kill()
    path = stand.host.files.real(trace_path(stand.host.boot_id()))
    stand.start("tail", "-f", path)
    return stand


def test_at_a_stop_the_trace_is_waited_for_until_the_daemon_has_read_it(reader: Stand) -> None:
    setup = reader.take(reader.told(), "flush", phase="stop")
    assert reader.records()[-1]["reason"] == "the whole trace was read and sent"
    reader.journal.record("shutdown", reason="ok")
    assert setup.flush_rest() == "the whole trace was read and sent"


def test_at_a_stop_a_daemon_that_reads_nothing_is_not_waited_for_longer_than_its_time(
    reader: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contextagent.runner.logdelivery.FLUSH_S", 0.1)
    reader.kill()
    reader.start("sleep", "1000")
    setup = reader.take(reader.told(), "flush", phase="stop")
    assert reader.records()[-1]["reason"] == f"'{reader.name}' does not have the trace open"
    assert setup.flush_rest() == "its last records were not waited for"


def test_at_a_stop_a_daemon_that_does_not_run_is_not_waited_for(reader: Stand) -> None:
    reader.stop()
    reader.take(reader.told(), "flush", phase="stop")
    assert reader.records()[-1]["reason"] == f"'{reader.name}' does not run"


def test_a_daemon_that_cannot_carry_the_trace_gets_a_line_a_record_once(stand: Stand, tmp_path: Path) -> None:
    told = stand.told(carries_trace=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        log.settimeout(0)
        place = Path(stand.host.files.real("/dev/log"))
        place.parent.mkdir()
        place.symlink_to(tmp_path / "log")
        stand.journal.record("start", id="site/post-network/a\nb", sha512="5" * 128)
        stand.take(told, "first", "delivered")
        stand.take(told, "first", "delivered")
        lines = []
        try:
            while True:
                lines.append(log.recv(2000).decode().partition(": ")[2])
        except BlockingIOError:
            pass
    records = list(stand.journal.events())
    assert [line.split()[2:5] for line in lines] == [
        [str(record["seq"]), record["prev"][:16], record["ev"]] for record in records
    ]
    assert lines[0].endswith(" start id='site/post-network/a\\nb' sha512=5555555555555555")
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_lines_of_others_behind_a_mark_whose_end_is_gone_are_kept(stand: Stand) -> None:
    stand.put(MAIN, f"main\n{BEGIN}\nours\ntheirs\n{BEGIN}\nold\n{END}\nlast\n")
    stand.take(stand.told(files=(TargetFile(path=MAIN, text="ours\n", is_block=True),), check=()), "first")
    assert stand.text(MAIN) == f"main\ntheirs\nlast\n{BEGIN}\nours\n{END}\n"


def test_a_disk_that_is_full_amid_a_file_keeps_nothing_of_it(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    stand.put("/etc/clogd.d/other.conf", "")
    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse)
        setup = stand.take(stand.told(), "first")
    assert setup.problems
    assert os.listdir(stand.host.files.real("/etc/clogd.d")) == ["other.conf"]


def test_below_another_root_no_way_through_a_link_is_taken(stand: Stand, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    stand.host.files.link("/etc/clogd.d", str(outside))
    stand.host.is_caller = True
    setup = stand.take(stand.told(), "first")
    assert setup.problems[0].message == (
        "cannot write below '/etc/clogd.d': '/etc/clogd.d' is a link, going on without its logs"
    )
    assert list(outside.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a link of another account needs root")
@pytest.mark.parametrize("uid", [0, 990])
def test_on_the_machine_a_link_that_root_made_is_the_way(stand: Stand, uid: int) -> None:
    stand.put("/etc/other/x", "")
    stand.host.files.link("/etc/clogd.d", "other")
    os.chown(stand.host.files.real("/etc/clogd.d"), uid, uid, follow_symlinks=False)
    setup = stand.take(stand.told(), "first")
    assert bool(setup.problems) is (uid != 0)
    assert (stand.text("/etc/other/10-contextagent.conf") == "good\n") is (uid == 0)


def test_what_a_user_did_to_the_rest_of_the_configuration_is_said_and_left(stand: Stand) -> None:
    told = stand.told(
        daemon="rsyslog", files=(TargetFile(path="/etc/rsyslog.d/10-contextagent.conf", text="x"),), check=()
    )
    stand.put("/etc/rsyslog.conf", "main")
    stand.take(told, "first")
    stand.put("/etc/rsyslog.d/00-evil.conf", "*.* ~")
    stand.put("/etc/rsyslog.conf", "*.* ~")
    setup = stand.take(told, "again")
    assert setup.warnings[0].message == (
        "'/etc/rsyslog.conf' was changed, '/etc/rsyslog.d/00-evil.conf' was changed while the user's scripts ran, "
        "leaving it as it is"
    )
    assert reasons(stand.take(told, "again")) == ([], [])


def test_a_daemon_whose_program_was_taken_away_is_said(stand: Stand) -> None:
    stand.take(stand.told(), "first", "delivered")
    (stand.folder / stand.name).unlink()
    setup = stand.take(stand.told(), "again")
    assert setup.warnings[0].message.startswith(f"'the program of {stand.name}' was changed while")


def test_a_daemon_that_only_reads_its_files_again_is_not_expected_to_begin_anew(stand: Stand) -> None:
    told = stand.told(take_up=("true", "reload"))
    before = stand.pid
    setup = stand.take(told, "first", "again", "delivered")
    assert reasons(setup) == ([], [])
    assert stand.records()[0]["reason"] == "clog: written, taken up"
    stand.take(told, "first")
    assert stand.records()[-1]["reason"] == "clog: as it was"
    assert stand.pid == before


def test_a_daemon_that_nobody_but_the_site_starts_is_started(stand: Stand) -> None:
    stand.kill()
    command = (str(stand.folder / "bring_back"), "restart")
    stand.take(stand.told(take_up=command, bring_back=command), "first", "delivered")
    assert stand.asked() == ["bring_back"]
    assert running(stand.name)


def test_a_daemon_that_starts_anew_forgets_how_far_it_had_read_the_newest_traces(stand: Stand) -> None:
    logs = Path(stand.host.files.real("/var/log/contextagent"))
    for number in range(4):
        path = logs / f"trace-old{number}.jsonl"
        path.write_text("")
        os.utime(path, (number, number))
    names = {path.name: path.stat().st_ino for path in logs.glob("trace-*")}
    spool = Path(stand.host.files.real("/var/spool"))
    spool.mkdir(parents=True)
    for name, inode in names.items():
        (spool / f"state:{inode}:x").touch()
        (spool / f"{name}.position").touch()
    (spool / "state:other").touch()
    patterns = ("/var/spool/state:{inode}*", "/var/spool/{name}.position")
    stand.kill()
    stand.take(stand.told(positions=patterns), "first", phase="pre-network")
    kept = ["trace-old0.jsonl", "trace-old1.jsonl"]
    assert sorted(path.name for path in spool.iterdir()) == sorted(
        ["state:other", *(f"state:{names[name]}:x" for name in kept), *(f"{name}.position" for name in kept)]
    )


def test_where_nothing_is_to_be_sent_nothing_is_delivered(stand: Stand) -> None:
    setup = LogSetup(stand.host, stand.journal, {})
    setup.take(stand.step("delivered", stand.told(sends=())).replace(lines=()))
    assert reasons(setup) == ([], [])
    assert setup.known["delivered"] == "none"


def test_below_another_root_files_are_written_and_no_daemon_is_asked(stand: Stand) -> None:
    stand.host.is_caller = True
    told = stand.told(check=("false",))
    setup = stand.take(told, "first", "again-after-root", "delivered", "flush")
    assert reasons(setup) == ([], [])
    assert stand.text() == "good\n"
    assert stand.records()[-2]["reason"] == "below another root no daemon is asked, and no collector tried"
    assert setup.flush_rest() == ""
    stand.put(DROP_IN, "evil\n")
    assert reasons(stand.take(told, "again")) == ([], ["logging-changed"])
    assert stand.text() == "good\n"
    assert stand.asked() == []


@pytest.mark.parametrize("what", ["folder for the file", "file for the folder", "file too large"])
def test_what_stands_in_the_way_of_a_file_is_left_alone_and_said(stand: Stand, what: str) -> None:
    real = Path(stand.host.files.real(DROP_IN))
    if what == "folder for the file":
        stand.put(f"{DROP_IN}/inside", "mine\n")
    elif what == "file too large":
        stand.put(DROP_IN, "x" * (2 << 20))
    else:
        stand.put("/etc/clogd.d", "mine\n")
    setup = stand.take(stand.told(), "first", "again", "delivered")
    assert reasons(setup) == (["logging-failed"], [])
    assert real.is_dir() or not real.exists() or real.stat().st_size == 2 << 20
    assert stand.known["delivered"] == "no"


def test_a_second_file_that_cannot_be_written_takes_the_first_back(stand: Stand) -> None:
    stand.put("/etc/other", "a file")
    files = (TargetFile(path=DROP_IN, text="good\n"), TargetFile(path="/etc/other/x.conf", text="good\n"))
    setup = stand.take(stand.told(files=files), "first")
    assert reasons(setup) == (["logging-failed"], [])
    assert stand.text() is None


def test_a_daemon_that_keeps_running_as_it_was_is_said_not_to_have_been_restarted(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contextagent.runner.logsetup.COME_UP_S", 0.1)
    setup = stand.take(stand.told(take_up=("true", "restart")), "first", "delivered")
    assert reasons(setup) == ([], ["logging-command"])
    assert "was not restarted within 0.1 s" in setup.warnings[0].message
    assert stand.text() == "good\n"


def test_what_was_changed_while_the_daemon_did_not_run_is_mended_and_nothing_started(stand: Stand) -> None:
    stand.kill()
    stand.take(stand.told(), "first")
    change(stand)
    assert reasons(stand.take(stand.told(), "again")) == ([], ["logging-changed"])
    assert stand.text() == "good\n"
    assert stand.asked() == []


def test_a_machine_that_has_nothing_left_to_give_loses_the_knowledge_and_not_the_phase(
    reader: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = reader.take(reader.told(), "flush", phase="stop")

    def refuse(_: str) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "listdir", refuse)
    assert setup.flush_rest() == "cannot find out where it is: Too many open files"
    failed = reader.take(reader.told(), "delivered")
    assert failed.problems[0].message == "cannot find out where the logs go: Too many open files, going on"


def test_at_a_stop_a_daemon_that_has_the_trace_open_and_does_not_read_it_is_told_from_one_that_does(
    reader: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contextagent.runner.logdelivery.FLUSH_S", 0.1)
    reader.kill()
    with open(reader.host.files.real(trace_path(reader.host.boot_id())), "rb") as trace:
        reader.start("sleep", "1000", stdin=trace)
    reader.take(reader.told(), "flush", phase="stop")
    assert reader.records()[-1]["reason"] == f"'{reader.name}' has not read the whole trace"


def test_a_user_with_roots_rights_who_ended_a_daemon_slowly_is_found_out(stand: Stand) -> None:
    stand.take(stand.told(), "first", "delivered")
    stand.kill()
    assert reasons(stand.take(stand.told(), "again-after-root")) == ([], ["logging-changed"])
    assert running(stand.name)


def test_a_folder_in_the_place_of_a_file_of_others_is_nobodys_to_remove(stand: Stand) -> None:
    told = stand.told(files=(TargetFile(path=MAIN, text="ours\n", is_block=True),), check=())
    stand.take(told, "first")
    os.unlink(stand.host.files.real(MAIN))
    stand.put(f"{MAIN}/inside", "")
    setup = stand.take(told, "again")
    assert reasons(setup) == (["logging-failed"], ["logging-changed"])
    assert stand.text(f"{MAIN}/inside") == ""


def test_a_trace_that_is_not_there_has_no_position_to_forget(stand: Stand) -> None:
    os.unlink(stand.host.files.real(trace_path(stand.host.boot_id())))
    logpositions.forget_positions(stand.host, stand.told(positions=("/var/spool/{inode}",)))


@pytest.mark.parametrize("call", ["chmod", "mkdir"])
def test_a_folder_that_could_be_made_in_part_only_is_not_left(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(_path: str, _mode: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    setup = stand.take(stand.told(), "first")
    assert reasons(setup) == (["cannot-write"], [])
    assert not os.path.exists(stand.host.files.real("/etc/clogd.d"))


@pytest.mark.parametrize("is_mended", [True, False])
def test_a_daemon_that_gave_up_over_tls_sends_everything_at_the_stop_if_that_was_mended(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, *, is_mended: bool
) -> None:
    monkeypatch.setattr("contextagent.runner.logdelivery.FLUSH_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        end = Endpoint(host="127.0.0.1", port=port, ca=__file__)
        told = stand.told(connect=(end,), positions=("/var/spool/{name}.position",))
        stand.take(told, "first", "delivered")
        assert stand.known["has_tls_failed"] is False  # our own certificates are not there
        stand.known["has_tls_failed"] = True
        spool = Path(stand.host.files.real("/var/spool"))
        spool.mkdir(parents=True)
        position = spool / f"trace-{stand.host.boot_id()}.jsonl.position"
        position.touch()
        now = told.replace(connect=(end.replace(ca=""),)) if is_mended else told
        stand.take(now, "flush", phase="stop")
    assert position.exists() is not is_mended
    assert stand.asked() == ["take_up", "bring_back"][: 1 + is_mended]
    assert running(stand.name)


def test_taking_back_goes_as_far_as_it_can(stand: Stand) -> None:
    stand.put("/etc/other", "a file")
    files = (TargetFile(path="/etc/other/x.conf", text=""), TargetFile(path=DROP_IN, text=""))
    stand.put(DROP_IN, "ours")
    assert logfiles.take_back(stand.host, stand.told(files=files))
    assert stand.text() is None
    assert not logfiles.take_back(stand.host, stand.told(files=files))
    main = stand.told(files=(TargetFile(path=MAIN, text="", is_block=True),))
    assert not logfiles.take_back(stand.host, main)
    stand.put(f"{DROP_IN}/inside", "")
    assert not logfiles.take_back(stand.host, stand.told())
    assert stand.text(f"{DROP_IN}/inside") == ""


@pytest.mark.parametrize("is_block", [True, False])
def test_what_nobody_asks_for_any_more_is_taken_back_and_the_daemon_forgets_it(stand: Stand, *, is_block: bool) -> None:
    path = MAIN if is_block else DROP_IN
    told = stand.told(files=(TargetFile(path=path, text="ours\n", is_block=is_block),), check=())
    stand.take(told, "first", "delivered")
    (left,) = logfiles.placed(stand.host).values()
    assert (left.files[0].path, left.take_up, left.process) == (path, told.take_up, told.process)
    stand.known = {}
    stand.take(left, "withdraw", phase="pre-network")
    assert stand.text(path) == ("main\n" if is_block else None)
    assert stand.records()[-1]["reason"] == "clog: withdrawn"
    assert stand.asked() == ["take_up"]
    assert logfiles.placed(stand.host)
    stand.take(left, "withdraw")
    assert stand.asked() == ["take_up", "take_up"]
    assert not logfiles.placed(stand.host)
    stand.take(left, "withdraw")
    assert stand.asked() == ["take_up", "take_up"]


def test_what_is_taken_back_from_a_daemon_that_does_not_run_starts_nothing(stand: Stand) -> None:
    stand.kill()
    stand.take(stand.told(), "first", "delivered")
    (left,) = logfiles.placed(stand.host).values()
    stand.take(left, "withdraw")
    assert (stand.text(), stand.asked(), logfiles.placed(stand.host)) == (None, [], {})


def test_what_is_refused_is_not_what_the_daemon_goes_on_with(stand: Stand) -> None:
    stand.take(stand.told(), "first", "delivered")
    stand.known = {}
    bad = stand.told("bad\n")
    stand.take(bad, "first", phase="pre-network")
    assert (stand.text(), stand.asked()) == (None, ["take_up"])
    stand.take(bad, "first", "delivered")
    assert stand.asked() == ["take_up", "take_up"]
    assert not logfiles.placed(stand.host)


def test_a_note_of_what_was_placed_that_cannot_be_changed_is_left_for_the_next_boot(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.take(stand.told(), "first", "delivered")

    def refuse(_: str) -> None:
        raise CannotWriteError("cannot remove")

    monkeypatch.setattr(stand.host.files, "remove", refuse)
    setup = stand.take(stand.told("bad\n"), "first")
    assert reasons(setup) == (["logging-refused"], [])
    assert logfiles.placed(stand.host)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"files": [1]}}', '{"a": {}}'])
def test_a_damaged_note_of_what_was_placed_is_none(stand: Stand, text: str) -> None:
    stand.put("/var/lib/contextagent/logging.json", text)
    assert logfiles.placed(stand.host) == {}


def test_a_checker_leaves_no_process_behind(stand: Stand) -> None:
    left = ("sh", "-c", f"{stand.folder / stand.name} 1000 & exit 0")
    stand.kill()
    setup = stand.take(stand.told(check=left, check_alone=left), "first")
    assert reasons(setup) == ([], [])
    while running(stand.name):
        os.sched_yield()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -9 $$", "ends by signal 9"),
        ("exit 3", "ends by exit code 3"),
        ("seq 1000 1100; echo  last  words; exit 1", "says: 10"),
    ],
)
def test_a_checker_that_says_nothing_is_told_by_how_it_ended(stand: Stand, script: str, said: str) -> None:
    setup = stand.take(stand.told(check_alone=("sh", "-c", script)), "first")
    assert said in setup.problems[0].message


def test_where_the_trace_cannot_be_written_nothing_is_delivered(stand: Stand) -> None:
    stand.journal.is_full = True
    stand.take(stand.told(), "first", "delivered")
    assert stand.known["delivered"] == "no"
    assert stand.records()[-1]["reason"] == "the trace can't be written here"


def test_collectors_that_cannot_be_used_are_no_daemons_fault(stand: Stand) -> None:
    setup = LogSetup(stand.host, stand.journal, {})
    setup.take(stand.step("delivered").replace(content="none of the collectors that are named can be used"))
    assert reasons(setup) == ([], [])
    assert setup.known["delivered"] == "no"
    assert stand.records()[-1]["reason"] == "none of the collectors that are named can be used"


def test_how_far_the_last_records_got_is_on_the_console(reader: Stand) -> None:
    state = State(instance_id="i", boot_id=reader.host.boot_id(), logging=reader.known)
    surroundings = Surroundings(
        instance_id="i",
        environment={"site": {}, "user": {}},
        accounts={"site": None, "user": None},
        budget_s=60,
        settings=Settings("standard", {}),
    )
    reader.host.files.make_folder(instance_folder("i"))
    plan = Plan(phase="stop", steps=(reader.step("flush", reader.told(), phase="stop"),))
    after = execute(
        reader.host,
        reader.journal,
        state,
        plan,
        folders=Folders(reader.host, "i", {}),
        around=surroundings,
        whole=plan,
        begun={},
    )
    assert reader.host.console[-1] == "trace: the whole trace was read and sent"
    assert after.logging["delivered"] == "configured"
    reader.host.is_caller = True
    execute(
        reader.host,
        reader.journal,
        after,
        plan,
        folders=Folders(reader.host, "i", {}),
        around=surroundings,
        whole=plan,
        begun={},
    )
    assert reader.host.console[-1].startswith("trace: anchor")
