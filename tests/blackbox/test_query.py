"""`query` tells one fact, who set it where, and by its exit code whether it is known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

POLICY = "etc/contextagent/policy.yaml"


def boot(machine: Machine, disk: Path) -> None:
    (disk / "epilog.sh").write_text("#!/bin/sh\nexit 0\n")
    (disk / "site.yaml").write_text("caps:\n  members: 10\n")
    (disk / "context.sh").write_text("SITE_NAME='x y'\n")
    done = machine.run("run", "--disk", str(disk))
    assert done.code == 0, done.err


def test_every_setting_is_told_with_the_voice_file_and_line_that_set_it(machine: Machine, disk: Path) -> None:
    machine.put(POLICY, "disk:\n  eject: yes\n")
    boot(machine, disk)
    facts = machine.facts("query", "policy")
    assert facts["disk.eject"] == {
        "value": True,
        "voice": "image",
        "path": "/etc/contextagent/policy.yaml",
        "line": 2,
        "supported": True,
    }
    assert (facts["caps.members"]["value"], facts["caps.members"]["voice"]) == (10, "site-disk")
    assert (facts["caps.members"]["path"], facts["caps.members"]["line"]) == ("site.yaml", 2)
    assert facts["sources"] == {
        "value": ["disk", "metadata"],
        "voice": "default",
        "path": "",
        "line": 0,
        "supported": True,
    }
    lines = [line.split() for line in machine.run("query", "policy").out.splitlines()]
    assert ["disk.eject", "image", "/etc/contextagent/policy.yaml:2", "yes"] in lines
    assert ["caps.members", "site-disk", "site.yaml:2", "10"] in lines


def test_a_section_and_a_single_key_can_be_asked_for(machine: Machine) -> None:
    assert set(machine.facts("query", "policy.caps")) == {
        "caps.members",
        "caps.member_bytes",
        "caps.total_bytes",
        "caps.ratio",
    }
    assert machine.facts("query", "policy.disk.eject")["value"] is False
    assert machine.run("query", "policy.disk.eject").out.splitlines()[1].split() == ["disk.eject", "default", "no"]


def test_the_settings_of_a_script_can_be_asked_for_though_nobody_set_one(machine: Machine) -> None:
    facts = machine.facts("query", "policy.scripts.site/post-network/epilog.sh")
    assert facts["scripts.site/post-network/epilog.sh.wall_s"]["value"] == 600
    assert machine.facts("query", "policy.scripts.site/post-network/epilog.sh.files")["value"] == 1024
    assert machine.run("query", "policy.scripts.epilog.sh").code == 3


def test_a_key_without_an_effect_yet_is_told_so_by_one_warning(machine: Machine) -> None:
    machine.put(POLICY, "lockdown: yes\n")
    done = machine.run("query", "policy")
    warning = "contextagent: /etc/contextagent/policy.yaml:1: 'lockdown' is not yet supported, ignoring it\n"
    assert done.err == warning
    assert "image /etc/contextagent/policy.yaml:1 (no effect yet)" in done.out
    assert machine.facts("query", "policy.lockdown")["supported"] is False


def test_asking_changes_nothing_on_the_machine(machine: Machine) -> None:
    machine.put(POLICY, "disk:\n  eject: yes\n")
    before = sorted(machine.root.rglob("*"))
    machine.run("query", "policy")
    assert sorted(machine.root.rglob("*")) == before


def test_what_a_boot_found_can_be_asked_for_by_dotted_keys(machine: Machine, disk: Path) -> None:
    boot(machine, disk)
    status = machine.status()
    assert machine.run("query", "context.instance_id").out == status["instance_id"] + "\n"
    assert machine.run("query", "status.result").out == "ok\n"
    assert machine.facts("query", "status.scripts.0.id") == "site/post-network/epilog.sh"
    assert machine.facts("query", "context.sources.site") == status["sources"]["site"]
    assert machine.run("query", "context.site.variables.SITE_NAME").out == "x y\n"
    assert machine.facts("query", "context.site.scripts")[0] == "site/post-network/epilog.sh"
    assert machine.facts("query", "status") == status
    assert json.loads(machine.run("query", "status.phases").out) == status["phases"]


def test_what_is_not_known_ends_with_exit_code_3_and_nothing_on_stdout(machine: Machine, disk: Path) -> None:
    for key in ("context.instance_id", "status", "policy.disk.ejct", "nonsense", "policy.features.machine.hs06"):
        done = machine.run("query", key)
        assert (done.code, done.out) == (3, ""), key
        assert done.err.startswith(f"contextagent: cannot tell '{key}': "), key
    boot(machine, disk)
    for key in ("context.nonsense", "context.sources.user", "status.scripts.9", "status.scripts.x", "status.result.x"):
        assert machine.run("query", key).code == 3, key


def test_what_an_earlier_boot_found_is_not_told_as_this_ones(machine: Machine, disk: Path) -> None:
    boot(machine, disk)
    status = machine.text("run/contextagent/status.json")
    machine.reboot()
    machine.put("run/contextagent/status.json", status)
    assert machine.run("query", "context.instance_id").code == 3


def test_an_invalid_policy_is_told_with_all_its_problems(machine: Machine, tmp_path: Path) -> None:
    machine.put(POLICY, "disk.eject: yes\ncaps:\n  members: many\n")
    done = machine.run("query", "policy")
    assert (done.code, done.out) == (65, "")
    assert "/etc/contextagent/policy.yaml:1: unknown key 'disk.eject': a dot is nesting" in done.err
    assert "/etc/contextagent/policy.yaml:3: cannot set 'caps.members': 'many' is not a whole number" in done.err
    assert machine.run("run", "--disk", "none").code == 65
    assert machine.run("--policy", str(tmp_path / "missing"), "query", "policy").code == 64


def test_a_callers_policy_stands_for_the_images(machine: Machine, tmp_path: Path) -> None:
    machine.put(POLICY, "nonsense: 1\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("preset: hepix2012\n")
    fact = machine.facts("--policy", str(mine), "query", "policy.user.profile")
    assert (fact["value"], fact["voice"], fact["path"], fact["line"]) == ("root", "preset", str(mine), 1)


def test_a_settings_file_that_is_invalid_is_told_and_left_out(machine: Machine, disk: Path) -> None:
    (disk / "epilog.sh").write_text("#!/bin/sh\nexit 0\n")
    (disk / "site.yaml").write_text("caps: {members: many, ratio: 5}\n")
    machine.run("run", "--disk", str(disk))
    done = machine.run("query", "policy")
    assert "site.yaml:1: cannot set 'caps.members': 'many' is not a whole number" in done.err
    assert machine.facts("query", "policy.caps.ratio")["value"] == 200


def test_the_help_has_an_example(machine: Machine) -> None:
    done = machine.run("query", "--help")
    assert done.code == 0
    assert "contextagent query context.instance_id" in done.out
