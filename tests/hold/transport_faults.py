"""N1, N2, N3, N5 by chance: what a service, or a rogue in its place, can answer, and the verdict that it must get.

Whatever must be refused carries a body whose scripts leave a mark.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from tests.hold.transport import DIALECTS, Case, Fault
from tests.servers import CLOSE, HANG, RESET, Drip, answer, chunked, head

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from tests.servers import Play

    Maker = Callable[[random.Random], Fault]

REFUSED_STATUSES = (400, 402, 405, 406, 407, 408, 409, 411, 412, 413, 414, 415, 416, 418, 421, 422, 425, 428, 431, 451)
PASSING_STATUSES = (429, 500, 501, 502, 503, 504, 505, 507, 511, 599)
REDIRECTS = (300, 301, 302, 303, 307, 308)
PAGE = b"<!DOCTYPE html>\n<html><body>Please log in to this network</body></html>\n"
BUNDLE_OR_USER = ("bundle", "bundle", "user")


def same(play: Play) -> list[Play]:
    """Return a script of one play for ever; the server tells it from acts by its being a list in a list."""
    return [list(play)]


# -- N1: statuses, time-outs, flaps


def lasting_status(rng: random.Random) -> Fault:
    choices = [(status, "refused") for status in REFUSED_STATUSES]
    choices += [(status, "redirect") for status in REDIRECTS]
    choices += [(status, "bad-status") for status in (201, 202, 203, 206, 226)]
    status, reason = rng.choice([*choices, *[(403, "forbidden")] * 8])
    return Fault(
        f"always {status}", lambda _, evil: same([answer(evil, status, "Location: /latest/meta-data/")]), reason=reason
    )


def lasting_absence(rng: random.Random) -> Fault:
    status = rng.choice([404, 404, 410, 200])
    targets = ("bundle", "user")
    return Fault(
        f"nothing there: {status}",
        lambda _, evil: same([answer(evil if status != 200 else b"", status)]),
        verdict="absent",
        targets=targets,
    )


def lasting_outage(rng: random.Random) -> Fault:
    status = rng.choice(PASSING_STATUSES)
    header = rng.choice([[], [], ["Retry-After: 1000000000"], ["Retry-After: 0"], ["Retry-After: soon"]])
    reason = "rate-limited" if status == 429 else "server-error"
    return Fault(
        f"always {status} {header}", lambda _, evil: same([answer(evil, status, *header)]), reason=reason,
        is_retried=True,
    )  # fmt: skip


def lasting_silence(rng: random.Random) -> Fault:
    choices: list[tuple[str, Play, str]] = [
            ("reset", [RESET], "reset"), ("closed", [CLOSE], "reset"), ("silent", [HANG], "timeout"),
            ("reset amid the head", [b"HTTP/1.1 2", RESET], "reset"),
            ("silent amid the head", [b"HTTP/1.1 200 OK\r\n", HANG], "timeout"),
    ]  # fmt: skip
    name, play, reason = rng.choice(choices)
    return Fault(name, lambda _good, _evil: same(play), reason=reason, is_retried=True)


def passing(rng: random.Random) -> Fault:
    times = rng.randrange(1, 3)
    status = rng.choice(PASSING_STATUSES)
    choices: list[Play] = [[RESET], [CLOSE], [b"HTTP/1.1 503 Ser", RESET], ["status"], ["status"], ["wait"]]
    acts = rng.choice(choices)
    if times == 1 and rng.random() < 0.3:
        acts = [HANG]

    def plays(good: bytes, evil: bytes) -> list[Play]:
        bad: Play = acts
        if acts == ["status"]:
            bad = [answer(evil, status)]
        elif acts == ["wait"]:
            bad = [answer(evil, 503, "Retry-After: 1")]
        return [*([list(bad)] * times), [answer(good)]]

    # one after the other: what the silence of three costs is not the point
    targets = ("bundle", "user", "meta") if acts in ([HANG], ["wait"]) else ("bundle", "user", "meta", "all")
    return Fault(
        f"{times} times {acts} {status}", plays, verdict="found", targets=targets, is_slow=True, is_retried=True
    )


def token(rng: random.Random) -> Fault:
    imds = rng.choice(["auto", "auto", "v2", "v1"])
    verdict, reason = ("broken", "unauthorised") if imds == "v1" else ("found", "")
    return Fault(
        f"IMDSv2 under {imds}", lambda good, _: same([answer(good)]), verdict, reason, ("all",), token="abc==",
        imds=imds,
    )  # fmt: skip


# -- N2: slow heads and bodies, wrong lengths


def slow_but_whole(rng: random.Random) -> Fault:
    pieces = rng.randrange(5, 40)
    is_chunked = rng.random() < 0.3

    def plays(good: bytes, _: bytes) -> list[Play]:
        data = chunked(good) if is_chunked else answer(good)
        return same([Drip(data, 0.3 / pieces, len(data) // pieces + 1)])

    return Fault(f"in {pieces} pieces", plays, verdict="found", targets=("bundle", "user", "meta"), is_slow=True)


def dripping(rng: random.Random) -> Fault:
    kind = rng.choice(["head", "header", "body", "chunks", "open"])

    def plays(_: bytes, evil: bytes) -> list[Play]:
        match kind:
            case "head":
                return same([Drip(answer(evil), 0.05)])
            case "header":
                return same([b"HTTP/1.1 200 OK\r\n", Drip(b"X: y\r\n", 0.02, 6, is_endless=True)])
            case "body":
                return same([head(200, f"Content-Length: {len(evil)}"), Drip(evil, 0.05)])
            case "chunks":
                start = [head(200, "Transfer-Encoding: chunked"), b"%x\r\n%s\r\n" % (len(evil), evil)]
                return same([*start, Drip(b"1\r\n\0\r\n", 0.02, 6, is_endless=True)])
            case _:
                return same([head(), evil, Drip(b"\0", 0.02, is_endless=True)])

    return Fault(f"{kind} drips", plays, reason="timeout", is_retried=True)


def wrong_length(rng: random.Random) -> Fault:
    less = rng.randrange(1, 100)
    kind = rng.choice(
        ["less", "more", "more, silent", "reset", "two", "negative", "words", "absurd", "conflict", "behind"]
    )
    reason = {
        "less": "wrong-length", "more": "cut-short", "more, silent": "timeout", "reset": "reset",
        "two": "length-conflict", "conflict": "length-conflict", "absurd": "too-large", "behind": "wrong-length",
    }.get(kind, "bad-http")  # fmt: skip

    def plays(_: bytes, evil: bytes) -> list[Play]:
        size = len(evil)
        said: dict[str, tuple[list[int | str], Sequence[str | bytes]]] = {
            "less": ([size - min(less, size - 1)], []), "more": ([size + less], [CLOSE]),
            "more, silent": ([size + less], [HANG]), "reset": ([size + less], [RESET]),
            "two": ([size, size + less], []), "negative": ([-size], []),
            "words": (["many"], []), "absurd": ([10**14], [HANG]), "conflict": ([size], []), "behind": ([size], []),
        }  # fmt: skip
        lengths, end = said[kind]
        lines = [f"Content-Length: {each}" for each in lengths]
        lines += ["Transfer-Encoding: chunked"] if kind == "conflict" else []
        return same([head(200, *lines) + evil + (answer(evil) if kind == "behind" else b""), *end])

    return Fault(f"length {kind}", plays, reason=reason, is_retried=reason in ("timeout", "reset"))


# -- N3: chunks, gzip though identity was asked, HTML, byte order marks, redirects


def well_packed(rng: random.Random) -> Fault:
    cuts = sorted(rng.randrange(1, 500) for _ in range(rng.randrange(8)))
    kind = rng.choice(["chunks", "chunks", "extensions", "interim", "old", "identity"])

    def plays(good: bytes, _: bytes) -> list[Play]:
        ends = [*[cut for cut in cuts if cut < len(good)], len(good)]
        pieces = [good[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True) if start < end]
        match kind:
            case "extensions":
                body = b"".join(b"%X;a=b \r\n%s\r\n" % (len(piece), piece) for piece in pieces)
                return same([head(200, "Transfer-Encoding: Chunked") + body + b"000;end\r\nTrailer: x\r\n\r\n"])
            case "interim":
                return same([head(100) + head(103, "Link: </x>") + answer(good)])
            case "old":
                return same([b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.3\r\n\r\n", good, CLOSE])
            case "identity":
                return same([answer(good, 200, "Content-Encoding: identity", "Content-Type: text/plain")])
            case _:
                return same([chunked(*pieces)])

    return Fault(f"{kind} {cuts}", plays, verdict="found")


def badly_chunked(rng: random.Random) -> Fault:
    kind, reason = rng.choice(
        [
            ("size", "bad-http"), ("negative", "bad-http"), ("bare", "bad-http"), ("short", "wrong-length"),
            ("long", "wrong-length"), ("end", "cut-short"), ("behind", "wrong-length"), ("gzip", "bad-http"),
            ("line", "bad-http"),
        ]
    )  # fmt: skip

    def plays(_: bytes, evil: bytes) -> list[Play]:
        size = len(evil)
        body = {
            "size": b"0x%x\r\n%s\r\n0\r\n\r\n" % (size, evil),
            "negative": b"-%x\r\n%s\r\n0\r\n\r\n" % (size, evil),
            "bare": b"%x\n%s\n0\n\n" % (size, evil),
            "short": b"%x\r\n%s\r\n0\r\n\r\n" % (size - 1, evil),
            "long": b"%x\r\n%s\r\n0\r\n\r\n" % (size + 1, evil),
            "end": b"%x\r\n%s\r\n" % (size, evil),
            "behind": b"%x\r\n%s\r\n0\r\n\r\n%s" % (size, evil, evil),
            "gzip": b"%x\r\n%s\r\n0\r\n\r\n" % (size, evil),
            "line": b"%x;%s\r\n%s\r\n0\r\n\r\n" % (size, b"x" * 400, evil),
        }[kind]
        coding = "gzip, chunked" if kind == "gzip" else "chunked"
        return same([head(200, f"Transfer-Encoding: {coding}") + body, *([CLOSE] if kind == "end" else [])])

    return Fault(f"chunks: {kind}", plays, reason=reason)


def packed_though(rng: random.Random) -> Fault:
    coding = rng.choice(["gzip", "x-gzip", "deflate", "br"])
    is_bomb = rng.random() < 0.3

    def plays(_: bytes, evil: bytes) -> list[Play]:
        data = gzip.compress(bytes(1 << 22) if is_bomb else evil)
        return same([answer(data, 200, f"Content-Encoding: {coding}")])

    return Fault(f"{coding}, a bomb: {is_bomb}", plays, reason="encoded")


def page(rng: random.Random) -> Fault:
    kind = rng.choice(["text/html", "Text/HTML;charset=UTF-8", "application/xhtml+xml", ""])
    is_evil = bool(kind) and rng.random() < 0.5
    header = [f"Content-Type: {kind}"] if kind else []
    return Fault(
        f"HTML as {kind or 'nothing'}", lambda _, evil: same([answer(evil if is_evil else PAGE, 200, *header)]),
        reason="html", targets=BUNDLE_OR_USER if is_evil else ("bundle", "user", "meta", "all"),
    )  # fmt: skip


def marked(rng: random.Random) -> Fault:
    start = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"SSH-2.0-x\r\n", b"\0"])
    return Fault(f"begins with {start!r}", lambda _, evil: same([start + answer(evil)]), reason="bad-http")


def redirect(rng: random.Random) -> Fault:
    status = rng.choice(REDIRECTS)
    to = rng.choice(["http://127.0.0.1:2/", "//169.254.169.253/x", "file:///etc/passwd", "/other", "http://[::1]/x"])
    return Fault(
        f"{status} to {to}", lambda _, evil: same([answer(evil, status, f"Location: {to}")]), reason="redirect"
    )


# -- N5: a rogue answers first, or every other time


def rogue_that_passes(rng: random.Random) -> Fault:
    kind = rng.choice(["busy", "cut", "reset", "busy", "cut"])

    def plays(good: bytes, evil: bytes) -> list[Play]:
        rogue: dict[str, Play] = {
            "busy": [answer(evil, 503), CLOSE],
            "cut": [head(200, f"Content-Length: {len(evil) + 1}") + evil, RESET],
            "reset": [RESET],
        }
        return [list(rogue[kind]), [answer(good)]]

    return Fault(f"rogue first: {kind}", plays, verdict="found", is_slow=True, is_retried=True)


def rogue_that_stays(rng: random.Random) -> Fault:
    kind, reason = rng.choice(
        [
            ("redirect", "redirect"), ("page", "html"), ("conflict", "length-conflict"), ("packed", "encoded"),
            ("behind", "wrong-length"), ("forbidden", "forbidden"),
        ]
    )  # fmt: skip

    def plays(good: bytes, evil: bytes) -> list[Play]:
        both = ("Content-Length: 5", "Transfer-Encoding: chunked")
        rogue = {
            "redirect": answer(evil, 302, "Location: http://127.0.0.1/"),
            "page": answer(evil, 200, "Content-Type: text/html"),
            "conflict": head(200, *both) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(evil), evil),
            "packed": answer(evil, 200, "Content-Encoding: gzip"),
            "behind": answer(good) + answer(evil),
            "forbidden": answer(evil, 403),
        }[kind]
        return [[rogue], [answer(good)]]

    return Fault(f"rogue first: {kind}", plays, reason=reason, targets=BUNDLE_OR_USER)


def alternating(rng: random.Random) -> Fault:
    """A rogue has the next connections, too; what it said before it broke off is never joined to the rest."""
    is_reset = rng.random() < 0.5

    def plays(good: bytes, evil: bytes) -> list[Play]:
        rogue: Play = [head(200, f"Content-Length: {len(evil) + 9}") + evil, RESET] if is_reset else [answer(evil, 503)]
        return [list(rogue), list(rogue), [answer(good)]]

    return Fault(
        "rogue twice", plays, verdict="found", targets=("bundle", "user", "all"), is_slow=True, is_retried=True
    )


FAMILIES: dict[str, tuple[int, Sequence[Maker]]] = {
    "N1": (42, (lasting_status, lasting_status, lasting_absence, lasting_outage, lasting_silence, passing, token)),
    "N2": (36, (slow_but_whole, dripping, wrong_length, wrong_length)),
    "N3": (36, (well_packed, badly_chunked, packed_though, page, marked, redirect)),
    "N5": (14, (rogue_that_passes, rogue_that_stays, alternating)),
}
"""Cases a submission, and what they are drawn from, in turn, so that each kind is there; N4 has networks of its own."""


def drawn(family: str, count: int, rng: random.Random) -> list[Case]:
    """Return that many cases of a family."""
    makers = FAMILIES[family][1]
    cases = []
    for number in range(count):
        fault = makers[number % len(makers)](rng)
        cases.append(
            Case(
                name=f"{family}-{number}",
                target=rng.choice(fault.targets),
                dialect="ec2" if fault.token else rng.choice(list(DIALECTS)),
                is_named=bool(fault.token) or rng.random() < 0.5,
                is_warm=rng.random() < 0.25,
                fault=fault,
            )
        )
    return cases
