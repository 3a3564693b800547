"""Logging as a site asks for it, on a machine below a root with a stand-in for rsyslogd: files, and what is said."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

DROP_IN = "etc/rsyslog.d/10-contextagent.conf"
RSYSLOGD = """#!/bin/sh
case $1 in
    -v) echo 'rsyslogd 8.2302.0 (aka 2023.02) compiled with:' ;;
    *) ! grep -qs refused.example "$3" ;;
esac
"""
TCP = "logging: {collectors: [{host: collector.example, port: 5140, protocol: tcp}]}\n"
SENDING = ("rsyslogd", "syslog-ng", "syslogd")
TARGETS = ["rsyslog tcp://collector.example:5140"]


@pytest.fixture(autouse=True)
def _daemon(machine: Machine) -> None:
    machine.put("usr/sbin/rsyslogd", RSYSLOGD, 0o755)
    machine.put("etc/rsyslog.conf", "$IncludeConfig /etc/rsyslog.d/*.conf\n")


def put(disk: Path, name: str, text: str) -> None:
    path = disk / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(machine: Machine, disk: Path | str, *words: str) -> int:
    return machine.run("--disk", str(disk), "run", *words).code


def logged(machine: Machine) -> list[dict[str, Any]]:
    return [record for record in machine.trace() if record["ev"] == "logging"]


def reasons(machine: Machine, kind: str) -> list[str]:
    return [each["reason"] for each in machine.status()[kind]]


def test_what_is_planned_is_what_is_written_and_the_second_boot_changes_nothing(machine: Machine, disk: Path) -> None:
    put(disk, "site.yaml", TCP)
    put(disk, "epilog.sh", "#!/bin/sh\nexit 0\n")
    plan = machine.facts("--disk", str(disk), "plan")["steps"]
    steps = {step["id"]: step for step in plan if step["kind"] == "reload"}
    assert list(steps) == [
        "site/pre-network/logging:rsyslog",
        "site/pre-network/logging:delivered",
        "site/post-network/logging:rsyslog",
        "site/post-network/logging:delivered",
        "site/stop/logging:flush",
    ]
    assert not (machine.root / DROP_IN).exists()
    assert run(machine, disk) == 0
    text = machine.text(DROP_IN)
    digest = hashlib.sha512(f"/{DROP_IN}\0{text}\0".encode()).hexdigest()
    assert {step["sha512"] for step in steps.values()} == {digest}
    assert 'target="collector.example" port="5140"' in text
    assert f"{machine.root}/var/log/contextagent/trace-*.jsonl" in text
    assert machine.status()["logging"] == {"targets": TARGETS, "delivered": "configured"}
    assert logged(machine)[0]["reason"] == "rsyslog: written"
    receipt = machine.facts("receipt")["logging"]
    assert (receipt["targets"], receipt["delivered"]) == (TARGETS, "configured")
    before = (machine.root / DROP_IN).stat().st_ino
    machine.reboot()
    assert run(machine, disk) == 0
    assert (machine.root / DROP_IN).stat().st_ino == before


def test_a_boot_that_asks_for_no_logging_says_and_does_nothing_about_it(machine: Machine, disk: Path) -> None:
    put(disk, "epilog.sh", "#!/bin/sh\nexit 0\n")
    assert run(machine, disk) == 0
    assert machine.status()["logging"] == {"targets": [], "delivered": "none"}
    assert not logged(machine)
    assert not (machine.root / DROP_IN).exists()


def test_an_image_without_a_context_sends_its_trace_all_the_same(machine: Machine) -> None:
    machine.put("etc/contextagent/policy.yaml", TCP)
    assert run(machine, "none") == 0
    assert (machine.status()["result"], machine.status()["logging"]["delivered"]) == ("none", "configured")
    assert (machine.root / DROP_IN).exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("context.sh", "SYSLOG_SERVER=old.example\n"),
        ("features/machine/syslog", "old.example\n"),
        ("site.yaml", "features: {machine: {syslog: old.example}}\n"),
        ("context.sh", "MACHINEFEATURES=/somewhere\n"),
        ("", ""),
    ],
)
def test_an_older_form_names_the_sites_log_server(machine: Machine, disk: Path, name: str, text: str) -> None:
    put(disk, "epilog.sh", "#!/bin/sh\nexit 0\n")
    if name:
        put(disk, name, text)
    if not name or "MACHINEFEATURES" in text:
        machine.put("somewhere/syslog" if name else "etc/machinefeatures/syslog", "old.example:1514\n")
    assert run(machine, disk) == 0
    (target,) = machine.status()["logging"]["targets"]
    assert target in ("rsyslog udp://old.example:514", "rsyslog udp://old.example:1514")
    assert 'target="old.example"' in machine.text(DROP_IN)


def test_a_user_has_no_say_in_where_logs_go(machine: Machine, disk: Path) -> None:
    put(disk, "user/user.yaml", TCP)
    put(disk, "user/context.sh", "SYSLOG_SERVER=evil.example\n")
    put(disk, "user/epilog.sh", "#!/bin/sh\nexit 0\n")
    run(machine, disk)
    assert machine.status()["logging"] == {"targets": [], "delivered": "none"}
    assert "not-yours" in reasons(machine, "warnings")


@pytest.mark.skipif(any(map(shutil.which, SENDING)), reason="this machine has a log daemon, which trials may use")
def test_a_machine_without_a_daemon_that_can_send_is_degraded_and_boots(machine: Machine, disk: Path) -> None:
    (machine.root / "usr/sbin/rsyslogd").unlink()
    put(disk, "site.yaml", TCP)
    put(disk, "epilog.sh", "#!/bin/sh\ntouch ran\n")
    assert run(machine, disk) == 2
    assert machine.status()["logging"] == {"targets": [], "delivered": "no"}
    assert reasons(machine, "errors") == ["logging-none"]
    assert [script["state"] for script in machine.status()["scripts"]] == ["ok"]


def test_what_the_checker_refuses_is_not_in_place_and_the_site_is_told(machine: Machine, disk: Path) -> None:
    put(disk, "site.yaml", TCP.replace("collector.example", "refused.example"))
    put(disk, "epilog.sh", "#!/bin/sh\nexit 0\n")
    assert run(machine, disk) == 2
    assert list((machine.root / "etc/rsyslog.d").iterdir()) == []
    assert reasons(machine, "errors") == ["logging-refused"]
    assert "logs go nowhere" in machine.run("explain").out


@pytest.mark.parametrize(
    ("attack", "said"),
    [(f"echo evil >{{root}}/{DROP_IN}", "was changed"), (f"rm -r {{root}}/{DROP_IN[:13]}", "was removed")],
)
def test_a_user_script_that_tampers_with_the_logging_is_seen_and_the_site_has_it_back(
    machine: Machine, disk: Path, attack: str, said: str
) -> None:
    put(disk, "site.yaml", TCP)
    put(disk, "user/epilog.sh", f"#!/bin/sh\n{attack.format(root=machine.root)}\n")
    put(disk, "epilog.sh", f"#!/bin/sh\ncp {machine.root}/{DROP_IN} {machine.root}/seen\n")
    assert run(machine, disk) == 0
    assert "collector.example" in machine.text("seen")
    (warning,) = [each for each in machine.status()["warnings"] if each["reason"] == "logging-changed"]
    assert warning["message"] == f"'/{DROP_IN}' {said} while the user's scripts ran, putting it back"
    assert any(said in record["reason"] for record in logged(machine))


def test_certificates_in_the_sites_files_are_there_before_the_daemon_is_told(machine: Machine, disk: Path) -> None:
    put(disk, "site.yaml", TCP.replace("protocol: tcp", "protocol: tls, ca: /etc/tls/ca.pem"))
    put(disk, "files/etc/tls/ca.pem", "a certificate\n")
    machine.put("usr/lib/rsyslog/lmnsd_gtls.so", "")
    run(machine, disk)
    events = [record["ev"] for record in machine.trace() if record["ev"] in ("file", "logging")]
    assert events[0] == "file"
    assert machine.text("etc/tls/ca.pem") == "a certificate\n"
    assert machine.status()["logging"]["targets"] == ["rsyslog tls://collector.example:5140"]


def test_an_agent_that_is_run_again_in_the_same_boot_goes_on_from_what_it_knows(machine: Machine, disk: Path) -> None:
    put(disk, "site.yaml", TCP)
    put(disk, "epilog.sh", "#!/bin/sh\nexit 0\n")
    for words in (
        ("pre-network",),
        ("pre-network", "--resume"),
        ("post-network",),
        ("post-network", "--resume"),
        ("stop",),
    ):
        assert run(machine, disk, *words) == 0
    assert [record["delivered"] for record in logged(machine)] == ["configured"] * len(logged(machine))
    assert machine.run("trace", "verify").code == 0


def test_where_logging_is_not_asked_for_any_more_nothing_of_it_is_left(machine: Machine, disk: Path) -> None:
    put(disk, "epilog.sh", "#!/bin/sh\nexit 0\n")
    put(disk, "site.yaml", TCP)
    run(machine, disk)
    machine.reboot()
    (disk / "site.yaml").unlink()
    steps = [step["id"] for step in machine.facts("--disk", str(disk), "plan", "pre-network")["steps"]]
    assert steps == ["site/pre-network/logging:rsyslog:withdraw"]
    assert run(machine, disk) == 0
    assert not (machine.root / DROP_IN).exists()
    assert machine.status()["logging"] == {"targets": [], "delivered": "none"}
    assert logged(machine)[-1]["reason"] == "rsyslog: withdrawn"
    assert not machine.facts("--disk", str(disk), "plan", "pre-network")["steps"]


def test_where_new_settings_are_refused_the_old_ones_are_not_in_force(machine: Machine, disk: Path) -> None:
    put(disk, "epilog.sh", "#!/bin/sh\nexit 0\n")
    put(disk, "site.yaml", TCP)
    run(machine, disk)
    machine.reboot()
    put(disk, "site.yaml", TCP.replace("collector.example", "refused.example"))
    assert run(machine, disk) == 2
    assert not (machine.root / DROP_IN).exists()
    assert machine.status()["logging"] == {"targets": [], "delivered": "no"}


def test_collectors_that_nobody_can_use_are_an_error_at_their_line(machine: Machine, disk: Path) -> None:
    put(disk, "epilog.sh", "#!/bin/sh\nexit 0\n")
    put(disk, "site.yaml", "logging:\n  collectors: [{host: 'a b'}]\n")
    assert run(machine, disk) == 2
    assert reasons(machine, "errors") == ["bad-collector"]
    assert "site.yaml:2: " in machine.status()["errors"][0]["message"]
    assert machine.status()["logging"]["delivered"] == "no"
