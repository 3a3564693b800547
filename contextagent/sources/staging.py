"""From what a source offers to what an owner supplied: copied within caps, digested, and out of the source's reach.

The bytes that are digested are the bytes that will run: they are written to the agent's own state in the same pass, and
the source is closed before any script starts.
"""

from __future__ import annotations

from contextagent import jsontext
from contextagent.digests import new_sha512, sha256_hex
from contextagent.errors import BrokenSourceError
from contextagent.host.files import NEW, random_name
from contextagent.model import Kept, LoginKey, PlacedFile, Problem, Script, Supply, Value
from contextagent.runner.state import KEPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from contextagent.host import Host
    from contextagent.model import Offer, Owner
    from contextagent.policy.settings import Settings
    from contextagent.runner.folders import Folders
    from contextagent.sources.found import Found
    from contextagent.sources.media import NamedMedium, Ours


class Staged(Value):
    """A supply, the folder it was written to (empty for a trial), and what was passed over."""

    supply: Supply
    folder: str
    warnings: tuple[Problem, ...] = ()


class Store:
    """Where staged bytes go: a fresh folder of the agent's own state, or nowhere for a trial that changes nothing.

    Args:
        host: The machine.
        folder: Guest path of a fresh folder; empty for a trial.
        owner: Whose material it is (for the error).
        settings: For the caps.
    """

    def __init__(self, host: Host, folder: str, owner: Owner, settings: Settings) -> None:
        self._host = host
        self.folder = folder
        self._owner = owner
        self._members_left: int = settings["caps.members"]
        self._member_bytes: int = settings["caps.member_bytes"]
        self._bytes_left: int = settings["caps.total_bytes"]

    def add(self, place: str, pieces: Iterable[bytes], what: str, mode: int) -> tuple[str, int]:
        """Write one item to `place` below the folder, and return its SHA-512 and size.

        Raises:
            BrokenSourceError: It is past a cap (`member-too-large`, `total-too-large`, `too-many-members`).
            CannotWriteError: The state can't be written.
        """
        counted = _Counted(pieces, self._count_one(what))
        if self.folder:
            self._host.files.create(f"{self.folder}/{place}", counted, mode=mode)
        else:
            for _ in counted:
                pass
        self._count_bytes(counted.size_bytes, what)
        return counted.digest.hexdigest(), counted.size_bytes

    def move(self, place: str, ours: Ours, what: str, mode: int) -> tuple[str, int]:
        """Move to `place` what the agent itself has unpacked and digested; all else is as with `add`."""
        self._count_one(what)
        self._count_bytes(ours.size_bytes, what)
        if self.folder:
            self._host.files.adopt(ours.path, f"{self.folder}/{place}", mode=mode)
        return ours.sha512, ours.size_bytes

    def copy(self, place: str, staged: str, mode: int) -> None:
        """Write once more, to `place`, what is staged at `staged`.

        Raises:
            CannotWriteError: The state can't be written.
        """
        if self.folder:
            again = self._host.files.chunks(f"{self.folder}/{staged}", max_bytes=self._member_bytes)
            self._host.files.create(f"{self.folder}/{place}", again, mode=mode)

    def link(self, place: str, target: str) -> None:
        """Make a symbolic link at `place`; `target` is relative and has been checked to stay inside.

        Raises:
            CannotWriteError: The state can't be written.
        """
        if self.folder:
            self._host.files.link(f"{self.folder}/{place}", target)

    def _count_one(self, what: str) -> int:
        """Count one more item, and return how large it may be."""
        self._members_left -= 1
        if self._members_left < 0:
            raise self._past("too-many-members", what)
        return min(self._member_bytes, self._bytes_left)

    def _count_bytes(self, size_bytes: int, what: str) -> None:
        if size_bytes > self._member_bytes:
            raise self._past("member-too-large", what)
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise self._past("total-too-large", what)

    def _past(self, reason: str, what: str) -> BrokenSourceError:
        return BrokenSourceError(f"cannot take the {self._owner}'s '{what}': {reason.replace('-', ' ')}", reason=reason)


class _Counted:
    """Bytes on their way through: counted, digested, and ended one piece after the cap."""

    def __init__(self, pieces: Iterable[bytes], cap_bytes: int) -> None:
        self._pieces = pieces
        self._cap_bytes = cap_bytes
        self.digest = new_sha512()
        self.size_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for data in self._pieces:
            self.size_bytes += len(data)
            if self.size_bytes > self._cap_bytes:
                return
            self.digest.update(data)
            yield data


def stage(host: Host, found: Found, settings: Settings, *, folder: str) -> Staged:
    """Return what the owner supplied, copied to a new folder below `folder`.

    With an empty `folder` (a guest path) it is a trial: everything is read, bounded and digested, and nothing written.

    Raises:
        BrokenSourceError: Something is past a cap or can't be read; nothing of this supply may be used.
        CannotWriteError: The state can't be written.
    """
    place = f"{folder}/{random_name(NEW)}" if folder else ""
    if place:
        host.files.make_folder(place)
    store = Store(host, place, found.owner, settings)
    warnings: list[Problem] = []
    form = ""
    groups: list[tuple[Sequence[Offer], NamedMedium | None]] = [(found.offers, found.medium)]
    unfolded = None
    try:
        if found.user_data is not None:
            from contextagent.sources.unfolding import Unfolded  # noqa: PLC0415  # most disks carry no user data

            unfolded = Unfolded(host, found.user_data, settings, place)
            form = unfolded.reading.layout
            warnings += unfolded.reading.warnings
            groups.append((unfolded.reading.offers, unfolded.medium))
        supply = _gather(groups, found.owner, store, warnings)
    except BaseException:
        if place:
            host.files.remove(place)
        raise
    finally:
        if unfolded is not None:
            unfolded.close()
    supply = supply.replace(source=found.source, trust=found.trust, variables=found.variables, user_data=form)
    return Staged(supply=supply.replace(digest=_digest(supply)), folder=place, warnings=tuple(warnings))


def install(host: Host, staged: Staged, instance_folder: str, folders: Folders, *, is_folder_kept: bool) -> None:
    """Move what was staged to where it is used: scripts and files, the owner's working folder, payloads that are kept.

    Args:
        host: The machine.
        staged: Of one owner; its folder is gone afterwards.
        instance_folder: Guest path.
        folders: The owners' working folders.
        is_folder_kept: The working folder was made from the same supply before: what scripts left in it stays.

    Raises:
        CannotWriteError: The state can't be written.
    """
    supply = staged.supply
    for name, place in (("scripts", f"scripts/{supply.owner}"), ("kept", f"{KEPT}{supply.owner}")):
        host.files.make_folder(f"{staged.folder}/{name}")
        host.files.make_folder(f"{instance_folder}/{place}".rpartition("/")[0])
        host.files.remove(f"{instance_folder}/{place}")
        host.files.rename(f"{staged.folder}/{name}", f"{instance_folder}/{place}")
    if not is_folder_kept:
        host.files.make_folder(f"{staged.folder}/context")
        folders.replace(supply.owner, f"{staged.folder}/context")
    host.files.remove(staged.folder)


def _gather(
    groups: Sequence[tuple[Sequence[Offer], NamedMedium | None]], owner: Owner, store: Store, warnings: list[Problem]
) -> Supply:
    """Stage every offer of an owner; the first of two scripts with one id wins, and the other is named."""
    made = _Made(owner, store, warnings)
    for number, (offers, medium) in enumerate(groups):
        made.is_user_data = number > 0
        for offer in offers:
            if offer.owner == owner:
                made.take(offer, medium)
    return made.supply()


class _Made:
    """An owner's supply while it grows."""

    def __init__(self, owner: Owner, store: Store, warnings: list[Problem]) -> None:
        self._owner = owner
        self._store = store
        self._warnings = warnings
        self.is_user_data = False
        self._scripts: dict[str, Script] = {}
        self._files: dict[str, PlacedFile] = {}
        self._keys: list[LoginKey] = []
        self._kept: list[Kept] = []
        self._features: dict[str, str] = {}
        self._settings: tuple[str, str] | None = None
        self._staged: dict[tuple[int, str], tuple[str, str, int]] = {}
        self._companions: list[tuple[str, str, int]] = []
        self._places: set[str] = set()
        self._parents: set[str] = set()

    def _claim(self, place: str, what: str = "") -> bool:
        """Whether nothing stands at, above or below `place` yet; what comes second is named where it has a name."""
        parents = {place[:at] for at, char in enumerate(place) if char == "/"}
        is_free = place not in self._places and place not in self._parents and not parents & self._places
        if is_free:
            self._places.add(place)
            self._parents |= parents
        elif what:
            message = f"cannot take a second '{what}': the first one stands, ignoring it"
            self._warnings.append(Problem(reason="duplicate", message=message))
        return is_free

    def take(self, offer: Offer, medium: NamedMedium | None) -> None:  # one case a role
        """Stage one offer.

        Raises:
            BrokenSourceError: It is past a cap or can't be read.
        """
        match offer.role:
            case "script":
                self._take_script(offer, medium)
            case "file":
                self._take_file(offer, medium)
            case "settings":
                self._settings = (offer.name, _whole(offer, medium).decode("utf-8", "surrogateescape"))
            case "feature":
                self._features[offer.name] = _whole(offer, medium).decode("utf-8", "replace").strip()
            case "key":
                from contextagent.payloads.keys import read_keys  # noqa: PLC0415  # most contexts bring no keys

                text = _whole(offer, medium).decode("utf-8", "surrogateescape")
                lines, problems = read_keys(text, offer.path or f"the {self._owner}'s keys")
                self._keys += [LoginKey(owner=offer.owner, account=offer.name, line=line) for line in lines]
                self._warnings += problems
            case "companion":
                self._take_companion(offer, medium)
            case "kept":
                content = f"kept/{len(self._kept):03}"
                sha512, size, _ = self._put(content, offer, medium, offer.name)
                self._kept.append(
                    Kept(
                        name=offer.name,
                        sha512=sha512,
                        size_bytes=size,
                        content=f"{KEPT}{self._owner}/{content[5:]}",
                        reason=offer.reason,
                    )
                )

    def _take_script(self, offer: Offer, medium: NamedMedium | None) -> None:
        step_id = f"{offer.owner}/{offer.phase}/{offer.name}"
        content = f"scripts/{offer.phase}/{offer.name}"
        if not self._claim(content, step_id):
            return
        sha512, size, _ = self._put(content, offer, medium, step_id)
        self._scripts[step_id] = Script(
            owner=offer.owner,
            phase=offer.phase,
            name=offer.name,
            rank=offer.rank,
            sha512=sha512,
            size_bytes=size,
            content=f"scripts/{self._owner}/{offer.phase}/{offer.name}",
            is_user_data=self.is_user_data,
        )

    def _take_file(self, offer: Offer, medium: NamedMedium | None) -> None:
        content = "" if offer.link else f"scripts/files{offer.name}"
        if not self._claim(f"scripts/files{offer.name}", offer.name):
            return
        sha512, size, _ = ("", 0, False) if offer.link else self._put(content, offer, medium, offer.name)
        self._files[offer.name] = PlacedFile(
            owner=offer.owner,
            target=offer.name,
            sha512=sha512,
            size_bytes=size,
            mode=offer.mode & 0o755,
            content=content and f"scripts/{self._owner}/files{offer.name}",
            is_user_data=self.is_user_data,
            link=offer.link,
        )

    def _take_companion(self, offer: Offer, medium: NamedMedium | None) -> None:
        """Stage a file of the working folder; bytes that are staged already as a script or a file count once."""
        place = f"context/{offer.name}"
        if not self._claim(place):
            return
        if offer.link:
            self._store.link(place, offer.link)
            return
        mode = 0o700 if offer.mode & 0o111 else 0o600  # a helper that a script calls by its path
        sha512, size, is_new = self._put(place, offer, medium, offer.name, mode)
        if is_new:
            self._companions.append((offer.name, sha512, size))

    def _put(
        self, place: str, offer: Offer, medium: NamedMedium | None, what: str, mode: int = 0o600
    ) -> tuple[str, int, bool]:
        """Stage an offer's bytes, and return their SHA-512, their size, and whether they were not staged before.

        The working folder is its scripts' to change, and a script's staged copy nobody's: what is needed in two places
        is there twice, but counts once.
        """
        if medium is None or offer.data is not None:
            return (*self._store.add(place, _pieces(offer, medium), what, mode), True)
        known = self._staged.get((id(medium), offer.path))
        if known is not None:
            self._store.copy(place, known[0], mode)
            return known[1], known[2], False
        ours = medium.ours(offer.path)
        if ours is not None:
            sha512, size = self._store.move(place, ours, what, mode)
        else:
            sha512, size = self._store.add(place, _pieces(offer, medium), what, mode)
        self._staged[id(medium), offer.path] = place, sha512, size
        return sha512, size, True

    def supply(self) -> Supply:
        """Return what has been staged."""
        return Supply(
            companions=tuple(self._companions),
            owner=self._owner,
            source="",
            scripts=tuple(self._scripts.values()),
            files=tuple(self._files.values()),
            keys=tuple(self._keys),
            kept=tuple(self._kept),
            settings=self._settings,
            features=self._features,
        )


def _pieces(offer: Offer, medium: NamedMedium | None) -> Iterable[bytes]:
    if offer.data is not None:
        return (offer.data,)
    if medium is None:
        message = f"{offer.name} has neither data nor a medium"
        raise TypeError(message)
    return medium.chunks(offer.path, max_bytes=1 << 62)  # the store's caps are the bound


def _whole(offer: Offer, medium: NamedMedium | None) -> bytes:
    """Return a small item's bytes: settings, a feature or keys; 64 KiB is the largest any of them may be."""
    if offer.data is not None or medium is None:
        return b"".join(_pieces(offer, medium))
    return medium.read(offer.path, max_bytes=64 << 10)


def _digest(supply: Supply) -> str:
    """Return one digest over everything that a supply consists of."""
    facts = [
        [[script.id, script.sha512] for script in supply.scripts],
        [[placed.target, placed.sha512, placed.mode, placed.link] for placed in supply.files],
        [[key.account, key.line] for key in supply.keys],
        [[kept.name, kept.sha512] for kept in supply.kept],
        [list(companion) for companion in supply.companions],
        list(supply.settings or ()),
        dict(supply.features),
    ]
    return sha256_hex(jsontext.dumps(facts).encode())
