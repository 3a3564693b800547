"""The kind of guest whose PID 1 is systemd."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.vm.image import Kind
from tests.vm.parts import link, write

if TYPE_CHECKING:
    from pathlib import Path

# Units with no part in a test that cost emulated seconds
MASKED = """
console-getty.service dbus.service dbus.socket dev-hugepages.mount dev-mqueue.mount getty-static.service
getty@tty1.service kmod-static-nodes.service ldconfig.service modprobe@.service proc-sys-fs-binfmt_misc.automount
serial-getty@ttyS0.service sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount
sys-kernel-tracing.mount systemd-ask-password-console.path systemd-ask-password-wall.path systemd-binfmt.service
systemd-boot-system-token.service systemd-firstboot.service systemd-hwdb-update.service systemd-journal-flush.service
systemd-logind.service systemd-machine-id-commit.service systemd-network-generator.service
systemd-pcrphase-sysinit.service systemd-pcrphase.service systemd-random-seed.service systemd-repart.service
systemd-sysusers.service systemd-update-done.service systemd-update-utmp-runlevel.service systemd-update-utmp.service
systemd-user-sessions.service
""".split()
UDEV_RULES = """
50-udev-default.rules 60-block.rules 60-cdrom_id.rules 60-persistent-storage.rules 80-drivers.rules
80-net-setup-link.rules 99-systemd.rules
""".split()
REPORT_UNIT = """
[Unit]
Description=Run the test's commands, hand their results back, power off
Wants=network-online.target
After=multi-user.target network-online.target contextagent.service

[Service]
Type=exec
ExecStart=/usr/local/sbin/lab-report
"""
TARGET = """
[Unit]
Description=Everything a test needs
Requires=multi-user.target
After=multi-user.target
"""
NETWORK = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
# A machine without a card would wait for its network for two minutes
NO_CARD = "[Unit]\nConditionPathExists=/sys/class/net/eth0\n"
ASKED = """
systemctl --failed --no-legend --plain > failed
journalctl -b --no-pager > journal; grep -i "ordering cycle" journal > cycles
for unit in contextagent-pre-network contextagent; do
    echo $(systemctl show -p ActiveState -p SubState -p Result --value $unit | sort)
    set -- $(systemctl show -p InactiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic --value $unit | sort -n)
    echo $unit $((($2 - $1) / 1000)) >> milliseconds
done > units
"""
"""A test's text: what systemd thinks of the boot; it goes on in the folder where it is."""


def fit(root: Path) -> None:
    """Take out of a fresh tree what only costs emulated seconds; give it a console, a name, a network, the report."""
    for path, text in {
        "hostname": "guest\n",
        "hosts": "127.0.0.1 localhost guest\n",
        "machine-id": "a" + "0" * 30 + "1\n",
        "fstab": "",
        "resolv.conf": "nameserver 10.0.2.3\n",
        "systemd/network/eth0.network": NETWORK,
        "systemd/system/systemd-networkd-wait-online.service.d/lab.conf": NO_CARD,
        "systemd/system/lab-report.service": REPORT_UNIT,
        "systemd/system/lab.target": TARGET,
    }.items():
        write(root / "etc" / path, text)
    units = root / "etc/systemd/system"
    for wants in ("timers.target.wants", "getty.target.wants"):
        shutil.rmtree(units / wants, ignore_errors=True)
    for unit in MASKED:
        link(units / unit, "/dev/null")
    link(units / "default.target", "lab.target")
    link(units / "lab.target.wants/lab-report.service", "../lab-report.service")
    link(units / "multi-user.target.wants/systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service")
    link(
        units / "network-online.target.wants/systemd-networkd-wait-online.service",
        "/lib/systemd/system/systemd-networkd-wait-online.service",
    )
    shutil.rmtree(root / "usr/lib/systemd/system-generators")
    for rules in (root / "usr/lib/udev/rules.d").iterdir():
        if rules.name not in UDEV_RULES:
            rules.unlink()


SYSTEMD = Kind("systemd", ("systemd", "systemd-sysv", "udev", "iproute2", "kmod", "rpm"), "el6", fit, __file__)
