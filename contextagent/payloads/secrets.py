"""What a secret looks like, in one place: `lint` warns of it, and copies of scripts' output are masked by it.

The patterns are text, so that a boot which has nothing to mask pays for no regular expression.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MIN_VARIETY = 5
"""Different characters in a value below which it is a placeholder."""
MIN_CHARACTERS = 8
"""Of a value: a shorter one could be any word of the text."""
_MAX_CODED_CHARACTERS = 4096
"""Of a value that is looked for percent-encoded as well: nothing longer is a part of a URL."""
MASK = "[masked]"

_NAMES = ("password", "passwd", "passphrase", "secret", "apikey", "api_key", "accesskey", "access_key", "auth_token")
_NAME_PATTERN = "password|passwd|passphrase|secret|api_?key|access_?key|auth_?token|_token"
_VALUE = r"['\"]?(?P<value>[^\s'\"$<>{}()\[\],;]{8,})"

PRIVATE_KEY = r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"
CERTIFICATE = r"-----BEGIN CERTIFICATE-----"
RULES = (
    (PRIVATE_KEY, "a private key"),
    (r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*", "a token (JWT)"),
    (r"\b(?:gh[pousr]_\w{30,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16})\b", "an access token"),
    (r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]+:[^\s/@'\"$]{3,}@", "a password in a URL"),
    (
        rf"(?i)(?<![A-Za-z])(?!onegate_token)[\w-]*(?:{_NAME_PATTERN})[\"']?\s*[=:]\s*{_VALUE}",
        "a password or token",
    ),
)
"""Pattern, and what it finds; a group `value` holds what has to be judged by `is_secret` first."""

_SIGNS = ("private key", "eyj", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "glpat-", "akia", "://")
_MASKS = (
    (r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----(?:.*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----|.*)", 0),
    (r"\beyJ[\w-]{8,}\.[\w.-]*", 0),
    (r"\b(?:gh[pousr]_\w{30,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16})", 0),
    (r"\b[a-zA-Z][a-zA-Z0-9+.-]*://([^\s/@'\"]+)@", 1),
    (r"(?i)[\w-]*(?:password|passwd|passphrase|secret|key|token)[\"']?\s*[=:]\s*(\"[^\"\n]*\"|'[^'\n]*'|[^\s'\"]+)", 1),
    (r"(?i)\b(?:bearer|basic)\s+([\w.~+/-]{8,}=*)", 1),
)
"""What is masked, and which group of it; wider than `RULES`: a word too many masked costs less than one too few."""


def is_secret(value: str) -> bool:
    """Return whether a value is more than the name of a file, a word or a placeholder."""
    if value.startswith(("/", "./", "http://", "https://", "file:", "~")):
        return False
    return len(set(value)) >= MIN_VARIETY and not value.isalpha()


def looks_secret(text: str) -> bool:
    """Return whether a text may be a password, as far as its letters tell: no path, no address, letters and figures."""
    if len(text) < MIN_CHARACTERS or text.startswith(("/", "http://", "https://")):
        return False
    return any(char.isalpha() for char in text) and any(char.isdigit() for char in text)


def is_secret_name(name: str) -> bool:
    """Return whether a variable of that name holds a secret, as far as a name tells."""
    lower = name.lower()
    if "public" in lower or lower.startswith("ssh_"):
        return False
    return any(word in lower for word in _NAMES) or lower.endswith(("token", "_key", "_pass", "credential"))


def secret_values(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values that must not be seen: of variables whose names say so, the longest first."""
    found = {
        value for name, value in variables.items() if is_secret_name(name) and len(value.strip()) >= MIN_CHARACTERS
    }
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def masked(text: str, values: Iterable[str] = ()) -> str:
    """Return a text with everything that looks like a secret, and all of `values`, replaced by `[masked]`.

    Of the values, the forms that scripts print by accident are known as well: base64, hexadecimal, percent-encoded.
    """
    text = masked_values(text, values)
    lower = text.lower()
    signs = (*_SIGNS, "passw", "passphrase", "secret", "key", "token", "bearer", "basic")
    if not any(sign in lower for sign in signs):
        return text
    import re  # noqa: PLC0415  # only where there may be something to mask

    for pattern, group in _MASKS:
        spans = [found.span(group) for found in re.finditer(pattern, text, flags=re.DOTALL)]
        for start, end in reversed(spans):
            text = f"{text[:start]}{MASK}{text[end:]}"
    return text


def masked_values(text: str, values: Iterable[str]) -> str:
    """Return a text with all of `values` replaced, in the forms that `masked` knows, and nothing else."""
    for value in values:
        for form in _forms(value):
            if form in text:
                text = text.replace(form, MASK)
        if "%" in text and len(value) <= _MAX_CODED_CHARACTERS:
            text = _without_percent_coded(text, value)
    return text


def _without_percent_coded(text: str, value: str) -> str:
    """Return a text without a value's percent-encoded forms: each encoder leaves other characters as they are."""
    import re  # noqa: PLC0415  # only where there is something encoded

    form = "".join(f"(?:{re.escape(char)}|(?i:{_percent(char)}){'|[+]' if char == ' ' else ''})" for char in value)
    return re.sub(form, MASK, text)


def _forms(value: str) -> Iterable[str]:
    """Yield how a value may stand in a text."""
    import binascii  # noqa: PLC0415  # only for a context with secrets

    data = value.encode("utf-8", "surrogateescape")
    yield value
    yield from (line for line in value.split("\n") if len(line) >= MIN_CHARACTERS)
    # in the base64 of a longer text a value shows at one of three offsets; its first and last characters there are also
    # its neighbours', and left out
    for lead in range(3):
        coded = binascii.b2a_base64(bytes(lead) + data, newline=False).decode()
        form = coded[(0, 2, 3)[lead] : len(coded) - (0, 3, 2)[(lead + len(data)) % 3]]
        if len(form) >= MIN_CHARACTERS:
            yield form
            yield form.replace("+", "-").replace("/", "_")
    yield data.hex()
    yield data.hex().upper()


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))
