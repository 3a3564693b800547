"""`#cloud-config`: the part of it that runs commands, writes files and lets keys in; the rest is named, not done."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Offer, Problem, Reading
from contextagent.payloads.forms import gzip, script
from contextagent.payloads.keys import read_keys
from contextagent.payloads.names import target_problem
from contextagent.payloads.userdata import decoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from contextagent.payloads.userdata import Place

SAMPLE = b"#cloud-config\nruncmd: [a]\n"
MARK = b"cloud-config"

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
KEYS = ("bootcmd", "runcmd", "write_files", "ssh_authorized_keys")
"""What is done; every other key is named in one warning."""

_FIRST_LINE = b"#" + MARK
_FILE_KEYS = ("path", "content", "encoding", "permissions", "append", "defer")
_ENCODINGS = {
    "": "", "text/plain": "", "b64": "b", "base64": "b", "gz": "g", "gzip": "g",
    "gz+b64": "bg", "gz+base64": "bg", "gzip+b64": "bg", "gzip+base64": "bg",
}  # fmt: skip
_DEFAULT_MODE = 0o644
_MAX_NAMED = 100


def recognises(data: bytes) -> bool:
    """Return whether the first line is the mark; `#cloud-config-archive` is another form."""
    first = data.lstrip()[: len(_FIRST_LINE) + 1]
    return first[: len(_FIRST_LINE)].lower() == _FIRST_LINE and not first[len(_FIRST_LINE) :].strip()


def read(data: bytes, place: Place) -> Reading:
    """Return what a cloud-config offers.

    Returns:
        Layout `cloud-config`; `bootcmd` and `runcmd` are one script each, files and keys are the user's.

    Raises:
        BrokenSourceError: It is no YAML, or no mapping; or over 1 MiB.
    """
    return _CloudConfig(_parsed(data, place), place).reading()


def _parsed(data: bytes, place: Place) -> dict[str, Any]:
    """Return the mapping, every scalar as the text that a person wrote (`0644`, `yes`), `!!binary` as its bytes."""
    from contextagent.thirdparty import load  # noqa: PLC0415  # only this form pays for YAML

    if len(data) > MAX_BYTES:
        raise place.broken("too-large", f"a cloud-config is larger than {MAX_BYTES >> 20} MiB")
    yaml = load("yaml")
    tree = _Tree(place)
    try:
        for event in yaml.parse(data, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
            tree.take(type(event).__name__, event)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise place.broken("bad-yaml", f"{where}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise place.broken("bad-yaml", "it is not text in UTF-8, or has an escape for nothing") from error
    found = tree.documents[0] if tree.documents else ""
    if found == "":
        return {}
    if not isinstance(found, dict) or len(tree.documents) > 1:
        raise place.broken("bad-yaml", "it is not one mapping of keys to values")
    return found


class _Tree:
    """Values made from YAML's events, one by one: the library's own way there overflows the stack of deep texts."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._open: list[tuple[str, list[Any]]] = []
        self._anchors: dict[str, Any] = {}
        self.documents: list[Any] = []

    def take(self, kind: str, event: Any) -> None:  # noqa: ANN401  # a yaml.Event, not imported
        """Take the next event.

        Raises:
            BrokenSourceError: It is nested too deeply, a key is no text, or an alias names nothing.
        """
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            self._open.append((event.anchor, []))
            if len(self._open) > MAX_DEPTH:
                raise self._place.broken("bad-yaml", f"it is nested more than {MAX_DEPTH} levels deep")
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            anchor, children = self._open.pop()
            self._add(children if kind == "SequenceEndEvent" else self._mapping(children), anchor)
        elif kind == "ScalarEvent":
            is_binary = event.tag == "tag:yaml.org,2002:binary"
            self._add(decoded(event.value.encode(), "base64") if is_binary else event.value, event.anchor)
        elif kind == "AliasEvent":
            if event.anchor not in self._anchors:
                raise self._place.broken("bad-yaml", "an alias of nothing")
            self._add(self._anchors[event.anchor], None)

    def _add(self, value: object, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = value
        (self._open[-1][1] if self._open else self.documents).append(value)

    def _mapping(self, children: list[Any]) -> dict[str, Any]:
        if not all(isinstance(key, str) for key in children[::2]):
            raise self._place.broken("bad-yaml", "a key is no text")
        return dict(zip(children[::2], children[1::2], strict=True))


class _CloudConfig:
    """One cloud-config, taken key by key."""

    def __init__(self, said: dict[str, Any], place: Place) -> None:
        self._said = said
        self._place = place
        self._offers: list[Offer] = []
        self._warnings: list[Problem] = []

    def reading(self) -> Reading:
        """Return all that it offers."""
        if commands := self._commands("bootcmd"):
            self._offers.append(script.before_network(self._place.name("bootcmd"), commands))
        if commands := self._commands("runcmd"):
            self._offers.append(script.after_network(commands, self._place, self._place.name("runcmd")))
        for number, entry in enumerate(self._list("write_files"), 1):
            self._take_file(entry, f"write_files entry {number}")
        self._take_keys()
        if unknown := [key[:40] for key in self._said if key not in KEYS]:
            self._warn("unsupported-key", f"this agent does not do {_named(unknown)}, ignoring them")
        return Reading(
            layout="cloud-config",
            offers=tuple(self._offers),
            warnings=tuple(self._warnings),
            variables_owner="user",
        )

    def _list(self, key: str) -> list[Any]:
        value = self._said.get(key, "")
        if isinstance(value, list):
            return value
        if value:
            self._warn("bad-value", f"{key} is no list, ignoring it")
        return []

    def _commands(self, key: str) -> bytes:
        """Return the commands as a script: a text is a line of shell, a list is one command's words."""
        lines: list[str] = []
        for number, entry in enumerate(self._list(key), 1):
            if isinstance(entry, str):
                lines.append(entry)
            elif isinstance(entry, list) and entry and all(isinstance(word, str) for word in entry):
                lines.append(" ".join(_quoted(word) for word in entry))
            else:
                self._warn("bad-value", f"{key} entry {number} is neither text nor a list of texts, ignoring it")
        return "\n".join(["#!/bin/sh", *lines, ""]).encode("utf-8", "surrogatepass") if lines else b""

    def _take_file(self, entry: object, what: str) -> None:
        if not isinstance(entry, dict):
            self._warn("bad-value", f"{what} is no mapping, ignoring it")
            return
        target, content = _text(entry, "path"), entry.get("content")
        if cause := target_problem(target):
            self._warn("bad-target", f"{what}: path: {cause}, ignoring it")
        elif _text(entry, "append").lower() in ("true", "yes", "on"):
            self._warn("unsupported-key", f"{what}: this agent does not append to '{target}', ignoring it")
        else:
            if unknown := [key[:40] for key in entry if key not in _FILE_KEYS]:
                self._warn("unsupported-key", f"{what}: this agent does not do {_named(unknown)}, ignoring them")
            try:
                data = (
                    content if isinstance(content, bytes) else _text(entry, "content").encode("utf-8", "surrogatepass")
                )
                data = self._unpacked(data, _text(entry, "encoding").lower())
            except BrokenSourceError as error:
                self._warn(error.reason, f"{what}: {error}, ignoring it")
                return
            mode = self._mode(_text(entry, "permissions"), what)
            self._offers.append(Offer(owner="user", role="file", name=target, data=data, mode=mode))

    def _unpacked(self, data: bytes, encoding: str) -> bytes:
        """Return a file's bytes.

        Raises:
            BrokenSourceError: They are not in the encoding, or past the caps.
        """
        layers = _ENCODINGS.get(encoding)
        if layers is None:
            raise self._place.broken("bad-encoding", "its encoding is not known")
        if "b" in layers:
            data = decoded(data, "base64")
        return gzip.unpacked(data, self._place.replace(layers=0)) if "g" in layers else data

    def _mode(self, text: str, what: str) -> int:
        digits = text.removeprefix("0o").removeprefix("0")
        if not text:
            return _DEFAULT_MODE
        if not digits or len(digits) > len("7777") or digits.strip("01234567"):
            self._warn("bad-value", f"{what}: its permissions are not octal, using 0644")
            return _DEFAULT_MODE
        return int(digits, 8) & 0o777

    def _take_keys(self) -> None:
        value = self._said.get("ssh_authorized_keys", [])
        entries = [value] if isinstance(value, str) else self._list("ssh_authorized_keys")
        text = "\n".join(entry for entry in entries if isinstance(entry, str))
        lines, problems = read_keys(text, "ssh_authorized_keys")
        self._warnings += problems
        self._offers += [Offer(owner="user", role="key", name="", data=line.encode()) for line in lines]

    def _warn(self, reason: str, message: str) -> None:
        self._warnings.append(Problem(reason=reason, message=message, path=self._place.own_name))


def _text(entry: dict[str, Any], key: str) -> str:
    """Return an entry's text; anything else counts as none, and is never spelt out: aliases can make it endless."""
    value = entry.get(key, "")
    return value if isinstance(value, str) else ""


def _quoted(word: str) -> str:
    """Return a word as the shell must see it to take it literally."""
    return "'" + word.replace("'", "'\\''") + "'"


def _named(keys: list[str]) -> str:
    """Return keys as a list for a message; of more than a person reads, how many there are."""
    more = f" and {len(keys) - _MAX_NAMED} more" if len(keys) > _MAX_NAMED else ""
    return ", ".join(keys[:_MAX_NAMED]) + more
