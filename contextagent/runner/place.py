"""Files and login keys put where an owner wants them, with that owner's rights."""

from __future__ import annotations

import os
import stat as stat_bits

from contextagent.errors import CannotWriteError, RefusedError
from contextagent.features.values import JOB_OUTPUTS
from contextagent.model import Value
from contextagent.payloads.keys import check_key, fingerprint
from contextagent.runner.state import KEPT, instance_folder
from contextagent.runner.surroundings import USERS_HOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.model import Step

_MAX_BYTES = 1 << 40  # the caps were kept when it was staged
_MAX_KEYS_BYTES = 1 << 20
_SUDOERS = "/etc/sudoers.d"


class Placed(Value):
    """What the trace says of it: the event, and the record's own keys."""

    event: str
    facts: Mapping[str, Any]


def take(host: Host, step: Step, instance_id: str, account: Account | None) -> Placed:
    """Take one `file` or `account` step.

    Args:
        host: The machine.
        step: What to place, and whose it is.
        instance_id: Whose staged content.
        account: The user's account, for the user's steps; None for root and for `--root`.

    Raises:
        RefusedError: The owner may not write there, or what is to be a key is none.
        CannotWriteError: It could not be written.
    """
    if step.kind == "file":
        return _file(host, step, instance_id, account)
    return _keys(host, step, account)


def _file(host: Host, step: Step, instance_id: str, account: Account | None) -> Placed:
    is_kept = step.content.startswith(KEPT)  # the agent's own doing, at a place that no user names
    if step.owner == "user" and not is_kept:
        _check_users_target(step.target, account)
    _check_links(host, step.target)
    is_replaced = host.files.exists(step.target)
    content = f"{instance_folder(instance_id)}/{step.content}"
    pieces = () if step.link else _opened(host.files.chunks(content, max_bytes=_MAX_BYTES))
    _as(None if is_kept else account, lambda: _put(host, step, pieces))
    facts = {"owner": step.owner, "path": step.target, "sha512": step.sha512, "mode": f"{step.mode:04o}"}
    return Placed(event="file", facts={**facts, "replaced": is_replaced})


def _opened(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Return the pieces of a file that is open from here on, since the account that writes them can't open it."""
    first = next(pieces, b"")

    def from_the_start() -> Iterator[bytes]:
        yield first
        yield from pieces

    return from_the_start()


def _put(host: Host, step: Step, pieces: Any) -> None:  # noqa: ANN401  # an iterable of bytes
    """Write beside the target and rename, with missing parents; a folder there is not replaced."""
    parent, _, name = step.target.rpartition("/")
    _make_parents(host, parent or "/")
    # always the same name, so that what a killed agent left is replaced; made with O_EXCL, it can't be prepared for us
    temporary = f"{parent}/.{name}.contextagent-new"
    host.files.remove(temporary)
    try:
        if step.link:
            host.files.link(temporary, step.link)
        else:
            host.files.create(temporary, pieces, mode=step.mode)
        host.files.rename(temporary, step.target)
    except OSError as error:
        host.files.remove(temporary)
        message = f"cannot write '{step.target}': {error.strerror or error}"
        raise CannotWriteError(message) from error


def _make_parents(host: Host, folder: str) -> None:
    if not os.path.isdir(host.files.real(folder)):
        host.files.make_folder(folder, 0o755)


def _check_users_target(target: str, account: Account | None) -> None:
    """Refuse a user's file outside its home and the job outputs (docs/reference/context.md, files)."""
    homes = (account.home if account else USERS_HOME, JOB_OUTPUTS)
    if not any(target.startswith(f"{home}/") for home in homes):
        message = f"cannot write '{target}': a user's files go below {' or '.join(homes)} only"
        raise RefusedError(message, reason="not-the-users")


def _check_links(host: Host, target: str) -> None:
    """Refuse a path through a link that somebody else than root (or the caller) made."""
    ours = {0, os.getuid()}
    at = ""
    for part in target.split("/")[1:-1]:
        at = f"{at}/{part}"
        try:
            found = os.lstat(host.files.real(at))
        except FileNotFoundError:
            return
        if stat_bits.S_ISLNK(found.st_mode) and found.st_uid not in ours:
            message = f"cannot write '{target}': '{at}' is a link that root did not make"
            raise RefusedError(message, reason="through-link")


def _keys(host: Host, step: Step, account: Account | None) -> Placed:
    """Add login keys to an account's authorized_keys, written as that account; the site's own accounts are made."""
    owner = account or host.account(step.target)
    is_missing = account is None and step.owner == "user"  # scripts with root's rights need none, a log-in does
    if is_missing and not host.is_caller:
        owner = host.make_account(step.target, USERS_HOME)
    if step.argument != "there" and not host.is_caller:
        owner = host.make_account(step.target, f"/home/{step.target}", can_login=True)
    if owner is None and not host.is_caller:
        message = f"cannot add keys for '{step.target}': there is no such account"
        raise CannotWriteError(message, reason="no-account")
    for line in step.lines:
        if cause := check_key(line):
            message = f"cannot add a key for '{step.target}': {cause}"
            raise RefusedError(message, reason="bad-key")
    home = owner.home if owner else f"/home/{step.target}"
    _as(None if host.is_caller else owner, lambda: _add_keys(host, home, step.lines))
    if step.argument == "sudo":
        _let_become_root(host, step.target)
    prints = [fingerprint(line) for line in step.lines]
    return Placed(event="identity", facts={"owner": step.owner, "account": step.target, "fingerprints": prints})


def _let_become_root(host: Host, name: str) -> None:
    """Let an account that the site named become root by sudo, without the password that it does not have."""
    _make_parents(host, _SUDOERS)
    host.files.write(f"{_SUDOERS}/contextagent-{name}", f"{name} ALL=(ALL) NOPASSWD: ALL\n".encode(), mode=0o440)


def _add_keys(host: Host, home: str, lines: tuple[str, ...]) -> None:
    folder, path = f"{home}/.ssh", f"{home}/.ssh/authorized_keys"
    host.files.make_folder(folder)
    try:
        known = host.files.read(path, max_bytes=_MAX_KEYS_BYTES).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        known = ""
    missing = [line for line in lines if line not in known.splitlines()]
    if missing:
        text = (known if known.endswith("\n") or not known else known + "\n") + "".join(f"{line}\n" for line in missing)
        host.files.write(path, text.encode("utf-8", "surrogateescape"), durable=True)


def _as(account: Account | None, work: Callable[[], None]) -> None:
    if account is None or account.uid == os.getuid():
        work()
        return
    from contextagent.host.rights import as_account  # noqa: PLC0415  # only a user's files need it

    as_account(account, work)
