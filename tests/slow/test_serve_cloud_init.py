"""Debian's cloud-init boots from `serve` as from a cloud: it finds it at 169.254.169.254, and runs what it gets.

cloud-init runs unchanged in a Debian tree, in namespaces of its own; the service listens at the other end of a link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench import lab
from tests.machine import Done, run
from tests.network import SERVICE, Network
from tests.serving import Serving

if TYPE_CHECKING:
    from pathlib import Path

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJLv7wEM0P8gyGZCkFB1Xm5YQmV2j2iE0o9Jx7r7A1aB somebody"
USER_DATA = "#!/bin/sh\necho ran on $(cat /etc/hostname) >/run/ran\n"
META_DATA = (
    f"instance-id: i-served\nuuid: b0fa911b-69d4-4476-bbe2-1c92bff6535c\nhostname: served\npublic-keys: ['{KEY}']\n"
)
_CONFIGURATION = (
    "users: [{{name: root, lock_passwd: false}}]\ndisable_root: false\nnetwork: {{config: disabled}}\n"
    "datasource_list: [{name}]\ndatasource:\n"
    "  {name}: {{metadata_urls: ['http://169.254.169.254'], strict_id: 'false'}}\n"
    "cloud_init_modules: [set_hostname, ssh]\ncloud_config_modules: []\ncloud_final_modules: [scripts-user]\n"
    "system_info: {{default_user: {{name: root}}}}\n"
)
_ENTER = """
set -eu
upper=$1 view=$2 tree=$3
mkdir -p "$upper/files/etc/cloud/cloud.cfg.d" "$upper/work" "$view"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$upper/files,workdir=$upper/work" "$view"
mount -t proc proc "$view/proc"
mount -t tmpfs tmpfs "$view/run"
mount -t tmpfs tmpfs "$view/dev"
for device in /dev/null /dev/urandom; do : >"$view$device"; mount --bind "$device" "$view$device"; done
mount -t sysfs -o ro sysfs "$view/sys"
mkdir -p "$view/run/udev"
chroot "$view" cloud-init init >&2
chroot "$view" cloud-init modules --mode=final >&2
chroot "$view" sh -c 'cat /run/ran /var/lib/cloud/instance/datasource /var/lib/cloud/data/instance-id'
chroot "$view" sh -c 'cat /root/.ssh/authorized_keys' >&2
"""


def boot(network: Network, folder: Path, name: str) -> Done:
    """Boot a machine whose cloud-init asks one data source, and return what it ran and took."""
    upper = folder / "upper"
    (upper / "files/etc/cloud/cloud.cfg.d").mkdir(parents=True)
    (upper / "files/etc/cloud/cloud.cfg.d/99-bench.cfg").touch()
    (upper / "files/etc/cloud/cloud.cfg.d/99-serve.cfg").write_text(_CONFIGURATION.format(name=name))
    return run(
        (
            *network.prefix,
            *("env", "product_name=OpenStack Nova"),  # of the first process: how OpenStack is known without firmware
            *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
            *("sh", "-c", _ENTER, "enter", str(upper), str(folder / "view"), str(lab.ROOT)),
        )
    )


@pytest.mark.parametrize(
    ("name", "instance", "asked"),
    [
        ("Ec2", "i-served", "/2009-04-04/meta-data/public-keys/0/openssh-key"),
        ("OpenStack", "b0fa911b-69d4-4476-bbe2-1c92bff6535c", "/openstack/2018-08-27/meta_data.json"),
    ],
)
def test_cloud_init_takes_identity_keys_and_user_data_from_a_served_folder(
    tmp_path: Path, name: str, instance: str, asked: str
) -> None:
    lab.prepare()
    site = tmp_path / "site"
    site.mkdir()
    (site / "user-data").write_text(USER_DATA)
    (site / "meta-data").write_text(META_DATA)
    with Network() as network:
        enter = ("nsenter", f"--net={network.far}", "--")
        with Serving(site, bind=SERVICE, prefix=enter) as serving:
            done = boot(network, tmp_path, name)
            log = serving.log()
    assert done.code == 0, done.err
    ran, source, found = done.out.splitlines()
    assert (ran, found) == ("ran on served", instance)
    assert source.startswith(f"DataSource{name}")
    assert KEY in done.err
    assert any(f" GET {asked} 200 " in line for line in log)
