"""What may leave a machine in a bug report: facts without the words of those who set it up.

Two nets, one behind the other.  Of a setting only what its type bounds is told (a word of a list, a number, a path); a
free text is told by its length.  And whatever is told as text has every value masked that the contexts of this machine
bring (each variable and each free text of their settings), and what looks like a key, token or password.
"""

from __future__ import annotations

import re

from contextagent import jsontext
from contextagent.payloads.secrets import MASK, MIN_CHARACTERS, RULES, is_secret, is_secret_name, masked_values
from contextagent.policy.schema import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from contextagent.model import Supply
    from contextagent.policy.schema import Type
    from contextagent.policy.settings import Settings
    from contextagent.runner.state import State

_BOUNDED = ("flag", "int", "bytes", "words", "account", "path", "file-name", "device", "loopback")
_PUBLIC_FIELDS = ("host", "name")
"""Free texts of a record that the agent itself tells everybody: of a collector its host, of an account its name."""
_PATH = re.compile(r"/[\w./+-]{1,200}")
"""A free text that is a path is told: what stands there is not."""
_USER_INFO = re.compile(r"//[^/?#]*@|[?#].*", re.DOTALL)
_MAX_VALUES = 4096


class Secrets:
    """The values that this machine's contexts bring.

    Args:
        values: Each text that must not be seen; short ones, which could be any word, are left alone.
        known: Texts that are no secrets though a context brings them: the instance's ids.
    """

    def __init__(self, values: Iterable[str] = (), known: Iterable[str] = ()) -> None:
        public = set(known)
        forms = {form for value in values for form in (value, jsontext.dumps(value)[1:-1])}
        kept = [form for form in forms if len(form.strip()) >= MIN_CHARACTERS and form not in public]
        self._values = sorted(kept, key=lambda value: (-len(value), value))[:_MAX_VALUES]

    def text(self, text: str) -> str:
        """Return a text without them, and without what looks like a secret."""
        text = masked_values(text, self._values)
        for rule, _ in RULES:
            text = re.sub(rule, _hidden, text)
        return text

    def value(self, value: object, name: str = "") -> object:
        """Return JSON whose texts are without them; what has a secret's name is masked whatever it is."""
        if isinstance(value, str):
            return MASK if is_secret_name(name) and value else self.text(value)
        if isinstance(value, dict):
            return {key: self.value(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, name) for item in value]
        return value

    def json(self, data: bytes) -> bytes:
        """Return a JSON file without them; what is none is masked as text."""
        try:
            return jsontext.dumps(self.value(jsontext.loads(data)), indent=2).encode()
        except ValueError:
            return self.text(data.decode("utf-8", "backslashreplace")).encode()


def _hidden(found: re.Match[str]) -> str:
    """Return what stands for a secret: of `password=…` the value alone is masked, and left where it is none."""
    value = found.groupdict().get("value")
    if value is None:
        return MASK
    return found[0].replace(value, MASK) if is_secret(value) else found[0]


def secrets_of(state: State | None, settings: Settings | None) -> Secrets:
    """Return the values that the remembered contexts and the settings bring."""
    if state is None:
        return Secrets(_free_texts(settings))
    supplies = [*state.supplies.values(), *state.ahead.values(), *state.spare.values()]
    known = (state.instance_id, state.boot_id, *state.ids.values())
    return Secrets([*_free_texts(settings), *(text for each in supplies if each for text in _brought(each))], known)


def _brought(supply: Supply) -> Iterator[str]:
    yield from supply.variables.values()
    yield from supply.features.values()


def _free_texts(settings: Settings | None) -> Iterator[str]:
    for name in settings.names() if settings else ():
        key = find(name)
        if key and settings and settings.origin(name).voice not in ("default", "preset"):
            yield from _texts(key.type, settings[name])


def _texts(kind: Type, value: Any) -> Iterator[str]:  # noqa: ANN401  # of the key's own type
    """Yield the free texts in a setting's value."""
    if value is None or _is_told(kind, value):
        return
    if kind[0] == "list":
        for item in value:
            yield from _texts(kind[1], item)
    elif kind[0] == "record":
        for field, field_kind, _ in kind[1:]:
            if field not in _PUBLIC_FIELDS:
                yield from _texts(field_kind, value.get(field))
    elif kind[0] in ("url", "service"):
        yield from (part.strip("/@?#") for part in _USER_INFO.findall(value))
    else:
        yield from _leaves(value)


def _is_told(kind: Type, value: object) -> bool:
    return kind[0] in _BOUNDED or (kind[0] == "text" and _PATH.fullmatch(str(value)) is not None)


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)


def told(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return every setting with who set it where, its free texts told by their length."""
    facts = {}
    for name in settings.names():
        key = find(name)
        if key:
            facts[name] = {"value": _told(key.type, settings[name]), **settings.origin(name).as_dict()}
    return facts


def _told(kind: Type, value: Any) -> object:  # noqa: ANN401  # of the key's own type
    if value is None or _is_told(kind, value):
        return value
    if kind[0] == "list":
        return [_told(kind[1], item) for item in value]
    if kind[0] == "record":
        kinds = {field: field_kind for field, field_kind, _ in kind[1:]}
        return {field: item if field in _PUBLIC_FIELDS else _told(kinds[field], item) for field, item in value.items()}
    if kind[0] in ("url", "service"):
        return _USER_INFO.sub(lambda found: f"//{MASK}@" if found[0].startswith("//") else f"?{MASK}", value)
    return f"[{sum(map(len, _leaves(value)))} characters]"
