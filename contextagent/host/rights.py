"""Doing one small thing with somebody else's rights: in a child that has them, and only them."""

from __future__ import annotations

import os
import select
import time

from contextagent.errors import CannotWriteError, ContextAgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from contextagent.host.accounts import Account

_LONGEST_ERROR_BYTES = 4096
_MOST_NAMES_BYTES = 1 << 15
"""What a pipe holds without a reader, on any kernel."""
_PATIENCE_S = 20
"""What a home on a slow network file system may take; then the child is killed.  Its account may have stopped it, so
no alarm of its own would do."""
_SIGKILL = 9


def as_account(account: Account, work: Callable[[], None]) -> None:
    """Run `work` as the account: its uid and gid, no other groups, umask 077.

    A link that the account planted then leads only where the account could have written anyway.

    Args:
        account: Whose rights.
        work: What to do; it must not rely on anything that it changes in memory.

    Raises:
        CannotWriteError: `work` failed; the message is its own.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(account, work, write_end)
    os.close(write_end)
    poll = select.poll()
    poll.register(read_end, select.POLLIN)
    end_s = time.monotonic() + _PATIENCE_S
    said = b""
    while len(said) < _LONGEST_ERROR_BYTES:
        if not poll.poll(max(end_s - time.monotonic(), 0) * 1000):
            os.kill(pid, _SIGKILL)
            break
        data = os.read(read_end, _LONGEST_ERROR_BYTES)
        if not data:
            break
        said += data
    os.close(read_end)
    _, status = os.waitpid(pid, 0)
    if status:
        raise CannotWriteError(
            said.decode("utf-8", "replace") or f"cannot act as '{account.name}': it did not end in time"
        )


def names_as(account: Account, real: str) -> list[str]:
    """Return the names in a folder of this machine, sorted, as the account may list it: at most 32 KiB of them.

    Raises:
        CannotWriteError: It may not, or there is none.
    """
    read_end, write_end = os.pipe()

    def work() -> None:
        names = b"".join(os.fsencode(name) + b"\0" for name in sorted(os.listdir(real)))
        os.write(write_end, names[: names.rfind(b"\0", 0, _MOST_NAMES_BYTES) + 1])

    try:
        as_account(account, work)
        os.close(write_end)
        write_end = -1
        data = os.read(read_end, _MOST_NAMES_BYTES)
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
    return [os.fsdecode(name) for name in data.split(b"\0")[:-1]]


def _child(account: Account, work: Callable[[], None], write_end: int) -> None:
    """Do the work and end; an exception must not unwind into the parent's copy of the story."""
    status = 1
    try:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        os.umask(0o077)
        work()
        status = 0
    except (OSError, ContextAgentError) as error:
        os.write(write_end, str(error).encode("utf-8", "surrogateescape")[:_LONGEST_ERROR_BYTES])
    finally:
        os._exit(status)
