"""The bundle: every rule with real bytes, and that what keeps them all comes out as it went in."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.payloads.bundle import MAX_DEPTH, MAX_HEADER_BYTES, MAX_PADDING_BYTES, Member, check, extract
from contextagent.payloads.caps import Caps
from contextagent.payloads.stream import MAX_PARTS, Stream
from tests import tars
from tests.tars import BLOCK, END, extended, file, folder, header, link, padded, pax, tar, tgz

if TYPE_CHECKING:
    from pathlib import Path

CAPS = Caps()
BOMB = gzip.compress(file("bomb", bytes(1 << 22)) + END)


def reason_of(source: io.BytesIO, folder_path: Path, caps: Caps = CAPS) -> str:
    """Return why a bundle is refused, after a look that nothing was written."""
    with pytest.raises(BrokenSourceError) as caught:
        extract(source, str(folder_path), caps)
    assert not folder_path.exists()
    return caught.value.reason


REFUSED = {
    "an absolute path": ("absolute-path", [file("/etc/shadow")]),
    "two dots at the start": ("parent-path", [file("../escaped")]),
    "two dots within": ("parent-path", [file("files/../../escaped")]),
    "a file through a link": ("through-link", [link("files", "post-network.d"), file("files/x")]),
    "a link where a folder was": ("through-link", [file("files/x"), link("files", "other")]),
    "a file where a folder was": ("through-file", [file("files/x"), file("files")]),
    "a file through a file": ("through-file", [file("files"), file("files/x")]),
    "a hard link": ("hard-link", [file("a"), header("b", kind=b"1", link="a")]),
    "a character device": ("device", [header("null", kind=b"3")]),
    "a block device": ("device", [header("sda", kind=b"4")]),
    "a fifo": ("fifo", [header("pipe", kind=b"6")]),
    "an old GNU sparse file": ("sparse", [header("holes", kind=b"S")]),
    "a pax sparse file": ("sparse", [pax({"GNU.sparse.major": b"1"}), file("holes")]),
    "a GNU volume label": ("unknown-type", [header("label", kind=b"V")]),
    "a name twice": ("duplicate-name", [file("epilog.sh"), file("./epilog.sh")]),
    "a folder twice": ("duplicate-name", [folder("files"), folder("files")]),
    "capitals alone": ("case-duplicate", [file("epilog.sh"), file("Epilog.sh")]),
    "capitals alone in a folder": ("case-duplicate", [file("files/a"), file("FILES/b")]),
    "a link to an absolute path": ("link-outside", [link("l", "/etc/shadow")]),
    "a link to nothing": ("link-outside", [link("l", "")]),
    "a link above": ("link-outside", [link("files/l", "../../etc")]),
    "a link's way through a link": ("through-link", [link("a/b/d", "../.."), link("l", "a/b/d/../..")]),
    "a control character": ("bad-name", [file("a\nb")]),
    "an escape": ("bad-name", [file("a\x1b[2J")]),
    "no UTF-8": ("bad-name", [file("a\udcff")]),
    "no name": ("bad-name", [file("")]),
    "a file that is the top": ("bad-name", [file("./.")]),
    "a link that is the top": ("bad-name", [link("./", "x")]),
    "a component of 256 bytes": ("bad-name", [file("a" * 256)]),
    "a path of more than PATH_MAX": ("bad-name", [file("/".join(["a" * 250] * 17))]),
    "too many levels": ("too-deep", [file("a/" * 40 + "b")]),
    "too many members": ("too-many-members", [file(f"f{number}", b"") for number in range(1025)]),
    "a size below zero": ("negative-offset", [header("a", size=-512), padded(b"x")]),
    "a pax size below zero": ("negative-offset", [pax({"size": b"-1024"}), file("a")]),
    "an extended header's size below zero": ("negative-offset", [header("x", kind=b"x", size=-512)]),
    "a size of all the world": ("member-too-large", [header("a", size=1 << 62)]),
    "a pax size of all the world": ("bad-header", [pax({"size": b"9" * 5000}), file("a")]),
    "a pax size that is none": ("bad-header", [pax({"size": b"1e3"}), file("a")]),
    "a pax record without length": ("bad-header", [extended(b"path=a\n"), file("b")]),
    "a pax record with a word as length": ("bad-header", [extended(b"x path=a\n"), file("b")]),
    "a pax record that is too short": ("bad-header", [extended(b"90 path=a\n"), file("b")]),
    "a pax record without line end": ("bad-header", [extended(b"8 path=a"), file("b")]),
    "a pax record of length 0": ("bad-header", [extended(b"0 path=a\n"), file("b")]),
    "a pax record without a value": ("bad-header", [extended(b"7 path\n"), file("b")]),
    "a pax record with a length of 5000 digits": ("bad-header", [extended(b"1" * 5000 + b" a=b\n"), file("b")]),
    "a pax key twice": ("bad-header", [extended(b"9 path=a\n9 path=b\n"), file("c")]),
    "two names": ("ambiguous-header", [pax({"path": b"a"}), extended(b"b\0", b"L"), file("c")]),
    "a name for all that follows": ("ambiguous-header", [pax({"path": b"a"}, b"g"), file("b")]),
    "a huge pax header": ("header-too-large", [extended(b"x" * MAX_HEADER_BYTES)]),
    "endless pax headers": ("header-too-large", [pax({"comment": b"x" * 900}, b"g")] * 60),
    "a GNU name without its end": ("bad-header", [extended(b"x" * 5, b"L"), file("b")]),
    "a GNU target without its end": ("bad-header", [extended(b"x" * 512, b"K"), link("b", "c")]),
    "a folder with contents": ("bad-size", [header("d", kind=b"5", size=512), padded(b"x")]),
    "something after the end": ("trailing-garbage", [file("a"), END, file("b")]),
    "a tape's length of zeros after the end": ("trailing-garbage", [file("a"), bytes(MAX_PADDING_BYTES + 2048)]),
    "a damaged first header": ("not-a-tar", [b"x" * 512]),
    "a damaged later header": ("bad-checksum", [file("a"), b"x" * 512]),
}


@pytest.mark.parametrize(("reason", "members"), REFUSED.values(), ids=REFUSED)
def test_a_member_against_a_rule_refuses_the_whole_bundle(reason: str, members: list[bytes], tmp_path: Path) -> None:
    good = [] if reason == "not-a-tar" else [file("good.sh")]
    assert reason_of(tar(*good, *members), tmp_path / "out") == reason


CUT = {
    "nothing": ("not-a-tar", b""),
    "nothing but zeros": ("not-a-tar", tar().getvalue()),
    "half a header": ("not-a-tar", file("a")[:300]),
    "no end": ("truncated", file("a")),
    "contents cut short": ("truncated", file("a", b"x" * 2000)[:1500]),
    "padding cut short": ("truncated", file("a", b"x" * 100)[:700]),
    "a second header cut short": ("truncated", file("a") + file("b")[:100]),
    "an extended header for nothing": ("truncated", pax({"path": b"a"}) + END),
    "gzip cut short": ("truncated", tgz(file("a", os.urandom(3000))).getvalue()[:-700]),
    "gzip without its trailer": ("truncated", tgz(file("a")).getvalue()[:-4]),
    "gzip with a wrong checksum": ("bad-gzip", tgz(file("a")).getvalue()[:-8] + bytes(8)),
    "gzip that is none": ("bad-gzip", b"\x1f\x8b" + b"x" * 100),
    "gzip with something after it": ("trailing-garbage", tgz(file("a")).getvalue() + b"more"),
    "gzip with too many parts": ("bad-gzip", gzip.compress(b"") * (MAX_PARTS + 1)),
    "a bomb": ("ratio", BOMB),
}


@pytest.mark.parametrize(("reason", "data"), CUT.values(), ids=CUT)
def test_a_damaged_archive_is_refused_whole(reason: str, data: bytes, tmp_path: Path) -> None:
    assert reason_of(io.BytesIO(data), tmp_path / "out") == reason


def test_a_refusal_names_the_member_and_the_rule_without_control_characters() -> None:
    with pytest.raises(BrokenSourceError) as caught:
        check(tar(file("files/../\x1b[2J")), CAPS)
    assert str(caught.value) == "cannot unpack 'files/../\\x1b[2J': its path has '..'"
    assert caught.value.problems[0].path == "files/../\\x1b[2J"


def test_all_members_together_are_bounded(tmp_path: Path) -> None:
    caps = Caps(member_bytes=2000, total_bytes=3000)
    assert reason_of(tar(file("a", bytes(2000)), file("b", bytes(1001))), tmp_path / "out", caps) == "total-too-large"
    assert len(extract(tar(file("a", bytes(2000)), file("b", bytes(1000))), str(tmp_path / "out"), caps)) == 2


def test_the_cap_of_members_is_the_last_one_allowed(tmp_path: Path) -> None:
    members = [file(f"f{number}", b"") for number in range(1024)]
    assert len(extract(tar(*members), str(tmp_path / "out"), CAPS)) == 1024


def test_each_bound_is_the_last_one_allowed() -> None:
    assert check(tar(file("a/" * (MAX_DEPTH - 1) + "b")), CAPS)
    with pytest.raises(BrokenSourceError, match="too many levels"):
        check(tar(file("a/" * MAX_DEPTH + "b")), CAPS)
    record = pax({"comment": b"x" * (MAX_HEADER_BYTES - BLOCK - len(b"65024 comment=\n"))})
    assert len(record) == MAX_HEADER_BYTES
    assert check(tar(record, file("a")), CAPS)
    with pytest.raises(BrokenSourceError, match="too large"):
        check(tar(record, extended(b""), file("a")), CAPS)


def test_an_extended_header_may_say_nothing() -> None:
    assert len(check(tar(extended(b""), extended(b"", b"g"), file("a")), CAPS)) == 1


def test_a_folders_rights_are_no_more_than_a_files() -> None:
    assert check(tar(header("d", kind=b"5", mode=0o7777)), CAPS)[0].mode == 0o755


def test_the_ratio_is_the_last_one_allowed() -> None:
    size = next(size for size in range(2000, 6000) if size == 100 * len(gzip.compress(bytes(size))))
    for more, ratio in ((0, 100), (1, 101)):
        stream = Stream(io.BytesIO(gzip.compress(bytes(size + more))), Caps(ratio=ratio), "it")
        assert len(stream.read(size + more)) == size + more
    with pytest.raises(BrokenSourceError, match="too many times its own size"):
        Stream(io.BytesIO(gzip.compress(bytes(size + 1))), Caps(ratio=100), "it").read(size + 1)


def test_what_pads_an_archive_out_does_not_count_as_unpacked(tmp_path: Path) -> None:
    caps = Caps(ratio=4)
    padded_out = gzip.compress(file("a", os.urandom(1000)) + END + bytes(MAX_PADDING_BYTES - BLOCK))
    assert len(extract(io.BytesIO(padded_out), str(tmp_path / "out"), caps)) == 1
    assert reason_of(tgz(file("a", bytes(10_000))), tmp_path / "other", caps) == "ratio"


def test_an_archive_of_nothing_has_no_members(tmp_path: Path) -> None:
    assert extract(tgz(), str(tmp_path / "out"), CAPS) == ()
    assert list((tmp_path / "out").iterdir()) == []


def test_names_modes_contents_and_links_come_out_as_they_went_in(tmp_path: Path) -> None:
    long = "files/" + "d" * 200 + "/" + "e" * 200
    members = [
        pax({"comment": b"made by a test"}, b"g"),
        folder("./"),
        folder("./post-network.d/"),
        file("./post-network.d/10-run", b"#!/bin/sh\n", mode=0o6777),
        file(long, b"long"),
        pax({"path": "files/ä".encode(), "size": b"3", "mtime": b"1.5"}),
        file("short", b"abc"),
        link("files/l", "ä"),
        pax({"linkpath": b"../post-network.d/10-run"}),
        link("files/m", "x"),
    ]
    found = extract(tar(*members), str(tmp_path / "out"), CAPS)
    assert [member.path for member in found] == [
        "post-network.d", "post-network.d/10-run", long, "files/ä", "files/l", "files/m",
    ]  # fmt: skip
    sha512 = hashlib.sha512(b"#!/bin/sh\n").hexdigest()
    assert found[1] == Member(path="post-network.d/10-run", kind="file", size_bytes=10, mode=0o755, sha512=sha512)
    assert (tmp_path / "out" / long).read_bytes() == b"long"
    assert (tmp_path / "out/files/l").read_bytes() == b"abc"
    assert (tmp_path / "out/files/m").readlink().as_posix() == "../post-network.d/10-run"
    assert (tmp_path / "out/post-network.d/10-run").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("split", [1, 511, 700, 1600, 2047])
def test_gzip_in_several_parts_with_zeros_behind_is_one_stream(split: int, tmp_path: Path) -> None:
    data = tar(file("a", b"x" * 1000), file("b")).getvalue()
    parts = gzip.compress(data[:split]) + gzip.compress(data[split:]) + bytes(100_000)
    assert len(extract(io.BytesIO(parts), str(tmp_path / "out"), CAPS)) == 2
    assert (tmp_path / "out/a").read_bytes() == b"x" * 1000


@pytest.mark.parametrize("split", range(65530, 65540))
def test_a_gzip_part_may_end_anywhere_in_what_is_read_at_once(split: int) -> None:
    first = gzip.compress(b"", compresslevel=0)
    data = gzip.compress(file("a", os.urandom(66_000)) + END, compresslevel=0)
    name = b"n" * (split - len(first) - 1)  # a gzip header's file name makes the first part as long as is wanted
    padded_first = first[:3] + b"\x08" + first[4:10] + name + b"\0" + first[10:]
    assert len(check(io.BytesIO(padded_first + data), CAPS)) == 1


class Swapped(io.BytesIO):
    """A file that is another one when it is read again."""

    def __init__(self, *archives: io.BytesIO) -> None:
        super().__init__()
        self._archives = [archive.getvalue() for archive in archives]

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_END:
            super().seek(0)
            self.truncate()
            self.write(self._archives.pop(0))
        return super().seek(position, whence)


@pytest.mark.parametrize(
    "second",
    [[file("evil")], [file("a"), file("more")], [folder("./")], [file("a", b"of another size")], [link("a", "b")]],
    ids=["another name", "one more", "none", "another size", "another kind"],
)
def test_a_source_that_changes_between_check_and_use_is_refused(second: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        extract(Swapped(tar(file("a")), tar(*second)), str(tmp_path / "out"), CAPS)
    assert caught.value.reason == "changed"


def test_a_folder_that_is_there_already_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(CannotWriteError, match="File exists"):
        extract(tar(file("a")), str(tmp_path / "out"), CAPS)
    assert list((tmp_path / "out").iterdir()) == []


NAME = st.text("abcdefgh-_.ü", min_size=1, max_size=60).filter(lambda name: name.strip("."))


@given(
    tree=st.dictionaries(
        NAME,
        st.one_of(st.binary(max_size=2000), st.dictionaries(NAME, st.binary(max_size=2000), min_size=1)),
        min_size=1,
    ),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    mode=st.sampled_from(["w", "w:gz"]),
)
def test_any_tree_of_files_comes_out_as_it_went_in(
    tree: dict[str, bytes | dict[str, bytes]], form: int, mode: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = {name: value for name, value in tree.items() if isinstance(value, bytes)}
    for name, value in tree.items():
        if isinstance(value, dict):
            files |= {f"{name}/{inner}": data for inner, data in value.items()}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode, format=form) as archive:  # type: ignore[call-overload]  # mode is either
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    out = tmp_path_factory.mktemp("tree") / "out"
    extract(made, str(out), Caps(ratio=2000))
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("form", ["gnu", "ustar", "pax", "v7"])
def test_what_the_tar_program_packs_is_taken(form: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "post-network.d").mkdir(parents=True)
    (tree / "post-network.d/10-run").write_text("#!/bin/sh\n")
    (tree / "prolog.sh").symlink_to("post-network.d/10-run")
    tool = shutil.which("tar")
    assert tool
    subprocess.run([tool, f"--format={form}", "-czf", tmp_path / "x.tgz", "-C", tree, "."], check=True)
    with (tmp_path / "x.tgz").open("rb") as source:
        extract(source, str(tmp_path / "out"), CAPS)
    assert (tmp_path / "out/prolog.sh").read_text() == "#!/bin/sh\n"


NASTY_NAMES = [
    "a",
    "A",
    "a/b",
    "../a",
    "/a",
    "a/..",
    ".",
    "",
    "l",
    "l/x",
    "a/" * 40,
    "x" * 300,
    "a\0b",
    "\udcff",
    "./l/",
]


@st.composite
def forged(draw: st.DrawFn) -> bytes:
    """Return an archive of forged but well-formed headers, with some bytes changed afterwards."""
    members = draw(
        st.lists(
            st.one_of(
                st.builds(
                    header,
                    st.sampled_from(NASTY_NAMES),
                    kind=st.sampled_from(
                        [b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S"]
                    ),
                    size=st.sampled_from([0, 0, 0, 1, 511, 512, 513, 1 << 40, -1, -512]),
                    mode=st.integers(0, 0o7777),
                    link=st.sampled_from(NASTY_NAMES),
                ),
                st.builds(tars.file, st.sampled_from(NASTY_NAMES), st.binary(max_size=600)),
                st.builds(pax, st.dictionaries(st.sampled_from(["path", "size", "linkpath"]), st.binary(max_size=20))),
                st.binary(max_size=600).map(padded),
            ),
            max_size=8,
        )
    )
    data = bytearray(b"".join(members) + END)
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[at] = value
    return gzip.compress(bytes(data)) if draw(st.booleans()) else bytes(data)


@given(data=forged())
def test_no_archive_writes_outside_its_folder_or_raises_anything_unforeseen(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    top = tmp_path_factory.mktemp("fuzz")
    out = top / "inner" / "out"
    out.parent.mkdir()
    with contextlib.suppress(BrokenSourceError):
        extract(io.BytesIO(data), str(out), CAPS)
    assert [path.name for path in top.iterdir()] == ["inner"]
    assert [path.name for path in out.parent.iterdir()] in ([], ["out"])
    for path in out.rglob("*"):
        assert os.path.realpath(path).startswith(str(out))  # a link to itself is harmless, and `resolve` would raise
