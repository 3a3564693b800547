"""A tar or tar.gz in native form: handed on whole, since only the hands may write what it holds."""

from __future__ import annotations

from io import BytesIO

from contextagent.errors import BrokenSourceError
from contextagent.model import Reading
from contextagent.payloads.caps import Caps
from contextagent.payloads.stream import GZIP_MAGIC, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.payloads.userdata import Place

SAMPLE = b""
MARK = b""
_BLOCK_BYTES = 512
_MAGIC = b"ustar"
_MAGIC_AT = 257


def recognises(data: bytes) -> bool:
    """Return whether a tar header comes first, also behind one gzip layer."""
    block = data[:_BLOCK_BYTES]
    if data.startswith(GZIP_MAGIC):
        try:
            block = Stream(BytesIO(data), Caps(), "user-data").read(_BLOCK_BYTES)
        except BrokenSourceError:
            return False  # what is wrong with it is for the gzip form to say
    return block[_MAGIC_AT:].startswith(_MAGIC)


def read(data: bytes, place: Place) -> Reading:  # noqa: ARG001  # every form is read alike
    """Return the bundle, still to be extracted (`payloads.bundle`) and read as a native folder of the user's."""
    return Reading(layout="tar", bundle=data, variables_owner="user")
