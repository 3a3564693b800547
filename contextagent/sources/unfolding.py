"""User data to what it offers: read in a confined child, and what it holds is unpacked in private."""

from __future__ import annotations

from contextagent.payloads.userdata import prepare, read_user_data
from contextagent.sources.crossing import asked, packed, unpacked
from contextagent.sources.unpacking import caps_of, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.model import Reading
    from contextagent.policy.settings import Settings
    from contextagent.sources.unpacking import BundleMedium, Unpacked


class Unfolded:
    """What user data offers, and the private folder that a bundle in it was unpacked to.

    Args:
        host: The machine.
        data: The user data.
        settings: For the caps.
        folder: Guest path of a private folder; empty for a trial, which unpacks below this machine's /tmp.

    Raises:
        BrokenSourceError: It is past a cap, or its form can't be read; the user's fault.
        CannotWriteError: A bundle can't be unpacked.
    """

    def __init__(self, host: Host, data: bytes, settings: Settings, folder: str) -> None:
        self._unpacked: Unpacked | None = None
        self.reading = _read(host, data, settings)
        if self.reading.bundle is not None:
            self._unpacked = unpack(host, self.reading.bundle, settings, owner="user", folder=folder, name="user data")
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
    return unpacked(
        asked(host, data, lambda foreign: packed(read_user_data(foreign, caps=caps)), prepare=lambda: prepare(data))
    )
