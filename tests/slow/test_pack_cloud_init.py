"""Debian's cloud-init finds a disk that `pack` made by its label, mounts it, and takes its user data from it.

cloud-init and its `mount` run unchanged in a Debian tree, in namespaces of their own: cloud-init sets the hostname.
Where the kernel has no iso9660, `mount` finds a helper of that name, as for any file system in user space: fuseiso,
which knows nothing of the library that wrote the disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.bench import lab
from tests.machine import AGENT, run

if TYPE_CHECKING:
    from collections.abc import Iterator

USER_DATA = "#!/bin/sh\necho hello from the disk\n"
META_DATA = "instance-id: i-packed\nlocal-hostname: packed\ndsmode: local\n"
_ENTER = """
set -eu
upper=$1 view=$2 seed=$3
mkdir -p "$upper/files" "$upper/work" "$view"
mount -t overlay overlay -o "lowerdir=$4,upperdir=$upper/files,workdir=$upper/work" "$view"
mount -t proc proc "$view/proc"
mount -t tmpfs tmpfs "$view/run"
mount -t tmpfs tmpfs "$view/dev"
for device in /dev/null /dev/urandom /dev/fuse "$seed"; do
    [ ! -e "$device" ] || { : >"$view$device"; mount --bind "$device" "$view$device"; }
done
mount -t sysfs -o ro sysfs "$view/sys"
mkdir -p "$view/run/udev"
: >"$view/etc/cloud/cloud.cfg.d/99-bench.cfg"
printf '%s\\n' 'datasource_list: [NoCloud]' 'network: {config: disabled}' 'cloud_init_modules: []' \\
    >"$view/etc/cloud/cloud.cfg.d/99-pack.cfg"
chroot "$view" cloud-init init --local
chroot "$view" sh -c 'cd /var/lib/cloud && cat instance/datasource data/instance-id instance/user-data.txt'
"""
_HELPER = '#!/bin/sh\nexec /opt/fuseiso/ld.so --library-path /opt/fuseiso /opt/fuseiso/fuseiso "$1" "$2"\n'


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """Return a loop device that shows a disk made by `pack`."""
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "user-data").write_text(USER_DATA)
    (seed / "meta-data").write_text(META_DATA)
    made = run((*AGENT, "pack", str(seed), "-o", str(tmp_path / "seed.iso"), "--label", "cidata"))
    assert made.code == 0, made.err
    device = subprocess.check_output(
        ["losetup", "--find", "--show", "--read-only", tmp_path / "seed.iso"], text=True
    ).strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_cloud_init_takes_its_user_data_from_a_packed_disk(loop: str, tmp_path: Path) -> None:
    lab.prepare()
    if "iso9660" not in Path("/proc/filesystems").read_text():
        _put_helper(tmp_path / "upper" / "files")
    done = run(
        (
            *("unshare", "--mount", "--pid", "--uts", "--net", "--ipc", "--fork", "--kill-child"),
            *("sh", "-c", _ENTER, "enter"),
            *(str(tmp_path / "upper"), str(tmp_path / "view"), loop, str(lab.ROOT)),
        )
    )
    assert done.code == 0, done.err
    assert f"DataSourceNoCloud: DataSourceNoCloud [seed={loop}]" in done.out
    assert done.out.endswith(f"i-packed\n{USER_DATA}")


def _put_helper(files: Path) -> None:
    """Put `mount.iso9660` into the tree: this machine's fuseiso, with its own libraries and loader."""
    program = shutil.which("fuseiso")
    if program is None:
        if os.geteuid() != 0:
            pytest.skip("the kernel has no iso9660, and fuseiso is not there")
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "fuseiso"]
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
        subprocess.run(install, check=True, capture_output=True)
        program = str(shutil.which("fuseiso"))
    place = files / "opt/fuseiso"
    place.mkdir(parents=True)
    shutil.copy(program, place / "fuseiso")
    for word in subprocess.check_output(["ldd", program], text=True).split():
        if word.startswith("/"):
            shutil.copy(word, place / ("ld.so" if "/ld-linux" in word else Path(word).name))
    helper = files / "usr/sbin/mount.iso9660"
    helper.parent.mkdir(parents=True)
    helper.write_text(_HELPER)
    helper.chmod(0o755)
