"""Layouts of a context disk: who writes a disk how, and what that gives to whom.

A layout is one file here, one line in `LAYOUTS`, one fixture folder, one test and one row in docs/reference/sources.md.
Its module has one function:

    read(medium, *, label, flat_owner, is_site_trusted) -> tuple[LayoutReading, ...]

which returns what the layout says, or nothing where the disk is not in this layout.
"""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Offer, Problem, Reading
from contextagent.payloads.native import FILE_NAMES, FOLDER_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from contextagent.model import Owner
    from contextagent.sources.media import NamedMedium

    class Read(Protocol):
        """A layout's function."""

        def __call__(
            self, medium: NamedMedium, *, label: str, flat_owner: Owner, is_site_trusted: bool
        ) -> tuple[LayoutReading, ...]:
            """Return what the layout says; empty where the disk is not in this layout.

            Args:
                medium: The disk.
                label: Its volume label, a hint; empty where it has none.
                flat_owner: Whose the flat names are.
                is_site_trusted: Whether this disk may speak as the site.

            Raises:
                BrokenSourceError: The disk can't be read.
            """


LAYOUTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("hepix", (*FILE_NAMES, *FOLDER_NAMES, "site", "user")),
    ("opennebula", ("context.sh",)),
    ("stratuslab", ("context.sh", "meta.js", "label:_STRATUSLAB", "label:_CLOUD_INIT")),
    ("openstack", ("openstack", "ec2")),
    ("nocloud", ("user-data", "meta-data")),
)
"""Each layout with the names in a disk's root of which it needs one: only then is its module imported."""

SMALL_BYTES = 1 << 20
"""Most bytes of a small file that a layout reads itself (meta data, keys)."""
USER_DATA_BYTES = 64 << 20
"""Most bytes of user data; `payloads.userdata` has its own, tighter caps."""


class LayoutReading(Reading):
    """A reading of a disk, where one owner's part may be unusable while the other's stands.

    Attributes:
        broken: Owner to `reason: message`.
    """

    broken: Mapping[Owner, str] = {}


def read_layouts(
    medium: NamedMedium, *, label: str, flat_owner: Owner, is_site_trusted: bool
) -> tuple[LayoutReading, ...]:
    """Return what every layout that the disk is in says, in the table's order; empty where it is in none.

    Raises:
        BrokenSourceError: The disk can't be read.
    """
    root = {f"label:{label}"}
    for entry in medium.folder(""):
        root.add(entry.name)
        if entry.kind == "link" and any(entry.name in signs for _, signs in LAYOUTS[1:]):
            message = f"cannot use '{entry.name}': a link on a disk is not followed, ignoring it"
            medium.warnings.append(Problem(reason="link", message=message, path=medium.name))
    readings: list[LayoutReading] = []
    for name, signs in LAYOUTS:
        if not root.isdisjoint(signs):
            read: Read = __import__(f"{__name__}.{name}", fromlist=("read",)).read
            readings += read(medium, label=label, flat_owner=flat_owner, is_site_trusted=is_site_trusted)
    return tuple(readings)


def cause(error: BrokenSourceError) -> str:
    """Return a broken part's reason as verdicts have it: the fixed word, then the sentence."""
    return f"{error.reason}: {error}"


def is_file(medium: NamedMedium, path: str) -> bool:
    """Return whether a regular file stands at `path`.

    Raises:
        BrokenSourceError: The medium can't be read there.
    """
    entry = medium.entry(path)
    return entry is not None and entry.kind == "file"


def key_offers(text: str, owner: Owner, account: str) -> list[Offer]:
    """Return one offer for all login keys in a text, or none where it has none."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    return [Offer(owner=owner, role="key", name=account, data=data)] if lines else []


def from_base64(text: str | bytes, what: str) -> bytes:
    """Return what base64 stands for; blanks and line ends in it do not matter.

    Raises:
        BrokenSourceError: It is no base64; the writer's fault.
    """
    from binascii import Error, a2b_base64  # noqa: PLC0415  # most disks carry no base64

    data = b"".join((text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text).split())
    try:
        return a2b_base64(data, strict_mode=True) if data else b""
    except Error as error:
        message = f"cannot decode '{what}': {str(error)[:1].lower()}{str(error)[1:]}"
        raise BrokenSourceError(message, reason="bad-base64") from error


def json_object(medium: NamedMedium, path: str) -> dict[str, object]:
    """Return the object that a JSON file holds.

    Raises:
        BrokenSourceError: It can't be read, or is no JSON object; the writer's fault.
    """
    from contextagent.sources import nova  # noqa: PLC0415  # only three layouts have JSON

    try:
        return nova.parsed(medium.read(path, max_bytes=SMALL_BYTES))
    except ValueError as error:
        raise medium.broken(path, "bad-json", str(error)) from error


def not_run(medium: NamedMedium, path: str, what: str) -> Problem:
    """Return the warning for something that a disk carries and this agent does not run."""
    return Problem(reason="not-run", message=f"{what} is not run, ignoring '{path}'", path=medium.name)
