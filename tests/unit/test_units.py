"""The units of the boot say what the boot needs, in words that systemd 219 (EL7) knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contextagent.policy.schema import find
from contextagent.runner.ending import MESSAGE_S, OUTPUTS_S
from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

UNITS = {path.name: path for path in sorted((REPOSITORY / "init/systemd").glob("*.service"))}
PRE, POST = "contextagent-pre-network.service", "contextagent.service"
WATCH = "contextagent-watch.service"
LOGS = {"rsyslog.service", "syslog.service", "syslog-ng.service", "auditd.service"}
RUNS = {PRE: "pre-network", POST: "post-network"}

# What of these sections EL7's systemd reads; it passes over everything else without a word that anybody would see
KNOWN = {
    "Unit": "Description Documentation Requires Wants BindsTo Conflicts Before After OnFailure RequiresMountsFor "
    "DefaultDependencies StopWhenUnneeded RefuseManualStart RefuseManualStop JobTimeoutSec ConditionPathExists "
    "ConditionPathIsDirectory ConditionFileNotEmpty ConditionFileIsExecutable ConditionKernelCommandLine "
    "ConditionVirtualization ConditionArchitecture",
    "Service": "Type RemainAfterExit ExecStartPre ExecStart ExecStartPost ExecReload ExecStop ExecStopPost Restart "
    "RestartSec TimeoutStartSec TimeoutStopSec SuccessExitStatus RestartPreventExitStatus KillMode KillSignal "
    "SendSIGKILL StandardInput StandardOutput StandardError Environment WorkingDirectory UMask Nice OOMScoreAdjust "
    "SyslogIdentifier LimitNOFILE PIDFile NotifyAccess",
    "Install": "WantedBy RequiredBy Alias Also",
}
LATER = {"LogRateLimitIntervalSec", "OOMPolicy"}
"""What EL7's systemd passes over with a warning, and does as well without."""
TYPES = {"simple", "forking", "oneshot", "dbus", "notify", "idle"}
OUTPUTS = {"inherit", "null", "tty", "journal", "syslog", "kmsg", "journal+console", "syslog+console", "kmsg+console"}
# Each would be passed on to what a site's script starts, and to a pilot, for as long as that lives
PASSED_ON = ("Private", "Protect", "Limit", "Memory", "CPU", "Tasks", "NoNew", "Capability", "SystemCall", "Restrict")

FLUSH_S = 5
"""What log daemons have to send the last records, docs/reference/trace.md."""

Unit = dict[str, dict[str, list[str]]]


def parsed(path: Path) -> Unit:
    """Return a unit's values by section and key, in the order in which they stand there."""
    unit: Unit = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            unit.setdefault(section, {}).setdefault(key, []).append(value)
    return unit


def default(name: str) -> float:
    """Return what a setting is where nobody says anything."""
    setting = find(name)
    assert setting
    return float(setting.default)


def words(unit: Unit, section: str, key: str) -> set[str]:
    """Return all words of a key."""
    return set(" ".join(unit[section].get(key, [])).split())


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest) -> Unit:
    """Each unit in turn."""
    return parsed(UNITS[request.param])


@pytest.fixture
def pre() -> Unit:
    """The unit before the network."""
    return parsed(UNITS[PRE])


@pytest.fixture
def post() -> Unit:
    """The unit after the network."""
    return parsed(UNITS[POST])


@pytest.fixture
def watch() -> Unit:
    """The unit of the watch."""
    return parsed(UNITS[WATCH])


def test_the_first_phase_is_done_before_anything_may_bring_the_network_up(pre: Unit) -> None:
    assert words(pre, "Unit", "Before") == {"network-pre.target", "shutdown.target"}
    assert words(pre, "Unit", "Wants") == {"network-pre.target"}, "or nobody pulls that target in"
    assert words(pre, "Unit", "Conflicts") == {"shutdown.target"}


def test_the_first_phase_waits_for_disks_alone_and_for_no_drive_that_may_not_be_there(pre: Unit) -> None:
    assert pre["Unit"]["DefaultDependencies"] == ["no"]
    after = {"local-fs.target", "systemd-remount-fs.service", "systemd-udev-trigger.service"}
    assert words(pre, "Unit", "After") == after
    assert ".device" not in UNITS[PRE].read_text()


def test_the_second_phase_waits_for_the_network_and_for_the_first(post: Unit) -> None:
    assert words(post, "Unit", "Wants") == {"network-online.target", "remote-fs.target"}
    assert words(post, "Unit", "After") - LOGS == {"network-online.target", "remote-fs.target", PRE}
    assert "DefaultDependencies" not in post["Unit"], "they stop it before the network and the disks go"


@pytest.mark.parametrize(("name", "phase"), RUNS.items())
def test_a_killed_agent_is_called_once_more_without_a_restart_that_old_systemds_refuse(name: str, phase: str) -> None:
    service = parsed(UNITS[name])["Service"]
    first, second = service["ExecStart"]
    assert first.startswith("-")
    assert f"/usr/bin/contextagent run {phase} " in first
    assert second == f"/usr/bin/contextagent run {phase} --resume"
    assert "Restart" not in service


def test_the_stop_phase_comes_before_the_end_of_whoever_forwards_its_trace(post: Unit) -> None:
    assert words(post, "Unit", "After") >= LOGS, "what starts after them is stopped before them"
    assert not words(post, "Unit", "Wants") & LOGS


def test_the_stop_phase_is_that_of_the_second_unit(pre: Unit, post: Unit) -> None:
    assert post["Service"]["ExecStop"] == ["/usr/bin/contextagent run stop"]
    assert "ExecStop" not in pre["Service"]


def test_a_machine_that_ends_in_the_middle_of_a_phase_has_its_stop_phase_and_no_other_has(post: Unit) -> None:
    (after,) = post["Service"]["ExecStopPost"]
    assert after.startswith("-")
    assert '"$$(systemctl is-system-running)" != stopping ] || exec /usr/bin/contextagent run stop --resume ' in after


@pytest.mark.parametrize("name", RUNS)
def test_a_phase_is_over_when_it_ends_and_what_a_site_started_outlives_it(name: str) -> None:
    service = parsed(UNITS[name])["Service"]
    assert (service["Type"], service["RemainAfterExit"], service["KillMode"]) == (["oneshot"], ["yes"], ["process"])
    assert service["SuccessExitStatus"] == ["1 2"], "or a failed script would cost the machine its stop phase"
    assert service["StandardOutput"] == ["journal+console"]


@pytest.mark.parametrize("name", RUNS)
def test_systemd_waits_longer_than_a_phase_may_take(name: str) -> None:
    service = parsed(UNITS[name])["Service"]
    stop_s = default("pilot.stop.timeout_s") + default("stop_budget_s") + OUTPUTS_S + MESSAGE_S + FLUSH_S
    for needed_s, key in ((default("phase_budget_s"), "TimeoutStartSec"), (stop_s, "TimeoutStopSec")):
        assert key not in service or int(service[key][0]) > needed_s
    assert "TimeoutStartSec" in service
    assert ("ExecStop" in service) == ("TimeoutStopSec" in service)


def test_each_unit_can_be_switched_off_by_a_file_and_by_a_word_of_the_kernels(unit: Unit) -> None:
    assert unit["Unit"]["ConditionPathExists"] == ["!/etc/contextagent/disabled"]
    assert unit["Unit"]["ConditionKernelCommandLine"] == ["!contextagent=off"]


def test_each_unit_is_wanted_by_the_machine_that_serves_its_users(unit: Unit) -> None:
    assert unit["Install"]["WantedBy"] == ["multi-user.target"]


def test_the_watch_is_the_one_unit_that_stays_and_is_started_again_where_it_failed(watch: Unit) -> None:
    service = watch["Service"]
    assert service["ExecStart"] == ["/usr/bin/contextagent watch"]
    assert service["Restart"] == ["on-failure"], "one that has nothing to watch ends well, and is left at that"
    assert int(service["RestartSec"][0]) * 5 > 10, "or systemd would give it up after five tries within ten seconds"
    assert not {"Type", "RemainAfterExit", "SuccessExitStatus"} & set(service)


def test_the_watch_comes_after_the_boots_work_and_goes_before_the_stop_phase(watch: Unit, post: Unit) -> None:
    assert words(watch, "Unit", "After") == {POST}, "what starts last is stopped first"
    bound = ("Requires", "Wants", "BindsTo", "Before", "Conflicts")
    assert not [key for key in bound if key in watch["Unit"]], "one does not start nor end the other"
    assert WATCH not in str(post)


def test_a_pilot_outlives_the_watch_and_is_not_taken_for_it(watch: Unit) -> None:
    assert watch["Service"]["KillMode"] == ["process"]
    assert watch["Service"]["OOMPolicy"] == ["continue"], "or a payload without memory would restart the watch"


def test_no_unit_says_what_the_systemd_of_el7_does_not_know(unit: Unit) -> None:
    assert {section: set(keys) - LATER - set(KNOWN[section].split()) for section, keys in unit.items()} == {
        section: set() for section in unit
    }
    service = unit["Service"]
    assert set(service.get("Type", [])) <= TYPES
    assert set(service.get("StandardOutput", [])) <= OUTPUTS
    commands = [value for key, values in service.items() if key.startswith("Exec") for value in values]
    assert all(command.lstrip("-").startswith("/") for command in commands), "its only other prefix is '@'"


def test_no_unit_takes_from_a_script_what_the_agent_would_have_given_it(unit: Unit) -> None:
    assert [key for key in unit["Service"] if key.startswith(PASSED_ON)] == []
