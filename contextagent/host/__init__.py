"""The one door to the machine: files, clocks, processes, mounts.  Nothing above it imports `os` to act.

`Host` only gathers what its modules do, so that a caller, and a test's stand-in, has one thing to hold.  The modules
that a boot does not always need (mounts, confined children, making accounts) are imported when they are asked for.
"""

from __future__ import annotations

from contextagent.host import accounts, facts, locks
from contextagent.host.files import Files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from contextagent.host.accounts import Account
    from contextagent.host.confine import Channel, Child
    from contextagent.host.locks import Lock
    from contextagent.host.mounts import DriveStatus, FilesystemKind
    from contextagent.host.process import Finished


_SYSTEMD_S = 10.0
"""How long systemd may take to say how it is."""


class Host:
    """A machine below a root.

    Attributes:
        files: Its files; every path given to this class, too, is a path as the guest sees it.
        root: Folder that stands for `/`.
        is_caller: Whether the root is not `/`: scripts then run with the caller's rights, and the console, the clock
            and the accounts of this machine are left alone.
        run_folder: Folder for the agent's state of this boot.
        is_run_kept: Whether what is in that folder outlives the boot.
    """

    def __init__(self, root: str = "/") -> None:
        self.files = Files(root)
        self.root = self.files.root
        self.is_caller = self.root != "/"
        self.run_folder, self.is_run_kept = facts.run_folder(self.files)

    @staticmethod
    def utc_ns() -> int:
        """Return the wall clock, nanoseconds since the epoch; a young guest's may stand in 1970."""
        return facts.utc_ns()

    @staticmethod
    def mono_ns() -> int:
        """Return a clock that only goes forward, in nanoseconds since some moment of this boot."""
        return facts.mono_ns()

    @staticmethod
    def boot_ns() -> int:
        """Return nanoseconds since boot, those included in which the machine slept; no step of the clock moves it."""
        return facts.boot_ns()

    @staticmethod
    def cpus() -> int:
        """Return how many CPUs the machine has; at least 1."""
        return facts.cpus()

    def memory_bytes(self) -> tuple[int, int]:
        """Return how much memory and how much swap the machine has; 0 where it does not say."""
        return facts.memory_bytes(self.files)

    @staticmethod
    def is_clock_synchronised() -> bool:
        """Return whether the kernel says that a time service keeps the wall clock."""
        return facts.is_clock_synchronised()

    def boot_id(self) -> str:
        """Return this boot's id as the kernel drew it: 36 characters."""
        return facts.boot_id(self.files)

    @staticmethod
    def kernel_release() -> str:
        """Return the running kernel's release."""
        return facts.kernel_release()

    def kernel_words(self) -> tuple[str, ...]:
        """Return the words of the kernel's command line; empty when it can't be read."""
        return facts.kernel_words(self.files)

    def product_uuid(self) -> str:
        """Return the machine's DMI product UUID in lower case; empty when unknown."""
        return facts.product_uuid(self.files)

    def is_cloud(self) -> bool:
        """Return whether the machine says that it belongs to a cloud with a metadata service."""
        return facts.is_cloud(self.files)

    @staticmethod
    def caller() -> tuple[int, int]:
        """Return the uid and gid that this process acts with."""
        return facts.caller()

    @staticmethod
    def oom_kills() -> int:
        """Return how many processes the kernel has killed for want of memory; 0 when it does not count."""
        return facts.oom_kills()

    def announce(self, text: str) -> None:
        """Put one line on the console and in the kernel's log, as far as that goes; below another root do nothing."""
        if not self.is_caller:
            facts.announce(text)

    def is_going_down(self) -> bool:
        """Return whether systemd is stopping the machine; other inits don't say, and a trial is not the machine's."""
        if self.is_caller or not self.files.exists("/run/systemd/system"):
            return False
        return self.run(("systemctl", "is-system-running"), timeout_s=_SYSTEMD_S).text().strip() == "stopping"

    def lock(self, path: str) -> Lock:
        """Return a lock held on a file, made if it is missing.

        Raises:
            TryLaterError: Another process holds it.
            CannotWriteError: It can't be made.
        """
        return locks.take(self.files, path)

    def account(self, name: str) -> Account | None:
        """Return an account of the machine's `/etc/passwd`, or None when it has none of that name."""
        return accounts.find(self.files, name)

    def make_account(self, name: str, home: str, *, can_login: bool = False) -> Account:
        """Make an account without a password and with a home folder 0700 of its own, or return the one that is there.

        Args:
            name: Its name.
            home: Where its home is made.
            can_login: It gets a shell, for those who have its keys; else it is a locked system account.

        Raises:
            CannotWriteError: The machine has no tool for it, or the tool failed.
        """
        return accounts.make(self, name, home, can_login=can_login)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        max_output_bytes: int = 1 << 20,
        leaves_nothing: bool = False,
    ) -> Finished:
        """Run a system tool without a shell and wait for it.

        Args:
            argv: Program and arguments; a bare name is looked for in the system's own folders.
            timeout_s: Seconds after which it is killed with its whole session.
            environment: What it gets beside `PATH` and `LC_ALL=C`.
            stdin: At most 64 KiB, all that a pipe holds.
            max_output_bytes: How much of stdout and stderr together is kept; the rest is read and dropped.
            leaves_nothing: Processes that it leaves in its group are killed.

        Returns:
            How it ended; exit code 127 when there is no such program.
        """
        from contextagent.host import process  # noqa: PLC0415  # most boots call no system tool

        return process.run(
            argv,
            timeout_s=timeout_s,
            environment=environment,
            stdin=stdin,
            max_output_bytes=max_output_bytes,
            leaves_nothing=leaves_nothing,
        )

    def confined(
        self,
        work: Callable[[Channel], None],
        *,
        timeout_s: float,
        keep: Sequence[int] = (),
        max_file_bytes: int = 0,
        prepare: Callable[[], None] | None = None,
    ) -> Child:
        """Start `work` in a child that may compute and answer, and nothing else; see `confine`.

        Args:
            work: What the child does with its end of the channel; the child ends when it returns.
            timeout_s: Seconds from now after which the child is killed, whatever it does.
            keep: Descriptors that the child may use beside the channel.
            max_file_bytes: How large it may make a file of those.
            prepare: Done in the child before its rights are dropped: imports.
        """
        from contextagent.host import confine  # noqa: PLC0415  # only foreign formats need it

        return confine.start(work, timeout_s=timeout_s, keep=keep, max_file_bytes=max_file_bytes, prepare=prepare)

    def mount(self, device: str, folder: str, kind: FilesystemKind) -> None:
        """Mount a device read-only, nosuid, nodev, noexec.

        Args:
            device: Real path of the device.
            folder: Where, as the guest sees it; it exists.
            kind: The file system.

        Raises:
            OSError: As the kernel says it (EPERM, ENODEV, EINVAL, EIO …).
        """
        from contextagent.host import mounts  # noqa: PLC0415  # most boots mount nothing

        mounts.mount(device, self.files.real(folder), kind)

    def unmount(self, folder: str) -> None:
        """Take a mount away, at once for new users and for the others when they end; nothing mounted there is fine.

        Raises:
            OSError: As the kernel says it.
        """
        from contextagent.host import mounts  # noqa: PLC0415  # see mount

        mounts.unmount(self.files.real(folder))

    def supports_filesystem(self, kind: FilesystemKind) -> bool:
        """Return whether the running kernel has the file system, or a module to load for it."""
        from contextagent.host import mounts  # noqa: PLC0415  # see mount

        return mounts.supports_filesystem(kind)

    @staticmethod
    def drive_status(device: str) -> DriveStatus:
        """Return what a ROM drive says of its disc; `unknown` when it is no such drive or does not say."""
        from contextagent.host import mounts  # noqa: PLC0415  # see mount

        return mounts.drive_status(device)

    @staticmethod
    def eject(device: str) -> None:
        """Open a ROM drive's tray.

        Raises:
            OSError: As the kernel says it.
        """
        from contextagent.host import mounts  # noqa: PLC0415  # see mount

        mounts.eject(device)
