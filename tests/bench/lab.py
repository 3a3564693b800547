"""The place where boots are measured: a Debian tree with cloud-init, and the same work in each competitor's format."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

CACHE = REPOSITORY / ".cache" / "bench"
ROOT = CACHE / "debian"
BOOT = CACHE / "boot"
HERE = REPOSITORY / "tests" / "bench"
ACCOUNT = "contextuser"

TUNED = """#cloud-config
# as fair as it gets: one data source, and no module but the runner of scripts
datasource_list: [NoCloud]
datasource: {NoCloud: {fs_label: null}}
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
DEFAULT = "# the distribution's own configuration; only the data source is named\ndatasource_list: [NoCloud, None]\n"


class Work(NamedTuple):
    """The scripts of one boot, by owner and phase, and in the orders in which they may run.

    Attributes:
        folder: Holds `disk` (native layout), `seed` (the floors'), and `nocloud` (cloud-init's).
        by_phase: User's, site's before the network; then user's, site's after it.
        by_owner: All of the user's, then all of the site's: what a multipart knows.
    """

    folder: Path
    by_phase: list[str]
    by_owner: list[str]


def prepare() -> None:
    """Make the Debian tree and the timing program, where they are not there yet.

    Raises:
        CalledProcessError: A tool failed; what it said is on stderr.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    if not ROOT.exists():
        print("bench: making a Debian tree with cloud-init (once, about half a minute)", flush=True)
        fresh = CACHE / "debian.fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        options = [
            "--variant=minbase",
            "--format=directory",
            "--mode=root",
            "--quiet",
            "--include=python3,cloud-init,locales",
        ]
        options += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"']
        subprocess.run(["mmdebstrap", *options, "--dpkgopt=force-unsafe-io", "bookworm", fresh], check=True)
        add = [
            "useradd",
            "--system",
            "--create-home",
            "--home-dir",
            "/var/lib/contextuser",
            "--shell",
            "/bin/sh",
            ACCOUNT,
        ]
        subprocess.run(["chroot", fresh, *add], check=True)
        (fresh / "etc/cloud/cloud.cfg.d/99-bench.cfg").touch()
        fresh.rename(ROOT)
    subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", BOOT, HERE / "boot.c"], check=True)
    (CACHE / "tuned.cfg").write_text(TUNED)
    (CACHE / "default.cfg").write_text(DEFAULT)


def _script(name: str, output_bytes: int) -> str:
    shout = f"yes {'x' * 98} | head -c {output_bytes}\n" if output_bytes else ""
    return f'#!/bin/sh\necho "{name} ran"\n{shout}echo {name} >>/run/bench.order\nexit 0\n'


def work(user: int, site: int, *, output_bytes: int = 0) -> Work:
    """Return the work of so many scripts, half of each owner's in each phase, made anew.

    Args:
        user: How many scripts the user has.
        site: How many the site has.
        output_bytes: What the user's first script prints.
    """
    folder = CACHE / f"work-{user}-{site}-{output_bytes}"
    shutil.rmtree(folder, ignore_errors=True)
    users = [f"1u{number:04}.sh" for number in range(1, user + 1)]
    sites = [f"2s{number:04}.sh" for number in range(1, site + 1)]
    texts = {name: _script(name, output_bytes if name == users[0] else 0) for name in (*users, *sites)}
    halves = {"user": _halves(users), "site": _halves(sites)}
    bundle = folder / "seed" / "default.tgz"
    _put(folder / "seed" / "instance-id", "i-0001\n")
    with tarfile.open(bundle, "w:gz") as tar:
        for owner, phases in halves.items():
            for phase, names in phases.items():
                for name in names:
                    path = f"{phase}-network.d/{name}"
                    _put(folder / "disk" / owner / path, texts[name], 0o755)
                    if owner == "user":
                        _put(folder / "seed" / owner / path, texts[name], 0o755)
                    else:
                        _add(tar, path, texts[name])
    _put(folder / "nocloud" / "meta-data", "instance-id: i-0001\nlocal-hostname: bench-vm\n")
    _put(folder / "nocloud" / "user-data", _multipart(texts))
    by_phase = [name for phase in ("pre", "post") for owner in halves.values() for name in owner[phase]]
    return Work(folder, by_phase, [*users, *sites])


def _halves(names: list[str]) -> dict[str, list[str]]:
    middle = (len(names) + 1) // 2
    return {"pre": names[:middle], "post": names[middle:]}


def _put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text), 0o755
    tar.addfile(member, io.BytesIO(text.encode()))


def _multipart(texts: dict[str, str]) -> str:
    """Put the parts together by hand: `email` looks for a free boundary in all of a thousand parts."""
    mark = "=====bench====="
    parts = [
        f'--{mark}\nContent-Type: text/x-shellscript\nContent-Disposition: attachment; filename="{name}"\n\n{text}\n'
        for name, text in texts.items()
    ]
    return f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{mark}"\n\n{"".join(parts)}--{mark}--\n'
