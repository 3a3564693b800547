"""What is asked of the watch: a file dropped into a folder that the pilot's account may write into, but not read.

One request is one JSON object, `ask` with its own words beside it: `{"ask": "finish", "code": 300, "text": "no work"}`.
"""

from __future__ import annotations

import os

from contextagent import jsontext
from contextagent.errors import CannotWriteError
from contextagent.model import Problem, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.host.dropbox import Dropped
    from contextagent.policy.settings import Settings

FOLDER = "finish"
"""Its name below `Host.run_folder`."""
MODE = 0o730
WATCH_PID = "watch.pid"
"""The watch's process id, below `Host.run_folder` as well."""
_MAX_PID_BYTES = 32
MAX_BYTES = 4096
_MOST = 64
"""How many are taken at a time: whoever floods the folder only waits for longer."""
_MAX_TEXT = 200
"""Characters of a text that goes into a line of a trace, a message of one line and a console."""


class Wish(Value):
    """One request that holds: what is asked, its words, and who asks (uid)."""

    ask: str
    words: Mapping[str, Any]
    uid: int


def folder(host: Host) -> str:
    """Return the guest path of the folder for requests."""
    return f"{host.run_folder}/{FOLDER}"


def asker(host: Host, settings: Settings) -> Account | None:
    """Return the account that may ask beside root: the pilot's, else the users'; None where the machine has neither."""
    return host.account(settings["pilot.user"] or settings["user.account"])


def open_folder(host: Host, settings: Settings) -> tuple[Problem, ...]:
    """Make the folder for requests: root may read it, the pilot's account may put something there.

    Returns:
        Why it could not be made; empty as a rule.
    """
    account = None if host.is_caller else asker(host, settings)
    try:
        host.files.make_folder(host.run_folder, 0o755)
        host.files.make_folder(folder(host), MODE, gid=account.gid if account else -1)
    except CannotWriteError as error:
        return (Problem(reason=error.reason, message=f"{error}, taking no requests"),)
    return ()


def ask(host: Host, kind: str, **words: object) -> None:
    """Ask the watch for something, in the name of this process's account.

    Raises:
        CannotWriteError: The request can't be dropped.
    """
    from contextagent.host import dropbox  # noqa: PLC0415  # most boots end without a word

    dropbox.drop(host.files, folder(host), jsontext.dumps({"ask": kind, **words}).encode() + b"\n")


def is_watched(host: Host) -> bool:
    """Return whether a watch runs on this machine: it says its process id in a file."""
    try:
        pid = int(host.files.read(f"{host.run_folder}/{WATCH_PID}", max_bytes=_MAX_PID_BYTES))
        os.kill(pid, 0)
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"watch" in file.read(MAX_BYTES).split(b"\0")
    except PermissionError:
        return True  # it is another account's, maybe not even to be looked at (a /proc with hidepid): root's watch
    except (OSError, ValueError, OverflowError):
        return False


def waiting(host: Host, settings: Settings) -> list[tuple[Dropped, Wish | str]]:
    """Return what was dropped, the oldest first: each with what it asks for, or why it is no request that counts.

    Whoever acts on one removes it then (`done`): an agent that is killed on the way begins again.
    """
    from contextagent.host import dropbox  # noqa: PLC0415  # see above

    found = dropbox.look(host.files, folder(host), max_bytes=MAX_BYTES, most=_MOST)
    if not found:
        return []
    account = asker(host, settings)
    known = {0, host.caller()[0]} | ({account.uid} if account and not host.is_caller else set())
    return [(each, _judged(each, known)) for each in found]


def done(host: Host, dropped: Dropped) -> None:
    """Remove what was dropped.

    Raises:
        CannotWriteError: It can't be removed.
    """
    host.files.remove(f"{folder(host)}/{dropped.name}")


def _judged(dropped: Dropped, known: set[int]) -> Wish | str:
    if dropped.problem:
        return dropped.problem
    if dropped.uid not in known:
        return f"it is uid {dropped.uid}'s"
    try:
        words = jsontext.loads(dropped.data)
    except ValueError:
        return "it is no JSON"
    if not isinstance(words, dict) or not isinstance(words.get("ask"), str):
        return "it does not say what it asks"
    return Wish(ask=words.pop("ask"), words=words, uid=dropped.uid)


def one_line(text: str) -> str:
    """Return a text as one line without anything that can't be printed, and not too long for a console."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())[:_MAX_TEXT].rstrip()
