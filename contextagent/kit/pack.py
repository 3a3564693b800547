"""A folder made into a context disk or a bundle: the same input gives the same bytes, anywhere and at any time."""

from __future__ import annotations

import os

from contextagent.digests import new_sha512
from contextagent.errors import CannotWriteError, InvalidInputError, UsageError
from contextagent.host.files import CHUNK_BYTES, random_name
from contextagent.kit.tree import read_tree
from contextagent.model import Problem, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, Literal

    from contextagent.kit.tree import Item, Tree

    Form = Literal["iso", "tgz"]
    Progress = Callable[[int, int], None]

DEFAULT_LABEL = "CONTEXT"
MAX_LABEL_CHARS = 16
"""All that Joliet holds; a longer one would be two different labels on one disk."""
MAX_EPOCH_S = 5_680_281_599
"""2149-12-31: the last whole year that an ISO's one-byte year and every time zone can hold."""
_ENDINGS: tuple[tuple[str, Form], ...] = ((".iso", "iso"), (".tgz", "tgz"), (".tar.gz", "tgz"))


class Packed(Value):
    """What was made.

    Attributes:
        path: The file.
        form: `iso` or `tgz`.
        label: The disk's label; empty for a bundle.
        files: How many regular files it holds.
        size_bytes: The file's size.
        sha512: The file's digest.
        epoch_s: The time that everything in it carries.
        dereferenced: Links whose target's bytes were packed in their stead: path, and the link's text.
    """

    path: str
    form: Form
    label: str
    files: int
    size_bytes: int
    sha512: str
    epoch_s: int
    dereferenced: tuple[tuple[str, str], ...]


def pack(
    folder: str, output: str, *, label: str | None = None, epoch_s: int | None = None, progress: Progress | None = None
) -> Packed:
    """Make a context disk or a bundle of a folder, and return what was made.

    Times are all `epoch_s`, owners root, modes 0755 and 0644, names in C-locale order; the file is put in place whole.

    Args:
        folder: What to pack.
        output: Where to; the ending says what: `.iso`, or `.tgz` (`.tar.gz`).
        label: An ISO's label (default `CONTEXT`).
        epoch_s: Seconds since the epoch; None for the newest file's own time.
        progress: Called with bytes done and bytes in all.

    Raises:
        UsageError: The folder, the output's name or the label is unusable.
        InvalidInputError: Something in the folder can't be taken; every such thing is in `problems`.
        CannotWriteError: The output can't be written; what was there before is untouched.
    """
    form = form_of(output)
    label = _checked_label(label, form)
    tree = read_tree(folder)
    _refuse_inside(folder, output)
    _refuse_problems(folder, tree)
    when = _newest_s(tree) if epoch_s is None else epoch_s
    if not 0 <= when <= MAX_EPOCH_S:
        raise UsageError(f"cannot date '{output}': {when} is outside 0 to {MAX_EPOCH_S}")
    sha512, size = _write_whole(output, lambda out: _write(out, form, tree, label, when, progress or _quiet), tree)
    return Packed(
        path=output,
        form=form,
        label=label,
        files=len(tree.files),
        size_bytes=size,
        sha512=sha512,
        epoch_s=when,
        dereferenced=tree.dereferenced,
    )


def write_bundle(out: BinaryIO, folder: str, tree: Tree) -> None:
    """Write a folder's tree as the bundle that `pack` makes of it without `SOURCE_DATE_EPOCH`.

    Raises:
        InvalidInputError: Something in it can't be taken, or changed while it was packed.
        OSError: It can't be read or written.
    """
    _refuse_problems(folder, tree)
    _write_tgz(out, tree.items, _newest_s(tree), _quiet)
    _refuse_changes(tree)


def form_of(output: str) -> Form:
    """Return what a file of this name is to be.

    Raises:
        UsageError: The name does not say.
    """
    for ending, form in _ENDINGS:
        if output.endswith(ending):
            return form
    raise UsageError(f"cannot pack '{output}': the name ends neither in .iso nor in .tgz")


def source_date_epoch(text: str) -> int:
    """Return the value of `SOURCE_DATE_EPOCH`, in seconds.

    Raises:
        UsageError: It is no whole number of seconds.
    """
    if not (text.isascii() and text.isdecimal() and int(text) <= MAX_EPOCH_S):
        raise UsageError(f"cannot use SOURCE_DATE_EPOCH '{text}': not a whole number from 0 to {MAX_EPOCH_S}")
    return int(text)


def _checked_label(label: str | None, form: Form) -> str:
    if form == "tgz":
        if label is not None:
            raise UsageError(f"cannot set the label '{label}': a bundle has none")
        return ""
    label = DEFAULT_LABEL if label is None else label
    if not (label.isascii() and label.isprintable() and 0 < len(label) <= MAX_LABEL_CHARS):
        raise UsageError(f"cannot set the label '{label}': not 1 to {MAX_LABEL_CHARS} printable ASCII characters")
    return label


def _refuse_inside(folder: str, output: str) -> None:
    """Refuse to write into the folder that is read: the next pack would hold this one."""
    if os.path.realpath(output).startswith(os.path.realpath(folder).rstrip("/") + "/"):
        raise UsageError(f"cannot write '{output}': it is inside the folder to be packed", hint="write it elsewhere")


def _refuse_problems(folder: str, tree: Tree) -> None:
    problems = tree.problems
    if not problems and not tree.files:
        problems = (Problem(reason="empty", message="there is no file in it", path=folder),)
    if problems:
        cause = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InvalidInputError(f"cannot pack '{folder}': {cause}", problems=problems)


def _newest_s(tree: Tree) -> int:
    return max(item.mtime_ns for item in tree.files) // 1_000_000_000


def _quiet(_done: int, _total: int) -> None:
    """Show no progress."""


def _write(out: BinaryIO, form: Form, tree: Tree, label: str, when: int, progress: Progress) -> None:
    if form == "iso":
        from contextagent.kit.iso import write_iso  # noqa: PLC0415  # a bundle needs no pycdlib

        write_iso(out, tree.items, label=label, epoch_s=when, progress=progress)
    else:
        _write_tgz(out, tree.items, when, progress)


def _write_tgz(out: BinaryIO, items: tuple[Item, ...], when: int, progress: Progress) -> None:
    """Write a gzip'd pax archive whose gzip header names neither a file nor a time."""
    import gzip  # noqa: PLC0415  # an ISO needs neither
    import tarfile  # noqa: PLC0415  # see above

    total = sum(item.size_bytes for item in items)
    done = 0
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for item in items:
            member = tarfile.TarInfo(item.path)
            member.mtime, member.mode, member.uname, member.gname = when, item.mode, "root", "root"
            if item.kind == "folder":
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
                continue
            member.size = item.size_bytes
            with open(item.real, "rb") as data:
                archive.addfile(member, data)
            done += item.size_bytes
            progress(done, total)


def _write_whole(output: str, write: Callable[[BinaryIO], None], tree: Tree) -> tuple[str, int]:
    """Put a new file in place by rename, and return its digest and size.

    A context may hold credentials, so a new file is the caller's alone (0600); one that is replaced keeps its mode.

    Raises:
        CannotWriteError: It can't be written.
        InvalidInputError: A file changed while it was packed.
    """
    temporary = os.path.join(os.path.dirname(output), random_name(".new-"))
    try:
        try:
            with open(temporary, "x+b", opener=_open_private) as out:
                write(out)
                if os.path.isfile(output):
                    os.fchmod(out.fileno(), os.stat(output).st_mode & 0o777)
                _refuse_changes(tree)
                out.flush()
                os.fsync(out.fileno())
                sha512, size = _digest(out)
            os.rename(temporary, output)
        except BaseException:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise CannotWriteError(f"cannot write '{output}': {error.strerror or error}") from error
    return sha512, size


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _refuse_changes(tree: Tree) -> None:
    """Refuse a file that is no longer what was measured: its bytes may be of two states."""
    for item in tree.files:
        now = os.stat(item.real)
        if (now.st_size, now.st_mtime_ns) != (item.size_bytes, item.mtime_ns):
            raise InvalidInputError(f"cannot pack '{item.path}': it changed while it was read")


def _digest(out: BinaryIO) -> tuple[str, int]:
    size = out.seek(0, os.SEEK_END)
    out.seek(0)
    digest = new_sha512(size)
    while data := out.read(CHUNK_BYTES):
        digest.update(data)
    return digest.hexdigest(), size
