"""Mistakes in machine and job features: values that their keys can't have, names that were meant otherwise."""

from __future__ import annotations

from difflib import get_close_matches

from contextagent.features.vocabulary import FEATURES, OLDER, OLDER_ALONE, published, value_problem
from contextagent.kit.finding import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from contextagent.policy.layer import Layer

    Place = tuple[str, int]

_KNOWN = (*FEATURES, *OLDER, *OLDER_ALONE)
_NEAR_ENOUGH = 0.85
_SETTINGS = "features."


def settings_features(layer: Layer) -> Iterator[Finding]:
    """Yield the mistakes in what a settings file says of features."""
    said = {
        name.removeprefix(_SETTINGS).replace(".", "/", 1): setting
        for name, setting in layer.values.items()
        if name.startswith(_SETTINGS)
    }
    places = {key: (setting.path, setting.line) for key, setting in said.items()}
    yield from check_features({key: str(setting.value) for key, setting in said.items()}, places)


def check_features(values: Mapping[str, str], places: Mapping[str, Place]) -> Iterator[Finding]:
    """Yield the mistakes in what one voice says.

    Args:
        values: `machine/KEY` or `job/KEY` to text.
        places: The same keys to the file, and the line in it.
    """
    for key, text in values.items():
        path, line = places[key]
        if cause := value_problem(key, text):
            message = f"'{key}' can't be '{text[:64]}': {cause}"
            yield Finding(level="error", rule="bad-feature", message=message, path=path, line=line)
        if meant := _meant(key):
            message = f"'{key}' is published, but no reader asks for it: did you mean '{meant}'?"
            yield Finding(level="warning", rule="near-name", message=message, path=path, line=line)
    for problem in published(values)[1]:
        if problem.reason == "contradiction":
            path, line = places[problem.message.split("'")[1]]
            yield Finding(level="warning", rule=problem.reason, message=problem.message, path=path, line=line)


def _meant(key: str) -> str:
    """Return the known name that somebody may have meant; nothing for one that is known, or far from all that are."""
    if key in _KNOWN:
        return ""
    half, _, name = key.partition("/")
    other = f"{'job' if half == 'machine' else 'machine'}/{name}"
    if other in _KNOWN:
        return other
    near = get_close_matches(key.casefold(), _KNOWN, 1, cutoff=_NEAR_ENOUGH)
    return near[0] if near else ""
