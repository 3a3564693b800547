"""Each dialect's fixture served, and a machine contextualised from it by the real agent."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from contextagent.sources.dialects import AUTO, DIALECTS, load
from tests.dialects import answers, machine_files
from tests.machine import AGENT, Machine, run
from tests.network import Network
from tests.servers import CLOSE, Server, answer, head
from tests.tars import file, tgz

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Play, Script

BUNDLE = "/context/default.tgz"
HOSTNAMES = {"openstack": "OpenStack", "vac": "Vac", "ec2": "EC2", "nimbus": "Nimbus", "cloudstack": "CloudStack"}
"""What each fixture's script says whose user it is."""
MOST_NAMED, MOST_AUTO, FOR_A_TOKEN = 3, 6, 2
VAC_404 = b"HTTP/1.0 404 Not Found\r\nServer: Vac metadata server Python/2.7.5\r\n\r\n"
HTML = "<!DOCTYPE html><html><body>Please log in.</body></html>"


def then_close(data: bytes) -> Play:
    """Return what ends the connection after an answer."""
    return [data, CLOSE]


def scripts_of(dialect: str) -> dict[str, Script]:
    """Return what a fixture's service sends for each path; Vac's tells no length, and ends the connection."""
    if dialect == "vac":
        start = b"HTTP/1.0 200 OK\r\nServer: Vac metadata server Python/2.7.5\r\nContent-type: text/plain\r\n\r\n"
        return {path: then_close(start + body) for path, body in answers(dialect).items()}
    return {path: answer(body) for path, body in answers(dialect).items()}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({}) as server:
        yield server


def boot(machine: Machine, server: Server, dialect: str = "auto", **keys: object) -> dict[str, Any]:
    """Boot a machine that knows where to ask, and return its status."""
    words = {"dialect": dialect, "connect_s": 1, "try_s": 2, "total_s": 2, **keys}
    machine.put("etc/contextagent/policy.yaml", f"metadata: {words}\n")
    machine.metadata = server.url
    machine.run("run", "--disk", "none")
    return machine.status()


def instance(machine: Machine) -> Path:
    """Return the folder of the machine's instance."""
    return machine.root / "var/lib/contextagent" / os.readlink(machine.root / "var/lib/contextagent/instance")


def said(machine: Machine) -> str:
    """Return what the user data's script said."""
    return (instance(machine) / "output/user/post-network/user-data.log").read_text()


def ids(machine: Machine) -> dict[str, str]:
    """Return what the instance is known by, besides DMI."""
    known = json.loads((instance(machine) / "state.json").read_text())["state"]["ids"]
    return {kind: value for kind, value in known.items() if kind != "dmi"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_that_is_named_costs_three_requests_and_its_script_runs(
    dialect: str, machine: Machine, server: Server
) -> None:
    server.scripts = scripts_of(dialect)
    status = boot(machine, server, dialect)
    assert status["result"] == "ok"
    # a factory offers features, and nobody answers there
    assert {each["reason"] for each in status["warnings"]} == ({"offer-not-read"} if dialect == "vac" else set())
    assert status["sources"]["user"] == f"metadata:{dialect}"
    assert [(each["id"], each["state"]) for each in status["scripts"]] == [("user/post-network/user-data", "ok")]
    assert said(machine) == f"user of {HOSTNAMES[dialect]}\n"
    assert server.paths() == [BUNDLE, load(dialect).META_DATA, load(dialect).USER_DATA]
    assert len(server.requests) <= MOST_NAMED
    assert ids(machine) == load(dialect).read(answers(dialect)[load(dialect).META_DATA]).ids


@pytest.mark.parametrize("dialect", AUTO)
def test_auto_finds_the_dialect_by_the_first_path_that_is_there(dialect: str, machine: Machine, server: Server) -> None:
    server.scripts = scripts_of(dialect)
    status = boot(machine, server)
    assert status["sources"]["user"] == f"metadata:{dialect}"
    asked = [load(name).META_DATA for name in AUTO[: AUTO.index(dialect) + 1]]
    assert server.paths() == [BUNDLE, *asked, load(dialect).USER_DATA]
    assert len(server.requests) <= MOST_AUTO


def test_a_vac_factory_that_ends_each_connection_is_asked_over_new_ones(machine: Machine, server: Server) -> None:
    server.scripts = {
        **{path: then_close(VAC_404) for path in (BUNDLE, load("openstack").META_DATA)},
        **scripts_of("vac"),
    }
    status = boot(machine, server)
    assert (status["result"], status["sources"]["user"]) == ("ok", "metadata:vac")
    assert server.connections == len(server.requests) == 1 + len(["openstack", "vac"]) + 1
    assert said(machine) == "user of Vac\n"


@pytest.mark.parametrize("dialect", ["ec2", "auto"])
def test_ec2_that_wants_a_token_costs_two_requests_more(dialect: str, machine: Machine, server: Server) -> None:
    def guarded(body: bytes) -> Script:
        return lambda request: [answer(body) if "x-aws-ec2-metadata-token" in request.headers else answer(b"", 401)]

    server.scripts = {path: guarded(body) for path, body in answers("ec2").items()}
    server.scripts["PUT /latest/api/token"] = answer("a-token")
    status = boot(machine, server, dialect)
    assert (status["result"], status["sources"]["user"]) == ("ok", "metadata:ec2")
    assert [request.path for request in server.requests if request.method == "PUT"] == ["/latest/api/token"]
    assert len(server.requests) <= (MOST_NAMED if dialect == "ec2" else MOST_AUTO) + FOR_A_TOKEN


def test_a_web_page_for_meta_data_is_broken_and_no_further_dialect_is_tried(machine: Machine, server: Server) -> None:
    page = head(200, f"Content-Length: {len(HTML)}", "Content-Type: application/json") + HTML.encode()
    server.scripts = {**scripts_of("ec2"), load("openstack").META_DATA: page}
    status = boot(machine, server)
    (verdict,) = [each for each in status["verdicts"] if each["owner"] == "user"]
    assert verdict["verdict"] == "broken"
    assert verdict["reason"].startswith("html: ")
    assert status["scripts"] == []
    assert load("ec2").META_DATA not in server.paths()


@pytest.mark.parametrize("meta", ["{", "[]", "{}"])
def test_a_site_has_its_bundle_whatever_the_users_meta_data_is_like(
    meta: str, machine: Machine, server: Server
) -> None:
    script = b"#!/bin/sh\necho site\n"
    server.scripts = {
        **scripts_of("openstack"),
        BUNDLE: answer(tgz(file("epilog.sh", script)).getvalue()),
        load("openstack").META_DATA: answer(meta),
    }
    status = boot(machine, server)
    assert ("site/post-network/epilog.sh", "ok") in [(each["id"], each["state"]) for each in status["scripts"]]


def test_nimbus_is_asked_where_its_file_says(machine: Machine, server: Server) -> None:
    server.scripts = {f"/md{path}": script for path, script in scripts_of("nimbus").items()}
    machine.put("var/nimbus-metadata-server-url", f"{server.url}/md/\n")
    machine.put("etc/contextagent/policy.yaml", "metadata: {dialect: nimbus, address: 'http://127.0.0.1:1'}\n")
    machine.metadata = None
    machine.run("run", "--disk", "none")
    assert machine.status()["sources"]["user"] == "metadata:nimbus"
    assert server.paths()[1:] == ["/md/latest/meta-data/instance-id", "/md/latest/user-data"]


def test_a_nimbus_server_that_knows_no_instance_id_gives_its_user_data(machine: Machine, server: Server) -> None:
    server.scripts = scripts_of("nimbus")
    del server.scripts[load("nimbus").META_DATA]
    assert boot(machine, server, "nimbus")["sources"]["user"] == "metadata:nimbus"
    assert said(machine) == "user of Nimbus\n"


@pytest.mark.parametrize("dialect", ["nimbus", "cloudstack"])
def test_a_dialect_that_cannot_find_its_server_is_unreachable(dialect: str, machine: Machine) -> None:
    machine.put("etc/contextagent/policy.yaml", f"metadata: {{dialect: {dialect}}}\n")
    machine.metadata = None
    machine.run("run", "--disk", "none")
    verdicts = [each for each in machine.status()["verdicts"] if each["source"] == "metadata"]
    assert {(each["owner"], each["verdict"]) for each in verdicts} == {("site", "unreachable"), ("user", "unreachable")}
    assert all(each["reason"].startswith("unreachable: cannot ask 'the metadata service': ") for each in verdicts)


def test_cloudstack_is_asked_where_the_lease_came_from(machine: Machine) -> None:
    for path, data in machine_files("cloudstack").items():
        machine.put(path.lstrip("/"), data)
    machine.put("etc/contextagent/policy.yaml", "metadata: {dialect: cloudstack}\n")
    with Network() as network:
        network.near.ip("address add 10.1.1.57/24 dev eth0")
        network.sides[0].ip("address add 10.1.1.1/24 dev eth0")
        with Server(scripts_of("cloudstack"), host="10.1.1.1", port=80, namespace=network.far) as server:
            run((*network.prefix, *AGENT, "--root", str(machine.root), "run", "--disk", "none"))
            assert {request.headers["host"] for request in server.requests} == {"10.1.1.1"}
    assert machine.status()["sources"]["user"] == "metadata:cloudstack"
    assert said(machine) == "user of CloudStack\n"
