"""Strict YAML, and JSON, to one tree in which every name and value has its line and is still the text that was written.

Nothing is typed here: whoever knows what a name means types its value, so that `no`, `012` or `1:30` never become what
the writer did not mean.  Anchors, aliases, tags, several documents, a name twice and deep nesting are refused, so a
text can't grow beyond its own size.
"""

from __future__ import annotations

from contextagent import jsontext
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

MAX_BYTES = 1 << 16
MAX_DEPTH = 20


class Node(Value):
    """A value as written: a `scalar`'s text, a `list`'s nodes, or a `map`'s pairs of name and node.

    `is_plain` is whether a scalar stood without quotes; `line` counts from 1, and is 0 where it can't be told.
    """

    kind: Literal["scalar", "list", "map"]
    line: int
    text: str = ""
    is_plain: bool = False
    items: tuple[Node, ...] = ()
    pairs: tuple[tuple[Node, Node], ...] = ()


class Fault(Value):
    """What is wrong with a text, and where."""

    line: int
    cause: str


def decode(data: bytes) -> str | Fault:
    """Return the text, or why it is none that is read: too large, not UTF-8, a NUL in it."""
    if len(data) > MAX_BYTES:
        return Fault(line=0, cause=f"it is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(line=data.count(b"\n", 0, error.start) + 1, cause="it is not UTF-8")
    if "\0" in text:
        return Fault(line=text.count("\n", 0, text.index("\0")) + 1, cause="there is a NUL byte in it")
    return text


def read_yaml(data: bytes) -> tuple[Node | None, tuple[Fault, ...]]:
    """Return the tree of a YAML text and everything that is wrong with it; None where nothing is in it."""
    text = decode(data)
    if isinstance(text, Fault):
        return None, (text,)
    from contextagent.thirdparty import load  # noqa: PLC0415  # a boot without YAML pays for none

    yaml = load("yaml")
    reader = _YamlReader(yaml)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            reader.take(event)
            if reader.is_over:
                break
    except yaml.YAMLError as error:
        reader.faults.append(_fault_of(error, text))
    except (ValueError, OverflowError):
        # PyYAML lets `chr` and `int` speak for themselves: "\UFFFFFFFF", or a version with 5000 digits.
        reader.faults.append(Fault(line=0, cause="there is an escape or a number that stands for nothing"))
    return (reader.root if not reader.faults else None), tuple(reader.faults)


def _fault_of(error: Any, text: str) -> Fault:  # noqa: ANN401  # yaml.YAMLError, not imported
    """Return PyYAML's error in this project's words."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    cause = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not YAML")
    if mark is None:
        position = getattr(error, "position", 0)
        return Fault(line=text.count("\n", 0, position) + 1, cause=cause)
    if "mapping values are not allowed" in cause:
        cause = "there is a second ': ' in the line; quote it if it belongs to the value"
    elif "cannot start any token" in cause:
        cause = f"{cause}; quote it if it belongs to the value"
    return Fault(line=mark.line + 1, cause=cause)


class _Open:
    """A list or map whose end has not come yet."""

    def __init__(self, kind: Literal["list", "map"], line: int) -> None:
        self.kind = kind
        self.line = line
        self.children: list[Node] = []

    def close(self, faults: list[Fault]) -> Node:
        if self.kind == "list":
            return Node(kind="list", line=self.line, items=tuple(self.children))
        pairs = tuple(zip(self.children[::2], self.children[1::2], strict=True))
        seen: dict[str, int] = {}
        for name, _ in pairs:
            if name.kind != "scalar":
                cause = "a name is a plain word, not a list or a map; quote it if the braces belong to the text"
                faults.append(Fault(line=name.line, cause=cause))
            elif name.text in seen:
                cause = f"'{name.text}' stands twice (first in line {seen[name.text]})"
                faults.append(Fault(line=name.line, cause=cause))
            else:
                seen[name.text] = name.line
        return Node(kind="map", line=self.line, pairs=pairs)


class _YamlReader:
    """Build the tree from PyYAML's events, without recursion."""

    def __init__(self, yaml: Any) -> None:  # noqa: ANN401  # a module
        self.root: Node | None = None
        self.faults: list[Fault] = []
        self.is_over = False
        self._yaml = yaml
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: Any) -> None:  # noqa: ANN401  # a PyYAML event
        yaml, line = self._yaml, event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._begin_document(event, line)
        elif isinstance(event, yaml.AliasEvent):
            self.faults.append(Fault(line=line, cause=f"the alias '*{event.anchor}' is not allowed"))
            self._add(Node(kind="scalar", line=line))
        elif isinstance(event, yaml.NodeEvent):
            self._take_node(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self._open.pop().close(self.faults))

    def _begin_document(self, event: Any, line: int) -> None:  # noqa: ANN401  # as above
        self._documents += 1
        if self._documents > 1:
            self.faults.append(Fault(line=line, cause="there is a second document"))
            self.is_over = True
        if event.tags:
            self.faults.append(Fault(line=line, cause="tags are not allowed"))

    def _take_node(self, event: Any, line: int) -> None:  # noqa: ANN401  # as above
        yaml = self._yaml
        if event.anchor is not None:
            self.faults.append(Fault(line=line, cause=f"the anchor '&{event.anchor}' is not allowed"))
        if event.tag is not None:
            shown = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.faults.append(Fault(line=line, cause=f"the tag '{shown}' is not allowed"))
        if isinstance(event, yaml.ScalarEvent):
            self._add(Node(kind="scalar", line=line, text=event.value, is_plain=event.style is None))
            return
        self._open.append(_Open("list" if isinstance(event, yaml.SequenceStartEvent) else "map", line))
        if len(self._open) > MAX_DEPTH:
            self.faults.append(Fault(line=line, cause=f"it is nested deeper than {MAX_DEPTH}"))
            self.is_over = True

    def _add(self, node: Node) -> None:
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node


def read_json(data: bytes) -> tuple[Node | None, tuple[Fault, ...]]:
    """Return the tree of a JSON text and what is wrong with it; lines are those of the names and values."""
    text = decode(data)
    if isinstance(text, Fault):
        return None, (text,)
    try:
        jsontext.loads(text)
    except ValueError as error:
        return None, (_json_fault(error),)
    reader = _JsonReader(text)
    node = reader.value(0)
    return (None, (reader.fault,)) if reader.fault else (node, ())


def _json_fault(error: ValueError) -> Fault:
    """Return the scanner's error, which has its line as an attribute, or first in its text, or not at all."""
    if hasattr(error, "lineno"):
        return Fault(line=error.lineno, cause=str(getattr(error, "msg", error)))
    line, _, rest = str(error).removeprefix("line ").partition(": ")
    return Fault(line=int(line), cause=rest) if line.isdecimal() else Fault(line=0, cause=str(error))


class _JsonReader:
    """Walk a text that is known to be JSON, for the lines; the one thing that can still be wrong is its depth."""

    def __init__(self, text: str) -> None:
        self.fault: Fault | None = None
        self._text = text
        self._at = 0
        self._line = 1

    def value(self, depth: int) -> Node:
        self._skip()
        opening, line = self._text[self._at], self._line
        if opening in "[{":
            if depth >= MAX_DEPTH:
                self.fault = Fault(line=line, cause=f"it is nested deeper than {MAX_DEPTH}")
                return Node(kind="scalar", line=line)
            return self._children(opening, line, depth)
        start = self._at
        if opening == '"':
            self._at += 1
            while self._text[self._at] != '"':
                self._at += 2 if self._text[self._at] == "\\" else 1
            self._at += 1
            return Node(kind="scalar", line=line, text=jsontext.loads(self._text[start : self._at]))
        while self._at < len(self._text) and self._text[self._at] not in ",]} \t\r\n":
            self._at += 1
        return Node(kind="scalar", line=line, text=self._text[start : self._at], is_plain=True)

    def _children(self, opening: str, line: int, depth: int) -> Node:
        self._at += 1
        found: list[Node] = []
        while self.fault is None:
            self._skip()
            if self._text[self._at] in "]}":
                self._at += 1
                break
            found.append(self.value(depth + 1))
        if opening == "[":
            return Node(kind="list", line=line, items=tuple(found))
        return Node(kind="map", line=line, pairs=tuple(zip(found[::2], found[1::2], strict=False)))

    def _skip(self) -> None:
        """Pass white space and what only separates."""
        while self._text[self._at] in " \t\r\n,:":
            self._line += self._text[self._at] == "\n"
            self._at += 1
