"""Nimbus' optional parameters: `<filewrite>` elements in XML, each a `<pathOnVMM>` and its `<content>`."""

from __future__ import annotations

from contextagent.model import Offer, Problem, Reading
from contextagent.payloads.names import target_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.errors import BrokenSourceError
    from contextagent.payloads.userdata import Place

SAMPLE = b"<filewrite/>"
MARK = b"filewrite"

MAX_DEPTH = 64
_FIELDS = ("content", "pathonvmm", "path")


def recognises(data: bytes) -> bool:
    """Return whether the data starts as XML does and has the element's name."""
    return data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"filewrite" in data


def read(data: bytes, place: Place) -> Reading:
    """Return the files; a document type is refused, since entities can grow without bound or name files.

    Raises:
        BrokenSourceError: It is no XML, or has a document type.
    """
    from xml.parsers.expat import ExpatError, ParserCreate  # noqa: PLC0415  # only this form pays for it

    reader = _Reader(place)
    parser = ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)  # noqa: FBT003  # the C function knows no keywords
    except (ExpatError, ValueError, LookupError) as error:  # the latter two: an encoding that is none
        raise place.broken("bad-xml", str(error)) from error
    return Reading(
        layout="nimbus", offers=tuple(reader.offers), warnings=tuple(reader.warnings), variables_owner="user"
    )


class _Reader:
    """What has been seen of the document so far."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._path: list[str] = []
        self._said: dict[str, list[str]] = {}
        self.offers: list[Offer] = []
        self.warnings: list[Problem] = []

    def doctype(self, *_: object) -> BrokenSourceError:
        """Refuse the document.

        Raises:
            BrokenSourceError: Always.
        """
        raise self._place.broken("doctype", "a document type is not taken")

    def start(self, name: str, _: object) -> None:
        """Go into an element.

        Raises:
            BrokenSourceError: There are too many levels.
        """
        self._path.append(name.rpartition(" ")[2].lower())
        if len(self._path) > MAX_DEPTH:
            raise self._place.broken("too-deep", f"it has more than {MAX_DEPTH} levels")
        if self._path[-1] == "filewrite":
            self._said = {}

    def text(self, data: str) -> None:
        """Take text of the fields of a `<filewrite>`."""
        if self._path[-2:-1] == ["filewrite"] and self._path[-1] in _FIELDS:
            self._said.setdefault(self._path[-1], []).append(data)

    def end(self, _: str) -> None:
        """Leave an element, and offer its file if it was a `<filewrite>`."""
        if self._path.pop() != "filewrite":
            return
        target = "".join(self._said.get("pathonvmm") or self._said.get("path") or []).strip()
        if cause := target_problem(target):
            message = f"cannot write '{ascii(target[:200])[1:-1]}': {cause}, ignoring it"
            self.warnings.append(Problem(reason="bad-target", message=message, path=self._place.own_name))
            return
        data = "".join(self._said.get("content", [])).encode()
        self.offers.append(Offer(owner="user", role="file", name=target, data=data))
