"""What a user who brings the pilot may say of it: a pilot of its own, with its own rights, that loosens nothing."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from contextagent.policy.schema import Key
    from contextagent.policy.settings import Settings

CHOSEN = ("pilot.framework", "pilot.command", "pilot.credential.path")
"""Where the policy or the site says one of these, the pilot is theirs, and so is its credential."""
ROOTS_CODES = (1, 5)
"""First digits of the codes that only root may say (docs/reference/lifetime.md)."""
_TRACE = ("no", "configured", "reachable")


def refusal(key: Key, value: Any, settings: Settings, above: Mapping[str, Any]) -> str:  # noqa: ANN401  # of the key's own type
    """Return why a user's word on a pilot does not hold; empty if it does.

    Args:
        key: What is said of it.
        value: What is said.
        settings: What holds without it.
        above: By key, what the policy and the site have said.
    """
    if not settings["pilot.from_user"]:
        return f"'pilot.from_user' is no ({settings.origin('pilot.from_user').text()})"
    for name in CHOSEN:
        if name in above and settings[name] is not None and settings.origin(name).voice != "user":
            return f"the pilot is not the user's to bring, '{name}' is said ({settings.origin(name).text()})"
    bound = settings[key.name]
    match key.name:
        case "pilot.user":
            account = bound or settings["user.account"]
            is_fine = value == account or (bound is None and settings["user.profile"] == "root")
            return "" if is_fine else f"only {account} is allowed"
        case "pilot.require_trace":
            return "" if _TRACE.index(value) >= _TRACE.index(bound) else f"only stricter than {bound} is allowed"
        case "pilot.min_lifetime_s":
            is_fine = bound is None or (value is not None and value >= bound)
            return "" if is_fine else f"not less than {bound} is allowed"
        case "pilot.stop.timeout_s":
            is_fine = bound is None or (value is not None and value <= bound)
            return "" if is_fine else f"not more than {bound} is allowed"
        case "pilot.result.exit_codes":
            return _code_problem(value.values(), settings)
        case "pilot.result.log_patterns":
            return _code_problem([each["code"] for each in value], settings)
        case _:
            return ""


def _code_problem(codes: Iterable[int], settings: Settings) -> str:
    """Return why shutdown codes are not the user's to say, as with `contextagent finish`."""
    is_roots = any(code // 100 in ROOTS_CODES for code in codes) and settings["user.profile"] != "root"
    return "codes 1xx and 5xx are the host's and the site's" if is_roots else ""
