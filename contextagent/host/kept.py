"""A keeper: a process of its own that minds one program, whatever becomes of the process that started it.

Of each keeper a folder tells: a lock that is held as long as it lives (a pid alone could be another's by now), a pipe
on which it takes orders, one on which it tells its news, and what it writes there.  The lock is taken before the keeper
is forked and handed on to it, so at no moment is there a keeper without one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from contextagent.host import program
from contextagent.host.guestos import native
from contextagent.host.supervised import parent_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from contextagent.host.files import Files

    Started = TypeVar("Started")

LOCK, CONTROL, NEWS = "lock", "control", "news"
LOCK_FD = 3
"""On which descriptor a keeper has its lock."""
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
_FIRST_HIGH = 100
_PR_SET_CHILD_SUBREAPER, _SIGKILL, _ORPHANS_S = 36, 9, 5.0
_KINDS = (0x20000000, 0x00020000)  # CLONE_NEWPID, CLONE_NEWNS
_PATIENCE_S, _STEP_S = 0.5, 0.005
_MAX_ORDERS_BYTES = 1 << 12
_LOOK_S = 0.25
"""How often a lock is looked at while it is waited for: the pipe tells of most ends, but not of all in every kernel."""


def lay_out(files: Files, folder: str) -> int:
    """Make a keeper's folder anew, and return a descriptor of its lock, held.

    Raises:
        CannotWriteError: The folder can't be made.
        OSError: As the kernel says it; BlockingIOError where a keeper holds the lock.
    """
    files.make_folder(folder)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(files.real(f"{folder}/{LOCK}"), flags, 0o600)
    try:
        _hold(lock)
        for entry in files.folder(folder):
            if entry.name != LOCK:
                files.remove(f"{folder}/{entry.name}")
        for name in (CONTROL, NEWS):
            os.mkfifo(files.real(f"{folder}/{name}"), 0o600)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _hold(lock: int) -> None:
    """Take the lock; somebody who looks whether it is held (`is_alive`) has it for a moment."""
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end_s:
                raise
            time.sleep(_STEP_S)
        else:
            return


def is_alive(files: Files, folder: str) -> bool:
    """Return whether the keeper of that folder lives: its lock is held."""
    try:
        fd = os.open(files.real(f"{folder}/{LOCK}"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def spawn(words: Sequence[str], lock: int) -> None:
    """Start a keeper in a session of its own, nobody's child but init's; the caller closes its copy of the lock.

    An interpreter of its own: a copy of this process would keep all that this one has in memory, and run on with
    yesterday's code in a process that looks like this one.

    Args:
        words: What Python is to be told, behind the options of a boot: `-c`, a program, its arguments.
        lock: What `lay_out` returned.

    Raises:
        OSError: No process could be had.
    """
    python = program.python()
    name = "python" if program.is_one() else python[0]  # else it would take these words for the agent's
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _become(python[0], [name, *python[1:], *words], lock)
    finally:
        os._exit(127)


def _become(path: str, argv: list[str], lock: int) -> None:
    """Put the descriptors in their places, and execute."""
    os.chdir("/")
    os.umask(0o077)
    held = fcntl.fcntl(lock, fcntl.F_DUPFD, _FIRST_HIGH)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.dup2(held, LOCK_FD)
    native.close_from(LOCK_FD + 1)
    os.execve(path, argv, _ENVIRONMENT)  # noqa: S606  # no shell is wanted


def adopt_orphans() -> None:
    """Have what loses its parent among this process's descendants become its own child (since Linux 3.4)."""
    try:
        native.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    except OSError:
        return  # then they go to init, and a supervisor that was killed is all that they could be known by


def kill_orphans() -> None:
    """Kill all children of this process, and what comes to it then, until there are none: only a keeper may do so."""
    end_s = time.monotonic() + _ORPHANS_S
    while time.monotonic() < end_s:
        for pid in _children():
            os.kill(pid, _SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(_STEP_S)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Return this process's children, dead ones included."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if parent_of(pid) == os.getpid()]


def hear_orders(files: Files, folder: str) -> int:
    """Return the keeper's own end of the pipe on which it is told; it never comes to an end while it lives."""
    return os.open(files.real(f"{folder}/{CONTROL}"), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def take_orders(control: int) -> list[bytes]:
    """Return the lines that came; none when there is nothing."""
    try:
        return os.read(control, _MAX_ORDERS_BYTES).splitlines()
    except BlockingIOError:
        return []


def order(files: Files, folder: str, line: bytes) -> bool:
    """Tell a keeper something, in one line of at most some hundred bytes; return whether there was one to be told."""
    try:
        fd = os.open(files.real(f"{folder}/{CONTROL}"), os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        os.write(fd, line + b"\n")
    except (BrokenPipeError, BlockingIOError):
        return False
    finally:
        os.close(fd)
    return True


def tell_news(files: Files, folder: str) -> int:
    """Return the keeper's end of the pipe on which it tells that there is something new; it closes with the keeper."""
    return os.open(files.real(f"{folder}/{NEWS}"), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def hear_news(files: Files, folder: str) -> int:
    """Return the other end of that pipe: it can be read when there is news, and when the keeper has gone.

    Raises:
        OSError: There is no such pipe.
    """
    return os.open(files.real(f"{folder}/{NEWS}"), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def take_news(news: int) -> bool:
    """Take what is in the pipe; return whether the keeper is still at its other end."""
    try:
        while os.read(news, _MAX_ORDERS_BYTES):
            pass
    except BlockingIOError:
        return True
    return False


def wait_gone(files: Files, folder: str, end_s: float) -> bool:
    """Wait until a keeper has gone, or for a moment of the monotonic clock; return whether it has."""
    try:
        news = hear_news(files, folder)
    except OSError:
        return not is_alive(files, folder)
    try:
        poll = select.poll()
        poll.register(news, select.POLLIN)
        while is_alive(files, folder):
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            poll.poll(min(left_s, _LOOK_S) * 1000 + 1)
            take_news(news)
        return True
    finally:
        os.close(news)


def inside(pid: int, work: Callable[[], Started]) -> Started:
    """Start something in the namespaces of another process, where it sees the same processes under the same numbers.

    Where the kernel has no way in (before 3.8), it is started where this process is.

    Args:
        pid: Process 1 of a PID namespace; 0 for where this process is.
        work: Starts a process, and returns.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for name in ("pid", "mnt") if pid else ():
            ours.append(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
            theirs.append(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
        for fd, kind in zip(theirs, _KINDS, strict=False):
            native.setns(fd, kind)
        return work()
    finally:
        for fd, kind in zip(ours, _KINDS, strict=False):
            native.setns(fd, kind)
        for fd in (*ours, *theirs):
            os.close(fd)
