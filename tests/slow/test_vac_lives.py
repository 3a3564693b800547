"""Whole lives of a Vac factory's machines, with the agent as it is: boot, pilot, heartbeat, an end and its outputs.

Every machine is a view of this one in namespaces of its own, booted and stopped by the agent's SysV services; its
factory knows only what it serves and what it is told.  The factory's clock is the real one.
"""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.tars import file, tgz
from tests.traces import verified
from tests.vac.factory import Machinetype
from tests.vac.vm import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.vac.vm import NamespaceVM

FAR_S = 40_000
"""A machine's wall-clock limit where its end plays no part."""
BEAT = "vm-heartbeat"
VACUUM = {"preset": "vacuum", "pilot": {"heartbeat": {"seconds": 1}}}
# As Vac's own example has it: the script leaves the epilog that is to run at the end of the set-up, and its own end is
# followed by the words of another reader
USER_DATA = """#!/bin/sh
cat >/var/lib/hepix/context/epilog.sh <<'EP_EOF'
{epilog}
EP_EOF
chmod +x /var/lib/hepix/context/epilog.sh
exit 0
[amiconfig]
plugins=cernvm
"""
# A daemon of its own, as far out of its reach as it can go; then it waits for what the test wants of it
LEAVES = """#!/bin/sh
(setsid setsid sh -c 'trap "" TERM HUP; exec sleep 4711' &)
echo "$(id -u) $MACHINEFEATURES $JOBFEATURES $JOBOUTPUTS $(cat $JOBFEATURES/job_id)" >/tmp/found
while [ ! -e /tmp/go ]; do sleep 0.1; done
"""
NO_WORK = LEAVES + 'exec contextagent finish 300 "no more work"\n'
WORKS = """#!/bin/sh
echo $$ >>pids
trap 'echo told >end; exit 0' TERM
while sleep 0.1; do
    [ ! -e /tmp/go ] || exit 0
done
"""
# Hears that it should end, and does not
DEAF = """#!/bin/sh
trap 'echo told >end' TERM
(setsid sh -c 'trap "" TERM; exec sleep 4711' &)
while :; do sleep 0.1; done
"""
# Looks at its end as pilots do, and leaves when that is less than two hours away
WATCHES = """#!/bin/sh
echo "$(id -un) $HOME $(pwd)"
while sleep 0.1; do
    left=$(($(cat "$MACHINEFEATURES/shutdowntime") - $(date +%s)))
    [ $left -gt 7200 ] || { echo "$left s left" >seen; exit 0; }
done
"""


def vac(epilog: str, **words: Any) -> Machinetype:
    """Return a kind of machine whose user data leaves that pilot, or none."""
    user_data = USER_DATA.format(epilog=epilog.rstrip("\n")) if epilog else ""
    return Machinetype(user_data, **{"max_wallclock_s": FAR_S, **words})


def policy(command: str, **pilot: Any) -> dict[str, Any]:
    """Return an image's policy with a pilot of its own."""
    words = {"framework": "command", "command": ["/bin/sh", "-c", command], "heartbeat": {"seconds": 1}, **pilot}
    return {"preset": "vacuum", "pilot": words}


def is_piloted(vm: NamespaceVM) -> bool:
    """Return whether the VM's pilot runs."""
    return ((vm.status().get("pilot") or {}).get("state")) == "running"


def until_piloted(world: World) -> int:
    """Wait until the pilot runs, and return its process id in the VM."""
    vm = world.vm
    vm.until(lambda: is_piloted(vm), "the pilot runs")
    return int(vm.status()["pilot"]["pid"])


def beats(world: World, number: int) -> None:
    """Wait until so many heartbeats arrived."""
    seen: set[float] = set()
    path = world.machine.folder / "joboutputs" / BEAT

    def have_come() -> bool:
        seen.update([path.stat().st_mtime_ns] if path.exists() else [])
        return len(seen) >= number

    world.vm.until(have_come, f"{number} heartbeats arrive")


def go(world: World) -> None:
    """Tell the pilot what it waits for."""
    world.vm.path("tmp/go").touch()


def said(world: World) -> str | None:
    """Return the shutdown message, its bytes and no more, once the machine has gone.

    Nothing of the agent and its pilot had lived on by then, and the trace, which many processes wrote, is whole.
    """
    world.factory.run_until_ended()
    traces = sorted((world.vm.guest.root / "var/log/contextagent").glob("trace-*.jsonl"))
    assert [boot.verdict for path in traces for boot in verified([path.read_bytes()]).boots] == ["intact"] * len(traces)
    left = {pid: words for pid, words in world.vm.processes().items() if "contextagent" in words or "sleep" in words}
    assert set(left) <= {1}, left
    return world.machine.output("shutdown_message")


def events(world: World) -> list[dict[str, Any]]:
    """Return the records of the machine's trace."""
    return world.vm.guest.trace()


def receipt(world: World) -> dict[str, Any]:
    """Return the receipt that reached the job outputs."""
    return dict(json.loads(world.machine.output("receipt.json") or "{}"))


@pytest.fixture(scope="module", autouse=True)
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A machine whose end is brought forward while it runs; it has the others' time to hear of that."""
    with World(tmp_path_factory.mktemp("lowered"), vac("", heartbeat_file=BEAT)) as world:
        vm = world.boot(policy(WATCHES, outputs=["seen"]))
        vm.until(lambda: vm.text("run/up") is not None, "the boot is over")
        world.factory.shutdown_s = int(time.time()) + 7000
        world.factory.cycle()
        yield world


def test_a_pilot_without_work_ends_its_machine_and_its_factory_waits(tmp_path: Path) -> None:
    kind = vac(NO_WORK, heartbeat_file=BEAT, heartbeat_s=60, fizzle_s=600, backoff_s=600)
    with World(tmp_path, kind) as world:
        vm = world.boot(VACUUM)
        until_piloted(world)
        beats(world, 2)
        base = "http://169.254.169.253/joboutputs"
        found = vm.text("tmp/found")
        assert found == f"0 /etc/machinefeatures /etc/jobfeatures {base} {world.machine.uuid}\n"
        go(world)
        assert said(world) == "300 no more work"
        assert (world.machine.destroyed, vm.text("shut-down")) == (None, "/usr/sbin/shutdown -h now\n")
        assert receipt(world)["boot"] == vm.status()["boot_id"]
        assert world.factory.is_backing_off
        kinds = [record["ev"] for record in events(world)]
        assert kinds.count("finish") == kinds.count("shutdown") == 1
        assert kinds.index("finish") < kinds.index("shutdown")
        assert vm.status()["pilot"]["state"] == "ended"


def test_a_pilot_of_the_policy_that_has_done_its_work_is_told_as_200_and_its_log_is_handed_over(tmp_path: Path) -> None:
    with World(tmp_path, vac("", heartbeat_file=BEAT)) as world:
        world.boot(policy(WORKS + "echo never\n", outputs=["pids"]))
        until_piloted(world)
        beats(world, 2)
        go(world)
        message = said(world) or ""
        assert message.startswith("200 ")
        assert message == message.strip()
        assert (world.machine.output("pids") or "").count("\n") == 1
        assert not world.factory.is_backing_off
        assert receipt(world)["pilot"]


def test_a_machine_that_is_drained_loses_a_pilot_that_looks_at_its_end(tmp_path: Path) -> None:
    with World(tmp_path, vac("", heartbeat_file=BEAT)) as world:
        vm = world.boot(policy(WATCHES, outputs=["seen"]))
        until_piloted(world)
        assert vm.text("etc/machinefeatures/shutdowntime") == str(world.machine.shutdown_s)
        assert vm.agent("drain", "--in", "7000").code == 0
        assert (said(world) or "").startswith("200 ")
        assert vm.status()["lifetime"]["bound_by"] == "drain"
        assert 6900 < int((world.machine.output("seen") or "0").split()[0]) <= 7001


def test_where_the_sites_part_failed_no_pilot_starts_and_the_factory_hears_500(tmp_path: Path) -> None:
    bundle = tgz(file("epilog.sh", b"#!/bin/sh\nexit 7\n")).getvalue()
    with World(tmp_path, vac(NO_WORK), bundle=bundle) as world:
        world.boot(VACUUM)
        assert (said(world) or "").startswith("500 ")
        assert world.vm.status()["result"] == "failed"
        assert world.vm.status()["pilot"]["state"] == "refused"
        assert world.vm.text("tmp/found") is None
        assert world.factory.is_backing_off


@pytest.mark.parametrize("pilot", [WORKS, DEAF])
def test_before_its_end_a_machine_tells_its_pilot_and_goes_by_itself(pilot: str, tmp_path: Path) -> None:
    with World(tmp_path, vac("", max_wallclock_s=17)) as world:
        words = policy(pilot, outputs=["end"], stop={"timeout_s": 3}, min_lifetime_s=0)
        world.boot({**words, "stop_budget_s": 5, "lifetime": {"grace_s": 0}})
        until_piloted(world)
        message = said(world) or ""
        assert world.machine.destroyed is None, "before the factory had to"
        assert message[:4] == "100 ", message
        assert world.machine.output("end") == "told\n"
        assert not world.factory.is_backing_off


def test_a_machine_whose_end_is_over_already_starts_no_pilot_and_goes(tmp_path: Path) -> None:
    with World(tmp_path, vac(NO_WORK)) as world:
        world.machine.lower(int(time.time()) - 10)
        vm = world.boot(VACUUM)
        while vm.is_running:
            time.sleep(0.05)
        assert (said(world) or "").startswith("100 ")
        assert (vm.status()["pilot"]["state"], vm.status()["pilot"]["reason"]) == ("refused", "lifetime")
        assert vm.text("tmp/found") is None


def test_a_user_without_rights_may_leave_a_pilot_where_the_image_lets_it(tmp_path: Path) -> None:
    with World(tmp_path, vac(LEAVES)) as world:
        vm = world.boot({"metadata": {"dialect": "vac"}, "pilot": {"from_user": "yes"}})
        until_piloted(world)
        vm.until(lambda: vm.text("tmp/found"), "the pilot says what it found")
        accounts = {row.split(":")[2]: row.split(":")[0] for row in (vm.text("etc/passwd") or "").splitlines()}
        assert accounts[(vm.text("tmp/found") or "").split()[0]] == "contextuser"
        go(world)
        assert (said(world) or "").startswith("200 ")
        assert vm.status()["result"] == "ok"


def test_a_machine_that_its_factory_ends_says_100_and_takes_its_pilot_along(tmp_path: Path) -> None:
    with World(tmp_path, vac(LEAVES)) as world:
        world.boot(VACUUM)
        until_piloted(world)
        world.factory.shutdown_s = int(time.time()) - 1
        assert (said(world) or "").startswith("100 ")
        assert world.machine.destroyed == "lifetime"
        assert receipt(world)["boot"] == world.vm.status()["boot_id"]
        assert world.vm.status()["pilot"]["state"] == "ended"


def test_a_pilot_that_is_not_there_is_told_as_500(tmp_path: Path) -> None:
    with World(tmp_path, vac("")) as world:
        world.boot({"preset": "vacuum", "pilot": {"framework": "command", "command": "/opt/no-such-pilot"}})
        assert (said(world) or "").startswith("500 ")
        assert world.factory.is_backing_off


def test_where_the_factory_names_a_shutdown_command_that_one_ends_the_machine(tmp_path: Path) -> None:
    kind = vac(NO_WORK, extras={"shutdown_command": "/usr/sbin/site-end"})
    with World(tmp_path, kind) as world:
        world.vm.guest.put("usr/sbin/site-end", "#!/bin/sh\nexec /usr/sbin/shutdown -h +0 by the site\n", 0o755)
        world.boot(VACUUM)
        until_piloted(world)
        go(world)
        assert said(world) == "300 no more work"
        assert world.vm.text("shut-down") == "/usr/sbin/shutdown -h +0 by the site\n"


def test_of_a_pilot_that_ended_nothing_is_left_on_a_machine_that_stays(tmp_path: Path) -> None:
    with World(tmp_path, vac("", heartbeat_file=BEAT)) as world:
        vm = world.boot(policy(LEAVES, on_exit="idle"))
        until_piloted(world)
        vm.until(lambda: "sleep 4711" in vm.processes().values(), "its daemon runs")
        go(world)
        vm.until(lambda: vm.status()["pilot"]["state"] == "ended", "the pilot has ended")
        vm.until(lambda: "sleep 4711" not in vm.processes().values(), "its daemon has gone")
        beats(world, 2)
        assert (vm.status()["pilot"]["code"], world.machine.output("shutdown_message")) == (200, None)
        world.factory.shutdown_s = int(time.time()) - 1
        assert (said(world) or "").startswith("100 ")


def watch_of(vm: NamespaceVM) -> int:
    """Return the process id of the VM's watch; 0 while there is none.  A child of its has the same words."""
    return int(vm.text("run/contextagent/watch.pid") or 0)


def test_a_watch_that_hangs_costs_a_machine_its_heartbeat_and_its_stop_phase_runs_all_the_same(tmp_path: Path) -> None:
    kind = vac("", heartbeat_file=BEAT, heartbeat_s=6, fizzle_s=1)
    with World(tmp_path, kind) as world:
        world.boot(policy(WORKS))
        until_piloted(world)
        beats(world, 2)
        world.vm.signal(watch_of(world.vm), signal.SIGSTOP)
        assert (said(world) or "").startswith("100 ")
        assert world.machine.destroyed == "heartbeat"
        assert world.vm.status()["phases"]["stop"]["state"] == "ok"


def test_a_watch_that_is_killed_comes_back_and_its_pilot_never_notices(tmp_path: Path) -> None:
    with World(tmp_path, vac("", heartbeat_file=BEAT)) as world:
        vm = world.boot(policy(WORKS, outputs=["pids"]))
        pid = until_piloted(world)
        first = watch_of(vm)
        vm.signal(first)
        vm.until(lambda: watch_of(vm) not in {0, first}, "another watch runs")
        beats(world, 2)
        assert vm.status()["pilot"]["pid"] == pid
        go(world)
        assert (said(world) or "").startswith("200 ")
        assert (world.machine.output("pids") or "").count("\n") == 1, "it was started once"


def test_a_machine_whose_agent_is_switched_off_has_no_heartbeat_and_is_ended_for_it(tmp_path: Path) -> None:
    with World(tmp_path, vac(NO_WORK, heartbeat_file=BEAT, fizzle_s=1)) as world:
        world.vm.guest.put("etc/contextagent/disabled", "")
        world.boot(VACUUM)
        assert said(world) == "700 Heartbeat file not created"
        assert world.services.asked == []


def test_an_end_that_is_brought_forward_reaches_a_running_pilot_within_a_minute(lowered: World) -> None:
    assert (said(lowered) or "").startswith("200 ")
    assert lowered.machine.destroyed is None
    assert lowered.vm.text("etc/machinefeatures/shutdowntime") == str(lowered.factory.shutdown_s)
    left_s = int((lowered.machine.output("seen") or "0").split()[0])
    assert 7000 - 90 <= left_s <= 7000
