"""The chain: each line names the SHA-256 of the one before, so that none can be changed, dropped or put in unseen."""

from __future__ import annotations

from contextagent.digests import sha256_hex
from contextagent.trace.records import VERSION, encode, own_keys, rfc3339, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

GENESIS = "0" * 64
"""What the first record names as the line before it."""
_MAX_NAME_BYTES = 256


def line_hash(line: bytes) -> str:
    """Return what the record after this line names it by: the SHA-256 of its bytes without the LF."""
    return sha256_hex(line.removesuffix(b"\n"))


class Chain:
    """One boot's chain of records, where it stands.

    Attributes:
        seq: Of the last record; 0 before the first.
        head: The last line's hash; `GENESIS` before the first.

    Args:
        boot: The boot's id.
        inst: The instance's id; empty when unknown.
        img: The image's identifier; empty when unknown.
        seq: Where an existing chain stands.
        head: As `seq`.
    """

    def __init__(self, *, boot: str, inst: str, img: str = "", seq: int = 0, head: str = GENESIS) -> None:
        self._boot = shorten(boot, _MAX_NAME_BYTES)
        self._inst = shorten(inst, _MAX_NAME_BYTES)
        self._img = shorten(img, _MAX_NAME_BYTES)
        self.seq = seq
        self.head = head

    def line(self, ev: str, fields: Mapping[str, object], *, utc_ns: int, mono_ns: int, sync: bool) -> bytes:
        """Return the next record's line, LF included; the chain stands where it stood until `add` is told of it.

        Args:
            ev: An event of `records.RECORDS`.
            fields: Its own keys.
            utc_ns: Wall clock, nanoseconds since the epoch.
            mono_ns: Monotonic clock, nanoseconds.
            sync: Whether a time service keeps the wall clock.

        Raises:
            ValueError: There is no such event, or it has no such key: a bug of the caller.
        """
        common = {
            "v": VERSION,
            "seq": self.seq + 1,
            "prev": self.head,
            "boot": self._boot,
            "inst": self._inst,
            "img": self._img,
            "utc": rfc3339(utc_ns),
            "mono_ns": mono_ns,
            "sync": sync,
            "ev": ev,
        }
        return encode(common, own_keys(ev, fields))

    def add(self, line: bytes) -> None:
        """Take the line that `line` gave as written: the next one follows it."""
        self.seq += 1
        self.head = line_hash(line)
