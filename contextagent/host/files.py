"""Files below a root, written so that nothing foreign can redirect, half-write or read them.

Every path given here is the path as the guest sees it (`/var/lib/contextagent/…`); the root is put before it once, in
`Files.real`.  Names come from the agent itself or have been checked by `payloads`; the last component is never followed
when it is a link.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits

from contextagent.errors import CannotWriteError
from contextagent.host.removal import remove_at
from contextagent.model import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from contextagent.model import EntryKind

CHUNK_BYTES = 1 << 16
_PAGE_BYTES = 1 << 12
NEW = ".new-"
"""How names of unfinished files and folders begin; what a killed agent left of them is swept away by the next one."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def random_name(prefix: str) -> str:
    """Return a name that nobody can guess, for a temporary file or folder."""
    return f"{prefix}{os.urandom(8).hex()}"


def entry_kind(mode: int) -> EntryKind:
    """Return what a `st_mode` says a name is."""
    if stat_bits.S_ISREG(mode):
        return "file"
    if stat_bits.S_ISDIR(mode):
        return "folder"
    return "link" if stat_bits.S_ISLNK(mode) else "other"


class Files:
    """The file system as the agent uses it.

    Args:
        root: Folder that stands for `/`; every path is below it.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.abspath(root)

    def real(self, path: str) -> str:
        """Return the path on this machine for a path of the guest."""
        return path if self.root == "/" else self.root + path

    def read(self, path: str, *, max_bytes: int) -> bytes:
        """Return a regular file's bytes.

        Raises:
            FileNotFoundError: There is no such file (a link counts as none).
            OSError: It is larger than `max_bytes` (EFBIG), no regular file (EINVAL), or can't be read.
        """
        return b"".join(self.chunks(path, max_bytes=max_bytes))

    def chunks(self, path: str, *, max_bytes: int) -> Iterator[bytes]:
        """Yield a regular file's bytes in pieces; the rules are those of `read`."""
        try:
            fd = os.open(self.real(path), _READ)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise FileNotFoundError(errno.ENOENT, "a link is not followed", path) from None
            raise
        try:
            found = os.fstat(fd)
            if not stat_bits.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "no regular file", path)
            left = max_bytes
            # most files are small, and a large buffer would be a mapping of its own; a file may have grown meanwhile
            piece_bytes = min(max(found.st_size + 1, _PAGE_BYTES), CHUNK_BYTES)
            while data := os.read(fd, piece_bytes):
                left -= len(data)
                if left < 0:
                    raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes", path)
                yield data
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """Return whether there is anything at `path`, a dangling link included."""
        return os.path.lexists(self.real(path))

    def folder(self, path: str) -> list[Entry]:
        """Return the entries of a folder in C-locale order, paths relative to it; empty where there is no folder."""
        base = self.real(path)
        try:
            names = os.listdir(os.fsencode(base))
        except (FileNotFoundError, NotADirectoryError):
            return []
        names.sort()
        entries = (self._entry(base, os.fsdecode(name)) for name in names)
        return [entry for entry in entries if entry is not None]

    @staticmethod
    def _entry(base: str, name: str) -> Entry | None:
        try:
            found = os.lstat(f"{base}/{name}")
            kind = entry_kind(found.st_mode)
            target = os.readlink(f"{base}/{name}") if kind == "link" else ""
        except FileNotFoundError:
            return None  # it was there a moment ago
        return Entry(path=name, kind=kind, size_bytes=found.st_size, mode=found.st_mode & 0o7777, target=target)

    def make_folder(self, path: str, mode: int = 0o700, *, gid: int = -1) -> None:
        """Make a folder and its missing parents; an existing one gets `mode` re-asserted, parents are left as they are.

        With `gid`, the folder is that group's, so that `mode` may let one account in.

        Raises:
            CannotWriteError: It can't be made, or something else than a folder stands there.
        """
        real = self.real(path)
        try:
            self._make(real, mode, gid)
        except OSError as error:
            raise _cannot("make", path, error) from error

    def _make(self, real: str, mode: int, gid: int = -1, *, parents: int = 0o755) -> None:
        mask = os.umask(0)  # a folder has its mode from its first moment: after a kill nobody comes back to set it
        try:
            os.mkdir(real, mode)
        except FileNotFoundError:
            self._make(os.path.dirname(real), parents, parents=parents)
            os.mkdir(real, mode)
        except FileExistsError:
            if not stat_bits.S_ISDIR(os.lstat(real).st_mode):
                raise
        finally:
            os.umask(mask)
        if gid >= 0:
            os.chown(real, -1, gid)
        os.chmod(real, mode)

    def write(self, path: str, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
        """Put a whole file in place by rename, so that a reader never sees half of one.

        Args:
            path: Where; its folder exists.
            data: All of it.
            mode: From the first byte.
            durable: Whether it must survive a power cut from here on (fsync of file and folder).

        Raises:
            CannotWriteError: It could not be written; what was there before is untouched.
        """
        real = self.real(path)
        temporary = os.path.join(os.path.dirname(real), random_name(NEW))
        try:
            fd = os.open(temporary, _NEW, mode)
            try:
                write_all(fd, data)
                os.fchmod(fd, mode)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, real)
            if durable:
                self.sync_folder(os.path.dirname(path))
        except OSError as error:
            self._forget(temporary)
            raise _cannot("write", path, error) from error

    def create(self, path: str, pieces: Iterable[bytes], *, mode: int = 0o600, gid: int = -1) -> None:
        """Write a file that is not there yet, piece by piece; its parents are made 0700.

        With `gid`, the file is that group's, so that `mode` may let one account read it.

        Raises:
            CannotWriteError: It could not be written, or something stands there already.
        """
        real = self.real(path)
        try:
            try:
                fd = os.open(real, _NEW, mode)
            except FileNotFoundError:
                self._make(os.path.dirname(real), 0o700, parents=0o700)
                fd = os.open(real, _NEW, mode)
            try:
                for data in pieces:
                    write_all(fd, data)
                if gid >= 0:
                    os.fchown(fd, -1, gid)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
        except OSError as error:
            raise _cannot("write", path, error) from error

    def reserve(self, path: str, size_bytes: int) -> None:
        """Hold at least `size_bytes` of the disk in a file 0600 at `path`; a disk that has less gives what it can."""
        try:
            if os.lstat(self.real(path)).st_size >= size_bytes:
                return
        except FileNotFoundError:
            pass
        try:
            fd = os.open(self.real(path), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, size_bytes)
        except OSError:
            return
        finally:
            os.close(fd)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link; missing parents are made 0700.

        Raises:
            CannotWriteError: It can't be made.
        """
        real = self.real(path)
        try:
            if not os.path.lexists(os.path.dirname(real)):
                self._make(os.path.dirname(real), 0o700, parents=0o700)
            os.symlink(target, real)
        except OSError as error:
            raise _cannot("link", path, error) from error

    def open_new(self, path: str) -> int:
        """Return a descriptor of an empty file 0600, to be written and closed by the caller; an older file is emptied.

        Missing parents are made 0700.

        Raises:
            CannotWriteError: It can't be made.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        real = self.real(path)
        try:
            try:
                return os.open(real, flags, 0o600)
            except FileNotFoundError:
                self._make(os.path.dirname(real), 0o700, parents=0o700)
                return os.open(real, flags, 0o600)
        except OSError as error:
            raise _cannot("write", path, error) from error

    def nameless(self, folder: str) -> int:
        """Return a descriptor of an empty file 0600 that has no name; whoever closes it last frees its bytes.

        It has one for a moment, since not every file system makes files without (`O_TMPFILE`); what an agent that is
        killed just then leaves, `sweep` takes away.

        Args:
            folder: One of the agent's own, made 0700 if it is missing; empty for this machine's /tmp (a trial).

        Raises:
            CannotWriteError: It can't be made.
        """
        if folder:
            self.make_folder(folder)
        real = f"{self.real(folder) if folder else '/tmp'}/{random_name(NEW)}"  # noqa: S108  # O_EXCL, and see above
        try:
            fd = os.open(real, _NEW & ~os.O_WRONLY | os.O_RDWR, 0o600)
            try:
                os.unlink(real)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            raise _cannot("write", f"{folder}/", error) from error
        return fd

    def size(self, path: str) -> int:
        """Return how many bytes a file has.

        Raises:
            OSError: There is none.
        """
        return os.lstat(self.real(path)).st_size

    def changed_ns(self, path: str) -> int:
        """Return when a file was last written to, nanoseconds since the epoch; 0 where there is none."""
        try:
            return os.lstat(self.real(path)).st_mtime_ns
        except OSError:
            return 0

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable.

        Raises:
            OSError: The medium refuses.
        """
        fd = os.open(self.real(path), _FOLDER)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Rename within one file system.

        Raises:
            OSError: As the kernel says it.
        """
        os.rename(self.real(old), self.real(new))

    def adopt(self, real: str, path: str, *, mode: int) -> None:
        """Move a file here from its real path on the same file system; missing parents are made 0700.

        Raises:
            CannotWriteError: It could not be moved.
        """
        target = self.real(path)
        try:
            try:
                os.rename(real, target)
            except FileNotFoundError:
                self._make(os.path.dirname(target), 0o700, parents=0o700)
                os.rename(real, target)
            os.chmod(target, mode)
        except OSError as error:
            raise _cannot("write", path, error) from error

    def remove(self, path: str) -> None:
        """Remove a file, a link or a whole folder, without following any link; nothing there is fine.

        Raises:
            CannotWriteError: It could not be removed.
        """
        try:
            parent = os.open(self.real(os.path.dirname(path)), _FOLDER)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot("remove", path, error) from error
        try:
            remove_at(parent, os.path.basename(path))
        except OSError as error:
            raise _cannot("remove", path, error) from error
        finally:
            os.close(parent)

    def sweep(self, folder: str) -> None:
        """Remove what a killed agent left unfinished directly in one of the agent's own folders.

        Raises:
            CannotWriteError: It could not be removed.
        """
        try:
            names = os.listdir(self.real(folder))
        except OSError:
            return  # not made yet
        for name in names:
            if name.startswith(NEW):
                self.remove(f"{folder}/{name}")

    def give(self, path: str, uid: int, gid: int) -> None:
        """Make an account the owner of a folder and of all below it, without following any link.

        Raises:
            CannotWriteError: It could not be done.
        """
        try:
            for _folder, _folders, names, fd in os.fwalk(self.real(path), follow_symlinks=False):
                os.chown(fd, uid, gid)
                for name in names:
                    os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            raise _cannot("hand over", path, error) from error

    @staticmethod
    def _forget(real: str) -> None:
        try:
            os.unlink(real)
        except OSError:
            return  # nothing was made, or the medium is gone: the first error is the one to tell


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Write every byte, however short the kernel's writes are.

    Raises:
        OSError: As the kernel says it.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _cannot(verb: str, path: str, error: OSError) -> CannotWriteError:
    return CannotWriteError(f"cannot {verb} '{path}': {error.strerror or error}")
