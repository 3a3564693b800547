"""User data to what it offers: read in a confined child, and what it holds is unpacked in private."""

from __future__ import annotations

import os

from contextagent.errors import BrokenSourceError
from contextagent.model import Reading
from contextagent.payloads.userdata import prepare, read_user_data
from contextagent.sources.crossing import reading_of
from contextagent.sources.unpacking import caps_of, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.policy.settings import Settings
    from contextagent.sources.unpacking import BundleMedium, Unpacked


_HEAD_BYTES = 1 << 16
"""Enough of a packed archive to see its first header."""


class Unfolded:
    """What user data offers, and the private folder that a bundle in it was unpacked to.

    Args:
        host: The machine.
        data: The user data; or the descriptor of a file with it, where it is too large to be anything but a bundle.
        settings: For the caps.
        folder: Guest path of a private folder; empty for a trial, which unpacks below this machine's /tmp.

    Raises:
        BrokenSourceError: It is past a cap, or its form can't be read; the user's fault.
        CannotWriteError: A bundle can't be unpacked.
    """

    def __init__(self, host: Host, data: bytes | int, settings: Settings, folder: str) -> None:
        self._unpacked: Unpacked | None = None
        self.reading = _read_file(data) if isinstance(data, int) else _read(host, data, settings)
        source = data if isinstance(data, int) else self.reading.bundle
        if source is not None:
            self._unpacked = unpack(host, source, settings, owner="user", folder=folder, name="user data")
            said = self._unpacked.reading
            self.reading = self.reading.replace(
                offers=(*self.reading.offers, *said.offers),
                warnings=(*self.reading.warnings, *said.warnings),
                bundle=None,
            )

    @property
    def medium(self) -> BundleMedium | None:
        """Where the offers' paths are; None where every offer has its data with it."""
        return self._unpacked.medium if self._unpacked else None

    def close(self) -> None:
        """Remove what was unpacked."""
        if self._unpacked is not None:
            self._unpacked.close()


def _read(host: Host, data: bytes, settings: Settings) -> Reading:
    """Return what the data says; a plain script has nothing to parse, all else is read where it can do no harm."""
    caps = caps_of(settings)
    if data.startswith(b"#!"):
        return read_user_data(data, caps=caps)
    return reading_of(
        host,
        data,
        lambda foreign: read_user_data(foreign, caps=caps),
        max_bytes=caps.total_bytes,
        prepare=lambda: prepare(data),
    )


def _read_file(fd: int) -> Reading:
    """Return what large user data says: only a bundle may be larger than one of its members.

    Raises:
        BrokenSourceError: It is none.
    """
    from contextagent.payloads.forms import tar  # noqa: PLC0415  # most user data is small

    if not tar.recognises(os.pread(fd, _HEAD_BYTES, 0)):
        message = "cannot read 'user-data': it is too large for anything but a tar archive, and it is none"
        raise BrokenSourceError(message, reason="member-too-large")
    return Reading(layout="tar", variables_owner="user")
