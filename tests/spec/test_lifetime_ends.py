"""The remaining lifetime: which end comes first, who says it, what `remaining`, `drain` and the watch make of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, run
from tests.spec.living import Living, features, policy, until
from tests.spec.scenes import boot, lay, messages

if TYPE_CHECKING:
    from tests.machine import Machine

WORK = {"epilog.sh": "true\n"}
HOUR = 3600


def now() -> int:
    return int(time.time())


def remaining(machine: Machine) -> dict[str, object]:
    """Return what `remaining` says, after holding its three forms against each other."""
    done = machine.run("remaining", "--format", "json")
    assert (done.code, done.err) == (0, "")
    found: dict[str, object] = json.loads(done.out)
    assert set(found) == {"remaining_s", "shutdown_epoch_s", "bound_by"}
    assert all(isinstance(found[key], int) for key in ("remaining_s", "shutdown_epoch_s"))
    text = machine.run("remaining").out
    assert text.strip().isdigit()
    assert text == f"{int(text)}\n"
    assert 0 <= int(str(found["remaining_s"])) - int(text) <= 5
    lifetime = machine.status()["lifetime"]
    assert set(lifetime) == {"shutdown_epoch_s", "bound_by"}
    assert lifetime["bound_by"] == found["bound_by"]
    assert abs(lifetime["shutdown_epoch_s"] - int(str(found["shutdown_epoch_s"]))) <= 2
    return found


def left(machine: Machine) -> int:
    return int(str(remaining(machine)["remaining_s"]))


ENDS: dict[str, tuple[str, str]] = {
    "shutdowntime": ("features/machine/shutdowntime", "{at}"),
    "shutdowntime_job": ("features/job/shutdowntime_job", "{at}"),
    "wall_limit": ("features/job/wall_limit_secs", "{since_start}"),
    "ttl": ("context.sh", "TTL={hours}\n"),
    "policy": ("etc/contextagent/policy.yaml", "lifetime: {{max_s: {seconds}}}\n"),
}
"""Each end that a context or a policy can say: where, and how."""


def say(machine: Machine, disk: Path, end: str, in_s: int) -> None:
    """Have a context, or the policy, say an end about so many seconds from now."""
    where, text = ENDS[end]
    up_s = int(float(open_text("/proc/uptime").split()[0]))
    said = text.format(at=now() + in_s, seconds=in_s, since_start=up_s + in_s, hours=f"{(up_s + in_s) / HOUR:.4f}")
    if where.startswith("etc/"):
        machine.put(where, said)
    else:
        lay(disk, {where: said})


def open_text(path: str) -> str:
    return Path(path).read_text()


@pytest.mark.parametrize("end", ENDS)
def test_an_end_alone_binds_and_is_where_readers_look(machine: Machine, disk: Path, end: str) -> None:
    lay(disk, WORK)
    say(machine, disk, end, 50_000)
    boot(machine, disk)
    found = remaining(machine)
    assert found["bound_by"] == end
    assert abs(int(str(found["remaining_s"])) - 50_000) <= 5
    published = features(machine)
    for key in ("machine/shutdowntime", "job/shutdowntime_job"):
        assert abs(int(published[key]) - int(str(found["shutdown_epoch_s"]))) <= 2
    assert abs(int(machine.text("var/run/shutdown_time")) - int(str(found["shutdown_epoch_s"]))) <= 2


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("other", ENDS)
def test_the_earliest_of_two_ends_binds(machine: Machine, disk: Path, first: str, other: str) -> None:
    if first == other:
        return
    lay(disk, WORK)
    say(machine, disk, other, 90_000)
    say(machine, disk, first, 50_000)
    boot(machine, disk)
    assert remaining(machine)["bound_by"] == first
    assert abs(left(machine) - 50_000) <= 10


def test_without_any_end_remaining_is_not_known(machine: Machine, disk: Path) -> None:
    lay(disk, WORK)
    boot(machine, disk)
    done = machine.run("remaining")
    assert (done.code, done.out) == (3, "")
    assert machine.run("remaining", "--format", "json").code == 3
    assert machine.status()["lifetime"] is None


def test_a_past_end_leaves_0_and_not_less(machine: Machine, disk: Path) -> None:
    lay(disk, WORK)
    lay(disk, {"features/machine/shutdowntime": f"{now() - 100}\n"})
    boot(machine, disk)
    assert left(machine) == 0


def test_the_older_names_bind_as_the_present_ones_do(machine: Machine, disk: Path) -> None:
    lay(disk, WORK)
    lay(disk, {"features/job/run_limit": "600\n", "features/job/jobstart": f"{now()}\n"})
    boot(machine, disk)
    assert remaining(machine)["bound_by"] == "wall_limit"
    assert abs(left(machine) - 36_000) <= 5


@pytest.mark.parametrize("place", ["site.yaml", "user/user.yaml"])
def test_a_sites_and_a_users_shutdowntime_only_makes_it_earlier(machine: Machine, disk: Path, place: str) -> None:
    lay(disk, {"epilog.sh": "true\n", "user/epilog.sh": "true\n"})
    machine.put("etc/contextagent/policy.yaml", f"lifetime: {{shutdowntime: {now() + 50_000}}}\n")
    lay(disk, {place: f"lifetime: {{shutdowntime: {now() + 90_000}}}\n"})
    boot(machine, disk)
    assert abs(left(machine) - 50_000) <= 5
    assert "lifetime.shutdowntime" in messages(machine)
    lay(disk, {place: f"lifetime: {{shutdowntime: {now() + 20_000}}}\n"})
    machine.reboot()
    boot(machine, disk)
    found = remaining(machine)
    assert (found["bound_by"], abs(int(str(found["remaining_s"])) - 20_000) <= 5) == ("shutdowntime", True)


def test_neither_a_site_may_lengthen_the_policys_lifetime_nor_a_user_say_one(machine: Machine, disk: Path) -> None:
    lay(disk, {"epilog.sh": "true\n", "user/epilog.sh": "true\n"})
    machine.put("etc/contextagent/policy.yaml", "lifetime: {max_s: 50000}\n")
    lay(disk, {"site.yaml": "lifetime: {max_s: 90000}\n", "user/user.yaml": "lifetime: {max_s: 100}\n"})
    boot(machine, disk)
    assert abs(left(machine) - 50_000) <= 5


def test_a_site_may_shorten_the_policys_lifetime(machine: Machine, disk: Path) -> None:
    lay(disk, WORK)
    machine.put("etc/contextagent/policy.yaml", "lifetime: {max_s: 50000}\n")
    lay(disk, {"site.yaml": "lifetime: {max_s: 20000}\n"})
    boot(machine, disk)
    assert abs(left(machine) - 20_000) <= 5


def test_the_policys_lifetime_counts_from_the_instances_first_boot(machine: Machine, disk: Path) -> None:
    lay(disk, WORK)
    machine.put("etc/contextagent/policy.yaml", "lifetime: {max_s: 50000}\n")
    boot(machine, disk)
    first = remaining(machine)["shutdown_epoch_s"]
    machine.reboot()
    up_s = int(float(open_text("/proc/uptime").split()[0]))
    words = ("--root", str(machine.root), "run", "--disk", str(disk), "--metadata", "none")
    done = run(("unshare", "--time", f"--boottime=-{up_s}", "--fork", *AGENT, *words))
    if "unshare" in done.err:
        pytest.skip(f"no clock of its own can be had here: {done.err}")
    assert machine.status()["lifetime"]["bound_by"] == "policy"
    assert abs(machine.status()["lifetime"]["shutdown_epoch_s"] - int(str(first))) <= 2


def test_an_end_imposed_from_outside_within_the_grace_is_passed_on_unchanged(machine: Machine, disk: Path) -> None:
    lay(disk, WORK)
    at = now() + 200
    lay(disk, {"features/machine/shutdowntime": f"{at}\n", "features/machine/grace_secs": "900\n"})
    boot(machine, disk)
    found = features(machine)
    assert (found["machine/shutdowntime"], found["machine/grace_secs"]) == (str(at), "900")


def test_a_drain_announces_an_end_as_late_as_the_grace(machine: Machine, disk: Path) -> None:
    policy(machine, "lifetime: {grace_s: 700}\n", is_served=False)
    lay(disk, WORK)
    boot(machine, disk)
    before = now()
    assert machine.run("drain").code == 0
    found = remaining(machine)
    assert found["bound_by"] == "drain"
    assert before + 700 <= int(str(found["shutdown_epoch_s"])) <= now() + 702
    assert int(features(machine)["machine/shutdowntime"]) >= before + 700


def test_a_drain_with_less_notice_than_the_grace_is_refused_unless_it_is_meant(machine: Machine, disk: Path) -> None:
    policy(machine, "lifetime: {grace_s: 700}\n", is_served=False)
    lay(disk, WORK)
    boot(machine, disk)
    assert machine.run("drain", "--in", "699").code == 77
    assert machine.run("remaining").code == 3
    assert machine.run("drain", "--in", "800").code == 0
    assert abs(left(machine) - 800) <= 5
    assert machine.run("drain", "--in", "100", "--force").code == 0
    assert abs(left(machine) - 100) <= 5


@pytest.mark.parametrize("seconds", ["-1", "soon", "", "1.5"])
def test_a_drain_in_what_is_no_time_is_a_mistake(machine: Machine, disk: Path, seconds: str) -> None:
    lay(disk, WORK)
    boot(machine, disk)
    assert machine.run("drain", f"--in={seconds}").code == 64


def test_a_drain_after_an_earlier_end_does_not_make_it_later(machine: Machine, disk: Path) -> None:
    lay(disk, WORK)
    say(machine, disk, "shutdowntime", 5000)
    boot(machine, disk)
    assert machine.run("drain", "--in", "9000").code == 0
    found = remaining(machine)
    assert (found["bound_by"], int(str(found["remaining_s"])) <= 5000) == ("shutdowntime", True)


def test_a_running_watch_follows_a_drain_in_every_form_and_traces_it(machine: Machine, disk: Path) -> None:
    port = policy(machine)
    lay(disk, WORK)
    say(machine, disk, "shutdowntime", 50_000)
    boot(machine, disk)
    with Living(machine, port) as living:
        living.ask("/")
        assert machine.run("drain", "--in", "5000").code == 0
        until(lambda: machine.status()["lifetime"]["bound_by"] == "drain")
        at = int(features(machine)["machine/shutdowntime"])
        assert abs(at - now() - 5000) <= 10
        top = next(word for word in living.ask("/").text.split() if "machine" in word).strip("/")
        assert int(living.ask(f"/{top}/shutdowntime").text) == at
        assert int(machine.text("var/run/shutdown_time")) == at
        until(lambda: any(each["ev"] == "lifetime" and "drain" in str(each) for each in machine.trace()))
        assert living.stop() == 0
    assert machine.run("trace", "verify").code in (0, 2)


def test_a_reader_never_sees_half_of_a_value_while_it_is_lowered(machine: Machine, disk: Path) -> None:
    policy(machine, is_served=False)
    lay(disk, WORK)
    say(machine, disk, "shutdowntime", 999_999)
    boot(machine, disk)
    path = machine.root / "etc/machinefeatures/shutdowntime"
    with Living(machine) as living:
        inode, held = path.stat().st_ino, path.open()
        seen = set()
        for seconds in (90_000, 80_000, 70_000):
            machine.run("drain", "--in", str(seconds))
            seen.add(path.read_text())
        assert all(text.isdigit() and len(text) == 10 for text in seen)
        assert path.stat().st_ino != inode, "put in place by a rename"
        with held:
            assert len(held.read()) == 10, "who had it open before reads the whole value of before"
        assert sorted(os.listdir(path.parent)) == sorted({key[8:] for key in features(machine) if key[0] == "m"})
        assert living.stop() == 0


def test_a_killed_watch_is_followed_by_another_that_knows_the_same(machine: Machine, disk: Path) -> None:
    port = policy(machine)
    lay(disk, WORK)
    boot(machine, disk)
    with Living(machine, port) as living:
        living.ask("/")
        machine.run("drain", "--in", "5000")
        before = remaining(machine)["shutdown_epoch_s"]
        living.kill()
        living.again()
        assert living.ask("/").status == 200
        assert abs(int(str(remaining(machine)["shutdown_epoch_s"])) - int(str(before))) <= 2
        assert remaining(machine)["bound_by"] == "drain"


def test_two_watches_at_a_time_are_one_too_many(machine: Machine, disk: Path) -> None:
    port = policy(machine)
    lay(disk, WORK)
    boot(machine, disk)
    with Living(machine, port) as living:
        living.ask("/")
        assert machine.run("watch").code == 75
        assert living.ask("/").status == 200


def test_the_run_lock_is_free_while_the_watch_runs(machine: Machine, disk: Path) -> None:
    port = policy(machine)
    lay(disk, WORK)
    boot(machine, disk)
    with Living(machine, port) as living:
        living.ask("/")
        assert boot(machine, disk).code == 0
