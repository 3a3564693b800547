"""The receipt of a boot (docs/reference/trace.md)."""

from __future__ import annotations

import json

from contextagent.trace.chain import Chain, line_hash
from contextagent.trace.receipt import make_receipt
from tests.traces import BOOT, trace


def receipt(lines: list[bytes], extra: dict | None = None) -> dict:
    return make_receipt([json.loads(line) for line in lines], extra)


def test_a_receipt_names_the_first_and_the_last_line_by_their_hashes() -> None:
    lines = trace(ends=("shutdown",))
    made = receipt(lines)
    assert (made["first"], made["last"]) == (
        {"seq": 1, "hash": line_hash(lines[0])},
        {"seq": 8, "hash": line_hash(lines[-1])},
    )
    assert (made["boot"], made["instance"], made["image"], made["agent"]) == (BOOT, "i-17", "image", "1.0")


def test_each_script_has_digest_rights_exit_and_duration() -> None:
    (script,) = receipt(trace(1))["scripts"]
    assert script["id"] == "user/post-network/post-network.d/00"
    assert (script["sha512"], script["uid"], script["exit"], script["duration_s"]) == ("0" * 128, 990, 0, 0.25)
    assert (script["limits"], script["environment"]) == (None, None)


def test_limits_and_environment_names_come_from_the_agent() -> None:
    known = {"limits": {"wall_s": 600}, "environment": ["PATH", "HOME"]}
    made = receipt(trace(1), {"scripts": {"user/post-network/post-network.d/00": known}, "trust": {"site": "channel"}})
    assert {key: made["scripts"][0][key] for key in known} == known
    assert made["trust"] == {"site": "channel"}


def test_a_script_that_did_not_end_has_no_exit() -> None:
    (script,) = receipt(trace(1)[:2])["scripts"]
    assert (script["exit"], script["reason"], script["duration_s"]) == (None, None, None)


def test_an_end_without_a_start_of_this_boot_adds_no_script() -> None:
    lines = trace(1)
    assert receipt([lines[0], lines[2]])["scripts"] == []


def test_what_is_not_known_yet_is_null_and_the_newest_word_counts() -> None:
    chain = Chain(boot="b", inst="")
    lines = [
        chain.line(ev, fields, utc_ns=0, mono_ns=0, sync=True)
        for ev, fields in (
            ("logging", {"delivered": "configured"}),
            ("logging", {"delivered": "reachable"}),
            ("source", {"owner": "site", "source": "disk", "verdict": "found"}),
            ("file", {"id": "x", "path": "/etc/motd"}),
            ("identity", {"owner": "site", "account": "root"}),
            ("refuse", {"id": "x", "reason": "banned"}),
            ("network", {"state": "up"}),
        )
    ]
    made = receipt(lines)
    assert made["logging"] == {"delivered": "reachable"}
    assert [made[key] for key in ("environment", "lifetime", "pilot", "image")] == [None] * 4
    assert [len(made[key]) for key in ("sources", "files", "accounts", "refused")] == [1, 1, 1, 1]


def test_without_a_trace_there_is_no_first_and_no_last() -> None:
    made = receipt([])
    assert (made["first"], made["last"], made["scripts"]) == (None, None, [])
