"""The same scripts in each competitor's form, and what cloud-init is told for its part."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TUNED = """#cloud-config
# as fair as it gets: one data source, and no module but the runner of scripts
users: []
disable_root: false
preserve_hostname: true
network: {config: disabled}
cloud_init_modules: []
cloud_config_modules: []
cloud_final_modules: [scripts-user]
system_info:
  {distro: debian, paths: {cloud_dir: /var/lib/cloud/, templates_dir: /etc/cloud/templates/}, ssh_svcname: ssh}
"""
_DEFAULT = "# the distribution's own configuration; only the data source is named\n"
_EC2 = "datasource: {Ec2: {strict_id: false, max_wait: 10, timeout: 5, apply_full_imds_network_config: false}}\n"
CLOUD_CONFIGS = {
    "disk-tuned": _TUNED + "datasource_list: [NoCloud]\ndatasource: {NoCloud: {fs_label: null}}\n",
    "disk-default": _DEFAULT + "datasource_list: [NoCloud, None]\n",
    "metadata-tuned": _TUNED + "datasource_list: [Ec2]\n" + _EC2,
    "metadata-default": _DEFAULT + "network: {config: disabled}\ndatasource_list: [Ec2, None]\n" + _EC2,
}
_META_DATA = {
    "ami-id": "ami-00000001",
    "ami-launch-index": "0",
    "ami-manifest-path": "FIXME",
    "block-device-mapping/ami": "vda",
    "block-device-mapping/root": "/dev/vda",
    "hostname": "bench-vm.example",
    "instance-action": "none",
    "instance-id": "i-00000001",
    "instance-type": "m1.small",
    "local-hostname": "bench-vm.example",
    "local-ipv4": "169.254.10.2",
    "placement/availability-zone": "zone",
    "public-hostname": "bench-vm.example",
    "public-ipv4": "",
    "public-keys/.list": "0=bench",
    "public-keys/0/openssh-key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJLv7wEM0P8gyGZCkFB1Xm5YQmV2j2iE0o9Jx7r7A1aB x\n",
    "reservation-id": "r-00000001",
    "security-groups": "default",
}
"""The few keys that the EC2 services of OpenStack and OpenNebula know: who walks the tree has the least to ask."""
_VERSIONS = ("1.0", "2007-01-19", "2008-02-01", "2009-04-04")


class Scripts(NamedTuple):
    """What a boot has to run.

    Attributes:
        halves: The names of each owner's scripts for `pre` and `post`, in order.
        texts: Each script's text.
    """

    halves: dict[str, dict[str, list[str]]]
    texts: dict[str, str]

    def files(self, owner: str) -> dict[str, str]:
        """Return an owner's scripts at their paths in the native layout."""
        return {
            f"{phase}-network.d/{name}": self.texts[name]
            for phase, names in self.halves[owner].items()
            for name in names
        }


def write(folder: Path, scripts: Scripts) -> None:
    """Write the scripts below a folder.

    `disk` is a context disk, `seed` the floors', `nocloud` cloud-init's; `service…` are trees of a metadata service,
    which differ in their user data: a multipart, the same scripts in a tar, and one for cloud-init, which has to bring
    the site's scripts, too.
    """
    for owner in scripts.halves:
        _put_all(folder / "disk" / owner, scripts.files(owner), 0o755)
    _put_all(folder / "seed" / "user", scripts.files("user"), 0o755)
    put(folder / "seed/instance-id", "i-0001\n")
    _tar(folder / "seed/default.tgz", scripts.files("site"))
    everything = _multipart(("x-shellscript", name, text) for name, text in scripts.texts.items())
    put(folder / "nocloud/meta-data", "instance-id: i-0001\nlocal-hostname: bench-vm\n")
    put(folder / "nocloud/user-data", everything)
    kinds = {"pre": "cloud-boothook", "post": "x-shellscript"}
    users = [
        (kinds[phase], name, scripts.texts[name]) for phase, names in scripts.halves["user"].items() for name in names
    ]
    _service(folder / "service", _multipart(users), scripts)
    _service(folder / "service-tar", "", scripts)
    _tar(folder / "service-tar/latest/user-data", scripts.files("user"))
    _service(folder / "service-cloud-init", everything, scripts)


def _service(folder: Path, user_data: str, scripts: Scripts) -> None:
    """Write the tree of a metadata service in EC2's dialect, with the site's bundle, and the user's for the floor."""
    _put_all(folder / "latest/meta-data", _META_DATA)
    put(folder / "latest/user-data", user_data)
    for version in _VERSIONS:
        (folder / version).symlink_to("latest")
    (folder / "context").mkdir()
    _tar(folder / "context/user.tgz", scripts.files("user"))
    _tar(folder / "context/default.tgz", scripts.files("site"))


def put(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _put_all(folder: Path, files: dict[str, str], mode: int = 0o644) -> None:
    for path, text in files.items():
        put(folder / path, text, mode)


def _tar(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            tar.addfile(member, io.BytesIO(text.encode()))


def _multipart(parts: Iterable[tuple[str, str, str]]) -> str:
    """Put the parts (type, name, text) together by hand: `email` looks for a free boundary in all of a thousand."""
    mark = "=====bench====="
    texts = [
        f'--{mark}\nContent-Type: text/{kind}\nContent-Disposition: attachment; filename="{name}"\n\n{text}\n'
        for kind, name, text in parts
    ]
    return f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{mark}"\n\n{"".join(texts)}--{mark}--\n'
