"""The place where boots are measured: a Debian tree with cloud-init and curl, and the scripts of a boot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from tests.bench import forms
from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

CACHE = REPOSITORY / ".cache" / "bench"
ROOT = CACHE / "debian"
BOOT = CACHE / "boot"
HERE = REPOSITORY / "tests" / "bench"
AGENT_IN_TREE = "/opt/agent/contextagent"
AGENT = CACHE / "agent" / "contextagent"
"""A copy of the agent, compiled, so that nobody who works on it while it is measured is measured, too."""
PROGRAM_IN_TREE = "/opt/program/contextagent"
PROGRAM = CACHE / "program" / "contextagent"
"""The agent in the program that the packages bring, if its interpreter has been built (`make rpm`)."""
_INTERPRETER = REPOSITORY / "packaging" / "rpm" / "interpreter" / "build.sh"
ACCOUNT = "contextuser"
ORDER = "/run/bench.order"
_PACKAGES = "python3,cloud-init,curl,locales"


class Work(NamedTuple):
    """The scripts of one boot, by owner and phase, and in the orders in which they may run.

    Attributes:
        folder: Holds them in each competitor's form (see `forms`).
        by_phase: User's, site's before the network; then user's, site's after it.
        by_owner: All of the user's, then all of the site's: what a multipart knows.
    """

    folder: Path
    by_phase: list[str]
    by_owner: list[str]


def prepare() -> None:
    """Make the Debian tree where it is not there yet, the timing program, a copy of the agent, and its own program.

    Raises:
        CalledProcessError: A tool failed; what it said is on stderr.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    if not (ROOT / "usr/bin/curl").exists():
        print("bench: making a Debian tree with cloud-init and curl (once, about half a minute)", flush=True)
        fresh = CACHE / "debian.fresh"
        shutil.rmtree(ROOT, ignore_errors=True)
        shutil.rmtree(fresh, ignore_errors=True)
        options = ["--variant=minbase", "--format=directory", "--mode=root", "--quiet", f"--include={_PACKAGES}"]
        options += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"']
        subprocess.run(["mmdebstrap", *options, "--dpkgopt=force-unsafe-io", "bookworm", fresh], check=True)
        account = ["--system", "--create-home", "--home-dir", "/var/lib/contextuser", "--shell", "/bin/sh", ACCOUNT]
        subprocess.run(["chroot", fresh, "useradd", *account], check=True)
        (fresh / "etc/cloud/cloud.cfg.d/99-bench.cfg").touch()
        fresh.rename(ROOT)
    subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", BOOT, HERE / "boot.c"], check=True)
    for name, text in forms.CLOUD_CONFIGS.items():
        (CACHE / f"{name}.cfg").write_text(text)
    shutil.rmtree(AGENT, ignore_errors=True)
    shutil.copytree(REPOSITORY / "contextagent", AGENT)
    output, bind = CACHE / "last-output.txt", f"{AGENT}:{AGENT_IN_TREE}"
    in_tree = [str(BOOT), str(ROOT), "-", str(output), "-", bind, "--"]
    compiler = ["python3", "-m", "compileall", "-q", AGENT_IN_TREE]
    subprocess.run([*in_tree, *compiler], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(PROGRAM.parent, ignore_errors=True)
    if any((REPOSITORY / ".cache" / "interpreter").glob("base-*")):  # else its interpreter would take ten minutes
        environment = os.environ | {"PYTHON": sys.executable}
        subprocess.run([_INTERPRETER, PROGRAM], env=environment, check=True, stdout=subprocess.DEVNULL)


def work(user: int, site: int, *, output_bytes: int = 0, order: str = ORDER) -> Work:
    """Return the work of so many scripts, half of each owner's in each phase, made anew.

    Args:
        user: How many scripts the user has.
        site: How many the site has.
        output_bytes: What the user's first script prints.
        order: The file to which each appends its name.
    """
    folder = CACHE / f"work-{user}-{site}-{output_bytes}{'' if order == ORDER else '-guest'}"
    shutil.rmtree(folder, ignore_errors=True)
    users = [f"1u{number:04}.sh" for number in range(1, user + 1)]
    sites = [f"2s{number:04}.sh" for number in range(1, site + 1)]
    texts = {name: _script(name, order, output_bytes if name == users[0] else 0) for name in (*users, *sites)}
    halves = {"user": _halves(users), "site": _halves(sites)}
    forms.write(folder, forms.Scripts(halves, texts))
    by_phase = [name for phase in ("pre", "post") for owner in halves.values() for name in owner[phase]]
    return Work(folder, by_phase, [*users, *sites])


def _script(name: str, order: str, output_bytes: int) -> str:
    shout = f"yes {'x' * 98} | head -c {output_bytes}\n" if output_bytes else ""
    return f'#!/bin/sh\necho "{name} ran"\n{shout}echo {name} >>{order}\nexit 0\n'


def _halves(names: list[str]) -> dict[str, list[str]]:
    middle = (len(names) + 1) // 2
    return {"pre": names[:middle], "post": names[middle:]}
