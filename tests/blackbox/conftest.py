"""What black-box tests of the disk source may ask for."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contextagent.host import Host
from tests.disks import folder_with
from tests.machine import Machine, make_iso

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def host(machine: Machine) -> Host:
    (machine.root / "dev").mkdir()
    return Host(str(machine.root))


@pytest.fixture
def dev(host: Host) -> Path:
    """Return the folder of the machine's devices, where an image file stands for a drive."""
    return Path(host.root) / "dev"


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Return a folder with a site's and a user's scripts."""
    return folder_with(tmp_path / "both", "prolog.sh", "post-network.d/10-first", "user/epilog.sh")


@pytest.fixture
def loop(both: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a real block device that holds the folder as an ISO."""
    image = make_iso(both, tmp_path / "loop.iso")
    device = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield Path(device)
    subprocess.run(["losetup", "--detach", device], check=True)
