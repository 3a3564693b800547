"""Features put where pilots look for them: two folders, one number, and what of it changes in `live.json`.

Each file is written by rename, and only where it does not hold its text already: a reader sees the old value or the new
one, and an idle machine's disk sleeps.  A whole new folder is filled aside and takes its place in one step.
"""

from __future__ import annotations

import os
import stat as stat_bits

from contextagent.errors import CannotWriteError
from contextagent.features import texts
from contextagent.features.values import (
    JOB_FEATURES,
    JOB_OUTPUTS,
    MACHINE_FEATURES,
    Facts,
    Voices,
    is_folder,
    sites_variables,
)
from contextagent.features.vocabulary import is_extra, kind_of
from contextagent.host.files import NEW, write_all
from contextagent.model import Problem
from contextagent.payloads.names import is_feature_key
from contextagent.runner.live import Live, clocks, load_live, shown, store_live
from contextagent.runner.state import instance_folder
from contextagent.runner.status import LIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from contextagent.features.lifetime import End
    from contextagent.features.values import Standing
    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.policy.settings import Settings
    from contextagent.runner.state import State

FOLDERS: Mapping[str, str] = {"machine": MACHINE_FEATURES, "job": JOB_FEATURES}
"""A key's first half to the folder in which the rest of it is a file."""
_VARIABLES = (("machine", "MACHINEFEATURES"), ("job", "JOBFEATURES"))
SHUTDOWN_TIME = "/var/run/shutdown_time"
CHANGED = "features-changed"
"""Reason of a problem that says what was found changed, and is mended."""
_PLAUSIBLE_S = 1_000_000_000
"""A wall clock before September 2001 has not been set yet."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE, _FOLDER_MODE = 0o644, 0o755
_MAX_KEYS = 512
_MAX_BYTES = 4096


def facts(host: Host, state: State, before: Live | None = None) -> Facts:
    """Return what the machine knows of itself now; values that follow a clock stand as `before` while it is kept."""
    now = clocks(host, before)
    memory_bytes, swap_bytes = host.memory_bytes()
    uuids = [value for kind, value in state.ids.items() if kind.endswith("uuid")]
    is_first = not state.first or state.first["boot_id"] == state.boot_id
    return Facts(
        cpus=host.cpus(),
        memory_bytes=memory_bytes,
        swap_bytes=swap_bytes,
        uuid=(*uuids, state.ids.get("dmi") or host.product_uuid() or state.instance_id)[0],
        now=now,
        first_s=state.first.get("boot_s" if is_first else "utc_s", now.boot_s),
        first_clock="boot" if is_first else "wall",
        seen_s=state.first.get("seen_s", now.boot_s),
    )


def voices(  # what was said outside the context, by keyword
    host: Host,
    state: State,
    settings: Settings,
    *,
    read: Mapping[str, str] | None = None,
    is_read_sites: bool = True,
    outputs: str = "",
    notice: End | None = None,
) -> Voices:
    """Return what everybody said.

    Args:
        host: The machine.
        state: What its owners supplied.
        settings: What holds of their settings.
        read: What addresses gave just now; None for what they gave before in this boot.
        is_read_sites: Whether the site named those addresses.
        outputs: Where the metadata says that job outputs go.
        notice: The end that the machine's host gave notice of.
    """
    variables = sites_variables(state.supplies)
    named = {kind: variables.get(name, "").rstrip("/") for kind, name in _VARIABLES}
    found: dict[str, str] = {}
    for kind, folder in named.items():
        if is_folder(folder) and folder != FOLDERS[kind]:
            found |= read_folder(host, kind, folder)
    return Voices(
        settings=settings,
        supplies=state.supplies,
        read={**found, **(state.read if read is None else read)},
        is_read_sites=is_read_sites,
        outputs=outputs,
        drain=_drain(host, state.instance_id),
        notice=notice,
    )


def _drain(host: Host, instance_id: str) -> End | None:
    if not host.files.exists(f"{instance_folder(instance_id)}/drain.json"):
        return None
    from contextagent.runner.drain import load_drain  # noqa: PLC0415  # few machines are drained

    return load_drain(host, instance_id)


def first_seen(host: Host, state: State) -> Mapping[str, Any]:
    """Return when the instance was first seen: on both clocks, the wall's corrected as long as that boot lasts."""
    boot_s, utc_s = round(host.boot_ns() / 1e9, 3), round(host.utc_ns() / 1e9, 3)
    first = dict(state.first)
    if first.get("seen_id") != state.boot_id:
        first |= {"seen_id": state.boot_id, "seen_s": boot_s}
    if first.get("boot_id") == state.boot_id:
        return {**first, "utc_s": round(utc_s - boot_s + first["boot_s"], 3)}
    if first.get("utc_s", 0) >= _PLAUSIBLE_S:
        return first
    return {**first, "boot_id": state.boot_id, "boot_s": first["seen_s"], "utc_s": utc_s - boot_s + first["seen_s"]}


def publish(
    host: Host, standing: Standing, *, before: Live | None, ours: Collection[str] = ()
) -> tuple[Live, tuple[Problem, ...]]:
    """Write what is not as it should be, and return what is known now (stored), with what went wrong or was mended.

    Args:
        host: The machine.
        standing: What is to be published.
        before: What was known before in this boot.
        ours: Keys of a site's own that an earlier boot left; others' files of unknown names stay.
    """
    problems = _fill_both(host, standing.values, before.features if before else {}, ours)
    problems += _tell_shutdown(host, str(standing.lifetime.shutdown_epoch_s) if standing.lifetime else "")
    live = (before or Live(boot_id=host.boot_id())).replace(
        features=dict(standing.values),
        origins=dict(standing.origins),
        ends=standing.ends,
        lifetime=shown(standing.lifetime),
        grace_s=standing.grace_s,
        boot_epoch_s=standing.boot_epoch_s,
        outputs=standing.outputs,
        is_outputs_given=standing.is_outputs_given,
    )
    if live != before or not host.files.exists(f"{host.run_folder}/{LIVE}"):
        problems += _store(host, live)
    return live, tuple(problems)


def _store(host: Host, live: Live) -> tuple[Problem, ...]:
    try:
        store_live(host, live)
    except CannotWriteError as error:
        return (Problem(reason=error.reason, message=f"{error}, going on without it"),)
    return ()


def furnish(host: Host, standing: Standing, account: Account | None) -> tuple[Problem, ...]:
    """Make the folder for job outputs, the account's own with what is in it, and tell login shells of all three."""
    problems = _make_outputs(host, account)
    for path, text in texts.profiles(standing.outputs).items():
        problems += _settle(host, path, text)
    return tuple(problems)


def withdraw(host: Host, ours: Collection[str]) -> tuple[Problem, ...]:
    """Take back what an earlier boot, or an earlier run in this one, published, where nothing is to be said now."""
    problems = _fill_both(host, {}, {}, ours)
    live = load_live(host)
    problems += _store(host, live.replace(features={}, origins={}, ends=(), lifetime=None)) if live else ()
    for folder in FOLDERS.values():
        try:
            os.rmdir(host.files.real(folder))
        except OSError:
            pass  # it is not there, no folder, or others keep something in it
    problems += _tell_shutdown(host, "")
    return (*problems, *(each for path in texts.profiles("") for each in _settle(host, path, "")))


def traced(features: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return features as the trace tells them: a text of a site's own may be a secret, and is told by its length."""
    told: dict[str, dict[str, str]] = {kind: {} for kind in FOLDERS}
    for key, text in features.items():
        kind, _, name = key.partition("/")
        is_shown = kind_of(key) != "text" or key == "job/job_id"
        told[kind][name] = text if is_shown else f"{len(text.encode('utf-8', 'replace'))} bytes"
    return told


def read_folder(host: Host, kind: str, folder: str) -> dict[str, str]:
    """Return the features in a folder that somebody else keeps; what can't be one is passed over."""
    found = {}
    for entry in host.files.folder(folder)[:_MAX_KEYS]:
        if entry.kind == "file" and is_feature_key(entry.name):
            try:
                data = host.files.read(f"{folder}/{entry.name}", max_bytes=_MAX_BYTES)
            except OSError:
                continue  # too large for a value, or gone
            found[f"{kind}/{entry.name}"] = data.decode("utf-8", "replace").strip()
    return found


def _make_outputs(host: Host, account: Account | None) -> list[Problem]:
    real = host.files.real(JOB_OUTPUTS)
    try:
        if _is_link(real):
            host.files.remove(JOB_OUTPUTS)
        host.files.make_folder(JOB_OUTPUTS, _FOLDER_MODE)
        if account and not host.is_caller:
            os.chown(real, account.uid, account.gid, follow_symlinks=False)
    except (OSError, CannotWriteError) as error:
        return [_failed(JOB_OUTPUTS, error)]
    return []


def _failed(what: str, error: Exception) -> Problem:
    cause = error.strerror if isinstance(error, OSError) else str(error).rpartition(": ")[2]
    return Problem(reason="cannot-write", message=f"cannot write '{what}': {cause}, going on without that feature")


def _is_link(real: str) -> bool:
    try:
        return stat_bits.S_ISLNK(os.lstat(real).st_mode)
    except FileNotFoundError:
        return False


def _is_folder(real: str) -> bool:
    return os.path.isdir(real) and not os.path.islink(real)


def _fill_both(host: Host, values: Mapping[str, str], known: Mapping[str, str], ours: Collection[str]) -> list[Problem]:
    """Make both folders hold the values, and nothing that was ours and is not said any more."""
    problems: list[Problem] = []
    for kind, folder in FOLDERS.items():
        mine = {key.partition("/")[2]: text for key, text in values.items() if key.startswith(kind)}
        written = {key.partition("/")[2]: text for key, text in known.items() if key.startswith(kind)}
        stale = {key.partition("/")[2] for key in (*ours, *known) if key.startswith(kind)}
        try:
            problems += _fill(host, folder, mine, written, stale)
        except (OSError, CannotWriteError) as error:
            problems.append(_failed(folder, error))
    return problems


def _fill(
    host: Host, folder: str, values: Mapping[str, str], written: Mapping[str, str], stale: Collection[str]
) -> list[Problem]:
    """Make a folder hold these values: `written` is what it held when we left it, `stale` what else is ours there."""
    real = host.files.real(folder)
    try:
        found = os.lstat(real)
    except FileNotFoundError:
        if values:
            _fill_new(host, folder, values)
        return [_mended(folder)] if written else []
    if not stat_bits.S_ISDIR(found.st_mode):
        if not values:
            return []
        host.files.remove(folder)  # a link is not followed, and what it leads to stays
        _fill_new(host, folder, values)
        return [_mended(folder)]
    if stat_bits.S_IMODE(found.st_mode) != _FOLDER_MODE:
        os.chmod(real, _FOLDER_MODE)
    if found.st_uid and not host.is_caller:
        os.chown(real, 0, 0, follow_symlinks=False)
    for name in os.listdir(real):
        if name not in values and (name in stale or name.startswith(NEW) or _is_known(folder, name)):
            host.files.remove(f"{folder}/{name}")
    wrong = [name for name, text in values.items() if not _holds(host, f"{real}/{name}", text)]
    for name in wrong:
        _put(host, f"{folder}/{name}", values[name])
    return [_mended(f"{folder}/{name}") for name in wrong if written.get(name) == values[name]]


def _mended(path: str) -> Problem:
    return Problem(reason=CHANGED, message=f"'{path}' was changed by somebody else, putting it right")


def _is_known(folder: str, name: str) -> bool:
    """Whether a name is in the vocabulary: what an earlier boot or instance left of it says nothing now."""
    key = f"{'machine' if folder == MACHINE_FEATURES else 'job'}/{name}"
    return not is_extra(key)


def _put(host: Host, path: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    try:
        host.files.write(path, data, mode=_MODE)
    except CannotWriteError:
        if not _is_folder(host.files.real(path)):
            raise
        host.files.remove(path)
        host.files.write(path, data, mode=_MODE)


def _fill_new(host: Host, folder: str, values: Mapping[str, str]) -> None:
    """Make a folder with all its files aside, and put it in place in one step."""
    aside = _aside(host, folder)
    _make_parent(host, folder)
    real = host.files.real(aside)
    os.mkdir(real, 0o700)
    try:
        for name, text in values.items():
            _write_new(f"{real}/{name}", text)
        os.chmod(real, _FOLDER_MODE)
        os.rename(real, host.files.real(folder))
    except OSError:
        host.files.remove(aside)
        raise


def _settle(host: Host, path: str, text: str) -> list[Problem]:
    """Make a file in a folder of others hold a text, or not be there where that is empty; return what went wrong."""
    try:
        aside = _aside(host, path)
        if not text:
            if host.files.exists(path):
                host.files.remove(path)
        elif not _holds(host, host.files.real(path), text):
            _make_parent(host, path)
            if _is_folder(host.files.real(path)):
                host.files.remove(path)
            try:
                _write_new(host.files.real(aside), text)
                os.rename(host.files.real(aside), host.files.real(path))
            except OSError:
                host.files.remove(aside)
                raise
    except (OSError, CannotWriteError) as error:
        return [_failed(path, error)]
    return []


def _aside(host: Host, path: str) -> str:
    """Return the name beside a path under which it is made ready: always the same, so that a kill leaves nothing."""
    parent, _, name = path.rpartition("/")
    aside = f"{parent}/.{name}.contextagent-new"
    if host.files.exists(aside):
        host.files.remove(aside)
    return aside


def _make_parent(host: Host, path: str) -> None:
    parent = path.rpartition("/")[0]
    if not host.files.exists(parent):
        host.files.make_folder(parent, _FOLDER_MODE)


def _write_new(real: str, text: str) -> None:
    mask = os.umask(0)  # a chmod for each of them would be the most costly part
    try:
        fd = os.open(real, _NEW, _MODE)
    finally:
        os.umask(mask)
    try:
        write_all(fd, text.encode("utf-8", "replace"))
    finally:
        os.close(fd)


def _holds(host: Host, real: str, text: str) -> bool:
    """Return whether a file is there for everybody to read, ours, and holds just this."""
    try:
        fd = os.open(real, _READ)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        data = text.encode("utf-8", "replace")
        is_ours = host.is_caller or not found.st_uid
        is_plain = stat_bits.S_ISREG(found.st_mode) and stat_bits.S_IMODE(found.st_mode) == _MODE
        return is_ours and is_plain and os.read(fd, len(data) + 1) == data
    finally:
        os.close(fd)


def _tell_shutdown(host: Host, text: str) -> list[Problem]:
    """Put the end where DIRAC looks; where /var/run is a link, it leads to /run, or out of another root."""
    run, _, name = SHUTDOWN_TIME.rpartition("/")
    real = host.files.real(run)
    if text and host.is_caller and host.run_folder.startswith("/run/") and not os.path.lexists(real):
        try:
            host.files.link(run, "../run")  # as on every machine that has a /run
        except CannotWriteError as error:
            return [_failed(run, error)]
    return _settle(host, f"/run/{name}" if _is_link(real) else SHUTDOWN_TIME, text)
