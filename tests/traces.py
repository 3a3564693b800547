"""Traces for tests, made by the agent's own chain."""

from __future__ import annotations

from contextagent.trace.chain import Chain
from contextagent.trace.verify import Report, Verifier

BOOT = "5a1f0c9e-0000-4000-8000-000000000001"
UTC_NS = 1_795_236_220_123_456_789
RSYSLOG = b"2026-11-21T04:43:40.123456+00:00 node17 contextagent: "


def trace(
    scripts: int = 3, *, boot: str = BOOT, last: dict | None = None, ends: tuple[str, ...] = (), wide: bool = False
) -> list[bytes]:
    """Return the lines of a boot: its first record, `start` and `end` of each script, then the events `ends`.

    Where it is `wide`, each `start` is as long as a line may be.
    """
    argv = ["/x", *(["x" * 55] * 60 if wide else []), "start"]
    chain = Chain(boot=boot, inst="i-17", img="image")
    lines: list[bytes] = []

    def add(ev: str, **fields: object) -> None:
        line = chain.line(ev, fields, utc_ns=UTC_NS + chain.seq, mono_ns=chain.seq, sync=True)
        lines.append(line)
        chain.add(line)

    add("boot", agent="1.0", kernel="6.1", last=last)
    for number in range(scripts):
        script = f"user/post-network/post-network.d/{number:02}"
        add("start", id=script, sha512=f"{number:0128x}", uid=990, gid=990, argv=argv, late=False)
        add("end", id=script, exit=0, signal=None, reason="exit", wall_s=0.25, out_bytes=12)
    for ev in ends:
        if ev == "anchor":
            add(ev, head=chain.head, lost=0)
        else:
            add(ev)
    return lines


def verified(*streams: list[bytes], anchors: tuple[str, ...] = ()) -> Report:
    """Return what a collector finds in these files."""
    verifier = Verifier(anchors)
    for lines in streams:
        verifier.feed([b"".join(lines)])
    return verifier.report()
