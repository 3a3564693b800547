"""Whether traces are whole: many VMs' records in one stream, checked line by line in constant memory per boot."""

from __future__ import annotations

import re
from binascii import unhexlify
from hashlib import sha256

from contextagent import jsontext
from contextagent.model import Value
from contextagent.trace.boots import Boot, Span
from contextagent.trace.syslog import RECORD_START, USUAL_HEADER, lines_of, record_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal

    from contextagent.trace.boots import Fault

    VerdictName = Literal["intact", "open", "broken"]

_RECORD = re.compile(
    USUAL_HEADER + rb'\{"v":1,"seq":([1-9]\d{0,17}),"prev":"([0-9a-f]{64})","boot":"([^"\\]*(?:\\.[^"\\]*)*)"'
)
"""A record as this agent writes it, behind a header as most collectors write it, or none."""
_HASH = re.compile("[0-9a-f]{64}")
_EXIT_CODES: dict[VerdictName, int] = {"intact": 0, "open": 2, "broken": 1}
VERDICTS: tuple[VerdictName, ...] = ("intact", "open", "broken")


class BootVerdict(Value):
    """What can be said of one boot's trace.

    Attributes:
        verdict: `intact`: whole up to its known end; `open`: the chain is good, but nothing vouches for where it ends;
            `broken`: `fault` says where.
        records: Different records seen; `duplicates` were seen again.
        seq: Number of the last record, and `head` its hash.
        because: Why it is intact or open, in words.
    """

    boot: str
    inst: str
    img: str
    verdict: VerdictName
    records: int
    duplicates: int
    seq: int
    head: str
    because: str
    fault: Fault | None = None


class Report(Value):
    """What a whole stream holds.

    Attributes:
        boots: In the order in which they were first seen.
        foreign: Lines that are no trace records.
        damaged: Lines that look like one and can't be read.
        missing_anchors: Anchors that no record has.
    """

    boots: tuple[BootVerdict, ...]
    foreign: int
    damaged: int
    missing_anchors: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 all intact, 2 some open, 1 any broken or an anchor not found, 3 no record at all."""
        if self.missing_anchors:
            return 1
        verdicts = [boot.verdict for boot in self.boots]
        for verdict in ("broken", "open"):
            if verdict in verdicts:
                return _EXIT_CODES[verdict]
        return 0 if verdicts else 3


class Verifier:
    """Reads streams, one after another, and says what they hold.

    Args:
        anchors: Hashes known from elsewhere (console, receipt): each is some record's, and a boot that has one must end
            with it.
    """

    def __init__(self, anchors: Iterable[str] = ()) -> None:
        self._anchors = {bytes.fromhex(anchor.strip()) for anchor in anchors}
        self._met: set[bytes] = set()
        self._boots: dict[bytes, Boot] = {}
        self._source = 0
        self._foreign = 0
        self._damaged = 0

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Read one file's bytes, in pieces of any size."""
        self._source += 1
        fast, boots, digest, source = _RECORD.match, self._boots, sha256, self._source
        for line in lines_of(chunks):
            data, match = line, fast(line)
            if match is None:
                data = record_bytes(line) or b""
                match = fast(data)
                if match is None:
                    self._odd(line)
                    continue
            data = data[match.start(1) - len(RECORD_START) :]
            number, named, name = match.groups()
            seq, prev, head = int(number), unhexlify(named), digest(data).digest()
            boot = boots.get(name)
            if boot is None:
                boots[name] = Boot(Span(seq, prev, head, data), source)
            elif seq == boot.span.last + 1 and len(boot.spans) == 1 and boot.source == source:
                boot.extend(boot.span, seq, prev, head, data)
            else:
                boot.place(seq, prev, head, data, source)
            if head in self._anchors:
                self._met.add(head)
                boots[name].anchored = max(boots[name].anchored, seq)

    def _odd(self, line: bytes) -> None:
        """Count a line that is no record as this agent writes it."""
        if b'"prev":' in line:
            self._damaged += 1
        else:
            self._foreign += 1

    def report(self) -> Report:
        """Return what was found in all that was fed."""
        ends = {name: boot.settle() for name, boot in self._boots.items()}
        claims = self._claims()
        missing = self._anchors - self._met
        unanchored = [name for name, boot in self._boots.items() if not boot.anchored]
        if missing and len(unanchored) == 1:  # with one boot to choose from, it is the one that lost its end
            boot, end = self._boots[unanchored[0]], ends[unanchored[0]]
            boot.blame(end.last, min(missing), end.head, "no record is the one that the anchor names")
        return Report(
            boots=tuple(_verdict(name, boot, ends[name], claims.get(name, ())) for name, boot in self._boots.items()),
            foreign=self._foreign,
            damaged=self._damaged,
            missing_anchors=tuple(sorted(anchor.hex() for anchor in missing)),
        )

    def _claims(self) -> dict[bytes, list[tuple[int, bytes]]]:
        """Return what the `boot` records of sound traces say of the boot before theirs: its last record."""
        claims: dict[bytes, list[tuple[int, bytes]]] = {}
        for boot in self._boots.values():
            match boot.first.get("last") if boot.fault is None else None:
                case {"boot": str(name), "seq": int(seq), "hash": str(head)} if seq > 0:
                    escaped = jsontext.dumps(name)[1:-1].encode()
                    claims.setdefault(escaped, []).append((seq, _raw(head)))
                case _:
                    pass  # a first boot, or a trace that was made without knowing of one
        return claims


def _raw(text: str) -> bytes:
    """Return the bytes of a hash, none for what is no hash."""
    return bytes.fromhex(text) if _HASH.fullmatch(text) else b""


def _verdict(name: bytes, boot: Boot, end: Span, claims: Sequence[tuple[int, bytes]]) -> BootVerdict:
    """Return one boot's verdict, now that all is read."""
    is_named = (end.last, end.head) in claims
    for seq, head in claims:
        if seq > end.last:
            boot.blame(end.last + 1, head if seq == end.last + 1 else b"", b"", "the boot after it names later records")
        elif (found := boot.known.get(seq)) not in (None, head):
            boot.blame(seq, head, found or b"", "it is not the record that the boot after it names")
    verdict: VerdictName = "broken"
    if boot.fault:
        because = f"record {boot.fault.seq}: {boot.fault.cause}"
    else:
        verdict, because = _ending(boot, end, is_named=is_named)
    return BootVerdict(
        boot=name.decode("ascii", "replace"),
        inst=boot.first.get("inst", ""),
        img=boot.first.get("img", ""),
        verdict=verdict,
        records=sum(span.last - span.first + 1 for span in boot.spans),
        duplicates=boot.duplicates,
        seq=end.last,
        head=end.head.hex(),
        because=because,
        fault=boot.fault,
    )


def _ending(boot: Boot, end: Span, *, is_named: bool) -> tuple[VerdictName, str]:
    """Return what is known of where a sound chain ends."""
    if boot.anchored == end.last:
        return "intact", "ends with an anchor"
    if is_named:
        return "intact", "ends with the record that the next boot names"
    if boot.anchored:
        return "open", f"nothing vouches for the records after the anchor, record {boot.anchored}"
    if boot.is_over:
        return "intact", "ends with the shutdown"
    return "open", "it still runs, or died, or its last records were cut off: an unkeyed chain cannot tell"
