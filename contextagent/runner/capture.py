"""A script's output: kept in part, counted and digested whole, in constant memory."""

from __future__ import annotations

from contextagent.digests import new_sha512
from contextagent.host.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.digests import Digest

KEPT_BYTES = 512 << 10
"""How much is kept of the beginning, and of the end (context, section 5)."""
_LOTS = 1 << 62


class Capture:
    """Takes output in pieces; the beginning is in the file as soon as it comes, the end when `finish` is called.

    Args:
        fd: Where the kept part is written; the caller closes it.
        max_bytes: How much the script may write; None: no bound.

    Attributes:
        size_bytes: How much came.
        problem: Why the kept part could not be written, or empty; counting and digesting go on all the same.
    """

    def __init__(self, fd: int, *, max_bytes: int | None) -> None:
        self.size_bytes = 0
        self.problem = ""
        self._fd = fd
        self._max_bytes = max_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._digest: Digest = new_sha512()

    @property
    def is_over_limit(self) -> bool:
        """Whether more came than the script may write."""
        return self._max_bytes is not None and self.size_bytes > self._max_bytes

    def take(self, data: bytes) -> bool:
        """Take in the next piece; return whether the script may go on."""
        self.size_bytes += len(data)
        room = KEPT_BYTES - len(self._head)
        if room and len(data) > room:
            # from here on it is much: OpenSSL's faster code starts over with the beginning, still at hand
            self._digest = new_sha512(_LOTS)
            self._digest.update(self._head)
        self._digest.update(data)
        if room:
            self._write(data[:room])
            self._head += data[:room]
            data = data[room:]
        self._tail += data[-KEPT_BYTES:]
        if len(self._tail) > 2 * KEPT_BYTES:
            del self._tail[:-KEPT_BYTES]
        return not self.is_over_limit

    def finish(self) -> str:
        """Write the end of the output, after a line that says how much was left out; return the digest of all."""
        tail = self._tail[-KEPT_BYTES:]
        left_out = self.size_bytes - len(self._head) - len(tail)
        if left_out:
            self._write(b"\n[contextagent: %d bytes left out here]\n" % left_out)
        self._write(tail)
        return self._digest.hexdigest()

    def _write(self, data: bytes | bytearray) -> None:
        if self.problem:
            return
        try:
            write_all(self._fd, data)
        except OSError as error:
            self.problem = error.strerror or str(error)
