"""Process 1 of a throw-away view: it starts what it is told to, reaps, and reads, until nobody tells it any more.

Everything that it holds open belongs to the view, but for the four descriptors below: the view's root could reach
through anything else.  So it is a program of its own, run from the view's files, and what it starts can't look into it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import stat

from contextagent import jsontext
from contextagent.errors import ContextAgentError
from contextagent.host import program
from contextagent.host.files import Files, write_all
from contextagent.host.guestos import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root", "TERM": "dumb"}
MAX_LINE_BYTES = 1 << 20
ORDERS, ANSWERS, OUT, ERR = 3, 4, 5, 6
_FIRST_OTHER = 7
_START = "import sys; sys.path.insert(0, sys.argv[1]); from contextagent.host.inside import main; main()"
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _CAP_SYS_PTRACE, _SIGKILL = 1, 24, 19, 9
_TICK_MS = 10


def become(python: Sequence[str], package: str, fds: Sequence[int]) -> NoReturn:
    """Run this module in the place of this process, which is in the view already.

    Args:
        python: Python and its options, as the view has it.
        package: Folder that has the agent's package in it.
        fds: What becomes the four descriptors, in their order.

    Raises:
        OSError: As the kernel says it.
    """
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]
    null = os.open(os.devnull, os.O_RDWR)
    for fd, number in zip((null, null, null, *high), range(_FIRST_OTHER), strict=True):
        os.dup2(fd, number)
    os.closerange(_FIRST_OTHER, os.sysconf("SC_OPEN_MAX"))
    name = "python" if program.is_one() else python[0]  # else it would take these words for the agent's
    os.execve(python[0], [name, *python[1:], "-c", _START, package], ENVIRONMENT)  # noqa: S606  # no shell is wanted


def main() -> NoReturn:
    """Do what is ordered until the orders end."""
    for fd in (ORDERS, ANSWERS, OUT, ERR):
        os.set_inheritable(fd, False)  # noqa: FBT003  # its own way
    native.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which the kernel keeps from a process 1, unlike Python's own
    while line := read_line(ORDERS):
        order = jsontext.loads(line)
        if "run" in order:
            code = _run(order["run"])
        elif "read" in order:
            code = _copy_end(order["read"], order["max"])
        else:
            code = _forget(order["forget"])
        answer(ANSWERS, {"code": code})
    os._exit(0)


def answer(fd: int, message: dict[str, object]) -> None:
    """Write one message."""
    os.write(fd, jsontext.dumps(message).encode() + b"\n")


def read_line(fd: int) -> bytes:
    """Return a line, or what there is before the end or the most that a line may be."""
    line = bytearray()
    # a byte at a time: what follows the line is for another process to read
    while not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES and (data := os.read(fd, 1)):
        line += data
    return bytes(line)


def _forget(paths: Sequence[str]) -> int:
    """Take away what the view is to be without."""
    for path in paths:
        with contextlib.suppress(ContextAgentError):  # shown read-only, and warned about
            Files("/").remove(path)
    return 0


def _copy_end(path: str, max_bytes: int) -> int:
    """Write the end of a regular file to where the other side reads it; return an errno, 0 for none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return errno.EINVAL
            write_all(OUT, os.pread(fd, max_bytes, max(0, found.st_size - max_bytes)))
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _run(argv: list[str]) -> int:
    """Start a program, and reap until it has ended; end at once when nobody is there any more to be told."""
    pid = os.fork()
    if pid == 0:
        _start(argv)
    poll = select.poll()
    poll.register(ORDERS, 0)  # the end of the pipe is all that is waited for
    while not poll.poll(_TICK_MS):
        while True:
            done, status = os.waitpid(-1, os.WNOHANG)  # the program itself is still to come, so there is a child
            if done == pid:
                return os.waitstatus_to_exitcode(status)
            if not done:
                break
    os._exit(0)


def _start(argv: list[str]) -> NoReturn:
    """Become the program."""
    try:
        native.prctl(_PR_CAPBSET_DROP, _CAP_SYS_PTRACE)
        os.dup2(OUT, 1)
        os.dup2(ERR, 2)
        os.setsid()
        os.umask(0o022)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execve(argv[0], argv, ENVIRONMENT)  # noqa: S606  # no shell is wanted
    except OSError as error:
        os.write(ERR, f"cannot start '{argv[0]}': {error.strerror}\n".encode())
    finally:
        os._exit(127)
