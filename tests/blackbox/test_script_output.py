"""What scripts print is in the machine's syslog, scrubbed; and a syslog that is absent or stuck holds up no boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT

if TYPE_CHECKING:
    from tests.machine import Guest

LISTENER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("/dev/log")
open("/ready", "w")
while "reads" in sys.argv:
    data = listener.recv(9000)
    with open("/syslog", "ab") as file:
        file.write(data + b"\\n")
sys.stdin.read()
"""
BOOT = """
{listener}
{agent} run
echo "code $?"
{after}
"""
SECRET = "v3ry-s3cr3t-v4lue"
FILLER = " and so on, as long as a line of a log is"
"""So few lines are left of the output's end that the listener below is never too slow for them."""


def boot(guest: Guest, mode: str) -> str:
    """Boot the guest with a syslog that reads, is stuck, or is absent; return what it said."""
    guest.put("listener.py", LISTENER)
    start = f"sleep 1000 | {AGENT[0]} /listener.py {mode} & while ! [ -e /ready ]; do sleep 0.01; done"
    agent = " ".join((*AGENT, "--disk", "/disk", "--metadata", "none"))
    until_read = "logger --tag sentinel end; until grep -qs sentinel /syslog; do sleep 0.01; done"
    after = until_read if mode == "reads" else ""
    script = BOOT.format(listener="" if mode == "absent" else start, agent=agent, after=after)
    return guest.shell("sh", "-c", script).out


def fill(guest: Guest) -> None:
    guest.put("disk/context.sh", f"DB_PASSWORD={SECRET}\n")
    guest.put("disk/prolog.sh", "#!/bin/sh\nprintf 'early \\033[31mred\\033[0m\\n'; exit 3\n")
    ends = "echo $DB_PASSWORD\necho the last line\n"
    guest.put("disk/epilog.sh", f"#!/bin/sh\nseq -f '%06g{FILLER}' 100000 199999\n{ends}")
    guest.put("disk/user/epilog.sh", "#!/bin/sh\necho of the user\n")


def lines(guest: Guest) -> list[str]:
    return [line.partition(": ")[2] for line in guest.text("syslog").splitlines() if "sentinel" not in line]


def test_the_end_of_each_site_scripts_output_is_in_syslog_without_secrets(guest: Guest) -> None:
    fill(guest)
    assert "code 1" in boot(guest, "reads")
    said = lines(guest)
    assert said[0] == r"site/pre-network/prolog.sh: early \x1b[31mred\x1b[0m"
    assert said[-2:] == ["site/post-network/epilog.sh: [masked]", "site/post-network/epilog.sh: the last line"]
    assert f"site/post-network/epilog.sh: 199999{FILLER}" in said
    assert f"site/post-network/epilog.sh: 100000{FILLER}" not in said
    assert not any("of the user" in line for line in said)
    assert guest.text("syslog").count(" contextagent-script[") == len(said)
    assert sum(len(line.partition(": ")[2]) + 1 for line in said) <= 4096 + len(said[0])


@pytest.mark.parametrize(("word", "is_users_there"), [("all", True), ("none", False)])
def test_the_site_says_whose_output_it_wants(guest: Guest, word: str, *, is_users_there: bool) -> None:
    fill(guest)
    guest.put("disk/site.yaml", f"logging: {{script_output: {word}}}\n")
    boot(guest, "reads")
    said = lines(guest)
    assert ("user/post-network/epilog.sh: of the user" in said) is is_users_there
    assert bool(said) is (word == "all")


@pytest.mark.parametrize("mode", ["absent", "stuck"])
def test_a_syslog_that_is_absent_or_stuck_changes_nothing_for_the_boot(guest: Guest, mode: str) -> None:
    fill(guest)
    assert "code 1" in boot(guest, mode)
    states = {script["id"]: script["state"] for script in guest.status()["scripts"]}
    assert states == {
        "site/pre-network/prolog.sh": "failed",
        "user/post-network/epilog.sh": "ok",
        "site/post-network/epilog.sh": "ok",
    }
