"""What each answer of a service means, what is tried again, and the bounds that no server can stretch."""

from __future__ import annotations

import gzip
import itertools
import time
from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import BUNDLE, DATA, ID, at_once, ec2, hear, policy, records, spoken, told, verdict, verdicts
from tests.spec.scenes import effects
from tests.spec.service import Page, Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine
    from tests.spec.service import Answer

LONG_S = 20
"""More than any of these boots may take by its own bounds, on a busy machine."""
HTML = {"Content-Type": "text/html; charset=utf-8"}
PORTAL = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Log in first</body></html>\n"


def boot(machine: Machine, service: Service, path: str, answer: Answer, **metadata: str) -> str:
    """Boot where one path answers like this and all else is well; return that owner's verdict."""
    policy(machine, **metadata)
    service.pages = {**ec2(told(machine), bundle=spoken(machine, "epilog.sh")), path: answer}
    done = hear(machine, service)
    owner, other = ("site", "user") if path == BUNDLE else ("user", "site")
    assert "Traceback" not in done.err
    found = verdicts(machine)
    assert found[other] == "found"
    said = {"site": "epilog.sh start", "user": "user-data start"}
    assert said[other] in effects(machine)
    assert (said[owner] in effects(machine)) is (found[owner] == "found")
    if found[owner] == "broken":
        assert done.code == (1 if owner == "site" else 2)
        assert verdict(machine, owner)["reason"]
    else:
        assert done.code == 0
    return found[owner]


@pytest.mark.parametrize("path", [BUNDLE, DATA])
@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (404, "absent"),
        (410, "absent"),
        (Page(b""), "absent"),
        (Page(b"", is_chunked=True), "absent"),
        (400, "broken"),
        (403, "broken"),
        (304, "broken"),
        (Page(PORTAL, headers=HTML), "broken"),
        (Page(PORTAL, headers={"Content-Type": "TEXT/HTML"}), "broken"),
    ],
    ids=itertools.count(),
)
def test_each_answer_has_its_verdict(machine: Machine, service: Service, path: str, answer: Answer, word: str) -> None:
    assert boot(machine, service, path, answer) == word
    assert service.paths().count(path) == 1, "what is final is not tried again"


@pytest.mark.parametrize("path", [BUNDLE, DATA])
def test_a_401_without_a_token_service_is_broken(machine: Machine, service: Service, path: str) -> None:
    assert boot(machine, service, path, 401) == "broken"


def test_the_same_data_comes_whole_in_every_framing(machine: Machine, service: Service) -> None:
    data = told(machine).encode()
    for number, page in enumerate((Page(data, is_chunked=True), Page(data, old=True), Page(data)), 1):
        service.forget()
        assert boot(machine, service, DATA, page) == "found"
        assert records(machine, "user")[-1]["bytes"] == len(data)
        assert len(effects(machine)) == number + 1, "a user's script runs once, a site's each time"
        machine.reboot()


@pytest.mark.parametrize("path", [BUNDLE, DATA])
@pytest.mark.parametrize(
    "answer",
    [
        Page(b"#!/bin/sh\n", headers={"Content-Length": "1000"}, fault=""),
        Page(b"#!/bin/sh\n", headers={"Content-Length": "-1"}),
        Page(b"#!/bin/sh\n", headers={"Content-Length": "1e1"}),
        Page(b"#!/bin/sh\n", headers={"Content-Length": "99999999999999999999999"}),
        Page(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 20\r\n\r\n#!/bin/sh\n"),
        Page(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        Page(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
        Page(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc"),
        Page(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        Page(raw=b"\x00" * 5000),
        Page(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100000),
    ],
    ids=itertools.count(),
)
def test_lengths_and_framings_that_are_wrong_are_broken(
    machine: Machine, service: Service, path: str, answer: Answer
) -> None:
    assert boot(machine, service, path, answer) == "broken"


@pytest.mark.parametrize("path", [BUNDLE, DATA, ID])
def test_a_body_longer_than_the_caps_is_refused_by_its_length_alone(
    machine: Machine, service: Service, path: str
) -> None:
    policy(machine)
    service.pages = {**ec2(told(machine), bundle=spoken(machine, "epilog.sh"))}
    service.pages[path] = Page(b"x", headers={"Content-Length": str(1 << 40)}, fault="stall")
    hear(machine, service)
    assert service.paths().count(path) == 1
    wrong = {BUNDLE: "site", DATA: "user"}.get(path)
    assert [owner for owner, word in verdicts(machine).items() if word == "broken"] == ([wrong] if wrong else [])


def test_an_endless_body_is_refused_and_costs_no_memory_nor_disk(machine: Machine, service: Service) -> None:
    policy(machine, "caps: {total_bytes: 100000, member_bytes: 100000}", total_s="5", try_s="5")
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000_000
    service.pages = ec2(Page(raw=endless), bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 2
    assert verdicts(machine)["user"] == "broken"
    for path in machine.root.rglob("*"):
        assert not path.is_file() or path.stat().st_size < 1_000_000, path


def test_a_content_encoding_that_nobody_asked_for_is_not_executed_as_something_else(
    machine: Machine, service: Service
) -> None:
    bomb = gzip.compress(b"#!/bin/sh\n" + b"#" * 50_000_000)
    policy(machine)
    service.pages = ec2(Page(bomb, headers={"Content-Encoding": "gzip"}), bundle=spoken(machine, "epilog.sh"))
    assert hear(machine, service).code == 2
    assert verdicts(machine) == {"site": "found", "user": "broken"}
    assert effects(machine) == ["epilog.sh start"]


# ---- what is tried again ----

PASSING = [429, 500, 503, Page(fault="reset")]


def test_what_may_pass_is_tried_again_and_a_retry_that_succeeds_is_not_degraded(tmp_path: Path) -> None:
    def case(machine: Machine, service: Service, path: str, trouble: Answer) -> None:
        policy(machine, total_s="20", try_s="2")
        service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
        service.pages[path] = [trouble, service.pages[path]]
        assert hear(machine, service).code == 0
        assert effects(machine) == ["user-data start", "epilog.sh start"]
        assert machine.status()["result"] == "ok"
        assert service.paths().count(path) == 2
        others = {BUNDLE, DATA, ID} - {path}
        assert all(service.paths().count(each) == 1 for each in others), "what is had is not asked for again"

    at_once(
        tmp_path,
        case,
        [
            *((path, trouble) for path in (BUNDLE, DATA, ID) for trouble in PASSING),
            *((BUNDLE, trouble) for trouble in (502, 504, Page(fault="close"), Page(fault="hang"))),
        ],
    )


def test_what_does_not_pass_is_broken_when_the_time_is_up(tmp_path: Path) -> None:
    def case(machine: Machine, service: Service, trouble: Answer) -> None:
        began = time.monotonic()
        assert boot(machine, service, BUNDLE, trouble) == "broken"
        assert time.monotonic() - began < LONG_S
        assert service.paths().count(BUNDLE) >= 2
        assert service.paths().count(DATA) == 1

    at_once(tmp_path, case, [(503,), (429,), (Page(fault="reset"),), (Page(fault="hang"),)])


def test_the_trace_counts_the_tries_and_tells_the_last_status(machine: Machine, service: Service) -> None:
    policy(machine, total_s="20")
    service.pages = ec2(404, bundle=[503, 500, spoken(machine, "epilog.sh")])
    hear(machine, service)
    found = records(machine, "site")[-1]
    assert (found["verdict"], found["tries"], found["http"]) == ("found", 3, 200)
    assert service.url.removeprefix("http://") in found["address"]
    found = records(machine, "user")[-1]
    assert (found["verdict"], found["http"]) == ("absent", 404)


def test_tries_back_off_from_a_fifth_of_a_second_and_never_hammer(machine: Machine, service: Service) -> None:
    policy(machine, total_s="3")
    service.pages = ec2(told(machine), bundle=503)
    hear(machine, service)
    times = [each.seconds for each in service.requests if each.path == BUNDLE]
    assert 3 <= len(times) <= 12
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) >= 0.05


def test_a_retry_after_is_heeded(machine: Machine, service: Service) -> None:
    policy(machine, total_s="20")
    bundle = spoken(machine, "epilog.sh")
    service.pages = ec2(told(machine), bundle=[Page(status=429, headers={"Retry-After": "2"}), bundle])
    assert hear(machine, service).code == 0
    first, second = (each.seconds for each in service.requests if each.path == BUNDLE)
    assert second - first >= 1.9


def test_no_retry_after_stretches_a_boot(tmp_path: Path) -> None:
    def case(machine: Machine, service: Service, word: str) -> None:
        began = time.monotonic()
        assert boot(machine, service, BUNDLE, Page(status=503, headers={"Retry-After": word}), total_s="1") == "broken"
        assert time.monotonic() - began < LONG_S

    at_once(tmp_path, case, [("1000000000",), ("-5",), ("9" * 5000,), ("Fri, 31 Dec 9999 23:59:59 GMT",)])


def test_a_server_that_drips_stretches_nothing(tmp_path: Path) -> None:
    def case(machine: Machine, service: Service, path: str, fault: str) -> None:
        policy(machine)
        service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
        service.pages[path] = Page(b"#" * 5000, fault=fault, pause_s=0.05)
        began = time.monotonic()
        hear(machine, service)
        assert time.monotonic() - began < LONG_S
        wrong = {BUNDLE: "site", DATA: "user"}.get(path)
        assert [owner for owner, word in verdicts(machine).items() if word == "broken"] == ([wrong] if wrong else [])
        assert ("epilog.sh start" in effects(machine)) is (path != BUNDLE)
        assert ("user-data start" in effects(machine)) or path != BUNDLE

    at_once(
        tmp_path, case, [*((path, "drip") for path in (BUNDLE, DATA, ID)), (BUNDLE, "slow head"), (DATA, "slow head")]
    )


def test_a_server_that_takes_connections_and_says_nothing_is_broken_not_unreachable(
    machine: Machine, service: Service
) -> None:
    policy(machine, total_s="1")
    service.pages = dict.fromkeys((BUNDLE, ID, DATA), Page(fault="hang"))
    began = time.monotonic()
    assert hear(machine, service).code == 1
    assert time.monotonic() - began < LONG_S
    assert set(verdicts(machine).values()) == {"broken"}


def test_a_server_that_dies_after_its_first_connection_is_broken_not_unreachable(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    service.dies_at = 1
    assert hear(machine, service).code == 1
    assert set(verdicts(machine).values()) == {"broken"}


def test_what_was_fetched_before_the_server_died_is_used(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    service.dies_at = 2
    assert hear(machine, service).code in (1, 2)
    assert list(verdicts(machine).values()).count("found") <= 1
    assert effects(machine) in (["epilog.sh start"], ["user-data start"], [])
    assert effects(machine) == ["epilog.sh start"], "the site's own is asked for first, or at least is not lost"


def test_each_owners_verdict_is_its_own_when_meta_data_is_out_of_order(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), instance=403, bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    assert verdicts(machine)["site"] == "found"
    assert "epilog.sh start" in effects(machine)


@pytest.mark.parametrize(
    "instance",
    [b"\x00" * 10, b"<html>", b"x" * 100000, b"../../../../tmp/x", b"a\nb\nc", b"\xff\xfe", b" \n"],
    ids=repr,
)
def test_an_instance_id_that_is_none_costs_the_site_nothing_and_reaches_no_path(
    machine: Machine, service: Service, instance: bytes
) -> None:
    policy(machine)
    service.pages = ec2(404, instance=instance, bundle=spoken(machine, "epilog.sh"))
    done = hear(machine, service)
    assert "Traceback" not in done.err
    assert effects(machine) == ["epilog.sh start"]
    name = machine.status()["instance_id"]
    assert "/" not in name
    assert ".." not in name
    assert name.isprintable()
    assert len(name) < 256
    assert [each.name for each in (machine.root / "var/lib/contextagent/instances").iterdir()] == [name]


@pytest.mark.parametrize("path", [BUNDLE, DATA])
def test_html_that_does_not_say_so_is_not_run(machine: Machine, service: Service, path: str) -> None:
    policy(machine)
    service.pages = {**ec2(404), path: Page(PORTAL, headers={"Content-Type": ""})}
    hear(machine, service)
    assert not machine.status()["scripts"]
    assert verdicts(machine)["site"] == ("broken" if path == BUNDLE else "absent")
