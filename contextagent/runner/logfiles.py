"""The log daemons' files: put in place only if the daemon's own checker takes them, and taken back if it does not."""

from __future__ import annotations

import os
import stat as stat_bits

from contextagent import jsontext
from contextagent.collectors import Target, TargetFile, with_block, without_block
from contextagent.errors import CannotWriteError, ContextAgentError
from contextagent.runner.surroundings import LEDGER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from contextagent.host import Host

_CHECK_S = 5
_NOT_RUN = 127
_MAX_BYTES = 1 << 20
_MAX_SAID = 300
_NEW_PARENT = 0o755
_MAX_LINKS = 8


class RefusedFilesError(ContextAgentError):
    """What a daemon is told was not taken, and is not in place."""

    reason = "logging-refused"


def is_in_place(host: Host, told: Target) -> bool:
    """Return whether every file says what it should.

    Raises:
        OSError: Something else than a file of a usual size stands there.
    """
    return all(_now(host, file.path) == _wanted(host, file) for file in told.files)


def differences(host: Host, told: Target, marks: Mapping[str, Sequence[int]]) -> list[str]:
    """Return what was done to the files since they were put in place, in words: `'/etc/x' was removed`.

    Args:
        host: The machine.
        told: What the daemon is told.
        marks: What `marks_of` gave then: a file that was changed and changed back has another mark.
    """
    found: list[str] = []
    now = marks_of(host, told)
    for file in told.files:
        try:
            text = _now(host, file.path)
        except OSError:
            text = b""  # a folder, say
        if text is None:
            found.append(f"'{file.path}' was removed")
        elif not text or text != _wanted(host, file):
            found.append(f"'{file.path}' was changed")
        elif file.path in marks and now[file.path] != list(marks[file.path]):
            found.append(f"'{file.path}' was written to")
    return found


def clear(host: Host, told: Target) -> None:
    """Remove what somebody put in the place of a file that is ours alone: a folder, a pipe.

    Raises:
        CannotWriteError: It can't be removed.
    """
    for file in (each for each in told.files if not each.is_block):
        folder = os.path.dirname(file.path)
        if host.files.exists(folder) and not os.path.isdir(host.files.real(folder)):
            host.files.remove(folder)
        try:
            _now(host, file.path)
        except OSError:
            host.files.remove(file.path)


def marks_of(host: Host, told: Target) -> dict[str, list[int]]:
    """Return inode and time of change of every file, which nobody can set as they were; zeros where there is none."""
    return {file.path: _mark(host, file.path) for file in told.files}


def neighbours(host: Host, told: Target, watched: Sequence[str]) -> dict[str, list[int]]:
    """Return the marks of what else a daemon's configuration consists of: others' files, which can undo what ours say.

    Args:
        host: The machine.
        told: What the daemon is told.
        watched: Paths, or globs of one folder (`collectors.Daemon.ASKED`).
    """
    ours = {file.path for file in told.files}
    return {path: _mark(host, path) for path in expanded(host, watched) if path not in ours}


def expanded(host: Host, paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths, and for a glob of one folder (`/etc/x.d/*.conf`) the files there with that ending."""
    for path in paths:
        folder, star, ending = path.partition("*")
        if star:
            yield from (f"{folder}{each.name}" for each in host.files.folder(folder) if each.name.endswith(ending))
        else:
            yield path


def strangers(before: Mapping[str, Sequence[int]], now: Mapping[str, Sequence[int]]) -> list[str]:
    """Return, in words, which of others' files were put there, changed or removed."""
    return [
        f"'{path}' was changed" for path in sorted({*before, *now}) if list(before.get(path, ())) != now.get(path, [])
    ]


def changed_ns(host: Host, told: Target) -> int:
    """Return when the files were last changed, by the clock that goes forward, as far as the other can be trusted."""
    return max(mark[1] for mark in marks_of(host, told).values()) - (host.utc_ns() - host.mono_ns())


def install(host: Host, told: Target) -> str:
    """Put all of a daemon's files in place, or leave nothing of ours there, also of an earlier boot's.

    Returns:
        Why the daemon's whole configuration is not accepted, though ours is: the image's own fault; else empty.

    Raises:
        RefusedFilesError: The checker does not take them.
        ContextAgentError: They can't be written, or the checker can't be run.
    """
    try:
        for file in told.files:
            _now(host, file.path)
        return _installed(host, told)
    except OSError as error:
        raise failed(told, error) from error


def failed(told: Target, error: OSError) -> CannotWriteError:
    """Return what the kernel says of a daemon's files, as an error of ours."""
    message = f"cannot set up '{told.daemon}': '{error.filename or told.files[0].path}': {error.strerror or error}"
    return CannotWriteError(message, reason="logging-failed")


def _installed(host: Host, told: Target) -> str:
    try:
        for file in told.files:
            _write(host, file, _wanted(host, file), told)
        said = "" if host.is_caller else _refusal(host, told.check)
    except (OSError, ContextAgentError):
        take_back(host, told)
        raise
    if not said:
        return ""
    take_back(host, told)
    if not told.check_alone or not _refusal(host, told.check):
        message = f"cannot set up '{told.daemon}': its checker says: {said}"
        raise RefusedFilesError(message)
    for file in told.files:
        _write(host, file, _wanted(host, file), told)
    return said


def take_back(host: Host, told: Target) -> bool:
    """Leave nothing of ours in a daemon's files; what can't be done is left, since the first error is the one to tell.

    Returns:
        Whether there was anything of ours.
    """
    was_there = False
    for file in told.files:
        try:
            _check_way(host, os.path.dirname(file.path))
            text = _now(host, file.path)
            if text is None:
                continue
            if file.is_block:
                kept = without_block(text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
                if kept == text:
                    continue
                _put(host, file, kept)
            else:
                os.unlink(host.files.real(file.path))
            was_there = True
        except (OSError, CannotWriteError):
            continue
    return was_there


def placed(host: Host) -> dict[str, Target]:
    """Return what daemons were told by earlier boots and phases, by name; only what is needed to take it back."""
    try:
        entries = jsontext.loads(host.files.read(LEDGER, max_bytes=_MAX_BYTES))
        return {name: _entry(name, entry) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _entry(name: str, entry: Mapping[str, Any]) -> Target:
    files = tuple(TargetFile(path=path, text="", is_block=is_block) for path, is_block in entry["files"])
    return Target(daemon=name, files=files, take_up=tuple(entry["take_up"]), process=entry["process"])


def remember(host: Host, told: Target, *, is_placed: bool) -> None:
    """Remember that a daemon's files are in place, or that they are not any more.

    Raises:
        CannotWriteError: The disk refuses.
    """
    known = placed(host)
    before = dict(known)
    known.pop(told.daemon, None)
    if is_placed:
        known[told.daemon] = _entry(told.daemon, _plain(told))
    if known == before:
        return
    if known:
        text = jsontext.dumps({name: _plain(each) for name, each in known.items()}).encode()
        host.files.make_folder(os.path.dirname(LEDGER))
        host.files.write(LEDGER, text, durable=True)
    else:
        host.files.remove(LEDGER)


def _plain(told: Target) -> dict[str, Any]:
    files = [[file.path, file.is_block] for file in told.files]
    return {"files": files, "take_up": list(told.take_up), "process": told.process}


def _write(host: Host, file: TargetFile, text: bytes, told: Target) -> None:
    """Write a file aside, let the checker judge it by itself where it can, and put it in place.

    Raises:
        RefusedFilesError: The checker does not take it.
        CannotWriteError: It can't be written.
        OSError: Likewise.
    """
    aside = _put_aside(host, file, text)
    argv = [host.files.real(aside) if word == "{file}" else word for word in told.check_alone]
    try:
        if not file.is_block and (said := _refusal(host, argv)):
            message = f"cannot set up '{told.daemon}': its checker says: {said}"
            raise RefusedFilesError(message)
        host.files.rename(aside, file.path)
    except (OSError, ContextAgentError):
        _unlink(host, aside)
        raise


def _put(host: Host, file: TargetFile, text: bytes) -> None:
    host.files.rename(_put_aside(host, file, text), file.path)


def _put_aside(host: Host, file: TargetFile, text: bytes) -> str:
    """Return the path of a new file beside the one that it will replace, with that one's mode and owner."""
    folder, _, name = file.path.rpartition("/")
    _check_way(host, folder)
    _make_parent(host, folder)
    aside = f"{folder}/.{name}.contextagent-new"  # always this name: what a killed agent leaves is replaced
    _unlink(host, aside)
    others = _others(host, file)
    try:
        host.files.create(aside, (text,), mode=others.st_mode & 0o7777 if others else file.mode)
        if others:
            os.chown(host.files.real(aside), others.st_uid, others.st_gid)
    except (OSError, CannotWriteError):
        _unlink(host, aside)  # a full disk may have taken a part of it
        raise
    return aside


def _unlink(host: Host, path: str) -> None:
    try:
        os.unlink(host.files.real(path))
    except FileNotFoundError:
        return


def _check_way(host: Host, folder: str) -> None:
    """Refuse a way through a link: below another root any, since it could lead out; else one that root did not make.

    Raises:
        CannotWriteError: There is such a link.
    """
    at = ""
    for part in folder.split("/")[1:]:
        at = f"{at}/{part}"
        try:
            found = os.lstat(host.files.real(at))
        except FileNotFoundError:
            return
        if stat_bits.S_ISLNK(found.st_mode) and (host.is_caller or found.st_uid != 0):
            message = f"cannot write below '{folder}': '{at}' is a link"
            raise CannotWriteError(message, reason="through-link")


def resolved(host: Host, path: str) -> str:
    """Return the path of the file that a link in the place of a file of others leads to, within the root."""
    for _ in range(_MAX_LINKS):
        try:
            target = os.readlink(host.files.real(path))
        except OSError:
            break
        path = os.path.normpath(target if target.startswith("/") else f"{os.path.dirname(path)}/{target}")
    return path


def _make_parent(host: Host, folder: str) -> None:
    """Make a folder where there is none; one that could be made in part only is not left for the next run to find."""
    real = host.files.real(folder)
    if os.path.isdir(real):
        return
    try:
        host.files.make_folder(folder, _NEW_PARENT)
    except CannotWriteError:
        if os.path.isdir(real):
            os.rmdir(real)
        raise


def _others(host: Host, file: TargetFile) -> os.stat_result | None:
    """Return the status of a file that is not ours alone; None where it is, or is not there."""
    try:
        found = os.lstat(host.files.real(file.path))
    except FileNotFoundError:
        return None
    return found if file.is_block and stat_bits.S_ISREG(found.st_mode) else None


def _refusal(host: Host, argv: Sequence[str]) -> str:
    """Return what a checker says against the configuration; empty where it accepts it, or there is none.

    Raises:
        ContextAgentError: It can't be run now, which says nothing of the configuration.
    """
    if not argv:
        return ""
    done = host.run(argv, timeout_s=_CHECK_S, leaves_nothing=True)
    if done.is_ok:
        return ""
    if done.exit_code == _NOT_RUN:
        message = f"cannot run '{argv[0]}': {done.text() or 'there is no such program'}"
        raise ContextAgentError(message, reason="logging-failed")
    if done.is_timeout:
        return f"nothing within {_CHECK_S} s"
    said = ""
    for line in reversed(done.text().splitlines()):  # the end of it, from the beginning of a line
        said = f"{' '.join(line.split())} {said}".strip() if len(line) + len(said) < _MAX_SAID else said
    end = f"exit code {done.exit_code}" if done.signal is None else f"signal {done.signal}"
    return said or f"nothing, and ends by {end}"


def _wanted(host: Host, file: TargetFile) -> bytes:
    if not file.is_block:
        return file.text.encode("utf-8", "surrogateescape")
    current = (_now(host, file.path) or b"").decode("utf-8", "surrogateescape")
    return with_block(current, file.text).encode("utf-8", "surrogateescape")


def _now(host: Host, path: str) -> bytes | None:
    """Return a file's text; None where there is none, or a link.

    Raises:
        OSError: It is no regular file, or too large to be a configuration.
    """
    try:
        return host.files.read(path, max_bytes=_MAX_BYTES)
    except FileNotFoundError:
        return None


def _mark(host: Host, path: str) -> list[int]:
    try:
        found = os.lstat(host.files.real(path))
    except OSError:
        return [0, 0]
    return [found.st_ino, found.st_ctime_ns]
