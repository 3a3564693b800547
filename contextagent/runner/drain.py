"""The end that somebody asked for by `drain`: it holds for the instance, a reboot does not lift it."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.features.lifetime import End
from contextagent.runner.state import instance_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.features.lifetime import Now
    from contextagent.host import Host

DRAIN = "drain.json"
"""Its name in the instance's folder."""
_MAX_BYTES = 4096


def load_drain(host: Host, instance_id: str) -> End | None:
    """Return the end that was asked for; None where none was.

    In the boot that it was asked in it is counted by the clock since boot; after a reboot the wall clock has to do.
    """
    if not instance_id:
        return None
    try:
        plain = jsontext.loads(host.files.read(_path(instance_id), max_bytes=_MAX_BYTES))
        is_same_boot = plain["boot_id"] == host.boot_id()
        at_s = float(plain["boot_s" if is_same_boot else "utc_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return End(by="drain", clock="boot" if is_same_boot else "wall", at_s=at_s)


def store_drain(host: Host, instance_id: str, end: End, now: Now) -> None:
    """Remember an end, durably; an earlier one is replaced.

    Raises:
        CannotWriteError: It can't be written.
    """
    left_s = end.left_s(now)
    plain = {"boot_id": host.boot_id(), "boot_s": now.boot_s + left_s, "utc_s": now.utc_s + left_s}
    host.files.write(_path(instance_id), jsontext.dumps(plain).encode() + b"\n", durable=True)


def _path(instance_id: str) -> str:
    return f"{instance_folder(instance_id)}/{DRAIN}"
