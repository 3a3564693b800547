"""The pilot: when it starts, with what, and each reason for which it does not."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.spec.living import MESSAGE, Living, policy, until
from tests.spec.scenes import boot, effects, lay, output, reports

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

WORK = {"epilog.sh": "true\n"}
RUNS = "pilot: {{framework: command, command: [/bin/sh, -c, '{said}'], stop: {{timeout_s: 5}}{more}}}\n"


def pilot_of(machine: Machine) -> dict[str, Any]:
    found = machine.status()["pilot"]
    assert set(found) == {"framework", "state", "reason", "pid", "code"}
    assert found["state"] in ("waiting", "refused", "running", "stopping", "ended")
    return dict(found)


def settled(machine: Machine, *states: str) -> dict[str, Any]:
    """Return how the pilot is, as soon as it is in one of these states."""
    found: dict[str, Any] = until(lambda: pilot_of(machine) if pilot_of(machine)["state"] in states else None)
    return found


def runs(machine: Machine, said: str = "", more: str = "") -> str:
    """Return settings by which a pilot notes that it ran, and does what is said."""
    return RUNS.format(said=f"echo ran >> {machine.root}/ran; {said or 'exit 0'}", more=more and f", {more}")


def ran(machine: Machine) -> int:
    path = machine.root / "ran"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_without_a_pilots_settings_there_is_none(machine: Machine, disk: Path) -> None:
    lay(disk, WORK)
    boot(machine, disk)
    assert machine.status()["pilot"] is None
    assert machine.run("pilot", "status").code == 3


def test_run_marks_the_pilot_as_waiting_and_the_watch_starts_it(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": runs(machine, "sleep 600")})
    assert boot(machine, disk).code == 0
    found = pilot_of(machine)
    assert (found["framework"], found["state"]) == ("command", "waiting")
    assert ran(machine) == 0
    with Living(machine) as living:
        found = settled(machine, "running")
        assert os.path.exists(f"/proc/{found['pid']}")
        assert machine.facts("pilot", "status") == found
        assert [each["ev"] for each in machine.trace()].count("pilot") >= 1
        assert machine.run("pilot", "stop").code == 0
        assert not os.path.exists(f"/proc/{found['pid']}")
        assert ran(machine) == 1
        living.stop()


def test_the_pilot_is_the_last_step_after_the_network_and_the_first_when_the_machine_stops(
    machine: Machine, disk: Path
) -> None:
    lay(disk, {"epilog.sh": "true\n", "stop.d/10": "true\n", "site.yaml": runs(machine)})
    steps = machine.facts("plan", "post-network", "--disk", str(disk))["steps"]
    assert [step["kind"] for step in steps].index("pilot") == len(steps) - 1
    assert steps[-1]["owner"] == "site"
    boot(machine, disk)
    steps = machine.facts("plan", "stop", "--disk", str(disk))["steps"]
    assert steps[0]["kind"] == "pilot"


VETOES = {
    "site-failed": ({"epilog.sh": "exit 1\n"}, "failed"),
    "veto": ({"epilog.sh": "exit 100\n"}, "ok"),
    "banned": ({"epilog.sh": "true\n"}, "ok"),
    "no-pilot-file": ({"epilog.sh": "true\n"}, "ok"),
    "lifetime": ({"epilog.sh": "true\n", "features/job/jobstart_secs": f"{int(time.time())}\n"}, "ok"),
    "trace": ({"epilog.sh": "true\n"}, "ok"),
}


@pytest.mark.parametrize("reason", VETOES)
def test_a_pilot_that_may_not_start_is_refused_with_the_reason(machine: Machine, disk: Path, reason: str) -> None:
    policy(machine, is_served=False)
    files, result = VETOES[reason]
    more = {"lifetime": "min_lifetime_s: 90000", "trace": "require_trace: reachable"}.get(reason, "")
    settings = runs(machine, more=more)
    if reason == "banned":
        settings += "ban: {pilot: yes}\n"
    if reason == "lifetime":
        settings += "features: {job: {wall_limit_secs: 80000}}\n"
    if reason == "no-pilot-file":
        machine.put("etc/contextagent/no-pilot", "")
    lay(disk, {**files, "site.yaml": settings})
    boot(machine, disk)
    assert machine.status()["result"] == result
    with Living(machine) as living:
        found = settled(machine, "refused", "running", "ended")
        assert (found["state"], found["reason"]) == ("refused", reason)
        assert ran(machine) == 0
        assert reason in machine.run("status").out
        living.stop()


def test_a_veto_by_file_is_read_again_while_the_machine_lives(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    machine.put("etc/contextagent/no-pilot", "")
    lay(disk, {**WORK, "site.yaml": runs(machine, "sleep 600")})
    boot(machine, disk)
    with Living(machine) as living:
        settled(machine, "refused")
        (machine.root / "etc/contextagent/no-pilot").unlink()
        machine.run("drain", "--in", "90000")  # something that has the watch look now, and not within the minute
        settled(machine, "running")
        machine.run("pilot", "stop")
        living.stop()


def test_a_failed_site_script_that_may_fail_refuses_no_pilot(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    more = "scripts: {site/post-network/epilog.sh: {on_error: continue}}\n"
    lay(disk, {"epilog.sh": "exit 1\n", "site.yaml": runs(machine) + more})
    assert boot(machine, disk).code == 2
    with Living(machine):
        assert settled(machine, "ended", "refused")["state"] == "ended"


def test_a_failed_user_script_refuses_no_pilot(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "user/epilog.sh": "exit 100\n", "site.yaml": runs(machine)})
    assert boot(machine, disk).code == 2
    with Living(machine):
        assert settled(machine, "ended", "refused")["state"] == "ended"


@pytest.mark.parametrize("fault", ["missing", "for others to read", "no certificate"])
def test_a_credential_is_checked_before_the_start(machine: Machine, disk: Path, fault: str) -> None:
    policy(machine, is_served=False)
    kind, text = (
        ("token", token(time.time() + 90_000)) if fault == "for others to read" else ("proxy", "no certificate")
    )
    if fault != "missing":
        machine.put("etc/credential", text, 0o644 if fault == "for others to read" else 0o600)
    more = f"credential: {{kind: {kind}, path: /etc/credential, env: CREDENTIAL}}"
    lay(disk, {**WORK, "site.yaml": runs(machine, more=more)})
    boot(machine, disk)
    with Living(machine):
        found = settled(machine, "refused", "ended", "running")
        assert (found["state"], found["reason"]) == ("refused", "credential")
        assert ran(machine) == 0


def token(end_s: float, note: str = "") -> str:
    """Return a JSON web token that opens nothing, valid until then."""
    parts = ({"alg": "none"}, {"exp": int(end_s), "note": note})
    coded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return ".".join((*coded, "c2lnbmF0dXJl"))


@pytest.mark.parametrize(("in_s", "state"), [(90_000, "ended"), (-60, "refused")])
def test_a_tokens_time_is_checked_before_the_start(machine: Machine, disk: Path, in_s: int, state: str) -> None:
    policy(machine, is_served=False)
    machine.put("etc/token", token(time.time() + in_s), 0o600)
    lay(disk, {**WORK, "site.yaml": runs(machine, more="credential: {kind: token, path: /etc/token, env: TOKEN}")})
    boot(machine, disk)
    with Living(machine):
        assert settled(machine, "refused", "ended")["state"] == state


def test_a_credential_is_read_again_from_its_source_while_the_pilot_runs(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    path = machine.put("etc/token", token(time.time() + 90_000), 0o600)
    more = "credential: {kind: token, path: /etc/token, env: TOKEN, refresh_s: 1}"
    reads = f"before=$(cat $TOKEN); touch {machine.root}/has-read"
    said = f'{reads}; while test "$(cat $TOKEN)" = "$before"; do sleep 0.1; done; exit 0'
    lay(disk, {**WORK, "site.yaml": runs(machine, said, more)})
    boot(machine, disk)
    with Living(machine):
        until((machine.root / "has-read").exists)
        machine.put("etc/newer", token(time.time() + 190_000, "renewed"), 0o600).rename(path)
        assert settled(machine, "ended")["code"] == 200


@pytest.mark.parametrize("key", ["ca_dir", "voms_dir", "vomses"])
@pytest.mark.parametrize("name", ["", "a.pem"])
def test_an_empty_folder_of_certificates_refuses_the_pilot(machine: Machine, disk: Path, key: str, name: str) -> None:
    policy(machine, is_served=False)
    folder = machine.root / "etc/given"
    folder.mkdir(parents=True)
    if name:
        (folder / name).write_text("something\n")
    lay(disk, {**WORK, "site.yaml": runs(machine, more=f"{key}: /etc/given")})
    boot(machine, disk)
    with Living(machine):
        found = settled(machine, "refused", "ended", "running")
        assert (found["state"] == "refused") == (not name)
        assert bool(ran(machine)) == bool(name)


@pytest.mark.parametrize("framework", ["htcondor", "slurm", "gridengine", "alice", "glideinwms"])
def test_a_framework_that_is_not_there_yet_is_refused_by_name(machine: Machine, disk: Path, framework: str) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": f"pilot: {{framework: {framework}, command: /bin/true}}\n"})
    boot(machine, disk)
    with Living(machine):
        found = settled(machine, "refused", "ended", "running")
        assert (found["framework"], found["state"]) == (framework, "refused")


@pytest.mark.parametrize("form", ["path", "url"])
def test_the_pilot_sees_features_in_the_form_that_it_is_told(machine: Machine, disk: Path, form: str) -> None:
    port = policy(machine)
    shows = f"echo $MACHINEFEATURES $JOBFEATURES $JOBOUTPUTS >> {machine.root}/seen"
    begins = f"http://127.0.0.1:{port}" if form == "url" else ""
    lay(disk, {**WORK, "site.yaml": runs(machine, shows, f"features: {form}")})
    boot(machine, disk)
    with Living(machine, port) as living:
        settled(machine, "ended")
        places = machine.text("seen").split()
        assert all(place.startswith(f"{begins}/") for place in places[:2])
        assert not any(place.endswith("/") for place in places)
        if form == "url":
            assert living.ask(places[0].removeprefix(begins) + "/total_cpu").text.isdigit()
        else:
            assert places[0].endswith("/etc/machinefeatures")


def test_the_pilots_files_and_environment_are_there(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    more = "workdir: /srv/place, files: {data.txt: some words}, env: {FLAVOUR: sweet}"
    said = f"(pwd; cat data.txt; echo; echo $FLAVOUR; stat -c %a data.txt .) > {machine.root}/seen"
    lay(disk, {**WORK, "site.yaml": runs(machine, said, more)})
    boot(machine, disk)
    with Living(machine):
        settled(machine, "ended")
    lines = machine.text("seen").splitlines()
    assert lines[0] == str(machine.root / "srv/place")
    assert lines[1:] == ["some words", "sweet", "600", "700"]


def test_a_user_may_bring_the_pilot_only_where_the_policy_says_so(machine: Machine, disk: Path) -> None:
    for word in ("no", "yes"):
        policy(machine, f"pilot: {{from_user: {word}}}\n", is_served=False)
        lay(disk, {**WORK, "user/epilog.sh": "true\n", "user/user.yaml": runs(machine)})
        machine.reboot()
        boot(machine, disk)
        if word == "no":
            assert machine.status()["pilot"] is None
            assert "pilot.from_user" in str(machine.status()["warnings"]) or "pilot." in str(
                machine.status()["warnings"]
            )
            continue
        with Living(machine):
            settled(machine, "ended")
            assert ran(machine) == 1


def test_an_epilog_that_the_users_scripts_leave_is_the_pilot_where_the_policy_lets_users_bring_one(
    machine: Machine, disk: Path
) -> None:
    leaves = f'printf "#!/bin/sh\\necho $0 ran >> {machine.root}/effects\\n" > epilog.sh\n'
    lay(disk, {**WORK, "user/post-network.d/10": leaves})
    policy(machine, is_served=False)
    boot(machine, disk)
    assert machine.status()["pilot"] is None
    assert "pilot.from_user" in str(machine.status()["warnings"]), "one warning names the key"
    policy(machine, "pilot: {from_user: yes}\n", is_served=False)
    planned = machine.run("plan", "post-network", "--disk", str(disk), "--force").out
    assert "epilog.sh, if the user's scripts leave one" in planned
    assert boot(machine, disk, "--force").code == 0
    assert effects(machine) == [], "not before the watch starts it"
    with Living(machine):
        found = settled(machine, "ended")
        assert found["framework"] == "command"
        assert len(effects(machine)) == 1


def test_a_sites_pilot_goes_before_an_epilog_that_the_user_leaves(machine: Machine, disk: Path) -> None:
    policy(machine, "pilot: {from_user: yes}\n", is_served=False)
    leaves = f'printf "#!/bin/sh\\necho left >> {machine.root}/effects\\n" > epilog.sh\n'
    lay(disk, {**WORK, "user/post-network.d/10": leaves, "site.yaml": runs(machine)})
    boot(machine, disk)
    with Living(machine):
        settled(machine, "ended")
    assert effects(machine) == []
    assert ran(machine) == 1


def test_what_the_pilot_prints_is_kept_for_root(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, {**WORK, "site.yaml": runs(machine, "echo from the pilot")})
    boot(machine, disk)
    with Living(machine):
        settled(machine, "ended")
        assert not until(lambda: (machine.root / MESSAGE).exists() and machine.text(MESSAGE)).endswith("\n")
    logs = [path for path in (machine.root / "var/lib/contextagent").rglob("*") if path.is_file()]
    holding = [path for path in logs if b"from the pilot\n" in path.read_bytes()]
    assert holding
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)
    assert output(machine, "site/post-network/epilog.sh") == ""
    assert list(reports(machine)) == ["site/post-network/epilog.sh"]
