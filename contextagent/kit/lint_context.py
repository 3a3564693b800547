"""Mistakes in a context: what the agent's own readers refuse or pass over, and what they would do as they were told."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError, ContextAgentError
from contextagent.features.values import JOB_OUTPUTS
from contextagent.kit.finding import Finding
from contextagent.kit.lint_features import check_features
from contextagent.kit.lint_names import all_entries, name_meant
from contextagent.kit.lint_pilot import check_pilot
from contextagent.kit.lint_script import ScriptFile, check_script
from contextagent.kit.lint_secrets import find_secrets
from contextagent.kit.lint_settings import as_findings, check_script_ids, check_settings
from contextagent.model import Offer, Problem
from contextagent.payloads.native import is_native, native_offers, top_folder
from contextagent.payloads.stream import GZIP_MAGIC
from contextagent.payloads.variables import parse_variables
from contextagent.policy.settings import merge
from contextagent.runner.surroundings import USERS_HOME
from contextagent.sources.layouts import opennebula, read_layouts
from contextagent.sources.unfolding import Unfolded
from contextagent.sources.unpacking import caps_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from contextagent.host import Host
    from contextagent.kit.finding import Level
    from contextagent.model import Entry, Owner, Phase, Reading, Voice
    from contextagent.policy.layer import Layer
    from contextagent.sources.media import NamedMedium

    Folder = tuple[str, Owner, tuple[str, ...]]

SEARCHED_BYTES = 1 << 20
"""A larger file is not searched for secrets."""
MAX_READ_BYTES = 1 << 28
MAX_PROBLEMS = 100
_NO_PILOT = "refusing the pilot"
"""What can't work at all, as far as all voices together say it."""
_USERS_PLACES = (f"{USERS_HOME}/", f"{JOB_OUTPUTS}/")


class _Place:
    """Where something was read: a medium, or user data; and what to call it.

    Args:
        shown: Its name; a file in it is `shown/path`.
        medium: Its files, if it has any.
        raw: User data's own bytes, in which the lines of its parts are looked for.
    """

    def __init__(self, shown: str, medium: NamedMedium | None = None, raw: bytes = b"") -> None:
        self.shown = shown
        self.medium = medium
        self.raw = raw

    def full(self, path: str) -> str:
        """Return what to call a file in it."""
        return f"{self.shown}/{path}" if path else self.shown

    def findings(self, level: Level, problems: Iterable[Problem], path: str = "") -> list[Finding]:
        """Return the agent's own problems as findings; `path` is for those that have none, or only a medium's name."""
        names = ("", self.shown, self.medium.name if self.medium else "user-data")
        return [
            Finding(
                level=level,
                rule=each.reason,
                message=each.message,
                path=self.full(path if each.path in names else each.path),
                line=each.line,
            )
            for each in problems
        ]

    def line_of(self, data: bytes, line: int) -> int:
        """Return which line of the raw user data is a line of a part's; 0 where that can't be told."""
        start = self.raw.find(data)
        if not self.raw or self.raw.startswith(GZIP_MAGIC) or not line or start == 0:
            return line
        if start > 0:
            return line + self.raw.count(b"\n", 0, start)
        text = data.split(b"\n")[line - 1].strip()
        return self.raw.count(b"\n", 0, self.raw.find(text)) + 1 if text and self.raw.count(text) == 1 else 0


class Context:
    """One context that is looked through, and what was found so far.

    Args:
        host: The machine, for shells and confined readers.
        shown: What to call the context; a file in it is `shown/path`.
        policy: The image's policy.
        is_bundle: Whether it is a bundle and not a disk.
    """

    def __init__(self, host: Host, shown: str, policy: Layer, *, is_bundle: bool = False) -> None:
        self.findings: list[Finding] = []
        self._host = host
        self._shown = shown
        self._policy = policy
        self._is_bundle = is_bundle
        self._settings = merge(policy)
        self.caps = caps_of(self._settings)
        self._layers: dict[Owner, Layer] = {}
        self._scripts: list[tuple[_Place, Offer, bytes]] = []
        self._names: dict[Owner, set[str]] = {"site": set(), "user": set()}

    def check_medium(self, medium: NamedMedium, label: str = "") -> None:
        """Look through a disk or a bundle."""
        place = _Place(self._shown, medium)
        entries = all_entries(medium)
        folders = self._bundle_folder(medium) if self._is_bundle else self._disk_folders(medium)
        for folder in folders:
            self._check_native(place, medium, folder, entries)
        is_known = self._check_layouts(place, medium, label) if not self._is_bundle else False
        if not is_known and not folders:
            message = "nothing in it that the agent knows: no native name, and no other layout"
            self._say("error", "no-context", message, self._shown)
        self._check_strays(place, medium, [folder for folder, _, _ in folders] or [""])
        for entry in entries.values():
            if entry.kind == "file" and entry.size_bytes <= SEARCHED_BYTES:
                data = self._read(place, medium, entry.path)
                self._note(find_secrets(place.full(entry.path), data))
        self._note(place.findings("warning", medium.warnings))
        self._conclude()

    def check_user_data(self, data: bytes) -> None:
        """Look through user data."""
        self._check_user_data(self._shown, data)
        self._note(find_secrets(self._shown, data))
        self._conclude()

    def check_script(self, data: bytes, owner: Owner, phase: Phase, names: Iterable[str]) -> None:
        """Look through one script on its own; `names` are the files of its folder."""
        self._names[owner].update(names)
        offer = Offer(owner=owner, role="script", name=self._shown, data=data, phase=phase)
        self._scripts.append((_Place(self._shown), offer, data))
        self._note(find_secrets(self._shown, data))
        self._conclude()

    def check_variables(self, data: bytes) -> None:
        """Look through a `context.sh` on its own."""
        try:
            parse_variables(data, self._shown)
        except BrokenSourceError as error:
            self._note(_Place(self._shown).findings("error", _problems(error)))
        self._note(find_secrets(self._shown, data))

    def _say(self, level: Level, rule: str, message: str, path: str) -> None:
        self._note([Finding(level=level, rule=rule, message=message, path=path)])

    def _note(self, findings: Iterable[Finding]) -> None:
        self.findings += findings

    def _bundle_folder(self, medium: NamedMedium) -> list[Folder]:
        """Return the bundle's own folder; a bundle with the user's settings file is a user's."""
        folder = top_folder(medium)
        names = {entry.name for entry in medium.folder(folder)}
        is_users = names & {"user.yaml", "user.json"} and not names & {"site.yaml", "site.json"}
        return [(folder, "user" if is_users else "site", ())] if is_native(medium.folder(folder)) else []

    def _disk_folders(self, medium: NamedMedium) -> list[Folder]:
        claimed = (*opennebula.claimed_names(medium), "context.sh")
        found: list[Folder] = []
        if is_native(medium.folder(""), without=claimed):
            found.append(("", self._settings["disk.flat_owner"], claimed))
        owners: tuple[Owner, ...] = ("site", "user")
        return found + [(owner, owner, ()) for owner in owners if is_native(medium.folder(owner))]

    def _check_native(self, place: _Place, medium: NamedMedium, native: Folder, entries: dict[str, Entry]) -> None:
        """Read a folder as the agent does, and after each refusal once more without what was refused."""
        folder, owner, without = native
        base = f"{folder}/" if folder else ""
        while len(without) < MAX_PROBLEMS:
            try:
                reading = native_offers(medium, folder, owner, without=without, is_bundle=self._is_bundle)
            except BrokenSourceError as error:
                self._note(place.findings("error", _problems(error), folder))
                refused = [each.path.removeprefix(base) for each in error.problems]
                if not refused:
                    return
                without = (*without, *refused)
            else:
                self._note(place.findings("warning", reading.warnings, folder))
                self._take(place, reading)
                break
        for name in (f"{owner}.yaml", f"{owner}.json"):
            if (entry := entries.get(base + name)) and entry.kind == "file":
                self._check_settings(place, medium, entry.path, owner)
        inside = [entry for path, entry in entries.items() if path.startswith(base) and entry.kind == "file"]
        self._check_caps(place, inside, owner)

    def _check_layouts(self, place: _Place, medium: NamedMedium, label: str) -> bool:
        """Read every other layout that the disk is in, and its user data; return whether there was one."""
        flat_owner: Owner = self._settings["disk.flat_owner"]
        readings = read_layouts(medium, label=label, flat_owner=flat_owner, is_site_trusted=True)
        others = [reading for reading in readings if reading.layout != "hepix"]
        for reading in others:
            self._note(place.findings("warning", reading.warnings))
            self._take(place, reading)
            for why in reading.broken.values():
                self._note(place.findings("error", _broken_problems(medium, why)))
            if reading.user_data is not None:
                self._check_user_data(place.full(_file_of(medium, reading.user_data)), reading.user_data)
        return bool(others)

    def _check_user_data(self, shown: str, data: bytes) -> None:
        place = _Place(shown, raw=data)
        try:
            unfolded = Unfolded(self._host, data, self._settings, "")
        except ContextAgentError as error:
            self._note(place.findings("error", _problems(error)))
            return
        try:
            reading = unfolded.reading
            place.medium = unfolded.medium
            self._note(place.findings("warning", reading.warnings))
            self._take(place, reading)
        finally:
            unfolded.close()

    def _take(self, place: _Place, reading: Reading) -> None:
        """Take the scripts, files and features that something offers."""
        features: dict[str, str] = {}
        places: dict[str, tuple[str, int]] = {}
        for offer in reading.offers:
            match offer.role:
                case "script":
                    data = offer.data if offer.data is not None else self._read(place, place.medium, offer.path)
                    self._scripts.append((place, offer, data))
                case "companion":
                    self._names[offer.owner].add(offer.name)
                case "file" if offer.owner == "user":
                    self._check_target(place, offer)
                case "kept" if offer.reason == "unknown-form":
                    message = f"'{offer.name}' is in no form that the agent knows: it is kept, and nothing of it is run"
                    self._say("warning", "unknown-form", message, place.shown)
                case "feature":
                    data = self._read(place, place.medium, offer.path)
                    features[offer.name] = data.decode("utf-8", "replace").strip()
                    places[offer.name] = (place.full(offer.path), 0)
                case "settings" if place.raw and place.medium:
                    self._check_settings(place, place.medium, offer.path, "user")
                case _:
                    pass

        self._note(check_features(features, places))

    def _read(self, place: _Place, medium: NamedMedium | None, path: str) -> bytes:
        """Return a file's bytes, nothing where it can't be read, which is then told."""
        try:
            return medium.read(path, max_bytes=MAX_READ_BYTES) if medium else b""
        except BrokenSourceError as error:
            self._note(place.findings("error", _problems(error), path))
            return b""

    def _check_target(self, place: _Place, offer: Offer) -> None:
        if self._settings["user.account"] == "contextuser" and not offer.name.startswith(_USERS_PLACES):
            where = f"only below {USERS_HOME} and {JOB_OUTPUTS}"
            message = f"a user may not put a file at '{offer.name}', {where}: it is refused"
            self._say("error", "target-refused", message, place.full(offer.path))

    def _check_settings(self, place: _Place, medium: NamedMedium, path: str, owner: Owner) -> None:
        voice: Voice = "user" if owner == "user" else "site" if self._is_bundle else "site-disk"
        layer, findings = check_settings(voice, place.full(path), self._read(place, medium, path))
        self._note(findings)
        self._layers.setdefault(owner, layer)

    def _check_caps(self, place: _Place, files: list[Entry], owner: Owner) -> None:
        caps = self.caps
        for entry in files:
            if entry.size_bytes > caps.member_bytes:
                message = f"{entry.size_bytes} bytes, more than the {caps.member_bytes} of caps.member_bytes"
                self._say("error", "member-too-large", message, place.full(entry.path))
        if len(files) > caps.members:
            message = f"{len(files)} files of the {owner}, more than the {caps.members} of caps.members"
            self._say("error", "too-many-members", message, place.shown)
        size = sum(entry.size_bytes for entry in files)
        if size > caps.total_bytes:
            message = f"{size} bytes of the {owner}, more than the {caps.total_bytes} of caps.total_bytes"
            self._say("error", "total-too-large", message, place.shown)

    def _check_strays(self, place: _Place, medium: NamedMedium, folders: list[str]) -> None:
        """Name files that look like what the agent reads, and are not."""
        if not self._is_bundle and medium.entry("default.tgz"):
            message = "a bundle on a disk is not read: unpack it here, or leave it to the metadata service"
            self._say("warning", "bundle-on-disk", message, place.full("default.tgz"))
        for entry in (entry for folder in folders for entry in medium.folder(folder)):
            if meant := name_meant(entry.name):
                message = f"'{entry.name}' means nothing to the agent: did you mean '{meant}'?"
                self._say("warning", "near-name", message, place.full(entry.path))
            elif self._is_bundle and entry.kind == "folder" and entry.name in ("site", "user"):
                message = f"a folder '{entry.name}' in a bundle is not read: a bundle has one owner's names at its top"
                self._say("warning", "folder-in-bundle", message, place.full(entry.path))

    def _conclude(self) -> None:
        """Look at what only the whole can tell: scripts with their neighbours, settings with their scripts."""
        before = merge(self._policy).warnings
        settings = merge(self._policy, self._layers.get("site"), self._layers.get("user"))
        for each in settings.warnings:
            if each not in before:
                self._note(as_findings("error" if each.message.endswith(_NO_PILOT) else "warning", [each]))
        if any(name.startswith("pilot.") for layer in self._layers.values() for name in layer.values):
            self._note(check_pilot(settings))
        wanted = self._layers["site"].values.get("user.profile") if "site" in self._layers else None
        profile: str = wanted.value if wanted else settings["user.profile"]
        texts = dict.fromkeys((self._script_path(place, offer), data) for place, offer, data in self._scripts)
        text = b"\n".join(data for _, data in texts).decode("utf-8", "replace")
        looked: set[tuple[str, str]] = set()
        for place, offer, data in sorted(self._scripts, key=lambda each: each[1].phase != "pre-network"):
            path = self._script_path(place, offer)
            if (path, offer.name) not in looked:
                looked.add((path, offer.name))
                script = ScriptFile(
                    path=path,
                    data=data,
                    owner=offer.owner,
                    phase=offer.phase,
                    profile=profile if offer.owner == "user" else "root",
                    names=frozenset(self._names[offer.owner]),
                    neighbours=text,
                )
                found = [*check_script(self._host, script), *_root_user(script)]
                self._note(each.replace(line=place.line_of(data, each.line)) for each in found)
        for owner, layer in self._layers.items():
            ids = {f"{offer.owner}/{offer.phase}/{offer.name}" for _, offer, _ in self._scripts if offer.owner == owner}
            self._note(check_script_ids(layer, ids))

    @staticmethod
    def _script_path(place: _Place, offer: Offer) -> str:
        """Return what to call a script; one without a file of its own stands in user data, or in a `context.sh`."""
        if offer.path:
            return place.full(offer.path)
        return place.full("context.sh") if place.medium and not place.raw else place.shown


def _root_user(script: ScriptFile) -> list[Finding]:
    """Return the warning for what no agent can keep its promises against (docs/reference/context.md, section 6)."""
    if script.owner != "user" or script.profile != "root" or script.phase != "pre-network":
        return []
    message = (
        "a user's script runs as root before the site's, and nothing is signed: it can end the agent (user.profile)"
    )
    return [Finding(level="warning", rule="root-before-site", message=message, path=script.path)]


def _broken_problems(medium: NamedMedium, why: str) -> tuple[Problem, ...]:
    """Return why a layout's part is broken; for `context.sh` in the words of its reader, which knows the line."""
    reason, _, message = why.partition(": ")
    try:
        if medium.entry(opennebula.FILE):
            opennebula.variables_of(medium)
    except BrokenSourceError as error:
        if error.reason == reason:
            return _problems(error)
    return (Problem(reason=reason, message=message),)


def _file_of(medium: NamedMedium, user_data: bytes) -> str:
    """Return the file whose bytes the user data is; `context.sh` where it stands in a variable."""
    for entry in all_entries(medium).values():
        if entry.name in ("user-data", "user_data") and entry.kind == "file" and entry.size_bytes == len(user_data):
            return entry.path
    return opennebula.FILE


def _problems(error: ContextAgentError) -> tuple[Problem, ...]:
    return error.problems or (Problem(reason=error.reason, message=str(error)),)
