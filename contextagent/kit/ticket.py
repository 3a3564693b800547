"""What a site admin sends in a ticket: how the last boots went, in one archive, and nothing that is anybody's secret.

Left out on purpose: scripts and their outputs, context.sh, user data, the remembered state as it is, keys.  Each piece
is gathered by itself, so that a machine on which half of it is broken still gives the other half, and says what it
could not give.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import tarfile
import time
from functools import partial
from typing import TypeVar

from contextagent import __version__, jsontext
from contextagent.collectors import DAEMONS
from contextagent.collectors import load as load_daemon
from contextagent.digests import new_sha512
from contextagent.errors import CannotWriteError, ContextAgentError, UsageError
from contextagent.features.values import JOB_FEATURES, JOB_OUTPUTS, MACHINE_FEATURES
from contextagent.host.files import NEW, random_name
from contextagent.kit.withheld import Secrets, secrets_of, told
from contextagent.model import Value
from contextagent.policy.settings import hear, load_image_policy
from contextagent.runner.journal import LOGS
from contextagent.runner.state import HOME, load
from contextagent.runner.status import status_path
from contextagent.trace.records import rfc3339
from contextagent.trace.verify import Verifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from contextagent.host import Host
    from contextagent.model import Supply
    from contextagent.policy.settings import Settings
    from contextagent.runner.state import State

_T = TypeVar("_T")
MAX_BYTES = 64 << 20
"""Of all pieces together, before they are packed; the oldest traces and receipts stay out where it is less than all."""
_MAX_PIECE_BYTES = 16 << 20
_MAX_LISTED = 20_000
_TOOL_S = 10.0
_FOLDER = "contextagent-logs"
_ENDINGS = (".tar.gz", ".tgz")
_LISTED = (
    *("/etc/contextagent", HOME, LOGS, "/var/lib/hepix", "/var/lib/amiconfig", MACHINE_FEATURES),
    *(JOB_FEATURES, JOB_OUTPUTS, "/etc/rsyslog.d", "/etc/syslog-ng/conf.d", "/etc/audit/rules.d"),
    *("/etc/systemd/journald.conf.d", "/etc/systemd/journal-upload.conf.d", "/etc/rsyslog.conf", "/etc/syslog.conf"),
)
UNITS = ("contextagent-pre-network.service", "contextagent.service")
OWN_WORDS = " + ".join(
    (
        *(f"_SYSTEMD_UNIT={unit} _TRANSPORT=stdout SYSLOG_IDENTIFIER=contextagent" for unit in UNITS),
        *(f"_PID=1 UNIT={unit}" for unit in UNITS),
    )
).split()
"""What the journal is asked for: the agent's own lines, and systemd's of its units, not what scripts logged there."""
_SHOWN = (
    "Id,LoadState,UnitFileState,ActiveState,SubState,Result,ExecMainStatus,ExecMainStartTimestamp,ExecMainExitTimestamp"
)
_README = """What `contextagent collect-logs` found on this machine.

versions.json      agent, kernel, distribution, this boot
status.json        how this boot went; status.txt and explain.txt tell the same to people
settings.json      every setting and who set it; a free text is told by its length
memory.json        what is remembered of this instance, without what its contexts brought
traces/            records of the last boots, as they are; verify.json says whether they are whole
receipts/          one boot in one page
logging/           what the log daemons were told
files.txt          modes, owners and names of the agent's files, never what is in them
units.txt          state of the agent's units, and journal.txt what they said

Not in it: scripts and their outputs, context.sh, user data, keys, certificates. What looks like a secret, and every
value that a context brought, reads [masked]. Look through it before you send it.
"""


class Ticket(Value):
    """What was collected.

    Attributes:
        path: The archive.
        size_bytes: Its size; `sha512` its digest.
        pieces: Names of what is in it, in order.
        missing: What could not be had, and why.
    """

    path: str
    size_bytes: int
    sha512: str
    pieces: tuple[str, ...]
    missing: tuple[str, ...]


def collect(
    host: Host, path: str, say: Mapping[str, Callable[[], str]], *, policy_override: str | None = None
) -> Ticket:
    """Write the archive, and return what is in it.

    Args:
        host: The machine.
        path: Where to, on the caller's side; nothing may be there yet.
        say: Name of a piece to what makes its text.
        policy_override: As for every command.

    Raises:
        UsageError: The name has another ending.
        CannotWriteError: It can't be written, or something is there already; nothing of it is left.
    """
    if not path.endswith(_ENDINGS):
        raise UsageError(f"cannot write '{path}': the name does not end in .tar.gz")
    if os.path.lexists(path):
        raise _taken(path)
    gathering = _Gathering(host, policy_override)
    temporary = os.path.join(os.path.dirname(path), random_name(NEW))
    try:
        try:
            with open(temporary, "x+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
                pieces = _write(out, gathering, say)
                out.flush()
                os.fsync(out.fileno())
                size, sha512 = _digest(out)
            _put(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except OSError as error:
        raise CannotWriteError(f"cannot write '{path}': {error.strerror or error}") from error
    return Ticket(path=path, size_bytes=size, sha512=sha512, pieces=pieces, missing=tuple(gathering.missing))


def _taken(path: str) -> CannotWriteError:
    return CannotWriteError(f"cannot write '{path}': it is there already", hint="name another file, or remove that one")


def _put(temporary: str, path: str) -> None:
    """Give the archive its name, unless somebody has taken that since."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise _taken(path) from None
        os.rename(temporary, path)


def _digest(out: BinaryIO) -> tuple[int, str]:
    digest = new_sha512()
    out.seek(0)
    while data := out.read(1 << 20):
        digest.update(data)
    return out.tell(), digest.hexdigest()


def _write(out: BinaryIO, gathering: _Gathering, say: Mapping[str, Callable[[], str]]) -> tuple[str, ...]:
    """Write the pieces one after the other, as far as there is room for them, and return their names."""
    now_s, left, names = int(time.time()), MAX_BYTES, list[str]()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=now_s) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in gathering.pieces(say):
            if len(data) > left:
                gathering.missing.append(f"{name}: no room for it in {MAX_BYTES >> 20} MiB")
                continue
            left -= len(data)
            names.append(name)
            member = tarfile.TarInfo(f"{_FOLDER}/{name}")
            member.size, member.mtime, member.mode = len(data), now_s, 0o600
            archive.addfile(member, io.BytesIO(data))
    return tuple(names)


class _Gathering:
    """Gathers the pieces; what can't be had is in `missing`."""

    def __init__(self, host: Host, policy_override: str | None) -> None:
        self._host = host
        self._policy_override = policy_override
        self.missing: list[str] = []

    def pieces(self, say: Mapping[str, Callable[[], str]]) -> Iterator[tuple[str, bytes]]:
        """Yield each piece's name and bytes, in an order that is always the same."""
        state = self._had("memory.json", lambda: load(self._host))
        settings = self._had("settings.json", lambda: self._settings(state))
        secrets = secrets_of(state, settings)
        yield "README", _README.encode()
        yield "versions.json", _json(self._versions())
        yield from self._piece("status.json", partial(self._masked_json, secrets, status_path(self._host)))
        for name, text in say.items():
            yield from self._piece(name, partial(_masked, secrets, text))
        if settings:
            yield "settings.json", _json(secrets.value(told(settings)))
        if state:
            yield "memory.json", _json(secrets.value(_memory(state)))
        found = self._had("traces", self._logs)
        logs = found or []
        traces = [name for name in logs if name.startswith("trace-")]
        for name in traces:
            yield from self._piece(f"traces/{name}", partial(self._read, f"{LOGS}/{name}"))
        if found is not None:
            yield from self._piece("verify.json", partial(self._verified, traces))
        for name in (name for name in logs if name.startswith("receipt-")):
            yield from self._piece(f"receipts/{name}", partial(self._masked_json, secrets, f"{LOGS}/{name}"))
        for path in self._had("logging", self._told) or ():
            yield from self._piece(f"logging{path}", partial(_masked, secrets, partial(self._text, path)))
        yield from self._piece("files.txt", partial(_masked, secrets, self._listed))
        yield from self._piece("units.txt", partial(_masked, secrets, self._units))
        yield from self._piece("journal.txt", partial(_masked, secrets, self._journal))
        yield "missing.txt", secrets.text("".join(f"{line}\n" for line in self.missing)).encode()

    def _had(self, name: str, get: Callable[[], _T]) -> _T | None:
        """Return what can be had; None, and why, of what can't: whatever is broken, the rest is still worth having."""
        try:
            return get()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ContextAgentError) as error:
            cause = getattr(error, "strerror", None) or str(error)
            self.missing.append(f"{name}: {cause or type(error).__name__}")
            return None

    def _piece(self, name: str, get: Callable[[], bytes]) -> Iterator[tuple[str, bytes]]:
        data = self._had(name, get)
        if data is not None:
            yield name, data

    def _read(self, path: str) -> bytes:
        return self._host.files.read(path, max_bytes=_MAX_PIECE_BYTES)

    def _masked_json(self, secrets: Secrets, path: str) -> bytes:
        return secrets.json(self._read(path))

    def _versions(self) -> dict[str, object]:
        system = (self._had("os-release", self._system) or b"").decode("utf-8", "replace")
        uid, gid = self._host.caller()
        return {
            "agent": __version__,
            "python": sys.version,
            "kernel": self._host.kernel_release(),
            "machine": os.uname().machine,
            "system": [line for line in system.splitlines() if line.startswith(("NAME=", "VERSION=", "ID="))],
            "boot_id": self._had("boot_id", self._host.boot_id),
            "utc": rfc3339(self._host.utc_ns()),
            "mono_ns": self._host.mono_ns(),
            "is_clock_synchronised": self._host.is_clock_synchronised(),
            "root": self._host.root,
            "caller": {"uid": uid, "gid": gid},
        }

    def _system(self) -> bytes:
        """Return what the distribution says of itself; in /etc stands a link to it, where it is no file of its own."""
        is_file = self._host.files.exists("/usr/lib/os-release")
        return self._read("/usr/lib/os-release" if is_file else "/etc/os-release")

    def _settings(self, state: State | None) -> Settings:
        image = load_image_policy(self._host, self._policy_override, may_write=False)
        return (hear(image, state.supplies, state.layers) if state else hear(image, {})).settings

    def _logs(self) -> list[str]:
        """Return the names of traces and receipts, the newest first."""
        entries = [entry for entry in self._host.files.folder(LOGS) if entry.name.startswith(("trace-", "receipt-"))]
        self.missing += [f"{LOGS}/{each.name}: it is no regular file" for each in entries if each.kind != "file"]
        ours = [each.name for each in entries if each.kind == "file" and not each.name.endswith(NEW)]
        return sorted(ours, key=lambda name: (-self._host.files.changed_ns(f"{LOGS}/{name}"), name))

    def _told(self) -> list[str]:
        """Return the files of our own that log daemons have."""
        paths = [str(getattr(load_daemon(name), "PATH", "")) for name in DAEMONS]
        return [path for path in paths if "contextagent" in path and self._host.files.exists(path)]

    def _text(self, path: str) -> str:
        return self._read(path).decode("utf-8", "backslashreplace")

    def _verified(self, traces: list[str]) -> bytes:
        verifier = Verifier()
        for name in reversed(traces):
            verifier.feed(self._host.files.chunks(f"{LOGS}/{name}", max_bytes=1 << 40))
        report = verifier.report()
        boots = [{**boot.as_dict(), "fault": boot.fault and boot.fault.as_dict()} for boot in report.boots]
        return _json({"boots": boots, "foreign": report.foreign, "damaged": report.damaged})

    def _listed(self) -> str:
        """Return the agent's files as `ls -l` shows them, one a line."""
        lines: list[str] = []
        waiting = list(reversed((*_LISTED, self._host.run_folder)))
        while waiting and len(lines) < _MAX_LISTED:
            path = waiting.pop()
            try:
                found = os.lstat(self._host.files.real(path))
                inside = self._host.files.folder(path) if stat.S_ISDIR(found.st_mode) else []
            except OSError as error:
                lines.append(f"{path}: {error.strerror}")
                continue
            waiting += [f"{path}/{entry.name}" for entry in reversed(inside)]
            target = f" -> {os.readlink(self._host.files.real(path))}" if stat.S_ISLNK(found.st_mode) else ""
            when = rfc3339(found.st_mtime_ns)
            owner = f"{found.st_uid}:{found.st_gid}"
            lines.append(f"{stat.filemode(found.st_mode)} {owner:>11} {found.st_size:>10} {when} {path}{target}")
        return "".join(f"{line}\n".encode("unicode_escape").decode().replace("\\n", "\n") for line in lines)

    def _units(self) -> str:
        """Return the state of the agent's units as systemd tells it."""
        return self._tool("systemctl", "--no-pager", "show", f"--property={_SHOWN}", *UNITS)

    def _journal(self) -> str:
        """Return what the agent itself said in this boot, and systemd of it."""
        return self._tool("journalctl", "--no-pager", "--boot", "--lines=10000", *OWN_WORDS)

    def _tool(self, *argv: str) -> str:
        """Return what a system tool says.

        Raises:
            OSError: It is not there, failed, or took too long; or the machine is another than the one it speaks of.
        """
        if self._host.is_caller:
            raise OSError(0, f"not asked of below --root: {argv[0]} speaks of this machine")
        done = self._host.run(argv, timeout_s=_TOOL_S, max_output_bytes=_MAX_PIECE_BYTES)
        if not done.is_ok:
            raise OSError(0, f"{argv[0]}: {done.text().strip()[:200] or 'not there, or too slow'}")
        return done.text()


def _masked(secrets: Secrets, get: Callable[[], str]) -> bytes:
    return secrets.text(get()).encode("utf-8", "backslashreplace")


def _json(value: object) -> bytes:
    return jsontext.dumps(value, indent=2).encode()


def _memory(state: State) -> dict[str, object]:
    """Return what is remembered, without anything that a context brought but names and digests."""
    return {
        "instance_id": state.instance_id,
        "boot_id": state.boot_id,
        "damage": state.damage,
        "ids": dict(state.ids),
        "phases": {phase: dict(facts) for phase, facts in state.phases.items()},
        "supplies": {owner: supply and _supply(supply) for owner, supply in state.supplies.items()},
        "late": list(state.late),
        "once": {step: list(marker) for step, marker in state.once.items()},
        "folders": dict(state.folders),
        "has_met_service": state.has_met_service,
        "last": dict(state.last),
        "logging": dict(state.logging),
    }


def _supply(supply: Supply) -> dict[str, object]:
    return {
        "source": supply.source,
        "trust": supply.trust,
        "digest": supply.digest,
        "scripts": [script.id for script in supply.scripts],
        "files": [placed.target for placed in supply.files],
        "companions": len(supply.companions),
        "variables": sorted(supply.variables),
        "user_data": supply.user_data,
    }
