"""The trace's file: `/var/log/contextagent/trace-<boot_id>.jsonl`, appended and made durable before what it speaks of.

Whatever happens to this process or to the disk, the file holds a chain that verifies.  A line that was not written
whole is taken back, at once or by the next process; a record that can't be written goes to the console, and is counted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat as stat_bits
import time

from contextagent import jsontext
from contextagent.digests import sha256_hex
from contextagent.errors import CannotWriteError
from contextagent.host.files import random_name, write_all
from contextagent.model import Problem, Value
from contextagent.runner import reserve
from contextagent.trace.chain import GENESIS, Chain
from contextagent.trace.records import MAX_LINE_BYTES, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from contextagent.host import Host

LOGS = reserve.LOGS
MAX_BYTES = 64 << 20
_LOCK_PATIENCE_S = 5.0
_LOCK_STEP_S = 0.002
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Tail(Value):
    """Where a trace file's chain ends.

    Attributes:
        seq: Of the last line; 0 in an empty file.
        head: The last line's hash.
        end_bytes: Where the last whole line ends; what lies behind it was not written whole.
        damaged: How many lines at the end are no records.
    """

    seq: int = 0
    head: str = GENESIS
    end_bytes: int = 0
    damaged: int = 0


def trace_path(boot_id: str) -> str:
    """Return the guest path of a boot's trace."""
    return f"{LOGS}/trace-{_name(boot_id)}.jsonl"


def receipt_path(boot_id: str) -> str:
    """Return the guest path of a boot's receipt."""
    return f"{LOGS}/receipt-{_name(boot_id)}.json"


def _name(boot_id: str) -> str:
    """Return a boot id as a part of a file's name; what is none can't lead out of the folder."""
    return "".join(char if (char.isascii() and char.isalnum()) or char in "-_" else "_" for char in boot_id[:64])


def read_records(host: Host, boot_id: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a boot's trace in order, at most 64 MiB of them; none where there is no trace.

    Lines that are no records are passed over: `contextagent trace verify` names them.
    """
    rest = b""
    try:
        for data in host.files.chunks(trace_path(boot_id), max_bytes=MAX_BYTES):
            *lines, rest = (rest[:MAX_LINE_BYTES] + data).split(b"\n")
            yield from (record for record in map(decode, lines) if record)
    except OSError:
        return  # what can't be read is not known; a boot goes on with what it has


def last_record(host: Host, boot_id: str) -> dict[str, object] | None:
    """Return {`boot`, `seq`, `hash`} of a boot's last record, as the next boot's first names it; None if unknown."""
    try:
        fd = os.open(host.files.real(trace_path(boot_id)), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        tail = _tail(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return {"boot": boot_id, "seq": tail.seq, "hash": tail.head} if tail.seq else None


class Journal:
    """One process's hold on the trace of this boot; several processes may each have one.

    Attributes:
        is_full: Whether a record could not be made durable; where the policy says `trace.on_full: strict`,
            the plan withholds the user's scripts then.
        lost: How many records could not be written at all.
        problems: What went wrong, for the status.
    """

    def __init__(self, host: Host, *, instance_id: str, image: str, on_full: str) -> None:
        self._host = host
        self._boot_id = host.boot_id()
        self._path = trace_path(self._boot_id)
        self._on_full = on_full
        self._chain = Chain(boot=self._boot_id, inst=instance_id, img=image)
        self._fd = -1
        self._end_bytes = -1
        self._is_dirty = False
        self._patience_s = _LOCK_PATIENCE_S
        self.is_full = False
        self.lost = 0
        self.problems: list[Problem] = []

    @classmethod
    def open(cls, host: Host, *, instance_id: str, image: str = "", on_full: str = "degrade") -> Journal:
        """Return the journal of this boot, its chain taken up where the file's last whole line left it.

        It always comes back: where the file can't be had, every record goes to the console and `is_full` is set.

        Args:
            host: The machine.
            instance_id: Named in every record.
            image: Identifier of the image, named in every record; empty when unknown.
            on_full: The setting `trace.on_full`: what the console says will happen.
        """
        journal = cls(host, instance_id=instance_id, image=image, on_full=on_full)
        try:
            journal._open()
        except (OSError, CannotWriteError) as error:
            journal._degrade(error)
        return journal

    @property
    def seq(self) -> int:
        """Number of the last record; 0 before the first of this boot."""
        return self._chain.seq

    @property
    def head(self) -> str:
        """Hash of the last record's line; 64 zeros before the first."""
        return self._chain.head

    def record(self, ev: str, *, is_durable: bool = True, **fields: object) -> bool:
        """Append one record, and return whether it is durable; where it can't be written, the console gets it.

        Args:
            ev: An event of `trace.records.RECORDS`.
            is_durable: Whether it must survive a power cut from here on; else True means written, and `sync` follows.
            fields: The event's own keys.

        Raises:
            ValueError: There is no such event, or it has no such key: a bug of the caller.
        """
        try:
            self._append(ev, fields)
        except (OSError, CannotWriteError) as error:
            self._degrade(error)
            self.lost += 1
            self._host.announce(f"trace: {ev} {jsontext.dumps(fields)[:800]}")
            return False
        return self.sync() if is_durable else True

    def sync(self) -> bool:
        """Make every record written so far durable, and return whether they are."""
        if not self._is_dirty:
            return not self.is_full
        try:
            self._datasync()
        except OSError as error:
            self._degrade(error)
            return False
        self._is_dirty = False
        return True

    def anchor(self) -> bool:
        """Record where the chain stands, and put it on the console, whose log the hypervisor keeps.

        Returns:
            As `record` does.
        """
        is_durable = self.record("anchor", head=self.head, lost=self.lost)
        self._host.announce(f"trace: anchor {self._boot_id} {self.seq} {self.head}")
        return is_durable

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield this boot's records as they stand in the file."""
        return read_records(self._host, self._boot_id)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, ev: str, fields: Mapping[str, object]) -> None:
        """Write one record behind whatever the file holds by now.

        Raises:
            OSError, CannotWriteError: The disk refuses; nothing of the record is in the file.
        """
        if self._fd < 0:
            self._open()
        host = self._host
        self._lock()
        try:
            self._put_back()
            if os.fstat(self._fd).st_size != self._end_bytes:
                self._take_up()
            now_ns, mono_ns, is_sync = host.utc_ns(), host.mono_ns(), host.is_clock_synchronised()
            self._put(self._chain.line(ev, fields, utc_ns=now_ns, mono_ns=mono_ns, sync=is_sync))
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _open(self) -> None:
        """Open or make the file, and take up its chain.

        Raises:
            OSError: As the kernel says it.
            CannotWriteError: The folder can't be made.
        """
        files = self._host.files
        is_first_boot = not files.exists(LOGS)
        files.make_folder(LOGS)
        if is_first_boot:
            files.sync_folder(os.path.dirname(LOGS))
        self._fd = self._file() if self._is_ours() else self._set_aside()
        os.fchmod(self._fd, 0o600)
        self._lock()
        try:
            if os.fstat(self._fd).st_size == 0:
                reserve.give_back_older(self._host)
                reserve.reserve(self._host, self._fd)
                files.sync_folder(LOGS)
            self._take_up()
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _file(self) -> int:
        return os.open(self._host.files.real(self._path), _FLAGS, 0o600)

    def _is_ours(self) -> bool:
        """Return whether the trace's name is free, or a regular file's."""
        try:
            return stat_bits.S_ISREG(os.lstat(self._host.files.real(self._path)).st_mode)
        except FileNotFoundError:
            return True

    def _set_aside(self) -> int:
        """Return the trace's file, made anew; what stood in its place (a link, a folder) is kept under another name."""
        aside = f"{LOGS}/{random_name('.set-aside-')}"
        self._host.files.rename(self._path, aside)
        self._warn("trace-replaced", f"cannot append to '{self._path}': it is no regular file, moving it to '{aside}'")
        return self._file()

    def _put_back(self) -> None:
        """Give the trace its name back, where a script with root's rights took it away or put another file there."""
        files, ours = self._host.files, os.fstat(self._fd)
        try:
            if os.path.samestat(os.lstat(files.real(self._path)), ours) or not stat_bits.S_ISREG(ours.st_mode):
                return
            files.rename(self._path, f"{LOGS}/{random_name('.set-aside-')}")
        except FileNotFoundError:
            pass
        files.make_folder(LOGS)
        files.create(self._path, (os.pread(self._fd, 1 << 16, at) for at in range(0, ours.st_size, 1 << 16)))
        aside, self._fd = self._fd, self._file()
        os.close(aside)
        self._lock()
        reserve.reserve(self._host, self._fd)
        self._warn("trace-deleted", f"cannot find '{self._path}': it was taken away, putting a copy there")

    def _lock(self) -> None:
        """Hold the trace against other writers.

        The lock is the trace's own, and a record is a matter of microseconds; a writer that was stopped while it held
        the lock costs the boot five seconds, once.

        Raises:
            OSError: Another process does not let go of it.
        """
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._patience_s <= 0:
                    raise
                self._patience_s -= _LOCK_STEP_S
                time.sleep(_LOCK_STEP_S)
            else:
                return

    def _take_up(self) -> None:
        """Take the chain up where the file ends: another process wrote, or a line was not written whole."""
        tail = _tail(self._fd)
        if os.fstat(self._fd).st_size != tail.end_bytes:
            os.ftruncate(self._fd, tail.end_bytes)
            reserve.reserve(self._host, self._fd)  # cutting a file gives back what was reserved behind it
        if tail.damaged:
            self._warn(
                "trace-damaged", f"cannot read record {tail.seq} of '{self._path}', continuing the chain behind it"
            )
        self._end_bytes = tail.end_bytes
        if tail.seq < self._chain.seq:  # whoever has got the records that are gone can still verify the chain
            self._warn("trace-cut", f"cannot find the last records of '{self._path}', continuing the chain behind them")
            return
        self._chain.seq, self._chain.head = tail.seq, tail.head

    def _put(self, line: bytes) -> None:
        """Write one line whole, or leave nothing of it.

        Raises:
            OSError: The disk refuses it, also after the reserve was given up.
        """
        try:
            self._write(line)
        except OSError:
            if not reserve.give_up(self._host):
                raise
            self._write(line)
        self._end_bytes += len(line)
        self._is_dirty = True
        self._chain.add(line)

    def _write(self, line: bytes) -> None:
        try:
            write_all(self._fd, line)
        except OSError:
            self._take_back()
            raise

    def _take_back(self) -> None:
        """Cut off what was written of a line; where even that fails, the next record's `_take_up` tries again."""
        try:
            os.ftruncate(self._fd, self._end_bytes)
        except OSError:
            return

    def _datasync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError:
            if not reserve.give_up(self._host):
                raise
            os.fdatasync(self._fd)

    def _degrade(self, error: OSError | CannotWriteError) -> None:
        """Say once, on the console and in the status, that the trace is not whole."""
        if not self.is_full:
            self.is_full = True
            cause = str(error) if isinstance(error, CannotWriteError) else error.strerror or error
            then = "running no user script" if self._on_full == "strict" else "putting its records on the console"
            self._warn("trace-full", f"cannot write '{self._path}': {cause}, {then}")

    def _warn(self, reason: str, message: str) -> None:
        self.problems.append(Problem(reason=reason, message=message))
        self._host.announce(message)


def _tail(fd: int) -> Tail:
    """Return where the chain of a trace file ends, reading as little of it as will do.

    Raises:
        OSError: It can't be read, or holds no record within the last 64 MiB (EFBIG).
    """
    size_bytes = os.fstat(fd).st_size
    window_bytes = 2 * MAX_LINE_BYTES
    while True:
        start = max(size_bytes - window_bytes, 0)
        whole, line_feed, _ = os.pread(fd, size_bytes - start, start).rpartition(b"\n")
        lines = whole.split(b"\n")[1 if start else 0 :] if line_feed else []
        for damaged, line in enumerate(reversed(lines)):
            record = decode(line)
            if record:
                return _end(lines, start + len(whole) + 1, seq=record["seq"] + damaged, damaged=damaged)
        if not start:
            return _end(lines, len(whole) + 1, seq=len(lines), damaged=len(lines)) if lines else Tail()
        window_bytes *= 8
        if window_bytes > MAX_BYTES:
            raise OSError(errno.EFBIG, "no record in its last 64 MiB")


def _end(lines: list[bytes], end_bytes: int, *, seq: int, damaged: int) -> Tail:
    return Tail(seq=seq, head=sha256_hex(lines[-1]), end_bytes=end_bytes, damaged=damaged)
