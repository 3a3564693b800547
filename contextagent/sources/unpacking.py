"""A bundle to what it offers: judged in a confined child, then unpacked in private; one way for site and user."""

from __future__ import annotations

import os

from contextagent.digests import new_sha512
from contextagent.errors import BrokenSourceError
from contextagent.host.files import CHUNK_BYTES, NEW, Files, random_name
from contextagent.model import Problem, Reading
from contextagent.payloads.caps import Caps
from contextagent.payloads.native import native_offers, top_folder
from contextagent.sources.crossing import asked
from contextagent.sources.media import FolderMedium, Ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from contextagent.host import Host
    from contextagent.model import Owner
    from contextagent.payloads.bundle import Member
    from contextagent.policy.settings import Settings


_TIMEOUT_S = 60.0
_LARGE_BYTES = 8 << 20
"""From here on a child of its own pays for the digest: it takes ten times as long as starting one."""
_HEX_DIGITS = 128


def caps_of(settings: Settings) -> Caps:
    """Return the caps that the policy sets."""
    return Caps(**{name: settings[f"caps.{name}"] for name in Caps._fields})


class BundleMedium(FolderMedium):
    """What was unpacked: a folder that is nobody else's, of which every byte is digested already.

    Args:
        root: The folder's path on this machine.
        name: What to call it.
        members: What was written there.
    """

    are_links_inside = True

    def __init__(self, root: str, name: str, members: tuple[Member, ...]) -> None:
        super().__init__(root, name)
        self.root = root
        self._ours = {
            each.path: Ours(path=f"{root}/{each.path}", sha512=each.sha512, size_bytes=each.size_bytes)
            for each in members
            if each.kind == "file"
        }

    def ours(self, path: str) -> Ours | None:
        """Return a file, as it was when it was written."""
        return self._ours.get(path)


class Unpacked:
    """A bundle that has been judged and unpacked.

    Attributes:
        medium: The folder with what was in it.
        reading: What it offers as a native folder of its owner's.
    """

    def __init__(self, medium: BundleMedium, reading: Reading) -> None:
        self.medium = medium
        self.reading = reading

    def close(self) -> None:
        """Remove what was unpacked, as far as nobody moved it elsewhere; a second call does nothing."""
        self.medium.close()
        Files().remove(self.medium.root)


def unpack(
    host: Host,
    source: bytes | int,
    settings: Settings,
    *,
    owner: Owner,
    folder: str,
    name: str = "bundle",
) -> Unpacked:
    """Return a bundle unpacked to a private folder, after a confined child has judged the very same bytes.

    Args:
        host: The machine.
        source: The packed bundle: its bytes, or the descriptor of a file that nobody else can write to; its offset is
            anywhere afterwards, and it stays open.
        settings: For the caps.
        owner: Whose it is.
        folder: Guest path of a folder of the agent's own, made 0700 if it is missing; on the file system of its state,
            so that what is unpacked can be moved from there. Empty for a trial: then it is this machine's /tmp.
        name: What to call it: `user data`, `default.tgz`.

    Raises:
        BrokenSourceError: It breaks a rule or is past a cap, its writer's fault; the error names member and rule.
        CannotWriteError: It can't be unpacked.
    """
    from contextagent.payloads.bundle import check, extract  # noqa: PLC0415  # the child is to find it loaded

    caps = caps_of(settings)
    asked(
        host,
        lambda: {"members": len(check(_opened(source), caps))},
        keep=(source,) if isinstance(source, int) else (),
    )
    # Here it is judged once more: what a child that was taken over made of the file does not matter
    if folder:
        host.files.make_folder(folder)
    below = host.files.real(folder) if folder else "/tmp"  # noqa: S108  # the folder is 0700, and nobody guesses its name
    root = f"{below}/{random_name(NEW)}"
    medium = None
    try:
        members = extract(_opened(source), root, caps)
        medium = BundleMedium(root, name, members)
        return Unpacked(medium, _reading(medium, owner, name, is_empty=not members))
    except BaseException:
        if medium is not None:
            medium.close()
        Files().remove(root)
        raise


def _opened(source: bytes | int) -> BinaryIO:
    """Return the bundle as a file; `extract` begins at its start wherever the offset stands."""
    if isinstance(source, int):
        return open(source, "rb", closefd=False)
    import io  # noqa: PLC0415  # only user data comes as bytes

    return io.BytesIO(source)


class PackedDigest:
    """The SHA-512 of a packed bundle, of much of it taken by a child while the bundle is being judged and unpacked.

    Args:
        host: The machine.
        fd: The file, whose offset is left alone.
        size_bytes: How much it holds.
    """

    def __init__(self, host: Host, fd: int, size_bytes: int) -> None:
        self._fd = fd
        self._size_bytes = size_bytes
        self._child = None
        if size_bytes >= _LARGE_BYTES:
            self._child = host.confined(
                lambda channel: channel.send(self._computed().encode()),
                timeout_s=_TIMEOUT_S,
                keep=(fd,),
                prepare=self._load,
            )

    def hexdigest(self) -> str:
        """Return the digest; call it once, before the file is closed."""
        if self._child is None:
            return self._computed()
        try:
            return self._child.hear(max_bytes=_HEX_DIGITS).decode()
        except BrokenSourceError:  # killed, such as for want of memory
            return self._computed()
        finally:
            self._child.close()

    def _load(self) -> None:
        """Import what digests much."""
        new_sha512(self._size_bytes)

    def _computed(self) -> str:
        digest = new_sha512(self._size_bytes)
        at = 0
        while data := os.pread(self._fd, CHUNK_BYTES, at):
            digest.update(data)
            at += len(data)
        return digest.hexdigest()


def _reading(medium: BundleMedium, owner: Owner, name: str, *, is_empty: bool) -> Reading:
    """Return what the bundle offers, and the one warning where that is nothing though there is something in it."""
    reading = native_offers(medium, top_folder(medium), owner, is_bundle=True)
    if is_empty or any(offer.role != "companion" for offer in reading.offers) or reading.variables:
        return reading
    message = f"cannot use '{name}': none of its names is one that a context gives a meaning to, ignoring it"
    return reading.replace(warnings=(*reading.warnings, Problem(reason="nothing-native", message=message, path=name)))
