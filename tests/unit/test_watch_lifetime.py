"""What changes about a machine's features and ends while it lives, and who is told of it within a minute."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contextagent.features.lifetime import BOUNDS, End, Now, lifetime
from contextagent.runner.live import Live, clocks, load_live, store_live
from tests.servers import Server, answer
from tests.watching import Hour, SlowHost, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.features.lifetime import BoundBy
    from tests.machine import Machine
    from tests.servers import Request

TICK_S = 60


def booted(machine: Machine, disk: Path, **variables: str) -> SlowHost:
    """Return a machine that was booted with these variables in its context.sh."""
    machine.put("etc/contextagent/policy.yaml", f"watch:\n  http: 127.0.0.1:{free_port()}\n")
    (disk / "context.sh").write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))
    (disk / "prolog.sh").write_text("#!/bin/sh\n")
    done = machine.run("run", "--disk", str(disk))
    assert done.code == 0, done.err
    return SlowHost(str(machine.root))


def shutdowntime(machine: Machine) -> int | None:
    path = machine.root / "etc/machinefeatures/shutdowntime"
    return int(path.read_text()) if path.exists() else None


def told(machine: Machine) -> list[tuple[Any, Any]]:
    return [(each["shutdown_epoch_s"], each["bound_by"]) for each in machine.trace() if each["ev"] == "lifetime"]


class Features:
    """A resource provider's pages, which it may change at any time."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.server = Server({})
        for name in ("shutdowntime", "total_cpu", "hs06"):
            self.server.scripts[f"/machine/{name}"] = self._page

    def _page(self, request: Request) -> list[bytes]:
        text = self.values.get(request.path.rpartition("/")[2])
        return [answer(b"none\n", 404) if text is None else answer(text)]

    @property
    def url(self) -> str:
        return f"{self.server.url}/machine"


@pytest.mark.parametrize(("before", "after"), [("", "2000000000"), ("2000000000", "1999999000"), ("1999999000", "")])
def test_an_end_that_a_service_changes_is_followed_within_a_minute(
    machine: Machine, disk: Path, before: str, after: str
) -> None:
    features = Features(**({"shutdowntime": before} if before else {}), total_cpu="2")
    with features.server:
        host = booted(machine, disk, MACHINEFEATURES=features.url)
        assert shutdowntime(machine) == (int(before) if before else None)
        hour = Hour(host)
        seen: list[int | None] = []
        start_s = host.boot_s

        def change() -> None:
            features.values.pop("shutdowntime", None)
            if after:
                features.values["shutdowntime"] = after

        hour.poller.at[start_s + 61] = change
        hour.poller.at[start_s + 62] = lambda: seen.append(shutdowntime(machine))
        hour.poller.at[start_s + 61 + TICK_S] = lambda: seen.append(shutdowntime(machine))
        hour.run(70 + TICK_S)
    assert seen == [int(before) if before else None, int(after) if after else None]
    ends = [(int(each), "shutdowntime") if each else (None, None) for each in (before, after)]
    assert told(machine) == (ends if before else ends[1:])


def test_every_part_hears_of_a_nearer_end_in_the_moment_in_which_it_is_read(machine: Machine, disk: Path) -> None:
    features = Features()
    with features.server:
        host = booted(machine, disk, MACHINEFEATURES=features.url)
        hour = Hour(host)
        seen: list[tuple[float, int]] = []

        class Listening:
            def wake(self, now: Now) -> float | None:
                seen.append((now.boot_s, len(hour.watch.live.ends)))
                return None

            def close(self) -> None:
                pass

        hour.parts.append(Listening())
        changed_s = host.boot_s + 61
        hour.poller.at[changed_s] = lambda: features.values.update(shutdowntime="2000000000")
        hour.run(2 * TICK_S + 10)
    first = next(at_s for at_s, ends in seen if ends)
    assert first - changed_s <= TICK_S


def test_a_service_that_fails_changes_nothing(machine: Machine, disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    features = Features(shutdowntime="2000000000", total_cpu="2")
    with features.server:
        host = booted(machine, disk, MACHINEFEATURES=features.url)
        for name in ("shutdowntime", "total_cpu"):
            features.server.scripts[f"/machine/{name}"] = answer(b"busy\n", 503)
        Hour(host).run(3 * TICK_S)
        Hour(host).run(3 * TICK_S)  # one that was restarted meanwhile does not know better, either
    assert shutdowntime(machine) == 2_000_000_000
    assert machine.text("etc/machinefeatures/total_cpu") == "2"
    assert "keeping what was read before" in capfd.readouterr().err


def test_a_value_that_is_none_is_said_once_and_the_rest_is_followed(
    machine: Machine, disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    features = Features(hs06="9.5")
    with features.server:
        host = booted(machine, disk, MACHINEFEATURES=features.url)
        features.values.update(shutdowntime="soon", hs06="10.5")
        Hour(host).run(5 * TICK_S)
    assert shutdowntime(machine) is None
    assert machine.text("etc/machinefeatures/hs06") == "10.5"
    assert capfd.readouterr().err.count("soon") == 1


def test_other_features_that_change_are_published_and_recorded(machine: Machine, disk: Path) -> None:
    features = Features(hs06="10.5")
    with features.server:
        host = booted(machine, disk, MACHINEFEATURES=features.url)
        hour = Hour(host)
        hour.poller.at[host.boot_s + 61] = lambda: features.values.update(hs06="11.5")
        hour.run(3 * TICK_S)
    assert machine.text("etc/machinefeatures/hs06") == "11.5"
    records = [each["machine"].get("hs06") for each in machine.trace() if each["ev"] == "features"]
    assert records[-2:] == ["10.5", "11.5"]


def test_a_file_that_somebody_changed_is_mended_within_a_minute_and_in_the_trace(
    machine: Machine, disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    host = booted(machine, disk, TTL="10")
    end = shutdowntime(machine)
    hour = Hour(host)
    hour.poller.at[host.boot_s + 30] = lambda: machine.put("etc/machinefeatures/shutdowntime", "1")
    hour.run(2 * TICK_S)
    assert shutdowntime(machine) == end
    assert "was changed" in capfd.readouterr().err
    records = [each for each in machine.trace() if each["ev"] == "features"]
    assert records[-1]["machine"]["shutdowntime"] == str(end)


EC2 = "/latest/meta-data/spot/instance-action"


def on_ec2(machine: Machine, server: Server, imds: str = "v1") -> SlowHost:
    server.scripts["/latest/meta-data/instance-id"] = answer("i-0123456789")
    server.scripts["/latest/user-data"] = answer("#!/bin/sh\n")
    machine.put(
        "etc/contextagent/policy.yaml",
        f"sources: [metadata]\nmetadata:\n  address: {server.url}\n  dialect: ec2\n  imds: {imds}\n"
        f"watch:\n  http: 127.0.0.1:{free_port()}\nlifetime:\n  max_s: 864000\n",
    )
    machine.metadata = None
    done = machine.run("run")
    assert done.code == 0, done.err
    return SlowHost(str(machine.root))


def action(epoch_s: int) -> bytes:
    import time  # noqa: PLC0415  # only its form

    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_s))
    return answer(json.dumps({"action": "terminate", "time": shown}))


def test_a_notice_of_ec2_binds_within_a_minute_and_is_lifted_when_it_is(machine: Machine) -> None:
    with Server({}) as server:
        host = on_ec2(machine, server)
        end = int(host.utc_s) + 1200
        hour = Hour(host)
        seen: list[int | None] = []
        start_s = host.boot_s
        hour.poller.at[start_s + 61] = lambda: server.scripts.update({EC2: action(end)})
        hour.poller.at[start_s + 61 + TICK_S] = lambda: seen.append(shutdowntime(machine))
        hour.poller.at[start_s + 181] = lambda: server.scripts.update({EC2: answer(b"no\n", 500)})
        hour.poller.at[start_s + 301] = lambda: seen.append(shutdowntime(machine))
        hour.poller.at[start_s + 302] = lambda: server.scripts.update({EC2: answer(b"none\n", 404)})
        hour.run(370)
    assert seen == [end, end]  # imposed from outside, it is passed on as it is, and a failure does not lift it
    assert [by for _, by in told(machine)] == ["policy", "notice", "policy"]


@pytest.mark.parametrize("imds", ["v2", "auto"])
def test_a_service_that_wants_a_token_is_given_one(machine: Machine, imds: str) -> None:
    def guarded(body: bytes) -> Any:
        return lambda request: [
            body if "token" in request.headers.get("x-aws-ec2-metadata-token", "") else answer(b"", 401)
        ]

    with Server({}) as server:
        server.scripts["PUT /latest/api/token"] = answer("a-token")
        host = on_ec2(machine, server, imds)
        end = int(host.utc_s) + 1200
        server.scripts[EC2] = guarded(action(end))
        Hour(host).run(TICK_S)
    assert shutdowntime(machine) == end


def test_no_other_service_is_asked_for_a_notice(machine: Machine, disk: Path) -> None:
    with Server({}) as server:
        features = f"{server.url}/machine"
        host = booted(machine, disk, MACHINEFEATURES=features)
        Hour(host).run(2 * TICK_S)
        assert EC2 not in server.paths()


ENDS = st.lists(
    st.builds(
        End,
        by=st.sampled_from(BOUNDS),
        clock=st.sampled_from(("wall", "boot")),
        at_s=st.integers(0, 4_000_000_000).map(float),
    ),
    max_size=6,
)
STEPS = st.lists(st.tuples(st.integers(0, 100_000), st.integers(-2_000_000_000, 2_000_000_000)), max_size=5)


@given(ends=ENDS, steps=STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_what_remains_is_right_whatever_ends_there_are_and_however_the_clock_is_set(
    machine: Machine, ends: list[End], steps: list[tuple[int, int]]
) -> None:
    """Against a reckoning of its own: each end is held against its own clock, and the least of that is the answer."""
    host = SlowHost(str(machine.root))
    host.files.make_folder(host.run_folder, 0o755)
    host.utc_s, host.boot_s = 1_900_000_000.0, 1000.0
    store_live(host, Live(boot_id=host.boot_id(), ends=tuple(ends), boot_epoch_s=1_899_999_000))
    for passed_s, step_s in [(0, 0), *steps]:
        host.move(passed_s)
        host.utc_s = max(host.utc_s + step_s, 0.0)
        live = load_live(host)
        assert live is not None
        found = lifetime(live.ends, clocks(host, live))
        if not ends:
            assert found is None
            continue
        lefts = [each.at_s - (host.utc_s if each.clock == "wall" else host.boot_s) for each in ends]
        assert found is not None
        assert abs(found.remaining_s - max(min(lefts), 0)) <= 2
        binding: set[BoundBy] = {each.by for each, left in zip(ends, lefts, strict=True) if left - min(lefts) <= 2}
        assert found.bound_by in binding
        assert found.remaining_s >= 0
        assert abs(found.shutdown_epoch_s - max(host.utc_s + min(lefts), 0)) <= 2


def test_the_sooner_of_two_ends_binds_after_a_step_that_swaps_them(machine: Machine) -> None:
    del machine
    ends = (End(by="shutdowntime", clock="wall", at_s=10_000.0), End(by="ttl", clock="boot", at_s=5000.0))
    assert lifetime(ends, Now(utc_s=1000.0, boot_s=0.0)) == lifetime(ends[1:], Now(utc_s=1000.0, boot_s=0.0))
    assert lifetime(ends, Now(utc_s=9000.0, boot_s=0.0)) == lifetime(ends[:1], Now(utc_s=9000.0, boot_s=0.0))
