"""A phase is executed as planned, and whatever one step does the next one is taken."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.collectors import Target, TargetFile
from contextagent.errors import CannotWriteError
from contextagent.features.values import Standing
from contextagent.host import Host
from contextagent.host.accounts import Account
from contextagent.model import Ending, Limits, Plan, Problem, Step, Supply
from contextagent.policy.settings import Settings
from contextagent.runner.execution import execute
from contextagent.runner.folders import WORKING, Folders, parked
from contextagent.runner.journal import Journal
from contextagent.runner.live import Live, store_live
from contextagent.runner.phase import PhaseRun
from contextagent.runner.state import State, instance_folder, load
from contextagent.runner.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contextagent.model import Owner

LIMITS = Limits(wall_s=20, cpu_s=None, memory_bytes=None, processes=None, files=None, output_bytes=None)
NOBODY = Account(name="contextuser", uid=990, gid=990, home="/var/lib/contextuser", shell="/bin/sh")


class Stand:
    """A machine with an instance, a journal and folders, on which a phase can be run."""

    def __init__(self, root: Path) -> None:
        self.host = Host(str(root))
        place = root / "proc/sys/kernel/random/boot_id"
        place.parent.mkdir(parents=True)
        place.write_text("boot-1\n")
        self.state = State(
            instance_id="i",
            boot_id="boot-1",
            supplies={"site": Supply(owner="site", source="disk:hepix", trust="channel"), "user": None},
        )
        self.host.files.make_folder(instance_folder("i"))
        self.journal = Journal.open(self.host, instance_id="i")
        self.folders = Folders(self.host, "i", {})
        self.remembers = True
        self.begun: dict[str, Ending | None] = {}

    def around(self, *, account: Account | None = None, budget_s: float = 60) -> Surroundings:
        environment = {"PATH": "/usr/bin:/bin"}
        return Surroundings(
            instance_id="i",
            environment={"site": environment, "user": environment},
            accounts={"site": None, "user": account},
            budget_s=budget_s,
            settings=Settings("standard", {}),
        )

    def step(self, name: str, text: str = "exit 0\n", owner: Owner = "site", **changes: Any) -> Step:
        content = f"scripts/{owner}/post-network/{name}"
        data = f"#!/bin/sh\n{text}".encode()
        self.host.files.create(f"{instance_folder('i')}/{content}", (data,))
        step = Step(
            id=f"{owner}/post-network/{name}",
            kind="script",
            owner=owner,
            phase="post-network",
            sha512=hashlib.sha512(data).hexdigest(),
            profile="caller",
            limits=LIMITS,
            frequency="once" if owner == "user" else "every-boot",
            skip=None,
            late=False,
            content=content,
        )
        return step.replace(**changes)

    def file_step(self, target: str, owner: Owner = "site", **changes: Any) -> Step:
        content = f"scripts/{owner}/files{target}"
        if not changes.get("link"):
            self.host.files.create(f"{instance_folder('i')}/{content}", (b"x",))
        step = self.step("unused" + target.replace("/", "-"), owner=owner)
        return step.replace(
            id=f"{owner}/post-network/files{target}",
            kind="file",
            limits=None,
            target=target,
            mode=0o644,
            content=content,
        ).replace(**changes)

    def phase(self, *steps: Step, around: Surroundings | None = None) -> PhaseRun:
        work = PhaseRun(
            host=self.host,
            journal=self.journal,
            folders=self.folders,
            around=around or self.around(),
            begun=self.begun,
            remember=lambda _: self.remembers,
            tell=lambda _: None,
        )
        work.run(Plan(phase="post-network", steps=steps))
        return work

    def events(self, *names: str) -> list[dict[str, Any]]:
        return [record for record in self.journal.events() if record["ev"] in names]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.journal.close()


def test_every_script_is_started_and_ended_in_the_trace_in_the_order_of_the_plan(stand: Stand) -> None:
    work = stand.phase(stand.step("a"), stand.step("b", "exit 3\n"), stand.step("c"))
    assert [(record["ev"], record["id"][-1]) for record in stand.events("start", "end")] == [
        (event, name) for name in "abc" for event in ("start", "end")
    ]
    assert [(report["state"], report["exit_code"]) for report in work.reports] == [("ok", 0), ("failed", 3), ("ok", 0)]


def test_features_are_published_by_a_step_of_the_plan_whose_failure_ends_nothing(stand: Stand) -> None:
    stand.host.files.make_folder(stand.host.run_folder, 0o755)
    told = Standing(values={"machine/total_cpu": "4"})
    step = stand.file_step("/nobody", argument="features", told=(told,))
    work = stand.phase(step, stand.step("a"))
    assert (work.problems, work.warnings) == ([], [])
    assert stand.host.files.read("/etc/machinefeatures/total_cpu", max_bytes=9) == b"4"
    stand.host.files.write("/etc/machinefeatures/total_cpu", b"9")
    assert [each.reason for each in stand.phase(step).warnings] == ["features-changed"]
    stand.host.files.remove("/etc/joboutputs")
    stand.host.files.write("/etc/joboutputs", b"")
    work = stand.phase(step, stand.step("b"))
    assert [each.reason for each in work.problems] == ["cannot-write"]
    assert [each["state"] for each in work.reports] == ["ok"]


def test_exit_code_100_of_a_site_script_vetoes_the_pilot_and_is_ok(stand: Stand) -> None:
    work = stand.phase(stand.step("a", "exit 100\n"), stand.step("b", "exit 100\n", owner="user"))
    assert [report["state"] for report in work.reports] == ["ok", "failed"]
    assert work.reports[0]["reason"] == "vetoes the pilot"


def test_a_skipped_step_is_reported_with_its_reason_and_leaves_no_start(stand: Stand) -> None:
    work = stand.phase(
        stand.step("a", skip="once-done"),
        stand.step("b", skip="interrupted"),
        stand.file_step("/etc/c", skip="once-done"),
    )
    assert [(report["state"], report["reason"]) for report in work.reports] == [
        ("skipped", "once-done"),
        ("interrupted", "interrupted"),
    ]
    assert not stand.events("start", "file")


def test_when_the_budget_is_over_the_rest_is_skipped(stand: Stand) -> None:
    work = stand.phase(stand.step("a"), around=stand.around(budget_s=0))
    assert (work.reports[0]["state"], work.reports[0]["reason"]) == ("skipped", "budget")


def test_a_script_sees_its_phase_owner_and_folder(stand: Stand) -> None:
    stand.phase(stand.step("a", "env >environment; pwd >where\n"))
    environment = stand.host.files.read(f"{WORKING}/environment", max_bytes=9999).decode()
    folder = stand.host.files.real(WORKING)
    for line in ("CONTEXTAGENT_PHASE=post-network", "CONTEXTAGENT_OWNER=site", f"CONTEXTAGENT_CONTEXT_DIR={folder}"):
        assert line in environment.splitlines()
    assert stand.host.files.read(f"{WORKING}/where", max_bytes=999).decode().strip() == folder


def test_a_once_script_is_remembered_and_an_every_boot_one_is_not(stand: Stand) -> None:
    mine = stand.step("a", owner="user")
    work = stand.phase(mine, stand.step("b"))
    assert work.once == {"user/post-network/a": (mine.sha512, "done")}


def lose_the_trace(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand.journal, "record", lambda *_, **__: False)


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_once_script_that_nobody_could_write_down_does_not_run(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, *, is_remembered: bool
) -> None:
    lose_the_trace(stand, monkeypatch)
    stand.remembers = is_remembered
    work = stand.phase(stand.step("a", owner="user"), stand.step("b"))
    assert [report["state"] for report in work.reports] == ["ok" if is_remembered else "skipped", "ok"]
    assert (work.reports[0]["reason"] == "not-recordable") is not is_remembered


def test_without_an_account_an_unprivileged_script_is_refused_and_the_sites_runs(stand: Stand) -> None:
    work = stand.phase(stand.step("a", owner="user", profile="unprivileged"), stand.step("b"))
    assert [(report["state"], report["reason"]) for report in work.reports] == [("refused", "no-account"), ("ok", None)]


@pytest.mark.skipif(os.geteuid() != 0, reason="another account needs root")
def test_a_script_that_fails_without_roots_rights_is_told_which_key_gives_them(stand: Stand) -> None:
    for step, text in (("a", "exit 1\n"), ("b", "#\r\n")):
        work = stand.phase(
            stand.step(step, text, owner="user", profile="unprivileged"), around=stand.around(account=NOBODY)
        )
        if step == "a":
            assert "user.profile" in work.reports[0]["reason"]


def test_when_the_working_folder_cannot_be_had_roots_scripts_run_where_it_is_parked_and_others_not(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise CannotWriteError("cannot move")

    monkeypatch.setattr(stand.folders, "enter", refuse)
    site, user = stand.step("a", "pwd\n"), stand.step("b", owner="user", profile="unprivileged")
    work = stand.phase(site, user, around=stand.around(account=NOBODY))
    assert [report["state"] for report in work.reports] == ["ok", "refused"]
    assert "running the scripts where it is parked" in work.problems[0].message


def test_a_script_without_limits_is_a_bug_of_the_plan(stand: Stand) -> None:
    with pytest.raises(TypeError, match="has no limits"):
        stand.phase(stand.step("a", limits=None))


def test_a_file_is_placed_traced_and_only_once_where_it_is_the_users(stand: Stand) -> None:
    stand.host.files.create("/etc/motd", (b"old",))
    work = stand.phase(
        stand.file_step("/etc/motd"),
        stand.file_step("/etc/link", link="motd"),
        stand.file_step("/var/lib/contextuser/sub/file", owner="user", frequency="once"),
        stand.file_step("/etc/shadow", owner="user"),
    )
    assert [(record["path"], record["replaced"]) for record in stand.events("file")] == [
        ("/etc/motd", True),
        ("/etc/link", False),
        ("/var/lib/contextuser/sub/file", False),
    ]
    assert stand.host.files.read("/etc/motd", max_bytes=9) == b"x"
    assert os.readlink(stand.host.files.real("/etc/link")) == "motd"
    assert list(work.once) == ["user/post-network/files/var/lib/contextuser/sub/file"]
    assert [(problem.reason, "/etc/shadow" in problem.message) for problem in work.problems] == [
        ("not-the-users", True)
    ]
    assert [record["reason"] for record in stand.events("refuse")] == ["not-the-users"]


def test_a_kept_payload_is_the_agents_own_to_place_and_a_users_file_is_not(stand: Stand) -> None:
    stand.host.files.create(f"{instance_folder('i')}/context/kept-user/000", (b"x",))
    target = "/var/lib/amiconfig/2007-12-15/user-data"
    kept = stand.file_step(target, owner="user", content="context/kept-user/000", mode=0o600)
    assert not stand.phase(kept).problems
    assert os.stat(stand.host.files.real(target)).st_mode & 0o777 == 0o600
    work = stand.phase(stand.file_step("/var/lib/amiconfig/evil", owner="user"))
    assert [problem.reason for problem in work.problems] == ["not-the-users"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a link of another account needs root")
def test_a_path_through_a_link_that_root_did_not_make_is_refused(stand: Stand) -> None:
    stand.host.files.link("/srv/link", "/etc")
    os.chown(stand.host.files.real("/srv/link"), 990, 990, follow_symlinks=False)
    work = stand.phase(stand.file_step("/srv/link/motd"))
    assert [problem.reason for problem in work.problems] == ["through-link"]


def test_a_file_cannot_take_the_place_of_a_folder(stand: Stand) -> None:
    stand.host.files.create("/etc/full/inside", (b"x",))
    work = stand.phase(stand.file_step("/etc/full"))
    assert [problem.reason for problem in work.problems] == ["cannot-write"]
    assert [entry.name for entry in stand.host.files.folder("/etc")] == ["full"]


def test_a_file_in_the_place_of_a_parent_is_named_and_ends_nothing(stand: Stand) -> None:
    stand.host.files.create("/etc/file", (b"x",))
    work = stand.phase(stand.file_step("/etc/file/a/b"), stand.step("later"))
    assert [problem.reason for problem in work.problems] == ["cannot-write"]
    assert [report["state"] for report in work.reports] == ["ok"]


def run_phase(stand: Stand, *steps: Step, phase: Any = "post-network", state: State | None = None) -> State:
    plan = Plan(phase=phase, steps=steps)
    around = stand.around()
    given = state or stand.state
    return execute(
        stand.host,
        stand.journal,
        given,
        plan,
        folders=stand.folders,
        around=around,
        whole=plan,
        begun=stand.begun,
    )


def status(stand: Stand) -> dict[str, Any]:
    return dict(json.loads(stand.host.files.read("/run/contextagent/status.json", max_bytes=1 << 20)))


def test_what_the_kernel_killed_for_memory_in_one_script_is_not_told_of_the_next(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def run(_host: Host, job: Any) -> Ending:
        seen.append(job.oom_kills)
        return Ending(state="failed", reason="oom", exit_code=None, signal=9, wall_s=0.1)

    counted = iter((3, 4, 5))
    monkeypatch.setattr(Host, "oom_kills", lambda _: next(counted))
    monkeypatch.setattr("contextagent.runner.phase.run_script", run)
    stand.phase(stand.step("a"), stand.step("b"))
    assert seen == [3, 4]


def test_a_script_that_was_taken_away_ends_by_abort_and_the_next_one_runs(stand: Stand) -> None:
    taken, later = stand.step("taken", frequency="once"), stand.step("later", frequency="once")
    stand.host.files.remove(f"{instance_folder('i')}/{taken.content}")
    work = stand.phase(taken, later)
    assert [report["state"] for report in work.reports] == ["failed", "ok"]
    assert [record["bytes"] > 0 for record in stand.events("start")] == [False, True]
    assert list(work.once) == [later.id], "what never ran is not done"


def test_a_script_that_was_changed_since_it_was_staged_is_refused_and_the_next_one_runs(stand: Stand) -> None:
    changed, later = stand.step("changed"), stand.step("later")
    stand.host.files.write(f"{instance_folder('i')}/{changed.content}", b"#!/bin/sh\nexit 0\n#\n")
    work = stand.phase(changed, later)
    assert [(report["state"], report["reason"]) for report in work.reports] == [("refused", "changed"), ("ok", None)]
    assert [record["id"] for record in stand.events("start")] == [later.id]
    assert [record["reason"] for record in stand.events("refuse")] == ["changed"]


def test_a_phase_ends_in_state_status_receipt_and_trace_alike(stand: Stand) -> None:
    state = run_phase(stand, stand.step("a", "exit 1\n"))
    assert load(stand.host) == state.replace(last=load(stand.host).last)  # type: ignore[union-attr]  # it was saved
    assert status(stand)["phases"]["post-network"]["state"] == "failed"
    assert status(stand)["result"] == "failed"
    receipt = json.loads(stand.host.files.read("/var/log/contextagent/receipt-boot-1.json", max_bytes=1 << 20))
    assert [(script["id"], script["exit"]) for script in receipt["scripts"]] == [("site/post-network/a", 1)]
    assert stand.events("anchor")


def test_the_phase_before_the_network_writes_no_receipt_and_the_stop_ends_the_trace(stand: Stand) -> None:
    run_phase(stand, phase="pre-network")
    assert not stand.host.files.exists("/var/log/contextagent/receipt-boot-1.json")
    run_phase(stand, phase="stop")
    assert [record["ev"] for record in stand.journal.events()][-1] == "shutdown"


def test_a_phase_that_goes_on_reports_what_was_done_and_keeps_its_place_in_the_trace(stand: Stand) -> None:
    done, cut = stand.step("a", skip="done"), stand.step("b", skip="interrupted")
    ended = Ending(state="failed", reason="exit", exit_code=100, signal=None, wall_s=0.5)
    stand.begun = {done.id: ended, cut.id: None}
    before = stand.state.replace(phases={"pre-network": {"state": "running"}}, last={"boot": "boot-1", "seq": 0})
    state = run_phase(stand, done, cut, state=before)
    assert [(each["state"], each["exit_code"]) for each in state.reports] == [("ok", 100), ("interrupted", None)]
    assert {name: phase["state"] for name, phase in state.phases.items()} == {
        "pre-network": "degraded",
        "post-network": "failed",
    }
    assert state.last["seq"] == stand.journal.seq


def test_a_phase_that_runs_again_reports_each_script_once(stand: Stand) -> None:
    step = stand.step("a")
    state = run_phase(stand, step)
    state = run_phase(stand, step, state=state)
    assert [report["id"] for report in state.reports] == [step.id]


def test_a_plan_of_all_phases_is_not_executed(stand: Stand) -> None:
    with pytest.raises(TypeError, match="for reading"):
        run_phase(stand, phase=None)


def test_what_cannot_be_written_is_said_and_every_script_still_runs(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise CannotWriteError(f"cannot write '{path}': No space left on device")

    site, user = stand.step("a", "echo ran >proof\n"), stand.step("b", owner="user")
    monkeypatch.setattr(stand.host.files, "write", refuse)
    lose_the_trace(stand, monkeypatch)
    state = run_phase(stand, site, user)
    assert [report["state"] for report in state.reports] == ["ok", "skipped"]
    assert sum("No space left" in warning.message for warning in state.warnings) == 3
    assert stand.host.files.read(f"{parked('i', 'site')}/proof", max_bytes=9) == b"ran\n"


def test_progress_is_published_while_scripts_run_but_not_for_each_of_many(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[object] = []
    now_ns = 0

    def tick() -> int:
        nonlocal now_ns
        now_ns += 60_000_000
        return now_ns

    monkeypatch.setattr(stand.host, "mono_ns", tick)
    monkeypatch.setattr("contextagent.runner.status.publish", lambda _host, shown: published.append(shown))
    run_phase(stand, *(stand.step(str(number)) for number in range(40)))
    assert 2 < len(published) < 10


def test_a_problem_of_a_phase_degrades_it(stand: Stand) -> None:
    state = run_phase(stand, stand.file_step("/etc/shadow", owner="user"))
    assert state.phases["post-network"]["state"] == "degraded"
    assert state.errors == (
        Problem(
            reason="not-the-users",
            message="cannot write '/etc/shadow': a user's files go below /var/lib/contextuser or /etc/joboutputs only, "
            "going on without it",
        ),
    )


def test_the_end_of_a_scripts_output_goes_to_syslog_where_the_site_wants_it_and_there_is_one(
    stand: Stand, tmp_path: Path
) -> None:
    around = stand.around().replace(
        in_syslog=("site",),
        environment={"site": {"PATH": "/usr/bin:/bin", "DB_PASSWORD": "not-for-everybody"}, "user": {}},
    )
    stand.phase(stand.step("a", "echo nobody listens\n"), around=around)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        log.settimeout(0)
        stand.host.files.link("/dev/log", str(tmp_path / "log"))
        steps = (stand.step("b", "echo $DB_PASSWORD; echo two\n"), stand.step("c"), stand.step("d", "echo three\n"))
        stand.phase(*steps, stand.step("e", "echo of the user\n", owner="user"), around=around)
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(log.recv(2000).decode().partition("]: ")[2])
    assert said == [
        "site/post-network/b: [masked]",
        "site/post-network/b: two",
        "site/post-network/d: three",
    ]


def test_an_output_that_could_not_be_kept_is_missing_in_syslog_and_nowhere_else(stand: Stand, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        stand.host.files.link("/dev/log", str(tmp_path / "log"))
        stand.host.files.link(f"{instance_folder('i')}/output/site/post-network/a.log", "/nowhere")
        around = stand.around().replace(in_syslog=("site",))
        work = stand.phase(stand.step("a", "echo one\n"), stand.step("b"), around=around)
    assert [report["state"] for report in work.reports] == ["ok", "ok"]


def test_steps_of_logging_are_taken_between_scripts_and_what_is_known_of_them_is_handed_on(stand: Stand) -> None:
    told = Target(
        daemon="rsyslog",
        files=(TargetFile(path="/etc/rsyslog.d/x.conf", text="x"),),
        sends=("tcp://collector:1",),
    )
    text = stand.host.files.real("/etc/rsyslog.d/x.conf")
    step = stand.step("unused").replace(kind="reload", told=(told,), lines=("collector",), limits=None)
    first, again, end = (step.replace(argument=argument) for argument in ("first", "again", "delivered"))
    work = stand.phase(
        first, stand.step("user", f"rm {text}\n", owner="user"), again, stand.step("site", f"cat {text}\n"), end
    )
    assert [report["state"] for report in work.reports] == ["ok", "ok"]
    assert work.logging["delivered"] == "configured"
    assert [problem.reason for problem in work.warnings] == ["logging-changed"]
    assert not work.problems


def published(stand: Stand) -> None:
    """Have features published on the machine, so that somebody may wait for how it ends."""
    for folder in ("/run/contextagent", "/etc/joboutputs"):
        stand.host.files.make_folder(folder, 0o755)
    store_live(stand.host, Live(boot_id="boot-1", outputs="/etc/joboutputs"))


def told(stand: Stand) -> str:
    return stand.host.files.read("/etc/joboutputs/shutdown_message", max_bytes=1000).decode()


def test_after_the_boot_a_machines_end_may_be_asked_for_where_something_was_published(stand: Stand) -> None:
    run_phase(stand, stand.step("a"))
    assert not stand.host.files.exists("/run/contextagent/finish")
    published(stand)
    run_phase(stand, stand.step("b"))
    assert stand.host.files.exists("/run/contextagent/finish")
    assert stand.events("finish") == []


def test_a_site_part_that_failed_is_told_to_whoever_waits_for_this_machine(stand: Stand) -> None:
    published(stand)
    after = run_phase(stand, stand.step("a", "exit 3\n"))
    assert told(stand) == "500 site contextualisation failed: site/post-network/a: exit code 3"
    assert after.warnings == ()
    assert after.last["seq"] == stand.journal.seq, "the state knows of the record"


def test_a_folder_for_requests_that_cannot_be_made_is_a_warning(stand: Stand) -> None:
    published(stand)
    stand.host.files.write("/run/contextagent/finish", b"")
    after = run_phase(stand, stand.step("a"))
    assert [problem.reason for problem in after.warnings] == ["cannot-write"]
    assert status(stand)["warnings"][0]["message"].endswith(", taking no requests")


def test_what_a_machine_leaves_is_handed_over_after_its_last_script_and_before_its_last_record(stand: Stand) -> None:
    published(stand)
    run_phase(stand, stand.step("a", "test ! -e ../../../../etc/joboutputs/shutdown_message\n"), phase="stop")
    assert told(stand).startswith("100 ")
    assert [record["ev"] for record in stand.journal.events()][-4:] == ["end", "finish", "anchor", "shutdown"]
    assert stand.host.files.exists("/etc/joboutputs/receipt.json")


def test_what_nobody_took_at_the_stop_is_in_the_status(stand: Stand) -> None:
    published(stand)
    store_live(stand.host, Live(boot_id="boot-1", outputs="/nowhere"))
    run_phase(stand, stand.step("a"), phase="stop")
    assert [each["reason"] for each in status(stand)["warnings"]] == ["output-not-delivered"] * 2
