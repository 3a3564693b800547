"""What a pilot needs before it starts: a folder, files, a credential, an environment made from nothing.

Everything that the account could have prepared a trap in is done with the account's own rights.
"""

from __future__ import annotations

import os
import stat

from contextagent.errors import CannotWriteError, ContextAgentError
from contextagent.payloads.environment import base_environment
from contextagent.pilots import Launch, Setting
from contextagent.pilots.frameworks import launch
from contextagent.pilots.parts import program
from contextagent.runner import credential
from contextagent.runner.script import interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.host.files import Files
    from contextagent.runner.credential import Credential
    from contextagent.runner.keeper import Order

_FOLDERS = (("ca_dir", "ca-dir", "X509_CERT_DIR"), ("voms_dir", "voms-dir", "X509_VOMS_DIR"))
_MAX_SCRIPT_BYTES = 64 << 20
_VOMSES = ("vomses", "vomses", "X509_VOMSES")
_VARIABLES = {
    **dict.fromkeys(credential.PROXIES, "X509_USER_PROXY"),
    **dict.fromkeys(credential.TOKENS, "BEARER_TOKEN_FILE"),
}


class NotReadyError(ContextAgentError):
    """Something that the pilot needs is not there."""

    reason = "not-startable"


class Ready:
    """A pilot that can be started.

    Attributes:
        argv: Program (a path) and arguments.
        environment: All of its environment.
        stop_argv: The command that ends it; empty where a signal does.
        refresh_s: How often `refresh` is to be called; 0 for never.
    """

    def __init__(self, host: Host, order: Order, account: Account | None) -> None:
        self._host = host
        self._order = order
        self._account = account
        self._sha512 = ""
        self.argv: tuple[str, ...] = ()
        self.environment: dict[str, str] = {}
        self.stop_argv: tuple[str, ...] = ()
        self.refresh_s = 0

    def make(self) -> None:
        """Make everything ready.

        Raises:
            ContextAgentError: What is missing, or not as it must be.
        """
        host, order = self._host, self._order
        self._make_workdir()
        variables = {}
        for key, reason, name in (*_FOLDERS, _VOMSES):
            if path := order.pilot.get(key):
                self._check_filled(key, path, reason)
                variables[name] = host.files.real(path)
        variables.update(self._take_credential())
        made = self._script() if order.script else launch(order.framework, self._setting())
        self._put_files(made.files)
        self.environment = {
            **base_environment(home=host.files.real(order.home)),
            **self._names(),
            "MACHINEFEATURES": order.machine_features,
            "JOBFEATURES": order.job_features,
            "JOBOUTPUTS": order.job_outputs,
            **variables,
            **made.environment,
            **order.environment,
            **(order.pilot.get("env") or {}),
        }
        self.argv = (self._program(made.argv[0]), *made.argv[1:])
        self.stop_argv = self._stop_command()

    def refresh(self) -> str:
        """Copy the credential again if it has changed and is good; return why it was not, or an empty text."""
        path = str(self._order.pilot["credential.path"])
        try:
            found = self._read_credential(path)
            if found.sha512 == self._sha512:
                return ""
            credential.check(found, path, now_s=self._host.utc_ns() / 1e9, least_s=0)
            self._copy(found)
        except (ContextAgentError, OSError) as error:
            return f"{error}, keeping the one that it has"
        return ""

    def close(self) -> None:
        """Take the copy of the credential away."""
        if self._sha512:
            self._host.files.remove(os.path.dirname(credential.copy_path(self._host, self._order.number)))

    def _check_filled(self, key: str, path: str, reason: str) -> None:
        self._as_account(lambda: _check_filled(self._host.files.real(path), key, path), reason)

    def _names(self) -> dict[str, str]:
        return {"USER": self._account.name, "LOGNAME": self._account.name} if self._account else {}

    def _as_account(self, work: Callable[[], None], reason: str) -> None:
        """Do something with the account's rights; what fails there fails for this reason."""
        from contextagent.host.rights import as_account  # noqa: PLC0415  # a keeper alone needs it

        try:
            if self._account is None:
                work()
            else:
                as_account(self._account, work)
        except (ContextAgentError, OSError) as error:
            raise NotReadyError(f"cannot start the pilot: {error}", reason=reason) from error

    # ---- its folder and files ----

    def _make_workdir(self) -> None:
        """Make the folder 0700 with the account's rights where it may; where only root may, make it and hand it over.

        Root does so for the image and the site alone, and not where anybody else could lead it elsewhere by a link.
        """
        path, files, account = self._order.workdir, self._host.files, self._account
        if not files.exists(path):
            try:
                self._as_account(lambda: files.make_folder(path), "workdir")
            except NotReadyError:
                if account is None or self._order.is_users or not _is_roots_way(files, path):
                    raise
                files.make_folder(path)
                os.chown(files.real(path), account.uid, account.gid, follow_symlinks=False)
        found = os.lstat(files.real(path))
        if not stat.S_ISDIR(found.st_mode):
            raise NotReadyError(f"cannot start the pilot: its folder '{path}' is no folder", reason="workdir")
        if account is not None and found.st_uid != account.uid:
            cause = f"its folder '{path}' belongs to uid {found.st_uid}, not to '{account.name}'"
            raise NotReadyError(f"cannot start the pilot: {cause}", reason="workdir")

    def _put_files(self, wanted: Mapping[str, bytes]) -> None:
        base = self._order.workdir
        for name, data in wanted.items():
            if name.startswith("/") or ".." in name.split("/"):
                cause = f"its file '{name}' would lie outside of its folder"
                raise NotReadyError(f"cannot start the pilot: {cause}", reason="files")
            self._put_file(f"{base}/{name}", data)

    def _put_file(self, path: str, data: bytes) -> None:
        self._as_account(lambda: _put(self._host, path, data), "files")

    # ---- its credential ----

    def _take_credential(self) -> dict[str, str]:
        """Check the credential and put a copy where the pilot can read it, if it can't read the file itself."""
        pilot = self._order.pilot
        path = pilot.get("credential.path")
        if not path:
            return {}
        found = self._read_credential(path)
        refresh_s = pilot.get("credential.refresh_s") or 0
        least_s = credential.LEAST_S if refresh_s else max(credential.LEAST_S, pilot.get("min_lifetime_s") or 0)
        credential.check(found, path, now_s=self._host.utc_ns() / 1e9, least_s=least_s)
        place = path
        if found.is_roots:
            place = self._copy(found)
            self.refresh_s = refresh_s
        self._path = self._host.files.real(place)
        names = {pilot.get("credential.env"), _VARIABLES.get(pilot.get("credential.kind") or "")}
        return {name: self._path for name in names if name}

    def _read_credential(self, path: str) -> Credential:
        return credential.read(
            self._host,
            path,
            self._order.pilot.get("credential.kind") or "",
            account=self._account,
            may_be_roots=not self._order.is_users,
        )

    def _copy(self, found: Credential) -> str:
        if self._account is None:
            raise NotReadyError("cannot start the pilot: its credential is another's", reason="credential")
        path = credential.put_copy(self._host, self._order.number, self._account, found.data)
        self._sha512 = found.sha512
        return path

    # ---- its program ----

    def _script(self) -> Launch:
        """Return how a script is started, by what its first line says."""
        real = self._host.files.real(self._order.script)
        try:
            first = next(self._host.files.chunks(self._order.script, max_bytes=_MAX_SCRIPT_BYTES), b"")
            words = interpreter(self._order.script, first)
        except (ContextAgentError, OSError) as error:
            raise NotReadyError(f"cannot start the pilot: {error}") from error
        return Launch(argv=(*words, real, "start"), environment={})

    def _setting(self) -> Setting:
        order = self._order
        pilot = dict(order.pilot)
        if pilot.get("credential.path"):
            pilot["credential.path"] = self._path
        return Setting(
            pilot=pilot,
            instance_id=order.instance_id,
            boot_id=order.boot_id,
            number=order.number,
            remaining_s=order.remaining_s,
            features=order.features,
            machine_features=order.machine_features,
            job_features=order.job_features,
            job_outputs=order.job_outputs,
            workdir=self._host.files.real(order.workdir),
            account=self._account.name if self._account else "",
            home=self._host.files.real(order.home),
            hostname=order.hostname,
        )

    def _program(self, name: str) -> str:
        """Return a program's path: a bare name is looked for where its own PATH says."""
        if name.startswith("/"):
            real = self._host.files.real(name)
            return real if os.path.exists(real) else name
        if "/" in name:
            return name  # in its own folder
        folders = self.environment["PATH"].split(":")
        found = (f"{folder}/{name}" for folder in folders if os.access(f"{folder}/{name}", os.X_OK))
        path = next(found, None)
        if path is None:
            raise NotReadyError(f"cannot start the pilot: its program '{name}' is in no folder of PATH")
        return path

    def _stop_command(self) -> tuple[str, ...]:
        words = program(self._order.pilot.get("stop.command"))
        return (self._program(words[0]), *words[1:]) if words else ()


def ready(host: Host, order: Order, account: Account | None) -> Ready:
    """Return a pilot that can be started now.

    Raises:
        ContextAgentError: What it lacks; the reason is one of those in docs/reference/pilots.md.
    """
    made = Ready(host, order, account)
    made.make()
    return made


def _check_filled(real: str, key: str, path: str) -> None:
    """Find fault with a folder that is empty, or a file that is.

    Raises:
        CannotWriteError: It is; in the words that reach whoever asked through `as_account`.
        OSError: It is not there, or the account can't read it.
    """
    try:
        is_filled = bool(os.listdir(real) if os.path.isdir(real) else os.stat(real).st_size)
    except OSError as error:
        raise CannotWriteError(f"'{path}' ('pilot.{key}') can't be read: {error.strerror}") from error
    if not is_filled:
        raise CannotWriteError(f"'{path}' ('pilot.{key}') is empty")


def _is_roots_way(files: Files, path: str) -> bool:
    """Return whether a path of the guest leads by no link, and nobody but root can change or make what it leads by."""
    from contextagent.host import way  # noqa: PLC0415  # where root alone may make the folder, which is seldom

    try:
        return not way.changeable(files.real(path), files.root, may_link=False)
    except OSError:
        return False


def _put(host: Host, path: str, data: bytes) -> None:
    """Write one of its files 0600, with its folders."""
    parent = os.path.dirname(path)
    if not host.files.exists(parent):
        host.files.make_folder(parent)
    host.files.write(path, data)
