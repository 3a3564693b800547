"""Mistakes in policy and settings files, by the agent's own reader."""

from __future__ import annotations

from contextagent.collectors import Collector
from contextagent.collectors.words import links, selectors
from contextagent.kit.finding import Finding
from contextagent.kit.lint_features import settings_features
from contextagent.policy.loader import check
from contextagent.policy.schema import split_script_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from typing import Any

    from contextagent.kit.finding import Level
    from contextagent.model import Problem, Voice
    from contextagent.policy.layer import Layer


def as_findings(level: Level, problems: Iterable[Problem], path: str = "") -> list[Finding]:
    """Return the agent's own problems as findings; `path` is for those that have none."""
    return [
        Finding(level=level, rule=each.reason, message=each.message, path=each.path or path, line=each.line)
        for each in problems
    ]


def check_settings(voice: Voice, path: str, data: bytes) -> tuple[Layer, list[Finding]]:
    """Return what a settings file says, as far as it can be read, and every mistake in it."""
    layer, errors = check(voice, [(path, data)])
    said = [*as_findings("error", errors, path), *as_findings("warning", layer.warnings, path)]
    return layer, [*said, *_check_logging(layer), *settings_features(layer)]


def _check_logging(layer: Layer) -> Iterator[Finding]:
    """Yield an error for each collector and selector that no log daemon could be told of, which degrades a boot."""
    for name, judge in (("logging.collectors", _unreachable), ("logging.facilities", _unselectable)):
        setting = layer.values.get(name)
        if setting is None:
            continue
        for problem in judge(setting.value):
            yield Finding(
                level="error", rule=problem.reason, message=problem.message, path=setting.path, line=setting.line
            )


def _unreachable(given: Iterable[dict[str, Any]]) -> tuple[Problem, ...]:
    return links([Collector(**each) for each in given])[1]


def _unselectable(given: Iterable[str]) -> tuple[Problem, ...]:
    return selectors(given)[1]


def check_script_ids(layer: Layer, known: Collection[str]) -> list[Finding]:
    """Return a warning for each script that settings name and this context has not."""
    from difflib import get_close_matches  # noqa: PLC0415  # only for a mistake

    found: dict[str, Finding] = {}
    for name, setting in layer.values.items():
        script_id, _ = split_script_key(name) or ("", "")
        if script_id and script_id not in known:
            near = get_close_matches(script_id, sorted(known), 1)
            hint = f": did you mean '{near[0]}'?" if near else ""
            message = f"this context has no script '{script_id}'{hint}"
            finding = Finding(
                level="warning", rule="unknown-script", message=message, path=setting.path, line=setting.line
            )
            found.setdefault(script_id, finding)
    return list(found.values())
