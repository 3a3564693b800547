"""Disks read without the kernel's help: by a library, or a small reader of our own, in a confined child.

The child gets the open image and a pipe, and nothing else of the machine.  It answers three questions (is this
readable, what is in this folder, give me this piece of this file); whatever it answers is judged here as foreign bytes
are.  A disk that loops, lies or bombs can end the child, at the latest when its time is over, and is then broken.
"""

from __future__ import annotations

import os

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.host.files import CHUNK_BYTES
from contextagent.model import Entry
from contextagent.sources.media import NamedMedium

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    from contextagent.host import Host
    from contextagent.host.confine import Channel, Child
    from contextagent.sources.devices import Disk

    class Tree(Protocol):
        """A file system read from an open image; every method may raise anything, since the bytes are foreign."""

        def entries(self, path: str) -> list[tuple[str, str, int, int, str]]:
            """Return name, kind, size in bytes, mode and link target of each name in a folder; empty for no folder."""

        def piece(self, path: str, offset: int, size: int) -> bytes:
            """Return at most `size` bytes of a regular file; fewer, or none, only at its end."""


TIMEOUT_S = 60.0
"""For a disk from its opening to its closing, staging included."""
_PIECE_BYTES = 16 * CHUNK_BYTES
_ANSWER_BYTES = 32 << 20
_KINDS = ("file", "folder", "link", "other")


class LibraryMedium(NamedMedium):
    """A disk as a confined child reads it.

    Args:
        host: The machine.
        disk: An ISO9660 or VFAT device or image file.

    Raises:
        BrokenSourceError: It can't be read.
    """

    def __init__(self, host: Host, disk: Disk) -> None:
        super().__init__(disk.name, "library")
        try:
            fd = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self.broken("", "read-error", error.strerror or str(error)) from error
        prepare, make = _readers(disk.kind, fd)
        try:
            self._child: Child = host.confined(
                lambda channel: _serve(channel, make), timeout_s=TIMEOUT_S, keep=(fd,), prepare=prepare
            )
        finally:
            os.close(fd)
        self._ask(["open"])

    def close(self) -> None:
        """End the child; a second call does nothing."""
        self._child.close()

    def chunks(self, path: str, *, max_bytes: int) -> Iterator[bytes]:
        """Yield a regular file's bytes in pieces of at most 64 KiB; raises as `read` does."""
        entry = self.entry(path)
        if entry is None or entry.kind != "file":
            raise self.broken(path, "no-file", "it is no regular file")
        done = 0
        while data := self._ask(["piece", path, done, _PIECE_BYTES]):
            done += len(data)
            if done > max_bytes:
                raise self.too_large(path, max_bytes)
            for start in range(0, len(data), CHUNK_BYTES):
                yield data[start : start + CHUNK_BYTES]

    def _list(self, path: str) -> list[Entry]:
        try:
            return [_entry(*each) for each in jsontext.loads(self._ask(["entries", path]))]
        except (TypeError, ValueError) as error:
            raise self.broken(path, "reader-died", f"its reader answered nonsense: {error}") from error

    def _ask(self, question: list[Any]) -> bytes:
        path = question[1] if len(question) > 1 else ""
        try:
            answer = self._child.ask(jsontext.dumps(question).encode(), max_bytes=_ANSWER_BYTES)
        except BrokenSourceError as error:
            self.close()
            raise self.broken(path, error.reason, str(error).partition(": ")[2]) from error
        if answer[:1] == b"+":
            return answer[1:]
        self.close()
        reason, cause = jsontext.loads(answer[1:])
        raise self.broken(path, reason, cause)


def _entry(name: str, kind: str, size_bytes: int, mode: int, target: str) -> Entry:
    known = kind if kind in _KINDS else "other"
    return Entry(
        path=str(name),
        kind=known,  # type: ignore[arg-type]  # one of the words, as the line above sees to
        size_bytes=int(size_bytes),
        mode=mode & 0o7777,
        target=str(target),
    )


def _readers(kind: str, fd: int) -> tuple[Callable[[], None], Callable[[], Tree]]:
    """Return what a child does before its rights are dropped (imports), and how it then makes its tree."""
    if kind == "vfat":
        from contextagent.sources import vfat  # noqa: PLC0415  # a context on VFAT is rare

        return vfat.prepare, lambda: vfat.VfatTree(fd)
    from contextagent.sources import iso9660  # noqa: PLC0415  # a kernel that mounts needs no library

    return iso9660.prepare, lambda: iso9660.IsoTree(fd)


def _serve(channel: Channel, make: Callable[[], Tree]) -> None:
    """Answer questions until the parent hangs up; the child's whole life."""
    tree: Tree | None = None
    while (question := channel.receive()) is not None:
        try:
            if tree is None:
                tree = make()
            answer = b"+" + _answer(tree, jsontext.loads(question))
        except OSError as error:
            answer = _failure("read-error", error.strerror or str(error))
        except BrokenSourceError as error:
            answer = _failure(error.reason, str(error))
        except ImportError as error:
            answer = _failure("no-reader", str(error))
        except Exception as error:  # noqa: BLE001  # foreign bytes can raise anything in a parser; all of it means broken
            answer = _failure("bad-filesystem", f"{type(error).__name__}: {error}"[:500])
        channel.send(answer)


def _answer(tree: Tree, question: list[Any]) -> bytes:
    verb, *arguments = question
    if verb == "entries":
        return jsontext.dumps(tree.entries(*arguments)).encode()
    return tree.piece(*arguments) if verb == "piece" else b""


def _failure(reason: str, cause: str) -> bytes:
    return b"-" + jsontext.dumps([reason, cause]).encode()
