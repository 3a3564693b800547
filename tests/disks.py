"""What tests of the disk source share: a machine whose clock and drives they hold, and a search of its disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contextagent.host import Host
from contextagent.policy.settings import load_material, merge
from contextagent.sources.devices import find_disks
from contextagent.sources.disk import search_disks

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.model import Owner
    from contextagent.sources.found import Findings, Found
    from contextagent.sources.media import NamedMedium

SCRIPT = "#!/bin/sh\n"


SITES = ["pre-network/prolog.sh", "post-network/post-network.d/10-first", "stop/prolog.sh"]
USERS = ["post-network/epilog.sh", "stop/epilog.sh"]


class HastyHost(Host):
    """A machine where a second passes whenever somebody looks at the clock, and drives say what they are told to."""

    def __init__(self, root: str, status: str = "ok") -> None:
        super().__init__(root)
        self.seconds = 0
        self.status = status
        self.ejected: list[str] = []

    def mono_ns(self) -> int:  # type: ignore[override]  # the real one needs no machine
        self.seconds += 1
        return self.seconds * 10**9

    def drive_status(self, device: str) -> Any:  # type: ignore[override]  # noqa: ARG002  # as above
        return self.status

    def eject(self, device: str) -> None:  # type: ignore[override]  # as above
        self.ejected.append(device)


def search(host: Host, override: object = None, *, policy: str = "") -> Findings:
    settings = merge(load_material("image", "policy.yaml", policy.encode()))
    findings = search_disks(host, settings, override=None if override is None else str(override))
    findings.close()
    return findings


def disk_of(found: Found) -> NamedMedium:
    assert found.medium is not None
    return found.medium


def scripts(findings: Findings, owner: Owner) -> list[str]:
    found = findings.found[owner]
    return [f"{offer.phase}/{offer.name}" for offer in found.offers if offer.role == "script"] if found else []


def verdicts(findings: Findings, owner: Owner) -> list[str]:
    return [verdict.verdict for verdict in findings.verdicts if verdict.owner == owner]


def reasons(findings: Findings, owner: Owner) -> str:
    return "; ".join(verdict.reason for verdict in findings.verdicts if verdict.owner == owner)


def warned(findings: Findings) -> list[str]:
    return [problem.reason for problem in findings.warnings]


def names(host: Host, *, rom: bool = False) -> list[str]:
    return [disk.name.removeprefix("/dev/") for disk in find_disks(host) if disk.is_rom or not rom]


def folder_with(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(SCRIPT)
    return path
