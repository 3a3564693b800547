"""What of a machine changes while it lives, in one file: its features, its ends, its pilot, its finish.

`run` writes it when it publishes features, the watch whenever something moves; everybody may read it, so it never holds
a secret.  It speaks of one boot: what another boot left is not read.
"""

from __future__ import annotations

from contextagent import jsontext
from contextagent.features.lifetime import End, Now, lifetime
from contextagent.model import Value
from contextagent.runner.status import LIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from contextagent.features.lifetime import Lifetime
    from contextagent.host import Host

SCHEMA = 1
_MAX_BYTES = 1 << 20
_SLACK_S = 2


class Live(Value):
    """What is known right now.

    Attributes:
        boot_id: The boot that all of this speaks of.
        features: `machine/KEY` or `job/KEY` to text, both vocabularies, as published.
        origins: Key to who said it (`features.values.Standing`).
        ends: Everything that may end the machine.
        lifetime: The first of them as it was stored last, as in status.json; None where none is known.
        grace_s: Least notice of an end, seconds.
        boot_epoch_s: When the boot began, on the wall clock as it stood when this was written; the values count by it.
        outputs: Where job outputs go: a URL, or a folder of the guest; no slash at its end.
        is_outputs_given: Whether the site or the service named that place, or it is only the default folder.
        pilot: As in status.json; None where no pilot was asked for.
        finish: How the machine was finished: `code`, `text`, `by` (uid), `utc`; None while nobody has.
        is_handed_over: Whether the outputs of the pilot have gone to the job outputs.
        read: What features' URLs and folders gave when they were last read.
    """

    boot_id: str
    features: Mapping[str, str] = {}
    origins: Mapping[str, str] = {}
    ends: tuple[End, ...] = ()
    lifetime: Mapping[str, Any] | None = None
    grace_s: int = 0
    boot_epoch_s: int = 0
    outputs: str = ""
    is_outputs_given: bool = False
    pilot: Mapping[str, Any] | None = None
    finish: Mapping[str, Any] | None = None
    is_handed_over: bool = False
    read: Mapping[str, str] = {}


def load_live(host: Host) -> Live | None:
    """Return what is known of this boot; None where nothing was published in it, or it can't be read."""
    try:
        plain = jsontext.loads(host.files.read(f"{host.run_folder}/{LIVE}", max_bytes=_MAX_BYTES))
        if plain.pop("schema") != SCHEMA or plain["boot_id"] != host.boot_id():
            return None
        return Live(**{**plain, "ends": tuple(End(**each) for each in plain["ends"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def clocks(host: Host, live: Live | None) -> Now:
    """Return this moment; the wall clock as what was published counts it, as long as it has not been set since.

    A clock that is kept is moved by less than this slack, all the time, and the values are not to follow it.
    """
    boot_s = host.boot_ns() / 1e9
    epoch_s = host.utc_ns() / 1e9 - boot_s
    boot_epoch_s = live.boot_epoch_s if live and abs(epoch_s - live.boot_epoch_s) < _SLACK_S else int(epoch_s)
    return Now(utc_s=boot_epoch_s + boot_s, boot_s=boot_s)


def shown(first: Lifetime | None) -> dict[str, Any] | None:
    """Return the end that comes first as in status.json."""
    return {"shutdown_epoch_s": first.shutdown_epoch_s, "bound_by": first.bound_by} if first else None


def store_live(host: Host, live: Live) -> None:
    """Write it, for everybody to read.

    Raises:
        CannotWriteError: It can't be written; what was there still stands.
    """
    plain = {
        "schema": SCHEMA,
        **dict(live.fields()),
        "ends": [dict(end.fields()) for end in live.ends],
        "lifetime": shown(lifetime(live.ends, clocks(host, live))),
    }
    host.files.write(f"{host.run_folder}/{LIVE}", jsontext.dumps(plain).encode() + b"\n", mode=0o644)
