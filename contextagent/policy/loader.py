"""Settings files, strictly: every problem at once, with file and line, and nothing half understood."""

from __future__ import annotations

from contextagent.errors import InvalidInputError
from contextagent.model import OWNERS, PHASES, Problem
from contextagent.policy.kinds import convert, shown
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.schema import OPEN_SECTIONS, ROWS, find, is_script_of, row_name
from contextagent.policy.yamltext import Node, read_json, read_yaml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from contextagent.model import Voice
    from contextagent.policy.schema import Key

MAX_PROBLEMS = 100
"""Told of one file, errors and warnings each: a hostile file is 64 KiB of mistakes, and nobody reads on."""
VOICE_NAMES: dict[Voice, str] = {
    "image": "the image's policy",
    "site-disk": "the site",
    "site": "the site",
    "user": "the user",
}
_SECTIONS = frozenset(
    row[0].rsplit(".", parts)[0] for row in ROWS for parts in range(1, row[0].count(".") + 1) if "ID" not in row[0]
) | {"scripts"}


def load(voice: Voice, files: Iterable[tuple[str, bytes]]) -> Layer:
    """Return what one voice says in all its files; the later file's word counts.

    Args:
        voice: Who speaks.
        files: Path, as it is to be named in messages, and content of each; `.json` is read as JSON, all else as YAML.

    Raises:
        InvalidInputError: Something is wrong in what a person wrote; `problems` has all of it.
    """
    layer, errors = check(voice, files)
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        first = errors[0]
        where = f"line {first.line}: " if first.line else ""
        message = f"cannot read '{first.path}': {where}{first.message}{more}"
        raise InvalidInputError(message, reason="invalid-settings", problems=errors)
    return layer


def check(voice: Voice, files: Iterable[tuple[str, bytes]]) -> tuple[Layer, tuple[Problem, ...]]:
    """Return what can be read of the files, its warnings in it, and every error beside it; never raises for content."""
    values: dict[str, Setting] = {}
    errors: list[Problem] = []
    warnings: list[Problem] = []
    for path, data in files:
        reader = _Reader(voice, path)
        reader.read(data)
        values.update(reader.values)
        errors += _in_order(reader.errors)
        warnings += _in_order(reader.warnings)
    return Layer(voice=voice, values=values, warnings=tuple(warnings)), tuple(errors)


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Return problems by line, not too many of them."""
    told = sorted(problems, key=lambda problem: problem.line)
    if len(told) <= MAX_PROBLEMS:
        return told
    more = f"{len(told) - MAX_PROBLEMS} more like these, not telling them"
    return [*told[:MAX_PROBLEMS], told[MAX_PROBLEMS].replace(reason="more", message=more)]


class _Reader:
    """One file of one voice."""

    def __init__(self, voice: Voice, path: str) -> None:
        self.values: dict[str, Setting] = {}
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self._voice = voice
        self._path = path
        self._said: set[str] = set()

    def read(self, data: bytes) -> None:
        root, faults = read_json(data) if self._path.endswith(".json") else read_yaml(data)
        for fault in faults:
            self._error("syntax", fault.cause, fault.line)
        if root is None or _is_empty(root):
            return
        if root.kind != "map":
            self._error("wrong-type", f"a settings file holds keys, not {shown(root)}", root.line)
            return
        self._section("", root)

    def _section(self, prefix: str, node: Node) -> None:
        for name, child in node.pairs:
            dotted = prefix + name.text
            if prefix == OPEN_SECTIONS[0]:
                self._script(name, child)
            elif prefix in OPEN_SECTIONS[1:] and not _is_feature(name.text):
                self._unknown(name, dotted, "a feature's name has only letters, digits and _")
            elif "." in name.text:
                self._unknown(name, dotted, _nesting(name.text, prefix))
            elif dotted in _SECTIONS:
                self._subsection(dotted, child)
            elif (key := find(dotted)) is None:
                self._unknown(name, dotted, self._meant(prefix, name.text))
            else:
                self._value(key, child, name.line)

    def _subsection(self, dotted: str, child: Node) -> None:
        if child.kind == "map":
            self._section(f"{dotted}.", child)
        elif not _is_empty(child):
            self._error("wrong-type", f"'{dotted}' holds keys, not {shown(child)}", child.line)

    def _script(self, name: Node, child: Node) -> None:
        if not _is_script_id(name.text):
            self._unknown(name, f"scripts.{name.text}", "a script's id is OWNER/PHASE/NAME, as 'plan' prints it")
        else:
            self._subsection(f"scripts.{name.text}", child)

    def _value(self, key: Key, node: Node, line: int) -> None:
        if not self._may_set(key):
            message = f"{VOICE_NAMES[self._voice]} may not set '{key.name}', only {key.setters()} may, ignoring it"
            self._warn("not-yours", message, line)
            return
        if not key.is_supported and row_name(key.name) not in self._said:
            self._said.add(row_name(key.name))
            self._warn("not-yet-supported", f"'{key.name}' is not yet supported, ignoring it", line)
        if key.default is None and node.kind == "scalar" and node.text == "none":
            self.values[key.name] = Setting(value=None, path=self._path, line=line)
            return
        value, faults = convert(key.type, node)
        for fault in faults:
            self._error("wrong-value", f"cannot set '{key.name}': {fault.cause}", fault.line)
        if not faults:
            self.values[key.name] = Setting(value=value, path=self._path, line=line)

    def _may_set(self, key: Key) -> bool:
        rule = key.rule(self._voice)
        if rule == "/":
            return is_script_of(key.name, "user" if self._voice == "user" else "site")
        return rule is not None

    def _meant(self, prefix: str, name: str) -> str:
        """Return which key the writer may have meant; nothing where none is near, or too much is wrong to look."""
        if len(self.errors) + len(self.warnings) >= MAX_PROBLEMS:
            return ""
        from difflib import get_close_matches  # noqa: PLC0415  # only for a mistake

        keys = [row[0].replace("scripts.ID.", prefix) if "ID" in row[0] else row[0] for row in ROWS]
        here = [key for key in (*keys, *sorted(_SECTIONS)) if key.startswith(prefix)]
        fields = {key.rpartition(".")[2]: key for key in keys}
        near = get_close_matches(prefix + name, here, 1) or [
            fields[each] for each in get_close_matches(name, fields, 1)
        ]
        return f"did you mean '{near[0]}'?" if near else ""

    def _unknown(self, name: Node, dotted: str, hint: str) -> None:
        message = f"unknown key {shown(name.replace(text=dotted, kind='scalar'))}{hint and ': ' + hint}"
        if self._voice == "image":
            self._error("unknown-key", message, name.line)
        else:
            self._warn("unknown-key", f"{message}, ignoring it", name.line)

    def _error(self, reason: str, message: str, line: int) -> None:
        self.errors.append(Problem(reason=reason, message=message, path=self._path, line=line))

    def _warn(self, reason: str, message: str, line: int) -> None:
        self.warnings.append(Problem(reason=reason, message=message, path=self._path, line=line))


def _is_empty(node: Node) -> bool:
    """Whether nothing was written: a section whose every line is a comment."""
    return node.kind == "scalar" and node.is_plain and not node.text


def _is_feature(name: str) -> bool:
    return name.isascii() and name.replace("_", "a").isalnum()


def _is_script_id(text: str) -> bool:
    """Whether a text can be the id of a script: which names there are is for the plan to know."""
    owner, _, rest = text.partition("/")
    phase, _, name = rest.partition("/")
    return owner in OWNERS and phase in PHASES and bool(name)


def _nesting(name: str, prefix: str) -> str:
    section, _, key = name.rpartition(".")
    if find(prefix + name) is None:
        return "a dot in a name is no nesting here"
    return f"a dot is nesting, write '{key}' below '{prefix}{section}:'"
