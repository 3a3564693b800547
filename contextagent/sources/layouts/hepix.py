"""The `hepix` layout: native names in a disk's root, in `site/` and in `user/`."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Problem
from contextagent.payloads.native import is_native, native_offers
from contextagent.sources.layouts import LayoutReading, cause, opennebula

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from contextagent.model import Owner
    from contextagent.sources.media import NamedMedium

_SITES_OWN = ("site.yaml", "site.json")


def read(
    medium: NamedMedium,
    *,
    label: str,  # noqa: ARG001  # the layout is known by its names alone
    flat_owner: Owner,
    is_site_trusted: bool,
) -> tuple[LayoutReading, ...]:
    """Return one reading for each folder in native form: the root, `site/`, `user/`."""
    claimed = (*opennebula.claimed_names(medium), "context.sh")
    withheld = () if is_site_trusted else _SITES_OWN
    readings: list[LayoutReading] = []
    if is_native(medium.folder(""), without=(*claimed, *withheld)):
        readings.append(_folder(medium, "", flat_owner, without=(*claimed, *withheld)))
    ignored = [name for name in withheld if medium.entry(name)]
    for folder, owner in _OWN_FOLDERS:
        if is_native(medium.folder(folder)):
            if owner == "user" or is_site_trusted:
                readings.append(_folder(medium, folder, owner))
            else:
                ignored.insert(0, f"{folder}/")
    if ignored:
        readings.append(LayoutReading(layout="hepix", warnings=(_not_the_sites(medium, ignored),)))
    return tuple(readings)


_OWN_FOLDERS: tuple[tuple[str, Owner], ...] = (("site", "site"), ("user", "user"))


def _folder(medium: NamedMedium, folder: str, owner: Owner, *, without: Collection[str] = ()) -> LayoutReading:
    try:
        found = native_offers(medium, folder, owner, without=without)
    except BrokenSourceError as error:
        return LayoutReading(layout="hepix", broken={owner: cause(error)})
    return LayoutReading(**found.as_dict())


def _not_the_sites(medium: NamedMedium, names: list[str]) -> Problem:
    return Problem(
        reason="not-site-trusted",
        message=f"'{medium.name}' may not speak as the site (disk.site_devices), ignoring {' and '.join(names)}",
        path=medium.name,
    )
