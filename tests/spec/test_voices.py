"""Settings: who may say what, and what is said to the one who may not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.spec.scenes import boot, effects, lay, messages, reports, says

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

SITE, USER = "site/post-network/epilog.sh", "user/post-network/epilog.sh"


def policy(machine: Machine, text: str) -> None:
    machine.put("etc/contextagent/policy.yaml", text)


@pytest.mark.parametrize(
    ("owner", "text", "key", "may"),
    [
        ("user", "disk:\n  eject: yes\n", "disk.eject", "the image's policy"),
        ("site", "\nphase_budget_s: 10\n", "phase_budget_s", "the image's policy"),
        ("user", f"scripts:\n  {SITE}: {{wall_s: 1}}\n", "wall_s", "user"),
        ("user", "access:\n  root_keys: [x]\n", "access.root_keys", "the site"),
        ("user", "user:\n  profile: root\n", "user.profile", "the image's policy"),
        ("user", f"scripts:\n  {USER}: {{wall_s: 6000}}\n", "wall_s", "600"),
        ("site", "caps:\n  members: 99999\n", "caps.members", "1024"),
    ],
)
def test_a_key_that_this_voice_may_not_set_is_ignored_naming_key_file_line_and_who_may(  # a row is a case
    machine: Machine, disk: Path, *, owner: str, text: str, key: str, may: str
) -> None:
    lay(disk, {f"{owner}/{owner}.yaml": text, **says(machine, "site/epilog.sh", "user/epilog.sh")})
    assert boot(machine, disk).code == 0
    line = text.count("\n", 0, text.index(key.rpartition(".")[2])) + 1
    said = [each for each in messages(machine).splitlines() if key in each]
    assert len(said) == 1, messages(machine)
    assert f"{owner}.yaml:{line}" in said[0]
    assert may in said[0]
    assert said[0].endswith("ignoring it") or "ignoring" in said[0]
    assert len(effects(machine)) == 2


def test_an_unknown_key_is_a_warning_in_material_and_an_error_with_a_guess_in_the_policy(
    machine: Machine, disk: Path
) -> None:
    lay(disk, {"site.yaml": "lokdown: yes\n", **says(machine, "epilog.sh")})
    assert boot(machine, disk).code == 0
    assert "lokdown" in messages(machine)
    machine.reboot()
    policy(machine, "disk:\n  ejct: yes\nlokdown: yes\n")
    done = boot(machine, disk)
    assert (done.code, len(effects(machine))) == (65, 1)
    assert re.search(r"policy\.yaml:2:.*ejct.*did you mean.*eject", done.err)
    assert re.search(r"policy\.yaml:3:.*lokdown.*did you mean.*lockdown", done.err), "all problems at once"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("phase_budget_s: 1e3\n", "phase_budget_s"),
        ("phase_budget_s: 012\n", "phase_budget_s"),
        ("phase_budget_s: 1:30\n", "phase_budget_s"),
        ("disk: {eject: maybe}\n", "yes"),
        ("disk: {reader: floppy}\n", "mount"),
        ("disk: &a {eject: yes}\nuser: *a\n", "anchor"),
        ("phase_budget_s: 1\nphase_budget_s: 2\n", "twice|duplicate|second"),
        ("a: " + "[" * 30 + "]" * 30, "deep|depth|level"),
        ("# " + "x" * 70000 + "\n", "64 KiB|65536|large|long"),
        ("disk.eject: yes\n", "disk.eject"),
    ],
)
def test_the_policy_is_read_strictly_and_nothing_runs_by_a_wrong_one(
    machine: Machine, disk: Path, *, text: str, words: str
) -> None:
    policy(machine, text)
    lay(disk, says(machine, "epilog.sh"))
    done = boot(machine, disk)
    assert (done.code, effects(machine)) == (65, [])
    assert re.search(words, done.err), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("word", ["yes", "no", "true", "false", "012", "0x10"])
def test_a_plain_word_is_taken_by_its_keys_type(machine: Machine, word: str) -> None:
    policy(machine, f"user: {{account: u}}\ndisk: {{eject: {word}}}\n")
    found = machine.run("query", "policy.disk.eject", "--format", "json")
    assert (found.code == 0) is (word in ("yes", "no", "true", "false")), found.err


def test_policy_d_is_read_after_the_policy_in_order(machine: Machine) -> None:
    policy(machine, "phase_budget_s: 1\nstop_budget_s: 5\n")
    machine.put("etc/contextagent/policy.d/20-b.yaml", "phase_budget_s: 3\n")
    machine.put("etc/contextagent/policy.d/10-a.yaml", "phase_budget_s: 2\n")
    found = machine.facts("query", "policy")
    assert (found["phase_budget_s"]["value"], found["stop_budget_s"]["value"]) == (3, 5)
    assert found["phase_budget_s"]["path"].endswith("20-b.yaml")


def test_yaml_and_json_settings_say_the_same(machine: Machine, disk: Path) -> None:
    lay(disk, {"site.json": f'{{"scripts": {{"{SITE}": {{"wall_s": 7}}}}}}', **says(machine, "epilog.sh")})
    steps = machine.facts("plan", "--disk", str(disk))["steps"]
    assert steps[0]["limits"]["wall_s"] == 7


def test_a_settings_file_that_is_invalid_is_an_error_and_the_scripts_run(machine: Machine, disk: Path) -> None:
    lay(disk, {"site.yaml": "a: [\n", "user/user.yaml": "b: ]\n", **says(machine, "epilog.sh", "user/epilog.sh")})
    assert boot(machine, disk).code == 1
    assert len(effects(machine)) == 2
    assert "site.yaml" in messages(machine, "errors")
    assert "user.yaml" in messages(machine, "errors")


def test_the_images_words_are_ceilings_for_the_sites_scripts_and_the_sites_for_nobody_else(
    machine: Machine, disk: Path
) -> None:
    policy(machine, f"scripts:\n  {SITE}: {{wall_s: 100, cpu_s: 9}}\n")
    lay(disk, {"site.yaml": f"scripts:\n  {SITE}: {{wall_s: 200, cpu_s: 8}}\n", **says(machine, "epilog.sh")})
    limits = machine.facts("plan", "--disk", str(disk))["steps"][0]["limits"]
    assert (limits["wall_s"], limits["cpu_s"]) == (100, 8)


def test_where_nobody_speaks_a_site_may_take_longer_than_the_default_and_a_user_may_not(
    machine: Machine, disk: Path
) -> None:
    for owner, script_id in (("site", SITE), ("user", USER)):
        text = f"scripts:\n  {script_id}: {{wall_s: 3600}}\n"
        lay(disk, {f"{owner}/{owner}.yaml": text, **says(machine, f"{owner}/epilog.sh")})
    steps = {step["id"]: step for step in machine.facts("plan", "--disk", str(disk))["steps"]}
    assert steps[SITE]["limits"]["wall_s"] == 3600
    assert steps[USER]["limits"]["wall_s"] == 600


def test_the_default_limits_are_those_of_the_table(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "epilog.sh"))
    assert machine.facts("plan", "--disk", str(disk))["steps"][0]["limits"] == {
        "wall_s": 600, "cpu_s": None, "memory_bytes": None, "processes": 4096, "files": 1024,
        "output_bytes": 16 << 30,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("standard", {"user.profile": "unprivileged", "lockdown": False, "pilot.from_user": False}),
        ("strict", {"trust.disk": "enforce", "lockdown": True, "environment.on_change": "no-pilot"}),
        ("vacuum", {"user.profile": "root", "user.ceiling": "root", "pilot.from_user": True}),
        ("hepix2012", {"disk.site_devices": ["rom", "xvdb", "vdb", "hdb", "sdb"], "user.profile": "root"}),
    ],
)
def test_a_preset_sets_what_the_table_says(machine: Machine, preset: str, expected: dict[str, object]) -> None:
    policy(machine, f"preset: {preset}\n")
    found = machine.facts("query", "policy")
    assert {key: found[key]["value"] for key in expected} == expected


def test_rights_of_the_users_scripts_follow_the_preset(machine: Machine, disk: Path) -> None:
    lay(disk, says(machine, "user/epilog.sh"))
    policy(machine, "preset: vacuum\n")
    assert boot(machine, disk).code == 0
    assert reports(machine)[USER]["profile"] == "caller"


def test_a_policy_given_on_the_command_line_stands_for_the_images(machine: Machine, disk: Path, tmp_path: Path) -> None:
    policy(machine, "broken: [\n")
    (tmp_path / "policy.yaml").write_text("disk: {flat_owner: user}\n")
    lay(disk, says(machine, "epilog.sh"))
    boot(machine, disk, "--policy", str(tmp_path / "policy.yaml"))
    assert list(reports(machine)) == [USER]


def test_a_site_by_disk_may_raise_what_only_a_disk_may(machine: Machine, disk: Path) -> None:
    policy(machine, "user: {ceiling: root}\n")
    lay(disk, {"site.yaml": "user: {profile: root}\ntrust: {disk: prefer}\n", **says(machine, "epilog.sh")})
    boot(machine, disk)
    found = machine.facts("query", "policy")
    assert (found["user.profile"]["value"], found["user.profile"]["voice"]) == ("root", "site-disk")
