"""Tokens of the metadata service: when one is asked for, where it goes, and where it never does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import (
    DATA,
    ID,
    TOKENS,
    ec2,
    hear,
    policy,
    spoken,
    told,
    verdicts,
)
from tests.spec.scenes import effects
from tests.spec.service import TOKEN, Service

if TYPE_CHECKING:
    from tests.machine import Machine

HEADER, LIFE = "x-aws-ec2-metadata-token", "x-aws-ec2-metadata-token-ttl-seconds"
HEADER, LIFE = "x-aws-ec2-metadata-token", "x-aws-ec2-metadata-token-ttl-seconds"
BOTH = ["user-data start", "epilog.sh start"]


def number(service: Service, method: str = "GET") -> int:
    return sum(each.method == method for each in service.requests)


def tokens(service: Service) -> None:
    """Let the service ask for a token, as IMDSv2 does."""
    service.pages[f"PUT {TOKENS}"] = TOKEN
    service.only = (HEADER, TOKEN)


@pytest.mark.parametrize(("dialect", "most"), [("ec2", 5), ("auto", 8)])
def test_a_401_costs_two_requests_more_and_its_token_serves_all_that_follow(
    machine: Machine, service: Service, dialect: str, most: int
) -> None:
    policy(machine, dialect=dialect)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    tokens(service)
    assert hear(machine, service).code == 0
    assert effects(machine) == BOTH
    assert len(service.requests) <= most, service.paths()
    assert number(service, "PUT") == 1
    place = [each.method for each in service.requests].index("PUT")
    assert 1 <= int(service.requests[place].headers[LIFE]) <= 21600
    assert {each.headers.get(HEADER) for each in service.requests[place + 1 :]} == {TOKEN}


@pytest.mark.parametrize(("dialect", "most"), [("ec2", 4), ("auto", 7)])
def test_imds_v2_fetches_its_token_first_and_costs_one_request_more(
    machine: Machine, service: Service, dialect: str, most: int
) -> None:
    policy(machine, dialect=dialect, imds="v2")
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    tokens(service)
    assert hear(machine, service).code == 0
    assert effects(machine) == BOTH
    assert len(service.requests) <= most, service.paths()
    assert number(service, "PUT") == 1
    ec2_paths = [each for each in service.requests if each.path in (ID, DATA)]
    assert {each.headers.get(HEADER) for each in ec2_paths} == {TOKEN}


def test_imds_v1_never_asks_for_a_token_and_a_401_is_broken(machine: Machine, service: Service) -> None:
    policy(machine, imds="v1")
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    tokens(service)
    assert hear(machine, service).code == 1
    assert number(service, "PUT") == 0
    assert set(verdicts(machine).values()) == {"broken"}


def test_a_401_after_the_token_is_broken_and_asks_for_no_second_one(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    tokens(service)
    service.only = (HEADER, "another")
    assert hear(machine, service).code == 1
    assert number(service, "PUT") == 1
    assert set(verdicts(machine).values()) == {"broken"}


def test_a_service_that_wants_no_token_is_asked_for_none(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh")) | {f"PUT {TOKENS}": TOKEN}
    assert hear(machine, service).code == 0
    assert number(service, "PUT") == 0
    assert not [each for each in service.requests if HEADER in each.headers]


@pytest.mark.parametrize("token", [b"a\r\nX-Evil: 1", b"\xff\x00", b"", b"x" * 100000, b"<html>login</html>"])
def test_a_token_that_is_none_is_sent_nowhere(machine: Machine, service: Service, token: bytes) -> None:
    policy(machine, imds="v2")
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh")) | {f"PUT {TOKENS}": token}
    done = hear(machine, service)
    assert "Traceback" not in done.err
    for each in service.requests:
        assert "x-evil" not in each.headers
        assert len(each.headers.get(HEADER, "")) < 10000
        assert each.headers.get(HEADER, "x").isprintable()


def test_the_token_is_kept_out_of_everything_that_is_written(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=spoken(machine, "epilog.sh"))
    tokens(service)
    done = hear(machine, service)
    assert TOKEN not in done.out + done.err
    for path in machine.root.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
