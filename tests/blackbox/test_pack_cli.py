"""`contextagent pack`, as a site admin calls it, and the disk as other programs read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from hashlib import sha512
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import AGENT, REPOSITORY, Done, run

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = REPOSITORY / "examples/site-and-user-disk"
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


def _pack(*words: object, **environment: str) -> Done:
    return run((*AGENT, "pack", *map(str, words)), environment=environment)


def _contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o111)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def image(tmp_path: Path) -> Path:
    done = _pack(EXAMPLE, "-o", tmp_path / "x.iso", **EPOCH)
    assert done.code == 0, done.err
    return tmp_path / "x.iso"


@pytest.mark.parametrize("name", ["x.iso", "x.tgz"])
def test_packing_a_copy_elsewhere_in_another_zone_and_hash_order_gives_the_same_bytes(
    tmp_path: Path, name: str
) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "copy", symlinks=True)
    first = _pack(EXAMPLE, "-o", tmp_path / f"1{name}", **EPOCH)
    second = _pack(
        tmp_path / "copy", "-o", tmp_path / f"2{name}", **EPOCH, TZ="America/New_York", LC_ALL="C", PYTHONHASHSEED="7"
    )
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert (tmp_path / f"1{name}").read_bytes() == (tmp_path / f"2{name}").read_bytes()


def test_xorriso_extracts_what_was_packed(image: Path, tmp_path: Path) -> None:
    done = run(("xorriso", "-osirrox", "on", "-indev", str(image), "-extract", "/", str(tmp_path / "out")))
    assert done.code == 0, done.err
    assert _contents(tmp_path / "out") == _contents(EXAMPLE)
    assert "Volume id    : 'CONTEXT'" in done.err


@pytest.mark.parametrize("names", ["-R", "-J"])
def test_isoinfo_reads_every_file_by_rock_ridge_and_by_joliet(image: Path, names: str) -> None:
    listed = run(("isoinfo", names, "-f", "-i", str(image))).out.split()
    found = {}
    for name in listed:
        data = subprocess.run(
            ["isoinfo", names, "-x", name, "-i", image], capture_output=True, check=True, cwd="/"
        ).stdout
        if (EXAMPLE / name.lstrip("/")).is_file():
            found[name.lstrip("/")] = data
    assert found == {name: data for name, (data, _) in _contents(EXAMPLE).items()}


def test_blkid_sees_the_label_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed/user-data").write_text("#cloud-config\n")
    (tmp_path / "seed/meta-data").write_text("instance-id: i-1\n")
    assert _pack(tmp_path / "seed", "-o", tmp_path / "x.iso", "--label", "cidata").code == 0
    assert 'LABEL="cidata"' in run(("blkid", "-p", str(tmp_path / "x.iso"))).out


def test_tar_extracts_a_bundle_that_was_packed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert _pack(EXAMPLE / "site", "-o", tmp_path / "default.tgz").code == 0
    assert run(("tar", "-xzf", str(tmp_path / "default.tgz"), "-C", str(tmp_path / "out"))).code == 0
    assert _contents(tmp_path / "out") == _contents(EXAMPLE / "site")


def test_json_says_what_was_made_and_what_was_dereferenced(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/prolog.sh").write_text("#!/bin/sh\n")
    (tmp_path / "in/epilog.sh").symlink_to("prolog.sh")
    done = _pack(tmp_path / "in", "-o", tmp_path / "x.iso", "--format", "json", **EPOCH)
    facts: dict[str, Any] = json.loads(done.out)
    made = (tmp_path / "x.iso").read_bytes()
    assert facts == {
        "path": str(tmp_path / "x.iso"),
        "form": "iso",
        "label": "CONTEXT",
        "files": 2,
        "bytes": len(made),
        "sha512": sha512(made).hexdigest(),
        "epoch_s": 1700000000,
        "dereferenced": [{"path": "epilog.sh", "target": "prolog.sh"}],
    }
    assert done.err == ""


def test_text_names_each_link_that_was_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/prolog.sh").write_text("#!/bin/sh\n")
    (tmp_path / "in/epilog.sh").symlink_to("prolog.sh")
    assert "dereferenced epilog.sh -> prolog.sh\n" in _pack(tmp_path / "in", "-o", tmp_path / "x.tgz").out


def test_a_refused_folder_names_every_file_and_ends_with_65(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in/pipe")
    (tmp_path / "in/out").symlink_to("/etc")
    done = _pack(tmp_path / "in", "-o", tmp_path / "x.iso")
    assert done.code == 65
    assert f"{tmp_path}/in/out: cannot take the link 'out': '/etc' is outside the folder" in done.err
    assert f"{tmp_path}/in/pipe: cannot take 'pipe': neither a file nor a folder nor a link" in done.err
    assert not (tmp_path / "x.iso").exists()


@pytest.mark.parametrize(
    ("words", "environment", "code", "message"),
    [
        (("nowhere", "-o", "x.iso"), {}, 64, "cannot read 'nowhere': no such folder"),
        ((EXAMPLE, "-o", "x.zip"), {}, 64, "cannot pack 'x.zip': the name ends neither in .iso nor in .tgz"),
        ((EXAMPLE, "-o", "/nowhere/x.iso"), {}, 73, "cannot write '/nowhere/x.iso': No such file or directory"),
        ((EXAMPLE, "-o", "x.tgz", "--label", "A"), {}, 64, "cannot set the label 'A': a bundle has none"),
        ((EXAMPLE, "-o", "x.iso"), {"SOURCE_DATE_EPOCH": "soon"}, 64, "cannot use SOURCE_DATE_EPOCH 'soon'"),
        ((EXAMPLE, "-o", "x.iso", "--sign", "key.pem"), {}, 64, "cannot sign 'x.iso': signing is not yet supported"),
    ],
)
def test_each_misuse_has_its_exit_code_and_one_clear_line(
    words: tuple[object, ...], environment: dict[str, str], code: int, message: str
) -> None:
    done = _pack(*words, **environment)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_help_shows_an_example_and_what_is_not_yet_supported() -> None:
    done = _pack("--help")
    assert done.code == 0
    assert "contextagent pack examples/site-and-user-disk -o context.iso" in done.out
    assert "signing: not yet supported" in done.out
