"""Attempts on the machine by way of the service: leaks, hangs, new instances, and files in others' places."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, run
from tests.spec.clouds import (
    BUNDLE,
    DATA,
    META,
    UUID,
    ec2,
    hear,
    openstack,
    policy,
    spoken,
    tgz,
    told,
    verdicts,
)
from tests.spec.scenes import effects, messages, says
from tests.spec.service import Page, Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine import Guest, Machine
    from tests.spec.service import Answer

CANARY = "canary-4f1d0c9e7a"


def test_no_process_and_no_temporary_file_is_left(machine: Machine, service: Service) -> None:
    policy(machine, total_s="1")
    service.pages = ec2(Page(fault="hang"), bundle=spoken(machine, "epilog.sh"))
    before = set(Path("/tmp").iterdir())
    hear(machine, service)
    root = str(machine.root)
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            assert root not in Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
    mine = {path for path in set(Path("/tmp").iterdir()) - before if "contextagent" in path.name}
    assert not mine
    assert not (machine.root / "tmp").exists() or not list((machine.root / "tmp").iterdir())


def test_nothing_outside_the_declared_places_changes(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2("true words\n", bundle=tgz({"epilog.sh": "true\n", "prolog.sh": "true\n", "x": "y"}))
    before = {str(path) for path in machine.root.rglob("*")}
    assert hear(machine, service).code == 0
    places = (
        *("run/contextagent", "var/lib/contextagent", "var/log/contextagent", "etc/contextagent", "var/lib/hepix"),
        *("var/lib/contextuser", "etc/machinefeatures", "etc/jobfeatures", "etc/joboutputs", "etc/profile.d/mjf"),
        *("var/run/shutdown_time", "var/lib/amiconfig"),
    )
    for path in {str(path) for path in machine.root.rglob("*")} - before:
        name = path.removeprefix(f"{machine.root}/")
        assert name.startswith(places) or any(each.startswith(f"{name}/") for each in places), name


@pytest.mark.parametrize(
    "meta",
    [
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b'{"uuid": 5}',
        b'{"uuid": "../../../x"}',
        b'{"uuid": "' + b"x" * 100000 + b'"}',
        b'{"uuid": "\\u0000\\u001b[2J"}',
        b'{"uuid": ["a"]}',
        b"[" * 100000,
        b'{"uuid": "a", "uuid": "b"}',
        b'{"public_keys": {"a": 5, "b": "command=\\"x\\" no-key"}}',
        b'{"public_keys": ["x"], "meta": 7}',
        b"\xff\xfe{}",
        b"<html></html>",
    ],
    ids=itertools.count(),
)
def test_meta_data_out_of_order_costs_no_site_its_bundle_and_no_traceback(
    machine: Machine, service: Service, meta: bytes
) -> None:
    policy(machine, dialect="openstack")
    service.pages = openstack(404, bundle=spoken(machine, "epilog.sh")) | {META: meta}
    done = hear(machine, service)
    assert "Traceback" not in done.err
    assert effects(machine) == ["epilog.sh start"]
    name = machine.status()["instance_id"]
    assert name.isprintable()
    assert len(name) < 256
    assert "\x1b" not in json.dumps(machine.status(), ensure_ascii=False)


def test_a_users_meta_data_of_openstack_names_no_bundle_and_makes_no_variable_of_the_sites(
    machine: Machine, service: Service
) -> None:
    """The `meta` map is the user's: `openstack server create --property`."""
    policy(machine, dialect="openstack")
    keys = ("bundle", "context", "PATH", "CLOUD", "machinefeatures", "hepix")
    service.pages = openstack(404, bundle=tgz({"epilog.sh": f"env > {machine.root}/environment\n"}),
                              meta={"meta": dict.fromkeys(keys, CANARY), "name": CANARY})  # fmt: skip
    hear(machine, service)
    assert service.paths("/context") == [BUNDLE]
    assert CANARY not in machine.text("environment")


def test_the_user_cannot_make_an_instance_new_by_user_data(machine: Machine, service: Service) -> None:
    policy(machine)
    seen = []
    for number in range(3):
        text = {"instance-id": f"i-{number}", "uuid": f"u-{number}", "VMID": str(number)}
        forms: list[Answer] = [
            json.dumps(text),
            tgz({"context.sh": f"VMID={number}\n", "meta-data": f"instance-id: i-{number}\n", "epilog.sh": "true\n"}),
            f"#cloud-config\ninstance-id: i-{number}\n",
        ]
        service.pages = ec2(forms[number], bundle=spoken(machine, "epilog.sh"))
        hear(machine, service)
        seen.append(machine.status()["instance_id"])
        machine.reboot()
    assert len(set(seen)) == 1


@pytest.mark.parametrize("count", [1, 40])
def test_a_server_that_trickles_informational_answers_is_bounded(
    machine: Machine, service: Service, count: int
) -> None:
    policy(machine)
    early = b"HTTP/1.1 100 Continue\r\n\r\n" * count
    body = told(machine).encode()
    page = Page(raw=early + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    service.pages = ec2(page, bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    assert verdicts(machine)["site"] == "found"
    assert verdicts(machine)["user"] == ("found" if count == 1 else "broken")


def test_bytes_after_an_answer_are_not_taken_for_the_next_one(machine: Machine, service: Service) -> None:
    """A response that smuggles another: what was not asked for yet answers nothing."""
    policy(machine)
    evil = spoken(machine, "prolog.sh")
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(evil) + evil
    smuggled += b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ni-9"
    data = told(machine).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data)
    for path in (DATA, "/latest/meta-data/instance-id"):
        service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
        service.pages[path] = Page(raw=head + data + smuggled) if path == DATA else Page(
            raw=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ni-1" + smuggled)  # fmt: skip
        hear(machine, service)
        assert "prolog.sh start" not in effects(machine)
        machine.reboot()


def test_hosts_and_resolver_files_have_no_say(machine: Machine, service: Service) -> None:
    policy(machine)
    machine.put("etc/hosts", "127.0.0.66 169.254.169.254 127.0.0.1\n")
    machine.put("etc/resolv.conf", "nameserver 127.0.0.66\n")
    service.pages = ec2(told(machine))
    assert hear(machine, service).code == 0
    assert effects(machine) == ["user-data start"]


def test_a_rogue_at_another_address_of_the_link_is_not_asked(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto")
    service.pages = ec2(told(machine))
    with Service(ec2(told(machine, "rogue")), host="127.0.0.66", port=service.port) as rogue:
        hear(machine, service)
        assert rogue.connections == 0
    assert effects(machine) == ["user-data start"]


def test_names_and_reasons_of_a_hostile_server_reach_the_console_without_control_characters(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    evil = "\x1b[31m\u202eevil\x07"
    service.pages = ec2(tgz({f"post-network.d/{evil}": "true\n"}), bundle=tgz({f"../{evil}": "x"}))
    service.pages["/latest/meta-data/instance-id"] = Page(
        raw=b"HTTP/1.1 403 \x1b[31mevil\x07\r\nX: \x1b]0;evil\r\nContent-Length: 0\r\n\r\n"
    )
    done = hear(machine, service)
    texts = [done.out, done.err, *(machine.run(verb).out for verb in ("status", "explain", "plan"))]
    for text in [*texts, messages(machine), messages(machine, "errors")]:
        assert not {"\x1b", "\x07", "\u202e"} & set(text), repr(text)


def test_the_whole_boot_stays_in_its_bounds_though_everything_drips(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto", total_s="1")
    slow = Page(b"x" * 100000, fault="drip", pause_s=0.02)
    paths = (META, "/openstack/latest/meta-data.json", "/latest/meta-data/instance-id", DATA, BUNDLE)
    service.pages = dict.fromkeys(paths, slow)
    began = time.monotonic()
    assert hear(machine, service).code == 1
    assert time.monotonic() - began < 15


def test_a_child_that_fetches_has_no_right_to_the_machines_files(machine: Machine, service: Service) -> None:
    """It opens nothing for writing below the root while it speaks with a server."""
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    log = machine.root / "calls"
    run(("strace", "-f", "-qq", "-y", "-e", "trace=connect,execve", "-o", str(log), *AGENT, "--root", str(machine.root),
         "run", "--disk", "none", "--metadata", service.url))  # fmt: skip
    lines = log.read_text().splitlines()
    mine = [line for line in lines if f"htons({service.port})" in line]
    agent = lines[0].split()[0]
    assert mine
    assert agent not in {line.split()[0] for line in mine}, "the agent itself speaks with no server"
    assert UUID not in log.read_text()


def test_a_bundle_that_writes_where_the_users_material_lies_does_not_reach_it(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    names = ("epilog.sh", "user/epilog.sh", "user/prolog.sh", "user.yaml")
    service.pages = ec2(told(machine), bundle=tgz(says(machine, *names)))
    hear(machine, service)
    assert "user-data start" in effects(machine)
    assert not [line for line in effects(machine) if line.startswith("user/")]


def test_a_killed_agent_leaves_no_process_behind_that_talks_on(machine: Machine, service: Service) -> None:
    policy(machine, try_s="600", total_s="600")
    reached = threading.Event()

    def look() -> None:
        reached.set()

    service.look = look
    service.pages = ec2(bundle=Page(fault="hang"))
    words = (*AGENT, "--root", str(machine.root), "run", "--disk", "none", "--metadata", service.url)
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as agent:
        assert reached.wait(30)
        agent.kill()
    end = time.monotonic() + 10
    while time.monotonic() < end and any(map(of_machine(machine), os.listdir("/proc"))):
        time.sleep(0.05)
    assert not [name for name in os.listdir("/proc") if of_machine(machine)(name)]
    policy(machine)
    service.forget()
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 0
    assert effects(machine) == ["epilog.sh start"]


def of_machine(machine: Machine) -> Callable[[str], bool]:
    """Return whether a process is this machine's agent or a child of it."""

    def is_it(name: str) -> bool:
        try:
            return str(machine.root).encode() in Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            return False

    return is_it


def test_an_agent_killed_in_the_users_part_goes_on_with_the_sites_though_the_service_is_gone(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    service.pages = ec2(
        told(machine) + "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)\nsleep 2\n", bundle=spoken(machine, "epilog.sh")
    )
    done = hear(machine, service, "post-network")
    assert done.code == -9
    service.close()
    hear(machine, service, "post-network", "--resume")
    assert effects(machine) == ["user-data start", "epilog.sh start"]


def test_an_unprivileged_users_script_by_network_neither_sees_nor_stops_the_sites(guest: Guest) -> None:
    policy(guest)
    script = "#!/bin/sh\nid -u\ncat /var/lib/contextagent/instances/*/scripts/site/*/* /var/lib/hepix/context/*\n"
    script += "ls -R /var/lib/contextagent /var/lib/hepix/context\ngrep -rs canary- /var/lib /run /etc\n"
    script += "cp /bin/false /var/lib/hepix/context/epilog.sh; rm -rf /var/lib/hepix/context\nkill -9 -1\n"
    bundle = tgz({"epilog.sh": f"# {CANARY}\necho site > /etc/site-ran\n", "secret": CANARY})
    with Service(ec2(script, bundle=bundle)) as service:
        done = guest.run("run", "--disk", "none", "--metadata", service.url)
    assert (guest.root / "etc/site-ran").read_text() == "site\n", done
    found = {each["id"]: each for each in guest.status()["scripts"]}
    assert found["site/post-network/epilog.sh"]["state"] == "ok"
    seen = guest.text(str(found["user/post-network/user-data"]["output"]).lstrip("/"))
    assert CANARY not in seen
    assert seen.startswith("990\n")


@pytest.mark.parametrize("who", ["bundle", "binary user data", "user data in a tar"])
def test_what_is_as_large_as_may_be_is_used_and_costs_little_memory(
    machine: Machine, service: Service, who: str
) -> None:
    policy(machine, try_s="30", total_s="60")
    noise = os.urandom(15 << 20)
    files = {f"data/{number}": noise for number in range(4)}
    data: Answer = 404
    if who != "bundle":
        data = noise if "binary" in who else tgz({**files, "epilog.sh": told(machine)})
    site = says(machine, "epilog.sh")
    service.pages = ec2(data, bundle=tgz({**files, **site} if who == "bundle" else site))
    words = (*AGENT, "--root", str(machine.root), "run", "--disk", "none", "--metadata", service.url)
    measure = "import resource, subprocess, sys; subprocess.call(sys.argv[1:], stdout=2); "
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = run((sys.executable, "-c", measure, *words))
    assert effects(machine) == ["user-data start", "epilog.sh start"][0 if "tar" in who else 1 :], done.err
    assert int(done.out) <= 64 << 10, "in KiB"


def test_two_agents_at_once_run_nothing_twice(machine: Machine, service: Service) -> None:
    policy(machine, total_s="20", try_s="10")
    service.pages = ec2(told(machine), bundle=[503, spoken(machine, "epilog.sh")])
    words = (*AGENT, "--root", str(machine.root), "run", "post-network", "--disk", "none", "--metadata", service.url)
    agents = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
    codes = sorted(agent.wait(60) for agent in agents)
    assert 0 in codes
    assert set(codes) <= {0, 75}
    assert effects(machine).count("user-data start") == 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_is_killed_while_it_asks_runs_all_once_when_it_is_started_again(
    machine: Machine, service: Service, count: int, number: int
) -> None:
    policy(machine, try_s="20", total_s="30")
    agents: list[subprocess.Popen[bytes]] = []
    begun = threading.Event()

    def look() -> None:
        if len(service.requests) == count - 1:
            assert begun.wait(30)
            agents[0].send_signal(number)
            agents[0].wait(30)

    service.look = look
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    words = (*AGENT, "--root", str(machine.root), "run", "--disk", "none", "--metadata", service.url)
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as agent:
        agents.append(agent)
        begun.set()
    assert agents[0].returncode != 0
    assert effects(machine) == []
    service.look = lambda: None
    assert hear(machine, service, "--resume").code == 0
    assert effects(machine) == ["user-data start", "epilog.sh start"]
    assert machine.run("trace", "verify").code in (0, 2)
