"""Secrets in plain sight: what is on a disk or in user data can be read by more people than its writer thinks of."""

from __future__ import annotations

import re

from contextagent.kit.finding import Finding

MAX_FINDINGS = 10
MIN_VARIETY = 5
"""Different characters in a value below which it is a placeholder."""

_VALUE = r"['\"]?(?P<value>[^\s'\"$<>{}()\[\],;]{8,})"
_RULES = (
    (re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"), "a token (JWT)"),
    (re.compile(r"\b(?:gh[pousr]_\w{30,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16})\b"), "an access token"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]+:[^\s/@'\"$]{3,}@"), "a password in a URL"),
    (
        re.compile(
            r"(?i)(?<![A-Za-z])(?!onegate_token)[\w-]*(?:password|passwd|passphrase|secret|api_?key|access_?key|auth_?token|_token)"
            rf"[\"']?\s*[=:]\s*{_VALUE}"
        ),
        "a password or token",
    ),
)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----")


def find_secrets(path: str, data: bytes) -> list[Finding]:
    """Return where secrets stand in a file, at most ten; the secrets themselves are in no message."""
    if b"\0" in data[:4096]:
        return []
    text = data.decode("utf-8", "replace")
    is_proxy = bool(_CERTIFICATE.search(text))
    found: dict[int, str] = {}
    for pattern, what in _RULES:
        for match in pattern.finditer(text):
            value = match.groupdict().get("value")
            if value is None or _is_secret(value):
                line = text.count("\n", 0, match.start()) + 1
                found.setdefault(
                    line, "a proxy or key with its certificate" if is_proxy and "private" in what else what
                )
    why = "whoever reads this context has it"
    return [
        Finding(level="warning", rule="secret", message=f"this looks like {what}: {why}", path=path, line=line)
        for line, what in sorted(found.items())[:MAX_FINDINGS]
    ]


def _is_secret(value: str) -> bool:
    """Return whether a value is more than the name of a file, a word or a placeholder."""
    if value.startswith(("/", "./", "http://", "https://", "file:", "~")):
        return False
    return len(set(value)) >= MIN_VARIETY and not value.isalpha()
