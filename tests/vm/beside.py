"""The kind of guest that has Debian's cloud-init and ifupdown, enabled, beside our package."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.vm import systemd
from tests.vm.image import Kind
from tests.vm.parts import write

if TYPE_CHECKING:
    from pathlib import Path

# eth0 is systemd-networkd's, as in every guest of this lab
INTERFACES = "auto lo\niface lo inet loopback\n"
# Without what takes long under emulation, and asks for programs that are not here: that is cloud-init's gain
CONFIG = """network: {config: disabled}
datasource_list: [NoCloud, None]
growpart: {mode: 'off'}
resize_rootfs: false
ssh_genkeytypes: []
locale: false
apt_preserve_sources_list: true
"""
GENERATOR = "usr/lib/systemd/system-generators/cloud-init-generator"


def fit(root: Path) -> None:
    """Take out of a fresh tree what only costs emulated seconds, but for what decides whether cloud-init runs."""
    kept = root / "root/generator"
    shutil.copy(root / GENERATOR, kept)
    systemd.fit(root)
    (root / GENERATOR).parent.mkdir()
    kept.rename(root / GENERATOR)
    write(root / "etc/network/interfaces", INTERFACES)
    write(root / "etc/cloud/cloud.cfg.d/90-lab.cfg", CONFIG)


BESIDE = Kind("beside", (*systemd.SYSTEMD.packages, "cloud-init", "ifupdown"), "el6", fit, __file__, has_python=True)
