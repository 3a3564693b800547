"""The end of a machine: who may say it, with which code, where it is told, and that it happens once."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT
from tests.puts import Puts
from tests.spec.living import MESSAGE, OUTPUTS, Living, policy, until
from tests.spec.scenes import boot, effects, lay, says

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine import Guest, Machine

WORK = {"epilog.sh": "true\n"}
FAILING = {"epilog.sh": "exit 3\n"}
PILOT = "pilot: {framework: command, command: [/bin/sleep, '600'], stop: {timeout_s: 5}}\n"


@pytest.fixture
def puts() -> Iterator[Puts]:
    """Return a server that takes what is put."""
    with Puts() as made:
        yield made


def message(machine: Machine) -> str:
    """Return the shutdown message in the default folder, as soon as it is there."""
    path = machine.root / MESSAGE
    return str(until(lambda: path.exists() and path.read_text()))


@pytest.mark.parametrize(
    ("code", "text"), [("200", "all done"), ("300", "no more work"), ("700", "try again"), ("100", "x")]
)
def test_a_finish_is_told_as_one_line_without_a_newline(machine: Machine, disk: Path, code: str, text: str) -> None:
    policy(machine, is_served=False)
    lay(disk, WORK)
    boot(machine, disk)
    with Living(machine) as living:
        assert machine.run("finish", code, text).code == 0
        assert message(machine) == f"{code} {text}"
        (record,) = until(lambda: [each for each in machine.trace() if each["ev"] == "finish"])
        assert record["code"] == int(code)
        assert living.stop() == 0


def test_a_text_of_several_lines_is_told_as_one(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, WORK)
    boot(machine, disk)
    with Living(machine):
        machine.run("finish", "300", "no\nmore\r\nwork\x1b[2J")
        found = message(machine)
        assert found.startswith("300 no")
        assert found.isprintable()


@pytest.mark.parametrize(
    "words", [["finish"], ["finish", "300"], ["finish", "none", "x"], ["finish", "99", "x"], ["finish", "300", ""]]
)
def test_a_finish_without_a_code_of_three_digits_and_a_text_is_a_mistake(
    machine: Machine, disk: Path, words: list[str]
) -> None:
    lay(disk, WORK)
    boot(machine, disk)
    assert machine.run(*words).code == 64
    assert not (machine.root / MESSAGE).exists()


def test_the_first_word_counts_and_the_machine_ends_once(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, WORK)
    boot(machine, disk)
    with Living(machine) as living:
        machine.run("finish", "300", "first")
        assert message(machine) == "300 first"
        assert machine.run("finish", "200", "second").code == 0
        assert living.stop() == 0
    assert machine.text(MESSAGE) == "300 first"
    assert [each["code"] for each in machine.trace() if each["ev"] == "finish"] == [300]


def test_job_outputs_that_were_given_get_it_by_put_and_any_2xx_is_success(
    machine: Machine, disk: Path, puts: Puts
) -> None:
    policy(machine, is_served=False)
    puts.statuses["/outputs/shutdown_message"] = [204]
    lay(disk, {**WORK, "context.sh": f"JOBOUTPUTS='{puts.url('')}/outputs'\nVMID=1\n"})
    boot(machine, disk)
    with Living(machine):
        machine.run("finish", "300", "no more work")
        until(lambda: [each for each in puts.taken if each.path == "/outputs/shutdown_message"])
        until(lambda: any(each["ev"] == "finish" for each in machine.trace()))
        bodies = [each.body for each in puts.taken if each.path == "/outputs/shutdown_message"]
        assert bodies == [b"300 no more work"]


def test_a_receipt_is_put_to_the_job_outputs(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "context.sh": f"JOBOUTPUTS='{puts.url('')}/outputs'\nVMID=1\n"})
    boot(machine, disk)
    with Living(machine):
        found = until(lambda: [each for each in puts.taken if each.path == "/outputs/receipt.json"])
        assert b"post-network/epilog.sh" in found[0].body


def test_a_failed_site_part_is_told_as_500_where_job_outputs_were_given(
    machine: Machine, disk: Path, puts: Puts
) -> None:
    policy(machine, is_served=False)
    lay(disk, {**FAILING, "context.sh": f"JOBOUTPUTS='{puts.url('')}/outputs'\nVMID=1\n"})
    assert boot(machine, disk).code == 1
    with Living(machine):
        (found,) = until(lambda: [each for each in puts.taken if each.path == "/outputs/shutdown_message"])
        assert re.fullmatch(rb"500 [ -~]+", found.body)


def test_a_failed_site_part_where_nobody_waits_for_it_ends_nothing_but_is_500(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, FAILING)
    boot(machine, disk)
    with Living(machine) as living:
        assert message(machine).startswith("500 ")
        machine.run("finish", "100", "the person at the console ends it")
        until(lambda: machine.text(MESSAGE).startswith("100 "), "a word that only told is not the machine's end")
        assert living.stop() == 0


def test_a_failed_site_part_refuses_the_pilot_and_is_500(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**FAILING, "site.yaml": PILOT})
    boot(machine, disk)
    with Living(machine):
        assert message(machine).startswith("500 ")
        pilot = until(lambda: machine.status()["pilot"]["state"] != "waiting" and machine.status()["pilot"])
        assert pilot["state"] == "refused"


def test_a_shutdown_that_nobody_here_asked_for_is_told_as_100(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "context.sh": f"JOBOUTPUTS='{puts.url('')}/outputs'\nVMID=1\n", "stop.d/10": "true\n"})
    boot(machine, disk)
    assert machine.run("run", "stop", "--disk", str(disk)).code == 0
    (found,) = [each for each in puts.taken if each.path == "/outputs/shutdown_message"]
    assert re.fullmatch(rb"100 [ -~]+", found.body)


def test_a_stop_after_a_finish_tells_nothing_else(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "context.sh": f"JOBOUTPUTS='{puts.url('')}/outputs'\nVMID=1\n", "stop.d/10": "true\n"})
    boot(machine, disk)
    with Living(machine):
        machine.run("finish", "300", "no more work")
        until(lambda: [each for each in puts.taken if each.path == "/outputs/shutdown_message"])
    machine.run("run", "stop")
    assert [each.body for each in puts.taken if each.path == "/outputs/shutdown_message"] == [b"300 no more work"]


def test_a_second_stop_says_already_done_and_runs_nothing(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "stop.d/10"))
    boot(machine, disk)
    boot(machine, disk, "stop")
    done = boot(machine, disk, "stop")
    assert done.code == 0
    assert "already done" in done.out + done.err
    assert effects(machine) == ["stop.d/10 stop"]
    assert [each["ev"] for each in machine.trace()].count("shutdown") == 1


def test_a_lifetime_that_is_over_is_told_as_100(machine: Machine, disk: Path) -> None:
    policy(machine, "stop_budget_s: 1\n", is_served=False)
    lay(disk, {**WORK, "features/machine/shutdowntime": f"{int(time.time()) + 4}\n", "site.yaml": ""})
    boot(machine, disk)
    with Living(machine):
        assert message(machine).startswith("100 ")


def test_a_lifetime_that_was_over_before_the_boot_refuses_the_pilot_and_is_told_as_100(
    machine: Machine, disk: Path
) -> None:
    policy(machine, is_served=False)
    past = int(time.time()) - 10_000_000
    lay(disk, {**WORK, "features/machine/shutdowntime": f"{past}\n", "site.yaml": PILOT})
    boot(machine, disk)
    with Living(machine):
        assert message(machine).startswith("100 ")
        pilot = until(lambda: machine.status()["pilot"]["state"] != "waiting" and machine.status()["pilot"])
        assert pilot["state"] == "refused"


@pytest.mark.parametrize("is_as_the_guest_sees_it", [True, False])
def test_a_shutdown_command_below_the_root_is_run_once(
    machine: Machine, disk: Path, *, is_as_the_guest_sees_it: bool
) -> None:
    policy(machine, is_served=False)
    machine.put("opt/end", f"#!/bin/sh\necho ended >> {machine.root}/ends\n", 0o755)
    command = "/opt/end" if is_as_the_guest_sees_it else f"{machine.root}/opt/end"
    lay(disk, {**WORK, "features/machine/shutdown_command": f"{command}\n"})
    boot(machine, disk)
    with Living(machine) as living:
        machine.run("finish", "300", "no more work")
        assert message(machine) == "300 no more work"
        until((machine.root / "ends").exists)
        machine.run("finish", "200", "done")
        living.stop()
    assert (machine.root / "ends").read_text() == "ended\n"


@pytest.mark.parametrize("command", ["relative", "/nowhere/at/all", "/etc/passwd"])
def test_a_shutdown_command_that_is_no_program_at_an_absolute_path_keeps_no_message(
    machine: Machine, disk: Path, command: str
) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "features/machine/shutdown_command": f"{command}\n"})
    boot(machine, disk)
    with Living(machine):
        machine.run("finish", "300", "no more work")
        assert message(machine) == "300 no more work"


def test_a_finish_without_a_watch_is_root_s_to_do(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, WORK)
    boot(machine, disk)
    machine.run("finish", "300", "no more work")
    assert message(machine) == "300 no more work"


def test_the_heartbeat_is_rewritten(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": "pilot: {heartbeat: {file: vm-heartbeat, seconds: 1}}\n"})
    boot(machine, disk)
    path = machine.root / OUTPUTS / "vm-heartbeat"
    with Living(machine):
        first = until(lambda: path.exists() and path.stat().st_mtime_ns)
        until(lambda: path.stat().st_mtime_ns != first)


def test_the_heartbeat_is_put(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "context.sh": f"JOBOUTPUTS='{puts.url('')}/outputs'\nVMID=1\n"})
    lay(disk, {"site.yaml": "pilot: {heartbeat: {file: beat, seconds: 1}}\n"})
    boot(machine, disk)
    with Living(machine):
        until(lambda: len([each for each in puts.taken if each.path == "/outputs/beat"]) >= 2)


def test_opennebula_is_told_ready_by_put_with_its_two_headers(machine: Machine, disk: Path, puts: Puts) -> None:
    policy(machine, is_served=False)
    said = f"VMID=42\nREPORT_READY=YES\nONEGATE_ENDPOINT='{puts.url('')}'\nONEGATE_TOKEN='opens-nothing'\n"
    lay(disk, {**WORK, "context.sh": said})
    boot(machine, disk)
    with Living(machine):
        found = until(lambda: [each for each in puts.taken if each.path == "/vm"])
        assert found[0].body.strip() == b"READY=YES"
        assert found[0].headers["x-onegate-token"] == "opens-nothing"
        assert found[0].headers["x-onegate-vmid"] == "42"


_ALL = """
set -u
agent="$1"; disk=$2
$agent run --disk $disk --metadata none >/dev/null 2>&1
stat -c '%a %U %G' /run/contextagent/finish /etc/joboutputs /run/contextagent /etc/machinefeatures
$agent watch 2>/var/log/watch.log & watch=$!
for i in $(seq 300); do test -e /run/contextagent/watch.pid && break; sleep 0.05; done
as() { user=$1; shift; setpriv --reuid=$user --regid=$user --clear-groups "$@"; }
as 990 ls /run/contextagent/finish 2>&1 | grep -c denied
as 990 $agent finish 100 x; echo "code $?"
as 990 $agent finish 500 x; echo "code $?"
as 991 $agent finish 300 x; echo "code $?"
as 991 $agent remaining; echo "code $?"
test -e /etc/joboutputs/shutdown_message && echo too early
as 990 $agent finish 300 "no more work"; echo "code $?"
for i in $(seq 300); do test -s /var/log/asked && break; sleep 0.05; done
cat /etc/joboutputs/shutdown_message; echo
cat /var/log/asked
kill $watch; wait $watch
"""


def test_the_pilots_own_account_may_finish_but_not_with_the_codes_of_root(
    guest: Guest,
) -> None:
    for name in ("usr/bin/systemctl", "usr/sbin/shutdown", "usr/sbin/poweroff", "usr/sbin/halt"):
        guest.put(name, f"#!/bin/sh\necho {name} $* >>/var/log/asked\n", 0o755)
    guest.put("etc/contextagent/policy.yaml", "watch: {http: 'off'}\n")
    guest.put("disk/epilog.sh", "true\n")
    done = guest.shell("sh", "-c", _ALL, "sh", " ".join(AGENT), "/disk")
    lines = done.out.splitlines()
    assert lines[0] == "730 root contextuser", done
    assert lines[1].split()[:2] == ["755", "contextuser"]
    assert lines[2].split()[0] == lines[3].split()[0] == "755"
    assert lines[4] == "1", "the account may drop, not look"
    codes = [line for line in lines if line.startswith("code ")]
    assert codes == ["code 77", "code 77", "code 77", "code 3", "code 0"]
    assert "too early" not in lines
    assert "300 no more work" in lines
    assert re.search(r"systemctl.*poweroff.*--no-block|systemctl.*--no-block.*poweroff|shutdown -h now", done.out)
