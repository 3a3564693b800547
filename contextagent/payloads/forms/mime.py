"""MIME: each leaf part by its type, or else by the form of what is in it."""

from __future__ import annotations

from contextagent.model import Problem, Reading, Value
from contextagent.payloads.forms import cloud_config, glideinwms, gzip, other, script, tar
from contextagent.payloads.multipart import TooLargeError, read_message
from contextagent.payloads.userdata import read_form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.payloads.multipart import Part
    from contextagent.payloads.userdata import Place

SAMPLE = b""
MARK = b""

MAX_HEADER_BYTES = 64 << 10
MAX_BYTES = 4 << 20
MAX_DEPTH = 8
MAX_NAMED = 32
"""How often `multipart/` may stand in a message: what looks like a boundary is held against every open multipart."""
_RUN_TYPES = ("text/x-shellscript", "text/cloud-boothook", "text/cloud-config")
_BOOTHOOK_LINE = b"#cloud-boothook"


def recognises(data: bytes) -> bool:
    """Return whether the data starts with header lines, a content type or MIME version among them."""
    head = data[:MAX_HEADER_BYTES].lstrip().replace(b"\r\n", b"\n").partition(b"\n\n")[0].lower()
    first = head.partition(b":")[0]
    is_header = bool(first) and not first.translate(None, b"abcdefghijklmnopqrstuvwxyz0123456789-")
    lines = head.split(b"\n")
    return is_header and any(line.startswith((b"content-type:", b"mime-version:")) for line in lines)


def read(data: bytes, place: Place) -> Reading:
    """Return what all leaf parts offer, in their order.

    Returns:
        Layout `mime`; `bundle` where one part was a tar (a second one is kept and named).
    """
    found = Reading(layout="mime", variables_owner="user")
    leaves = _Leaves(place)
    leaves.add(data, place.layers)
    for number, part in enumerate(leaves.found, 1):
        leaf = place.replace(leaf=number, layers=part.layers)
        made = _read_leaf(part.kind, part.content, leaf)
        if made.bundle is not None and found.bundle is not None:
            warning = Problem(reason="two-bundles", message="a second tar, keeping it unread", path=leaf.own_name)
            made = other.kept(part.content, leaf, layout="tar", reason="two-bundles").replace(warnings=(warning,))
        found = found.replace(
            offers=found.offers + made.offers,
            warnings=found.warnings + made.warnings,
            bundle=found.bundle if made.bundle is None else made.bundle,
        )
    return found.replace(warnings=(*leaves.warnings, *found.warnings))


def _read_leaf(kind: str, content: bytes, leaf: Place) -> Reading:
    if not content.strip():
        return Reading(layout="mime")
    if kind == "text/x-shellscript":
        return script.read(content, leaf)
    if kind == "text/cloud-boothook":
        if content.startswith(_BOOTHOOK_LINE):
            content = content.partition(b"\n")[2]
        return Reading(layout="mime", offers=(script.before_network(leaf.name("boothook"), content),))
    if kind == "text/cloud-config":
        return cloud_config.read(content, leaf)
    return read_form(content, leaf)


class _Leaf(Value):
    """A leaf part: its type, its contents, and how many layers were taken off them."""

    kind: str
    content: bytes
    layers: int


class _Leaves:
    """All leaf parts of a multipart, also those of multiparts inside packed parts, in their order."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.found: list[_Leaf] = []
        self.warnings: list[Problem] = []

    def add(self, data: bytes, layers: int, depth: int = 0) -> None:
        """Take in one multipart.

        Raises:
            BrokenSourceError: It is damaged, or past a cap.
        """
        if depth > MAX_DEPTH or data.lower().count(b"multipart/") > MAX_NAMED:
            raise self._place.broken("too-deep", "it has too many multiparts inside each other")
        if len(data) > min(MAX_BYTES, self._place.caps.member_bytes):
            raise self._place.broken("member-too-large", "a multipart is too large")
        is_crlf = data.partition(b"\n")[0].endswith(b"\r")
        for part in self._parts(data):
            content = self._content(part, is_crlf=is_crlf)
            taken = layers
            while gzip.recognises(content) and not glideinwms.recognises(content) and not tar.recognises(content):
                content = gzip.unpacked(content, self._place.replace(layers=taken))
                taken += 1
            kind = part.kind
            if kind not in _RUN_TYPES and recognises(content):
                self.add(content, taken, depth + 1)
            else:
                self.found.append(_Leaf(kind=kind, content=content, layers=taken))
            if len(self.found) > self._place.caps.members:
                raise self._place.broken("too-many-members", f"it has more than {self._place.caps.members} parts")

    def _parts(self, data: bytes) -> tuple[Part, ...]:
        """Return the parts that hold no other parts."""
        try:
            message = read_message(data, max_parts=self._place.caps.members)
        except TooLargeError as error:
            raise self._place.broken(error.reason, str(error)) from error
        if not message.has_boundaries:
            raise self._place.broken("bad-mime", "a multipart's boundary is missing")
        if not message.is_closed:
            warning = "a multipart is not closed, taking the parts that are there"
            self.warnings.append(Problem(reason="bad-mime", message=warning, path=self._place.own_name))
        return message.parts

    def _content(self, part: Part, *, is_crlf: bool) -> bytes:
        """Return a part's bytes without its transfer encoding; the line ends of a CRLF message become those of Unix."""
        try:
            content = part.content()
        except ValueError as error:
            raise self._place.broken("bad-base64", "a part's base64 is damaged") from error
        return content if part.encoding == "base64" or not is_crlf else content.replace(b"\r\n", b"\n")
