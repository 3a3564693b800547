"""Mutants of answers, through the real child over real connections: each is an outcome, and none spoils the next."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

from contextagent.host import Host
from contextagent.payloads.address import parse_address
from contextagent.sources.service import Service
from tests.servers import CLOSE, Server, answer, chunked, head

if TYPE_CHECKING:
    from tests.servers import Play, Request

SEED = 20091109  # the working group's first slides; change it for another walk
MUTANTS = 100_000 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 3_000
SEEDS = (
    answer("hello", 200, "Content-Type: text/plain"),
    chunked(b"hello", b" world"),
    head(100) + answer("x" * 500),
    answer("nothing", 404),
    answer("busy", 503, "Retry-After: 3"),
    answer("", 302, "Location: /"),
    b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.3\r\n\r\nhello",
)
SPLICES = (
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b";", b"0", b"-", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: x\r\n", b"Connection: close\r\n",
)  # fmt: skip


def mutant(rng: random.Random) -> bytes:
    made = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(made) + 1)
        made[at : at + rng.randrange(4)] = rng.choice([*SPLICES, rng.randbytes(2), b"", b""])
    return bytes(made)


def test_no_mutant_of_an_answer_ends_the_child_or_spoils_the_next_answer() -> None:
    rng = random.Random(SEED)

    def play(_: Request) -> Play:
        return [mutant(rng), CLOSE]

    with Server({"/mutant": play, "/good": answer("good")}) as server:
        service = Service(
            Host("/nowhere"), parse_address(server.url), connect_s=5, try_s=5, total_s=3600,
            start_ns=time.monotonic_ns(),
        )  # fmt: skip
        children = set()
        outcomes = set()
        for number in range(MUTANTS):
            found = service.get("/mutant", max_bytes=1000)
            outcomes.add(found.outcome)
            assert found.reason not in ("reader-died", "reader-timeout", "reader-too-much"), found
            assert found.size_bytes == len(found.body)
            children.add(service._child._pid if service._child else 0)
            if number % 50 == 0:
                assert service.get("/good", max_bytes=1000).body == b"good"
        service.close()
    assert len(children) == 1
    assert outcomes == {"found", "absent", "broken", "retry"}
