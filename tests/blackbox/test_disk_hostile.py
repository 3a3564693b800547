"""Disks that lie, loop, break off or change while they are read: broken or absent, in time, and never a traceback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contextagent.errors import BrokenSourceError
from contextagent.host import Host
from contextagent.policy.settings import load_material, merge
from contextagent.sources.devices import Disk
from contextagent.sources.disk import search_disks
from contextagent.sources.library import LibraryMedium
from contextagent.thirdparty import load
from tests.disks import disk_of
from tests.machine import REPOSITORY, make_iso, make_vfat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.sources.media import NamedMedium

SECTOR = 2048
FUZZ_EXAMPLES = int(os.environ.get("CONTEXTAGENT_FUZZ_DISKS", "60"))
"""Mutated images of each kind; set it to some thousands for a campaign."""
SETTINGS = merge(load_material("image", "policy.yaml", b""))
FIXTURE = REPOSITORY / "tests/fixtures/layouts/hepix/disk"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "root").mkdir()
    return Host(str(tmp_path / "root"))


def _files(medium: NamedMedium, folder: str = "", depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Read everything below a folder; a loop is left after 8 levels."""
    for entry in medium.folder(folder):
        if entry.kind == "folder" and depth < 8:
            yield from _files(medium, entry.path, depth + 1)
        elif entry.kind == "file":
            yield entry.path, medium.read(entry.path, max_bytes=1 << 24)


def _judge(host: Host, image: Path) -> set[str]:
    """Return the verdicts of both owners, after everything that was found has been read as staging would."""
    findings = search_disks(host, SETTINGS, override=str(image))
    verdicts: set[str] = {verdict.verdict for verdict in findings.verdicts}
    try:
        for found in findings.found.values():
            for offer in found.offers if found else ():
                if offer.path and found:
                    b"".join(disk_of(found).chunks(offer.path, max_bytes=1 << 24))
    except BrokenSourceError:
        verdicts.add("broken")
    finally:
        findings.close()
    return verdicts


@pytest.mark.parametrize("options", [("-R", "-no-pad"), ("-J", "-no-pad")])
def test_an_iso_cut_off_at_any_sector_is_broken(host: Host, tmp_path: Path, options: tuple[str, ...]) -> None:
    image = make_iso(FIXTURE, tmp_path / "x.iso", *options, tool="genisoimage")
    raw = image.read_bytes()
    for sectors in range(len(raw) // SECTOR):
        image.write_bytes(raw[: sectors * SECTOR])
        assert _judge(host, image) == {"broken"}, f"cut off after {sectors} sectors"


def test_an_iso_cut_off_at_any_sector_gives_the_library_whole_files_or_none(host: Host, tmp_path: Path) -> None:
    image = make_iso(FIXTURE, tmp_path / "x.iso", "-R", "-no-pad", tool="genisoimage")
    raw = image.read_bytes()
    whole = {str(path.relative_to(FIXTURE)): path.read_bytes() for path in FIXTURE.rglob("*") if path.is_file()}
    for sectors in range(0, len(raw) // SECTOR, 2):
        image.write_bytes(raw[: sectors * SECTOR])
        try:
            medium = LibraryMedium(host, Disk(name="cut", path=str(image), kind="iso9660"))
        except BrokenSourceError:
            continue
        try:
            assert all(whole[path] == data for path, data in _files(medium))
        except BrokenSourceError:
            continue
        finally:
            medium.close()


@pytest.mark.parametrize("size_kib", [720, 80000], ids=["FAT12", "FAT32"])
def test_a_fat_image_cut_off_anywhere_is_broken(host: Host, tmp_path: Path, size_kib: int) -> None:
    image = make_vfat(FIXTURE, tmp_path / "x.img", size_kib=size_kib)
    size = image.stat().st_size
    for kept in (0, 511, 512, 513, 4096, size // 2, size - 1):
        os.truncate(image, kept)
        assert _judge(host, image) == {"broken"}, f"cut off after {kept} bytes"
        os.truncate(image, size)


def _patched(image: Path, old: bytes, new: bytes, *, at: int = 0) -> Path:
    """Put `new` over the bytes from `at` after each occurrence of `old`."""
    raw = bytearray(image.read_bytes())
    found = raw.find(old)
    assert found >= 0, f"{old!r} is not in the image"
    while found >= 0:
        raw[found + at : found + at + len(new)] = new
        found = raw.find(old, found + len(old))
    image.write_bytes(raw)
    return image


def _both_ends(number: int) -> bytes:
    return number.to_bytes(4, "little") + number.to_bytes(4, "big")


def test_a_continuation_area_that_continues_in_itself_ends(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    (folder / "epilog.sh").write_text("#!/bin/sh\n")
    (folder / ("x" * 240)).write_text("")
    image = make_iso(folder, tmp_path / "x.iso", "-R", tool="genisoimage")
    raw = bytearray(image.read_bytes())
    # every CE record now points to an area that begins with a CE record pointing to itself
    at = raw.index(b"CE\x1c\x01")
    block = int.from_bytes(raw[at + 4 : at + 8], "little")
    offset = int.from_bytes(raw[at + 12 : at + 16], "little")
    loop = b"CE\x1c\x01" + _both_ends(block) + _both_ends(offset) + _both_ends(28)
    raw[block * SECTOR + offset : block * SECTOR + offset + 28] = loop
    image.write_bytes(raw)
    assert _judge(host, image) <= {"broken", "absent", "found"}
    _patched(image, b"CE\x1c\x01", loop[4:], at=4)
    assert _judge(host, image) <= {"broken", "absent", "found"}


def test_a_moved_folder_that_is_its_own_parent_is_broken(host: Host, tmp_path: Path) -> None:
    deep = tmp_path / "deep/site/post-network.d/c/d/e/f/g/h/i"
    deep.mkdir(parents=True)
    (tmp_path / "deep/site/prolog.sh").write_text("#!/bin/sh\n")
    image = make_iso(tmp_path / "deep", tmp_path / "x.iso", "-R", tool="genisoimage")
    raw = image.read_bytes()
    # the record of `e` says where its extent is; the link to the moved folder below it now leads back there
    at = raw.index(b"\x01E", raw.index(b"CD001"))
    extent = int.from_bytes(raw[at - 32 + 2 : at - 32 + 6], "little")
    _patched(image, b"CL\x0c\x01", _both_ends(extent), at=4)
    assert "broken" in _judge(host, image)


@pytest.mark.parametrize("size", [300_000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_file_larger_than_its_image_is_broken(host: Host, tmp_path: Path, size: int) -> None:
    image = make_iso(FIXTURE, tmp_path / "x.iso", "-R", "-no-pad", tool="genisoimage")
    _patched(image, b"EPILOG.SH;1", _both_ends(size), at=-33 + 10)
    assert "broken" in _judge(host, image)


def test_a_file_beyond_the_image_is_broken(host: Host, tmp_path: Path) -> None:
    image = make_iso(FIXTURE, tmp_path / "x.iso", "-R", "-no-pad", tool="genisoimage")
    _patched(image, b"EPILOG.SH;1", _both_ends(0x00FFFFFF), at=-33 + 2)
    assert "broken" in _judge(host, image)


@pytest.mark.parametrize("name", [b"..", b"a\0", b"/x", b"\n\x1b", b"\xff\xfe", b". "])
def test_a_forged_name_is_passed_over_or_harmless(host: Host, tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    (folder / "QQ").write_text("forged")
    (folder / "epilog.sh").write_text("#!/bin/sh\n")
    image = _patched(make_iso(folder, tmp_path / "x.iso", "-R"), b"NM\x07\x01\x00QQ", name, at=5)
    findings = search_disks(host, SETTINGS, override=str(image))
    findings.close()
    assert [verdict.verdict for verdict in findings.verdicts if verdict.owner == "site"] == ["found"]
    if name != b". ":
        assert [problem.reason for problem in findings.warnings] == ["bad-name"]
        assert findings.warnings[0].message.isprintable()


def test_names_from_an_honest_iso_with_control_characters_are_passed_over(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    (folder / "post-network.d").mkdir(parents=True)
    for name in (b"10-ok", b"20-\x1b[31m", b"30-\n", b"40-\xff"):
        (Path(os.fsdecode(os.path.join(os.fsencode(folder / "post-network.d"), name)))).write_text("#!/bin/sh\n")
    for disk in (folder, make_iso(folder, tmp_path / "x.iso", "-R")):
        findings = search_disks(host, SETTINGS, override=str(disk))
        findings.close()
        found = findings.found["site"]
        assert found is not None
        assert [offer.name for offer in found.offers if offer.role == "script"] == ["post-network.d/10-ok"]
        assert [problem.reason for problem in findings.warnings] == ["bad-name"] * 3


def test_a_disc_that_goes_away_while_it_is_read_is_broken(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "epilog.sh").write_bytes(os.urandom(3_000_000))
    image = make_iso(folder, tmp_path / "x.iso")
    findings = search_disks(host, SETTINGS, override=str(image))
    found = findings.found["site"]
    assert found is not None
    pieces = disk_of(found).chunks("epilog.sh", max_bytes=1 << 24)
    next(pieces)
    os.truncate(image, 0)
    with pytest.raises(BrokenSourceError) as caught:
        list(pieces)
    findings.close()
    assert caught.value.reason == "truncated"
    assert "epilog.sh" in str(caught.value)


def test_a_folder_that_changes_while_it_is_read_leads_nowhere_else(host: Host, tmp_path: Path) -> None:
    (tmp_path / "disk/post-network.d").mkdir(parents=True)
    (tmp_path / "disk/post-network.d/10-a").write_text("#!/bin/sh\n")
    findings = search_disks(host, SETTINGS, override=str(tmp_path / "disk"))
    found = findings.found["site"]
    assert found is not None
    (tmp_path / "disk/post-network.d").rename(tmp_path / "gone")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/10-a").write_text("#!/bin/sh\necho not mine\n")
    (tmp_path / "disk/post-network.d").symlink_to(tmp_path / "other")
    with pytest.raises(BrokenSourceError, match=r"a link is not followed|Not a directory"):
        disk_of(found).read("post-network.d/10-a", max_bytes=100)
    (tmp_path / "disk/post-network.d").unlink()
    (tmp_path / "disk/post-network.d").mkdir()
    (tmp_path / "disk/post-network.d/10-a").symlink_to("/etc/passwd")
    with pytest.raises(BrokenSourceError, match="a link is not followed"):
        disk_of(found).read("post-network.d/10-a", max_bytes=1 << 20)
    (tmp_path / "disk/post-network.d/10-a").unlink()
    os.mkfifo(tmp_path / "disk/post-network.d/10-a")
    with pytest.raises(BrokenSourceError, match="no regular file"):
        disk_of(found).read("post-network.d/10-a", max_bytes=1 << 20)
    findings.close()


@pytest.mark.parametrize("kind", ["folder", "iso", "vfat"])
def test_a_file_past_its_cap_is_refused_after_the_cap(host: Host, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "epilog.sh").write_bytes(bytes(200_000))
    disk = folder
    if kind != "folder":
        disk = (make_iso if kind == "iso" else make_vfat)(folder, tmp_path / "x.img")
    findings = search_disks(host, SETTINGS, override=str(disk))
    found = findings.found["site"]
    assert found is not None
    assert len(disk_of(found).read("epilog.sh", max_bytes=200_000)) == 200_000
    with pytest.raises(BrokenSourceError, match="larger than 199999 bytes"):
        disk_of(found).read("epilog.sh", max_bytes=199_999)
    findings.close()


_MUTATIONS = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]))),
    min_size=1,
    max_size=24,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("images")
    made = {
        "rock-ridge": make_iso(FIXTURE, folder / "r.iso", "-R", "-no-pad", tool="genisoimage"),
        "joliet": make_iso(FIXTURE, folder / "j.iso", "-J", "-no-pad", tool="genisoimage"),
        "vfat": make_vfat(FIXTURE, folder / "v.img", size_kib=160),
    }
    return {name: path.read_bytes() for name, path in made.items()}


@pytest.mark.parametrize("kind", ["rock-ridge", "joliet", "vfat"])
@settings(max_examples=FUZZ_EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(mutations=_MUTATIONS)
def test_no_mutated_image_gives_anything_but_a_verdict(
    host: Host, tmp_path: Path, images: dict[str, bytes], kind: str, mutations: list[tuple[int, int]]
) -> None:
    raw = bytearray(images[kind])
    # the first 16 sectors of an ISO are empty, and file data at the end cannot confuse anybody
    start = 16 * SECTOR if kind != "vfat" else 0
    used = [at for at in range(start, len(raw)) if raw[at]]
    for where, value in mutations:
        raw[used[where % len(used)]] = value
    load("pycdlib")  # once for all children
    image = tmp_path / "mutated.img"
    image.write_bytes(raw)
    assert _judge(host, image) <= {"found", "absent", "broken"}
