"""The drop-in that is shipped leaves user data to the agent: Debian's cloud-init takes it, and looks for none any more.

cloud-init runs unchanged in a Debian tree, in namespaces of its own; a seed lies where it would find one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.bench import lab
from tests.machine import REPOSITORY, run

if TYPE_CHECKING:
    from pathlib import Path

DROP_IN = REPOSITORY / "packaging/rpm/99-contextagent.cfg"
_ENTER = """
set -eu
upper=$1 view=$2
mkdir -p "$upper/work" "$view"
mount -t overlay overlay -o "lowerdir=$3,upperdir=$upper/files,workdir=$upper/work" "$view"
mount -t proc proc "$view/proc"
mount -t sysfs -o ro sysfs "$view/sys"
mount -t tmpfs tmpfs "$view/run"
mkdir -p "$view/run/udev"
: >"$view/etc/cloud/cloud.cfg.d/99-bench.cfg"
: >"$view/etc/cloud/cloud.cfg.d/99-pack.cfg"
chroot "$view" sh -c 'cloud-init init --local && cloud-init init' >"$upper/said" 2>&1
chroot "$view" cat /var/lib/cloud/instance/datasource
chroot "$view" sh -c '[ ! -s /var/lib/cloud/instance/user-data.txt ] || cat /var/lib/cloud/instance/user-data.txt'
"""


@pytest.mark.parametrize(
    ("has_drop_in", "expected"),
    [(False, ("DataSourceNoCloud", "echo mine")), (True, ("DataSourceNone: DataSourceNone", ""))],
)
def test_with_the_drop_in_cloud_init_takes_no_user_data(
    tmp_path: Path, expected: tuple[str, str], *, has_drop_in: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a Debian tree of its own needs root")
    lab.prepare()
    files = tmp_path / "upper/files"
    seed = files / "var/lib/cloud/seed/nocloud"
    seed.mkdir(parents=True)
    (seed / "user-data").write_text("#!/bin/sh\necho mine\n")
    (seed / "meta-data").write_text("instance-id: i-mine\n")
    folder = files / "etc/cloud/cloud.cfg.d"
    folder.mkdir(parents=True)
    (folder / "98-lab.cfg").write_text("network: {config: disabled}\ncloud_init_modules: []\n")
    if has_drop_in:
        (folder / DROP_IN.name).write_text(DROP_IN.read_text())
    namespaces = ("unshare", "--mount", "--pid", "--uts", "--net", "--ipc", "--fork", "--kill-child")
    done = run(
        (*namespaces, "sh", "-c", _ENTER, "enter", str(tmp_path / "upper"), str(tmp_path / "view"), str(lab.ROOT))
    )
    assert done.code == 0, done.err + (tmp_path / "upper/said").read_text()
    source, _, user_data = done.out.partition("\n")
    assert source.startswith(expected[0])
    assert (expected[1] in user_data) if expected[1] else user_data == ""
