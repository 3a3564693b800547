"""What the contract's tests share: contexts in a few words, and what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.machine import Done, Machine

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE6A7MOcMNpVXB4GSTCFT3aDyjAUFyTxQgmNy6jFtxDe"


def lay(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Put files into a folder that stands for a disk."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def says(machine: Machine, *names: str, body: str = "") -> dict[str, str]:
    """Return scripts that each write their name and argument to `effects` of the machine, and then do `body`."""
    return {name: f'echo "{name} $1" >> {machine.root}/effects\n{body}\n' for name in names}


def effects(machine: Machine) -> list[str]:
    """Return what scripts wrote to `effects`."""
    path = machine.root / "effects"
    return path.read_text().splitlines() if path.exists() else []


def boot(machine: Machine, disk: Path, *words: str) -> Done:
    """Run with the disk."""
    return machine.run("run", *words, "--disk", str(disk))


def ids(machine: Machine, event: str = "start") -> list[str]:
    """Return the ids of all records of an event."""
    return [record["id"] for record in machine.trace() if record["ev"] == event]


def reports(machine: Machine) -> dict[str, dict[str, Any]]:
    """Return the scripts of status.json by id."""
    return {each["id"]: each for each in machine.status()["scripts"]}


def reasons(machine: Machine, kind: str = "warnings") -> list[str]:
    """Return the reasons of all warnings (or errors)."""
    return [each["reason"] for each in machine.status()[kind]]


def messages(machine: Machine, kind: str = "warnings") -> str:
    """Return the messages of all warnings (or errors), a line each."""
    return "\n".join(each["message"] for each in machine.status()[kind])


def output(machine: Machine, script_id: str) -> str:
    """Return what is kept of a script's output."""
    return machine.text(str(reports(machine)[script_id]["output"]).lstrip("/"))
