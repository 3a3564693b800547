"""The kind of guest whose PID 1 is SysV's init, laid out as EL5 is: its inittab, its rc, its folders, no /run.

The kernel, the programs and the device manager are Debian's.  What EL does with a service is what its own scripts do
with it: `chkconfig --add` puts links where the service's header says, `rc` follows them, and stops only what holds a
lock in /var/lock/subsys.  They are written anew here, to those rules.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.vm.image import Kind
from tests.vm.parts import link, run, write

if TYPE_CHECKING:
    from pathlib import Path

UDEV_RULES = """
50-udev-default.rules 60-block.rules 60-cdrom_id.rules 60-persistent-storage.rules 80-drivers.rules
80-net-setup-link.rules
""".split()
PATH = "PATH=/sbin:/usr/sbin:/bin:/usr/bin; export PATH\n"
# The report stands in for the logins
INITTAB = """
id:3:initdefault:
si::sysinit:/etc/rc.d/rc.sysinit
l0:0:wait:/etc/rc.d/rc 0
l1:1:wait:/etc/rc.d/rc 1
l2:2:wait:/etc/rc.d/rc 2
l3:3:wait:/etc/rc.d/rc 3
l4:4:wait:/etc/rc.d/rc 4
l5:5:wait:/etc/rc.d/rc 5
l6:6:wait:/etc/rc.d/rc 6
ca::ctrlaltdel:/sbin/shutdown -t3 -r now
lab:2345:once:/usr/local/sbin/lab-report
"""
RC_SYSINIT = f"""#!/bin/sh
{PATH}
mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
# EL5 has no /run; Debian's own programs want the name, and have a folder of the root disk
case " $(cat /proc/cmdline) " in
    *" lab.run=tmpfs "*) mount -t tmpfs -o mode=755 run /run ;;
esac
mkdir -p /run/lab
mount -t tmpfs -o mode=755 lab /run/lab
case " $(cat /proc/cmdline) " in
    *" lab.udev=none "*) modprobe -a virtio_pci virtio_net ata_piix sr_mod ;;
    *)
        /lib/systemd/systemd-udevd --daemon
        # all else follows from what these find
        udevadm trigger --action=add --subsystem-match=pci --subsystem-match=block --subsystem-match=net
        udevadm settle --timeout=60
        ;;
esac
chmod 666 /dev/console /dev/ttyS0 # the scripts of users speak to the test as well
hostname -F /etc/hostname
ip link set lo up
# EL5 removes the files of the boot before, and leaves the folders
case " $(cat /proc/cmdline) " in
    *" lab.run=kept "*) rm -f /var/lock/subsys/* ;;
    *) find /var/lock /var/run ! -type d -exec rm -f {{}} + ;;
esac
"""
RC = f"""#!/bin/sh
{PATH}
runlevel=$1
echo "LAB-RUNLEVEL $runlevel $(cut -d" " -f1 /proc/uptime)"
for link in "/etc/rc$runlevel.d"/K*; do
    name=${{link##*/K??}}
    [ ! -x "$link" ] || [ ! -f "/var/lock/subsys/$name" ] || "$link" stop
done
for link in "/etc/rc$runlevel.d"/S*; do
    name=${{link##*/S??}}
    [ -x "$link" ] && [ ! -f "/var/lock/subsys/$name" ] || continue
    "$link" start
done
"""
CHKCONFIG = f"""#!/bin/sh
{PATH}
case $1 in
    --add | --del) action=$1 name=$2 script=/etc/rc.d/init.d/$2 ;;
    *) echo "usage: chkconfig --add|--del NAME" >&2; exit 1 ;;
esac
rm -f /etc/rc.d/rc?.d/[SK]??"$name"
[ $action = --add ] || exit 0
header=$(sed -n 's/^# *chkconfig: *//p' "$script")
[ -n "$header" ] && grep -q '^# *description: *[^ ]' "$script" || {{
    echo "service $name does not support chkconfig" >&2
    exit 1
}}
set -- $header
for level in 0 1 2 3 4 5 6; do
    case $1 in
        *$level*) place=S$2 ;;
        *) place=K$3 ;;
    esac
    ln -s "../init.d/$name" "/etc/rc.d/rc$level.d/$place$name"
done
"""
NETWORK = """#!/bin/sh
# chkconfig: 2345 10 90
# description: The network card's address, the one that QEMU's own DHCP would give
lock=/var/lock/subsys/network
case $1 in
    start)
        echo "LAB-NETWORK"
        [ ! -e /sys/class/net/eth0 ] || {
            ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2
        }
        : >$lock
        ;;
    stop)
        rm -f $lock
        ;;
esac
"""
HALT = f"""#!/bin/sh
{PATH}
killall5 -15
killall5 -9
echo "LAB-HALT"
sync
mount -n -o remount,ro /
case $0 in
    *reboot) exec reboot -d -f ;;
    *) exec halt -d -f -p ;;
esac
"""


def fit(root: Path) -> None:
    """Put EL5's layout in place of Debian's start scripts."""
    etc = root / "etc"
    for old in (*etc.glob("rc?.d"), etc / "init.d", root / "run"):
        shutil.rmtree(old)
    for path, text, mode in (
        ("etc/inittab", INITTAB, 0o644),
        ("etc/rc.d/rc.sysinit", RC_SYSINIT, 0o755),
        ("etc/rc.d/rc", RC, 0o755),
        ("etc/rc.d/init.d/network", NETWORK, 0o755),
        ("etc/rc.d/init.d/halt", HALT, 0o755),
        ("usr/sbin/chkconfig", CHKCONFIG, 0o755),
        ("etc/hostname", "guest\n", 0o644),
        ("etc/hosts", "127.0.0.1 localhost guest\n", 0o644),
        ("etc/fstab", "", 0o644),
        ("etc/resolv.conf", "nameserver 10.0.2.3\n", 0o644),
    ):
        write(root / path, text, mode)
    link(etc / "init.d", "rc.d/init.d")
    for level in range(7):
        (etc / f"rc.d/rc{level}.d").mkdir()
        link(etc / f"rc{level}.d", f"rc.d/rc{level}.d")
    link(etc / "rc.d/rc0.d/S01halt", "../init.d/halt")
    link(etc / "rc.d/rc6.d/S01reboot", "../init.d/halt")
    for name in ("run", "lock"):
        (root / "var" / name).unlink()  # links to /run
    for name in ("run", "var/run", "var/lock/subsys"):
        (root / name).mkdir(parents=True)
    run("chroot", root, "/sbin/chkconfig", "--add", "network")
    for rules in (root / "usr/lib/udev/rules.d").iterdir():
        if rules.name not in UDEV_RULES:
            rules.unlink()


SYSV = Kind("sysv", ("sysvinit-core", "udev", "iproute2", "kmod", "rpm"), "el5", fit, __file__)
