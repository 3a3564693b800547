"""One record of the trace: which events there are, which keys each has, and how it becomes one line of ASCII JSON.

A line is at most 4000 bytes, so that every syslog daemon carries it whole.  A record that would be longer is shortened
by the rule of `encode`, never cut in the middle: every line is valid JSON.
"""

from __future__ import annotations

import time

from contextagent import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

VERSION = 1
MAX_LINE_BYTES = 4000
"""Of one line, with its LF."""

COMMON = ("v", "seq", "prev", "boot", "inst", "img", "utc", "mono_ns", "sync", "ev")
"""The keys of every record, in the order in which they stand in the line."""

_JUDGED = ("id", "owner", "result", "reason", "signer", "issuer", "serial", "digest", "crl_age_s", "uuid", "version")

RECORDS: Mapping[str, tuple[str, ...]] = {
    "boot": ("agent", "agent_sha512", "policy_sha512", "kernel", "image", "baseline", "modes", "last"),
    "source": (*("owner", "source", "address", "verdict", "reason", "bytes", "sha512", "tries", "http", "requester"),),
    "verify": _JUDGED,
    "refuse": _JUDGED,
    "start": (*("id", "sha512", "bytes", "uid", "gid", "caps", "profile", "wished", "argv", "env_sha512", "late"),),
    "end": (
        *("id", "exit", "signal", "reason", "wall_s", "user_s", "sys_s", "maxrss_bytes", "out_bytes", "out_sha512"),
        *("killed", "sha512_after", "box"),
    ),
    "file": ("id", "owner", "path", "sha512", "mode", "replaced"),
    "identity": ("id", "owner", "account", "fingerprints"),
    "environment": ("verdict", "changed", "sha512"),
    "logging": ("targets", "delivered", "reason"),
    "network": ("state", "links", "reason"),
    "clock": ("utc_before", "step_s", "reason"),
    "features": ("machine", "job"),
    "lifetime": ("shutdown_epoch_s", "bound_by"),
    "pilot": (
        *(
            "framework",
            "state",
            "reason",
            "pid",
            "code",
            "number",
            "uid",
            "argv0",
            "exit",
            "signal",
            "wall_s",
            "out_bytes",
        ),
        "out_sha512",
    ),
    "finish": ("code", "text", "uid"),
    "shutdown": ("reason",),
    "anchor": ("head", "lost"),
}
"""Event to its own keys, in the order in which they stand in the line; docs/reference/trace.md says what each means."""

_NEEDED: Mapping[str, tuple[str, ...]] = {"start": ("id", "sha512"), "end": ("id",)}
_WORDS = ("prev", "boot", "inst", "img", "utc", "ev")
_STEPS: tuple[tuple[int, int], ...] = (
    *((1024, 1024), (512, 256), (256, 64), (256, 16), (160, 8), (160, 2), (64, 1), (16, 0)),
)
"""How a record is shortened, a step at a time until it fits: (longest string in bytes, most items of a list)."""


def own_keys(ev: str, fields: Mapping[str, object]) -> dict[str, object]:
    """Return an event's fields in the order of the table; those not given are left out.

    Raises:
        ValueError: There is no such event, or it has no such key: a bug of the caller.
    """
    keys = RECORDS.get(ev)
    if keys is None:
        message = f"the trace has no event {ev!r}"
        raise ValueError(message)
    own = {key: fields[key] for key in keys if key in fields}
    if len(own) != len(fields):
        message = f"the trace's event {ev!r} has no {', '.join(sorted(set(fields) - set(own)))}"
        raise ValueError(message)
    return own


def encode(common: Mapping[str, object], own: Mapping[str, object]) -> bytes:
    """Return one line, LF included.

    Where it would exceed 4000 bytes, the longest strings of the record's own values are cut first, each ending with
    `[+N bytes]`, then its lists (`[+N more]` as the last item) and tables (a last key of that name); an `id` only when
    nothing else is left to cut.  Bytes of a name that are no UTF-8 stand as Python decodes them, as escaped U+DCxx.

    Args:
        common: The keys of every record; the caller keeps their values short.
        own: The event's own keys: JSON values.

    Raises:
        TypeError: A value is no JSON value: a bug of the caller.
    """
    line = _line(common, own)
    if len(line) <= MAX_LINE_BYTES:
        return line
    for spared in ("id", ""):
        for max_string_bytes, max_items in _STEPS:
            line = _line(
                common,
                {
                    key: value if key == spared else _shortened(value, max_string_bytes, max_items)
                    for key, value in own.items()
                },
            )
            if len(line) <= MAX_LINE_BYTES:
                return line
    return _line(common, {})  # numbers of absurd length: the chain goes on with the event alone


def decode(line: bytes) -> dict[str, Any] | None:
    """Return the record that a line (without LF) holds, or None where it holds none that this version wrote."""
    try:
        record = jsontext.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("v") != VERSION or type(record.get("seq")) is not int:
        return None
    if not all(isinstance(record.get(key), str) for key in _WORDS):
        return None
    return record if all(isinstance(record.get(key), str) for key in _NEEDED.get(record["ev"], ())) else None


def rfc3339(utc_ns: int) -> str:
    """Return a time as RFC 3339 in UTC with milliseconds, as `2026-11-21T04:43:40.123Z`."""
    seconds, rest = divmod(utc_ns, 1_000_000_000)
    year, month, day, hour, minute, second, *_ = time.gmtime(seconds)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest // 1_000_000:03}Z"


def shorten(text: str, max_bytes: int) -> str:
    """Return `text`, or a beginning of it that escapes to at most `max_bytes`, and how many bytes were cut."""
    if _escaped_bytes(text) <= max_bytes:
        return text
    kept = text[:max_bytes]
    while (escaped_bytes := _escaped_bytes(kept)) > max_bytes:
        kept = kept[: min(len(kept) - 1, len(kept) * max_bytes // escaped_bytes)]
    cut_bytes = len(text[len(kept) :].encode("utf-8", "surrogatepass"))
    return f"{kept}[+{cut_bytes} bytes]"


def _escaped_bytes(text: str) -> int:
    return len(jsontext.dumps(text)) - 2


def _line(common: Mapping[str, object], own: Mapping[str, object]) -> bytes:
    return jsontext.dumps({**common, **own}).encode("ascii") + b"\n"


def _shortened(value: object, max_string_bytes: int, max_items: int) -> object:
    """Return a JSON value with its long strings, lists and tables cut."""
    if isinstance(value, str):
        return shorten(value, max_string_bytes)
    if isinstance(value, dict):
        return dict(_shortened_items(value, max_string_bytes, max_items))
    if isinstance(value, (list, tuple)):
        kept = [_shortened(item, max_string_bytes, max_items) for item in value[:max_items]]
        return [*kept, f"[+{len(value) - max_items} more]"] if len(value) > max_items else kept
    return value


def _shortened_items(value: dict[str, object], max_string_bytes: int, max_items: int) -> Iterator[tuple[str, object]]:
    for place, (key, item) in enumerate(value.items()):
        if place == max_items:
            yield f"[+{len(value) - max_items} more]", None
            return
        yield shorten(key, max_string_bytes), _shortened(item, max_string_bytes, max_items)
