"""A script that runs under its supervisor (`_guestos.c`), as the agent sees it: its output, its end, its tree.

What a script writes goes through a pipe.  Where daemons may live on after the script, they must neither block nor die
because nobody reads any more, and there may be no process left that would read.  So such a script gets the pipe opened
for reading *and* writing: whoever holds it can then never be without a reader (no SIGPIPE), and when the script has
ended the pipe is made non-blocking, so that a full one refuses (EAGAIN) instead of holding the daemon up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from contextagent.host.guestos import native
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal

    from contextagent.host.accounts import Account
    from contextagent.model import Limits

    Box = Literal["account", "pids", "none"]

PIPE_BYTES = 1 << 20
"""What a pipe may hold without privileges since Linux 2.6.35; a fast writer then wakes us sixteen times less often."""
_FIRST_PIPE_BYTES = 1 << 16
_SETPIPE_SZ = 1031
_CPU_GRACE_S = 5
"""Between SIGXCPU, which a script may catch, and SIGKILL."""
_GONE_S = 5.0
_MAX_PASSES = 1000
_SIGKILL, _SIGCONT = 9, 18
_BOXES: Mapping[Box, int] = {"account": native.OWN_PIDS | native.OWN_ACCOUNT, "pids": native.OWN_PIDS, "none": 0}


_LONGEST_POLL_S = 86400.0
"""The kernel takes milliseconds as a C int; a longer wait is another turn of the loop."""


class Report(Value):
    """How a script ended, in its supervisor's words; `killed` counts the processes that had to be."""

    wait_status: int
    user_s: float
    sys_s: float
    maxrss_bytes: int
    killed: int


class Refusal(Value):
    """Why a script could not be started: errno, and the step (`limits`, `rights`, `folder`, `program`, `fork`)."""

    errno: int
    step: str


_STEPS = {"l": "limits", "r": "rights", "d": "folder", "x": "program", "f": "fork"}


class Supervised:
    """A script that has been started.

    Attributes:
        has_own_pids: Whether the kernel gave it a PID namespace, so that nothing of its tree can outlive it.
        result: How it ended; a `Refusal` when it never ran; None while it runs, and when its supervisor was killed.
        is_over: Whether the supervisor has gone.
    """

    def __init__(self, pid: int, output: int, status: int, control: int, *, held: int, has_own_pids: bool) -> None:
        self.has_own_pids = has_own_pids
        self.result: Report | Refusal | None = None
        self.is_over = False
        self._pid = pid
        self._output = output
        self._status = status
        self._control = control
        self._held = held
        self._said = b""
        self._read_bytes = _FIRST_PIPE_BYTES
        self._poll = select.poll()
        self._poll.register(status, select.POLLIN)
        self._poll.register(output, select.POLLIN)
        self._others: set[int] = set()

    def pump(self, end_s: float, take: Callable[[bytes], bool]) -> bool:
        """Hand on the output until the script has ended.

        Args:
            end_s: Monotonic moment at which to give up.
            take: Called with each piece; returns False to give up at once.

        Returns:
            Whether it has ended, and its supervisor's word (or death) is in `result`.
        """
        while not self.is_over:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            for fd, _ in self._poll.poll(min(left_s, _LONGEST_POLL_S) * 1000 + 1):
                if fd == self._status:
                    self._hear()
                elif fd in self._others or not self._read(take):
                    return False
        return self._drain(take)

    def listen(self, fd: int, *, is_on: bool = True) -> None:
        """Have `pump` give up whenever this descriptor, too, can be read; or no more, before it is closed."""
        if is_on:
            self._others.add(fd)
            self._poll.register(fd, select.POLLIN)
        elif fd in self._others:
            self._others.remove(fd)
            self._poll.unregister(fd)

    @property
    def is_started(self) -> bool:
        """Whether it is about to execute its program, or has; `result` says so if that failed."""
        return self._said.startswith(b"start ")

    @property
    def main_pid(self) -> int:
        """The script's own process as this process sees it; in a PID namespace, 0 once it can't be found any more."""
        if not self.has_own_pids:
            return int(self._said.split()[1]) if self.is_started else 0
        found = (pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if parent_of(pid) == self._pid)
        return min(found, default=0)  # what it leaves behind comes to the supervisor as well, and is younger as a rule

    @property
    def supervisor_pid(self) -> int:
        """Its supervisor; process 1 of the script's PID namespace where it has one."""
        return self._pid

    def signal(self, number: int) -> None:
        """Send a signal to the script's own process group, whose rest may then end a moment later than the script."""
        self._command(b"S" + bytes((number,)))

    def terminate(self) -> None:
        """Send TERM to the whole tree."""
        self._command(b"T")

    def kill(self) -> None:
        """Have the supervisor kill the whole tree."""
        self._command(b"K")

    def close(self) -> None:
        """Let go of the script; one that still runs is killed with its tree, by its supervisor if that still can."""
        if self._held >= 0:
            os.set_blocking(self._held, False)
            os.close(self._held)
        for fd in (self._output, self._status, self._control):
            os.close(fd)
        if not self._has_gone():
            os.kill(self._pid, _SIGKILL)
            self._has_gone()
        if self.result is None and not self.has_own_pids:
            self._kill_session()

    def _command(self, letter: bytes) -> None:
        try:
            os.write(self._control, letter)
        except BrokenPipeError:
            return  # it has gone; `pump` will hear so
        os.kill(self._pid, _SIGCONT)  # a script that runs as root may have stopped it

    def _hear(self) -> None:
        """Take in what the supervisor says; its end of the pipe closes when it has ended, however it did."""
        data = os.read(self._status, 4096)
        self._said += data
        if data:
            return
        self.is_over = True
        for line in self._said.splitlines():
            word, *values = line.decode().split()
            if word == "end":
                status, user_us, sys_us, maxrss_kib, killed = map(int, values)
                self.result = Report(
                    wait_status=status,
                    user_s=user_us / 1e6,
                    sys_s=sys_us / 1e6,
                    maxrss_bytes=maxrss_kib << 10,
                    killed=killed,
                )
            elif word == "fail":
                self.result = Refusal(errno=int(values[0]), step=_STEPS[values[1]])

    def _read(self, take: Callable[[bytes], bool]) -> bool:
        data = os.read(self._output, self._read_bytes)
        if not data:
            self._poll.unregister(self._output)
            return True
        if len(data) == _FIRST_PIPE_BYTES:
            self._widen()
        return take(data)

    def _widen(self) -> None:
        """Make the pipe larger for a script that fills it."""
        self._read_bytes = PIPE_BYTES
        try:
            fcntl.fcntl(self._output, _SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            return  # before 2.6.35, or this user's pipes hold too much already: it works with a small one

    def _drain(self, take: Callable[[bytes], bool]) -> bool:
        """Hand on what the script had written when it ended, but no more: a daemon may write for ever."""
        os.set_blocking(self._output, False)
        left = PIPE_BYTES
        try:
            while left > 0 and (data := os.read(self._output, min(left, self._read_bytes))):
                left -= len(data)
                if not take(data):
                    break
        except BlockingIOError:
            return True
        return True

    def _has_gone(self) -> bool:
        """Reap the supervisor, which takes its PID namespace with it; return whether it could be had in time."""
        end_s = time.monotonic() + _GONE_S
        # one that has said its last word has nothing left to wait for
        while not os.waitpid(self._pid, os.WNOHANG if self.result is None else 0)[0]:
            if time.monotonic() >= end_s:
                return False
            time.sleep(0.01)
        return True

    def _kill_session(self) -> None:
        """Without a supervisor only the session is still known; what forks meanwhile is met in the next pass."""
        words = self._said.split()
        session = int(words[1]) if words[:1] == [b"start"] else 0
        for _ in range(_MAX_PASSES if session else 0):
            members = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _session(pid) == session]
            if not members:
                return
            for pid in members:
                try:
                    os.kill(pid, _SIGKILL)
                except ProcessLookupError:
                    continue


def _session(pid: int) -> int:
    """Return a process's session; 0 when it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def parent_of(pid: int) -> int:
    """Return a process's parent; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.readall().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def start(  # everything that a new process is made of
    argv: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    *,
    account: Account | None,
    limits: Limits,
    keep_daemons: bool,
    may_gain: bool = False,
    box: Box = "account",
) -> Supervised:
    """Start a script in a session of its own; stdin is /dev/null, stdout and stderr are one pipe, umask 077.

    Args:
        argv: Program (a path) and arguments.
        environment: All of its environment.
        folder: Real path of its working folder, entered with its own rights.
        account: Whose rights it gets, and no more, in a PID namespace where the kernel has one; None: the caller's.
        limits: Its bounds, as far as the kernel keeps them; time and output are the caller's to watch.
        keep_daemons: Whether what it leaves behind lives on when it ends with exit code 0.
        may_gain: Whether set-uid programs give it the rights that they are for.
        box: What holds its tree beside what every tree is known by: a PID namespace, and where there is none, all that
            runs as the `account`, or just the `pids` where others do, too; `none` for what runs in another's box.

    Raises:
        OSError: No pipe or no process could be had.
        ValueError: An argument or variable holds a NUL.
    """
    flags = (native.KEEP_DAEMONS if keep_daemons else 0) | (native.MAY_GAIN if may_gain else 0)
    uid, gid = (-1, -1) if account is None else (account.uid, account.gid)
    flags |= 0 if account is None else _BOXES[box]
    fds: list[int] = []
    try:
        for _ in range(3):
            fds += os.pipe()
        output, output_write, status, status_write, control_read, control = fds
        if account is not None:
            os.fchown(output_write, uid, gid)  # or the account could not open /dev/stdout
        held = _open_both_ways(output_write) if keep_daemons else -1
        if held >= 0:
            fds.append(held)
        pid, granted = native.spawn(
            tuple(map(os.fsencode, argv)),
            tuple(os.fsencode(f"{name}={value}") for name, value in environment.items()),
            folder,
            (held if held >= 0 else output_write, status_write, control_read),
            (uid, gid),
            _bounds(limits),
            flags,
        )
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    for fd in (output_write, status_write, control_read):
        os.close(fd)
    return Supervised(pid, output, status, control, held=held, has_own_pids=bool(granted & native.OWN_PIDS))


def _open_both_ways(fd: int) -> int:
    """Return the pipe opened for reading and writing (see the module's first lines); -1 where /proc can't say it."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return -1


def _bounds(limits: Limits) -> tuple[tuple[int, int, int], ...]:
    """Return the limits as setrlimit(2) takes them: what, soft, hard."""
    bounds = [(native.RLIMIT_CORE, 0, 0)]
    if limits.cpu_s is not None:
        bounds.append((native.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + _CPU_GRACE_S))
    for what, value in (
        (native.RLIMIT_AS, limits.memory_bytes),
        (native.RLIMIT_NPROC, limits.processes),
        (native.RLIMIT_NOFILE, limits.files),
    ):
        if value is not None:
            bounds.append((what, value, value))
    return tuple(bounds)
