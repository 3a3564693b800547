r"""JSON text to values and back, without importing `json` (which costs a boot about as much as the interpreter itself).

The standard library's own compiled scanner and encoder do the work. Output is ASCII: control characters, bidi marks and
every other non-ASCII character stand as `\uXXXX`, so that a name or a message can't forge a line of a log.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is no JSON value")


def dumps(value: object, *, indent: int = 0) -> str:
    """Return `value` as ASCII JSON: on one line, or pretty with `indent` spaces a level and a final newline.

    Dicts, lists, tuples, str, int, float, bool and None; keys are strings and keep their order.

    Raises:
        TypeError: Something else was given: a bug of the caller.
        ValueError: A float is not finite: likewise.
    """
    if indent:
        return "".join(_pretty(value, "\n", " " * indent)) + "\n"
    return "".join(_encode(value, 0))


def _pretty(value: object, newline: str, step: str) -> list[str]:
    inner = newline + step
    if isinstance(value, dict) and value:
        items = [
            f"{encode_basestring_ascii(key)}: {''.join(_pretty(item, inner, step))}" for key, item in value.items()
        ]
        return ["{", inner, ("," + inner).join(items), newline, "}"]
    if isinstance(value, (list, tuple)) and value:
        return ["[", inner, ("," + inner).join(["".join(_pretty(item, inner, step)) for item in value]), newline, "]"]
    return [dumps(value)]


class _Reader:
    """What the compiled scanner asks of a decoder: strict strings, plain numbers, dicts that refuse a key twice."""

    strict = True
    object_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012  # the scanner's own cache, cleared by it after each text

    @staticmethod
    def object_pairs_hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            message = "a key stands twice"
            raise ValueError(message)
        return made

    @staticmethod
    def parse_constant(name: str) -> float:
        message = f"{name} is no JSON value"
        raise ValueError(message)


_encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)  # noqa: FBT003  # in C
_scan = make_scanner(_Reader)  # type: ignore[arg-type]  # any object with these attributes will do


def loads(text: str | bytes) -> Any:  # noqa: ANN401  # JSON is whatever the writer wrote; callers check
    """Return the value that a JSON text stands for.

    Raises:
        ValueError: It is no JSON, has a key twice, is nested too deeply, or is not UTF-8; the writer's fault.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = _scan(text, start)
    except (StopIteration, SystemError):
        raise ValueError(_fault(text)) from None
    except ValueError as error:
        if hasattr(error, "lineno"):  # the slow module is there already, and its error says more than a line
            raise ValueError(_fault(text)) from None
        raise
    except RecursionError:
        message = "nested too deeply"
        raise ValueError(message) from None
    if text[end:].strip(" \t\r\n"):
        raise ValueError(_fault(text))
    return value


def _fault(text: str) -> str:
    """Return what is wrong with a text that is no JSON; only now is the slow module worth its price."""
    try:
        import json  # noqa: PLC0415  # see above
    except (ImportError, OSError):
        return "not JSON"  # a confined child can import nothing
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}: {error.msg[:1].lower()}{error.msg[1:]}"
    return "not JSON"
