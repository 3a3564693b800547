"""The reader of tar headers beside two others, `tarfile` and the tar program: the same members, or a refusal."""

from __future__ import annotations

import gzip
import io
import posixpath
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextagent.errors import BrokenSourceError
from contextagent.payloads.bundle import check, extract
from contextagent.payloads.caps import Caps
from contextagent.payloads.tar_header import HeaderError, read_header
from tests.tars import extended, file, header, pax, summed, tar, trees

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CAPS = Caps(ratio=2000)
PROGRAM = shutil.which("tar") or "tar"
FORMATS = ["v7", "oldgnu", "gnu", "ustar", "posix"]
NAME = st.text("abcdefgh-_.ü€", min_size=1, max_size=40).filter(lambda name: name.strip("."))
FOLDERS = st.lists(NAME, max_size=7).map(lambda names: "".join(f"{name}/" for name in names))
TREE = st.dictionaries(
    st.tuples(FOLDERS, NAME),
    st.one_of(st.binary(max_size=1200), NAME, st.none()),  # a file, a link's target, a folder
    min_size=1,
    max_size=8,
)


REFUSED_FOR_THE_TREE = ("case-duplicate", "duplicate-name", "through-file", "through-link", "link-outside")


def judged(judge: Callable[[], object]) -> tuple[object, str]:
    """Return what comes out, or why it is refused."""
    try:
        return judge(), ""
    except BrokenSourceError as error:
        return None, error.reason


def shape_of(members: list[tarfile.TarInfo]) -> list[tuple[str, str, int, str]]:
    """Return what `tarfile` found, as the agent says it."""
    kinds = {tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link"}
    found = [(posixpath.normpath(each.name), kinds.get(each.type, "file"), each.mode & 0o755, each) for each in members]
    return [
        (path, kind, 0 if kind == "link" else mode, each.linkname if kind == "link" else str(each.size))
        for path, kind, mode, each in found
        if path != "."
    ]


def ours(source: io.BytesIO) -> list[tuple[str, str, int, str]]:
    """Return what the agent found."""
    return [
        (
            each.path,
            each.kind,
            0 if each.kind == "link" else each.mode,
            each.target if each.kind == "link" else str(each.size_bytes),
        )
        for each in check(source, CAPS)
    ]


@given(tree=TREE, form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), data=st.data())
def test_what_tarfile_packs_is_read_as_tarfile_reads_it(
    tree: dict[tuple[str, str], bytes | str | None], form: int, data: st.DataObject
) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for (folder, name), value in tree.items():
            info = tarfile.TarInfo(folder + name)
            info.mode = data.draw(st.integers(0, 0o777))
            info.mtime = data.draw(st.sampled_from([0, 1, -1, 1 << 40, 1.5]))
            info.uid = data.draw(st.sampled_from([0, 1000, 1 << 21, 1 << 31]))
            if isinstance(value, str):
                info.type, info.linkname = tarfile.SYMTYPE, value
            elif value is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(value)
            try:
                archive.addfile(info, io.BytesIO(value if isinstance(value, bytes) else b""))
            except ValueError:
                assert form == tarfile.USTAR_FORMAT  # it has no room for the name or the number
    made.seek(0)
    with tarfile.open(fileobj=made) as archive:
        expected = shape_of(archive.getmembers())
    found, reason = judged(lambda: ours(made))
    assert found == expected or reason in (*REFUSED_FOR_THE_TREE, *(() if expected else ("not-a-tar",)))


def put(tree: dict[tuple[str, str], bytes | str | None], top: Path) -> None:
    """Make a tree of files on the disk, leaving out what finds its place taken."""
    for (folder, name), value in tree.items():
        path = top / folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(value, str):
                path.symlink_to(value)
            elif value is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(value)
        except OSError:
            continue


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=25)
@given(tree=TREE)
def test_what_the_tar_program_packs_comes_out_as_the_tar_program_unpacks_it(
    form: str, tree: dict[tuple[str, str], bytes | str | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("tar")
    (place / "tree").mkdir()
    put(tree, place / "tree")
    packed = place / "packed.tar"
    command = [PROGRAM, f"--format={form}", "--hard-dereference", "-cf", str(packed), "-C", str(place / "tree"), "."]
    subprocess.run(command, check=form not in ("v7", "ustar"), capture_output=True)  # these leave out long names
    (place / "theirs").mkdir()
    subprocess.run([PROGRAM, "-xf", packed, "-C", place / "theirs"], check=True)
    with packed.open("rb") as source:
        _, reason = judged(lambda: extract(source, str(place / "ours"), CAPS))
    assert reason in REFUSED_FOR_THE_TREE if reason else trees(place / "ours") == trees(place / "theirs")


def block(**fields: bytes) -> bytes:
    """Return a header of a file `a` with these bytes at these fields, and a right sum."""
    places = {"name": 0, "mode": 100, "uid": 108, "size": 124, "time": 136, "kind": 156, "magic": 257, "prefix": 345}
    made = bytearray(header("a"))
    for name, value in fields.items():
        made[places[name] : places[name] + len(value)] = value
    return summed(bytes(made))


REFUSED = {
    "a size in decimal": ("bad-header", {"size": b"00000000009\0"}),
    "a size with a sign": ("bad-header", {"size": b"+0000000001\0"}),
    "a size with an underscore": ("bad-header", {"size": b"0000000_001\0"}),
    "a size in Python's octal": ("bad-header", {"size": b"0o000000001\0"}),
    "a size in two parts": ("bad-header", {"size": b"00001 00001\0"}),
    "something behind a size": ("bad-header", {"size": b"00000\x0000001\0"}),
    "no size": ("bad-header", {"size": b" " * 12}),
    "a size in base 64": ("bad-header", {"size": b"+AAAAAAAAAAA"}),
    "a binary size with another mark": ("bad-header", {"size": b"\x81" + bytes(11)}),
    "an owner that is no number": ("bad-header", {"uid": b"root\0\0\0\0"}),
    "a time that is no number": ("bad-header", {"time": b"yesterday\0\0\0"}),
    "a mode that is no number": ("bad-header", {"mode": b"rwxr-xr-"}),
    "an unknown magic": ("bad-header", {"magic": b"Ustar\0"}),
    "GNU's magic and a prefix": ("ambiguous-header", {"magic": b"ustar  \0", "prefix": b"evil"}),
    "no magic and a prefix": ("ambiguous-header", {"magic": bytes(8), "prefix": b"evil"}),
}


@pytest.mark.parametrize(("reason", "fields"), REFUSED.values(), ids=REFUSED)
def test_a_header_that_can_be_read_in_two_ways_is_refused(reason: str, fields: dict[str, bytes]) -> None:
    with pytest.raises(HeaderError) as caught:
        read_header(block(**fields))
    assert caught.value.reason == reason
    with pytest.raises(BrokenSourceError) as refused:
        check(tar(block(**fields)), CAPS)
    assert refused.value.reason == reason


def test_a_prefix_is_a_part_of_a_posix_name_alone() -> None:
    assert read_header(block(magic=b"ustar\x0000", prefix=b"folder")).name == "folder/a"


@pytest.mark.parametrize("size", [b"        17 \0", b"00000000017\0", b"000000000017", b"\x80" + bytes(10) + b"\x0f"])
def test_a_size_is_octal_digits_between_blanks_or_binary(size: bytes) -> None:
    assert read_header(block(size=size)).size_bytes == 0o17


def test_an_empty_field_that_nobody_needs_is_nothing() -> None:
    found = read_header(block(uid=bytes(8), time=b" " * 12, mode=bytes(8)))
    assert (found.name, found.mode) == ("a", 0)


def test_a_field_may_be_filled_to_its_last_byte() -> None:
    made = block(name=b"n" * 100, kind=b"2" + b"t" * 100, magic=b"ustar\x0000", prefix=b"p" * 155)
    found = read_header(summed(made[:500] + b"x" * 12))
    assert (found.name, found.target) == (f"{'p' * 155}/{'n' * 100}", "t" * 100)
    assert read_header(block(mode=b"1000644\0")).mode == 0o1000644


@pytest.mark.parametrize("at", [100, 107, 108, 115, 116, 123, 124, 135, 136, 147, 329, 336, 337, 344])
def test_every_byte_of_a_number_counts(at: int) -> None:
    made = bytearray(header("a"))
    made[at] = ord("x")
    with pytest.raises(HeaderError, match="bad-header"):
        read_header(summed(bytes(made)))


@pytest.mark.parametrize("at", [0, 99, 147, 156, 511])
def test_every_byte_but_the_sums_own_is_in_the_sum(at: int) -> None:
    made = bytearray(header("a"))
    made[at] += 1
    with pytest.raises(HeaderError, match="bad-checksum"):
        read_header(bytes(made))


@pytest.mark.parametrize("name", ["ü", "\x7f", "\x7f\udc80", "\udcff"])
def test_a_sum_of_signed_bytes_is_as_good(name: str) -> None:
    made = bytearray(header(name))
    signed = sum(made[:148] + made[156:]) + 8 * 32 - 256 * sum(byte > 127 for byte in made)
    made[148:156] = b"%06o\0 " % signed
    assert read_header(bytes(made)).name == name


@pytest.mark.parametrize("field", [b"000000\0 ", b"        ", b"abcdef\0 ", bytes(8)])
def test_a_wrong_sum_is_refused(field: bytes) -> None:
    made = bytearray(header("a"))
    made[148:156] = field
    with pytest.raises(HeaderError, match="bad-checksum"):
        read_header(bytes(made))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([header("a/", kind=b"0")], "bad-name"),
        ([header("a/", kind=b"7")], "bad-name"),
        ([header("a/", kind=b"2", link="b")], "bad-name"),
        ([pax({"path": b"a/"}), header("a", kind=b"\0")], "bad-name"),
        ([pax({"path": b"a"}), header("a/", kind=b"\0")], "bad-name"),
        ([pax({"path": b"a/"}), header("a", kind=b"0")], "bad-name"),
        ([pax({"path": b""}), file("a")], "ambiguous-header"),
        ([pax({"linkpath": b""}), header("a", kind=b"2", link="b")], "ambiguous-header"),
        ([extended(b"\0", b"K"), header("a", kind=b"2", link="b")], "ambiguous-header"),
    ],
)
def test_a_member_that_is_a_folder_or_named_so_for_some_programs_only_is_refused(
    members: list[bytes], reason: str
) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        check(tar(*members), CAPS)
    assert caught.value.reason == reason


def test_an_old_folder_is_known_by_its_slash() -> None:
    found = check(tar(header("a/", kind=b"\0", mode=0o755), header("a/b", kind=b"\0")), CAPS)
    assert [(each.path, each.kind) for each in found] == [("a", "folder"), ("a/b", "file")]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\xfd7zXZ\0" + bytes(600), "it is an xz archive; a bundle is tar or tar.gz"),
        (b"PK\x03\x04" + bytes(600), "it is a zip archive; a bundle is tar or tar.gz"),
        (b"BZh91AY" + bytes(600), "it is a bzip2 archive; a bundle is tar or tar.gz"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><title>404</title>", "it is HTML or XML; a bundle is tar or tar.gz"),
        (b"<html>" + b" " * 1000, "it is HTML or XML; a bundle is tar or tar.gz"),
        (b'{"error": "no such bundle"}', "it is JSON; a bundle is tar or tar.gz"),
        (b"#!/bin/sh\n" * 100, "it is a script; a bundle is tar or tar.gz"),
        (b"rubbish" * 100, "it is no tar archive"),
        (b"", "it is no tar archive"),
        (bytes(100), "it is no tar archive"),
    ],
    ids=["xz", "zip", "bzip2", "short HTML", "HTML", "JSON", "a script", "rubbish", "nothing", "a few zeros"],
)
@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gzip'd"])
def test_what_is_no_tar_is_called_what_it_is(data: bytes, cause: str, *, is_packed: bool) -> None:
    source = io.BytesIO(gzip.compress(data) if is_packed else data)
    with pytest.raises(BrokenSourceError) as caught:
        check(source, CAPS)
    assert (str(caught.value), caught.value.reason) == (f"cannot unpack 'bundle': {cause}", "not-a-tar")


def test_a_bundle_that_was_packed_twice_is_named_so() -> None:
    with pytest.raises(BrokenSourceError, match=r"it is gzip'd twice; a bundle is tar or tar\.gz"):
        check(io.BytesIO(gzip.compress(gzip.compress(tar(file("a")).getvalue()))), CAPS)


def test_zeros_are_an_empty_archive_only_where_somebody_packed_them() -> None:
    with pytest.raises(BrokenSourceError, match="it is nothing but zeros"):
        check(io.BytesIO(bytes(4096)), CAPS)
    assert check(io.BytesIO(gzip.compress(bytes(10240))), CAPS) == ()


def test_a_member_may_have_any_name_and_be_the_first_one_still() -> None:
    assert [each.path for each in check(tar(file("bundle")), CAPS)] == ["bundle"]
    with pytest.raises(BrokenSourceError) as caught:
        check(tar(file("bundle"), b"x" * 512), CAPS)
    assert caught.value.reason == "bad-checksum"
