"""Machines that have a pilot: booted, watched, and looked at while it lives."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Self

from tests.watching import Watching, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.machine import Machine

MARK = "CONTEXTAGENT_PILOT_MARK"
GONE_S = 10.0
"""Within this time after a pilot's end nothing of it may be left."""


class Piloted:
    """A machine that was booted with a pilot of its site's (or user's), and a watch on it as long as a test wants.

    Attributes:
        machine: The machine.
        disk: Folder that stands for its context disk.
        watch: The watch that runs now.
    """

    def __init__(self, machine: Machine, disk: Path) -> None:
        self.machine = machine
        self.disk = disk
        self.mark = os.urandom(8).hex()
        self.watch: Watching | None = None
        self.policy: dict[str, Any] = {"watch": {"http": "off"}}
        self.site: dict[str, Any] = {}

    def pilot(self, command: str | list[str] = "sleep 100", **more: Any) -> Self:
        """Have a pilot of framework `command`; `more` are its other settings."""
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        settings = {"framework": "command", "command": words, "stop": {"timeout_s": 2}, **more}
        settings["env"] = {MARK: self.mark, **settings.get("env", {})}
        self.site["pilot"] = settings
        return self

    def boot(self, *, code: int = 0) -> Self:
        """Run both phases."""
        self.machine.put("etc/contextagent/policy.yaml", json.dumps(self.policy))
        if self.site:
            (self.disk / "site.json").write_text(json.dumps(self.site))
        done = self.machine.run("run", "--disk", str(self.disk))
        assert done.code == code, done.err
        return self

    def script(self, name: str, text: str) -> Self:
        """Give the machine a script."""
        path = self.disk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        return self

    def __enter__(self) -> Self:
        """Start the watch."""
        self.watch = Watching(self.machine)
        self.watch.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """End the watch, and whatever is left of the pilot."""
        try:
            if self.watch is not None:
                self.watch.__exit__(*exception)
        finally:
            for number in self.numbers():
                keeper = self.said(number, "started").get("keeper")
                if keeper and os.path.exists(f"/proc/{keeper}"):
                    os.kill(keeper, signal.SIGKILL)
            until(self._is_gone, "all is gone")

    def _is_gone(self) -> bool:
        """Kill what is left, and return whether nothing was."""
        left = self.survivors()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return not left

    def watched_again(self) -> None:
        """Kill the watch, and start another."""
        assert self.watch is not None
        self.watch.process.kill()
        self.watch.process.wait()
        self.__enter__()

    def look(self) -> None:
        """Have the watch look at everything now, as it does once a minute."""
        assert self.watch is not None
        self.watch.process.send_signal(signal.SIGCHLD)

    # ---- what is seen ----

    def numbers(self) -> list[int]:
        folder = self.machine.root / "run/contextagent/pilot"
        return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.exists() else []

    def said(self, number: int, name: str) -> dict[str, Any]:
        path = self.machine.root / f"run/contextagent/pilot/{number}/{name}"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def state(self) -> Mapping[str, Any]:
        """Return the pilot as in status.json."""
        return dict(self.machine.status()["pilot"] or {"state": None, "reason": None, "code": None})

    def until(self, *states: str, is_true: Callable[[Mapping[str, Any]], object] = bool) -> Mapping[str, Any]:
        """Wait until the pilot stands so."""
        until(lambda: self.state()["state"] in states and is_true(self.state()), f"{states}, it is {self.state()}")
        return self.state()

    def log(self, number: int = 1) -> str:
        return self.machine.text(f"var/lib/contextagent/instance/output/pilot-{number}.log")

    def message(self) -> str:
        """Return what the job outputs were told of the machine's end."""
        path = self.machine.root / "etc/joboutputs/shutdown_message"
        until(path.exists, f"shutdown_message: {self.watch.log if self.watch else ''}")
        return path.read_text()

    def records(self) -> list[tuple[str, str | None]]:
        """Return state and reason of each record of the pilot in the trace."""
        return [(each["state"], each["reason"]) for each in self.machine.trace() if each["ev"] == "pilot"]

    def place(self, name: str, number: int = 1) -> Path:
        """Return a file in the pilot's folder."""
        return self.machine.root / f"var/lib/contextuser/pilot-{number}/{name}"

    def wait_for(self, name: str, number: int = 1) -> None:
        until(self.place(name, number).exists, f"the pilot made {name}: {self.state()}")

    def survivors(self) -> list[int]:
        """Return what is left of the pilot's processes."""
        mark = f"{MARK}={self.mark}".encode()
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if mark in _environment(pid)]

    def is_gone_in_time(self) -> bool:
        """Return whether nothing is left of the pilot within ten seconds."""
        end_s = time.monotonic() + GONE_S
        while self.survivors():
            if time.monotonic() > end_s:
                return False
            time.sleep(0.02)
        return True


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""
