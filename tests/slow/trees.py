"""Debian trees to look at: packages unpacked, and nothing of them run; made by mmdebstrap, kept in `.cache/trees`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

CACHE = REPOSITORY / ".cache" / "trees"


def unpacked(suite: str, *packages: str) -> Path:
    """Return the tree of a Debian release with these packages and what they depend on; ten seconds the first time."""
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    tree = CACHE / f"{suite}-{digest}"
    if not tree.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = CACHE / f"making-{tree.name}-{os.getpid()}"
        options = ["--variant=extract", "--format=directory", "--mode=root", "--quiet"]
        options += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"']
        try:
            subprocess.run(["mmdebstrap", *options, f"--include={','.join(packages)}", suite, fresh], check=True)
            fresh.rename(tree)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        for old in CACHE.glob(f"{suite}-*"):  # an older list's tree is of no use
            if old != tree:
                shutil.rmtree(old)
    return tree
