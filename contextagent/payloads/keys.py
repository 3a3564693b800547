"""SSH public keys as lines of `authorized_keys`: whether one is a key at all, and its fingerprint."""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

from contextagent.digests import sha256_hex
from contextagent.model import Problem

MAX_LINE_BYTES = 16 << 10
KEY_TYPES = (
    "ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
)  # fmt: skip


def read_keys(text: str, what: str) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """Return the keys in a text, each a line as it stands without blanks around, and what was passed over.

    Args:
        text: Any number of lines, empty ones and comments among them.
        what: Where it comes from (`SSH_PUBLIC_KEY`), for the problems.
    """
    lines: list[str] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        stripped = line.strip(" \t")
        if not stripped or stripped.startswith("#"):
            continue
        if cause := check_key(stripped):
            problems.append(
                Problem(reason="bad-key", message=f"no login key: {cause}, ignoring it", path=what, line=number)
            )
        else:
            lines.append(stripped)
    return tuple(lines), tuple(problems)


def check_key(line: str) -> str:
    """Return why a line of `authorized_keys` is no public key, or an empty string if it is one.

    Options before the key are kept as they stand: to take `from=` off would let more people in.
    """
    if len(line.encode("utf-8", "surrogateescape")) > MAX_LINE_BYTES:
        return f"it is longer than {MAX_LINE_BYTES >> 10} KiB"
    if not all(char.isprintable() or char == "\t" for char in line):
        return "it has a control character"
    kind, blob = _key(line)
    if not kind:
        return "it names no known type of key"
    length = int.from_bytes(blob[:4], "big")
    if not blob or blob[4 : 4 + length] != kind.encode():
        return f"what follows '{kind}' is no such key"
    return ""


def fingerprint(line: str) -> str:
    """Return a key's fingerprint as `ssh-keygen -l` prints it (`SHA256:…`); empty if the line is no key."""
    if check_key(line):
        return ""
    digest = bytes.fromhex(sha256_hex(_key(line)[1]))
    return "SHA256:" + b2a_base64(digest, newline=False).decode().rstrip("=")


def _key(line: str) -> tuple[str, bytes]:
    """Return the type and the bytes of the key in a line; empty where there is none."""
    words = _words(line)
    for at, kind in enumerate(words[:-1]):
        if kind in KEY_TYPES:
            text = words[at + 1]
            try:
                return kind, a2b_base64(text.encode("ascii"), strict_mode=True)
            except (Error, UnicodeEncodeError):
                return kind, b""
    return "", b""


def _words(line: str) -> list[str]:
    """Return the first words of a line, at most options, type and key; blanks in quotes end no word."""
    words = [""]
    is_quoted = False
    previous = ""
    for char in line:
        if char == '"' and previous != "\\":
            is_quoted = not is_quoted
        if char in " \t" and not is_quoted:
            if words[-1]:
                words.append("")
        else:
            words[-1] += char
        if len(words) > 3:  # noqa: PLR2004  # options, type, key
            break
        previous = char
    return words[:3]
