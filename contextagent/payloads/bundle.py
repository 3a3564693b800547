"""A bundle (tar or tar.gz) judged as a whole, then written so that nothing in it can reach outside its folder.

The extraction filters of `tarfile` are not safe on Python 3.11.7 (CVE-2025-4517), and its reader follows sizes that
lead backwards (CVE-2025-8194): nothing of it is used, and everything that names, sizes or writes is here.
"""

from __future__ import annotations

import os

from contextagent.digests import new_sha512
from contextagent.errors import CannotWriteError
from contextagent.model import Value
from contextagent.payloads.names import MAX_TARGET_BYTES, component_problem, inside
from contextagent.payloads.refusal import no_tar, refusal
from contextagent.payloads.stream import CHUNK_BYTES, Stream
from contextagent.payloads.tar_header import BLOCK_BYTES, HeaderError, as_path, read_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Literal

    from contextagent.payloads.caps import Caps
    from contextagent.payloads.tar_header import Header

MAX_HEADER_BYTES = 64 << 10
MAX_PADDING_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 20

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_REFUSED_KINDS = {
    b"1": "hard-link",
    b"3": "device",
    b"4": "device",
    b"6": "fifo",
    b"S": "sparse",
}
_OLD_FILE, _LINK, _FOLDER = b"\0", b"2", b"5"
_FILES = (b"0", _OLD_FILE, b"7")


class Member(Value):
    """One member of a bundle: its path in shortest form, its size, its mode (at most 0755), and a link's target.

    `sha512` is a file's, of the bytes that were written; empty as long as nothing is.
    """

    path: str
    kind: Literal["file", "folder", "link"]
    size_bytes: int = 0
    mode: int = 0o644
    target: str = ""
    sha512: str = ""


def extract(source: BinaryIO, folder: str, caps: Caps) -> tuple[Member, ...]:
    """Write a bundle's members into a folder, after all of it has been judged.

    Rules (context, section 4): regular files, folders and relative links that stay inside; one member against the rules
    refuses the whole before a byte is written. Links are made last, so nothing is ever written through one.

    Args:
        source: The bundle, seekable; read twice.
        folder: Real path of a folder that is not there yet; it is made 0700 and belongs to this one bundle.
        caps: Bounds.

    Returns:
        The members in the bundle's order; empty for an archive of nothing.

    Raises:
        BrokenSourceError: The bundle is refused: its writer's fault, naming member and rule. Nothing was written.
        CannotWriteError: The folder can't be made, or a file in it; the caller removes what is there.
    """
    members = check(source, caps)
    try:
        os.mkdir(folder, 0o700)
        base = os.open(folder, _OPEN_FOLDER)
        try:
            return _write(source, base, members, caps)
        finally:
            os.close(base)
    except OSError as error:
        raise CannotWriteError(f"cannot write '{folder}': {error.strerror or error}") from error


def check(source: BinaryIO, caps: Caps) -> tuple[Member, ...]:
    """Return a bundle's members if all of it keeps the rules; writes nothing.

    Args:
        source: The bundle, seekable; read once, in pieces.
        caps: Bounds.

    Raises:
        BrokenSourceError: As `extract`.
    """
    tree = _Tree(caps)
    for member, _ in _Archive(source, caps).members():
        tree.add(member)
    return tree.judged()


class _Archive:
    """The members as the archive gives them, one after another, each with its contents."""

    def __init__(self, source: BinaryIO, caps: Caps) -> None:
        self._stream = Stream(source, caps, "bundle")
        self._caps = caps
        self._last = "bundle"
        self._is_begun = False

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Yield each member; its contents are read from the same stream, and skipped if nobody reads them."""
        count, total_bytes = 0, 0
        while (found := self._next_header()) is not None:
            header, wide = found
            name = as_path(wide["path"]) if "path" in wide else header.name
            self._last = name
            count += 1
            if count > self._caps.members:
                raise refusal(name, "too-many-members")
            member = self._member(name, header, wide)
            total_bytes += member.size_bytes
            if total_bytes > self._caps.total_bytes:
                raise refusal(name, "total-too-large")
            contents = self._contents(member.size_bytes)
            if member.path:
                yield member, contents
            for _ in contents:
                pass
        self._expect_padding()

    def _next_header(self) -> tuple[Header, dict[str, bytes]] | None:
        """Return the next member's header and what extended headers before it say; None at the archive's end."""
        wide: dict[str, bytes] = {}
        allowed_bytes = MAX_HEADER_BYTES
        while (header := self._header()) is not None:
            if header.kind not in (b"x", b"g", b"L", b"K"):
                return header, wide
            if header.size_bytes < 0:
                raise refusal(self._last, "negative-offset")
            allowed_bytes -= BLOCK_BYTES + header.size_bytes
            if allowed_bytes < 0:
                raise refusal(self._last, "header-too-large")
            said = self._extension(header)
            if (said and header.kind == b"g") or not wide.keys().isdisjoint(said) or b"" in said.values():
                raise refusal(self._last, "ambiguous-header")
            wide.update(said)
        if wide:
            raise refusal(self._last, "truncated")
        return None

    def _extension(self, header: Header) -> dict[str, bytes]:
        """Return what an extended header says about the member behind it, as far as that matters here."""
        data = b"".join(self._contents(header.size_bytes))
        if header.kind in _LONG:
            name, end, _ = data.partition(b"\0")
            if not end:  # some programs read on beyond it
                raise refusal(self._last, "bad-header")
            return {_LONG[header.kind]: name}
        said = _pax_records(data)
        if said is None:
            raise refusal(self._last, "bad-header")
        if any(key.startswith("GNU.sparse") for key in said):
            raise refusal(self._last, "sparse")
        return {key: said[key] for key in ("path", "linkpath", "size") if key in said}

    def _header(self) -> Header | None:
        block = self._stream.read(BLOCK_BYTES)
        is_first, self._is_begun = not self._is_begun, True
        if len(block) < BLOCK_BYTES:
            raise no_tar(block) if is_first else refusal(self._last, "truncated")
        if not block.strip(b"\0"):
            if is_first and not self._stream.is_packed:  # what a disk or a service has where there is nothing
                raise refusal(self._last, "not-a-tar", "it is nothing but zeros")
            return None
        try:
            return read_header(block)
        except HeaderError as error:
            is_none = is_first and error.reason == "bad-checksum"
            raise no_tar(block) if is_none else refusal(self._last, error.reason) from None

    def _member(self, name: str, header: Header, wide: dict[str, bytes]) -> Member:
        """Return a header as a member, or refuse it for what it says by itself."""
        if header.kind in _REFUSED_KINDS:
            raise refusal(name, _REFUSED_KINDS[header.kind])
        if header.kind not in (*_FILES, _LINK, _FOLDER):
            raise refusal(name, "unknown-type")
        path = _shortest(name)
        size_bytes = self._size_bytes(name, header, wide)
        is_folder = _is_folder(name, header)
        if (is_folder or header.kind == _LINK) and size_bytes:
            raise refusal(name, "bad-size")
        if is_folder:
            return Member(path=path, kind="folder", mode=header.mode & 0o755)
        if not path:
            raise refusal(name, "bad-name")
        if header.kind == _LINK:
            return Member(path=path, kind="link", target=as_path(wide.get("linkpath", b"")) or header.target)
        return Member(path=path, kind="file", size_bytes=size_bytes, mode=header.mode & 0o755)

    def _size_bytes(self, name: str, header: Header, wide: dict[str, bytes]) -> int:
        said = wide.get("size", b"%d" % header.size_bytes)
        if len(said) > MAX_DIGITS or not said.removeprefix(b"-").isdigit():
            raise refusal(name, "bad-header")
        if said.startswith(b"-"):
            raise refusal(name, "negative-offset")
        if int(said) > self._caps.member_bytes:
            raise refusal(name, "member-too-large")
        return int(said)

    def _contents(self, size_bytes: int) -> Iterator[bytes]:
        """Yield `size_bytes` from here, then go past the padding to the next block."""
        left = size_bytes
        while left:
            data = self._stream.piece(left)
            if not data:
                raise refusal(self._last, "truncated")
            left -= len(data)
            yield data
        padding = -size_bytes % BLOCK_BYTES
        if len(self._stream.read(padding)) < padding:
            raise refusal(self._last, "truncated")

    def _expect_padding(self) -> None:
        """Read what follows the end: zeros, no more than a tape's record of them."""
        left = MAX_PADDING_BYTES
        self._stream.expect_padding()
        while data := self._stream.piece(CHUNK_BYTES):
            left -= len(data)
            if left < 0 or data.strip(b"\0"):
                raise refusal(self._last, "trailing-garbage")


def _is_folder(name: str, header: Header) -> bool:
    """Whether a member is a folder; v7 knows one only by the slash at its name's end.

    A file or link with such a name, or one whose short and long names differ in it, is a folder to some programs only.
    """
    if header.kind == _FOLDER:
        return True
    is_said = name.endswith("/")
    if header.kind == _OLD_FILE and is_said == header.name.endswith("/"):
        return is_said
    if is_said or header.kind == _OLD_FILE:
        raise refusal(name, "bad-name")
    return False


_LONG = {b"L": "path", b"K": "linkpath"}


def _pax_records(data: bytes) -> dict[str, bytes] | None:
    """Return the `<length> <key>=<value>` lines of a pax header; None if it is damaged."""
    said: dict[str, bytes] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or len(digits) > MAX_DIGITS:
            return None
        length = int(digits)
        key, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if length > len(data) or not value.endswith(b"\n") or not equals or as_path(key) in said:
            return None
        said[as_path(key)] = value[:-1]
        data = data[length:]
    return said


def _shortest(name: str) -> str:
    """Return a member's path in its shortest form, empty for the top itself; refuse one that could lead elsewhere."""
    if name.startswith("/"):
        raise refusal(name, "absolute-path")
    components = [component for component in name.split("/") if component not in ("", ".")]
    if ".." in components:
        raise refusal(name, "parent-path")
    if not name or any(map(component_problem, components)) or len(name.encode()) > MAX_TARGET_BYTES:
        raise refusal(name, "bad-name")
    if len(components) > MAX_DEPTH:
        raise refusal(name, "too-deep")
    return "/".join(components)


class _Tree:
    """All members so far as a tree of names, by which each new one is judged."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._members: list[Member] = []
        self._known: dict[str, tuple[str, str]] = {}

    def add(self, member: Member) -> None:
        """Take one more member, or refuse it for what it says beside the others."""
        for folder in _parents(member.path):
            path, kind = self._known.setdefault(folder.casefold(), (folder, "implied"))
            if path != folder:
                raise refusal(member.path, "case-duplicate")
            if kind in ("link", "file"):
                raise refusal(member.path, f"through-{kind}")
        path, kind = self._known.get(member.path.casefold(), (member.path, ""))
        if path != member.path:
            raise refusal(member.path, "case-duplicate")
        if kind == "implied" and member.kind != "folder":
            raise refusal(member.path, "through-link" if member.kind == "link" else "through-file")
        if kind not in ("", "implied"):
            raise refusal(member.path, "duplicate-name")
        self._known[member.path.casefold()] = (member.path, member.kind)
        self._members.append(member)

    def judged(self) -> tuple[Member, ...]:
        """Return all members, once it is known that no link leads outside, be it through another one."""
        for member in self._members:
            if member.kind == "link":
                self._judge_link(member)
        return tuple(self._members)

    def _judge_link(self, member: Member) -> None:
        """Refuse a link out of the bundle; a step of its way that is itself a link would make its text a lie."""
        folder = member.path.rpartition("/")[0]
        if inside(folder, member.target) is None:
            raise refusal(member.path, "link-outside")
        steps = member.target.split("/")
        for end in range(1, len(steps)):
            step = inside(folder, "/".join(steps[:end])) or ""
            if self._known.get(step.casefold(), ("", ""))[1] == "link":
                raise refusal(member.path, "through-link")


def _parents(path: str) -> list[str]:
    components = path.split("/")
    return ["/".join(components[:end]) for end in range(1, len(components))]


def _write(source: BinaryIO, base: int, members: tuple[Member, ...], caps: Caps) -> tuple[Member, ...]:
    """Write the members below an open folder, if the source still says what it said; return them with digests."""
    expected = iter(members)
    written: list[Member] = []
    for member, contents in _Archive(source, caps).members():
        if member != next(expected, None):
            raise refusal(member.path, "changed")
        if member.kind == "folder":
            os.close(_open_folder(base, member.path))
        sha512 = _write_file(base, member, contents) if member.kind == "file" else ""
        written.append(member.replace(sha512=sha512))
    for member in expected:
        raise refusal(member.path, "changed")
    for member in members:
        if member.kind == "link":
            folder, _, name = member.path.rpartition("/")
            parent = _open_folder(base, folder)
            try:
                os.symlink(member.target, name, dir_fd=parent)
            finally:
                os.close(parent)
    return tuple(written)


def _open_folder(base: int, path: str) -> int:
    """Return a folder below `base`, opened level by level without following a link; what is missing is made."""
    fd = os.dup(base)
    for component in path.split("/") if path else ():
        try:
            try:
                os.mkdir(component, 0o700, dir_fd=fd)
            except FileExistsError:
                pass  # made for an earlier member; anything but a folder fails to open
            inner = os.open(component, _OPEN_FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _write_file(base: int, member: Member, contents: Iterator[bytes]) -> str:
    """Write one file, and return its SHA-512."""
    digest = new_sha512(member.size_bytes)
    folder, _, name = member.path.rpartition("/")
    parent = _open_folder(base, folder)
    try:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
    finally:
        os.close(parent)
    with open(fd, "wb") as file:
        for data in contents:
            digest.update(data)
            file.write(data)
        os.fchmod(fd, member.mode)
    return digest.hexdigest()
