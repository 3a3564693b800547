"""Failure, limits and results: nothing stops the boot, and each result has its exit code."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.spec.scenes import boot, effects, lay, output, reports, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

ALL = ("user/prolog.sh", "prolog.sh", "user/epilog.sh", "epilog.sh")


@pytest.mark.parametrize(
    ("failing", "code", "settings", "result"),
    [
        ("epilog.sh", 1, "", "failed"),
        ("epilog.sh", 1, "scripts: {site/post-network/epilog.sh: {on_error: continue}}", "degraded"),
        ("epilog.sh", 100, "", "ok"),
        ("user/epilog.sh", 1, "", "degraded"),
        ("user/epilog.sh", 100, "", "degraded"),
        ("prolog.sh", 99, "", "failed"),
    ],
)
def test_a_failing_script_stops_no_other_and_gives_the_result_its_exit_code(  # each argument is a part of the case
    machine: Machine, disk: Path, *, failing: str, code: int, settings: str, result: str
) -> None:
    lay(disk, says(machine, *ALL))
    lay(disk, says(machine, failing, body=f"exit {code}"))
    lay(disk, {"site.yaml": settings} if settings else {})
    done = boot(machine, disk)
    assert effects(machine) == [f"{name} start" for name in ALL]
    assert machine.status()["result"] == result
    expected = {"ok": 0, "failed": 1, "degraded": 2}[result]
    assert (done.code, machine.run("status").code) == (expected, expected)


def test_what_is_left_when_a_phases_budget_is_over_is_skipped_and_the_script_running_is_ended(
    machine: Machine, disk: Path
) -> None:
    machine.put("etc/contextagent/policy.yaml", "phase_budget_s: 1\n")
    lay(disk, says(machine, "pre-network.d/10", body="sleep 600"))
    lay(disk, says(machine, "pre-network.d/20", "epilog.sh"))
    boot(machine, disk)
    found = reports(machine)
    assert found["site/pre-network/pre-network.d/10"]["state"] == "timeout"
    assert (found["site/pre-network/pre-network.d/20"]["state"]) == "skipped"
    assert "budget" in found["site/pre-network/pre-network.d/20"]["reason"]
    assert found["site/post-network/epilog.sh"]["state"] == "ok"
    assert machine.status()["result"] == "failed"


def test_the_stop_budget_bounds_the_stop(machine: Machine, disk: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", "stop_budget_s: 1\n")
    lay(disk, says(machine, "stop.d/10", body="sleep 600"))
    lay(disk, says(machine, "user/stop.d/10"))
    boot(machine, disk)
    boot(machine, disk, "stop")
    assert effects(machine) == ["stop.d/10 stop"]
    assert reports(machine)["user/stop/stop.d/10"]["state"] == "skipped"


def test_output_past_a_mebibyte_keeps_both_ends_and_counts_and_digests_all(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": "#!/bin/sh\nseq 1 400000\n"})
    boot(machine, disk)
    whole = "".join(f"{number}\n" for number in range(1, 400001)).encode()
    kept = output(machine, "site/post-network/epilog.sh")
    assert kept.startswith("1\n2\n")
    assert kept.endswith("399999\n400000\n")
    assert 1 << 20 <= len(kept) <= (1 << 20) + 100
    end = next(record for record in machine.trace() if record["ev"] == "end")
    assert (end["out_bytes"], end["out_sha512"]) == (len(whole), hashlib.sha512(whole).hexdigest())


def test_output_past_its_limit_ends_the_script_by_limit(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": "yes\n", "site.yaml": "scripts: {site/post-network/epilog.sh: {output_bytes: 100000}}"})
    boot(machine, disk)
    end = next(record for record in machine.trace() if record["ev"] == "end")
    assert end["reason"] == "limit"
    assert reports(machine)["site/post-network/epilog.sh"]["state"] == "failed"


def test_a_signal_and_an_exit_code_are_told_apart(machine: Machine, disk: Path) -> None:
    lay(disk, {"prolog.sh": "kill -SEGV $$\n", "epilog.sh": "exit 139\n"})
    boot(machine, disk)
    found = reports(machine)
    assert [found[f"site/{each}"][key] for each in ("pre-network/prolog.sh", "post-network/epilog.sh")
            for key in ("exit_code", "signal")] == [None, 11, 139, None]  # fmt: skip


def test_a_crlf_shebang_is_one_clear_error_and_the_next_script_runs(machine: Machine, disk: Path) -> None:
    lay(disk, {"prolog.sh": "#!/bin/sh\r\necho no\r\n", **says(machine, "epilog.sh")})
    done = boot(machine, disk)
    assert effects(machine) == ["epilog.sh start"]
    found = reports(machine)["site/pre-network/prolog.sh"]
    assert found["state"] in ("failed", "refused")
    assert "CR" in found["reason"]
    assert done.err.count("prolog.sh") <= 2


@pytest.mark.parametrize("name", ["site", "user"])
def test_no_context_is_none_with_exit_0_and_no_script(machine: Machine, disk: Path, name: str) -> None:
    lay(disk, {f"{name}/notes.txt": "nothing known"})
    done = boot(machine, disk)
    assert (done.code, machine.status()["result"]) == (0, "none")


def test_a_refused_part_is_part_of_the_result_and_no_exit_code_of_its_own(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "epilog.sh", "user/epilog.sh"))
    (disk / "user/pre-network.d").mkdir()
    (disk / "user/pre-network.d/10").symlink_to("/etc/passwd")
    assert boot(machine, disk).code == 2
    assert effects(machine) == ["epilog.sh start"], "nothing of a refused part runs"
    assert machine.status()["sources"] == {"site": "disk:hepix", "user": None}
    lay(disk, {"site.yaml": "{}", "site.json": "{}"})
    machine.reboot()
    assert boot(machine, disk).code == 1
    assert effects(machine) == ["epilog.sh start"]


def test_a_daemon_of_a_users_script_dies_with_it_and_a_sites_lives_on_unless_told(machine: Machine, disk: Path) -> None:
    body = f"setsid sh -c 'while [ -e {machine.root}/alive ]; do echo $0 >> {machine.root}/beats; sleep 0.05; done' "
    machine.put("alive", "")
    scripts = {f"{name}/epilog.sh": f"{body}{name} >/dev/null 2>&1 &\nsleep 0.2\n" for name in ("site", "user")}
    lay(disk, scripts)
    boot(machine, disk)
    try:
        last = "site/stop.d/z"
        lay(disk, {last: f"rm {machine.root}/beats; sleep 0.5; cat {machine.root}/beats"})
        machine.reboot()
        boot(machine, disk, "stop")
        assert set(output(machine, "site/stop/stop.d/z").split()) == {"site"}
    finally:
        (machine.root / "alive").unlink()
