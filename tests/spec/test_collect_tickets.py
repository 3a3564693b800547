"""`collect-logs`: one clear error and nothing left where it cannot be written, and no file of others by a link."""

from __future__ import annotations

import os
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, run
from tests.spec.daemons import DROP_IN, boot_with, rsyslog

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

BOOT_ID = "00000000-0000-4000-8000-000000000001"
TRACE, RECEIPT = f"var/log/contextagent/trace-{BOOT_ID}.jsonl", f"var/log/contextagent/receipt-{BOOT_ID}.json"
STATUS, POLICY = "run/contextagent/status.json", "etc/contextagent/policy.yaml"
OTHERS = "a hash of somebody's password"


@pytest.fixture
def booted(machine: Machine, disk: Path) -> Machine:
    """Return a machine that was booted and whose logs go somewhere."""
    rsyslog(machine)
    boot_with(machine, disk)
    return machine


def collected(machine: Machine, path: Path) -> dict[str, bytes]:
    """Return what a ticket has in it."""
    done = machine.run("collect-logs", str(path))
    assert (done.code, done.err) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member)) for member in archive.getmembers()]
        return {member.name.partition("/")[2]: file.read() for member, file in members if file}


@pytest.mark.parametrize("kind", ["file", "folder", "link to nowhere", "link to a file"])
def test_what_is_there_already_stays_and_is_the_error(booted: Machine, tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "x.tar.gz", tmp_path / "other"
    if kind == "file":
        path.write_text("old")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other)
        if kind == "link to a file":
            other.write_text("old")
    done = booted.run("collect-logs", str(path))
    assert (done.code, done.out) == (73, "")
    assert done.err.startswith(f"contextagent: cannot write '{path}': ")
    assert (path.is_symlink(), path.is_dir()) == (kind.startswith("link"), kind == "folder")
    assert [each.read_text() for each in (path, other) if each.is_file()] in ([], ["old"], ["old", "old"])


@pytest.mark.parametrize("place", ["none/x.tar.gz", "file/x.tar.gz", "loop/x.tar.gz", "n" * 300 + ".tar.gz"])
def test_a_place_that_cannot_be_written_is_one_error(booted: Machine, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    done = booted.run("collect-logs", f"{tmp_path}/{place}")
    assert (done.code, done.out, len(done.err.splitlines())) == (73, "", 1)
    assert done.err.startswith("contextagent: cannot write '")


@pytest.mark.parametrize(
    ("options", "cause"), [("ro", "Read-only file system"), ("size=4k", "No space left on device")]
)
def test_a_full_or_read_only_place_keeps_no_half_ticket(
    booted: Machine, tmp_path: Path, options: str, cause: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    words = (*AGENT, "--root", str(booted.root), "collect-logs", f"{place}/x.tar.gz")
    script = f'mount -t tmpfs -o {options} tmpfs {place}; "$@"; code=$?; ls -A {place}; exit $code'
    done = run(("unshare", "--mount", "sh", "-c", script, "ticket", *words))
    assert (done.code, done.out) == (73, "")
    assert cause in done.err


@pytest.mark.parametrize("path", [TRACE, RECEIPT, STATUS, POLICY, DROP_IN, "etc/os-release"])
@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_no_link_leads_to_others_files_and_nothing_hangs(booted: Machine, tmp_path: Path, path: str, kind: str) -> None:
    target = booted.root / path
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        target.symlink_to(booted.put("etc/shadow", OTHERS, 0o600))
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
    pieces = collected(booted, tmp_path / "x.tar.gz")
    assert not any(OTHERS.encode() in data for data in pieces.values())
    name = path if path == DROP_IN else target.name
    assert name.encode().split(b".")[0].split(b"/")[-1] in pieces["missing.txt"] + pieces.get("files.txt", b"")


@pytest.mark.parametrize("data", [b"x" * 100_000_000, b"[" * 200_000, b"\0\xff" * 99])
@pytest.mark.parametrize("path", [TRACE, STATUS, RECEIPT])
def test_a_file_of_any_bytes_costs_the_rest_nothing(booted: Machine, tmp_path: Path, path: str, data: bytes) -> None:
    booted.put(path, data)
    pieces = collected(booted, tmp_path / "x.tar.gz")
    assert {"README", "versions.json", "settings.json", "missing.txt"} <= set(pieces)
    assert (tmp_path / "x.tar.gz").stat().st_size < 2_000_000
