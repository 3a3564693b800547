"""gzip: a layer around another form."""

from __future__ import annotations

from io import BytesIO

from contextagent.payloads.stream import CHUNK_BYTES, GZIP_MAGIC, Stream
from contextagent.payloads.userdata import MAX_LAYERS, read_form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.model import Reading
    from contextagent.payloads.userdata import Place

SAMPLE = b""
MARK = b""


def recognises(data: bytes) -> bool:
    """Return whether the data starts as gzip does."""
    return data.startswith(GZIP_MAGIC)


def read(data: bytes, place: Place) -> Reading:
    """Return what the unpacked data offers, under its own form's name."""
    return read_form(unpacked(data, place), place.replace(layers=place.layers + 1))


def unpacked(data: bytes, place: Place) -> bytes:
    """Return the data without its gzip layer.

    Raises:
        BrokenSourceError: It is damaged, one layer too many (`too-many-layers`), or past a cap.
    """
    if place.layers >= MAX_LAYERS:
        raise place.broken("too-many-layers", f"it is packed more than {MAX_LAYERS} times")
    if not recognises(data):
        raise place.broken("bad-gzip", "it is not gzip'd")
    stream = Stream(BytesIO(data), place.caps, place.own_name)
    pieces: list[bytes] = []
    left_bytes = place.caps.member_bytes
    while piece := stream.read(CHUNK_BYTES):
        left_bytes -= len(piece)
        if left_bytes < 0:
            raise place.broken("member-too-large", f"it unpacks to more than {place.caps.member_bytes} bytes")
        pieces.append(piece)
    return b"".join(pieces)
