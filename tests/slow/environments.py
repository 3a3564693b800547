"""Environments with programs of others from PyPI, made at the first call and kept in `.cache`."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.machine import REPOSITORY, run

if TYPE_CHECKING:
    from pathlib import Path

NOVA = "nova==34.0.0"
MOTO = "moto[server]==5.2.5"


def python(package: str, module: str, *needs: str) -> Path:
    """Return the interpreter of an environment where a module of a package can be imported.

    With `needs` these come first, and of what the package itself asks for nothing else.
    """
    environment = REPOSITORY / ".cache" / package.partition("=")[0].partition("[")[0]
    interpreter = environment / "bin/python"
    if run((str(interpreter), "-c", f"import {module}") if interpreter.exists() else ("false",)).code:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        for words in ((*needs,), ("--no-deps", package)) if needs else ((package,),):
            made = subprocess.run(
                [str(environment / "bin/pip"), "install", "--quiet", *words],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                pytest.skip(f"{package} can't be installed here: {made.stderr.strip().splitlines()[-1]}")
    return interpreter


def source(package: str) -> Path:
    """Return the folder of a package's source as it is unpacked: what a package index calls an sdist."""
    name, _, version = package.partition("==")
    folder = REPOSITORY / ".cache" / "sources"
    if not (folder / f"{name}-{version}").exists():
        words = (
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--dest",
            str(folder),
            package,
        )
        got = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        if got.returncode:
            pytest.skip(f"{package} can't be had here: {got.stderr.strip().splitlines()[-1]}")
        with tarfile.open(next(folder.glob(f"{name.replace('-', '[-_]')}-{version}.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
    return folder / f"{name}-{version}"
