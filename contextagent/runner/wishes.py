"""What is asked of the watch: a file dropped into a folder that the pilot's account may write into, but not read.

One request is one JSON object, `ask` with its own words beside it: `{"ask": "finish", "code": 300, "text": "no work"}`.
"""

from __future__ import annotations

import fcntl
import os

from contextagent import jsontext
from contextagent.errors import CannotWriteError
from contextagent.host.files import NEW, random_name
from contextagent.model import Problem, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping
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
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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


class Mark:
    """The watch's sign that it is there: a file with its process id, and a lock on that file.

    By the lock it is known: a pilot has process ids of its own, where another process has the watch's number.  It is a
    record lock (fcntl(2)), which only who may write the file can hold against readers; flock(2) takes any reader's.
    The watch would lose it if it opened and closed that file otherwise.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._path = f"{host.run_folder}/{WATCH_PID}"
        self._fd = -1

    def put(self) -> None:
        """Put it there, unless it is already; it is locked before it has its name.

        Raises:
            CannotWriteError: It can't be written.
        """
        if self._fd >= 0:
            return
        new = f"{self._host.run_folder}/{random_name(NEW)}"
        self._fd = self._host.files.open_new(new)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            os.fchmod(self._fd, 0o644)
            os.write(self._fd, f"{os.getpid()}\n".encode())
            self._host.files.rename(new, self._path)
        except OSError as error:
            message = f"cannot write '{self._path}': {error.strerror or error}"
            raise CannotWriteError(message) from error

    def remove(self) -> None:
        """Take it away."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        try:
            self._host.files.remove(self._path)
        except CannotWriteError:
            return  # nobody holds it any more, which tells as well


def is_watched(host: Host) -> bool:
    """Return whether a watch runs on this machine, in another process than this one; every account may know."""
    try:
        fd = os.open(host.files.real(f"{host.run_folder}/{WATCH_PID}"), _READ)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def waiting(host: Host, settings: Settings, without: Container[str] = ()) -> list[tuple[Dropped, Wish | str]]:
    """Return what was dropped, the oldest first: each with what it asks for, or why it is no request that counts.

    Names of `without` are passed over: what can't be removed must not be in the way of the others.

    Whoever acts on one removes it then (`done`): an agent that is killed on the way begins again.
    """
    from contextagent.host import dropbox  # noqa: PLC0415  # see above

    found = dropbox.look(host.files, folder(host), max_bytes=MAX_BYTES, most=_MOST, without=without)
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
