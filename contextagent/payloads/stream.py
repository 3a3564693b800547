"""A file's bytes, unpacked on the way if it is gzip'd, in pieces and never more than was asked for."""

from __future__ import annotations

import os
import zlib

from contextagent.errors import BrokenSourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from contextagent.payloads.caps import Caps

CHUNK_BYTES = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"
MAX_PARTS = 1 << 14
_GZIP_WBITS = 31  # a gzip header and trailer, the largest window


class Stream:
    """What can be read from one packed or plain file.

    Args:
        source: Seekable; it is read from its start.
        caps: For the ratio, which is judged against the whole size of `source`.
        what: What it is, for an error.

    Attributes:
        is_packed: Whether it is gzip'd.
    """

    def __init__(self, source: BinaryIO, caps: Caps, what: str) -> None:
        self._source = source
        self._what = what
        self._allowed_bytes = source.seek(0, os.SEEK_END) * caps.ratio
        source.seek(0)
        self._packed = source.read(CHUNK_BYTES)
        self.is_packed = self._packed.startswith(GZIP_MAGIC)
        self._inflater = zlib.decompressobj(_GZIP_WBITS) if self.is_packed else None
        self._parts = 1
        self._ready = b""
        self._at = 0
        self._is_ended = False
        self._is_padding = False

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end.

        Raises:
            BrokenSourceError: As `piece`.
        """
        data = self.piece(size)
        while data and len(data) < size and (more := self.piece(size - len(data))):
            data += more
        return data

    def piece(self, max_bytes: int) -> bytes:
        """Return the next bytes, as many as are at hand; none only at the end.

        What was unpacked is handed on whole where it fits: copying it costs more than unpacking it.

        Args:
            max_bytes: At most so many, never more than 64 KiB; 0 gives none.

        Raises:
            BrokenSourceError: The gzip layer is damaged, cut short, followed by something else, or past the ratio.
        """
        while self._at == len(self._ready) and not self._is_ended and max_bytes:
            self._ready, self._at = self._more(), 0
        start, self._at = self._at, min(len(self._ready), self._at + max_bytes)
        if self.is_packed and not self._is_padding:
            self._allowed_bytes -= self._at - start
            if self._allowed_bytes < 0:
                raise self._broken("ratio", "it unpacks to too many times its own size")
        return self._ready[start : self._at]  # of all of it a slice is no copy

    def expect_padding(self) -> None:
        """Count nothing from here on: padding, which the caller bounds, is packed to next to nothing.

        A tar of no members is 10 KiB of zeros, of which gzip makes 45 bytes.
        """
        self._is_padding = True

    def _more(self) -> bytes:
        if self._inflater is None:
            data, self._packed = self._packed, self._source.read(CHUNK_BYTES)
            self._is_ended = not data
            return data
        if not self._packed:
            self._packed = self._source.read(CHUNK_BYTES)
            if not self._packed:
                raise self._broken("truncated", "its gzip data ends too early")
        try:
            data = self._inflater.decompress(self._packed, CHUNK_BYTES)
        except zlib.error:
            raise self._broken("bad-gzip", "its gzip data is damaged") from None
        if self._inflater.eof:
            self._next_part(self._inflater.unused_data)
        else:
            self._packed = self._inflater.unconsumed_tail
        return data

    def _next_part(self, rest: bytes) -> None:
        """Go on after one gzip part: with another one, with padding of zeros, or to the end."""
        if len(rest) < len(GZIP_MAGIC):
            rest += self._source.read(CHUNK_BYTES)
        if rest.startswith(GZIP_MAGIC):
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise self._broken("bad-gzip", "its gzip data has too many parts")
            self._packed = rest
            self._inflater = zlib.decompressobj(_GZIP_WBITS)
            return
        while rest:
            if rest.strip(b"\0"):
                raise self._broken("trailing-garbage", "something else follows its gzip data")
            rest = self._source.read(CHUNK_BYTES)
        self._is_ended = True

    def _broken(self, reason: str, cause: str) -> BrokenSourceError:
        return BrokenSourceError(f"cannot unpack '{self._what}': {cause}", reason=reason)
