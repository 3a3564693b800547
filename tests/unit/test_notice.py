"""The notice before an instance is taken away: its time in the one form that EC2 gives it, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import BrokenSourceError
from contextagent.model import Verdict
from contextagent.payloads.notice import instance_action
from contextagent.runner.state import State
from contextagent.sources.notice import heard, where


def notice(time: object, action: str = "terminate") -> bytes:
    return json.dumps({"action": action, "time": time}).encode()


@given(st.integers(0, 253_402_300_799))
def test_every_second_is_read_as_it_was_written(epoch_s: int) -> None:
    text = datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")
    assert instance_action(notice(text)) == epoch_s


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_whatever_is_done_to_it_the_instance_ends(action: str) -> None:
    assert instance_action(notice("2017-09-18T08:22:00Z", action)) == 1_505_722_920


@pytest.mark.parametrize(
    "time",
    [
        *("", "soon", 1_505_722_920, None, "2017-09-18 08:22:00", "2017-09-18T08:22:00+02:00", "2017-02-29T00:00:00Z"),
        *("2017-13-01T00:00:00Z", "2017-00-10T00:00:00Z", "2017-04-31T00:00:00Z", "2017-09-18T24:00:00Z"),
        *("2017-09-18T08:60:00Z", "2017-09-18T08:22:61Z", "1969-12-31T23:59:59Z", "2017-09-18T08:22:0٣Z"),
    ],
)
def test_a_time_that_is_none_is_refused(time: object) -> None:
    with pytest.raises(BrokenSourceError):
        instance_action(notice(time))


@given(st.binary(max_size=200))
def test_no_bytes_of_a_stranger_are_a_bug(data: bytes) -> None:
    try:
        assert instance_action(data) >= 0
    except BrokenSourceError as error:
        assert error.reason == "bad-notice"  # noqa: PT017  # either will do


@pytest.mark.parametrize(
    ("source", "verdict", "address", "expected"),
    [
        ("metadata:ec2", "found", "http://169.254.169.254/latest/user-data", "http://169.254.169.254"),
        ("metadata:ec2", "absent", "http://10.0.0.1:8080/x/latest/user-data", "http://10.0.0.1:8080/x"),
        ("metadata:ec2", "found", "http://169.254.169.254/context/default.tgz", "http://169.254.169.254"),
        ("metadata:ec2", "unreachable", "http://169.254.169.254/latest/user-data", ""),
        ("metadata:openstack", "found", "http://169.254.169.254/openstack/latest/user_data", ""),
        ("disk", "found", "", ""),
    ],
)
def test_only_a_service_that_gives_notices_is_asked(source: str, verdict: str, address: str, expected: str) -> None:
    said = Verdict(
        owner="user",
        source=source,
        verdict=verdict,  # type: ignore[arg-type]  # a parameter's text
        reason="",
        duration_s=0.0,
        facts={"address": address} if address else {},
    )
    assert where(State(instance_id="i", verdicts=(said,))) == expected


@pytest.mark.parametrize("result", ["", "no json", "[]", '{"else": 1}', "ValueError: x"])
def test_a_child_that_failed_says_nothing_of_an_end(result: str) -> None:
    assert heard(result).at_s is None
    assert heard(result).problem
