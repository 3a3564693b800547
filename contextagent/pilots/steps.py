"""The steps by which a boot has its pilot: the last one after the network, and the first one when the machine stops."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.digests import sha512_hex
from contextagent.model import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from contextagent.model import Owner, Phase, Profile, Supply
    from contextagent.policy.settings import Settings

EPILOG = "epilog.sh"
"""What a user's script leaves in its working folder to have it started as a pilot (docs/reference/pilots.md)."""
IF_LEFT = "epilog.sh, if the user's scripts leave one"
_PREFIX = "pilot."


def settings_of(settings: Settings) -> dict[str, Any]:
    """Return the settings `pilot.*`, less that word."""
    return {name.removeprefix(_PREFIX): settings[name] for name in settings.names() if name.startswith(_PREFIX)}


def is_asked(settings: Settings, user: Supply | None) -> bool:
    """Return whether this machine is to have a pilot, or may come to one by what the user's scripts leave."""
    return bool(settings["pilot.framework"]) or may_leave(settings, user)


def may_leave(settings: Settings, user: Supply | None) -> bool:
    """Return whether an `epilog.sh` that the user's scripts leave is to be the pilot.

    One that the user supplied by that name is a script like any other.
    """
    return bool(settings["pilot.from_user"] and not settings["pilot.framework"] and has_scripts(user))


def has_scripts(user: Supply | None) -> bool:
    """Return whether the user has scripts that could leave an `epilog.sh`, and none of that name itself."""
    scripts = user.scripts if user else ()
    return bool(scripts) and not any(script.name == EPILOG and script.phase != "stop" for script in scripts)


def pilot_steps(
    phase: Phase, user: Supply | None, settings: Settings, *, is_caller: bool, is_there: bool = False
) -> Iterable[Step]:
    """Yield the phase's step for the pilot, where there is one to be started or stopped in it.

    One that `is_there` is stopped whatever the settings say by now.
    """
    if phase == "pre-network" or not (is_asked(settings, user) or (is_there and phase == "stop")):
        return
    framework = settings["pilot.framework"]
    is_users = not framework or settings.origin("pilot.framework").voice == "user"
    owner: Owner = "user" if is_users else "site"
    text = jsontext.dumps(settings_of(settings) if framework else {"script": EPILOG})
    yield Step(
        id=f"{owner}/{phase}/{IF_LEFT if phase != 'stop' and not framework else 'pilot'}",
        kind="pilot",
        owner=owner,
        phase=phase,
        sha512=sha512_hex(text.encode()),
        profile=_profile(settings, is_caller=is_caller),
        limits=None,
        frequency="every-boot",
        skip=None,
        late=False,
        target=framework or IF_LEFT,
        argument="stop" if phase == "stop" else "start",
    )


def account_of(settings: Settings) -> str:
    """Return the name of the pilot's account."""
    if not settings["pilot.framework"]:  # what the user's scripts leave has the user's rights
        return "root" if settings["user.profile"] == "root" else str(settings["user.account"])
    return str(settings["pilot.user"] or settings["user.account"])


def _profile(settings: Settings, *, is_caller: bool) -> Profile:
    if is_caller:
        return "caller"
    return "root" if account_of(settings) == "root" else "unprivileged"


def summary(pilot: Mapping[str, Any] | None, framework: str, state: str, **more: object) -> dict[str, Any]:
    """Return a pilot as in status.json, from what was known and what is new."""
    known = pilot or {"framework": "", "state": "", "reason": None, "pid": None, "code": None}
    return {**known, "framework": framework, "state": state, **more}
