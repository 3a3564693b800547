"""The end of the machine: a command of the site's that sees to it, or its own init."""

from __future__ import annotations

import os
import stat as stat_bits

from contextagent.host import way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host

COMMAND_S = 60.0
"""How long the site's command may take: it is to ask for the end, not to wait for it."""
_INIT_S = 20.0
_SYSTEMD = "/run/systemd/system"
_MAX_SAID = 200


def command_problem(path: str) -> str:
    """Return why a program may not be run as root, or nothing where it may.

    It is an absolute path of a regular file, and that file is root's own and nobody else's to write, as is what leads
    to it (`way.changeable`): whoever could exchange it would be root.  Who runs it (below another root the caller) is
    trusted as root is.
    """
    if not path.startswith("/") or "\0" in path:
        return "it is no absolute path"
    try:
        target = os.path.realpath(path, strict=True)
        found = os.stat(target)
        where = way.changeable(path)
    except OSError as error:
        return error.strerror or str(error)
    if where and where != target:
        return f"'{where}' is not root's alone to write"
    if not stat_bits.S_ISREG(found.st_mode):
        return "it is no regular file"
    if where or not way.is_ours(found):
        return "it is not root's alone to write"
    return "" if found.st_mode & stat_bits.S_IXUSR else "it can't be executed"


def run_command(host: Host, path: str) -> str:
    """Run the site's command for the end of a machine, as it stands and without a shell, bounded in time.

    Below another root only what stands there is run: a trial must not end the machine that it is made on.

    Returns:
        Why it did not do its work; empty where it did.
    """
    is_below = host.is_caller and not path.startswith(f"{host.root}/")
    program = host.files.real(path) if is_below else path
    if problem := "it is no absolute path" if not path.startswith("/") else command_problem(program):
        return problem
    finished = host.run((program,), timeout_s=COMMAND_S)
    if finished.is_ok:
        return ""
    said = finished.text().strip().rpartition("\n")[2][:_MAX_SAID]
    if finished.is_timeout:
        how = f"it took longer than {COMMAND_S:g} s"
    elif finished.exit_code is None:
        how = f"signal {finished.signal} ended it"
    else:
        how = f"it ended with exit code {finished.exit_code}"
    return f"{how} ({said})" if said else how


def power_off(host: Host) -> str:
    """Ask init to take the machine down, and return why that failed; empty where init has been asked.

    It does not wait: init stops this very process on the way.
    """
    asked: list[str] = []
    commands = [("shutdown", "-h", "now"), ("poweroff",)]
    if os.path.isdir(_SYSTEMD):
        commands.insert(0, ("systemctl", "poweroff", "--no-block"))
    for argv in commands:
        finished = host.run(argv, timeout_s=_INIT_S)
        if finished.is_ok:
            return ""
        said = finished.text().strip().rpartition("\n")[2][:_MAX_SAID]
        asked.append(f"{argv[0]}: {said or f'exit code {finished.exit_code}'}")
    return "; ".join(asked)
