"""The environment of a script, made from nothing, and which variables of `context.sh` may be part of it.

A script is run by another user's or the site's word; a variable must not become a way to run something else.
"""

from __future__ import annotations

from contextagent.model import Problem
from contextagent.payloads.names import is_variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_VALUE_BYTES = 4 << 10
MAX_TOTAL_BYTES = 32 << 10
MAX_NAMED = 20

PUBLISHED = ("MACHINEFEATURES", "JOBFEATURES", "JOBOUTPUTS")
"""Named in `context.sh` as sources; scripts see the agent's own, published ones."""

_WITHHELD_WORDS = ("USER_DATA", "USERDATA", "TOKEN", "START_SCRIPT")
_DANGEROUS = frozenset(
    """
    PATH HOME IFS ENV CDPATH GLOBIGNORE SHELLOPTS PROMPT_COMMAND PS0 PS1 PS2 PS3 PS4 FPATH ZDOTDIR POSIXLY_CORRECT
    LC_ALL LOCPATH NLSPATH GCONV_PATH GETCONF_DIR HOSTALIASES LOCALDOMAIN RES_OPTIONS RESOLV_HOST_CONF NIS_PATH
    TMPDIR TZDIR TERMINFO TERMCAP EDITOR VISUAL PAGER BROWSER LESSOPEN LESSCLOSE AWKPATH AWKLIBPATH MAKEFLAGS
    CURL_CA_BUNDLE REQUESTS_CA_BUNDLE JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS _JAVA_OPTIONS CLASSPATH TCLLIBPATH R_PROFILE
    """.split()
)
_DANGEROUS_STARTS = (
    "LD_", "DYLD_", "BASH", "PYTHON", "PERL", "RUBY", "GEM_", "NODE_", "LUA_", "GLIBC_", "MALLOC_", "GIT_", "SSL_",
    "OPENSSL_", "SUDO_", "SYSTEMD_", "CONTEXTAGENT_",
)  # fmt: skip
_WHY = {
    "dangerous-variable": "would change how programs run, keeping them from the scripts",
    "function-variable": "hold a shell function, keeping them from the scripts",
    "withheld-variable": "hold a payload or a token, keeping them from the scripts",
    "large-variable": f"are over {MAX_VALUE_BYTES >> 10} KiB, or over {MAX_TOTAL_BYTES >> 10} KiB together with those "
    "before them, keeping them from the scripts",
}


def base_environment(*, home: str) -> dict[str, str]:
    """Return what every script sees, whatever the context says.

    Args:
        home: Home folder of the account that the script runs as.
    """
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": home}


def script_environment(variables: Mapping[str, str]) -> tuple[dict[str, str], tuple[Problem, ...]]:
    """Return the variables of `context.sh` that scripts may see, in their order, and what was refused.

    Returns:
        The allowed ones; and one problem for each reason, naming all variables that it kept back.
    """
    allowed: dict[str, str] = {}
    refused: dict[str, list[str]] = {}
    left_bytes = MAX_TOTAL_BYTES
    for name, value in variables.items():
        if name in PUBLISHED:
            continue
        reason = _refusal(name, value)
        size_bytes = len(name) + len(value.encode("utf-8", "surrogateescape")) + len("=\0")
        if not reason and size_bytes > left_bytes:
            reason = "large-variable"
        if reason:
            refused.setdefault(reason, []).append(name)
        else:
            allowed[name] = value
            left_bytes -= size_bytes
    return allowed, tuple(_problem(reason, names) for reason, names in refused.items())


def _refusal(name: str, value: str) -> str:
    """Return the reason why a variable is kept from scripts by itself; empty if it is not."""
    if not is_variable(name) or name in _DANGEROUS or name.startswith(_DANGEROUS_STARTS) or "\0" in value:
        return "dangerous-variable"
    if value.lstrip().startswith("()"):
        return "function-variable"
    if any(word in name.upper() for word in _WITHHELD_WORDS):
        return "withheld-variable"
    if len(value.encode("utf-8", "surrogateescape")) > MAX_VALUE_BYTES:
        return "large-variable"
    return ""


def _problem(reason: str, names: list[str]) -> Problem:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    shown = ", ".join(names[:MAX_NAMED]) + more
    return Problem(reason=reason, message=f"variables of 'context.sh' {_WHY[reason]}: {shown}")
