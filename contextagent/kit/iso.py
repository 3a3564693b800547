"""ISO 9660 images with Rock Ridge and Joliet, written by pycdlib under a clock that stands still."""

from __future__ import annotations

import time
from contextlib import contextmanager

from contextagent.errors import InvalidInputError
from contextagent.thirdparty import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from contextagent.kit.tree import Item

MAX_JOLIET_CHARS = 64
MAX_UCS2 = 0xFFFF
_ISO_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_MAX_ISO_STEM_CHARS = 24
_JOLIET_REFUSED = frozenset("*/:;?\\")
_CLOCKED = ("pycdlib.pycdlib", "pycdlib.headervd", "pycdlib.dates", "pycdlib.utils")
"""pycdlib's modules that ask the clock or the time zone while an image is made."""


class _StillClock:
    """What pycdlib asks of the module `time`, answered with one instant and without a time zone."""

    gmtime = staticmethod(time.gmtime)
    strftime = staticmethod(time.strftime)
    localtime = staticmethod(time.gmtime)

    def __init__(self, epoch_s: int) -> None:
        self._epoch_s = epoch_s

    def time(self) -> float:
        return float(self._epoch_s)


@contextmanager
def _still_clock(epoch_s: int) -> Iterator[None]:
    """Let pycdlib see one instant: it takes no times from its caller, and stamps every record with the clock's."""
    modules = [load(name) for name in _CLOCKED]
    try:
        for module in modules:
            module.time = _StillClock(epoch_s)  # type: ignore[attr-defined]  # a module's global
        yield
    finally:
        for module in modules:
            module.time = time  # type: ignore[attr-defined]  # a module's global


def write_iso(
    out: BinaryIO, items: Sequence[Item], *, label: str, epoch_s: int, progress: Callable[[int, int], None]
) -> None:
    """Write an image that holds `items`, parents first, to a seekable file.

    Rock Ridge carries the names as they are; Joliet and plain ISO names are made of them, unique in each folder.

    Args:
        out: An empty file.
        items: Files and folders.
        label: The volume's label.
        epoch_s: Every time in the image, seconds since the epoch.
        progress: Called with bytes done and bytes in all.

    Raises:
        InvalidInputError: The format can't hold them.
    """
    library = load("pycdlib")
    failure = load("pycdlib.pycdlibexception").PyCdlibException
    names = _Names()
    with _still_clock(epoch_s):
        image = library.PyCdlib()
        try:
            image.new(interchange_level=3, vol_ident=label, app_ident_str="CONTEXTAGENT", joliet=3, rock_ridge="1.09")
            for item in items:
                _add(image, item, *names.of(item))
            image.write_fp(out, progress_cb=lambda done, total, _opaque: progress(done, total))
            image.close()
        except failure as error:
            raise InvalidInputError(f"cannot make the image: {error}") from error


def _add(image: object, item: Item, iso: str, joliet: str) -> None:
    name = item.path.rpartition("/")[2]
    if item.kind == "folder":
        image.add_directory(iso, rr_name=name, joliet_path=joliet, file_mode=0o040000 | item.mode)  # type: ignore[attr-defined]  # pycdlib has no types
    else:
        image.add_file(item.real, iso + ";1", rr_name=name, joliet_path=joliet, file_mode=0o100000 | item.mode)  # type: ignore[attr-defined]  # see above


class _Names:
    """Plain ISO and Joliet paths for Rock Ridge ones: each made once, unique in its folder."""

    def __init__(self) -> None:
        self._paths: dict[str, tuple[str, str]] = {"": ("", "")}
        self._taken: set[str] = set()

    def of(self, item: Item) -> tuple[str, str]:
        """Return the item's ISO path (without version) and Joliet path."""
        parent, _, name = item.path.rpartition("/")
        iso_parent, joliet_parent = self._paths[parent]
        iso = self._unique("i", iso_parent, *_iso_parts(name, is_folder=item.kind == "folder"))
        joliet = self._unique("j", joliet_parent, *_joliet_parts(name))
        self._paths[item.path] = iso, joliet
        return iso, joliet

    def _unique(self, table: str, parent: str, stem: str, ending: str) -> str:
        """Return `parent/stem+ending`, with a number in the stem where another name came out the same."""
        path = f"{parent}/{stem}{ending}"
        number = 0
        while f"{table}{path.casefold()}" in self._taken:
            number += 1
            mark = f"_{number}"
            path = f"{parent}/{stem[: max(1, len(stem) - len(mark))]}{mark}{ending}"
        self._taken.add(f"{table}{path.casefold()}")
        return path


def _iso_parts(name: str, *, is_folder: bool) -> tuple[str, str]:
    """Return the stem and the ending of a plain ISO name: capitals, digits, underscores, at most one dot."""
    stem, dot, ending = ("", "", "") if is_folder else name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    shown = "".join(char if char in _ISO_CHARS else "_" for char in stem.upper())[:_MAX_ISO_STEM_CHARS]
    suffix = "".join(char if char in _ISO_CHARS else "_" for char in ending.upper())[:3]
    return shown, "" if is_folder else f".{suffix}" if dot else "."


def _joliet_parts(name: str) -> tuple[str, str]:
    """Return the stem and the ending of a Joliet name: 64 UCS-2 characters without the six that it refuses."""
    plain = "".join("_" if char in _JOLIET_REFUSED or ord(char) > MAX_UCS2 else char for char in name)
    stem, dot, ending = plain.rpartition(".")
    if not stem or len(ending) > MAX_JOLIET_CHARS // 2:
        stem, dot, ending = plain, "", ""
    return stem[: MAX_JOLIET_CHARS - len(dot + ending)], dot + ending
