"""glideinWMS: a gzip'd tarball, as it is or in base64, then `####` and arguments; the pilot takes it apart itself."""

from __future__ import annotations

from contextagent.payloads.forms import other
from contextagent.payloads.stream import GZIP_MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.model import Reading
    from contextagent.payloads.userdata import Place

SAMPLE = b""
MARK = b""
_MARK = b"####"
_GZIP_IN_BASE64 = b"H4sI"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n\t "
_TEXT = bytes(range(32, 127)) + b"\r\n\t"


def recognises(data: bytes) -> bool:
    """Return whether the data is a gzip'd file or its base64, followed by the mark and text."""
    if data.startswith(GZIP_MAGIC):
        _, mark, arguments = data.rpartition(_MARK)
        return bool(mark) and not arguments.translate(None, _TEXT)
    tarball, mark, _ = data.partition(_MARK)
    return bool(mark) and tarball.lstrip().startswith(_GZIP_IN_BASE64) and not tarball.translate(None, _BASE64)


def read(data: bytes, place: Place) -> Reading:
    """Return it as a payload that is kept."""
    return other.kept(data, place, layout="glideinwms", reason="for-the-pilot")
