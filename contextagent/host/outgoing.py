"""What is sent, from where it stands; and files that are put into a folder which is somebody else's.

All of it is done by children (see `leaving`), with the rights of the account that a file or a folder belongs to: a link
that the account has planted then leads only where the account could have gone anyway.
"""

from __future__ import annotations

import errno
import os
import stat

from contextagent.host import confine, way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contextagent.host.confine import Channel, Child

    _Failed = Callable[[str], bytes]

TOO_LONG = "it took too long"
GRACE_S = 1.0
"""How long after its deadline a child that keeps it itself is let be, on a machine that has other things to do."""
_PIECE_BYTES = 1 << 16


class Unanswered(Exception):  # noqa: N818  # no error of ours: one of the outcomes of a request
    """A request that got no answer: why, in words; `may_pass` says that it may get one later."""

    def __init__(self, cause: str, *, may_pass: bool = True) -> None:
        super().__init__(cause)
        self.cause = cause
        self.may_pass = may_pass


class Body:
    """What a PUT sends: bytes, or an open file as long as it is now.

    Args:
        content: The bytes, or a descriptor.
        max_bytes: How much of a file is sent at most.
    """

    def __init__(self, content: bytes | int, max_bytes: int = 1 << 62) -> None:
        self._content = content
        self._at = 0
        size = len(content) if isinstance(content, bytes) else os.fstat(content).st_size
        self.size_bytes = min(size, max_bytes)

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, from the beginning."""
        self.rewind()
        while piece := self.read(_PIECE_BYTES):
            yield piece

    def rewind(self) -> None:
        """Begin again."""
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            OSError: The file became shorter.
        """
        left = self.size_bytes - self._at
        size = left if size < 0 else min(size, left)
        if isinstance(self._content, bytes):
            piece = self._content[self._at : self._at + size]
        else:
            piece = os.pread(self._content, min(size, _PIECE_BYTES), self._at)
        if size and not piece:
            raise OSError("the file became shorter while it was sent")
        self._at += len(piece)
        return piece

    def __len__(self) -> int:
        """Return how many bytes it has: by this `requests` knows that they need no chunks."""
        return self.size_bytes


def open_as(path: str, account: tuple[int, int] | None) -> int:
    """Return a descriptor of a file that is opened with an account's rights, in a child; a link there is not followed.

    So no link on the way leads to what the account could not read itself.

    Raises:
        Unanswered: It can't be opened, or is no file.
    """
    is_switched = account is not None and os.geteuid() == 0
    if account is not None and is_switched:
        os.setgroups([])
        os.setegid(account[1])
        os.seteuid(account[0])
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        cause = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise Unanswered(f"'{path}' can't be opened: {cause}", may_pass=False) from None
    finally:
        if is_switched:
            os.seteuid(0)
            os.setegid(0)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Unanswered(f"'{path}' is no file", may_pass=False)
    return fd


class Source:
    """A file that is sent, opened only in the child, and with the rights of the account that it belongs to.

    Args:
        path: Real path.
        account: Uid and gid; None for the agent's own.
    """

    def __init__(self, path: str, account: tuple[int, int] | None) -> None:
        self._path = path
        self._account = account
        self.fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # the child's file takes its number

    def open(self) -> None:
        """Open it, in the child.

        Raises:
            Unanswered: It can't be opened, or is no file.
        """
        fd = open_as(self._path, self._account)
        os.dup2(fd, self.fd)
        os.close(fd)

    def close(self) -> None:
        """Close it, in the parent."""
        os.close(self.fd)


def put_into(
    folder: str, name: str, content: bytes | Source, *, mode: int, total_s: float, failed: _Failed, root: str = "/"
) -> Child:
    """Start a child that puts a file into a folder by rename, with the rights of the folder's owner.

    Whatever the owner has made of the name (a link, a fifo, a device) is replaced, never followed or opened.

    Args:
        folder: Real path; it exists, and is no link.
        name: One component.
        content: What is written.
        mode: Of the file.
        total_s: As for `send_out`.
        failed: Returns what is said, from the cause; an empty cause when it was written.
        root: Folder that stands for `/`.

    Raises:
        OSError: There is no such folder, or it is root's and others could have led us to it.
    """
    fd = _opened(folder, content, root)
    owner = os.fstat(fd)
    causes: list[str] = []

    def prepare() -> None:
        end_in(total_s + GRACE_S)
        try:
            if isinstance(content, Source):
                content.open()
        except Unanswered as unanswered:
            causes.append(unanswered.cause)

    def serve(channel: Channel) -> None:
        if not causes:
            try:
                _put(fd, name, Body(content.fd if isinstance(content, Source) else content), mode)
            except OSError as error:
                causes.append(error.strerror or str(error))
        channel.send(failed(causes[0] if causes else ""))

    keep = (fd, content.fd) if isinstance(content, Source) else (fd,)
    try:
        return confine.start(
            serve,
            timeout_s=total_s + 2 * GRACE_S,
            keep=keep,
            max_file_bytes=1 << 40,
            prepare=prepare,
            account=(owner.st_uid, owner.st_gid),
        )
    finally:
        os.close(fd)
        if isinstance(content, Source):
            content.close()


def _opened(folder: str, content: bytes | Source, root: str) -> int:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check_way(fd, folder, root)
        except OSError:
            os.close(fd)
            raise
    except OSError:
        if isinstance(content, Source):
            content.close()
        raise
    return fd


def _check_way(fd: int, folder: str, root: str) -> None:
    """Find fault with a folder of root's that another account could have led us to: it is written as root."""
    if os.fstat(fd).st_uid == 0 == os.geteuid() and (where := way.changeable(os.path.dirname(folder), root)):
        raise OSError(errno.EACCES, f"the folder is root's, and '{where}' on its way is not root's alone to write")


def _put(folder: int, name: str, body: Body, mode: int) -> None:
    """Write beside the name and rename, as whoever this process is."""
    # always the same name, so that what a killed child left is replaced; made with O_EXCL, it can't be prepared for us
    temporary = f".{name}.contextagent-new"
    try:
        os.unlink(temporary, dir_fd=folder)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, mode, dir_fd=folder)
    try:
        for piece in body.pieces():
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        os.fchmod(fd, mode)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(fd)


def end_in(seconds: float) -> None:
    """Let the kernel end this process in so many seconds, whatever handlers and masks it has from its parent."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415  # no Python handler is needed, nor the slow module

    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGALRM,))
    _signal.setitimer(_signal.ITIMER_REAL, seconds)
