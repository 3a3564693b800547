"""Confined children: foreign formats are parsed where a bug, a bomb or a drip can do nothing but end the child.

The child is a fork with its own session, no privileges (account nobody when the agent is root, no way to gain any), at
most 512 MiB of address space, 60 s of CPU and 16 files, no child of its own, no file it could grow past what it was
allowed, and no descriptor but the ones handed to it.  Parent and child talk in whole messages.  What comes back is as
foreign as what was parsed: the caller checks it.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import time

from contextagent.errors import BrokenSourceError
from contextagent.host.guestos import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_MESSAGE_BYTES = 128 << 20
_HEADER_BYTES = 8
_CHUNK_BYTES = 1 << 20
_SHORT_BYTES = 1 << 12
"""Of a message that goes in one piece with its length, so that the other side wakes up once."""
_NOBODY = 65534
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9
_LIMITS = (
    (resource.RLIMIT_AS, 512 << 20),
    (resource.RLIMIT_CPU, 60),
    (resource.RLIMIT_NOFILE, 16),
    (resource.RLIMIT_NPROC, 0),
    (resource.RLIMIT_CORE, 0),
)


class Channel:
    """One side's end of the talk: whole messages of bytes, each after its length."""

    def __init__(self, read_fd: int, write_fd: int, *, end_s: float | None = None) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._end_s = self._last_s = end_s
        self._poll: dict[int, select.poll] = {}

    @property
    def fd(self) -> int:
        """The descriptor that becomes readable when the other side says something, or goes."""
        return self._read_fd

    def send(self, message: bytes | memoryview) -> None:
        """Send one message.

        Raises:
            BrokenPipeError: The other side has gone.
            TimeoutError: The other side did not take it in time.
        """
        header = len(message).to_bytes(_HEADER_BYTES, "big")
        for part in (header + message,) if len(message) <= _SHORT_BYTES else (header, message):
            view = memoryview(part)
            while view:
                self._wait(self._write_fd, select.POLLOUT)
                view = view[os.write(self._write_fd, view) :]

    def receive(self, *, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes | None:
        """Return the next message; None when the other side has closed the channel between two messages.

        Raises:
            EOFError: The other side has gone amid a message.
            ValueError: The message is longer than `max_bytes`.
            TimeoutError: It did not come in time.
        """
        header = self._exactly(_HEADER_BYTES)
        if not header:
            return None
        size = int.from_bytes(header, "big")
        if size > max_bytes:
            message = f"a message of {size} bytes, {max_bytes} are allowed"
            raise ValueError(message)
        body = self._exactly(size)
        if len(body) < size:
            raise EOFError
        return body

    def until(self, end_s: float) -> None:
        """Let every wait from now on end at a moment of the monotonic clock, and never after the one it began with."""
        self._end_s = end_s if self._last_s is None else min(end_s, self._last_s)

    def close(self) -> None:
        """Close this end."""
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _exactly(self, size: int) -> bytes:
        """Return `size` bytes; fewer, or none, only at the end."""
        data = bytearray()
        while len(data) < size:
            self._wait(self._read_fd, select.POLLIN)
            piece = os.read(self._read_fd, min(size - len(data), _CHUNK_BYTES))
            if not piece:
                if data:
                    raise EOFError
                break
            data += piece
        return bytes(data)

    def _wait(self, fd: int, event: int) -> None:
        if self._end_s is None:
            return
        poll = self._poll.get(fd)
        if poll is None:
            poll = self._poll[fd] = select.poll()
            poll.register(fd, event)
        left_s = self._end_s - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TimeoutError


class Child:
    """A confined child, as its parent sees it."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self._pid = pid
        self._channel = channel

    @property
    def fd(self) -> int:
        """What to poll for the child's next word."""
        return self._channel.fd

    def ask(self, request: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES, end_s: float = 0) -> bytes:
        """Send a request and return the answer.

        Args:
            request: What the child is asked.
            max_bytes: How large the answer may be.
            end_s: A moment of the monotonic clock until which it must be there; 0 for the end of the child's time.

        Raises:
            BrokenSourceError: The child died, its time is over, or it answered too much; the foreign bytes' fault.
        """
        return self._answer(request, max_bytes, end_s)

    def hear(self, *, max_bytes: int = MAX_MESSAGE_BYTES, end_s: float = 0) -> bytes:
        """Return what the child says after its answer; arguments and errors are those of `ask`."""
        return self._answer(None, max_bytes, end_s)

    def _answer(self, request: bytes | None, max_bytes: int, end_s: float) -> bytes:
        try:
            if end_s:
                self._channel.until(end_s)
            if request is not None:
                self._channel.send(request)
            answer = self._channel.receive(max_bytes=max_bytes)
        except TimeoutError:
            message, reason = "cannot parse 'foreign data': its reader took too long", "reader-timeout"
        except (OSError, EOFError):
            message, reason = "cannot parse 'foreign data': its reader died", "reader-died"
        except ValueError as error:
            message, reason = f"cannot parse 'foreign data': its reader sent {error}", "reader-too-much"
        else:
            if answer is not None:
                return answer
            message, reason = "cannot parse 'foreign data': its reader died", "reader-died"
        self.close()
        raise BrokenSourceError(message, reason=reason)

    def close(self) -> None:
        """End the child, whatever it does, and wait until it is gone; a second call does nothing."""
        if self._pid:
            self._channel.close()
            os.kill(self._pid, _SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def start(
    work: Callable[[Channel], None],
    *,
    timeout_s: float,
    keep: Sequence[int] = (),
    max_file_bytes: int = 0,
    prepare: Callable[[], None] | None = None,
    account: tuple[int, int] = (_NOBODY, _NOBODY),
) -> Child:
    """Fork a confined child; the arguments are those of `Host.confined`.

    With `account` (uid, gid) it has the rights of that one instead of nobody's, if the agent is root.

    Raises:
        OSError: There is no process to be had.
    """
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        for fd in (down_read, down_write, up_read, up_write):
            os.close(fd)
        raise
    if pid:
        os.close(down_read)
        os.close(up_write)
        os.set_blocking(down_write, False)
        return Child(pid, Channel(up_read, down_write, end_s=time.monotonic() + timeout_s))
    try:
        os.close(down_write)
        os.close(up_read)
        if prepare is not None:
            prepare()
        _confine((down_read, up_write, *keep), max_file_bytes, account)
        _die_with(parent)
        work(Channel(down_read, up_write))
    except BaseException:  # noqa: BLE001  # whatever it was, nothing of the parent's may run on in its copy
        os._exit(1)
    os._exit(0)


def _confine(keep: Sequence[int], max_file_bytes: int, account: tuple[int, int]) -> None:
    """Give up everything but computing and the descriptors in `keep`."""
    gc.disable()
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    start_fd = 3
    for fd in sorted(keep):
        os.closerange(start_fd, fd)
        start_fd = fd + 1
    native.close_from(start_fd)
    for limit, value in (*_LIMITS, (resource.RLIMIT_FSIZE, max_file_bytes)):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))
    try:
        native.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError:
        pass  # before Linux 3.5; the account and the limits hold all the same
    if os.geteuid() == 0:
        os.setgroups([])
        uid, gid = account
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def _die_with(parent: int) -> None:
    """Let the kernel end this process when its parent ends; the last step, since a change of account undoes it."""
    native.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)
