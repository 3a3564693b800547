"""A small world for fault tests: a root for the agent, context disks, scripts whose effect is seen, and boots.

Scripts append to one file outside the root, so that what really ran is known without asking the agent.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from tests.machine import AGENT, TIMEOUT_S, Machine
from tests.servers import Server, answer

if TYPE_CHECKING:
    from pathlib import Path

SITE_ONCE = "site/post-network/post-network.d/10-once"
SITE_SCRIPTS = ("site/pre-network/prolog.sh", "site/post-network/epilog.sh", SITE_ONCE)
USER_SCRIPTS = ("user/pre-network/prolog.sh", "user/post-network/epilog.sh")
REFUSED_MARK = "refused payload ran"


class Run(NamedTuple):
    """One process of the agent: its exit code (negative: killed by a signal), and what it wrote to both outputs."""

    exit_code: int
    output: str


class Arena(Machine):
    """A machine below `folder`, its context disk, and the effects of its scripts.

    Attributes:
        disk: The folder that stands for the disk.
        effects: File that every script appends to: `begin ID` when it starts, `done ID` when it ends by itself.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "root")
        self.folder = folder
        self.effects = folder / "effects"
        self.disk = folder / "disk"
        self.effects.touch()
        for path in ("var/log", "var/lib"):
            (self.root / path).mkdir(parents=True)

    def reboot(self) -> None:
        """Give the machine a new boot id, and an empty /run."""
        super().reboot()
        (self.root / "run").mkdir()

    def boot(self, under: list[str] | None = None) -> Run:
        """Run the whole boot from the disk: pre-network, then post-network."""
        self.note("run")
        done = subprocess.run(
            [*(under or ()), *AGENT, "--root", str(self.root), *self.asking("run", "--disk", str(self.disk))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
            cwd="/",
        )
        return Run(done.returncode, done.stdout.decode("utf-8", "replace"))

    def note(self, text: str) -> None:
        """Append a line of the test's own to the effects."""
        with self.effects.open("a") as file:
            file.write(f"-- {text}\n")

    def offer(self, path: str, data: bytes | str) -> None:
        """Put a file on the disk."""
        target = self.disk / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)

    def script(self, script_id: str, more: str = "") -> str:
        """Return a script that leaves its two lines in the effects."""
        begin, done = (f'echo "{word} {script_id}" >> {self.effects}' for word in ("begin", "done"))
        return f"#!/bin/sh\n{begin}\n{more}\n{done}\n"

    def both_owners(self) -> None:
        """Make the disk one with scripts of both owners, a site script that runs once, a file, and site settings."""
        self.offer("prolog.sh", self.script("site/pre-network/prolog.sh"))
        self.offer("epilog.sh", self.script("site/post-network/epilog.sh"))
        self.offer("post-network.d/10-once", self.script(SITE_ONCE))
        self.offer("files/etc/site.conf", "of the site\n")
        self.offer("site.yaml", f"scripts:\n  {SITE_ONCE}:\n    frequency: once\n")
        self.offer("user/prolog.sh", self.script("user/pre-network/prolog.sh", "echo here > left-by-user"))
        self.offer("user/epilog.sh", self.script("user/post-network/epilog.sh"))

    def with_logging(self) -> None:
        """Let the site of both owners' disk want its logs sent, on a machine with a stand-in for rsyslogd."""
        self.both_owners()
        self.put("usr/sbin/rsyslogd", "#!/bin/sh\necho 'rsyslogd 8.2302.0'\n", 0o755)
        self.put("etc/rsyslog.conf", "$IncludeConfig /etc/rsyslog.d/*.conf\n")
        collectors = "logging: {collectors: [{host: collector, protocol: tcp}]}\n"
        self.offer("site.yaml", (self.disk / "site.yaml").read_text() + collectors)

    def by_network(self) -> None:
        """Let both owners' scripts come by network, each packed, beside a disk that has variables and nothing else."""
        self.both_owners()
        packed = {}
        for owner in ("user", "site"):
            data = io.BytesIO()
            folder = self.disk / owner if owner == "user" else self.disk
            with tarfile.open(fileobj=data, mode="w:gz") as tar:
                for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                    tar.add(path, path.relative_to(folder))
            packed[owner] = answer(data.getvalue())
            shutil.rmtree(folder)
        self.offer("context.sh", "VO=atlas\n")
        self.metadata = Server({"/context/default.tgz": packed["site"], "/latest/user-data": packed["user"]}).url

    def refused_user(self) -> None:
        """Make the disk one with the site's scripts, and user data that must be refused as a whole."""
        self.both_owners()
        shutil.rmtree(self.disk / "user")
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            for name in ("prolog.sh", "epilog.sh", "../outside"):
                body = f"#!/bin/sh\necho {REFUSED_MARK} >> {self.effects}\n".encode()
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(body), 0o755
                tar.addfile(member, io.BytesIO(body))
        self.offer("user-data", data.getvalue())
        self.offer("meta-data", "instance-id: one\n")

    def effect_lines(self) -> list[str]:
        """Return the effects so far."""
        return self.effects.read_text().splitlines()

    def traces(self) -> dict[str, bytes]:
        """Return the trace files by name."""
        folder = self.root / "var/log/contextagent"
        return {path.name: path.read_bytes() for path in sorted(folder.glob("trace-*.jsonl"))}

    def tree(self) -> dict[str, str]:
        """Return every path below the root with its type, mode and, for a link, target; contents are not looked at."""
        found = {}
        for folder, folders, names in os.walk(self.root):
            for name in [*folders, *names]:
                path = os.path.join(folder, name)
                mode = os.lstat(path).st_mode
                found[os.path.relpath(path, self.root)] = f"{mode:o}"
        return found
