"""Mistakes in what settings say of the pilot: keys that nobody would look at without another."""

from __future__ import annotations

from contextagent.kit.finding import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.policy.settings import Settings

_SECTION, _FRAMEWORK = "pilot.", "pilot.framework"
_PAIRS = (
    ("pilot.heartbeat.seconds", "pilot.heartbeat.file", "no heartbeat is sent"),
    ("pilot.credential.kind", "pilot.credential.path", "there is no credential to look for"),
    ("pilot.credential.env", "pilot.credential.path", "there is no credential to name"),
    ("pilot.credential.refresh_s", "pilot.credential.path", "there is no credential to read again"),
)
_ALONE = ("pilot.from_user", _FRAMEWORK, "pilot.heartbeat.file", "pilot.heartbeat.seconds", "pilot.require_trace")
"""Keys that mean something without a framework."""


def check_pilot(settings: Settings) -> Iterator[Finding]:
    """Yield what a boot passes over without a word in the pilot's settings; only what stands in a file.

    What keeps it from being started is among the warnings of the settings themselves.
    """
    said = [name for name in settings.names() if name.startswith(_SECTION) and settings.origin(name).path]
    idle = [name for name in said if name not in _ALONE and settings.origin(name).voice != "preset"]
    if idle and not settings[_FRAMEWORK]:
        yield _finding(settings, idle[0], f"'{idle[0]}' starts no pilot: '{_FRAMEWORK}' is missing")
    for name, needed, what in _PAIRS:
        if name in said and settings[name] is not None and settings[needed] is None:
            yield _finding(settings, name, f"'{name}' is of no use without '{needed}': {what}")


def _finding(settings: Settings, name: str, message: str) -> Finding:
    origin = settings.origin(name)
    return Finding(level="warning", rule="pilot-incomplete", message=message, path=origin.path, line=origin.line)
