"""Dialects of the metadata service: who answers under which paths, and what that says of the instance.

A dialect is one file here, one name in `DIALECTS`, one fixture folder, one test and one row in
docs/reference/sources.md.  Its module says two paths and has two functions; the site's bundle has the same path in all
of them, and who asks for what in which order is not theirs to know.
"""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.sources import nova

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from contextagent.host import Host
    from contextagent.model import Reading
    from contextagent.policy.settings import Settings

    class Dialect(Protocol):
        """What a module of this folder offers."""

        NAME: str
        """As the policy says it, and as a reading's layout."""
        META_DATA: str
        """Path of what says who the instance is; a service that does not know it does not speak this dialect."""
        USER_DATA: str
        """Path of the user data."""

        def read(self, meta: bytes) -> Reading:
            """Return what the meta data says; runs where nothing can be imported any more.

            Raises:
                BrokenSourceError: It is no meta data: reason `html`, `bad-json` or `bad-id`.
            """

        def address(self, host: Host, settings: Settings) -> str:
            """Return the URL below which the service is.

            Raises:
                BrokenSourceError: It can't be known: reason `no-address`.
            """


DIALECTS = ("openstack", "vac", "ec2", "nimbus", "cloudstack")
AUTO = ("openstack", "vac", "ec2")
"""Those that share one address, in the order in which they are tried; one is passed over where its path is unknown."""

MAX_ID_CHARS = 256
_BLANK = b"\xef\xbb\xbf \t\r\n"
"""What may stand before a page: a byte order mark, and blanks."""


def load(name: str) -> Dialect:
    """Return a dialect; its module is imported only now."""
    dialect: Dialect = __import__(f"{__name__}.{name}", fromlist=("read",))
    return dialect


def known_address(_host: Host, settings: Settings) -> str:
    """Return the address that the policy names: the dialects' that can't find out theirs."""
    address: str = settings["metadata.address"]
    return address


def no_address(cause: str) -> BrokenSourceError:
    """Return the error for a service whose address can't be known."""
    return BrokenSourceError(f"cannot ask 'the metadata service': {cause}", reason="no-address")


def json_meta(data: bytes, path: str) -> dict[str, object]:
    """Return the object that meta data in JSON holds.

    Raises:
        BrokenSourceError: It is a web page, or no JSON object.
    """
    refuse_html(data, path)
    try:
        return nova.parsed(data)
    except ValueError as error:
        raise BrokenSourceError(f"cannot read '{path}': {error}", reason="bad-json") from error


def instance_id(data: bytes, path: str) -> str:
    """Return the instance's id, which is all that the text holds.

    Raises:
        BrokenSourceError: It is a web page, or what no id looks like.
    """
    refuse_html(data, path)
    text = data.decode("utf-8", "replace").removeprefix("\ufeff").strip()
    if not is_id(text):
        cause = f"an id is one line of at most {MAX_ID_CHARS} printable characters, and this is none"
        raise BrokenSourceError(f"cannot read '{path}': {cause}", reason="bad-id")
    return text


def is_id(text: object) -> bool:
    """Return whether something may be an instance's id."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= MAX_ID_CHARS
        and text.isprintable()
        and not set(text) & set("<\ufffd")
    )


def refuse_html(data: bytes, path: str) -> None:
    """Refuse a web page: a portal's or a proxy's, which stand in where the service should answer.

    Raises:
        BrokenSourceError: It is one, whatever the server calls it.
    """
    if data.lstrip(_BLANK).startswith(b"<"):
        raise BrokenSourceError(f"cannot read '{path}': it is a web page, no meta data", reason="html")
