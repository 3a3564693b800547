"""What the program prints: key sets that are promised, exit codes, and messages."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, run
from tests.spec.scenes import boot, lay, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

STATUS = "schema agent boot_id instance_id image result sources verdicts trust phases scripts lifetime pilot logging"
STATUS += " environment warnings errors"
SCRIPT = "id owner phase name sha512 profile state exit_code signal duration_s late output reason"
STEP = {"id", "kind", "owner", "phase", "sha512", "profile", "limits", "frequency", "skip", "late"}
LIMITS = {"wall_s", "cpu_s", "memory_bytes", "processes", "files", "output_bytes"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
VERBS = ("run", "plan", "status", "explain", "query", "analyze", "trace", "receipt", "lint", "pack")


@pytest.fixture
def booted(machine: Machine, disk: Path) -> Machine:
    """Return a machine that was booted from a disk with a script of each owner, a file and a warning."""
    lay(disk, says(machine, "prolog.sh", "epilog.sh", "user/epilog.sh"))
    lay(disk, {"files/etc/x": "x", "site.yaml": "unknown: 1\n"})
    boot(machine, disk)
    return machine


def test_status_json_has_the_promised_keys_and_no_others(booted: Machine) -> None:
    status = booted.status()
    assert set(status) == set(STATUS.split())
    assert status == booted.facts("status")
    assert (status["schema"], status["image"], status["lifetime"], status["pilot"]) == (1, None, None, None)
    assert set(status["logging"]) == {"targets", "delivered"}
    assert status["logging"]["delivered"] == "none"
    assert status["environment"] == "unknown"
    assert set(status["phases"]) == {"pre-network", "post-network", "stop"}
    for phase in status["phases"].values():
        assert set(phase) == {"state", "started", "finished", "duration_s"}
    assert TIME.fullmatch(status["phases"]["pre-network"]["started"])
    assert status["phases"]["stop"] == {"state": "pending", "started": None, "finished": None, "duration_s": None}
    for script in status["scripts"]:
        assert set(script) == set(SCRIPT.split())
    for each in (*status["warnings"], *status["errors"]):
        assert set(each) == {"reason", "message"}
    for each in status["verdicts"]:
        assert set(each) == {"owner", "source", "verdict", "reason", "duration_s"}
    assert set(status["sources"]) == {"site", "user"}


def test_plan_json_has_the_promised_keys_and_no_others(booted: Machine, disk: Path) -> None:
    booted.reboot()
    whole = booted.facts("plan", "--disk", str(disk))
    assert set(whole) == {"phase", "steps"}
    assert whole["phase"] is None
    assert {step["phase"] for step in whole["steps"]} == {"pre-network", "post-network", "stop"}
    for step in whole["steps"]:
        assert set(step) == STEP
        assert step["kind"] in ("script", "file")
        assert step["limits"] is None or set(step["limits"]) == LIMITS
    one = booted.facts("plan", "post-network", "--disk", str(disk))
    assert one["phase"] == "post-network"


def test_the_plan_tells_why_a_script_will_be_skipped(booted: Machine, disk: Path) -> None:
    booted.reboot()
    steps = {step["id"]: step["skip"] for step in booted.facts("plan", "--disk", str(disk))["steps"]}
    assert steps["user/post-network/epilog.sh"]
    assert steps["site/post-network/epilog.sh"] is None
    forced = booted.facts("plan", "--force", "--disk", str(disk))["steps"]
    assert {step["skip"] for step in forced if step["kind"] == "script"} == {None}


def test_the_receipt_holds_every_script_with_digest_rights_limits_environment_names_and_end(booted: Machine) -> None:
    receipt = booted.facts("receipt")
    kept = json.loads(booted.text(f"var/log/contextagent/receipt-{booted.status()['boot_id']}.json"))
    assert set(receipt) == set(kept)
    for key in ("image", "instance", "sources", "trust", "scripts", "environment", "logging", "lifetime", "pilot"):
        assert key in receipt
    booted.run("run", "stop")
    receipt = booted.facts("receipt")
    assert [each["id"] for each in receipt["scripts"]] == [
        "site/pre-network/prolog.sh",
        "user/post-network/epilog.sh",
        "site/post-network/epilog.sh",
        "site/stop/epilog.sh",
        "site/stop/prolog.sh",
        "user/stop/epilog.sh",
    ]
    for script in receipt["scripts"]:
        for key in ("sha512", "profile", "uid", "limits", "environment", "exit", "duration_s"):
            assert key in script
        assert "PATH" in script["environment"]
        assert "CONTEXTAGENT_PHASE" in script["environment"]
        assert set(script["limits"]) == LIMITS
    assert receipt["first"]["seq"] == 1
    assert receipt["last"]["hash"]


@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    done = run((*AGENT, *filter(None, [verb]), "--help"))
    assert done.code == 0
    assert "example" in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize("verb", ["plan", "status", "explain", "query policy", "analyze", "receipt", "trace show"])
def test_json_alone_is_on_stdout(booted: Machine, verb: str) -> None:
    done = booted.run(*verb.split(), "--format", "json")
    json.loads(done.out)
    assert booted.run(*verb.split()).out != done.out


@pytest.mark.parametrize("verb", ["status", "explain", "analyze", "query context.instance_id", "receipt"])
def test_what_is_not_known_yet_ends_with_3_and_says_what_to_do(machine: Machine, verb: str) -> None:
    done = machine.run(*verb.split())
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("contextagent: cannot ")


@pytest.mark.parametrize(
    "words",
    ["run sideways", "bogus", "run --bogus", "plan --disk", "run --disk /nowhere", "status --format xml", "query", ""],
)
def test_misuse_ends_with_64_and_one_clear_error(machine: Machine, words: str) -> None:
    done = machine.run(*words.split())
    assert done.code == 64
    assert done.err.startswith("contextagent: cannot ")
    assert "Traceback" not in done.err


def test_nothing_can_be_written_is_73(machine: Machine, disk: Path) -> None:
    machine.put("var", "a file where a folder should be")
    lay(disk, says(machine, "epilog.sh"))
    done = boot(machine, disk)
    assert done.code == 73
    assert "cannot" in done.err


def test_a_wait_that_times_out_is_75_and_status_of_a_running_phase_is_0(machine: Machine, disk: Path) -> None:
    ask = f"{' '.join(AGENT)} --root {machine.root} status"
    lay(disk, {"epilog.sh": f"{ask}; echo code $?\n{ask} --wait --timeout 0.1; echo wait $?\n"})
    boot(machine, disk)
    told = machine.text(machine.status()["scripts"][0]["output"].lstrip("/"))
    assert "running" in told
    assert "code 0" in told
    assert "wait 75" in told


def test_wait_returns_at_once_when_the_run_is_over(booted: Machine) -> None:
    assert booted.run("status", "--wait", "--timeout", "5").code == 0


def test_nothing_outside_the_root_is_written_and_global_options_stand_anywhere(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "epilog.sh"))
    done = run((*AGENT, "run", "--metadata", "none", f"--root={machine.root}", "--disk", str(disk)))
    assert done.code == 0, done.err
    assert run((*AGENT, "status", "--root", str(machine.root))).code == 0


def test_analyze_accounts_for_every_script(booted: Machine) -> None:
    told = booted.run("analyze").out
    for name in ("pre-network", "post-network", "user/post-network/epilog.sh", "site/post-network/epilog.sh"):
        assert name in told


def test_query_tells_every_setting_with_voice_file_and_line(booted: Machine) -> None:
    booted.put("etc/contextagent/policy.yaml", "# first\nphase_budget_s: 9\n")
    told = booted.facts("query", "policy")["phase_budget_s"]
    assert (told["value"], told["voice"], told["line"]) == (9, "image", 2)
    assert told["path"].endswith("policy.yaml")
    assert booted.run("query", "context.instance_id").out.strip() == booted.status()["instance_id"]


def test_names_and_messages_with_control_characters_reach_no_terminal(machine: Machine, disk: Path) -> None:
    lay(disk, {"site.yaml": '"\\e[31mred\\u202e": 1\n', "post-network.d/\u202eevil": "exit 1\n"})
    done = boot(machine, disk)
    told = [done.out + done.err] + [machine.run(verb).out for verb in ("status", "explain", "analyze")]
    assert not re.search("[\x1b\u202e]", "".join(told))


@pytest.mark.parametrize("switch", [("etc/contextagent/disabled", ""), ("proc/cmdline", "quiet contextagent=off\n")])
def test_an_agent_that_is_switched_off_says_so_and_does_nothing(
    machine: Machine, disk: Path, switch: tuple[str, str]
) -> None:
    lay(disk, says(machine, "epilog.sh"))
    machine.put(*switch)
    before = sorted(machine.root.rglob("*"))
    done = boot(machine, disk)
    assert (done.code, sorted(machine.root.rglob("*"))) == (0, before)
    assert "off" in done.out
