"""Whether traces are whole: many VMs' records in one stream, checked line by line in constant memory per boot.

The order is the collector's promise: per boot, at least once, in order.  So within one file a record follows the one
before it or repeats one that was seen; between files there is no order, since rotated ones come as a shell sorts them.
"""

from __future__ import annotations

import re
from hashlib import sha256

from contextagent import jsontext
from contextagent.model import Value
from contextagent.trace.chain import GENESIS
from contextagent.trace.records import decode
from contextagent.trace.syslog import RECORD_START, lines_of, record_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal

    VerdictName = Literal["intact", "open", "broken"]

WINDOW = 1024
"""How many of a boot's newest records are remembered by hash, to tell a repeated record from a forged one."""
MAX_SPANS = 256
"""How many pieces a boot may come in before it counts as broken."""
_FAST = re.compile(rb'\{"v":1,"seq":([1-9]\d{0,17}),"prev":"([0-9a-f]{64})","boot":"([^"\\]*(?:\\.[^"\\]*)*)"')
_EXIT_CODES: dict[VerdictName, int] = {"intact": 0, "open": 2, "broken": 1}


class Fault(Value):
    """The first record of a boot that is not what the others say it is.

    Attributes:
        seq: Its number.
        expected: Hash that its successor, or an anchor, names; empty when unknown.
        found: Hash of the line as it stands; empty when there is none.
        cause: What is wrong, in words.
    """

    seq: int
    expected: str
    found: str
    cause: str


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


class _Span:
    """A run of records that follow one another."""

    __slots__ = ("before", "first", "head", "last", "line", "prev")

    def __init__(self, seq: int, prev: bytes, head: bytes, line: bytes) -> None:
        self.first, self.prev = seq, prev
        self.last, self.head = seq, head
        self.before, self.line = b"", line


class _Boot:
    """One boot's trace while it is read; of constant size."""

    __slots__ = (
        "anchored",
        "duplicates",
        "fault",
        "first_line",
        "known",
        "loose",
        "source",
        "span",
        "spans",
        "suspect",
    )

    def __init__(self, span: _Span, source: int) -> None:
        self.span = span
        self.spans = [span]
        self.source = source
        self.first_line = span.line
        self.known = {span.first: span.head}
        self.loose: dict[int, bytes] = {}
        self.duplicates = 0
        self.anchored = 0
        self.fault: Fault | None = None
        self.suspect = 0

    def blame(self, seq: int, expected: bytes, found: bytes, cause: str) -> None:
        """Keep the fault that lies first in the chain."""
        if self.fault is None or seq < self.fault.seq:
            self.fault = Fault(seq=seq, expected=expected.decode(), found=found.decode(), cause=cause)

    def remember(self, seq: int, head: bytes) -> None:
        if len(self.known) >= WINDOW:
            del self.known[next(iter(self.known))]
        self.known[seq] = head

    def extend(self, span: _Span, seq: int, prev: bytes, head: bytes, line: bytes) -> None:
        """Put a record behind a span, and say so where it names another record than that one."""
        if prev != span.head:
            self._mismatch(span, seq, prev)
        span.before, span.line = span.line, line
        span.last, span.head = seq, head
        self.span = span
        self.remember(seq, head)

    def _mismatch(self, span: _Span, seq: int, prev: bytes) -> None:
        """Record `seq` and the one before it don't fit: which of them was changed, the next one tells."""
        if self.suspect == seq - 1 and self.fault and self.fault.seq == seq - 2:
            self.fault = None  # the suspect's successor does not know it either, so it is the changed one
        self.suspect = seq
        self.blame(seq - 1, prev, span.head, f"it is not the record that record {seq} names")

    def place(self, seq: int, prev: bytes, head: bytes, line: bytes, *, is_first_of_source: bool) -> None:
        """Take a record that does not simply follow the one before it."""
        for span in self.spans:
            if span.first <= seq <= span.last:
                self._repeat(seq, prev, head)
                return
        for span in self.spans:
            if span.last + 1 == seq:
                if span is not self.span and not is_first_of_source:
                    self.blame(seq, b"", head, "it is out of its place")
                self.extend(span, seq, prev, head, line)
                self._join(span)
                return
        if not is_first_of_source:
            expected = prev if seq == self.span.last + 2 else b""
            self.blame(min(self.span.last + 1, seq), expected, b"", "it is missing, or out of its place")
        if len(self.spans) >= MAX_SPANS:
            self.blame(seq, b"", head, "the boot is in too many pieces")
            return
        self.span = _Span(seq, prev, head, line)
        self.spans.append(self.span)
        if seq == 1:
            self.first_line = line
        self.remember(seq, head)
        self._join(self.span)

    def _join(self, span: _Span) -> None:
        """Join a span with the one that begins right behind it."""
        for other in self.spans:
            if other.first == span.last + 1:
                if other.prev != span.head:
                    self.blame(
                        span.last, other.prev, span.head, f"it is not the record that record {other.first} names"
                    )
                other.first, other.prev = span.first, span.prev
                self.spans.remove(span)
                self.span = other
                return

    def _repeat(self, seq: int, prev: bytes, head: bytes) -> None:
        """Take a record whose number was seen already.

        One too old to be known by hash must be followed by records that lead up to one that is: a hash vouches for all
        before it.
        """
        known = self.known.get(seq)
        if known not in (None, head) or self.loose.pop(seq, prev) != prev:
            self.blame(seq, known or b"", head, "two different records have this number")
            return
        self.duplicates += 1
        if known is None:
            if self.loose.get(seq + 1, head) != head or len(self.loose) >= MAX_SPANS:
                self.blame(seq, b"", head, "two different records have this number")
            self.loose[seq + 1] = head

    def settle(self) -> _Span:
        """Return the whole chain, once the last record was read, with what is missing in it blamed."""
        self.spans.sort(key=lambda span: span.first)
        whole, last = self.spans[0], self.spans[-1]
        if whole.first != 1:
            self.blame(1, b"", b"", "it is missing")
        elif whole.prev != GENESIS.encode():
            self.blame(1, GENESIS.encode(), whole.prev, "the first record names one before it")
        for left, right in zip(self.spans, self.spans[1:], strict=False):
            self.blame(left.last + 1, right.prev if right.first == left.last + 2 else b"", b"", "it is missing")
        if decode(last.line) is None:
            self.blame(last.last, b"", last.head, "it can't be read")
        for seq, head in self.loose.items():
            self.blame(seq - 1, b"", head, "a second record has this number, and no known one follows it")
        return last


class Verifier:
    """Reads streams, one after another, and says what they hold.

    Args:
        anchors: Hashes known from elsewhere (console, receipt): each is some record's, and a boot that has one must end
            with it.
    """

    def __init__(self, anchors: Iterable[str] = ()) -> None:
        self._anchors = {anchor.strip().lower().encode("ascii", "replace") for anchor in anchors}
        self._met: set[bytes] = set()
        self._boots: dict[bytes, _Boot] = {}
        self._source = 0
        self._foreign = 0
        self._damaged = 0

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Read one file's bytes, in pieces of any size."""
        self._source += 1
        fast, boots, digest, source = _FAST.match, self._boots, sha256, self._source
        for line in lines_of(chunks):
            data = line if line.startswith(RECORD_START) else record_bytes(line)
            match = fast(data) if data else None
            if match is None or data is None:
                self._odd(data)
                continue
            number, prev, name = match.groups()
            seq, head = int(number), digest(data).hexdigest().encode()
            boot = boots.get(name)
            if boot is None:
                boots[name] = _Boot(_Span(seq, prev, head, data), source)
            elif seq == boot.span.last + 1 and len(boot.spans) == 1 and boot.source == source:
                boot.extend(boot.span, seq, prev, head, data)
            else:
                boot.place(seq, prev, head, data, is_first_of_source=boot.source != source)
                boot.source = source
            if head in self._anchors:
                self._met.add(head)
                boots[name].anchored = max(boots[name].anchored, seq)

    def _odd(self, data: bytes | None) -> None:
        """Count a line that is no record as this agent writes it."""
        if data and b'"prev"' in data:
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
            missing_anchors=tuple(sorted(anchor.decode() for anchor in missing)),
        )

    def _claims(self) -> dict[bytes, list[tuple[int, bytes]]]:
        """Return what the `boot` records of sound traces say of the boot before theirs: its last record."""
        claims: dict[bytes, list[tuple[int, bytes]]] = {}
        for boot in self._boots.values():
            last = (decode(boot.first_line) or {}).get("last") if boot.fault is None else None
            match last:
                case {"boot": str(name), "seq": int(seq), "hash": str(head)}:
                    escaped = jsontext.dumps(name)[1:-1].encode()
                    claims.setdefault(escaped, []).append((seq, head.encode("ascii", "replace")))
                case _:
                    pass  # a first boot, or a trace that was made without knowing of one
        return claims


def _verdict(name: bytes, boot: _Boot, end: _Span, claims: Sequence[tuple[int, bytes]]) -> BootVerdict:
    """Return one boot's verdict, now that all is read."""
    is_named = (end.last, end.head) in claims
    for seq, head in claims:
        if seq > end.last:
            boot.blame(end.last + 1, head if seq == end.last + 1 else b"", b"", "the boot after it names later records")
        elif boot.known.get(seq, head) != head:
            boot.blame(seq, head, boot.known[seq], "it is not the record that the boot after it names")
    verdict: VerdictName = "broken"
    if boot.fault:
        because = f"record {boot.fault.seq}: {boot.fault.cause}"
    else:
        verdict, because = _ending(boot, end, is_named=is_named)
    first = decode(boot.first_line) or {"inst": "", "img": ""}
    return BootVerdict(
        boot=name.decode("ascii", "replace"),
        inst=first["inst"],
        img=first["img"],
        verdict=verdict,
        records=sum(span.last - span.first + 1 for span in boot.spans),
        duplicates=boot.duplicates,
        seq=end.last,
        head=end.head.decode(),
        because=because,
        fault=boot.fault,
    )


def _ending(boot: _Boot, end: _Span, *, is_named: bool) -> tuple[VerdictName, str]:
    """Return what is known of where a sound chain ends."""
    if boot.anchored == end.last:
        return "intact", "ends with an anchor"
    if is_named:
        return "intact", "ends with the record that the next boot names"
    if boot.anchored:
        return "open", f"nothing vouches for the records after the anchor, record {boot.anchored}"
    last = [(decode(line) or {}).get("ev") for line in (end.before, end.line)]
    if last[1] == "shutdown" or last == ["shutdown", "anchor"]:
        return "intact", "ends with the shutdown"
    return "open", "it still runs, or died, or its last records were cut off: an unkeyed chain cannot tell"
