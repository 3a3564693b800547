"""Machines that boot, are watched, run a pilot and end.

Each is a view of this one with processes, files and a network of its own.  Nothing that a pilot does there reaches a
process of this machine: PanDA's kills all it finds of its account.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, Any

from tests.machine import AGENT, Guest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PATIENCE_S = 170
HOME = "/var/lib/contextuser"
DOWN = "/usr/sbin/down"
_INIT = """#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
{first}
contextagent run --disk /context --metadata none
contextagent watch &
while [ ! -e /run/down ]; do sleep 0.1; done
{last}
ps -u contextuser -o args= >/left-behind
"""


class Piloted:
    """A machine with a pilot, from its boot to its end.

    Args:
        folder: Where its files are, and what it says.
        site: The site's settings, to which the command is added that ends the machine.
        first: What it does before it boots, as a script's lines.
        last: What it does between its finish and its end.
        folders: Folders of its own: where they stand there, and what they are made of.
    """

    def __init__(
        self,
        folder: Path,
        site: Mapping[str, Any],
        *,
        first: str = "",
        last: str = "",
        folders: Mapping[str, Path] | None = None,
    ) -> None:
        self.guest = guest = Guest(folder)
        home = guest.root / HOME.strip("/")
        home.parent.mkdir(parents=True)
        os.mknod(home, stat.S_IFCHR, 0)  # the overlay's word for "not there", whatever this machine has
        guest.put("usr/bin/contextagent", f'#!/bin/sh\nexec {" ".join(AGENT)} "$@"\n', 0o755)
        guest.put(DOWN.strip("/"), "#!/bin/sh\n: >/run/down\n", 0o755)
        guest.put("sbin-init", _INIT.format(first=first, last=last), 0o755)
        features = site.get("features", {})
        ends = {**features, "machine": {"shutdown_command": DOWN, **features.get("machine", {})}}
        guest.put("context/site.json", json.dumps({**site, "features": ends}))
        for place, source in (folders or {}).items():
            shutil.copytree(source, guest.root / place.strip("/"))
        self._console = folder / "console"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Boot it."""
        alone = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "alone")
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                (*alone, *self.guest.words("/sbin-init")),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                env={"PATH": os.environ["PATH"]},
                umask=0o022,
            )

    def end(self) -> None:
        """Wait until the machine has ended itself."""
        assert self._process
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.close()
            raise AssertionError(self.console) from None

    def close(self) -> None:
        """Kill what there is of it: its first process takes all others along."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def console(self) -> str:
        """What all of it said, then its pilot."""
        logs = sorted((self.guest.root / "var/lib/contextagent").glob("**/pilot-*.log"))
        return "\n".join(path.read_text(errors="backslashreplace") for path in (self._console, *logs))

    @property
    def message(self) -> str:
        """What it left for whoever made it."""
        return self.guest.text("etc/joboutputs/shutdown_message")

    def text(self, path: str) -> str:
        """Return a file's text, once the machine has ended."""
        return self.guest.text(path)

    def states(self) -> list[str]:
        """Return the pilot's states, as the trace has them."""
        return [each["state"] for each in self.guest.trace() if each["ev"] == "pilot"]
