"""`contextagent watch` as a process: what it costs, how it begins and ends, and what a kill does to it: nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tests.machine import AGENT, run
from tests.servers import Server, answer
from tests.watching import Watching, free_port, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Guest, Machine

MOST_MIB = 24
urlopen = build_opener(ProxyHandler({})).open


@pytest.fixture
def port() -> int:
    return free_port()


def policy(machine: Machine, port: int, *, max_s: int = 86_400, grace_s: int = 300) -> None:
    text = f"watch:\n  http: 127.0.0.1:{port}\nlifetime:\n  max_s: {max_s}\n  grace_s: {grace_s}\n"
    machine.put("etc/contextagent/policy.yaml", text)


@pytest.fixture
def booted(machine: Machine, disk: Path, port: int) -> Machine:
    """Return a machine that was booted, and has features to serve."""
    policy(machine, port)
    for name in ("prolog.sh", "epilog.sh"):
        (disk / name).write_text("#!/bin/sh\necho done\n")
    done = machine.run("run", "--disk", str(disk))
    assert done.code == 0, done.err
    return machine


def remaining(machine: Machine) -> int:
    return int(machine.run("remaining").out)


def listeners(pid: int) -> list[str]:
    """Return the addresses at which a process listens, as `ss` shows them."""
    shown = run(["ss", "-Hltnup"]).out.splitlines()
    return [line.split()[4] for line in shown if f"pid={pid}," in line]


def test_the_watch_needs_no_more_than_24_mib(booted: Machine, port: int) -> None:
    with Watching(booted) as watching:
        for kind in ("machine", "job"):
            for path in (booted.root / f"etc/{kind}features").iterdir():
                urlopen(f"http://127.0.0.1:{port}/{kind}features/{path.name}").read()
        booted.run("drain", "--in", "4000")
        watching.process.send_signal(signal.SIGHUP)
        booted.run("drain", "--in", "3000")
        assert watching.memory_mib() <= MOST_MIB


def test_every_feature_is_served_as_its_file_holds_it(booted: Machine, port: int) -> None:
    with Watching(booted):
        base = f"http://127.0.0.1:{port}"
        assert urlopen(f"{base}/").read() == b"machinefeatures/\njobfeatures/\n"
        for kind in ("machine", "job"):
            folder = booted.root / f"etc/{kind}features"
            names = urlopen(f"{base}/{kind}features/").read().decode().split()
            assert names == sorted(path.name for path in folder.iterdir())
            assert names == urlopen(f"{base}/{kind}features").read().decode().split()
            for name in names:
                assert urlopen(f"{base}/{kind}features/{name}").read() == (folder / name).read_bytes()
        assert int(urlopen(f"{base}/jobfeatures/allocated_cpu").read()) == len(os.sched_getaffinity(0))


def test_curl_gets_values_and_heads_and_is_refused_the_rest(booted: Machine, port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    with Watching(booted):
        value = run(["curl", "-sS", f"{base}/machinefeatures/total_cpu"])
        assert value.out == booted.text("etc/machinefeatures/total_cpu")
        head = run(["curl", "-sSI", f"{base}/machinefeatures/total_cpu"])
        assert head.out.startswith("HTTP/1.1 200 OK\r\n")
        assert f"Content-Length: {len(value.out)}\r\n" in head.out
        for method in ("POST", "PUT", "DELETE"):
            refused = run(["curl", "-sSi", "-X", method, "-d", "x=1", f"{base}/machinefeatures/total_cpu"])
            assert refused.out.startswith("HTTP/1.1 405 ")
            assert "Allow: GET, HEAD\r\n" in refused.out
        several = run(["curl", "-sS", f"{base}/machinefeatures/total_cpu", f"{base}/jobfeatures/allocated_cpu"])
        assert several.code == 0


@pytest.mark.parametrize(
    "path",
    [
        *("/machinefeatures/nothing", "/etc/passwd", "/machinefeatures/total_cpu/x", "/jobfeatures/total_cpu"),
        *("/machinefeatures/../../etc/passwd", "/machinefeatures/%2e%2e/passwd", "/machinefeatures/%00"),
    ],
)
def test_nothing_but_features_is_served(booted: Machine, port: int, path: str) -> None:
    with Watching(booted), pytest.raises(HTTPError) as refused:
        urlopen(Request(f"http://127.0.0.1:{port}{path}"))
    assert refused.value.code in (400, 404)
    refused.value.close()


def test_the_watch_listens_on_the_loopback_link_alone(booted: Machine, port: int) -> None:
    with Watching(booted) as watching:
        until(lambda: listeners(watching.process.pid), "it listens")
        assert listeners(watching.process.pid) == [f"127.0.0.1:{port}"]


def test_nothing_listens_where_the_policy_says_off(booted: Machine, port: int) -> None:
    booted.put("etc/contextagent/policy.yaml", "watch:\n  http: off\nlifetime:\n  max_s: 86400\n")
    with Watching(booted) as watching:
        booted.run("drain", "--in", "4000")
        assert listeners(watching.process.pid) == []
        assert str(port) not in watching.log


def test_a_port_that_is_taken_is_said_and_everything_else_goes_on(booted: Machine, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with Watching(booted) as watching:
            assert booted.run("drain", "--in", "4000").code == 0
            assert remaining(booted) <= 4001
        assert watching.process.returncode == 0
        (line,) = watching.log.splitlines()
        assert line.startswith(f"contextagent: cannot serve '127.0.0.1:{port}': address ")
        assert line.endswith(" in use, trying again every minute")  # as the C library has it


def test_clients_that_say_nothing_keep_nobody_out(booted: Machine, port: int) -> None:
    with Watching(booted) as watching:
        until(lambda: listeners(watching.process.pid), "it listens")
        idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(200)]
        for each in idle[::2]:
            each.sendall(b"GET /machinefeatures/total_cpu HTTP/1.1\r\nHo")
        for _ in range(20):
            assert urlopen(f"http://127.0.0.1:{port}/machinefeatures/total_cpu", timeout=5).read()
        for each in idle:
            each.close()
        assert watching.memory_mib() <= MOST_MIB


def test_a_head_that_does_not_end_is_refused(booted: Machine, port: int) -> None:
    with Watching(booted) as watching:
        until(lambda: listeners(watching.process.pid), "it listens")
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 431 ")


def test_many_readers_at_once_are_all_answered(booted: Machine, port: int) -> None:
    with Watching(booted) as watching:
        until(lambda: listeners(watching.process.pid), "it listens")
        url = f"http://127.0.0.1:{port}/jobfeatures/allocated_cpu"
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: urlopen(url, timeout=20).read(), range(300)))
        assert set(answers) == {booted.text("etc/jobfeatures/allocated_cpu").encode()}


def test_a_second_watch_says_try_later(booted: Machine) -> None:
    with Watching(booted) as watching:
        second = booted.run("watch")
        assert second.code == 75
        assert "another one is watching this machine" in second.err
        assert watching.process.poll() is None


def test_sigterm_ends_it_cleanly_and_leaves_nothing(booted: Machine) -> None:
    with Watching(booted) as watching:
        pass
    assert watching.process.returncode == 0
    assert not (booted.root / "run/contextagent/watch.pid").exists()
    assert watching.log == ""


def test_a_killed_watch_is_followed_by_one_that_goes_on(booted: Machine, port: int) -> None:
    with Watching(booted) as first:
        booted.run("drain", "--in", "4000")
        first.process.kill()
        first.process.wait()
    with Watching(booted) as second:
        until(lambda: listeners(second.process.pid), "it listens")
        assert int(urlopen(f"http://127.0.0.1:{port}/machinefeatures/shutdowntime").read()) == int(
            booted.text("etc/machinefeatures/shutdowntime")
        )
        assert booted.facts("remaining")["bound_by"] == "drain"
        assert booted.run("drain", "--in", "3000").code == 0
        assert remaining(booted) <= 3001
    assert run([*AGENT, "trace", "verify", str(booted.root / "var/log/contextagent")]).code in (0, 2)


def test_a_killed_watchs_child_that_still_waits_keeps_no_other_watch_out(
    machine: Machine, disk: Path, port: int
) -> None:
    policy(machine, port)
    with Server({"/machine/shutdowntime": answer("2000000000")}) as server:
        (disk / "context.sh").write_text(f"MACHINEFEATURES={server.url}/machine\n")
        (disk / "prolog.sh").write_text("#!/bin/sh\n")
        machine.run("run", "--disk", str(disk))
        server.scripts["/machine/shutdowntime"] = ["hang"]
        asked = len(server.requests)
        with Watching(machine) as first:
            until(lambda: len(server.requests) > asked, "a child waits for the answer")
            first.process.kill()
            first.process.wait()
        with Watching(machine) as second:
            assert second.process.poll() is None
            assert machine.facts("remaining")["shutdown_epoch_s"] <= 2_000_000_000


def test_nothing_to_watch_ends_at_once_and_makes_nothing(machine: Machine) -> None:
    before = sorted(machine.root.rglob("*"))
    done = machine.run("watch")
    assert done == (0, "", "")
    assert sorted(machine.root.rglob("*")) == before


def test_a_machine_where_the_agent_is_switched_off_is_not_watched(booted: Machine) -> None:
    booted.put("etc/contextagent/disabled", "")
    assert booted.run("watch") == (0, "", "")


def test_sighup_makes_it_hear_the_policy_again(booted: Machine, port: int) -> None:
    with Watching(booted) as watching:
        assert remaining(booted) > 50_000
        policy(booted, port, max_s=9000)
        watching.process.send_signal(signal.SIGHUP)
        until(lambda: remaining(booted) <= 9000, "the new policy holds")
        assert booted.facts("remaining")["bound_by"] == "policy"


def test_a_policy_that_is_wrong_by_then_changes_nothing(booted: Machine, port: int) -> None:
    with Watching(booted) as watching:
        booted.put("etc/contextagent/policy.yaml", "lifetime:\n  max_s: soon\n")
        watching.process.send_signal(signal.SIGHUP)
        until(lambda: "going on with the settings as they were" in watching.log, "it said so")
        assert "max_s" in watching.log
        assert booted.run("drain", "--in", "4000", "--policy", os.devnull).code == 0
        assert urlopen(f"http://127.0.0.1:{port}/machinefeatures/total_cpu").read()
    assert watching.process.returncode == 0


def test_an_invalid_policy_at_the_start_is_said(booted: Machine) -> None:
    booted.put("etc/contextagent/policy.yaml", "lifetime:\n  max_s: soon\n")
    assert booted.run("watch").code == 65


def test_only_root_watches_the_machine_itself(guest: Guest) -> None:
    done = guest.shell("setpriv", "--reuid=990", "--regid=990", "--clear-groups", *AGENT, "watch")
    assert done.code == 77
    assert "only root may watch this machine" in done.err


def test_the_watch_and_runs_write_one_trace_whoever_is_killed(booted: Machine, disk: Path) -> None:
    (disk / "slow.sh").write_text("#!/bin/sh\nsleep 0.02\n")
    ends = []
    for turn in range(4):
        with Watching(booted) as watching:
            running = subprocess.Popen(
                [*AGENT, "--root", str(booted.root), "run", "--force", "--metadata", "none", "--disk", str(disk)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for step in range(3):
                wished_s = 5000 + 100 * (3 * turn + step)
                assert booted.run("drain", "--in", str(wished_s)).code == 0
                ends.append(booted.facts("remaining")["shutdown_epoch_s"])
            victim = (watching.process, running)[turn % 2]
            victim.kill()
            victim.wait()
            running.wait()
    checked = run([*AGENT, "trace", "verify", str(booted.root / "var/log/contextagent")])
    assert checked.code in (0, 2), checked.out
    told = [each["shutdown_epoch_s"] for each in booted.trace() if each["ev"] == "lifetime"]
    assert set(ends) <= set(told)
