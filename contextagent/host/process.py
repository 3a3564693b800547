"""System tools: run without a shell, with nothing of this process's environment, bounded in time and output."""

from __future__ import annotations

import os
import select
import time

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NOT_FOUND = 127
_PIPE_BYTES = 1 << 16
_TICK_S = 0.02
_SIGKILL = 9


class Finished(Value):
    """How a tool ended.

    Attributes:
        exit_code: Its exit code; None when a signal ended it.
        signal: The signal that ended it, or None.
        output: The beginning of what it wrote to stdout and stderr.
        is_timeout: Whether it was killed because its time was over.
    """

    exit_code: int | None
    signal: int | None = None
    output: bytes = b""
    is_timeout: bool = False

    @property
    def is_ok(self) -> bool:
        """Whether it ended with exit code 0."""
        return self.exit_code == 0

    def text(self) -> str:
        """Return the output as text, undecodable bytes replaced."""
        return self.output.decode("utf-8", "replace")


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    max_output_bytes: int = 1 << 20,
    leaves_nothing: bool = False,
) -> Finished:
    """Run a tool in a session of its own and wait for it; the arguments are those of `Host.run`."""
    program = _find(argv[0])
    if program is None:
        return Finished(exit_code=NOT_FOUND)
    given = {"PATH": PATH, "LC_ALL": "C", **(environment or {})}
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    try:
        try:
            os.write(in_write, stdin[:_PIPE_BYTES])
            pid = os.posix_spawn(
                program,
                list(argv),
                given,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, in_read, 0),
                    (os.POSIX_SPAWN_DUP2, out_write, 1),
                    (os.POSIX_SPAWN_DUP2, out_write, 2),
                ],
                # Python ignores SIGPIPE and SIGXFSZ, which a tool must not inherit
                setsigdef=[13, 25],
                setsid=True,
            )
        except OSError as error:
            return Finished(exit_code=NOT_FOUND, output=(error.strerror or "").encode())
        finally:
            for fd in (in_read, in_write, out_write):
                os.close(fd)
        finished = _wait(pid, out_read, time.monotonic() + timeout_s, max_output_bytes)
    finally:
        os.close(out_read)
    return _left(finished, pid) if leaves_nothing else finished


def _find(name: str) -> str | None:
    """Return a program's path, looked for in the system's folders."""
    if "/" in name:
        return name
    found = (f"{folder}/{name}" for folder in PATH.split(":"))
    return next((path for path in found if os.access(path, os.X_OK)), None)


def _wait(pid: int, fd: int, end_s: float, max_output_bytes: int) -> Finished:
    """Read until the tool has ended or its time is over; a grandchild that keeps the pipe open is not waited for."""
    output = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    is_open = True
    is_timeout = False
    os.set_blocking(fd, False)
    while True:
        # the child is asked after before the pipe is drained, so that its last words are in the pipe by then
        done, status = os.waitpid(pid, os.WNOHANG)
        if is_open:
            is_open = _drain(fd, output, max_output_bytes)
        if done:
            break
        if time.monotonic() >= end_s and not is_timeout:
            os.killpg(pid, _SIGKILL)
            is_timeout = True
        if is_open:
            poll.poll(_TICK_S * 1000)
        else:
            time.sleep(_TICK_S)
    code = os.waitstatus_to_exitcode(status)
    return Finished(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        output=bytes(output),
        is_timeout=is_timeout,
    )


def _left(finished: Finished, pid: int) -> Finished:
    """Return how a tool ended, now that what it left in its own group of processes is killed."""
    try:
        os.killpg(pid, _SIGKILL)
    except ProcessLookupError:
        return finished
    return finished


def _drain(fd: int, output: bytearray, max_output_bytes: int) -> bool:
    """Take what is in the pipe; return whether more may come."""
    try:
        while data := os.read(fd, _PIPE_BYTES):
            output += data[: max_output_bytes - len(output)]
    except BlockingIOError:
        return True
    return False
