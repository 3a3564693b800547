"""The packages where rpm has put them: a machine without Python boots, and what an upgrade and an erasure leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from contextagent.collectors import BEGIN, DAEMONS, load, with_block
from contextagent.features.vocabulary import FEATURES, OLDER, OLDER_ALONE
from tests.machine import REPOSITORY, Done, run
from tests.rpm.conftest import NEWER
from tests.rpm.installed import Installed

if TYPE_CHECKING:
    from pathlib import Path

FLAVOURS = ("el5", "el6")
POLICY = "etc/contextagent/policy.yaml"
LOGS = "var/log/contextagent"
OF_NETWORK = """
ip link set lo up
ip addr add 169.254.169.254/32 dev lo
mkfifo /line
/usr/bin/contextagent serve /site --bind 169.254.169.254 --quiet >/line &
read -r line </line
/usr/bin/contextagent run
code=$?
kill $!
exit $code
"""
OF_WATCH = """
script=/etc/rc.d/init.d/contextagent
folder=/var/run/contextagent
# Wait until another watch runs than the one before
other() {
    until read -r pid <$folder/watch.pid && [ "$pid" != "$1" ] && kill -0 $pid; do sleep 0.1; done 2>/dev/null
    echo $pid
}
${script}-pre start >/dev/null
$script start >/dev/null
first=$(other none)
$script start >/dev/null
[ "$(other none)" = $first ] || echo "a second start began another one"
kill -9 $first
second=$(other $first)
$script condrestart
third=$(other $second)
$script stop >/dev/null
ls $folder | grep '^watch.*pid'
for each in /proc/[0-9]*; do [ ${each#/proc/} = $$ ] || grep -l contextagent $each/cmdline 2>/dev/null; done
$script condrestart
[ ! -e $folder/watch-loop.pid ] || echo "a watch that was stopped was started again"
echo done
"""
UNITS = "contextagent-pre-network.service contextagent.service contextagent-watch.service"
BACKWARDS = "contextagent-watch.service contextagent.service contextagent-pre-network.service"


@pytest.fixture
def root(tmp_path: Path) -> Installed:
    """Return such a machine, with no package of ours yet."""
    if os.geteuid() != 0:
        pytest.skip("a root of its own needs root")
    return Installed(tmp_path / "root")


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Each flavour in turn."""
    return str(request.param)


@pytest.fixture
def machine(root: Installed, packages: dict[str, Path]) -> Installed:
    """Return such a machine with the later flavour, and a disk's folder with scripts of site and user."""
    root.install(packages["el6"])
    for owner in ("", "user/"):
        root.put(f"disk/{owner}prolog.sh", "#!/bin/sh\necho ${CONTEXTAGENT_OWNER}\n")
    root.put("disk/epilog.sh", "#!/bin/sh\necho $1 >> /done\n")
    return root


BOOT = ("run", "--disk", "/disk", "--metadata", "none")


def test_a_machine_without_python_is_contextualised_from_a_disk_and_verifies(
    root: Installed, packages: dict[str, Path], flavour: str
) -> None:
    root.install(packages[flavour])
    root.put("disk/user/prolog.sh", "#!/bin/sh\necho user > done\n")
    root.put("disk/prolog.sh", "#!/bin/sh\necho site > /done\n")
    assert root.agent("run", "--disk", "/disk", "--metadata", "none").startswith("contextagent: ok (1 user, 1 site ")
    assert (root.root / "done").read_text() == "site\n"
    assert root.agent("run", "stop").startswith("contextagent: ok ")
    assert root.rpm("-V", "--nodeps", "contextagent") == Done(0, "", "")


def test_a_machine_without_python_is_contextualised_by_its_network(machine: Installed) -> None:
    machine.put("site/site/epilog.sh", "#!/bin/sh\necho site > /done\n")
    machine.put("site/user-data", "#!/bin/sh\necho user\n")
    done = machine.run("/bin/sh", "-c", OF_NETWORK)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("contextagent: ok (1 user, 1 site scripts, ")
    assert (machine.root / "done").read_text() == "site\n"
    assert machine.rpm("-V", "--nodeps", "contextagent") == Done(0, "", "")


def test_without_python_each_verb_does_its_work(machine: Installed) -> None:
    machine.agent("pack", "/disk", "-o", "/disk.iso")
    assert machine.agent("lint", "/disk.iso") == "/disk.iso: no mistake found\n"
    simulated = json.loads(machine.agent("simulate", "/disk.iso", "--format", "json"))
    assert (simulated["result"], len(simulated["status"]["scripts"])) == ("ok", 3)
    assert not (machine.root / "done").exists()
    steps = json.loads(machine.agent("plan", "--disk", "/disk.iso", "--metadata", "none", "--format", "json"))["steps"]
    assert len(steps) == 6
    assert machine.agent("run", "--disk", "/disk.iso", "--metadata", "none").startswith("contextagent: ok ")
    assert (machine.root / "done").read_text() == "start\n"
    assert json.loads(machine.agent("query", "policy.preset", "--format", "json"))["value"] == "standard"
    assert len(json.loads(machine.agent("receipt", "--format", "json"))["scripts"]) == 3
    machine.agent("run", "stop")
    assert json.loads(machine.agent("trace", "verify", "--format", "json"))["boots"][0]["verdict"] == "intact"
    assert machine.rpm("-V", "--nodeps", "contextagent") == Done(0, "", "")


def test_erasing_leaves_nothing_but_the_logs(root: Installed, packages: dict[str, Path], flavour: str) -> None:
    before, accounts = root.paths(), (root.root / "etc/passwd").read_text()
    root.install(packages[flavour])
    root.put("disk/user/prolog.sh", "#!/bin/sh\ntouch ~/mine\n")
    assert root.agent(*BOOT).startswith("contextagent: ok (1 user, ")
    assert "contextuser" in (root.root / "etc/passwd").read_text()
    assert (root.root / "var/lib/contextuser/mine").exists()
    shutil.rmtree(root.root / "disk")
    for place in ("etc/contextagent/disabled", "var/lib/amiconfig/2007-12-15/user-data", "run/contextagent/x"):
        root.put(place, "")
    (root.root / "dev/null").touch()
    root.erase()
    after = root.paths()
    assert before - after == set()
    assert {path for path in after - before if path != LOGS and not path.startswith(f"{LOGS}/")} == set()
    assert {path.rpartition("/")[2].partition("-")[0] for path in after - before} >= {"trace", "receipt"}
    assert (root.root / "etc/passwd").read_text() == accounts


def test_an_erased_agent_has_published_nothing_and_leaves_others_features(
    root: Installed, packages: dict[str, Path]
) -> None:
    root.install(packages["el6"])
    root.put("etc/machinefeatures/theirs", "1")
    root.put("etc/joboutputs/result", "the pilot's")
    root.put("disk/features/machine/site_extra", "7")
    root.agent(*BOOT)
    assert (root.root / "etc/machinefeatures/site_extra").read_text() == "7"
    root.agent("run", "stop")
    assert (root.root / "etc/joboutputs/shutdown_message").read_text().startswith("100 ")
    root.erase()
    left = {path for path in root.paths() if path.startswith(("etc/machine", "etc/job", "etc/profile.d", "var/run/"))}
    assert left == {"etc/machinefeatures", "etc/machinefeatures/theirs", "etc/joboutputs", "etc/joboutputs/result"}


def test_the_erasure_knows_every_feature_of_the_vocabulary() -> None:
    spec = (REPOSITORY / "packaging/rpm/contextagent.spec").read_text()
    listed = spec.partition("for name in grace_secs")[2].partition("$(")[0].replace("\\", "").split()
    known = {key.partition("/")[2] for key in (*FEATURES, *OLDER, *OLDER_ALONE)}
    assert {"grace_secs", *listed} == known


def test_features_that_are_others_alone_outlive_the_agent(root: Installed, packages: dict[str, Path]) -> None:
    root.put("etc/machinefeatures/total_cpu", "1")
    root.put("etc/profile.d/mjf.sh", "theirs\n")
    root.install(packages["el6"])
    root.erase()
    assert {"etc/machinefeatures/total_cpu", "etc/profile.d/mjf.sh"} <= root.paths()


def test_an_erased_agent_has_told_log_daemons_nothing(root: Installed, packages: dict[str, Path]) -> None:
    paths = [path for name in DAEMONS if (path := getattr(load(name), "PATH", ""))]
    blocks = ["/etc/syslog.conf", "/etc/rsyslog.conf", "/etc/syslog-ng/syslog-ng.conf", "/etc/audit/audit.rules"]
    root.install(packages["el6"])
    root.record("etc/rc.d/init.d/rsyslog")
    for path in paths:
        root.put(path[1:], "ours\n")
    for path in blocks:
        root.put(path[1:], with_block("theirs\n", "ours\n") + "last\n", 0o640)
    cut = {"/etc/rsyslog.conf": f"theirs\n{BEGIN}\n\nlast\n", "/etc/syslog.conf": f"theirs\nlast\n{BEGIN}\n"}
    for path, text in cut.items():
        (root.root / path[1:]).write_text(text)
    root.erase()
    assert (root.root / "etc/rsyslog.conf").read_text() == "theirs\n\nlast\n"
    (root.root / "etc/rsyslog.conf").write_text("theirs\nlast\n")
    assert [path for path in paths if (root.root / path[1:]).exists()] == ["/etc/syslog.conf"]
    assert {(root.root / path[1:]).read_text() for path in blocks} == {"theirs\nlast\n"}
    assert {(root.root / path[1:]).stat().st_mode & 0o777 for path in blocks} == {0o640}
    assert root.calls() == ["rsyslog condrestart"] * 2


def test_erasing_leaves_what_is_the_endorsers(root: Installed, packages: dict[str, Path]) -> None:
    root.put("etc/passwd", "root:x:0:0::/root:/bin/sh\ncontextuser:x:990:990:A person:/var/lib/contextuser:/bin/sh\n")
    root.put("etc/group", "root:x:0:\ncontextuser:x:990:\n")
    root.install(packages["el6"])
    root.put("etc/contextagent/policy.d/10-site.yaml", "phase_budget_s: 900\n")
    root.put("var/lib/amiconfig/hooks", "")
    root.erase()
    assert "A person" in (root.root / "etc/passwd").read_text()
    assert (root.root / "etc/contextagent/policy.d/10-site.yaml").exists()
    assert (root.root / "var/lib/amiconfig/hooks").exists()


def test_a_machine_that_is_up_is_stopped_in_order_before_its_agent_goes(
    root: Installed, packages: dict[str, Path], flavour: str
) -> None:
    root.record("sbin/chkconfig")
    root.install(packages[flavour])
    root.put("etc/contextagent/policy.d/here.yaml", "sources: [disk]\n")
    for name in ("contextagent-pre", "contextagent"):
        done = root.run(f"/etc/rc.d/init.d/{name}", "start")
        assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
        assert (root.root / "var/lock/subsys" / name).exists()
    root.erase()
    traces = "".join(path.read_text() for path in (root.root / LOGS).glob("trace-*.jsonl"))
    assert '"ev":"shutdown"' in traces
    assert not list((root.root / "var/lock/subsys").iterdir())


def test_without_systemd_the_watch_is_kept_until_the_machine_stops(machine: Installed) -> None:
    machine.put(
        "etc/contextagent/policy.d/here.yaml", "sources: [disk]\nlifetime: {max_s: 86400}\nwatch: {http: off}\n"
    )
    done = machine.run("/bin/sh", "-c", OF_WATCH)
    assert (done.code, done.out, done.err) == (0, "done\n", "")


def test_without_systemd_a_watch_that_has_nothing_to_do_is_left_at_that(machine: Installed) -> None:
    machine.put("etc/contextagent/policy.d/here.yaml", "sources: [disk]\n")
    script = "/etc/rc.d/init.d/contextagent"
    words = f"read -r pid </var/run/contextagent/watch-loop.pid; while kill -0 $pid; do sleep 0.1; done; {script} stop"
    done = machine.run("/bin/sh", "-c", f"{script}-pre start; {script} start >/dev/null; {words} 2>/dev/null")
    assert (done.code, done.out.count("\n")) == (0, 2), done


@pytest.mark.parametrize("name", ["contextagent-pre", "contextagent"])
def test_a_sysv_start_fails_only_where_the_agent_did_not_do_its_work(machine: Installed, name: str) -> None:
    machine.put("etc/contextagent/policy.d/here.yaml", "sources: [disk]\ndisk: {expected: yes}\n")
    assert machine.run(f"/etc/rc.d/init.d/{name}", "start").code == 0
    assert machine.run("/usr/bin/contextagent", "status").code == 1
    machine.put("etc/contextagent/policy.d/here.yaml", "nonsense: 1\n")
    done = machine.run(
        "/bin/sh", "-c", f"rm -rf /run/contextagent /var/run/contextagent; /etc/rc.d/init.d/{name} start"
    )
    assert (done.code, done.out) == (65, "")
    assert (machine.root / "var/lock/subsys" / name).exists(), "or its stop would never be called"


@pytest.mark.parametrize("program", ["sbin/chkconfig", "usr/bin/systemctl"])
def test_the_boot_is_asked_for_once_and_given_up_at_the_end(
    packages: dict[str, Path], newer: dict[str, Path], root: Installed, program: str
) -> None:
    root.record(program)
    root.install(packages["el6"])
    first = root.calls()
    root.install(newer["el6"], how="-U")
    upgrade = root.calls()
    root.erase()
    if program == "sbin/chkconfig":
        assert first == ["chkconfig --add contextagent-pre", "chkconfig --add contextagent"]
        assert upgrade == first, "which leaves one that was switched off as it is"
        assert root.calls() == ["chkconfig --del contextagent", "chkconfig --del contextagent-pre"]
    else:
        assert first == [f"systemctl enable {UNITS}"]
        assert upgrade == []
        assert root.calls() == [f"systemctl disable {BACKWARDS}"]


@pytest.mark.parametrize("is_up", [False, True])
def test_where_both_could_start_us_sysv_is_asked_too_unless_systemd_runs(
    packages: dict[str, Path], root: Installed, *, is_up: bool
) -> None:
    for program in ("sbin/chkconfig", "usr/bin/systemctl"):
        root.record(program)
    if is_up:
        (root.root / "run/systemd/system").mkdir(parents=True)
    root.install(packages["el6"])
    calls = root.calls()
    assert f"systemctl enable {UNITS}" in calls
    assert ("chkconfig --add contextagent" in calls) == (not is_up)


def test_an_upgrade_restarts_the_watch_and_starts_and_stops_nothing_else(
    packages: dict[str, Path], newer: dict[str, Path], root: Installed
) -> None:
    root.record("usr/bin/systemctl")
    (root.root / "run/systemd/system").mkdir(parents=True)
    root.install(packages["el6"])
    root.calls()
    root.install(newer["el6"], how="-U")
    assert set(root.calls()) == {"systemctl daemon-reload", "systemctl try-restart contextagent-watch.service"}


def test_after_an_upgrade_no_phase_is_done_again(machine: Installed, newer: dict[str, Path]) -> None:
    machine.agent(*BOOT)
    before = json.loads(machine.agent("status", "--format", "json"))
    machine.install(newer["el6"], how="-U")
    assert machine.agent("--version") == f"contextagent {NEWER}\n"
    for phase in ("pre-network", "post-network"):
        assert machine.agent("run", phase, "--resume").startswith("contextagent: ok ")
    assert (machine.root / "done").read_text() == "start\n"
    assert json.loads(machine.agent("status", "--format", "json")) == before
    machine.agent("run", "stop")
    assert (machine.root / "done").read_text() == "start\nstop\n"
    assert machine.rpm("-V", "--nodeps", "contextagent") == Done(0, "", "")


def test_an_endorsers_policy_outlives_an_upgrade(machine: Installed, newer: dict[str, Path]) -> None:
    machine.put(POLICY, "phase_budget_s: 901\n")
    machine.install(newer["el6"], how="-U")
    assert json.loads(machine.agent("query", "policy.phase_budget_s", "--format", "json"))["value"] == 901
    assert (machine.root / f"{POLICY}.rpmnew").read_text().endswith("# a later word\n")
    machine.erase()
    assert (machine.root / f"{POLICY}.rpmsave").read_text() == "phase_budget_s: 901\n"


def test_a_policy_that_nobody_changed_is_the_new_packages(machine: Installed, newer: dict[str, Path]) -> None:
    machine.install(newer["el6"], how="-U")
    assert (machine.root / POLICY).read_text().endswith("# a later word\n")
    assert not (machine.root / f"{POLICY}.rpmnew").exists()


@pytest.mark.parametrize("has_preset", [False, True])
def test_an_image_that_goes_by_presets_alone_keeps_us_with_the_package_for_that(
    root: Installed, packages: dict[str, Path], *, has_preset: bool
) -> None:
    if not shutil.which("systemctl"):
        pytest.skip("systemctl is not installed here")
    root.put("usr/lib/systemd/system-preset/99-default-disable.preset", "disable *\n")
    root.install(packages["el6"], *([packages["preset"]] if has_preset else []))
    assert run(("systemctl", f"--root={root.root}", "preset-all")).code == 0
    enabled = [run(("systemctl", f"--root={root.root}", "is-enabled", unit)).out.strip() for unit in UNITS.split()]
    assert enabled == (["enabled"] * 3 if has_preset else ["disabled"] * 3)


def test_no_line_of_a_trace_is_ever_rotated_away(tmp_path: Path) -> None:
    if not shutil.which("logrotate"):
        pytest.skip("logrotate is not installed here")
    rules = tmp_path / "rules"
    rules.write_text((REPOSITORY / "packaging/rpm/logrotate").read_text().replace("/var/log/", f"{tmp_path}/"))
    rules.chmod(0o644)
    trace = tmp_path / "contextagent/trace-x.jsonl"
    trace.parent.mkdir()
    trace.write_text("{}\n" * 1000)
    words = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(rules)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert [path.name for path in trace.parent.iterdir()] == [trace.name]
    assert trace.read_text() == "{}\n" * 1000
