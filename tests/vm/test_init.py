"""What a boot's scripts may do to the agent and to systemd, and what becomes of the boot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.vm.contexts import burn
from tests.vm.guest import Boot, Guest, Setup
from tests.vm.left import REPORT, records, started, status
from tests.vm.systemd import ASKED, SYSTEMD

if TYPE_CHECKING:
    from pathlib import Path

TEST = REPORT + ASKED
KILLER = """#!/bin/sh
echo "${0##*/}" >> /root/killers
for process in /proc/[0-9]*; do
    [ "$(readlink $process/exe)" != /usr/libexec/contextagent/contextagent ] || kill -9 ${process#/proc/}
done
sleep 600
"""
TELLER = '#!/bin/sh\necho "$CONTEXTAGENT_PHASE" >> /root/tellers\n'
LATE = "[Unit]\nDescription=A daemon of the site\nAfter=network-online.target\n[Service]\nExecStart=/bin/sleep 10000\n"
LIMITS = "scripts:\n  site/pre-network/pre-network.d/10-blocks:\n    wall_s: 5\n    on_error: continue\n"


def put(folder: Path, scripts: dict[str, str]) -> Path:
    """Return an ISO with these files."""
    for name, text in scripts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return burn(folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """A boot in which a site's script kills every process of the agent, in each phase."""
    folders = ("pre-network.d", "post-network.d")
    scripts = {f"{folder}/10-kill": KILLER for folder in folders} | {f"{folder}/20-tell": TELLER for folder in folders}
    iso = put(tmp_path_factory.mktemp("killing"), scripts)
    return Guest(tmp_path_factory.mktemp("killed"), SYSTEMD).boot(
        TEST + "cp /root/killers /root/tellers .\n", Setup(cd=iso)
    )


def test_a_killed_agent_is_started_once_more_and_goes_on_behind_the_script_that_it_was_killed_in(killed: Boot) -> None:
    assert killed.read("killers").splitlines() == ["10-kill", "10-kill"]
    assert killed.read("tellers").splitlines() == ["pre-network", "post-network"]
    assert started(killed) == [
        "site/pre-network/pre-network.d/10-kill",
        "site/pre-network/pre-network.d/20-tell",
        "site/post-network/post-network.d/10-kill",
        "site/post-network/post-network.d/20-tell",
    ]


def test_what_was_interrupted_is_told(killed: Boot) -> None:
    states = {each["id"].split("/", 2)[2]: each["state"] for each in status(killed)["scripts"]}
    assert states == {
        "pre-network.d/10-kill": "interrupted",
        "pre-network.d/20-tell": "ok",
        "post-network.d/10-kill": "interrupted",
        "post-network.d/20-tell": "ok",
    }
    ends = {record["id"]: record.get("reason") for record in records(killed) if record["ev"] == "end"}
    assert ends["site/pre-network/pre-network.d/10-kill"] == "agent-restart"


def test_no_unit_fails_when_an_agent_is_killed_and_nothing_of_it_is_left(killed: Boot) -> None:
    assert (killed.read("failed"), killed.read("rpm-V")) == ("", "0\n")
    assert "broken" not in killed.read("verify")
    assert "sleep 600" not in killed.read("processes")


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """A boot whose scripts start units: after the network, as a site does, and before, where that cannot end well."""
    iso = put(
        tmp_path_factory.mktemp("calling"),
        {
            "pre-network.d/10-blocks": "#!/bin/sh\nsystemctl start site-early.service\n",
            "pre-network.d/20-after": TELLER,
            "post-network.d/10-starts": "#!/bin/sh\nsystemctl start site-late.service\nsleep 20000 &\n",
            "user/post-network.d/10-starts": "#!/bin/sh\nsetsid sleep 30000 &\n",
            "site.yaml": LIMITS,
        },
    )
    guest = Guest(tmp_path_factory.mktemp("called"), SYSTEMD)
    units = ("/etc/systemd/system/site-early.service", "/etc/systemd/system/site-late.service")
    guest.put(dict.fromkeys(units, LATE))
    test = "systemctl is-active site-early site-late > daemons\ncp /root/tellers .\n"
    return guest.boot(TEST + test + "systemctl list-jobs --no-legend > jobs\n", Setup(cd=iso))


def test_a_site_script_starts_a_unit_after_the_network_and_its_daemon_lives_on(calling: Boot) -> None:
    states = {each["id"]: each["state"] for each in status(calling)["scripts"]}
    assert states["site/post-network/post-network.d/10-starts"] == "ok"
    assert calling.read("daemons").splitlines()[1] == "active"
    assert "sleep 20000" in calling.read("processes"), "a daemon of the site's script itself"


def test_a_users_daemon_does_not(calling: Boot) -> None:
    assert "sleep 30000" not in calling.read("processes")


def test_a_call_that_cannot_return_before_the_network_ends_with_its_time_and_the_boot_goes_on(calling: Boot) -> None:
    states = {each["id"]: each["state"] for each in status(calling)["scripts"]}
    assert states["site/pre-network/pre-network.d/10-blocks"] == "timeout"
    assert calling.read("tellers") == "pre-network\n", "the next script ran"
    assert calling.read("daemons").splitlines()[0] == "active", "the job stays, and is done when its turn comes"
    assert (calling.read("jobs"), calling.read("cycles")) == ("", "")


def test_a_machine_that_is_shut_down_in_the_middle_of_its_boot_has_its_stop_scripts(tmp_path: Path) -> None:
    # the report waits for the phase, so the script says for it that the boot came as far as it should
    scripts = {
        "post-network.d/10-off": "#!/bin/sh\necho LAB-RC 0 > /dev/ttyS0\nsystemctl poweroff --no-block\nsleep 600\n",
        "post-network.d/20-tell": TELLER,
        "stop.d/10-tell": TELLER,
    }
    guest = Guest(tmp_path / "guest", SYSTEMD)
    boot = guest.boot("", Setup(cd=put(tmp_path / "disk", scripts)))
    assert "LAB-UP" not in boot.console
    # systemd runs a oneshot's next command even while it stops it; what is left of the phase does not run by that
    assert guest.get("/root/tellers") == "stop\n", boot.console
    traces = [name for name in guest.names("/var/log/contextagent") if name.startswith("trace-")]
    events = [json.loads(line)["ev"] for line in guest.get(f"/var/log/contextagent/{traces[0]}").splitlines()]
    assert (len(traces), events.count("shutdown")) == (1, 1)
