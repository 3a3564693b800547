"""A script's output as it may go to a log that others read: its end, without secrets, and nothing that plays tricks."""

from __future__ import annotations

from contextagent.payloads.secrets import masked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LOOKED_AT_BYTES = 64 << 10
"""Of the end: a private key that begins before what is told must be known as one."""
TOLD_CHARACTERS = 4 << 10
_LINE_CHARACTERS = 800
"""Of a line; a longer one is told in pieces, since a syslog message of 1024 bytes is all that every daemon takes."""


def told_lines(data: bytes, secrets: Sequence[str] = ()) -> list[str]:
    r"""Return the lines of the last 4 KiB of an output, scrubbed.

    Secrets are masked; control characters, terminal sequences, characters that turn the writing round and bytes that
    are no UTF-8 stand as escapes (`\x1b`); empty lines are left out.

    Args:
        data: The end of the output, at most `LOOKED_AT_BYTES` of it.
        secrets: Values that must not be seen (`payloads.secrets.secret_values`).
    """
    text = masked(data.decode("utf-8", "backslashreplace"), secrets)[-TOLD_CHARACTERS:]
    return [piece for line in text.split("\n") for piece in _pieces(_plain(line.rstrip("\r")))]


def _plain(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else _escaped(char) for char in line)


def _escaped(char: str) -> str:
    return "    " if char == "\t" else char.encode("unicode_escape").decode("ascii")


def _pieces(line: str) -> list[str]:
    return [line[at : at + _LINE_CHARACTERS] for at in range(0, len(line), _LINE_CHARACTERS)]
