"""The packages: what old and new rpm need of them, and what installing, upgrading and erasing them does."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.machine import REPOSITORY, Done, run
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
RECORDER = '#!/bin/sh\necho "${0##*/} $*" >> /calls\n'


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Each flavour in turn."""
    return str(request.param)


@pytest.fixture
def package(packages: dict[str, Path], flavour: str) -> oldrpm.Package:
    """The flavour's package, read without rpm."""
    return oldrpm.read(packages[flavour])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a shell and no Python, as rpm is given it."""
    root = tmp_path / "root"
    busybox = shutil.which("busybox")
    assert busybox, "make rpm installs it"
    for name in ("bin", "sbin", "etc", "proc", "dev", "tmp", "var/lib/rpm"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    shutil.copy(busybox, root / "bin/busybox")
    for name in ("sh", "rm", "rmdir", "cat", "echo", "ls"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\ncontextuser:x:990:990::/var/lib/contextuser:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\ncontextuser:x:990:\n")
    (root / "dev/null").touch(0o666)
    return root


def rpm(root: Path, *words: str | Path) -> Done:
    """Run this machine's rpm on another root, and drop Debian's own word that this is not how to install on Debian."""
    done = run(("rpm", "--root", str(root), "--dbpath", "/var/lib/rpm", *map(str, words)))
    return done._replace(
        err="".join(line for line in done.err.splitlines(keepends=True) if not line.startswith("rpm: "))
    )


def install(root: Path, package: Path, how: str = "-i") -> None:
    """Install or upgrade without complaint; /bin/sh there belongs to no package."""
    done = rpm(root, how, "--nodeps", "--replacepkgs", package)
    assert (done.code, done.err) == (0, "")


def record(root: Path, program: str) -> None:
    """Put a program in place that only notes how it was called."""
    path = root / program
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECORDER)
    path.chmod(0o755)


def calls(root: Path) -> list[str]:
    """Return how the recorders were called."""
    path = root / "calls"
    return path.read_text().splitlines() if path.exists() else []


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


def test_a_root_without_python_is_contextualised_and_verifies(
    packages: dict[str, Path], flavour: str, root: Path
) -> None:
    install(root, packages[flavour])
    (root / "disk").mkdir()
    (root / "disk/prolog.sh").write_text("#!/bin/sh\necho ok > /done\n")
    enter = f'mount -t proc proc "{root}/proc"; mount --bind /dev "{root}/dev"; chroot "{root}" "$@"'
    namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts")
    words = ("/usr/bin/contextagent", "run", "--disk", "/disk", "--metadata", "none")
    done = run((*namespaces, "sh", "-c", enter, "enter", *words))
    assert (done.code, done.err) == (0, "")
    assert (root / "done").read_text() == "ok\n"
    assert rpm(root, "-V", "--nodeps", "contextagent") == Done(0, "", "")


def test_erasing_leaves_nothing_but_the_logs(packages: dict[str, Path], flavour: str, root: Path) -> None:
    install(root, packages[flavour])
    before = {path for path in root.rglob("*") if "contextagent" in path.name}
    assert before
    for place in ("var/lib/contextagent/instances/x", "var/lib/hepix/context", "run/contextagent"):
        (root / place).mkdir(parents=True)
    (root / "etc/contextagent/disabled").touch()
    (root / "var/log/contextagent/trace-x.jsonl").write_text("{}\n")
    assert rpm(root, "-e", "--nodeps", "contextagent").code == 0
    left = [path.relative_to(root) for path in root.rglob("*") if "contextagent" in path.name or "hepix" in path.name]
    assert list(map(str, left)) == ["var/log/contextagent"]


@pytest.mark.parametrize("program", ["sbin/chkconfig", "usr/bin/systemctl"])
def test_the_boot_is_asked_for_once_and_given_up_at_the_end(
    packages: dict[str, Path], root: Path, program: str
) -> None:
    record(root, program)
    install(root, packages["el6"])
    first = calls(root)
    install(root, packages["el6"], "-U")
    (root / "calls").unlink()
    rpm(root, "-e", "--nodeps", "contextagent")
    last = calls(root)
    if program == "sbin/chkconfig":
        assert first == ["chkconfig --add contextagent-pre", "chkconfig --add contextagent"]
        assert last == ["chkconfig --del contextagent", "chkconfig --del contextagent-pre"]
    else:
        assert first == ["systemctl enable contextagent-pre-network.service contextagent.service"]
        assert last == ["systemctl disable contextagent.service contextagent-pre-network.service"]


def test_an_upgrade_starts_and_stops_nothing(packages: dict[str, Path], root: Path) -> None:
    record(root, "usr/bin/systemctl")
    (root / "run/systemd/system").mkdir(parents=True)
    install(root, packages["el6"])
    (root / "calls").unlink()
    done = rpm(root, "-U", "--nodeps", "--oldpackage", "--replacepkgs", packages["el5"])
    assert done.code == 0
    assert set(calls(root)) == {"systemctl daemon-reload"}


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
