"""A config drive made by OpenStack Nova's own code is read as Nova meant it."""

from __future__ import annotations

from pathlib import Path

import pytest

from contextagent.host import Host
from contextagent.policy.settings import load_material, merge
from contextagent.sources.disk import search_disks
from tests.machine import run
from tests.slow import environments

DRIVE = Path(__file__).parent / "nova_metadata.py"


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a config drive that Nova made with genisoimage, as it does on a compute node."""
    image = tmp_path_factory.mktemp("nova") / "disk.config"
    python = environments.python(environments.NOVA, "nova.virt.configdrive")
    made = run((str(python), str(DRIVE), "drive", str(image)))
    assert made.code == 0, made.err
    return image


def test_novas_own_drive_gives_user_data_key_meta_map_and_uuid_to_the_user(drive: Path, tmp_path: Path) -> None:
    settings = merge(load_material("image", "policy.yaml", b""))
    findings = search_disks(Host(str(tmp_path)), settings, override=str(drive))
    findings.close()
    user = findings.found["user"]
    assert user is not None
    assert user.source == "disk:openstack"
    assert user.user_data == b"#!/bin/sh\necho a user of Nova's\n"
    assert [(offer.role, offer.data) for offer in user.offers] == [
        ("key", b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 nova@example.org"),
        ("kept", b'{"role":"worker"}'),
    ]
    assert findings.ids == {"openstack-uuid": "9f5c1a44-3f5e-4a9a-8d0f-5a8f2e0c7b11"}
    assert findings.found["site"] is None
    assert findings.warnings == ()
