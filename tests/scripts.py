"""Running one script for real: what the tests of the runner share."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Self

from contextagent.host import Host
from contextagent.host.accounts import Account
from contextagent.model import Ending, Limits
from contextagent.runner.script import Job, run_script

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contextagent.model import Profile

MARK = "CONTEXTAGENT_TEST_MARK"
NO_LIMITS: dict[str, float | None] = {
    "wall_s": 30.0,
    "cpu_s": None,
    "memory_bytes": None,
    "processes": None,
    "files": 1024,
    "output_bytes": None,
}


class Stage:
    """A place to run scripts in, below a root that any account may enter; its account is nobody else's.

    Attributes:
        host: The host below that root.
        account: The unprivileged account; no passwd file knows it.
    """

    def __init__(self) -> None:
        root = tempfile.mkdtemp(prefix="contextagent-scripts-")
        os.chmod(root, 0o755)
        self.host = Host(root)
        uid = 100_000 + os.getpid() % 400_000
        self.account = Account(name="tester", uid=uid, gid=uid, home="/", shell="/bin/sh")
        self.mark = f"{MARK}={os.urandom(8).hex()}"
        self.host.files.make_folder("/state", 0o700)
        self.host.files.make_folder("/work", 0o700)
        if os.geteuid() == 0:
            self.host.files.give("/work", uid, uid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill_survivors()
        shutil.rmtree(self.host.root)

    def job(
        self,
        script: bytes | str,
        *,
        profile: Profile = "root",
        keep_daemons: bool = False,
        grace_s: float = 0.2,
        folder: str = "/work",
        limits: Mapping[str, float] | None = None,
    ) -> Job:
        """Return a job whose script is staged."""
        data = script.encode() if isinstance(script, str) else script
        self.host.files.write("/state/it.sh", data)
        name, _, value = self.mark.partition("=")
        return Job(
            script="/state/it.sh",
            argument="start",
            folder=folder,
            environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", name: value},
            profile=profile,
            account=self.account if profile == "unprivileged" else None,
            limits=Limits(**{**NO_LIMITS, **(limits or {})}),  # type: ignore[arg-type]  # each by its own name
            output="/state/output",
            keep_daemons=keep_daemons,
            grace_s=grace_s,
        )

    def run(
        self,
        script: bytes | str,
        *,
        profile: Profile = "root",
        keep_daemons: bool = False,
        limits: Mapping[str, float] | None = None,
    ) -> Ending:
        """Stage a script and run it to its end."""
        return run_script(self.host, self.job(script, profile=profile, keep_daemons=keep_daemons, limits=limits))

    def output(self) -> bytes:
        """Return what was kept of the last script's output."""
        return self.host.files.read("/state/output", max_bytes=1 << 24)

    def survivors(self) -> list[int]:
        """Return the pids of all living processes that this stage's scripts left behind."""
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if self.mark.encode() in file.read():
                        found.append(int(name))
            except OSError:
                continue
        return found

    def kill_survivors(self) -> None:
        """Kill what a test left behind on purpose."""
        for pid in self.survivors():
            os.kill(pid, 9)
