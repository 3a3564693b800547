"""The packages as files: what old and new rpm need of them, and what is in them."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.machine import REPOSITORY, run
from tests.rpm import oldrpm
from tests.rpm.conftest import PACKAGING

if TYPE_CHECKING:
    from pathlib import Path

FLAVOURS = ("el5", "el6")
# What each rpm offers: 4.4 of EL5, 4.8 of EL6
RPMLIB = {
    "el5": {"rpmlib(CompressedFileNames)", "rpmlib(PayloadFilesHavePrefix)"},
    "el6": {"rpmlib(CompressedFileNames)", "rpmlib(PayloadFilesHavePrefix)", "rpmlib(FileDigests)"},
}
ALGORITHMS = {"el5": "md5", "el6": "sha256"}


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Each flavour in turn."""
    return str(request.param)


@pytest.fixture
def package(packages: dict[str, Path], flavour: str) -> oldrpm.Package:
    """The flavour's package, read without rpm."""
    return oldrpm.read(packages[flavour])


def test_the_package_asks_for_a_shell_and_for_nothing_that_its_rpm_lacks(package: oldrpm.Package, flavour: str) -> None:
    asked = set(package.strings("requires"))
    assert {name for name in asked if name.startswith("rpmlib(")} <= RPMLIB[flavour]
    assert {name for name in asked if not name.startswith("rpmlib(")} == {"/bin/sh"}
    assert (package.header["payload_format"], package.header["payload_compressor"]) == ("cpio", "gzip")


def test_all_digests_that_an_old_rpm_checks_are_there_and_right(package: oldrpm.Package, flavour: str) -> None:
    header = package.data[package.header_at : package.payload_at]
    assert package.signature["size"] == [len(package.data) - package.header_at]
    assert package.signature["md5"] == hashlib.md5(package.data[package.header_at :]).digest()
    assert package.signature["sha1"] == hashlib.sha1(header).hexdigest()
    assert package.signature["payload_size"] == [package.payload_bytes]
    digests = zip(package.paths(), package.strings("digests"), package.numbers("modes"), strict=True)
    regular = {path: digest for path, digest, mode in digests if stat.S_ISREG(mode)}
    algorithm = ALGORITHMS[flavour]
    assert regular == {path: hashlib.new(algorithm, package.files[path].data).hexdigest() for path in regular}


def test_only_the_later_flavour_has_units(package: oldrpm.Package, flavour: str) -> None:
    units = [path for path in package.paths() if path.startswith("/usr/lib/systemd/system/")]
    assert bool(units) == (flavour != "el5")
    assert not [path for path in package.paths() if path.startswith("/etc/systemd")]
    assert {"/etc/rc.d/init.d/contextagent", "/etc/rc.d/init.d/contextagent-pre"} <= set(package.paths())


def test_the_package_of_presets_asks_for_ours_alone(packages: dict[str, Path]) -> None:
    preset = oldrpm.read(packages["preset"])
    asked = set(preset.strings("requires"))
    assert {name for name in asked if name.startswith("rpmlib(")} <= RPMLIB["el6"]
    assert {name for name in asked if not name.startswith("rpmlib(")} == {"contextagent"}
    assert [path for path in preset.files if path.endswith(".preset")] == list(preset.files)[-1:]


def test_every_file_is_named_after_us_so_that_it_is_nobody_elses(package: oldrpm.Package) -> None:
    files = [
        path for path, mode in zip(package.paths(), package.numbers("modes"), strict=True) if not stat.S_ISDIR(mode)
    ]
    assert [path for path in files if "contextagent" not in path] == []


def test_the_watch_is_all_that_an_upgrade_restarts() -> None:
    given = {"project": REPOSITORY, "program": "/bin/sh", "number": "1", "flavour": "el6", "epoch_s": "0"}
    defines = [f"--define={name} {value}" for name, value in given.items()]
    words = ("rpmspec", "--query", *defines, "--queryformat=%{POSTUN}\n", str(PACKAGING / "contextagent.spec"))
    done = run(words)
    assert done.code == 0, done.err
    upgraded = done.out.partition('if [ "$1" != 0 ]; then\n')[2].partition("exit 0")[0].splitlines()
    assert [line.split("||")[1].split()[:3] for line in upgraded if "||" in line] == [
        ["systemctl", "try-restart", "contextagent-watch.service"],
        ["/etc/rc.d/init.d/contextagent", "condrestart", ">/dev/null"],
    ]


def test_the_policy_is_the_endorsers_to_keep(package: oldrpm.Package) -> None:
    config_noreplace = 1 | 1 << 4
    flags = dict(zip(package.paths(), package.numbers("flags"), strict=True))
    assert flags["/etc/contextagent/policy.yaml"] == config_noreplace


def test_the_same_tree_gives_the_same_packages(packages: dict[str, Path], tmp_path: Path) -> None:
    subprocess.run([PACKAGING / "build.sh", tmp_path], stdout=subprocess.DEVNULL, check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in packages.values()
    }


def test_rpmlint_has_nothing_to_say(packages: dict[str, Path]) -> None:
    if not shutil.which("rpmlint"):
        pytest.skip("rpmlint is not installed here")
    done = run(("rpmlint", "--strict", "--config", str(PACKAGING / "rpmlint.toml"), *map(str, packages.values())))
    assert done.code == 0, done.out


def test_the_units_are_what_systemd_takes_for_sound(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed here")
    program = tmp_path / "usr/bin/contextagent"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    units = []
    for unit in sorted((REPOSITORY / "init/systemd").glob("*.service")):
        text = unit.read_text().replace("/usr/bin/contextagent", str(program)).replace("Documentation=man:", "# ")
        (tmp_path / unit.name).write_text(text)
        units.append(str(tmp_path / unit.name))
    done = run(("systemd-analyze", "verify", *units))
    assert (done.code, done.out + done.err) == (0, "")


@pytest.mark.parametrize("name", ["contextagent-pre", "contextagent"])
def test_the_scripts_of_sysv_are_sh_and_have_both_headers(name: str) -> None:
    script = REPOSITORY / "init/sysv" / name
    assert run(("sh", "-n", str(script))).code == 0
    head = script.read_text()
    places = {"contextagent-pre": "2345 02 85", "contextagent": "2345 99 02"}
    assert f"# chkconfig: {places[name]}\n# description: " in head
    assert f"### BEGIN INIT INFO\n# Provides: {name}\n" in head
