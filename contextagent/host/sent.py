"""A child that was sent out for one word, as whoever sent it sees it."""

from __future__ import annotations

import os
import select
import time

from contextagent.errors import BrokenSourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host.confine import Child

_PATIENCE_S = 0.05
"""How long is waited for the rest of an answer that has begun: it comes in one piece, or from nobody that is ours."""


class Sent:
    """What all of them share; each has a `finish` of its own that makes something of the word.

    Args:
        child: Who was sent; None where nobody could be, or had to be.
    """

    def __init__(self, child: Child | None) -> None:
        self._child = child
        self._fd = -1
        if child is None:
            self._fd, write_end = os.pipe()
            os.close(write_end)

    @property
    def fd(self) -> int:
        """What to poll for input: it is readable once `finish` has something to say."""
        return self._child.fd if self._child else self._fd

    def wait(self, timeout_s: float) -> None:
        """Wait until `finish` has something to say, but no longer than that."""
        if self._child is not None:
            poll = select.poll()
            poll.register(self._child.fd, select.POLLIN)
            poll.poll(timeout_s * 1000)

    def close(self) -> None:
        """Give it up if it is not over; a second call does nothing."""
        if self._child is not None:
            self._child.close()
            self._child = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _heard(self, max_bytes: int) -> bytes | None:
        """Return what the child said, None if it does not say so now; it is gone afterwards."""
        try:
            return self._child.hear(max_bytes=max_bytes, end_s=time.monotonic() + _PATIENCE_S) if self._child else None
        except BrokenSourceError:
            return None
        finally:
            self.close()
