"""The disk source: which disks there are, what their layouts give to whom, and the verdict for each owner.

The rules are those of docs/reference/context.md, "Context disk".  Owners are judged separately: a disk that is broken
for one may be found for the other.
"""

from __future__ import annotations

import time

from contextagent.errors import BrokenSourceError
from contextagent.model import OWNERS, Problem, Verdict
from contextagent.sources import devices
from contextagent.sources.found import Findings, Found
from contextagent.sources.layouts import cause, read_layouts
from contextagent.sources.opening import open_disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.model import Offer, Owner, VerdictName
    from contextagent.policy.settings import Settings
    from contextagent.sources.devices import Disk
    from contextagent.sources.layouts import LayoutReading
    from contextagent.sources.media import NamedMedium

EXPECTED_S = 30.0
_RETRY_S = 0.25
_BUNDLE = "default.tgz"


def search_disks(host: Host, settings: Settings, *, override: str | None) -> Findings:
    """Return what the machine's context disks give to each owner.

    Args:
        host: The machine.
        settings: The image's; keys `sources` and `disk.*` matter.
        override: `--disk`: a device, an image file or a folder standing for a ROM disk; `none` for no disk at all; None
            for the machine's own devices.

    Raises:
        UsageError: `override` does not exist.
    """
    search = _Search(host, settings)
    if override is None and "disk" in settings["sources"]:
        search.devices()
    elif override not in (None, "none"):
        search.override(override)
    return search.findings()


class _Search:
    """A search under way."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._found: dict[Owner, Found | None] = dict.fromkeys(OWNERS)
        self._verdicts: list[Verdict] = []
        self._absences: dict[Owner, list[str]] = {owner: [] for owner in OWNERS}
        self._ended: set[Owner] = set()
        self._source = "disk"
        self._warnings: list[Problem] = []
        self._ids: dict[str, str] = {}
        self._media: list[NamedMedium] = []
        self._drives: list[str] = []
        self._begin_ns = host.mono_ns()

    def override(self, path: str) -> None:
        """Take the disk that the caller names.

        Raises:
            UsageError: It does not exist.
        """
        self._examine(devices.named_disk(self._host, path))
        self._conclude()

    def devices(self) -> None:
        """Take the machine's own disks; with `disk.expected`, wait for one that holds a context."""
        devices.wait_for_udev(self._host)
        end_ns = self._begin_ns + int(EXPECTED_S * 1e9)
        seen: set[tuple[str, bytes, str]] = set()
        while True:
            for disk in devices.find_disks(self._host):
                if (disk.name, disk.volume, disk.fault) not in seen:
                    seen.add((disk.name, disk.volume, disk.fault))
                    self._examine(disk)
            if not self._settings["disk.expected"] or self._source != "disk" or self._verdicts:
                break
            if self._host.mono_ns() >= end_ns:
                missing = f"missing: cannot find a context disk in {EXPECTED_S:.0f} s, though 'disk.expected' is yes"
                for owner in OWNERS:
                    self._judge(owner, "disk", "broken", missing, self._begin_ns)
                break
            time.sleep(_RETRY_S)
        self._conclude()

    def findings(self) -> Findings:
        """Return what was found."""
        return Findings(
            found=self._found,
            verdicts=tuple(self._verdicts),
            warnings=tuple(self._warnings),
            ids=self._ids,
            close=self._close,
            eject=self._eject,
        )

    def _examine(self, disk: Disk) -> None:
        """Read one disk, and let each owner have what is theirs."""
        start_ns = self._host.mono_ns()
        is_trusted = devices.is_site_device(disk, self._settings["disk.site_devices"])
        flat_owner: Owner = self._settings["disk.flat_owner"] if is_trusted else "user"
        medium: NamedMedium | None = None
        try:
            medium = open_disk(self._host, disk, self._settings["disk.reader"])
            readings = read_layouts(medium, label=disk.label, flat_owner=flat_owner, is_site_trusted=is_trusted)
        except BrokenSourceError as error:
            if medium is not None:
                medium.close()
            self._refuse(disk, cause(error), start_ns, is_trusted=is_trusted)
            return
        view = _DiskView(disk, medium, readings, is_trusted=is_trusted)
        won = [owner for owner in OWNERS if self._offer(owner, view, start_ns)]
        self._note(view, is_kept=bool(won))

    def _offer(self, owner: Owner, view: _DiskView, start_ns: int) -> bool:
        """Take one disk's part for one owner; return whether its medium is needed for that."""
        if owner == "site" and not view.is_trusted:
            self._absences[owner].append(f"'{view.name}' may not speak as the site")
            return False
        if why := view.broken(owner):
            self._break(owner, view.source, why, start_ns)
            return False
        found = view.found(owner)
        if found is None:
            nothing = "no known layout" if view.source == "disk" else f"nothing of the {owner}'s"
            self._absences[owner].append(f"'{view.name}': {nothing}")
            return False
        if owner in self._ended or (self._found[owner] is not None and not found.is_material):
            self._second(owner, view)
            return False
        self._found[owner] = found
        if found.is_material:
            self._judge(owner, found.source, "found", f"'{view.name}' ({view.medium.reader})", start_ns)
        else:
            self._absences[owner].append(f"'{view.name}': only variables, keys or features")
        return True

    def _refuse(self, disk: Disk, why: str, start_ns: int, *, is_trusted: bool) -> None:
        """Judge a disk that can't be read: broken if it is a ROM or named, passed over with a warning if it is not."""
        is_counted = disk.is_rom or is_trusted
        if not is_counted:
            self._warn("unreadable-disk", f"{why.partition(': ')[2]}, ignoring this disk", disk.name)
        for owner in OWNERS:
            if owner == "site" and not is_trusted:
                self._absences[owner].append(f"'{disk.name}' may not speak as the site")
            elif is_counted:
                self._break(owner, "disk", why, start_ns)
            else:
                self._absences[owner].append(f"'{disk.name}': not readable")

    def _break(self, owner: Owner, source: str, why: str, start_ns: int) -> None:
        if owner in self._ended:
            self._warn("broken-disk", f"{why.partition(': ')[2]}; the {owner}'s part is decided already, ignoring it")
        else:
            self._judge(owner, source, "broken", why, start_ns)

    def _judge(self, owner: Owner, source: str, verdict: VerdictName, reason: str, start_ns: int) -> None:
        duration_s = (self._host.mono_ns() - start_ns) / 1e9
        self._verdicts.append(
            Verdict(owner=owner, source=source, verdict=verdict, reason=reason, duration_s=duration_s)
        )
        if verdict == "found" or (verdict == "broken" and self._settings["disk.broken"] == "stop"):
            self._ended.add(owner)

    def _second(self, owner: Owner, view: _DiskView) -> None:
        message = f"cannot take the {owner}'s material from '{view.name}': an earlier disk decides, ignoring it"
        self._warn("second-disk", message, view.name)

    def _note(self, view: _DiskView, *, is_kept: bool) -> None:
        """Keep of a disk what belongs to no owner: its warnings, ids and drive."""
        if view.source != "disk" and self._source == "disk":
            self._source = view.source
        if is_kept or view.is_trusted:
            self._ids = {**view.ids, **self._ids}
        if view.source != "disk" and view.is_drive:
            self._drives.append(view.path)
        self._warnings += view.warnings
        if is_kept:
            self._media.append(view.medium)
        else:
            self._warnings += view.medium.warnings
            view.medium.close()

    def _conclude(self) -> None:
        """Give each owner that no disk was found or broken for the verdict `absent`."""
        for owner in OWNERS:
            if not any(verdict.owner == owner for verdict in self._verdicts):
                why = "; ".join(self._absences[owner]) or "no disk"
                self._judge(owner, self._source, "absent", why, self._begin_ns)
        for medium in self._media:
            self._warnings += medium.warnings

    def _warn(self, reason: str, message: str, path: str = "") -> None:
        self._warnings.append(Problem(reason=reason, message=message, path=path))

    def _close(self) -> None:
        while self._media:
            self._media.pop().close()

    def _eject(self) -> None:
        if self._settings["disk.eject"]:
            self._close()  # a drive in use keeps its disc
            for path in self._drives:
                try:
                    self._host.eject(path)
                except OSError:
                    continue  # a locked tray costs nobody anything


class _DiskView:
    """One disk that was read: all that its layouts said, merged for each owner."""

    def __init__(
        self, disk: Disk, medium: NamedMedium, readings: tuple[LayoutReading, ...], *, is_trusted: bool
    ) -> None:
        self.name = disk.name
        self.path = disk.path
        self.is_drive = disk.is_rom and disk.kind != "folder"
        self.medium = medium
        self.is_trusted = is_trusted
        self._readings = readings
        layouts = sorted({reading.layout for reading in readings})
        self.source = f"disk:{'+'.join(layouts)}" if layouts else "disk"
        self.ids = {kind: value for reading in reversed(readings) for kind, value in reading.ids.items()}
        self.warnings = [problem for reading in readings for problem in reading.warnings]
        if medium.entry(_BUNDLE):
            message = (
                f"a bundle on a disk is not read, ignoring '{_BUNDLE}'; its files may stand in the root or in 'site/'"
            )
            self.warnings.append(Problem(reason="bundle-on-disk", message=message, path=disk.name))

    def broken(self, owner: Owner) -> str:
        """Return why an owner's part can't be used; empty where it can."""
        return next((reading.broken[owner] for reading in self._readings if owner in reading.broken), "")

    def found(self, owner: Owner) -> Found | None:
        """Return all that is an owner's; None for nothing."""
        offers: dict[object, Offer] = {}
        variables: dict[str, str] = {}
        for reading in self._readings:
            for offer in reading.offers:
                if offer.owner == owner:
                    # a flat disk with a context.sh lists its files twice, once in each layout
                    offers.setdefault(("companion", offer.name) if offer.role == "companion" else len(offers), offer)
            # the site's scripts see a trusted disk's context.sh whoever the flat names belong to
            is_shared = owner == "site" and self.is_trusted and reading.layout == "opennebula"
            if reading.variables_owner == owner or is_shared:
                variables.update(reading.variables)
        user_data = self._user_data() if owner == "user" else None
        if not (offers or variables or user_data):
            return None
        return Found(
            owner=owner,
            source=self.source,
            trust="channel" if owner == "site" else "none",
            offers=tuple(offers.values()),
            variables=variables,
            user_data=user_data,
            medium=self.medium,
        )

    def _user_data(self) -> bytes | None:
        given = [(reading.layout, reading.user_data) for reading in self._readings if reading.user_data]
        for layout, data in given[1:]:
            if data != given[0][1]:
                message = f"two user data on one disk: that of {given[0][0]} stands, ignoring that of {layout}"
                self.warnings.append(Problem(reason="two-user-data", message=message, path=self.name))
        return given[0][1] if given else None
