"""The one line that a console shows of a boot, and the shortest way to it: a phase that is complete is only told of."""

from __future__ import annotations

import sys

from contextagent.host import Host
from contextagent.runner.status import EXIT_CODES, read_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from contextagent.model import Phase

OFF_FILE = "/etc/contextagent/disabled"
OFF_WORD = "contextagent=off"
_BOOT = ("pre-network", "post-network")
_OVER = ("ok", "degraded", "failed", "skipped")


def off_switch(host: Host) -> str:
    """Return what keeps the agent from running on this machine; empty where nothing does."""
    if host.files.exists(OFF_FILE):
        return f"'{OFF_FILE}'"
    return f"the kernel word '{OFF_WORD}'" if OFF_WORD in host.kernel_words() else ""


def is_beyond(host: Host) -> bool:
    """Whether this is the machine itself, and the caller not its root."""
    return not host.is_caller and host.caller()[0] != 0


def one_line(result: str, scripts: Iterable[Mapping[str, Any]], instance_id: str) -> str:
    """Return what came out of a boot: its result, and how many scripts of each owner ran."""
    ran = [each["owner"] for each in scripts if each["duration_s"] is not None]
    counts = ", ".join(f"{ran.count(owner)} {owner}" for owner in ("user", "site"))
    return f"contextagent: {result} ({counts} scripts, instance {instance_id})\n"


def script_complaints(scripts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each script that did not do what it was to do."""
    said = []
    for each in scripts:
        if each["state"] not in ("ok", "skipped"):
            why = f": {each['reason']}" if each["reason"] else ""
            ended = f" (exit {each['exit_code']})" if each["exit_code"] is not None else ""
            said.append(f"{each['id']} {each['state']}{ended}{why}")
    return said


def say(complaints: Iterable[str], line: str) -> None:
    """Print what went wrong on stderr, and the one line."""
    if complaints:
        from contextagent.cli.text import printable  # noqa: PLC0415  # a boot that goes well has nothing to say

        sys.stderr.write("".join(f"contextagent: {printable(each)}\n" for each in complaints))
    sys.stdout.write(line)


def tell_complete(phase: Phase | None, given: Mapping[str, str | bool]) -> int | None:
    """Print what came of a phase that is to be resumed and is complete, and return the result's exit code.

    Init calls `run PHASE --resume` after every phase, since the agent might have been killed in it; only this call's
    words reach the console.  All of them stand in `status.json`, so nothing else of a run is loaded.

    Returns:
        None where anything is not as after a phase that went to its end: then the run itself has to see to it.
    """
    if phase not in _BOOT or "--policy" in given:
        return None
    root = given.get("--root")
    host = Host(root if isinstance(root, str) else "/")
    if is_beyond(host) or off_switch(host):
        return None
    try:
        status = read_status(host) or {}
        if status["boot_id"] != host.boot_id() or status["phases"][phase]["state"] not in _OVER:
            return None
        line = one_line(status["result"], status["scripts"], status["instance_id"])
        said = [str(each["message"]) for each in (*status["errors"], *status["warnings"])]
        said += script_complaints(status["scripts"])
        code = EXIT_CODES[status["result"]]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # there is none, or a script with root's rights spoiled it
        return None
    if status["result"] == "running":
        return None
    say(said, line)
    return code
