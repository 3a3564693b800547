"""The receipt: one boot in one page, made from its trace and from what a trace is too small for."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.digests import sha256_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

SCHEMA = 1
_STARTED = ("sha512", "bytes", "uid", "gid", "caps", "profile", "wished", "argv", "env_sha512", "late")
_ENDED = ("exit", "signal", "reason", "out_bytes", "out_sha512", "killed", "sha512_after", "box")
_SOURCE = ("owner", "source", "verdict", "reason", "bytes", "sha512", "requester")
_PLACED = ("id", "owner", "path", "sha512", "mode", "replaced")
_REFUSED = ("id", "owner", "reason")
_LATER = ("environment", "logging", "lifetime", "pilot")
"""Events of which the newest record is the receipt's word; None until one is known."""


def make_receipt(records: Iterable[Mapping[str, Any]], extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a boot's receipt (docs/reference/trace.md, "The receipt").

    Args:
        records: The boot's records in order, as they were read back.
        extra: What the records do not hold: `trust` (owner to word), `scripts` (id to {`limits`, `environment`: the
            names of its variables}), and any other key of a receipt, which then replaces what the records say.

    Returns:
        A JSON object; without any record its `first` and `last` are None.
    """
    made = _Draft()
    for record in records:
        made.take(record)
    given = dict(extra or {})
    known = given.pop("scripts", {})
    for script in made.scripts:
        script.update({key: known.get(script["id"], {}).get(key) for key in ("limits", "environment")})
    return {**made.receipt(), **given}


class _Draft:
    """A receipt in the making."""

    def __init__(self) -> None:
        self.scripts: list[dict[str, Any]] = []
        self._running: dict[str, dict[str, Any]] = {}
        self._boot: Mapping[str, Any] = {}
        self._lists: dict[str, list[dict[str, Any]]] = {"source": [], "file": [], "identity": [], "refuse": []}
        self._newest: dict[str, dict[str, Any] | None] = dict.fromkeys(_LATER)
        self._first: Mapping[str, Any] = {}
        self._last: Mapping[str, Any] = {}

    def take(self, record: Mapping[str, Any]) -> None:
        """Take in the next record."""
        self._first = self._first or record
        self._last = record
        match record["ev"]:
            case "boot":
                self._boot = record
            case "start":
                script = {"id": record["id"], "started": record["utc"], **_chosen(record, _STARTED)}
                script |= dict.fromkeys((*_ENDED, "duration_s"))
                self._running[record["id"]] = script
                self.scripts.append(script)
            case "end":
                ended = {**_chosen(record, _ENDED), "duration_s": record.get("wall_s")}
                self._running.pop(record["id"], {}).update(ended)
            case "source":
                self._lists["source"].append(_chosen(record, _SOURCE))
            case "file":
                self._lists["file"].append(_chosen(record, _PLACED))
            case "identity":
                self._lists["identity"].append(_chosen(record, ("owner", "account", "fingerprints")))
            case "refuse":
                self._lists["refuse"].append(_chosen(record, _REFUSED))
            case other if other in _LATER:
                self._newest[other] = _own(record)
            case _:
                pass  # the trace tells more than a receipt

    def receipt(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "boot": self._last.get("boot"),
            "instance": self._last.get("inst"),
            "image": self._boot.get("image") or self._last.get("img") or None,
            "agent": self._boot.get("agent"),
            "sources": self._lists["source"],
            "trust": {},
            "scripts": self.scripts,
            "files": self._lists["file"],
            "accounts": self._lists["identity"],
            "refused": self._lists["refuse"],
            **self._newest,
            "first": _place(self._first),
            "last": _place(self._last),
        }


def _chosen(record: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: record.get(key) for key in keys}


def _own(record: Mapping[str, Any]) -> dict[str, Any]:
    keys = list(record)
    return {key: record[key] for key in keys[keys.index("ev") + 1 :]}


def _place(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a record's place in the chain; written out again it is the line that was read, byte for byte."""
    return {"seq": record["seq"], "hash": sha256_hex(jsontext.dumps(record).encode())} if record else None
