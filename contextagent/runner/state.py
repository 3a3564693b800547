"""What the agent remembers of an instance: who it is, what it was given, what has run.

The trace is the log that is written ahead: a script's `start` is durable there before it runs.  This state is the
checkpoint, written whole and durably at a phase's start and end; `fold` brings what the trace knows since into it.
So a script costs no state file of its own, and a killed agent forgets nothing.
"""

from __future__ import annotations

import os

from contextagent import jsontext
from contextagent.digests import new_sha512, sha256_hex
from contextagent.errors import CannotWriteError
from contextagent.host.files import NEW, random_name
from contextagent.model import Kept, LoginKey, PlacedFile, Problem, Script, Supply, Value, Verdict
from contextagent.runner.reserve import LOGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from contextagent.host import Host
    from contextagent.model import Owner

LENT = "scripts"
"""Below `Host.run_folder`: where an account that can't reach into the agent's state gets a copy of its script."""
LOCK = "lock"
"""Below it, too: what a run holds; the one file that stays, since another process may wait for it."""
DISK = "disk-"
"""How the names of folders begin, below it as well, in which a disk is mounted for a moment."""
_BOOT = "boot_id"
HOME = "/var/lib/contextagent"
INSTANCES = f"{HOME}/instances"
KEPT = "context/kept-"
"""Where in an instance's folder payloads stand that are kept and not run; the owner follows."""
SCHEMA = 1
MAX_BYTES = 64 << 20
_HEAD, _TAIL = b'{"schema":%d,"sha256":"%s","state":', b"}\n"
"""What stands around the state: the digest is over the very bytes between, so that nothing need be written twice."""


class State(Value):
    """An instance's memory.

    Attributes:
        ids: Every id known of the instance, by kind.
        boot_id: The boot that the fields below it speak of.
        phases: Phase to {`state`, `started`, `finished`, `duration_s`}, as in status.json.
        supplies: What each owner supplied; None where nothing was found.
        reports: One dict per script, as in status.json, in run order.
        late: Owners whose material came only once the network was up: their pre-network scripts run then, late.
        ahead: What a disk gave to an owner whose search goes on with the network, and is joined with what that gives.
        spare: The last good supply of an owner that has no material in this boot, or not yet: the source was down.
        has_met_service: A metadata service has been seen by this instance.
        is_service_required: A service that can't be reached makes the site's part missing.
        layers: Voice to its settings as parsed (`policy.settings.Heard.layers`).
        once: Id to (SHA-512, outcome) of every step that ran at most once, or began to.
        logging: What is known of the log daemons in this boot (`runner.logging`): `targets` and `delivered` as in
            status.json, and what the next phase goes on from; empty where nothing is asked of them.
        first: When the instance was first seen: `boot_id`, `boot_s` on that boot's clock, `utc_s` on the wall; and
            `seen_id`, `seen_s`: the boot that it was seen in last, and when it was first seen in that.
        published: What of features outlives a boot: `extras`, keys of a site's own that stand in the folders, and
            `outputs`, where job outputs go; with `mark`, all that was said, and `boot_epoch_s`, the clock that it was
            published by. Empty where nothing is.
        read: Features that addresses or folders named by the context gave in this boot.
        folders: Owner to the digest of the supply that its working folder was made from.
        last: {`boot`, `seq`, `hash`} of the newest trace record that this checkpoint knows.
        damage: Why the file on disk could not be used; empty when it could.
    """

    instance_id: str
    ids: Mapping[str, str] = {}
    boot_id: str = ""
    phases: Mapping[str, Mapping[str, Any]] = {}
    supplies: Mapping[Owner, Supply | None] = {}
    verdicts: tuple[Verdict, ...] = ()
    warnings: tuple[Problem, ...] = ()
    errors: tuple[Problem, ...] = ()
    reports: tuple[Mapping[str, Any], ...] = ()
    late: tuple[Owner, ...] = ()
    ahead: Mapping[Owner, Supply] = {}
    spare: Mapping[Owner, Supply] = {}
    has_met_service: bool = False
    is_service_required: bool = False
    layers: Mapping[str, Mapping[str, Any]] = {}
    logging: Mapping[str, Any] = {}
    once: Mapping[str, tuple[str, str]] = {}
    first: Mapping[str, Any] = {}
    published: Mapping[str, Any] = {}
    read: Mapping[str, str] = {}
    folders: Mapping[str, str] = {}
    last: Mapping[str, Any] = {}
    damage: str = ""

    def saying(self, *, warnings: Sequence[Problem] = (), errors: Sequence[Problem] = ()) -> State:
        """Return the state with more to say, each thing once."""
        return self.replace(
            warnings=tuple(dict.fromkeys((*self.warnings, *warnings))),
            errors=tuple(dict.fromkeys((*self.errors, *errors))),
        )


def instance_folder(instance_id: str) -> str:
    """Return the guest path of an instance's folder."""
    return f"{INSTANCES}/{instance_id}"


def digest_of(host: Host, path: str) -> str:
    """Return the SHA-512 of a file of the agent's own state; empty where it can't be read."""
    try:
        digest = new_sha512(host.files.size(path))
        for data in host.files.chunks(path, max_bytes=1 << 62):
            digest.update(data)
    except OSError:
        return ""
    return digest.hexdigest()


def sweep(host: Host) -> None:
    """Remove what a killed agent left unfinished: half-staged trees, temporary files, copies lent to an account.

    With it goes the state of another boot, where the folder for it outlives one.

    Raises:
        CannotWriteError: It could not be removed.
    """
    if host.is_run_kept:
        _begin_boot(host)
    instances = [f"{INSTANCES}/{entry.path}" for entry in host.files.folder(INSTANCES)]
    for folder in (host.run_folder, f"{host.run_folder}/{LENT}", LOGS, HOME, INSTANCES, *instances):
        host.files.sweep(folder)


def _begin_boot(host: Host) -> None:
    """Empty the folder for the state of this boot, once in it."""
    mark, boot_id = f"{host.run_folder}/{_BOOT}", host.boot_id().encode()
    try:
        if host.files.read(mark, max_bytes=1 << 10) == boot_id:
            return
    except OSError:  # the first boot with it, or one that was cut
        pass
    for entry in host.files.folder(host.run_folder):
        if entry.name != LOCK and not entry.name.startswith(DISK):
            host.files.remove(f"{host.run_folder}/{entry.name}")
    host.files.write(mark, boot_id, mode=0o644)


def known_instance(host: Host) -> str:
    """Return the id of the instance that this image was last booted as; empty when there is none."""
    try:
        target = os.readlink(host.files.real(f"{HOME}/instance"))
    except OSError:
        return ""
    folder, _, name = target.rpartition("/")
    return name if folder == "instances" and name not in ("", ".", "..") else ""


def load(host: Host) -> State | None:
    """Return what is remembered of the known instance, or None for an image that never booted with this agent.

    A state file that is damaged, foreign or of another version is never trusted: an empty state of that instance comes
    back with `damage` set, and the caller rebuilds it from the traces.
    """
    instance_id = known_instance(host)
    if not instance_id:
        return None
    try:
        return _state(host.files.read(f"{instance_folder(instance_id)}/state.json", max_bytes=MAX_BYTES), instance_id)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return State(instance_id=instance_id, damage=f"{type(error).__name__}: {error}")


def save(host: Host, state: State) -> None:
    """Write the state durably, and make its instance the known one.

    Beside it some space is reserved, to be given up when a script has filled the disk before the phase's end.

    Raises:
        CannotWriteError: The medium refuses; what was there before still stands.
    """
    folder = instance_folder(state.instance_id)
    host.files.make_folder(HOME)
    host.files.make_folder(INSTANCES)
    host.files.make_folder(folder)
    plain = _plain(state.replace(damage=""))
    body = jsontext.dumps(plain).encode()
    text = _HEAD % (SCHEMA, sha256_hex(body).encode()) + body + _TAIL
    reserve = f"{folder}/reserve"
    try:
        host.files.write(f"{folder}/state.json", text, durable=True)
    except CannotWriteError:
        if not host.files.exists(reserve):
            raise
        host.files.remove(reserve)
        host.files.write(f"{folder}/state.json", text, durable=True)
    host.files.reserve(reserve, 4 * len(text))
    if known_instance(host) != state.instance_id:
        _point_to(host, state.instance_id)


def _point_to(host: Host, instance_id: str) -> None:
    temporary = f"{HOME}/{random_name(NEW)}"
    host.files.link(temporary, f"instances/{instance_id}")
    try:
        host.files.rename(temporary, f"{HOME}/instance")
        host.files.sync_folder(HOME)
    except OSError as error:
        message = f"cannot write '{HOME}/instance': {error.strerror or error}"
        raise CannotWriteError(message) from error


def fold(once: Mapping[str, tuple[str, str]], records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return the once-markers with what the trace's records say happened since.

    A `start` alone leaves the outcome `running`; whoever finds that after the agent was killed makes it `interrupted`.
    """
    markers = dict(once)
    for record in records:
        if record["ev"] == "start":
            markers[record["id"]] = (record["sha512"], "running")
        elif record["ev"] == "end" and record.get("reason") == "abort" and not record.get("out_sha512"):
            markers.pop(record["id"], None)  # it could not even be started, so nothing was done once
        elif record["ev"] == "end":
            sha512, _ = markers.get(record["id"], ("", ""))
            outcome = "interrupted" if record.get("reason") == "agent-restart" else "done"
            markers[record["id"]] = (sha512, outcome)
    return markers


def _plain(value: object) -> Any:  # noqa: ANN401  # JSON
    """Return a value, and all values in it, as dicts, lists and scalars."""
    if isinstance(value, Value):
        return {name: _plain(item) for name, item in value.fields()}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _state(text: bytes, instance_id: str) -> State:
    """Return the state that a file holds.

    Raises:
        ValueError: It is of another version or instance, or its digest does not fit.
    """
    head_bytes = len(_HEAD % (SCHEMA, b"0" * 64))
    body = text[head_bytes : -len(_TAIL)]
    if text != _HEAD % (SCHEMA, sha256_hex(body).encode()) + body + _TAIL:
        message = "of another version, or its digest does not fit"
        raise ValueError(message)
    plain = jsontext.loads(body)
    if plain["instance_id"] != instance_id:
        message = "of another instance"
        raise ValueError(message)
    return State(
        **{
            **plain,
            "supplies": {owner: supply and _supply(supply) for owner, supply in plain["supplies"].items()},
            "ahead": {owner: _supply(supply) for owner, supply in plain.get("ahead", {}).items()},
            "spare": {owner: _supply(supply) for owner, supply in plain.get("spare", {}).items()},
            "late": tuple(plain.get("late", ())),
            "verdicts": tuple(Verdict(**each) for each in plain["verdicts"]),
            "warnings": tuple(Problem(**each) for each in plain["warnings"]),
            "errors": tuple(Problem(**each) for each in plain["errors"]),
            "reports": tuple(plain["reports"]),
            "once": {step_id: (sha512, outcome) for step_id, (sha512, outcome) in plain["once"].items()},
        }
    )


def _supply(plain: dict[str, Any]) -> Supply:
    settings, directions = plain["settings"], plain.get("directions")
    return Supply(
        **{
            **plain,
            "scripts": tuple(Script(**each) for each in plain["scripts"]),
            "files": tuple(PlacedFile(**each) for each in plain["files"]),
            "keys": tuple(LoginKey(**each) for each in plain["keys"]),
            "kept": tuple(Kept(**each) for each in plain["kept"]),
            "companions": tuple((name, sha512, size) for name, sha512, size in plain["companions"]),
            "settings": settings and (settings[0], settings[1]),
            "directions": directions and (directions[0], directions[1]),
        }
    )
