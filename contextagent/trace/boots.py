"""One boot's trace while a collector's files are read: its runs of records, and what is remembered of them.

The order is the collector's promise: per boot, at least once, in order.  So within one file a record follows the one
before it or repeats one that was seen; between files there is no order, since rotated ones come as a shell sorts them.
"""

from __future__ import annotations

from contextagent.model import Value
from contextagent.trace.chain import GENESIS
from contextagent.trace.records import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

WINDOW = 1024
"""How many of a boot's newest records are remembered by hash, to tell a repeated record from a forged one."""
MAX_SPANS = 256
"""How many pieces a boot may come in before it counts as broken."""
_ANCHOR = b'"ev":"anchor"'
_EARLIER = 64
"""How many records before the first one seen are remembered as cheaply: files may come in the wrong order."""
_IN_BETWEEN = 2
"""How far behind the record before a changed one its successor stands."""
_SEQ_BYTES = 8
_SLOT_BYTES = _SEQ_BYTES + 32


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


class Memory:
    """Hashes of a boot's newest `WINDOW` records, in one piece of memory that grows with the boot up to 40 KiB."""

    __slots__ = ("_first", "_slots")

    def __init__(self, seq: int, head: bytes) -> None:
        self._first = max(seq - _EARLIER, 0)
        self._slots = bytearray()
        self.put(seq, head)

    def put(self, seq: int, head: bytes) -> None:
        """Remember a record, in the place of the one `WINDOW` before it."""
        slots, at = self._slots, (seq - self._first) % WINDOW * _SLOT_BYTES
        if at > len(slots):
            slots.extend(bytes(at - len(slots)))
        slots[at : at + _SLOT_BYTES] = seq.to_bytes(_SEQ_BYTES, "big") + head

    def get(self, seq: int) -> bytes | None:
        """Return a record's hash, None where it is not remembered any more."""
        at = (seq - self._first) % WINDOW * _SLOT_BYTES
        slot = self._slots[at : at + _SLOT_BYTES]
        return bytes(slot[_SEQ_BYTES:]) if slot.startswith(seq.to_bytes(_SEQ_BYTES, "big")) else None


class Span:
    """A run of records that follow one another; `line` is the last one's, `before` that before an anchor."""

    __slots__ = ("before", "first", "head", "last", "line", "prev")

    def __init__(self, seq: int, prev: bytes, head: bytes, line: bytes) -> None:
        self.first, self.prev = seq, prev
        self.last, self.head = seq, head
        self.before, self.line = b"", line


class Boot:
    """One boot's trace while it is read; of constant size.

    Attributes:
        span: The run that the newest record went to.
        spans: All of them.
        source: Number of the file that the newest record came from.
        known: The newest records.
        duplicates: How many records were seen again.
        rewound: Records of which only a second copy was seen so far, and in which file: its forwarder went back to
            where another file's records are.
        suspect: Number of the last record that does not fit the one before it; `opening` says what the first of those
            in a row has against the one before.
        anchored: Number of the last record that an anchor names; 0 for none.
        fault: The fault that lies first in the chain.
        is_over: Whether its last record is the shutdown, or the anchor behind that; known once it is settled.
        first: Of the record with the lowest number `inst`, `img` and `last`; empty where that can't be read.
    """

    __slots__ = (
        *("anchored", "duplicates", "fault", "first", "is_over", "known", "loose", "rewound", "source"),
        *("opening", "span", "spans", "suspect"),
    )

    def __init__(self, span: Span, source: int) -> None:
        self.span = span
        self.spans = [span]
        self.source = source
        self.first = _said_first(span.line)
        self.known = Memory(span.first, span.head)
        self.loose: dict[int, bytes] | None = None
        self.rewound: dict[int, int] | None = None
        self.duplicates = 0
        self.anchored = 0
        self.fault: Fault | None = None
        self.suspect = 0
        self.opening: Fault | None = None
        self.is_over = False

    def blame(self, seq: int, expected: bytes, found: bytes, cause: str) -> None:
        """Keep the fault that lies first in the chain."""
        if self.fault is None or seq < self.fault.seq:
            self.fault = Fault(seq=seq, expected=expected.hex(), found=found.hex(), cause=cause)

    def extend(self, span: Span, seq: int, prev: bytes, head: bytes, line: bytes) -> None:
        """Put a record behind a span, and say so where it names another record than that one."""
        if prev != span.head:
            self._mismatch(span, seq, prev)
        span.before, span.line = span.line if _ANCHOR in line else b"", line
        span.last, span.head = seq, head
        self.span = span
        self.known.put(seq, head)

    def _mismatch(self, span: Span, seq: int, prev: bytes) -> None:
        """Record `seq` and the one before it don't fit: which of them was changed, the next ones tell.

        Two misfits in a row are one changed record between them, more are several of which the first counts.
        """
        found = _misfit(seq, prev, span.head)
        if self.opening is None or self.suspect != seq - 1:
            self.opening = found
        elif self.fault is self.opening and seq - self.opening.seq == _IN_BETWEEN:
            self.fault = None  # the suspect's successor does not know it either, so it is the changed one
        elif seq - self.opening.seq == _IN_BETWEEN + 1:
            found = self.opening
        self.suspect = seq
        if self.fault is None or found.seq < self.fault.seq:
            self.fault = found

    def place(self, seq: int, prev: bytes, head: bytes, line: bytes, source: int) -> None:
        """Take a record that does not simply follow the one before it."""
        is_first, self.source = self.source != source, source
        for span in self.spans:
            if span.first <= seq <= span.last:
                self._repeat(seq, prev, head)
                return
        if not is_first:
            self._judge_order(seq, prev)
        for span in self.spans:
            if span.last + 1 == seq:
                self.extend(span, seq, prev, head, line)
                self._join(span)
                return
        if len(self.spans) >= MAX_SPANS:
            self.blame(seq, b"", head, "the boot is in too many pieces")
            return
        self.span = Span(seq, prev, head, line)
        if seq < min(span.first for span in self.spans):
            self.first = _said_first(line)
        self.spans.append(self.span)
        self.known.put(seq, head)
        self._join(self.span)

    def _judge_order(self, seq: int, prev: bytes) -> None:
        """Judge a record that is not the first of its file, and was not seen yet, by those before it in that file."""
        newest = self.span
        is_next = seq == newest.last + 1
        if seq < newest.first or (is_next and self.rewound and self.rewound.get(newest.last) == self.source):
            self._rewind(seq)
        elif not is_next:
            expected = prev if seq == newest.last + 2 else b""
            self.blame(newest.last + 1, expected, b"", "it is missing, or out of its place")

    def _rewind(self, seq: int) -> None:
        """Take a record as the second copy of one that another file has; that none has it, the end tells."""
        self.rewound = self.rewound or {}
        if len(self.rewound) < WINDOW:
            self.rewound[seq] = self.source
        else:
            self.blame(seq, b"", b"", "it is out of its place")

    def _join(self, span: Span) -> None:
        """Join a span with the one that begins right behind it."""
        for other in self.spans:
            if other.first == span.last + 1:
                if other.prev != span.head:
                    self.blame(
                        span.last, other.prev, span.head, f"it is not the record that record {other.first} names"
                    )
                if other.first == other.last:
                    other.before = span.line
                other.first, other.prev = span.first, span.prev
                self.spans.remove(span)
                self.span = other
                return

    def _repeat(self, seq: int, prev: bytes, head: bytes) -> None:
        """Take a record whose number was seen already.

        One too old to be known by hash must be followed by records that lead up to one that is: a hash vouches for all
        before it.
        """
        known, loose = self.known.get(seq), self.loose or {}
        if known not in (None, head) or loose.pop(seq, prev) != prev:
            self.blame(seq, known or b"", head, "two different records have this number")
            return
        self.duplicates += 1
        if self.rewound and self.rewound.get(seq, self.source) != self.source:
            del self.rewound[seq]
        if known is None:
            if loose.get(seq + 1, head) != head or len(loose) >= MAX_SPANS:
                self.blame(seq, b"", head, "two different records have this number")
            loose[seq + 1] = head
            self.loose = loose

    def settle(self) -> Span:
        """Return the whole chain, once the last record was read, with what is missing in it blamed."""
        self.spans.sort(key=lambda span: span.first)
        whole, last = self.spans[0], self.spans[-1]
        if whole.first != 1:
            them = f"it is missing, as is all before record {whole.first}: was an earlier file left out?"
            self.blame(1, b"", b"", them if whole.first > 2 else "it is missing")  # noqa: PLR2004  # there is but one
        elif whole.prev != bytes.fromhex(GENESIS):
            self.blame(1, bytes.fromhex(GENESIS), whole.prev, "the first record names one before it")
        for left, right in zip(self.spans, self.spans[1:], strict=False):
            self.blame(left.last + 1, right.prev if right.first == left.last + 2 else b"", b"", "it is missing")
        newest = decode(last.line)
        if newest is None:
            self.blame(last.last, b"", last.head, "it can't be read")
        if newest and newest["ev"] == "anchor":
            newest = decode(last.before)
        self.is_over = newest is not None and newest["ev"] == "shutdown"
        for seq in self.rewound or ():
            self.blame(seq, b"", b"", "it is out of its place")
        for seq, head in (self.loose or {}).items():
            self.blame(seq - 1, b"", head, "a second record has this number, and no known one follows it")
        return last


def _misfit(seq: int, prev: bytes, head: bytes) -> Fault:
    cause = f"it is not the record that record {seq} names"
    return Fault(seq=seq - 1, expected=prev.hex(), found=head.hex(), cause=cause)


def _said_first(line: bytes) -> Mapping[str, Any]:
    record = decode(line) or {}
    return {key: record[key] for key in ("inst", "img", "last") if key in record}
