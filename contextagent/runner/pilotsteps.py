"""What a phase does about the pilot: after the network it is marked as wanted; when the machine stops it ends first.

Whether and when it starts is the watch's to decide: most of what that depends on can change at any time.
"""

from __future__ import annotations

import os
import stat

from contextagent.errors import CannotWriteError
from contextagent.model import Problem
from contextagent.pilots.course import ALIVE
from contextagent.pilots.steps import EPILOG, IF_LEFT, account_of, summary
from contextagent.runner import keeper, wishes
from contextagent.runner.live import Live, load_live, store_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from contextagent.host import Host
    from contextagent.model import Step
    from contextagent.policy.settings import Settings
    from contextagent.runner.folders import Folders
    from contextagent.runner.journal import Journal
    from contextagent.runner.keeper import Kept

MARK = "wanted"
"""A file in the folder of the pilots, whose coming wakes a watch that is there already."""


def is_left(host: Host, folder: str) -> bool:
    """Return whether there is an `epilog.sh` in a working folder of the user's."""
    try:
        return stat.S_ISREG(os.lstat(host.files.real(f"{folder}/{EPILOG}")).st_mode)
    except OSError:
        return False


def mark(host: Host, step: Step, folders: Folders) -> None:
    """Mark the pilot as wanted; one that lives is left alone, and so is one that nobody left.

    Raises:
        CannotWriteError: It can't be marked.
    """
    is_implicit = step.target == IF_LEFT
    if is_implicit:
        if not is_left(host, folders.place("user")):
            return
        folders.enter("user")
    live = load_live(host) or Live(boot_id=host.boot_id())
    if live.pilot is None or live.pilot["state"] not in ALIVE:
        framework = "command" if is_implicit else step.target
        store_live(host, live.replace(pilot=summary(None, framework, "waiting")))
    place = f"{host.run_folder}/{keeper.FOLDER}"
    host.files.make_folder(place)
    host.files.write(f"{place}/{MARK}", b"")


def make_account(host: Host, settings: Settings, home: str) -> tuple[Problem, ...]:
    """Make the pilot's account where it is the one that the user's scripts have, too; another must be there."""
    name = account_of(settings)
    if host.is_caller or name != settings["user.account"]:
        return ()
    try:
        host.make_account(name, home)
    except CannotWriteError as error:
        return (Problem(reason="no-account", message=f"{error}, starting no pilot"),)
    return ()


def left_alone(host: Host, folders: Folders) -> tuple[Problem, ...]:
    """Return a warning where the user's scripts left an `epilog.sh` that nothing lets be the pilot."""
    if not is_left(host, folders.place("user")):
        return ()
    key = "only with 'pilot.from_user: yes' in the image's policy, and no pilot of the image's or the site's"
    message = f"the user's scripts left '{EPILOG}', which would be a pilot {key}, ignoring it"
    return (Problem(reason="pilot-not-allowed", message=message),)


def stop(host: Host, journal: Journal) -> tuple[Problem, ...]:
    """Stop the pilots, in the time that they have to end, and wait until nothing of them is left."""
    alive = [each for each in keeper.look(host) if each.is_alive]
    if not alive:
        return ()
    live = load_live(host)
    framework = str((live.pilot or {}).get("framework", "command")) if live else "command"
    journal.record("pilot", framework=framework, state="stopping", reason="stop", pid=alive[0].pid)
    rest = keeper.stop_all(host, why="stop")
    if not wishes.is_watched(host):  # who else tells how they ended
        for each in alive:
            _record_end(host, journal, framework, each)
    if live and not rest:
        ended = summary(live.pilot, framework, "ended", reason="stop", pid=None)
        store_live(host, (load_live(host) or live).replace(pilot=ended))
    return tuple(
        Problem(reason="pilot-lives", message=f"cannot stop pilot {each.number}: it can't be killed, going on")
        for each in rest
    )


def _record_end(host: Host, journal: Journal, framework: str, before: Kept) -> None:
    """Put one pilot's end into the trace."""
    said = keeper.look_at(host, before.number).ended
    facts: dict[str, Any] = {name: said[key] for key, name in keeper.TRACED.items() if key in said}
    facts.update(framework=framework, state="ended", reason="stop", pid=before.pid, number=before.number)
    journal.record("pilot", **facts)
