"""Secrets in plain sight: what is on a disk or in user data can be read by more people than its writer thinks of."""

from __future__ import annotations

import re

from contextagent.kit.finding import Finding
from contextagent.payloads.secrets import CERTIFICATE, RULES, is_secret

MAX_FINDINGS = 10
_RULES = tuple((re.compile(pattern), what) for pattern, what in RULES)
_CERTIFICATE = re.compile(CERTIFICATE)


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
            if value is None or is_secret(value):
                line = text.count("\n", 0, match.start()) + 1
                found.setdefault(
                    line, "a proxy or key with its certificate" if is_proxy and "private" in what else what
                )
    why = "whoever reads this context has it"
    return [
        Finding(level="warning", rule="secret", message=f"this looks like {what}: {why}", path=path, line=line)
        for line, what in sorted(found.items())[:MAX_FINDINGS]
    ]
