"""A written value to a value of its key's type.  The type decides what a text means; how it was quoted does not."""

from __future__ import annotations

from contextagent.payloads.address import parse_address
from contextagent.payloads.names import is_variable
from contextagent.payloads.secrets import looks_secret
from contextagent.pilots.signals import SIGNALS
from contextagent.policy.schema import describe
from contextagent.policy.yamltext import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from contextagent.policy.schema import Type
    from contextagent.policy.yamltext import Node

FLAGS = {"yes": True, "no": False, "true": True, "false": False}
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
NULLS = ("", "~", "null", "Null", "NULL")
MAX_EXIT_CODE = 255
SHOWN_CHARACTERS = 60
_ACCOUNT = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_MAX_ACCOUNT = 32
_MAX_DIGITS = 18
_MAX_PORT = 65_535


class Unfit(Exception):  # noqa: N818  # it never leaves this room: `convert` turns it into faults
    """A value does not fit its type; `faults` has every part that does not."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(fault.cause for fault in faults))
        self.faults = faults


def convert(kind: Type, node: Node) -> tuple[Any, tuple[Fault, ...]]:
    """Return the value that a node stands for; where it does not fit its type, None and every reason."""
    try:
        return _convert(kind, node), ()
    except Unfit as unfit:
        return None, unfit.faults


def shown(node: Node) -> str:
    """Return what was written, quoted and cut for a message.

    Messages are for everybody to read (`status.json`): a URL with a password in it, and what may be a password in a
    wrong place, is not repeated.
    """
    if node.kind != "scalar":
        return f"a {node.kind}"
    if looks_secret(node.text):
        return f"a text of {len(node.text)} characters"
    scheme, mark, rest = node.text.partition("://")
    if mark and "@" in rest:
        return f"'{scheme[:SHOWN_CHARACTERS]}://…@…'"
    text = node.text if len(node.text) <= SHOWN_CHARACTERS else node.text[:SHOWN_CHARACTERS] + "…"
    return f"'{text}'"


def _convert(kind: Type, node: Node) -> Any:  # noqa: ANN401  # of the kind's own type
    if kind[0] == "list":
        return _list(kind, node)
    if kind[0] in ("record", "map"):
        return _fields(kind, node)
    if kind[0] == "command" and node.kind == "list":
        return _command(kind, node)
    if node.kind != "scalar":
        hint = "; quote it if the braces belong to the text" if kind[0] in ("text", "block") else ""
        raise Unfit(Fault(line=node.line, cause=f"{shown(node)} is not {describe(kind)}{hint}"))
    if node.is_plain and node.text in NULLS:
        cause = f"{shown(node)} is no value; quote it if it is meant" if node.text else "it has no value"
        raise Unfit(Fault(line=node.line, cause=f"{cause}: {describe(kind)} is wanted"))
    return _SCALARS[kind[0]](kind, node)


def _unfit(kind: Type, node: Node, hint: str = "") -> Unfit:
    return Unfit(Fault(line=node.line, cause=f"{shown(node)} is not {describe(kind)}{hint and '; ' + hint}"))


def _list(kind: Type, node: Node) -> tuple[Any, ...]:
    if node.kind != "list":
        hint = f"write [{node.text}]" if node.kind == "scalar" and node.text not in NULLS else ""
        raise _unfit(kind, node, hint if len(hint) < SHOWN_CHARACTERS else "")
    found: list[Any] = []
    faults: list[Fault] = []
    for item in node.items:
        try:
            value = _convert(kind[1], item)
        except Unfit as unfit:
            faults += unfit.faults
            continue
        if kind[1][0] in ("words", "device") and value in found:
            faults.append(Fault(line=item.line, cause=f"{shown(item)} stands twice"))
        found.append(value)
    if faults:
        raise Unfit(*faults)
    return tuple(found)


def _fields(kind: Type, node: Node) -> dict[str, Any]:
    """Return a record's known fields, or a map of the writer's own names."""
    if node.kind != "map":
        raise _unfit(kind, node)
    rows: dict[str, tuple[Type, bool]] = {} if kind[0] == "map" else {row[0]: (row[1], row[2]) for row in kind[1:]}
    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, child in node.pairs:
        if kind[0] != "map" and name.text not in rows:
            faults.append(Fault(line=name.line, cause=f"unknown field {shown(name)} in {describe(kind)}"))
            continue
        try:
            key = _text(kind, name) if rows else _convert(kind[2], name)
            found[key] = _convert(rows[name.text][0] if rows else kind[1], child)
        except Unfit as unfit:
            faults += [fault.replace(cause=f"{shown(name)}: {fault.cause}") for fault in unfit.faults]
    written = [name.text for name, _ in node.pairs]
    faults += [
        Fault(line=node.line, cause=f"'{field}' is missing in {describe(kind)}")
        for field, (_, is_needed) in rows.items()
        if is_needed and field not in written
    ]
    if faults:
        raise Unfit(*faults)
    return found


def _command(kind: Type, node: Node) -> tuple[str, ...]:
    """Return a program and its arguments."""
    words = _list(("list", ("block",)), node)
    if not words or not words[0]:
        raise Unfit(Fault(line=node.line, cause=f"no program stands in the list; {describe(kind)} is wanted"))
    return words


def _text(kind: Type, node: Node) -> str:
    """Return a text without control characters; a `block` may have several lines."""
    allowed = "\t\n" if kind[0] == "block" else "\t"
    for character in node.text:
        if (character < " " or "\x7f" <= character < "\xa0") and character not in allowed:
            raise Unfit(Fault(line=node.line, cause=f"there is the control character U+{ord(character):04X} in it"))
        if "\ud800" <= character <= "\udfff":
            raise Unfit(Fault(line=node.line, cause="there is half a character (a lone surrogate) in it"))
    return node.text


def _flag(kind: Type, node: Node) -> bool:
    if node.text not in FLAGS:
        raise _unfit(kind, node)
    return FLAGS[node.text]


def _words(kind: Type, node: Node) -> str:
    if node.text not in kind[1:]:
        raise _unfit(kind, node)
    return node.text


def _digits(kind: Type, node: Node, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise _unfit(kind, node)
    if text[0] == "0" and text != "0":
        raise _unfit(kind, node, f"write {text.lstrip('0') or '0'}: a leading zero is read as octal elsewhere")
    return int(text)


def _int(kind: Type, node: Node) -> int:
    number = _digits(kind, node, node.text)
    if not kind[2] <= number <= kind[3]:
        raise _unfit(kind, node)
    return number


def _bytes(kind: Type, node: Node) -> int:
    unit = node.text[-3:]
    factor = UNITS.get(unit, 1)
    number = factor * _digits(kind, node, node.text[:-3].rstrip(" ") if unit in UNITS else node.text)
    if not kind[1] <= number <= kind[2]:
        raise _unfit(kind, node)
    return number


def _account(kind: Type, node: Node) -> str:
    name = node.text
    is_name = set(name) <= _ACCOUNT and len(name) <= _MAX_ACCOUNT and not name.startswith(tuple("0123456789-"))
    if not is_name or (name == "root" and name not in kind[1:]):
        raise _unfit(kind, node)
    return name


def _path(kind: Type, node: Node) -> str:
    text = _text(kind, node)
    if not text.startswith("/") or ".." in text.split("/"):
        raise _unfit(kind, node)
    return text


def _url(kind: Type, node: Node) -> str:
    text = _text(kind, node)
    scheme, separator, rest = text.partition("://")
    if scheme not in ("http", "https") or not separator or not rest.split("/")[0] or any(map(str.isspace, text)):
        raise _unfit(kind, node)
    return text


def _service(kind: Type, node: Node) -> str:
    try:
        parse_address(_text(kind, node))
    except ValueError as error:
        raise _unfit(kind, node, str(error)) from error
    return node.text


def _file_name(kind: Type, node: Node) -> str:
    text = _text(kind, node)
    if "/" in text or text in ("", ".", ".."):
        raise _unfit(kind, node)
    return text


def _device(kind: Type, node: Node) -> str:
    name = node.text
    if not (name.isascii() and name.isalnum()):
        raise _unfit(kind, node, f"write {name[5:]}" if name.startswith("/dev/") and name[5:].isalnum() else "")
    return name


def _loopback(kind: Type, node: Node) -> str:
    host, _, port = node.text.partition(":")
    is_number = port.isascii() and port.isdigit() and port[0] != "0" and len(port) <= len("65535")
    if node.text != "off" and not (host == "127.0.0.1" and is_number and int(port) <= _MAX_PORT):
        raise _unfit(kind, node)
    return node.text


def _line(kind: Type, node: Node) -> str:
    """Return a command that is one text: a program, or a line for the shell."""
    text = _text(("block",), node).strip()
    if not text:
        raise _unfit(kind, node)
    return text


def _variable(kind: Type, node: Node) -> str:
    if not is_variable(node.text):
        raise _unfit(kind, node)
    return node.text


def _file(kind: Type, node: Node) -> str:
    text = _text(kind, node)
    parts = text.split("/")
    if parts[-1] in ("", ".") or ".." in parts:
        raise _unfit(kind, node)
    return text


def _pattern(kind: Type, node: Node) -> str:
    text = _text(kind, node)
    if not text.strip("*. "):
        raise _unfit(kind, node, "this one is in every line")
    return text


def _signal(kind: Type, node: Node) -> str:
    text = node.text.removeprefix("SIG")
    name = next((each for each, number in SIGNALS.items() if text in (each, str(number))), "")
    if not name:
        raise _unfit(kind, node, "write one of " + ", ".join(SIGNALS))
    return name


def _exit_code(kind: Type, node: Node) -> str:
    """Return an exit code as text: the key of a map is one in JSON, too."""
    if _digits(kind, node, node.text) > MAX_EXIT_CODE:
        raise _unfit(kind, node)
    return node.text


_SCALARS: dict[str, Callable[[Type, Node], Any]] = {
    "flag": _flag,
    "words": _words,
    "int": _int,
    "bytes": _bytes,
    "text": _text,
    "block": _text,
    "account": _account,
    "path": _path,
    "url": _url,
    "service": _service,
    "file-name": _file_name,
    "device": _device,
    "loopback": _loopback,
    "command": _line,
    "variable": _variable,
    "file": _file,
    "pattern": _pattern,
    "signal": _signal,
    "exit-code": _exit_code,
}
