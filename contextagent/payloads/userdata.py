"""User data: told apart by content, and read by the one module that knows the form.

A new form is one module in `forms/` and its name in `FORMS`, and its row in docs/reference/user-data.md with a fixture.
"""

from __future__ import annotations

from binascii import Error, a2b_base64

from contextagent.errors import BrokenSourceError
from contextagent.model import Problem, Reading, Value
from contextagent.payloads.caps import Caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Form(Protocol):
        """What a module of `forms/` offers."""

        SAMPLE: bytes
        """A little of this form: to read it brings in every library that the form takes; empty where it takes none."""
        MARK: bytes
        """What stands in everything of this form, in lower case; empty where nothing does, or no library is taken."""

        def recognises(self, data: bytes) -> bool:
            """Return whether the data is in this form; cheap, and no promise that it can be read."""

        def read(self, data: bytes, place: Place) -> Reading:
            """Return what the data offers; raises BrokenSourceError where it is unusable."""


FORMS = ("script", "glideinwms", "tar", "gzip", "mime", "cloud-config", "amiconfig", "nimbus", "vac", "other")
"""In the order in which they are tried; the last one takes everything."""

CONTAINERS = ("gzip", "mime")
"""Forms that hold others."""

_HIDING = (b"\x1f\x8b", b"base64", b"quoted-printable", b"uue")
"""One of them stands in every container in which a form could not be seen from outside: packed, or encoded."""

MAX_LAYERS = 2

RANK_BEFORE_NETWORK = 3
RANK_AFTER_NETWORK = 4


class Place(Value):
    """Where in the user data a form is read.

    Attributes:
        leaf: The leaf part's position among all leaf parts, from 1; 0 for user data that is no multipart.
        layers: How often it has been unpacked.
    """

    caps: Caps
    leaf: int = 0
    layers: int = 0

    def name(self, word: str) -> str:
        """Return a script's name: the word alone, or with the leaf part's number."""
        return f"{word}-{self.leaf:03}" if self.leaf else word

    @property
    def own_name(self) -> str:
        """What this piece is called: `user-data`, or `part-NNN`."""
        return self.name("part") if self.leaf else "user-data"

    def broken(self, reason: str, cause: str) -> BrokenSourceError:
        """Return the error for data here that can't be used."""
        problem = Problem(reason=reason, message=cause, path=self.own_name)
        return BrokenSourceError(f"cannot read '{self.own_name}': {cause}", reason=reason, problems=(problem,))


def prepare(data: bytes) -> None:
    """Bring in whatever reading the data will take, for a process that can import nothing once it is confined.

    Args:
        data: As for `read_user_data`; what is packed may be in any form.
    """
    forms = [_form(name) for name in FORMS]
    found = next((name for name, form in zip(FORMS[:-1], forms, strict=False) if form.recognises(data)), FORMS[-1])
    plain = data.lower() if found in CONTAINERS else b""
    is_hiding = any(word in plain for word in _HIDING)
    for name, form in zip(FORMS, forms, strict=True):
        is_inside = found in CONTAINERS and (is_hiding or form.MARK in plain)
        if form.SAMPLE and (name == found or is_inside):
            try:
                form.read(form.SAMPLE, Place(caps=Caps()))
            except ImportError:
                continue  # a library that this image lacks: only who needs it shall hear of it


def read_user_data(data: bytes, *, caps: Caps, encoding: str = "") -> Reading:
    """Return what user data offers; everything in it is the user's.

    Args:
        data: As the source gave it.
        caps: Bounds on what is unpacked.
        encoding: `base64` where the source defines it so, else empty.

    Returns:
        The layout is the form's name (empty: no data at all); `bundle` is set where the hands must extract one.

    Raises:
        BrokenSourceError: It is damaged, or past the caps; the user's fault.
    """
    place = Place(caps=caps)
    if encoding:
        data = decoded(data, encoding)
        place = place.replace(layers=1)
    if len(data) > caps.total_bytes:
        raise place.broken("total-too-large", f"it is larger than {caps.total_bytes} bytes")
    return read_form(data, place) if data.strip() else Reading(layout="", variables_owner="user")


def read_form(data: bytes, place: Place) -> Reading:
    """Return what a piece of user data offers, in whatever form it is.

    Raises:
        BrokenSourceError: It is damaged, or past the caps.
    """
    for name in FORMS[:-1]:
        form = _form(name)
        if form.recognises(data):
            return form.read(data, place)
    return _form(FORMS[-1]).read(data, place)


def decoded(data: bytes, encoding: str) -> bytes:
    """Return what encoded data stands for.

    Args:
        data: Text; blanks and line ends do not count.
        encoding: `base64`, the only one that a source defines.

    Raises:
        BrokenSourceError: It is not in that encoding.
    """
    if encoding.lower() not in ("base64", "b64"):
        message = "cannot read 'user-data': its encoding is not known"
        raise BrokenSourceError(message, reason="bad-encoding")
    try:
        return a2b_base64(data.translate(None, b" \t\r\n"), strict_mode=True)
    except Error as error:
        message = f"cannot read 'user-data': it is not base64: {str(error).lower()}"
        raise BrokenSourceError(message, reason="bad-base64") from error


def _form(name: str) -> Form:
    form: Form = __import__(f"contextagent.payloads.forms.{name.replace('-', '_')}", fromlist=("read",))
    return form
