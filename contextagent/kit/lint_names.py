"""Names in a context: what is there, and what was probably meant to be read."""

from __future__ import annotations

from difflib import get_close_matches

from contextagent.payloads.native import FILE_NAMES, FOLDER_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.model import Entry
    from contextagent.sources.media import NamedMedium

MAX_ENTRIES = 100_000
_NATIVE = (*FILE_NAMES, *FOLDER_NAMES, "context.sh")
_OTHERS = ("default.tgz", "site", "user", "user-data", "meta-data")
_NEAR_ENOUGH = 0.85


def all_entries(medium: NamedMedium) -> dict[str, Entry]:
    """Return everything on a medium by its path; a medium that leads in a circle is left after 100 000 names."""
    found: dict[str, Entry] = {}
    waiting = [""]
    while waiting and len(found) < MAX_ENTRIES:
        for entry in medium.folder(waiting.pop()):
            found[entry.path] = entry
            if entry.kind == "folder":
                waiting.append(entry.path)
    return found


def name_meant(name: str) -> str:
    """Return the native name that somebody may have meant; nothing for one that is native, or far from all that are."""
    if name in _NATIVE or name in _OTHERS:
        return ""
    low = name.casefold().replace("_", "-")
    if f"{low}.d" in _NATIVE:
        return f"{low}.d"
    near = get_close_matches(low, _NATIVE, 1, cutoff=_NEAR_ENOUGH)
    return near[0] if near else ""
