"""How far a daemon says it has read the traces, forgotten where that may be further than the collector has got."""

from __future__ import annotations

import os

from contextagent.runner.journal import LOGS, trace_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.collectors import Target
    from contextagent.host import Host

NEWEST = 3
"""Traces that are sent again from their beginning: of this boot, and of those whose end is the least sure."""


def trace_paths(host: Host) -> list[str]:
    """Return the guest paths of all traces, the oldest first; this boot's is the last, if it is not there yet, too."""
    now = trace_path(host.boot_id())
    found = [f"{LOGS}/{entry.name}" for entry in host.files.folder(LOGS) if entry.kind == "file"]
    found = [path for path in found if path.startswith(f"{LOGS}/trace-") and path.endswith(".jsonl") and path != now]
    return [*sorted(found, key=host.files.changed_ns), now]


def forget_positions(host: Host, told: Target) -> None:
    """Let a daemon that is about to start send the newest traces from their beginning.

    What it had sent before, and nobody acknowledged when both sides died, would be missing at the collector; what comes
    twice is known for what it is there.
    """
    from fnmatch import fnmatchcase  # noqa: PLC0415  # only for a daemon that keeps positions

    for path in trace_paths(host)[-NEWEST:]:
        try:
            inode = os.stat(host.files.real(path)).st_ino
        except OSError:
            continue
        dashed, last = host.files.real(path).replace("/", "-"), path.rpartition("/")[2]
        for pattern in told.positions:
            folder, _, name = pattern.rpartition("/")
            name = name.format(inode=inode, dashed=dashed, name=last)
            for entry in host.files.folder(folder):
                if entry.kind == "file" and fnmatchcase(entry.name, name):
                    host.files.remove(f"{folder}/{entry.name}")
