"""Why a bundle is refused, in words: one error for each rule, naming the member that breaks it."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Problem

RULES = {
    "absolute-path": "its path is absolute",
    "ambiguous-header": "its header can be read in two ways",
    "bad-checksum": "its header is damaged",
    "bad-header": "its header says what no header may say",
    "bad-name": "its name is not allowed",
    "bad-size": "a folder or link has contents",
    "case-duplicate": "its name differs from another's by capitals alone",
    "changed": "it is not what it was when it was checked",
    "device": "a device is not taken",
    "duplicate-name": "its name is there twice",
    "fifo": "a fifo is not taken",
    "hard-link": "a hard link is not taken",
    "header-too-large": "its extended header is too large",
    "link-outside": "the link leaves the bundle",
    "member-too-large": "it is larger than one member may be",
    "negative-offset": "its size is negative",
    "not-a-tar": "it is no tar archive",
    "parent-path": "its path has '..'",
    "sparse": "a sparse file is not taken",
    "through-file": "its path goes through a file",
    "through-link": "its path goes through a link",
    "too-deep": "its path has too many levels",
    "too-many-members": "there are more members than allowed",
    "total-too-large": "all members together are larger than allowed",
    "trailing-garbage": "something else follows its end",
    "truncated": "it ends too early",
    "unknown-type": "it is neither a file, a folder nor a link",
}
"""Every reason to refuse a bundle, in words; a gzip layer adds `bad-gzip` and `ratio`."""
_FOREIGN = (
    (b"\x1f\x8b", "gzip'd twice"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"PK\3\4", "a zip archive"),
    (b"PK\5\6", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"#!", "a script"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)
"""What is taken for a bundle by mistake, by its first bytes."""


def refusal(member: str, reason: str, cause: str = "") -> BrokenSourceError:
    """Return the error for a member that breaks a rule; `cause` says more than the rule's own words."""
    shown = ascii(member[:200])[1:-1]
    problem = Problem(reason=reason, message=cause or RULES[reason], path=shown)
    return BrokenSourceError(f"cannot unpack '{shown}': {problem.message}", reason=reason, problems=(problem,))


def no_tar(block: bytes) -> BrokenSourceError:
    """Return the refusal of what is no tar at all, naming what it looks like."""
    begin = block.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    for magic, what in _FOREIGN:
        if begin.startswith(magic):
            return refusal("bundle", "not-a-tar", f"it is {what}; a bundle is tar or tar.gz")
    return refusal("bundle", "not-a-tar")
