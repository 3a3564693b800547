"""What sites put where a bundle should be, packed by the programs that they have: taken, or called what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.machine import Machine
from tests.servers import Server, answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder in native form."""
    folder = tmp_path / "site"
    (folder / "post-network.d").mkdir(parents=True)
    (folder / "post-network.d/10-hello").write_text('#!/bin/sh\necho hello >"$CONTEXTAGENT_CONTEXT_DIR/../said"\n')
    (folder / "epilog.sh").symlink_to("post-network.d/10-hello")
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "machine")
    made.put("etc/contextagent/policy.yaml", "metadata: {dialect: ec2}\n")
    return made


def packed(site: Path, *command: str) -> bytes:
    """Return what a program makes of the folder, on its output."""
    return subprocess.run(command, cwd=site, check=True, capture_output=True).stdout


def told(machine: Machine, bundle: bytes) -> tuple[str, str]:
    """Run with the bundle, and return the verdict for the site with its reason."""
    with Server({"/context/default.tgz": answer(bundle)}) as server:
        machine.run("run", "--disk", "none", "--metadata", server.url)
    verdicts = [each for each in machine.facts("explain")["verdicts"] if each["owner"] == "site"]
    return verdicts[-1]["verdict"], verdicts[-1]["reason"]


TAKEN = {
    "a tar.gz with ./": ("tar", "-czf", "-", "."),
    "a tar.gz without ./": ("sh", "-c", "tar -czf - *"),
    "a tar.gz under one top folder": ("tar", "-czf", "-", "-C", "..", "site"),
    "a tar of its own": ("tar", "-cf", "-", "."),
    "a tar.gz of the oldest format": ("tar", "--format=v7", "-czf", "-", "."),
    "a tar.gz with pax headers": ("tar", "--format=posix", "--pax-option=comment=x", "-czf", "-", "."),
    "a tar.gz with a tape's padding": ("tar", "-b", "1000", "-czf", "-", "."),
}


@pytest.mark.parametrize("command", TAKEN.values(), ids=TAKEN)
def test_what_a_tar_program_packs_is_run(machine: Machine, site: Path, command: tuple[str, ...]) -> None:
    verdict, reason = told(machine, packed(site, *command))
    assert verdict == "found", reason
    assert {step["id"]: step["state"] for step in machine.status()["scripts"]} == {
        "site/post-network/epilog.sh": "ok",
        "site/post-network/post-network.d/10-hello": "ok",
    }


def zipped(data: bytes) -> bytes:
    """Return a zip archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("epilog.sh", data)
    return made.getvalue()


REFUSED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "an xz archive": ("it is an xz archive; a bundle is tar or tar.gz", lzma.compress),
    "a bzip2 archive": ("it is a bzip2 archive; a bundle is tar or tar.gz", bz2.compress),
    "a zip archive": ("it is a zip archive; a bundle is tar or tar.gz", zipped),
    "a tar.gz packed again": (
        "it is gzip'd twice; a bundle is tar or tar.gz",
        lambda data: gzip.compress(gzip.compress(data)),
    ),
    "a script": ("it is a script; a bundle is tar or tar.gz", lambda _: b"#!/bin/sh\nexit 0\n"),
    "half of one": ("ends too early", lambda data: gzip.compress(data)[:100]),
    "a tar and something else": ("something else follows its end", lambda data: data + b"more"),
}


@pytest.mark.parametrize(("cause", "pack"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_bundle_is_broken_and_called_what_it_is(
    machine: Machine, site: Path, cause: str, pack: Callable[[bytes], bytes]
) -> None:
    verdict, reason = told(machine, pack(packed(site, "tar", "-cf", "-", ".")))
    assert verdict == "broken"
    assert cause in reason


def test_a_hard_link_is_named_with_its_path(machine: Machine, site: Path) -> None:
    (site / "other").hardlink_to(site / "post-network.d/10-hello")
    verdict, reason = told(machine, packed(site, "tar", "-czf", "-", "."))
    assert verdict == "broken"
    assert "a hard link is not taken" in reason
    assert "cannot unpack './" in reason


@pytest.mark.parametrize("bundle", [b"<!DOCTYPE html><p>Please log in</p>", gzip.compress(b"<html>" + b" " * 999)])
def test_a_page_in_its_place_is_broken(machine: Machine, bundle: bytes) -> None:
    verdict, reason = told(machine, bundle)
    assert verdict == "broken"
    assert "HTML" in reason


NOTHING = {
    "an archive of nothing": ("sh", "-c", "tar -czf - --files-from=/dev/null"),
    "no native name": ("sh", "-c", "echo x >README; tar -czf - README"),
}


@pytest.mark.parametrize("command", NOTHING.values(), ids=NOTHING)
def test_a_bundle_with_nothing_for_the_agent_is_absent(machine: Machine, site: Path, command: tuple[str, ...]) -> None:
    verdict, _ = told(machine, packed(site, *command))
    assert verdict == "absent"


def test_a_bundle_without_a_native_name_is_warned_of(machine: Machine, site: Path) -> None:
    told(machine, packed(site, "sh", "-c", "echo x >README; tar -czf - README"))
    assert "nothing-native" in [warning["reason"] for warning in machine.status()["warnings"]]
