"""The working folder: `/var/lib/hepix/context` is the site's for the site's scripts, another one for the user's.

Each owner's folder is parked in the agent's own state and moved to that path by a rename just before that owner's
scripts run.  So a site's file is never where a user's script could reach it, without any mount (old kernels, `--root`).
"""

from __future__ import annotations

import os

from contextagent.errors import CannotWriteError
from contextagent.model import OWNERS
from contextagent.runner.state import instance_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from contextagent.host import Host
    from contextagent.model import Owner

WORKING = "/var/lib/hepix/context"


def parked(instance_id: str, owner: str) -> str:
    """Return where an owner's folder stands while another's is in use."""
    return f"{instance_folder(instance_id)}/context/{owner}"


class Folders:
    """Which owner's folder stands at the working path.

    Both folders exist at all times, one of them at the working path at most: the one that is not parked is there.

    Args:
        host: The machine.
        instance_id: Whose folders.
        accounts: Owner to (uid, gid) that its folder belongs to; an owner left out keeps the agent's own.

    Raises:
        CannotWriteError: The folders can't be made.
    """

    def __init__(self, host: Host, instance_id: str, accounts: Mapping[Owner, tuple[int, int]]) -> None:
        self._files = host.files
        self._accounts = accounts
        self._parked: dict[Owner, str] = {owner: parked(instance_id, owner) for owner in OWNERS}
        self._files.make_folder(os.path.dirname(self._parked["site"]))
        self._files.make_folder(os.path.dirname(WORKING), 0o755)
        away = [owner for owner in OWNERS if not self._files.exists(self._parked[owner])]
        if len(away) != 1 and self._files.exists(WORKING):
            self._set_aside(parked(instance_id, "found"))
        for owner in OWNERS:
            if owner in away and not self._files.exists(WORKING):
                self._files.make_folder(self._parked[owner])
                self._hand_over(owner)

    def _set_aside(self, place: str) -> None:
        """Move a stranger's folder (another instance's, another program's) out of the way; nothing is lost."""
        self._files.remove(place)
        self._move(WORKING, place)

    def replace(self, owner: Owner, built: str) -> None:
        """Make the folder at `built` the owner's, instead of the one it has.

        Raises:
            CannotWriteError: It could not be moved into place.
        """
        self._leave(owner)
        self._files.remove(self._parked[owner])
        self._move(built, self._parked[owner])
        self._hand_over(owner)

    def place(self, owner: Owner) -> str:
        """Return where an owner's folder stands now."""
        return self._parked[owner] if self._files.exists(self._parked[owner]) else WORKING

    def enter(self, owner: Owner) -> None:
        """Make the working path `owner`'s folder.

        Raises:
            CannotWriteError: It could not be moved there; then no script of this owner may run.
        """
        if self._files.exists(self._parked[owner]):
            for other in OWNERS:
                self._leave(other)
            self._move(self._parked[owner], WORKING)

    def _leave(self, owner: Owner) -> None:
        if not self._files.exists(self._parked[owner]):
            self._move(WORKING, self._parked[owner])

    def _move(self, old: str, new: str) -> None:
        try:
            self._files.rename(old, new)
        except OSError as error:
            message = f"cannot move '{old}' to '{new}': {error.strerror or error}"
            raise CannotWriteError(message) from error

    def _hand_over(self, owner: Owner) -> None:
        if owner in self._accounts:
            self._files.give(self._parked[owner], *self._accounts[owner])
