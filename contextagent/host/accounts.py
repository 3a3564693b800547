"""Accounts of the machine, read from the files below its root and made by its own tools."""

from __future__ import annotations

import os
import time

from contextagent.errors import CannotWriteError
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.host.files import Files

OURS = "contextagent"
"""What `/etc/passwd` says of an account that is nobody's but the agent's: with the package it goes again."""
_MAX_PASSWD_BYTES = 16 << 20
_FIELDS = 7
_TOOL_TIMEOUT_S = 60
_SHELLS = ("/bin/bash", "/bin/sh")
_NO_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false")
_LOCKED = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")


class Account(Value):
    """One line of `/etc/passwd`."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


def find(files: Files, name: str) -> Account | None:
    """Return the account of that name from `/etc/passwd` below the root (never from a directory service)."""
    try:
        text = files.read("/etc/passwd", max_bytes=_MAX_PASSWD_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return None
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) == _FIELDS and fields[2].isdecimal() and fields[3].isdecimal():
            return Account(name=name, uid=int(fields[2]), gid=int(fields[3]), home=fields[5], shell=fields[6])
    return None


def make(host: Host, name: str, home: str, *, can_login: bool = False) -> Account:
    """Make an account with a home folder 0700 of its own, or return the one that is there; see `Host.make_account`.

    Raises:
        CannotWriteError: The machine has no tool for it, the tool failed, or the root is not this machine's.
    """
    account = find(host.files, name) or _add(host, name, home, can_login=can_login)
    if _lacks_home(host.files, account, home):
        host.files.make_folder(account.home, 0o700)
        os.chown(host.files.real(account.home), account.uid, account.gid, follow_symlinks=False)
    return account


def _lacks_home(files: Files, account: Account, home: str) -> bool:
    """Whether there is no home, or the one that is ours to give is somebody else's: of an account made anew, say."""
    try:
        found = os.lstat(files.real(account.home))
    except FileNotFoundError:
        return True
    return account.home == home and found.st_uid != account.uid


def _add(host: Host, name: str, home: str, *, can_login: bool) -> Account:
    """Call useradd, or busybox's adduser where that is all there is; Debian's adduser shows its usage, and exits 0."""
    if host.is_caller:
        message = f"cannot make account '{name}': below another root no account is made"
        raise CannotWriteError(message)
    wanted = _SHELLS if can_login else _NO_SHELLS
    shell = next((path for path in wanted if host.files.exists(path)), wanted[-1])
    kind = () if can_login else ("-r", "-c", OURS)
    # no -m: a skeleton's files would be the image's in the user's home; and no password: the account is locked.
    # -U: a group of its own, which shadow before 4.1 (SL5) makes unasked and does not know as an option
    commands = (
        ["useradd", *kind, "-U", "-M", "-d", home, "-s", shell, name],
        ["useradd", *kind, "-M", "-d", home, "-s", shell, name],
        ["adduser", *(() if can_login else ("-S", "-g", OURS)), "-D", "-H", "-h", home, "-s", shell, name],
    )
    said = ""
    for _ in range(2):
        for argv in commands:
            finished = host.run(argv, timeout_s=_TOOL_TIMEOUT_S)
            account = find(host.files, name) if finished.is_ok else None
            if account is not None:
                return account
            said = said or finished.text().strip().rpartition("\n")[2]
        if not _remove_stale_locks(host.files):
            break
    message = f"cannot make account '{name}': {said or 'neither useradd nor adduser did'}"
    raise CannotWriteError(message)


def _remove_stale_locks(files: Files) -> bool:
    """Remove what keeps a machine from making accounts since its power was cut; return whether there was any.

    A lock of this boot is younger than the boot, and names its holder; what was not flushed before a cut is left empty.
    Debian's systemd removes such locks at each boot.  Elsewhere nobody would, and no account could be made ever again.
    """
    began_s = time.time() - time.monotonic()
    has_removed = False
    for name in _LOCKED:
        path = f"/etc/{name}.lock"
        try:
            found = os.lstat(files.real(path))
        except OSError:
            continue
        if not found.st_size or found.st_mtime < began_s:
            files.remove(path)
            has_removed = True
    return has_removed
