"""The factory of the tests itself: its services say what Vac's say, and its rules are Vac's."""

from __future__ import annotations

import http.client
import json
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.dialects import answers
from tests.vac.factory import Factory, Machine, Machinetype
from tests.vac.services import Services

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEATING = Machinetype("", fizzle_s=100, backoff_s=50, heartbeat_file="vm-heartbeat", heartbeat_s=30)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = float(int(time.time()))

    def __call__(self) -> float:
        return self.now_s


class Puppet:
    """A VM that does nothing by itself."""

    def __init__(self, *, obeys: bool = True) -> None:
        self.is_running = True
        self.events: list[str] = []
        self._obeys = obeys

    def press_power(self) -> None:
        self.events.append("power")
        self.is_running = not self._obeys

    def cut(self) -> None:
        self.events.append("cut")
        self.is_running = False


class Scene(NamedTuple):
    clock: Clock
    factory: Factory
    machine: Machine
    vm: Puppet

    def after(self, seconds: float) -> None:
        """Let time go by, and the factory look."""
        self.clock.now_s += seconds
        self.factory.cycle()

    def beat(self) -> None:
        """Let the machine's heartbeat arrive."""
        self.put("vm-heartbeat", "")

    def put(self, name: str, text: str) -> None:
        """Let an output arrive now."""
        path = self.machine.folder / "joboutputs" / name
        path.write_text(text)
        os.utime(path, (self.clock.now_s, self.clock.now_s))


def scene(folder: Path, machinetype: Machinetype) -> Scene:
    """Return a factory with one machine that runs."""
    clock = Clock()
    factory = Factory(folder, machinetype, clock=clock)
    machine, vm = factory.create(), Puppet()
    machine.start(vm, clock())
    return Scene(clock, factory, machine, vm)


def test_a_machine_without_a_heartbeat_is_ended_once_it_is_older_than_a_fizzle(tmp_path: Path) -> None:
    at = scene(tmp_path, BEATING)
    at.after(100)
    assert at.vm.is_running
    at.after(1)
    assert at.vm.events[0] == "power"
    assert at.machine.message
    assert at.machine.message[:2] == (700, "Heartbeat file not created")


def test_a_heartbeat_that_stops_ends_it_and_one_that_goes_on_does_not(tmp_path: Path) -> None:
    at = scene(tmp_path, BEATING)
    for _ in range(10):
        at.after(29)
        at.beat()
    at.after(30)
    assert at.vm.is_running
    at.after(1)
    assert at.machine.message
    assert (at.machine.message[:2], at.machine.destroyed) == ((700, "Heartbeat file not updated"), "heartbeat")


def test_what_the_machine_said_before_is_not_replaced_by_the_factorys_word(tmp_path: Path) -> None:
    at = scene(tmp_path, BEATING)
    at.put("shutdown_message", "300 no work")
    at.after(101)
    assert at.factory.outcome(at.machine) == (300, "no work", at.clock.now_s - 101)


def test_a_machine_that_outlives_its_end_is_ended_without_a_word(tmp_path: Path) -> None:
    at = scene(tmp_path, Machinetype("", max_wallclock_s=1000))
    at.after(1000)
    assert at.vm.is_running
    at.after(1)
    assert (at.machine.is_over, at.machine.destroyed, at.machine.message) == (True, "lifetime", None)
    assert at.factory.outcome(at.machine) is None
    assert not at.factory.is_backing_off


def test_an_administrators_end_lowers_that_of_a_machine_and_never_raises_it(tmp_path: Path) -> None:
    at = scene(tmp_path, Machinetype("", max_wallclock_s=1000))
    own_s, limit = at.machine.shutdown_s, (at.machine.folder / "jobfeatures/wall_limit_secs").read_text()
    for wish_s, end_s in ((own_s + 500, own_s), (own_s - 500, own_s - 500), (own_s - 200, own_s - 500)):
        at.factory.shutdown_s = wish_s
        at.after(1)
        features = ("machinefeatures/shutdowntime", "jobfeatures/shutdowntime_job")
        assert [(at.machine.folder / name).read_text() for name in features] == [str(end_s)] * 2
    assert (at.machine.folder / "jobfeatures/wall_limit_secs").read_text() == limit == "1000"


@pytest.mark.parametrize(
    ("message", "lived_s", "code"),
    [("200 done", 10, 200), ("300 no work", 10, 300), ("500 site", 999, 500), ("", 10, 300), ("", 999, None)],
)
def test_only_a_code_from_300_on_or_a_fizzle_makes_the_factory_back_off(
    message: str, lived_s: int, code: int | None, tmp_path: Path
) -> None:
    at = scene(tmp_path, Machinetype("", fizzle_s=100, backoff_s=50))
    at.after(lived_s)
    if message:
        at.put("shutdown_message", message)
    at.vm.is_running = False
    at.after(0)
    outcome = at.factory.outcome(at.machine)
    assert (outcome and outcome.code) == code
    assert at.factory.is_backing_off is (code is not None and code >= 300)
    at.after(51)
    assert not at.factory.is_backing_off


def test_the_back_off_is_longer_while_another_young_machine_may_fizzle(tmp_path: Path) -> None:
    at = scene(tmp_path, Machinetype("", fizzle_s=100, backoff_s=50))
    at.vm.is_running = False
    at.after(0)
    young = at.factory.create()
    young.start(Puppet(), at.clock.now_s)
    at.after(51)
    assert at.factory.is_backing_off
    at.after(50)
    assert not at.factory.is_backing_off, "it is old enough now"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    factory = Factory(tmp_path, Machinetype("#!/bin/sh\necho user of Vac\n", processors=2, extras={"syslog": "x"}))
    factory.create()
    with Services(factory, hosts=("127.0.0.1", "127.0.0.1"), port=0) as services:
        yield services


class Answer(NamedTuple):
    status: int
    version: int
    headers: dict[str, str]
    body: bytes


def ask(url: str, method: str = "GET", body: bytes | None = None) -> Answer:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)) as connection:
        if body is None:
            connection.putrequest(method, parts.path)
            connection.endheaders()
        else:
            connection.request(method, parts.path, body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.version, dict(answer.getheaders()), answer.read())


def test_the_metadata_tree_is_that_of_the_dialects_fixture(services: Services) -> None:
    for path, body in answers("vac").items():
        answer = ask(services.metadata_url + path)
        assert (answer.status, answer.version) == (200, 10), path
        if not path.endswith(".json"):
            assert answer.body == body
            continue
        said, meant = json.loads(answer.body), json.loads(body)
        assert (set(said), set(said["meta"])) == (set(meant), set(meant["meta"]))
        assert said["uuid"] == services.factory.machine.uuid


@pytest.mark.parametrize(
    "path", ["/", "/latest/", "/openstack/", "/openstack/latest/meta_data.json", "/context/default.tgz"]
)
def test_nothing_else_is_there(path: str, services: Services) -> None:
    answer = ask(services.metadata_url + path)
    assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize("path", ["/latest/user-data", "/2009-04-04/user-data", "//openstack//latest/user-data"])
def test_any_version_is_the_latest_and_slashes_are_folded(path: str, services: Services) -> None:
    assert ask(services.metadata_url + path).body == b"#!/bin/sh\necho user of Vac\n"


def test_an_answer_tells_no_length(services: Services) -> None:
    answer = ask(f"{services.features_url}/machinefeatures/total_cpu")
    assert (answer.body, set(answer.headers)) == (b"2", {"Server", "Date", "Content-type"})


def test_features_are_listed_as_links_and_each_is_a_text(services: Services) -> None:
    listing = ask(f"{services.features_url}/machinefeatures/")
    assert listing.headers["Content-type"] == "text/html"
    assert b'<li><a href="syslog">syslog</a></li>' in listing.body
    assert ask(f"{services.features_url}/jobfeatures/allocated_cpu").body == b"2\n"
    for path in ("/joboutputs/", "/jobfeatures/none", "/jobfeatures/a/b", "/"):
        assert ask(services.features_url + path).status == 404


def test_an_output_is_taken_under_any_name_and_nothing_without_a_length_or_in_a_folder(services: Services) -> None:
    url = f"{services.features_url}/joboutputs/"
    assert ask(url + "shutdown_message", "PUT", b"200 done").status == 201
    assert services.factory.machine.output("shutdown_message") == "200 done"
    assert ask(url + "empty", "PUT", b"").status == 201
    assert ask(url + "a/b", "PUT", b"x").status == 403
    assert ask(url, "PUT", b"x").status == 403
    assert ask(url + "no-length", "PUT").status == 403
    assert services.factory.machine.output("no-length") is None
    assert services.paths("features", "PUT")[0] == "/joboutputs/shutdown_message"
