"""A guest as a Vac factory's machine: booted, piloted and ended by the package in it, and by nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.tars import file, tgz
from tests.vm.guest import Guest
from tests.vm.systemd import SYSTEMD
from tests.vm.sysv import SYSV
from tests.vm.vac import live

if TYPE_CHECKING:
    from tests.vm.image import Kind
    from tests.vm.vac import Life

LOGS = "/var/log/contextagent"
PILOT = """#!/bin/sh
(setsid setsid sh -c 'trap "" TERM HUP; exec sleep 4711' &)
echo "$MACHINEFEATURES $(cat $JOBFEATURES/job_id)" >$HOME/found
sleep 5
exec contextagent finish 300 "no more work"
"""
# Where the pilot is to be stopped before the site's stop scripts run, they see what is left of it
STOP = b"""#!/bin/sh
for each in /proc/[0-9]*; do echo $(tr '\\0' ' ' <$each/cmdline); done >/root/left 2>/dev/null
"""


def whole_life(kind: Kind, factory: pytest.TempPathFactory, *, is_users: bool) -> tuple[Guest, Life]:
    """Return a guest and its life, with a pilot that the user data leaves, or one of the image's."""
    guest = Guest(factory.mktemp("vac-guest"), kind)
    bundle = tgz(file("stop.d/10-left", STOP)).getvalue()
    own = {"framework": "command", "command": ["/bin/sh", "-c", PILOT]}
    policy = {"preset": "vacuum", "pilot": {"heartbeat": {"seconds": 1}, **({} if is_users else own)}}
    return guest, live(guest, factory.mktemp("factory"), PILOT if is_users else "", policy, bundle=bundle)


def records(guest: Guest) -> list[dict[str, Any]]:
    """Return the trace of the guest's only boot."""
    traces = [name for name in guest.names(LOGS) if name.startswith("trace-")]
    assert len(traces) == 1
    return [json.loads(line) for line in guest.get(f"{LOGS}/{traces[0]}").splitlines()]


def check(guest: Guest, life: Life, home: str) -> None:
    """Check a life that the machine's pilot ended for want of work."""
    console = life.boot.console
    assert life.machine.output("shutdown_message") == "300 no more work", console
    assert life.machine.destroyed is None
    assert life.factory.is_backing_off
    assert life.machine.output("vm-heartbeat") is not None
    trace = records(guest)
    receipt = json.loads(life.machine.output("receipt.json") or "{}")
    assert receipt["boot"] == trace[0]["boot"]
    kinds = [record["ev"] for record in trace]
    assert (kinds.count("finish"), kinds.count("shutdown")) == (1, 1)
    assert kinds.index("finish") < kinds.index("shutdown")
    assert guest.get(f"{home}/found") == f"/etc/machinefeatures {life.machine.uuid}\n"
    left = guest.get("/root/left")
    assert "run stop" in left
    assert "sleep 4711" not in left
    assert "LAB-RC" in console


# Looks at its end as pilots do, and leaves when that is less than two hours away
WATCHES = """
while sleep 1; do
    left=$(($(cat "$MACHINEFEATURES/shutdowntime") - $(date +%s)))
    [ $left -gt 7200 ] || { echo "$left" >left; exit 0; }
done
"""


@pytest.mark.smoke
def test_a_machine_under_systemd_lives_until_its_pilot_has_no_more_work_and_powers_itself_off(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    check(*whole_life(SYSTEMD, tmp_path_factory, is_users=True), "/root")


def test_a_machine_under_sysvs_init_does_so_at_the_word_of_a_pilot_without_rights(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    guest, life = whole_life(SYSV, tmp_path_factory, is_users=False)
    check(guest, life, "/var/lib/contextuser")
    assert "LAB-RUNLEVEL 0" in life.boot.console
    assert "LAB-HALT" in life.boot.console
    assert guest.names("/var/lock/subsys") == []


def test_an_end_that_is_brought_forward_reaches_the_pilot_of_a_guest_and_both_leave(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    guest = Guest(tmp_path_factory.mktemp("vac-guest"), SYSTEMD)
    words = {"framework": "command", "command": ["/bin/sh", "-c", WATCHES], "outputs": ["left"]}
    policy = {"preset": "vacuum", "pilot": {**words, "heartbeat": {"seconds": 1}}}
    life = live(guest, tmp_path_factory.mktemp("factory"), "", policy, left_s=7000)
    message, left = life.machine.output("shutdown_message") or "", life.machine.output("left") or "0"
    assert message.startswith("200 "), life.boot.console
    assert (life.machine.destroyed, life.factory.is_backing_off) == (None, False)
    assert 6800 < int(left) <= 7000
    lifetimes = [record["shutdown_epoch_s"] for record in records(guest) if record["ev"] == "lifetime"]
    assert lifetimes[-1] == life.factory.shutdown_s
