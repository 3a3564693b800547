"""The units beside those of whatever configures a network or keeps logs: systemd, asked for a boot, finds no cycle.

`systemd-analyze verify` puts together the transaction of a boot as process 1 does, generators included, and names every
cycle that it would have to break.  Planted ones show that it does.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.machine import REPOSITORY, Done, run
from tests.slow.trees import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PACKAGES = (
    "coreutils",
    "dash",
    "systemd-sysv",
    "udev",
    "cloud-init",
    "network-manager",
    "ifupdown",
    "nftables",
    "rsyslog",
    "auditd",
)
# What a machine with that package has enabled (cloud-init's generator adds its target to the boot), in either release
UNITS = {
    "cloud-init": "cloud-init-local cloud-init-main cloud-init cloud-init-network cloud-config cloud-final",
    "NetworkManager": "NetworkManager NetworkManager-wait-online",
    "systemd-networkd": "systemd-networkd systemd-networkd-wait-online",
    "ifupdown": "networking",
    "nftables": "nftables",
    "logs": "rsyslog auditd",
}
# What has run when each has begun to configure the network; cloud-init leaves that to others, and is last at it
NETWORK_UP = {
    "cloud-config": ("cloud-init", "ifupdown"),
    "NetworkManager": ("NetworkManager",),
    "systemd-networkd": ("systemd-networkd",),
    "networking": ("ifupdown",),
}
OURS = ("contextagent-pre-network", "contextagent")
EVERYTHING = tuple(UNITS)

_ENTER = """
set -eu
tree=$1 upper=$2 work=$3 view=$4; shift 4
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$upper,workdir=$work" "$view"
mount -t proc proc "$view/proc"
mount -t sysfs -o ro sysfs "$view/sys"
mount -t tmpfs -o mode=0755 tmpfs "$view/run"
mount -t tmpfs tmpfs "$view/tmp"
mkdir -p "$view/dev"
: >"$view/dev/null"
mount --bind /dev/null "$view/dev/null"
cd "$view"
exec chroot . dash -c "$@"
"""
_VERIFY = """
set -eu
export SYSTEMCTL_SKIP_SYSV=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin
systemctl --quiet enable "$@"
systemd-analyze verify --man=no --generators=yes --recursive-errors=yes \
    default.target contextagent.service contextagent-pre-network.service
"""
_SYSV = (
    "mkdir /run/made; /lib/systemd/system-generators/systemd-sysv-generator /run/made /run/made /run/made; ls /run/made"
)


class Image:
    """A Debian tree with the package's units, and whatever else a test puts in."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self._tree, self._folder = tree, folder
        for name in ("upper", "work", "view", *(f"upper/{name}" for name in ("proc", "sys", "run", "tmp"))):
            (folder / name).mkdir()
        self.units = folder / "upper/etc/systemd/system"
        self.put("usr/bin/contextagent", "#!/bin/sh\n", 0o755)
        generators = folder / "upper/etc/systemd/system-generators"
        generators.mkdir(parents=True)
        (generators / "cloud-init-generator").symlink_to("/dev/null")  # `verify` does what it would
        for path in (REPOSITORY / "init/systemd").glob("*.service"):
            self.put(f"usr/lib/systemd/system/{path.name}", path.read_text())
        self.alias = folder / "upper/usr/lib/systemd/system/contextagent-pre.service"
        self.alias.symlink_to("contextagent-pre-network.service")
        for path in (REPOSITORY / "init/sysv").iterdir():
            self.put(f"etc/init.d/{path.name}", path.read_text(), 0o755)

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file in place."""
        target = self._folder / "upper" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def plant(self, *lines: str) -> None:
        """Put a unit into the boot that says these things about order."""
        unit = ["[Unit]", "Description=planted", *lines, "[Service]", "Type=oneshot", "ExecStart=/bin/true"]
        self.put(
            "etc/systemd/system/planted.service", "\n".join([*unit, "[Install]", "WantedBy=multi-user.target", ""])
        )

    def verify(self, parts: Iterable[str], *more: str) -> Done:
        """Enable what these packages enable, and our units; return what systemd says of a boot."""
        names = [name for part in parts for name in UNITS[part].split() if self._has(name)]
        if "cloud-init" in parts:
            wants = self.units / "multi-user.target.wants"
            wants.mkdir(parents=True, exist_ok=True)
            (wants / "cloud-init.target").symlink_to("/lib/systemd/system/cloud-init.target")
        return self.run(_VERIFY, "verify", *(f"{name}.service" for name in (*OURS, *names, *more)))

    def run(self, *script: str) -> Done:
        """Run a shell script in this image."""
        places = (self._tree, *(self._folder / name for name in ("upper", "work", "view")))
        enter = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "enter")
        return run((*enter, *map(str, places), *script))

    def _has(self, name: str) -> bool:
        places = (self._tree / folder / f"systemd/system/{name}.service" for folder in ("lib", "usr/lib"))
        return any(place.exists() for place in places)


@pytest.fixture(params=["bookworm", "trixie"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Image:
    """An image of each release: systemd 252 with cloud-init 22, systemd 257 with cloud-init 25."""
    if not shutil.which("mmdebstrap"):
        pytest.skip("mmdebstrap is not installed here")
    return Image(unpacked(request.param, *PACKAGES), tmp_path)


@pytest.mark.parametrize("parts", [(), *((name,) for name in UNITS), EVERYTHING], ids="+".join)
def test_a_boot_has_no_cycle_and_the_units_no_fault(image: Image, parts: tuple[str, ...]) -> None:
    assert image.verify(parts) == Done(0, "", "")


@pytest.mark.parametrize("name", NETWORK_UP)
def test_each_of_them_comes_after_our_first_phase_so_that_the_contrary_is_a_cycle(image: Image, name: str) -> None:
    last = f"{name}.service"
    image.plant("DefaultDependencies=no", f"After={last}", "Before=contextagent-pre-network.service")
    said = image.verify(NETWORK_UP[name], "planted").err
    assert "ordering cycle" in said
    assert f"Found dependency on {last}/start" in said or f"Found ordering cycle on {last}/start" in said
    assert "Found dependency on contextagent-pre-network.service/start" in said


def test_our_second_phase_comes_after_the_network_and_the_first(image: Image) -> None:
    image.plant("DefaultDependencies=no", "After=contextagent.service", "Before=network.target")
    assert "ordering cycle" in image.verify(("systemd-networkd",), "planted").err


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("DefaultDependencies=no\n", ""),
        ("Before=network-pre.target", "Before=sysinit.target network-pre.target\nAfter=basic.target"),
    ],
)
def test_the_first_unit_would_close_a_cycle_if_it_were_ordered_as_units_are(
    image: Image, line: str, instead: str
) -> None:
    name = "contextagent-pre-network.service"
    text = (REPOSITORY / "init/systemd" / name).read_text()
    assert line in text
    image.put(f"usr/lib/systemd/system/{name}", text.replace(line, instead))
    assert "ordering cycle" in image.verify(EVERYTHING).err


def test_no_second_unit_is_made_of_the_scripts_for_sysv(image: Image) -> None:
    def made() -> set[str]:
        return {name for name in image.run(_SYSV).out.split() if name.startswith("contextagent")}

    assert made() == set()
    image.alias.unlink()
    assert made() == {"contextagent-pre.service"}, "without the alias there would be one"
