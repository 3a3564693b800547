"""`context.sh` read as data: assignments with the shell's quoting, and nothing of it ever run.

No message shows a word of the file: it may be a secret in the wrong place.

`$` and the backtick are literal characters, so a value is what a person sees. Bytes that are no UTF-8 stay what they
are (`surrogateescape`): a name of a machine or a person in an older encoding must not cost a site its boot.
"""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Problem
from contextagent.payloads.names import is_variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 256 << 10
_OPERATORS = frozenset(";&|<>()")
_BLANKS = ("", " ", "\t", "\n")
_LINE_ENDS = ("", "\n")
_LAST_CHARACTER = 0x10FFFF
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")
_SIMPLE_ESCAPES = {
    "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip


def parse_variables(data: bytes, name: str = "context.sh") -> Mapping[str, str]:
    """Return the variables that a `context.sh` sets, in the order of their first assignment; the last value stands.

    Args:
        data: The file, at most 256 KiB.
        name: What to call it in an error.

    Raises:
        BrokenSourceError: It is not only assignments, naming the line; the writer's fault.
    """
    if len(data) > MAX_BYTES:
        message = f"cannot read '{name}': it is larger than {MAX_BYTES >> 10} KiB"
        raise BrokenSourceError(message, reason="too-large")
    return _Reader(data.removeprefix(b"\xef\xbb\xbf"), name).assignments()


class _Reader:
    r"""A place in the text; one character stands for one byte, since `$'\303\244'` writes a character by its bytes."""

    def __init__(self, data: bytes, name: str) -> None:
        self._text = data.decode("latin-1")
        self._name = name
        self._at = 0

    def assignments(self) -> dict[str, str]:
        """Return all assignments."""
        if (nul := self._text.find("\0")) >= 0:
            raise self._broken("nul", "a NUL byte", nul)
        found: dict[str, str] = {}
        is_exported = False
        while self._next_word():
            start = self._at
            name = self._name_part()
            if self._peek() == "=":
                self._at += 1
                found[name] = self._value()
            elif name == "export" and not is_exported:
                is_exported = True
            elif not is_exported:
                raise self._broken("no-assignment", "a word that is no assignment", start)
            is_exported = is_exported and not self._is_line_end()
        return found

    def _next_word(self) -> bool:
        """Go to the next word; return whether there is one."""
        text = self._text
        while self._at < len(text):
            if self._is_blank():
                self._at += 1
            elif text[self._at] == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif text.startswith("\\\n", self._at):
                self._at += 2
            else:
                return True
        return False

    def _is_blank(self) -> bool:
        """Return whether a word ends here; the carriage return of a line written on Windows is no part of a value."""
        char = self._peek()
        return char in _BLANKS or (char == "\r" and self._text[self._at + 1 : self._at + 2] in _LINE_ENDS)

    def _is_line_end(self) -> bool:
        rest = self._text[self._at : self._at + 80].lstrip(" \t\r")
        return rest[:1] in ("", "\n", "#")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _name_part(self) -> str:
        """Return the variable's name, up to what ends it."""
        start = self._at
        while self._peek() != "=" and not self._is_blank():
            if self._peek() in _OPERATORS:
                raise self._operator()
            self._at += 1
        name = self._text[start : self._at]
        if not is_variable(name):
            raise self._broken("bad-name", "a name that is no variable's", start)
        return name

    def _value(self) -> str:
        parts: list[str] = []
        while not self._is_blank():
            char = self._peek()
            if char == "'":
                parts.append(self._single())
            elif char == '"':
                parts.append(self._double())
            elif char == "$" and self._text.startswith("$'", self._at):
                parts.append(self._ansi())
            elif char == "\\":
                parts.append(self._text[self._at + 1 : self._at + 2].replace("\n", ""))
                self._at += 2
            elif char in _OPERATORS:
                raise self._operator()
            else:
                parts.append(char)
                self._at += 1
        return "".join(parts).encode("latin-1").decode("utf-8", "surrogateescape")

    def _single(self) -> str:
        start = self._at
        end = self._text.find("'", start + 1)
        if end < 0:
            raise self._unterminated(start)
        self._at = end + 1
        return self._text[start + 1 : end]

    def _double(self) -> str:
        start = self._at
        parts: list[str] = []
        at = start + 1
        while True:
            end = self._text.find('"', at)
            if end < 0:
                raise self._unterminated(start)
            slash = self._text.find("\\", at, end)
            if slash < 0:
                self._at = end + 1
                return "".join([*parts, self._text[at:end]])
            char = self._text[slash + 1]
            parts.append(self._text[at:slash])
            if char != "\n":
                parts.append(char if char in '$`"\\' else "\\" + char)
            at = slash + 2

    def _ansi(self) -> str:
        start = self._at
        parts: list[str] = []
        self._at += 2
        while (char := self._peek()) != "'":
            if not char:
                raise self._unterminated(start)
            self._at += 1
            parts.append(self._escape() if char == "\\" else char)
        self._at += 1
        return "".join(parts)

    def _escape(self) -> str:
        """Return what an ANSI-C escape stands for, as bash has it; an unknown one stands for itself."""
        kind = self._peek()
        start = self._at - 1
        if kind in _OCTAL:
            made = self._bytes_of(int(self._digits(_OCTAL, 3), 8) & 0xFF)
        elif kind in ("x", "u", "U"):
            self._at += 1
            digits = self._digits(_HEX, {"x": 2, "u": 4, "U": 8}[kind])
            made = self._bytes_of(int(digits, 16), is_wide=kind != "x") if digits else "\\" + kind
        elif kind == "c":
            control = self._text[self._at + 1 : self._at + 2]
            self._at += 2
            made = "\x7f" if control == "?" else chr(ord(control) & 0x1F) if control else ""
        else:
            self._at += 1
            made = _SIMPLE_ESCAPES.get(kind, "\\" + kind)
        if made == "\0":
            raise self._broken("nul", "an escape that stands for NUL", start)
        return made

    def _digits(self, allowed: frozenset[str], most: int) -> str:
        start = self._at
        while self._at - start < most and self._peek() in allowed:
            self._at += 1
        return self._text[start : self._at]

    def _bytes_of(self, code: int, *, is_wide: bool = False) -> str:
        if not is_wide:
            return chr(code)
        if code > _LAST_CHARACTER:
            raise self._broken("bad-escape", "an escape beyond the last character", self._at)
        return chr(code).encode("utf-8", "surrogatepass").decode("latin-1")

    def _operator(self) -> BrokenSourceError:
        return self._broken("unquoted-operator", f"unquoted '{self._peek()}'", self._at)

    def _unterminated(self, start: int) -> BrokenSourceError:
        return self._broken("unterminated-quote", "a quote that is never closed", start)

    def _broken(self, reason: str, cause: str, at: int) -> BrokenSourceError:
        line = self._text.count("\n", 0, at) + 1
        problem = Problem(reason=reason, message=cause, path=self._name, line=line)
        message = f"cannot read '{self._name}': line {line}: {cause}"
        return BrokenSourceError(message, reason=reason, problems=(problem,))
