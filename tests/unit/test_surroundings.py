"""What scripts run with, how a boot's result follows from what happened, and what the chronicle says of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.errors import CannotWriteError, RefusedError
from contextagent.host import Host
from contextagent.host.accounts import Account
from contextagent.host.rights import as_account
from contextagent.model import Kept, LoginKey, Problem, Script, Step, Supply, Verdict
from contextagent.plan import profile_of
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import merge
from contextagent.runner import chronicle
from contextagent.runner.journal import Journal
from contextagent.runner.place import take
from contextagent.runner.state import State
from contextagent.runner.status import make_status, phase_state, publish, read_status, result_of, tell_running
from contextagent.runner.surroundings import surroundings

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.model import Owner, Phase

DEFAULTS = merge(Layer(voice="image"))
SCRIPT = Script(owner="user", phase="post-network", name="a", rank=2, sha512="5" * 128, size_bytes=3, content="c")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6O5xYpWWvAOyt9JFeBYbMuTLbxKJz7ZDFWFdnpeRwe someone"
PHASES: tuple[Phase, ...] = ("pre-network", "post-network", "stop")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    place = tmp_path / "proc/sys/kernel/random/boot_id"
    place.parent.mkdir(parents=True)
    place.write_text("boot-1\n")
    return Host(str(tmp_path))


def supply(owner: Owner, **changes: Any) -> Supply:
    return Supply(owner=owner, source="disk:hepix", trust="channel", scripts=(SCRIPT,)).replace(**changes)


def state(**changes: Any) -> State:
    return State(instance_id="i", boot_id="boot-1", supplies={"site": supply("site"), "user": None}).replace(**changes)


def test_an_owners_scripts_see_its_own_variables_and_never_the_others(host: Host) -> None:
    site = supply("site", variables={"A": "1", "LD_PRELOAD": "/evil.so"})
    around = surroundings(host, state(supplies={"site": site, "user": supply("user")}), DEFAULTS, "pre-network")
    assert around.environment["site"]["A"] == "1"
    assert "A" not in around.environment["user"]
    assert "LD_PRELOAD" not in around.environment["site"]
    assert [problem.reason for problem in around.problems] == ["dangerous-variable"]
    assert around.environment["site"]["MACHINEFEATURES"] == host.files.real("/etc/machinefeatures")


def test_an_owner_without_a_supply_has_no_environment_and_the_stop_its_own_budget(host: Host) -> None:
    around = surroundings(host, state(), DEFAULTS, "stop")
    assert around.environment["user"] == {}
    assert around.budget_s == 60
    assert surroundings(host, state(), DEFAULTS, "pre-network").budget_s == 1800


class MachineOfItsOwn(Host):
    """A host below a folder that takes itself for the whole machine, so that rights count."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.is_caller = False

    def make_account(self, name: str, home: str, *, can_login: bool = False) -> Account:
        del can_login
        if not self.files.exists("/etc/passwd"):
            raise CannotWriteError(f"cannot make account '{name}': no tool for it")
        return Account(name=name, uid=990, gid=990, home=home, shell="/bin/sh")


def test_the_users_scripts_run_as_its_account_and_are_refused_where_none_can_be_made(tmp_path: Path) -> None:
    host = MachineOfItsOwn(str(tmp_path))
    both: dict[Owner, Supply | None] = {"site": supply("site"), "user": supply("user")}
    refused = surroundings(host, state(supplies=both), DEFAULTS, "pre-network")
    assert refused.accounts["user"] is None
    assert [problem.reason for problem in refused.problems] == ["no-account"]
    assert profile_of("user", DEFAULTS, is_caller=False) == "unprivileged"
    host.files.create("/etc/passwd", (b"",))
    around = surroundings(host, state(supplies=both), DEFAULTS, "pre-network")
    assert around.owners == {"user": (990, 990)}
    assert around.environment["user"]["HOME"].endswith("/var/lib/contextuser")


def test_an_account_is_made_for_the_pilot_that_the_settings_ask_for_but_at_no_stop(tmp_path: Path) -> None:
    host = MachineOfItsOwn(str(tmp_path))
    asked = merge(Layer(voice="image", values={"pilot.framework": Setting(value="command")}))
    found = surroundings(host, state(), asked, "pre-network").problems
    assert ["contextuser" in each.message for each in found] == [True]
    assert not surroundings(host, state(), asked, "stop").problems


@pytest.mark.parametrize(
    ("outputs", "seen"),
    [
        ("", "/etc/joboutputs"),
        ("/etc/joboutputs", "/etc/joboutputs"),
        ("/mnt/out", "/mnt/out"),
        ("http://192.0.2.1/out", ""),
    ],
)
def test_scripts_see_where_job_outputs_go_and_an_owner_without_any_sees_nothing(
    host: Host, outputs: str, seen: str
) -> None:
    around = surroundings(host, state(), DEFAULTS, "pre-network").with_outputs(host, outputs)
    assert around.environment["site"]["JOBOUTPUTS"] == (host.files.real(seen) if seen else outputs)
    assert around.environment["user"] == {}


def key_step(owner: Owner, *lines: str, account: str = "contextuser") -> Step:
    return Step(
        id=f"{owner}/pre-network/account:{account}",
        kind="account",
        owner=owner,
        phase="pre-network",
        sha512="",
        profile="root",
        limits=None,
        frequency="every-boot",
        skip=None,
        late=False,
        target=account,
        lines=lines,
        argument="there",
    )


def test_keys_are_added_once_beside_those_that_are_there(host: Host) -> None:
    path = "/home/ops/.ssh/authorized_keys"
    host.files.create(path, (b"ssh-rsa AAAA old",))
    take(host, key_step("site", KEY, account="ops"), "i", None)
    placed = take(host, key_step("site", KEY, account="ops"), "i", None)
    assert host.files.read(path, max_bytes=9999).decode().splitlines() == ["ssh-rsa AAAA old", KEY]
    assert placed.event == "identity"
    assert str(placed.facts["fingerprints"][0]).startswith("SHA256:")


def test_the_first_key_makes_the_file(host: Host) -> None:
    take(host, key_step("site", KEY, account="ops"), "i", None)
    assert host.files.read("/home/ops/.ssh/authorized_keys", max_bytes=9999).decode() == KEY + "\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="another account needs root")
def test_an_account_of_the_sites_is_made_with_its_keys_and_sudo_where_it_says_so(tmp_path: Path) -> None:
    host = MachineOfItsOwn(str(tmp_path))
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    host.files.create("/etc/passwd", (b"",))
    host.files.make_folder("/home/ops")
    os.chown(host.files.real("/home/ops"), 990, 990)
    os.chmod(host.files.real("/home"), 0o755)
    take(host, key_step("site", KEY, account="ops").replace(argument="sudo"), "i", None)
    assert KEY in host.files.read("/home/ops/.ssh/authorized_keys", max_bytes=9999).decode()
    sudoers = os.stat(host.files.real("/etc/sudoers.d/contextagent-ops"))
    assert sudoers.st_mode & 0o777 == 0o440


def test_an_account_is_made_for_a_users_keys_where_its_scripts_need_none(tmp_path: Path) -> None:
    host = MachineOfItsOwn(str(tmp_path))
    with pytest.raises(CannotWriteError, match="no tool for it"):
        take(host, key_step("user", KEY), "i", None)
    host.files.create("/etc/passwd", (b"",))
    with pytest.raises(RefusedError, match="it names no known type of key"):
        take(host, key_step("user", "no key at all"), "i", None)


def test_a_line_that_is_no_key_and_an_account_that_is_not_there_are_refused(tmp_path: Path) -> None:
    host = MachineOfItsOwn(str(tmp_path))
    with pytest.raises(CannotWriteError, match="there is no such account"):
        take(host, key_step("site", KEY, account="ops"), "i", None)
    with pytest.raises(Exception, match="it names no known type of key"):
        take(Host(str(tmp_path)), key_step("site", "no key at all"), "i", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="another account needs root")
def test_a_users_key_is_written_with_the_users_rights_and_through_no_link_of_its_making(tmp_path: Path) -> None:
    host = MachineOfItsOwn(str(tmp_path))
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    account = Account(name="contextuser", uid=990, gid=990, home="/home", shell="/bin/sh")
    host.files.make_folder("/home")
    os.chown(host.files.real("/home"), 990, 990)
    take(host, key_step("user", KEY), "i", account)
    found = os.stat(host.files.real("/home/.ssh/authorized_keys"))
    assert (found.st_uid, found.st_mode & 0o777) == (990, 0o600)
    host.files.remove("/home/.ssh")
    host.files.make_folder("/root-only")
    os.symlink("../root-only", host.files.real("/home/.ssh"))
    with pytest.raises(CannotWriteError):
        take(host, key_step("user", KEY), "i", account)
    assert not host.files.folder("/root-only")


@pytest.mark.skipif(os.geteuid() != 0, reason="another account needs root")
def test_a_users_file_is_written_with_the_users_rights(tmp_path: Path) -> None:
    host = MachineOfItsOwn(str(tmp_path))
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    account = Account(name="contextuser", uid=990, gid=990, home="/home", shell="/bin/sh")
    host.files.make_folder("/home")
    os.chown(host.files.real("/home"), 990, 990)
    host.files.create("/var/lib/contextagent/instances/i/content", (b"x",))
    step = key_step("user").replace(kind="file", target="/home/a", mode=0o644, content="content")
    take(host, step, "i", account)
    take(host, step.replace(target="/home/b", link="a", content=""), "i", account)
    found = os.stat(host.files.real("/home/a"))
    assert (found.st_uid, found.st_mode & 0o777) == (990, 0o644)


def test_work_for_an_account_that_fails_says_its_own_error(tmp_path: Path) -> None:
    account = Account(name="me", uid=os.getuid(), gid=os.getgid(), home=str(tmp_path), shell="/bin/sh")

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CannotWriteError, match="No space left on device"):
        as_account(account, fail)


def report(owner: str, state_word: str, *, on_error: str = "no-pilot", reason: str | None = None) -> dict[str, Any]:
    return {"owner": owner, "state": state_word, "on_error": on_error, "reason": reason}


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([], "ok"),
        ([report("site", "ok"), report("user", "ok")], "ok"),
        ([report("user", "failed", on_error="continue")], "degraded"),
        ([report("site", "failed", on_error="continue")], "degraded"),
        ([report("site", "failed")], "failed"),
        ([report("site", "timeout"), report("user", "ok")], "failed"),
        ([report("user", "skipped", on_error="continue", reason="once-done")], "ok"),
        ([report("user", "skipped", on_error="continue", reason="budget")], "degraded"),
        ([report("site", "skipped", reason="budget")], "failed"),
    ],
)
def test_a_phase_fails_by_the_sites_part_alone(reports: list[dict[str, Any]], expected: str) -> None:
    assert phase_state(reports) == expected


def verdict(owner: Owner, word: Any) -> Verdict:
    return Verdict(owner=owner, source="disk", verdict=word, reason="", duration_s=0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "ok"),
        ({"supplies": {}}, "none"),
        ({"supplies": {"site": Supply(owner="site", source="disk:opennebula", variables={"A": "1"})}}, "none"),
        (
            {
                "supplies": {
                    "user": Supply(owner="user", source="d", keys=(LoginKey(owner="user", account="", line=KEY),))
                }
            },
            "ok",
        ),
        ({"phases": {"pre-network": {"state": "running"}}}, "running"),
        ({"phases": {"pre-network": {"state": "failed"}}}, "failed"),
        ({"phases": {"pre-network": {"state": "degraded"}}}, "degraded"),
        ({"verdicts": (verdict("site", "broken"),)}, "failed"),
        ({"verdicts": (verdict("site", "broken"), verdict("site", "found"))}, "degraded"),
        ({"verdicts": (verdict("user", "broken"),)}, "degraded"),
        ({"verdicts": (verdict("user", "absent"),)}, "ok"),
        ({"verdicts": (verdict("site", "found"), verdict("site", "broken"))}, "failed"),
        ({"verdicts": (verdict("site", "unreachable"),)}, "ok"),
        ({"verdicts": (verdict("site", "unreachable"),), "is_service_required": True}, "failed"),
        ({"verdicts": (verdict("user", "unreachable"),), "is_service_required": True}, "degraded"),
        ({"verdicts": (verdict("site", "unreachable"), verdict("site", "found")), "is_service_required": True}, "ok"),
        ({"errors": (Problem(reason="x", message="y"),)}, "degraded"),
        ({"errors": (Problem(reason="invalid-site-settings", message="y"),)}, "failed"),
        ({"warnings": (Problem(reason="cloud-init", message="y"),)}, "degraded"),
        ({"warnings": (Problem(reason="other", message="y"),)}, "ok"),
    ],
)
def test_the_result_is_failed_only_where_the_sites_part_is_missing(changes: dict[str, Any], expected: str) -> None:
    assert result_of(state(**changes)) == expected


def test_the_status_names_sources_phases_and_scripts_and_cloud_init(host: Host) -> None:
    shown = make_status(state(reports=({"id": "a", "on_error": "no-pilot"},)), order=PHASES)
    assert shown["sources"] == {"site": "disk:hepix", "user": None}
    assert shown["scripts"] == [{"id": "a"}]
    assert shown["phases"]["stop"]["state"] == "pending"
    cloud_init = state(warnings=(Problem(reason="cloud-init", message="y"),))
    assert make_status(cloud_init, order=PHASES)["sources"]["user"] == "cloud-init"
    said = verdict("site", "broken").replace(reason="html: cannot fetch 'x': a page", facts={"http": 200})
    shown_broken = make_status(state(verdicts=(said,)), order=PHASES)
    assert shown_broken["errors"] == [
        {"reason": "html", "message": "cannot use 'disk' for the site: cannot fetch 'x': a page"}
    ]
    assert set(shown_broken["verdicts"][0]) == {"owner", "source", "verdict", "reason", "duration_s"}
    assert read_status(host) is None
    publish(host, shown)
    assert read_status(host) == shown
    host.files.write("/run/contextagent/status.json", b"{}")
    with pytest.raises(ValueError, match="schema 1"):
        read_status(host)


def test_whoever_asks_while_a_phase_waits_is_told_that_it_is_running(host: Host) -> None:
    tell_running(host, state(), "post-network")
    told = read_status(host)
    assert told
    assert (told["result"], told["phases"]["post-network"]["state"]) == ("running", "running")
    host.files.remove(host.run_folder)
    host.files.write(host.run_folder, b"")  # a file where the folder was
    tell_running(host, state(), "post-network")


def test_a_boot_is_recorded_once_and_each_search_with_its_verdicts(host: Host) -> None:
    journal = Journal.open(host, instance_id="i")
    kept = (Kept(name="user-data", sha512="5" * 128, size_bytes=0, content="c", reason="unknown-form"),)
    supplies = {"site": supply("site", kept=kept).replace(source="disk"), "user": None}
    known = state(supplies=supplies, verdicts=(verdict("site", "found"), verdict("user", "absent")))
    for _ in range(2):
        chronicle.begin(host, journal, known, Layer(voice="image"), known.verdicts)
    records = list(journal.events())
    assert [record["ev"] for record in records] == ["boot", *("source", "refuse", "source") * 2]
    assert (records[1]["bytes"], records[3]["bytes"]) == (3, 0)
    assert records[2]["result"] == "kept"
    assert records[0]["agent_sha512"] == chronicle.agent_sha512()
    journal.close()


def test_the_last_good_context_is_traced_as_cached_where_it_was_looked_for(host: Host) -> None:
    journal = Journal.open(host, instance_id="i")
    last = Supply(owner="site", source="cached:disk:hepix", scripts=(SCRIPT,), digest="d")
    known = state(supplies={"site": last, "user": None}, verdicts=(verdict("site", "broken"),))
    for each in (known, known.replace(verdicts=())):
        chronicle.begin(host, journal, each, Layer(voice="image"), each.verdicts)
    found = [(record["source"], record["verdict"], record["bytes"]) for record in journal.events() if record["seq"] > 1]
    assert found[1:] == [("cached:disk:hepix", "found", 3)]
    journal.close()
