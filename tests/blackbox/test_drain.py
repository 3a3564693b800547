"""`drain` and `remaining`: an end that is asked for, told to everybody at once, and kept over a reboot."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import AGENT
from tests.watching import Watching, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Done, Guest, Machine

GRACE_S = 300


@pytest.fixture
def booted(machine: Machine, disk: Path) -> Machine:
    """Return a machine that was booted by a site that knows of no end."""
    machine.put(
        "etc/contextagent/policy.yaml", f"watch:\n  http: 127.0.0.1:{free_port()}\nlifetime:\n  grace_s: {GRACE_S}\n"
    )
    (disk / "prolog.sh").write_text("#!/bin/sh\n")
    boot(machine, disk)
    return machine


def boot(machine: Machine, disk: Path) -> None:
    done = machine.run("run", "--disk", str(disk))
    assert done.code == 0, done.err


def drain(machine: Machine, *words: str) -> Done:
    return machine.run("drain", *words)


def told(machine: Machine) -> dict[str, Any]:
    facts = machine.facts("remaining")
    assert isinstance(facts, dict)
    return facts


def test_a_machine_without_an_end_has_nothing_remaining(booted: Machine) -> None:
    done = booted.run("remaining")
    assert (done.code, done.out) == (3, "")
    assert "no end of this machine is known" in done.err


def test_a_machine_that_was_not_booted_has_nothing_remaining(machine: Machine) -> None:
    assert machine.run("remaining").code == 3
    assert drain(machine).code == 3


def test_a_drain_is_announced_as_early_as_the_grace_says(booted: Machine) -> None:
    with Watching(booted):
        before_s = time.time()
        assert drain(booted).code == 0
        facts = told(booted)
        assert facts["bound_by"] == "drain"
        assert facts["shutdown_epoch_s"] >= before_s + GRACE_S
        assert facts["shutdown_epoch_s"] <= time.time() + GRACE_S + 4


def test_everybody_is_told_the_same_end_at_once(booted: Machine) -> None:
    with Watching(booted):
        assert drain(booted, "--in", "1000").code == 0
        end = told(booted)["shutdown_epoch_s"]
        for path in ("etc/machinefeatures/shutdowntime", "etc/jobfeatures/shutdowntime_job", "var/run/shutdown_time"):
            assert int(booted.text(path)) == end
        assert booted.status()["lifetime"] == {"shutdown_epoch_s": end, "bound_by": "drain"}
        last = [each for each in booted.trace() if each["ev"] == "lifetime"][-1]
        assert (last["shutdown_epoch_s"], last["bound_by"]) == (end, "drain")


def test_less_notice_than_the_grace_is_refused_unless_it_is_forced(booted: Machine) -> None:
    with Watching(booted):
        refused = drain(booted, "--in", str(GRACE_S - 1))
        assert refused.code == 77
        assert f"{GRACE_S} s of notice are promised" in refused.err
        assert booted.run("remaining").code == 3
        assert drain(booted, "--in", "30", "--force").code == 0
        assert told(booted)["remaining_s"] <= 31


def test_a_later_drain_replaces_an_earlier_one(booted: Machine) -> None:
    with Watching(booted):
        drain(booted, "--in", "400")
        drain(booted, "--in", "4000")
        assert 3990 <= told(booted)["remaining_s"] <= 4001


def test_a_drain_outlives_a_reboot(booted: Machine, disk: Path) -> None:
    with Watching(booted):
        drain(booted, "--in", "4000")
    end = told(booted)["shutdown_epoch_s"]
    booted.reboot()
    boot(booted, disk)
    facts = told(booted)
    assert facts["bound_by"] == "drain"
    assert abs(facts["shutdown_epoch_s"] - end) <= 2


def test_a_drain_does_not_outlive_the_instance(booted: Machine, disk: Path) -> None:
    with Watching(booted):
        drain(booted, "--in", "4000")
    booted.reboot()
    booted.put("sys/class/dmi/id/product_uuid", "4c4c4544-0000-4000-8000-00000000beef\n")
    (disk / "prolog.sh").write_text("#!/bin/sh\n# another\n")
    boot(booted, disk)
    assert booted.run("remaining").code == 3


def test_without_a_watch_a_drain_is_published_all_the_same_and_the_watch_takes_it_up(booted: Machine) -> None:
    done = drain(booted, "--in", "1000")
    assert done.code == 0
    assert "no watch runs" in done.err
    end = told(booted)["shutdown_epoch_s"]
    assert int(booted.text("etc/machinefeatures/shutdowntime")) == end
    with Watching(booted):
        assert told(booted)["shutdown_epoch_s"] == end


def test_an_end_that_comes_sooner_is_named_to_whoever_drains(booted: Machine, disk: Path) -> None:
    (disk / "context.sh").write_text("TTL=1\n")
    booted.reboot()
    boot(booted, disk)
    with Watching(booted):
        done = drain(booted, "--in", "7200")
        assert "(ttl)" in done.out
        assert told(booted)["bound_by"] == "ttl"


@pytest.mark.parametrize("word", ["-1", "soon", "1.5", "", "99999999999", "१"])
def test_seconds_that_are_none_are_refused(booted: Machine, word: str) -> None:
    assert drain(booted, f"--in={word}").code == 64


def test_every_account_may_ask_what_remains_and_only_root_may_drain(guest: Guest, disk: Path) -> None:
    guest.put("etc/contextagent/policy.yaml", "lifetime:\n  max_s: 5000\n")
    (disk / "prolog.sh").write_text("#!/bin/sh\n")
    script = (
        f"{' '.join(AGENT)} run --metadata none --disk none >/dev/null 2>&1;"
        f"setpriv --reuid=990 --regid=990 --clear-groups {' '.join(AGENT)} remaining;"
        f"setpriv --reuid=990 --regid=990 --clear-groups {' '.join(AGENT)} drain; echo $?"
    )
    done = guest.shell("sh", "-c", script)
    seconds, code = done.out.split()
    assert 4000 < int(seconds) <= 5000
    assert code == "77"


def test_the_exit_code_and_the_number_are_a_scripts_to_use(booted: Machine) -> None:
    drain(booted, "--in", "1000")
    asked = [*AGENT, "--root", str(booted.root), "remaining"]
    done = subprocess.run(["sh", "-c", 'test "$("$@")" -gt 900', "sh", *asked], check=False)
    assert done.returncode == 0
