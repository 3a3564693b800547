"""The native layout: which file of a folder is what, by its name alone (context, section 4)."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Offer, Problem, Reading
from contextagent.payloads import names
from contextagent.payloads.variables import MAX_BYTES, parse_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from contextagent.model import Entry, Medium, OfferRole, Owner, Phase

FILE_NAMES = ("prolog.sh", "epilog.sh", "init.sh", "site.yaml", "site.json", "user.yaml", "user.json")
"""Native names of files, by which a folder is recognised; `context.sh` alone is no native layout."""
FOLDER_NAMES = ("pre-network.d", "post-network.d", "stop.d", "files", "features")
NOT_NATIVE = (
    "site", "user", "openstack", "ec2", "user-data", "meta-data", "vendor-data", "network-config", "default.tgz",
)  # fmt: skip
"""Names in a disk's root that belong to another owner or layout, and so to no flat folder."""
MAX_DEPTH = 32
MAX_ENTRIES = 100_000
_MAX_LINKS = 8

_SCRIPT_FOLDERS: tuple[tuple[str, Phase, int], ...] = (
    ("pre-network.d", "pre-network", 2),
    ("post-network.d", "post-network", 2),
    ("stop.d", "stop", 1),
)


def is_native(entries: Collection[Entry], *, without: Collection[str] = ()) -> bool:
    """Return whether a folder with these entries is one in native form.

    Args:
        entries: The folder's own entries.
        without: Names that another layout has claimed (`INIT_SCRIPTS`, `SCRIPT_EXEC`).
    """
    return any(
        entry.name not in without
        and (entry.name in FILE_NAMES or (entry.kind == "folder" and entry.name in FOLDER_NAMES))
        for entry in entries
    )


def top_folder(medium: Medium) -> str:
    """Return the one folder that all of a bundle stands under; empty where the bundle is flat.

    Raises:
        BrokenSourceError: The medium can't be read.
    """
    entries = medium.folder("")
    is_under_one = len(entries) == 1 and entries[0].kind == "folder" and not is_native(entries)
    return entries[0].name if is_under_one else ""


def native_offers(
    medium: Medium, prefix: str, owner: Owner, *, without: Collection[str] = (), is_bundle: bool = False
) -> Reading:
    """Return what a folder in native form offers.

    Args:
        medium: Where the folder is.
        prefix: The folder, without a slash at either end; empty for the medium's root.
        owner: Whose the folder is.
        without: Names directly in the folder that another layout has claimed.
        is_bundle: No other owner and no other layout can have a part of the medium.

    Returns:
        Layout `hepix`; no offers where there is no such folder or nothing in it.

    Raises:
        BrokenSourceError: A native name stands for something that can't be used: a link or a device in a script's
            place, a name that could forge another, two settings files, a `context.sh` that is not data.
    """
    return _Folder(medium, prefix, owner, without if prefix or is_bundle else (*without, *NOT_NATIVE)).reading()


class _Folder:
    """One folder in native form, listed once and then looked through by name."""

    def __init__(self, medium: Medium, prefix: str, owner: Owner, without: Collection[str]) -> None:
        self._medium = medium
        self._base = f"{prefix}/" if prefix else ""
        self._owner: Owner = owner
        self._offers: list[Offer] = []
        self._warnings: list[Problem] = []
        self._entries: dict[str, Entry] = {}
        self._list(prefix, without)

    def reading(self) -> Reading:
        """Return all that the folder says."""
        self._take_scripts()
        self._take_files()
        self._take_settings()
        self._take_features()
        self._take_companions()
        return Reading(
            layout="hepix",
            offers=tuple(self._offers),
            variables=self._variables(),
            variables_owner=self._owner,
            warnings=tuple(self._warnings),
        )

    def _list(self, prefix: str, without: Collection[str]) -> None:
        """Collect every entry by its path within the folder, bounded, since a forged medium can hold loops."""
        waiting = [prefix]
        while waiting:
            folder = waiting.pop()
            for entry in self._medium.folder(folder):
                path = entry.path[len(self._base) :]
                if path in without:
                    continue
                self._entries[path] = entry
                if entry.kind == "folder" and not names.component_problem(entry.name):
                    waiting.append(entry.path)
                if path.count("/") >= MAX_DEPTH or len(self._entries) > MAX_ENTRIES:
                    raise self._broken(entry.path, "too-deep", f"more than {MAX_DEPTH} levels or {MAX_ENTRIES} names")

    def _take_scripts(self) -> None:
        first = "prolog.sh" if "prolog.sh" in self._entries else "init.sh"
        if first == "prolog.sh" and "init.sh" in self._entries:
            self._warn("init.sh", "not-run", "it is run only where there is no 'prolog.sh', ignoring it")
        self._take_script(first, "pre-network", 1)
        self._take_script("epilog.sh", "post-network", 1)
        for folder, phase, rank in _SCRIPT_FOLDERS:
            for path in self._below(folder):
                self._take_script(path, phase, rank)
        self._take_script("epilog.sh", "stop", 2)
        self._take_script(first, "stop", 3)

    def _take_script(self, path: str, phase: Phase, rank: int) -> None:
        entry = self._entries.get(path)
        if entry is None:
            return
        in_folder = "/" in path
        is_leftover = in_folder and names.is_leftover(entry.name)
        if entry.kind == "link" and self._medium.are_links_inside:
            entry = self._resolved(path, entry)
        if is_leftover:
            self._warn(path, "leftover", "an editor's or package manager's leftover is not run, ignoring it")
        elif in_folder and entry.kind == "folder":
            self._warn(path, "folder", "a folder is no script, ignoring it")
        elif cause := names.script_name_problem(path):
            raise self._broken(entry.path, "bad-name", cause)
        elif entry.kind != "file":
            raise self._broken(entry.path, *_NO_FILE[entry.kind])
        else:
            self._offers.append(
                Offer(owner=self._owner, role="script", name=path, path=entry.path, phase=phase, rank=rank, mode=0o755)
            )

    def _resolved(self, path: str, entry: Entry) -> Entry:
        """Return what a link leads to, by name alone; the link itself where it leads to no file of the folder."""
        at, found = path, entry
        for _ in range(_MAX_LINKS):
            at = names.inside(at.rpartition("/")[0], found.target) or ""
            found = self._entries.get(at, entry)
            if found.kind != "link":
                break
        return found if found.kind == "file" else entry

    def _take_files(self) -> None:
        for path in self._below("files", is_deep=True):
            entry = self._entries[path]
            target = path[len("files") :]
            if cause := names.target_problem(target):
                raise self._broken(entry.path, "bad-name", cause)
            if entry.kind == "link" and names.inside(target[1:].rpartition("/")[0], entry.target) is None:
                raise self._broken(entry.path, "link-outside", "the link leaves 'files/'")
            if entry.kind == "other":
                raise self._broken(entry.path, *_NO_FILE["other"])
            if entry.kind != "folder":
                self._offer("file", target, entry)

    def _take_settings(self) -> None:
        found = [name for name in (f"{self._owner}.yaml", f"{self._owner}.json") if name in self._entries]
        if len(found) > 1:
            raise self._broken(self._base + found[0], "settings-twice", f"there is '{found[1]}', too")
        for name in found:
            entry = self._entries[name]
            if entry.kind != "file":
                raise self._broken(entry.path, *_NO_FILE[entry.kind])
            self._offers.append(Offer(owner=self._owner, role="settings", name=name, path=entry.path))

    def _take_features(self) -> None:
        for kind in ("machine", "job"):
            for path in self._below(f"features/{kind}"):
                entry = self._entries[path]
                if entry.kind == "file" and names.is_feature_key(entry.name):
                    name = f"{kind}/{entry.name}"
                    self._offers.append(Offer(owner=self._owner, role="feature", name=name, path=entry.path))
                else:
                    self._warn(path, "bad-feature", "no file named in letters, digits and '_', ignoring it")

    def _take_companions(self) -> None:
        """Offer every file as it stands, for the owner's working folder."""
        for path in sorted(self._entries):
            entry = self._entries[path]
            if entry.kind == "folder":
                continue
            cause = "" if entry.kind in ("file", "link") else _NO_FILE["other"][1]
            cause = cause or names.target_problem(f"/{path}")
            if not cause and entry.kind == "link" and names.inside(path.rpartition("/")[0], entry.target) is None:
                cause = "the link leaves the folder"
            if cause:
                self._warn(path, "not-copied", f"{cause}, leaving it out of the working folder")
                continue
            self._offer("companion", path, entry)

    def _offer(self, role: OfferRole, name: str, entry: Entry) -> None:
        """Offer a file, or a link as it stands, that has been judged."""
        self._offers.append(
            Offer(
                owner=self._owner,
                role=role,
                name=name,
                path="" if entry.kind == "link" else entry.path,
                mode=entry.mode & 0o755,
                link=entry.target,
            )
        )

    def _variables(self) -> Mapping[str, str]:
        entry = self._entries.get("context.sh")
        if entry is None:
            return {}
        if entry.kind != "file":
            raise self._broken(entry.path, *_NO_FILE[entry.kind])
        return parse_variables(self._medium.read(entry.path, max_bytes=MAX_BYTES), entry.path)

    def _below(self, folder: str, *, is_deep: bool = False) -> list[str]:
        """Return the paths in a folder (`is_deep`: and below) in C-locale order, which is that of code points."""
        start = f"{folder}/"
        return sorted(
            path for path in self._entries if path.startswith(start) and (is_deep or "/" not in path[len(start) :])
        )

    def _warn(self, path: str, reason: str, message: str) -> None:
        self._warnings.append(Problem(reason=reason, message=message, path=self._base + path))

    @staticmethod
    def _broken(path: str, reason: str, cause: str) -> BrokenSourceError:
        message = f"cannot take '{path}': {cause}"
        problem = Problem(reason=reason, message=cause, path=path)
        return BrokenSourceError(message, reason=reason, problems=(problem,))


_NO_FILE = {
    "link": ("link", "it is a link, and links are not followed"),
    "folder": ("folder", "it is a folder"),
    "other": ("device", "it is a device, fifo or socket"),
}
