"""The features as pages of HTTP: what stands at each path, and that nothing stands at any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.features.pages import JOB_PATH, MACHINE_PATH, addresses, page
from contextagent.payloads.http_request import BadRequest, path_parts

FEATURES = {"machine/total_cpu": "8", "machine/syslog": "log.example", "job/allocated_cpu": "4", "job/é": "1"}


def test_the_addresses_have_no_slash_at_their_end() -> None:
    machine, job = addresses("127.0.0.1:253")
    assert (machine, job) == (f"http://127.0.0.1:253/{MACHINE_PATH}", f"http://127.0.0.1:253/{JOB_PATH}")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_value_has_no_newline_that_it_does_not_have_in_its_file(method: str) -> None:
    assert page(method, ("jobfeatures", "allocated_cpu"), FEATURES).body == b"4"


def test_a_folder_lists_its_own_names() -> None:
    assert page("GET", ("machinefeatures",), FEATURES).body == b"syslog\ntotal_cpu\n"
    assert page("GET", (), FEATURES).body == b"machinefeatures/\njobfeatures/\n"
    assert page("GET", ("machinefeatures",), {}).body == b""


@given(st.text(max_size=60))
def test_any_other_path_is_no_page(path: str) -> None:
    parts = path_parts(f"/{path}")
    if isinstance(parts, BadRequest) or len(parts) < 2:
        return
    known = {("machinefeatures", "total_cpu"), ("machinefeatures", "syslog"), ("jobfeatures", "allocated_cpu")}
    assert page("GET", parts, FEATURES).status == (200 if parts in {*known, ("jobfeatures", "é")} else 404)


@given(st.text(max_size=8).filter(lambda method: method not in ("GET", "HEAD")))
def test_nothing_can_be_done_but_read(method: str) -> None:
    assert page(method, ("machinefeatures", "total_cpu"), FEATURES).status == 405
