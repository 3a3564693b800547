"""Accounts of the machine, read from the files below its root and made by its own tools."""

from __future__ import annotations

import os

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
    account = find(host.files, name)
    if account is None:
        _add(host, name, home, can_login=can_login)
        account = find(host.files, name)
        if account is None:
            message = f"cannot make account '{name}': /etc/passwd does not hold it afterwards"
            raise CannotWriteError(message)
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


def _add(host: Host, name: str, home: str, *, can_login: bool) -> None:
    """Call useradd, or busybox's adduser where that is all there is."""
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
    for argv in commands:
        finished = host.run(argv, timeout_s=_TOOL_TIMEOUT_S)
        if finished.is_ok:
            return
        said = said or finished.text().strip().rpartition("\n")[2]
    message = f"cannot make account '{name}': {said or 'neither useradd nor adduser is there'}"
    raise CannotWriteError(message)
