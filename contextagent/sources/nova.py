"""What Nova says of an instance, wherever it says it: on a config drive or by its metadata service.

Vac's metadata service says it in the same words.
"""

from __future__ import annotations

from contextagent import jsontext
from contextagent.model import Offer, Problem
from contextagent.sources.layouts import key_offers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_BOM = b"\xef\xbb\xbf"
_MAX_REQUESTER_CHARS = 256
_MAX_DEPTH = 32
"""Of values inside each other: Nova's own stand three deep."""


def parsed(data: bytes) -> dict[str, object]:
    """Return the object that a JSON text of somebody else's holds; an editor's byte order mark does not matter.

    Raises:
        ValueError: It is no JSON object; the message says why.
    """
    value = jsontext.loads(data.removeprefix(_BOM))
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  # the text is at fault, not a caller's type
    _check(value)
    return value


def _check(value: object) -> None:
    """Refuse what JSON can say and no file, name or further JSON could.

    Raises:
        ValueError: Half of a character stands in it, or values too deep inside each other.
    """
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[object] = []
        for each in level:
            if isinstance(each, str):
                if not each.isascii() and any("\ud800" <= char <= "\udfff" for char in each):
                    raise ValueError("half of a surrogate pair stands alone")
            elif isinstance(each, dict):
                inner += (*each.keys(), *each.values())
            elif isinstance(each, list):
                inner += each
        if not inner:
            return
        level = inner
    raise ValueError("nested too deeply")


def keys(meta: Mapping[str, object], name: str = "public_keys") -> list[Offer]:
    """Return the user's login keys from either form: name to line, or index to {`openssh-key`: line}."""
    found = meta.get(name)
    offers: list[Offer] = []
    for value in found.values() if isinstance(found, dict) else ():
        line = value.get("openssh-key") if isinstance(value, dict) else value
        offers += key_offers(line, "user", "") if isinstance(line, str) else []
    return offers


def meta_map(meta: Mapping[str, object], name: str) -> list[Offer]:
    """Return the `meta` map as something that is kept under that name, or nothing where there is none."""
    found = meta.get("meta")
    if not isinstance(found, dict) or not found:
        return []
    return [Offer(owner="user", role="kept", name=name, data=jsontext.dumps(found).encode(), reason="meta-map")]


def requester(meta: Mapping[str, object]) -> dict[str, str]:
    """Return who asked for the machine, as far as it is said."""
    words = (("project", meta.get("project_id")), ("name", meta.get("name")))
    return {word: value[:_MAX_REQUESTER_CHARS] for word, value in words if isinstance(value, str) and value}


def injected_files(meta: Mapping[str, object], path: str) -> list[Problem]:
    """Return the warning that files which Nova would inject are not placed; `path` says where that was asked for."""
    if not meta.get("files"):
        return []
    message = "injected files are not placed, ignoring 'files' of meta_data.json"
    return [Problem(reason="not-placed", message=message, path=path)]
