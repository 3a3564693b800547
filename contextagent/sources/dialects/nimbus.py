"""The `nimbus` dialect: EC2's names below the URL that Nimbus wrote into the image when it started it."""

from __future__ import annotations

from contextagent.payloads.address import parse_address
from contextagent.sources.dialects import ec2, no_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.model import Reading
    from contextagent.policy.settings import Settings

NAME = "nimbus"
META_DATA = ec2.META_DATA
USER_DATA = ec2.USER_DATA

FILE = "/var/nimbus-metadata-server-url"
_MAX_BYTES = 1 << 12


def read(meta: bytes) -> Reading:
    """Return the instance's id.

    Raises:
        BrokenSourceError: It is none.
    """
    return ec2.said(meta, NAME)


def address(host: Host, settings: Settings) -> str:  # noqa: ARG001  # the file's word stands
    """Return the URL in the first line of Nimbus' file.

    Raises:
        BrokenSourceError: There is no such file, or no URL with a literal address in it.
    """
    try:
        text = host.files.read(FILE, max_bytes=_MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise no_address(f"cannot read '{FILE}': {error.strerror or error}") from error
    url = text.lstrip("\ufeff").partition("\n")[0].strip()
    try:
        parse_address(url)
    except ValueError as error:
        raise no_address(f"cannot use '{ascii(url)[1:-1]}' from '{FILE}': {error}") from error
    return url
