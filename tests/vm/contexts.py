"""Contexts whose scripts tell in what order they ran, as whom, and what they found: one line each in /root/order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.machine import make_iso

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.guest import Boot

# The user may write at home only; the site's scripts bring those lines into one order, by effect and not by clock.
_LINE = 'echo "$CONTEXTAGENT_OWNER $CONTEXTAGENT_PHASE ${0##*/} $1 $(id -u) $(ip -o -4 addr show dev eth0 | wc -l) '
_LINE += '$(cat /proc/[0-9]*/mounts 2>/dev/null | grep -c iso9660)" >> '
USER_SCRIPT = f"#!/bin/sh\n{_LINE}$HOME/order\n"
_GATHER = "if [ -e ~contextuser/order ]; then cat ~contextuser/order >> /root/order; : > ~contextuser/order; fi"
SITE_SCRIPT = f"#!/bin/sh\n{_GATHER}\n{_LINE}/root/order\n"
NATIVE = ("prolog.sh", "epilog.sh")


class Line(NamedTuple):
    """What a script told: whose it was, when and as what it ran, its argument, and what it found.

    Attributes:
        addresses: How many addresses the network card had.
        mounts: How many mounts of a context disk any process could see.
    """

    owner: str
    phase: str
    name: str
    told: str
    uid: int
    addresses: int
    mounts: int


def lines(text: str) -> list[Line]:
    """Return what the scripts told, in the order of what they did."""
    parsed = []
    for line in text.splitlines():
        owner, phase, name, argument, uid, addresses, mounts = line.split()
        parsed.append(Line(owner, phase, name, argument, int(uid), int(addresses), int(mounts)))
    return parsed


def told(boot: Boot) -> list[Line]:
    """Return what the scripts told so far."""
    return lines(boot.read("order"))


def put_scripts(folder: Path, *, site: bool = True, user: bool = True) -> Path:
    """Put a prolog and an epilog of the site, of the user, or of both into a folder as for a context disk."""
    for owner, text in (("site", SITE_SCRIPT), ("user", USER_SCRIPT)):
        if site if owner == "site" else user:
            place = folder / "user" if owner == "user" else folder
            place.mkdir(parents=True, exist_ok=True)
            for name in NATIVE:
                (place / name).write_text(text)
    return folder


def burn(folder: Path) -> Path:
    """Return an ISO of a folder, as a site would burn it."""
    return make_iso(folder, folder.with_suffix(".iso"))
