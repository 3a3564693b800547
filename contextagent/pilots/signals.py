"""The signals that a setting can name, by their numbers on Linux (x86-64 and aarch64 agree on these)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SIGNALS: Mapping[str, int] = {"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "TERM": 15}


def number_of(name: str) -> int:
    """Return the number of a signal, by its name (`TERM`, `SIGTERM`) or its number; an unknown one is TERM."""
    text = str(name).upper().removeprefix("SIG")
    if text.isdecimal() and int(text) in SIGNALS.values():
        return int(text)
    return SIGNALS.get(text, SIGNALS["TERM"])
