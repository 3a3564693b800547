"""One record at a time, by a process that stays: it keeps nothing of the trace open between two of them."""

from __future__ import annotations

import fcntl
import os
import time

from contextagent.runner.journal import Journal, trace_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    from contextagent.host import Host

    Written = Literal["durable", "busy", "lost"]

_STEP_S = 0.002
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def append(  # all that a journal needs, at once
    host: Host, ev: str, fields: Mapping[str, Any], *, instance_id: str, on_full: str, patience_s: float
) -> Written:
    """Append one record durably; other processes may write between two of them, and the chain goes through all.

    Args:
        host: The machine.
        ev: An event of `trace.records.RECORDS`.
        fields: The event's own keys.
        instance_id: Named in the record.
        on_full: The setting `trace.on_full`.
        patience_s: How long is waited for another process that holds the trace.

    Returns:
        `durable`; `busy` where another process does not let go of the trace: nothing is written, and the caller tries
        again; `lost` where the trace can't be written, and the console has got the record.

    Raises:
        ValueError: There is no such event, or it has no such key: a bug of the caller.
    """
    if _is_held(host.files.real(trace_path(host.boot_id())), patience_s):
        return "busy"
    journal = Journal.open(host, instance_id=instance_id, on_full=on_full)
    try:
        return "durable" if journal.record(ev, **fields) else "lost"
    finally:
        journal.close()


def _is_held(path: str, patience_s: float) -> bool:
    """Return whether another process holds a trace, after giving it some time; it was stopped just there, then.

    The journal itself would wait for five seconds, and then go on without: right for a boot, wrong for who can wait.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return False  # there is none yet, or it can't be had: the journal says so
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if patience_s <= 0:
                    return True
                patience_s -= _STEP_S
                time.sleep(_STEP_S)
            else:
                return False
    finally:
        os.close(fd)
