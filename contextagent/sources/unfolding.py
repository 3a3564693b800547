"""User data to what it offers: read in a confined child, and what it holds is unpacked in private."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.host.files import random_name
from contextagent.payloads.caps import Caps
from contextagent.payloads.userdata import prepare, read_user_data
from contextagent.sources.crossing import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from contextagent.host import Host
    from contextagent.host.confine import Channel
    from contextagent.model import Reading
    from contextagent.policy.settings import Settings
    from contextagent.sources.media import FolderMedium

_TIMEOUT_S = 60.0


def caps_of(settings: Settings) -> Caps:
    """Return the caps that the policy sets."""
    return Caps(**{name: settings[f"caps.{name}"] for name in Caps._fields})


class Unfolded:
    """What user data offers, and the private folder that a bundle in it was unpacked to.

    Args:
        host: The machine.
        data: The user data.
        settings: For the caps.
        place: Real path of a private folder that is there; empty for a trial, which unpacks below /tmp.

    Raises:
        BrokenSourceError: It is past a cap, or its form can't be read; the user's fault.
        CannotWriteError: A bundle can't be unpacked.
    """

    def __init__(self, host: Host, data: bytes, settings: Settings, place: str) -> None:
        self._host = host
        self._caps = caps_of(settings)
        self.medium: FolderMedium | None = None
        self._folder = ""
        self.reading = self._read(data)
        if self.reading.bundle is not None:
            self._folder = f"{place or '/tmp'}/{random_name('bundle-')}"  # noqa: S108  # 0700, and nobody can guess it
            self._unpack(self.reading.bundle)

    def close(self) -> None:
        """Remove what was unpacked."""
        if self.medium is not None:
            self.medium.close()
        if self._folder:
            from contextagent.host.files import Files  # noqa: PLC0415  # only bundles come here

            Files().remove(self._folder)

    def _read(self, data: bytes) -> Reading:
        """Return what the data says; a plain script has nothing to parse, all else is read where it can do no harm."""
        if data.startswith(b"#!"):
            return read_user_data(data, caps=self._caps)
        answer = self._asked(data, lambda foreign: packed(read_user_data(foreign, caps=self._caps)))
        return unpacked(answer)

    def _asked(self, data: bytes, work: Any) -> dict[str, Any]:  # noqa: ANN401  # bytes to a dict
        def serve(channel: Channel) -> None:
            foreign = channel.receive(max_bytes=len(data)) or b""
            try:
                said = work(foreign)
            except BrokenSourceError as error:
                said = {"broken": str(error), "reason": error.reason}
            channel.send(jsontext.dumps(said).encode())

        child = self._host.confined(serve, timeout_s=_TIMEOUT_S, prepare=lambda: prepare(data))
        try:
            answer: dict[str, Any] = jsontext.loads(child.ask(data))
        finally:
            child.close()
        if "broken" in answer:
            raise BrokenSourceError(answer["broken"], reason=answer["reason"])
        return answer

    def _unpack(self, bundle: bytes) -> None:
        """Unpack a bundle after a confined child has judged the very same bytes, and read its native layout."""
        import io  # noqa: PLC0415  # only bundles come here

        from contextagent.payloads.bundle import check, extract  # noqa: PLC0415  # see above
        from contextagent.payloads.native import native_offers, top_folder  # noqa: PLC0415  # see above
        from contextagent.sources.media import FolderMedium  # noqa: PLC0415  # see above

        self._asked(bundle, lambda foreign: {"members": len(check(io.BytesIO(foreign), self._caps))})
        try:
            extract(io.BytesIO(bundle), self._folder, self._caps)
            self.medium = FolderMedium(self._folder, "user data")
            said = native_offers(self.medium, top_folder(self.medium), "user")
        except BaseException:
            self.close()
            raise
        self.reading = self.reading.replace(offers=(*self.reading.offers, *said.offers), bundle=None)
        self.reading = self.reading.replace(warnings=(*self.reading.warnings, *said.warnings))
