"""Attacks by bundle, with the bytes an attacker would send: nothing is written outside, and mostly nothing at all."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.payloads.bundle import check, extract
from contextagent.payloads.caps import Caps
from tests.machine import REPOSITORY
from tests.tars import END, extended, file, folder, header, link, pax, tar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CAPS = Caps()
SEED = 45582
MUTANTS = 50_000 * (100 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 1)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Yield a file beside the bundle's folder that no bundle may change."""
    path = tmp_path / "canary"
    path.write_text("alive")
    yield path
    assert path.read_text() == "alive"
    assert {each.name for each in tmp_path.iterdir()} <= {"canary", "out"}


def refused(source: io.BytesIO, out: Path, caps: Caps = CAPS) -> str:
    """Return the reason of a refusal before a byte was written."""
    with pytest.raises(BrokenSourceError) as caught:
        extract(source, str(out), caps)
    assert not out.exists()
    return caught.value.reason


@pytest.mark.parametrize("name", ["../canary", "a/../../canary", "./../canary", "a/./../../canary", "..", "a/.."])
def test_no_path_leads_up(name: str, canary: Path) -> None:
    assert refused(tar(file(name, b"dead")), canary.with_name("out")) == "parent-path"


def test_no_path_is_absolute(canary: Path) -> None:
    assert refused(tar(file(str(canary), b"dead")), canary.with_name("out")) == "absolute-path"
    assert (
        refused(tar(pax({"path": str(canary).encode()}), file("a", b"dead")), canary.with_name("out"))
        == "absolute-path"
    )


@pytest.mark.parametrize("target", ["..", "."])
def test_nothing_is_written_through_a_link(target: str, canary: Path) -> None:
    reason = refused(tar(link("l", target), file("l/canary", b"dead")), canary.with_name("out"))
    assert reason in ("link-outside", "through-link")
    assert refused(tar(file("l/canary", b"dead"), link("l", target)), canary.with_name("out"))


def test_a_link_is_not_replaced_by_a_file_that_is_written_through_it(canary: Path) -> None:
    assert refused(tar(link("l", "m"), file("l", b"dead")), canary.with_name("out")) == "duplicate-name"


def test_cve_2025_4517_a_chain_of_links_past_path_max_leads_nowhere(canary: Path) -> None:
    """As published: links whose resolved path passes PATH_MAX, so that `realpath` stops looking, then a hard link."""
    component = "d" * 247
    members, path = [], ""
    for step in "abcdefghijklmnop":
        members += [folder(f"{path}{component}"), link(f"{path}{step}", component)]
        path += f"{component}/"
    chain = "/".join("abcdefghijklmnop")
    members += [
        link(f"{chain}/{'l' * 254}", "../" * 16),
        link("escape", f"{chain}/{'l' * 254}/.."),
        header("flaglink", kind=b"1", link="escape/canary"),
        file("flaglink", b"dead"),
    ]
    assert refused(tar(*members), canary.with_name("out")) in ("through-link", "bad-name")
    assert refused(tar(*members[-3:]), canary.with_name("out")) == "hard-link"


def test_cve_2025_45582_two_archives_never_share_a_folder(canary: Path) -> None:
    out = canary.with_name("out")
    extract(tar(link("x", "y")), str(out), CAPS)
    with pytest.raises(CannotWriteError, match="File exists"):
        extract(tar(file("x/canary", b"dead")), str(out), CAPS)
    assert [path.name for path in out.iterdir()] == ["x"]


def test_a_planted_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to("target")
    with pytest.raises(CannotWriteError):
        extract(tar(file("a", b"dead")), str(tmp_path / "out"), CAPS)
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize("size", [-1, -512, -1024, -(1 << 40)])
@pytest.mark.parametrize("kind", [b"0", b"5", b"x", b"g", b"L", b"K"])
def test_cve_2025_8194_a_negative_size_does_not_lead_back(kind: bytes, size: int, canary: Path) -> None:
    archive = tar(file("a"), header("b", kind=kind, size=size), file("c"))
    assert refused(archive, canary.with_name("out")) == "negative-offset"


def test_200_000_members_are_not_even_counted_to_the_end(canary: Path) -> None:
    archive = io.BytesIO(b"".join(header(f"m{number}") for number in range(200_000)) + END)
    assert refused(archive, canary.with_name("out")) == "too-many-members"
    assert archive.tell() < 2_000_000


def bomb(size_mib: int) -> bytes:
    """Return a gzip'd archive of one member of zeros, a thousand times its packed size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = packer.compress(header("zeros", size=size_mib << 20))
    for _ in range(size_mib):
        data += packer.compress(bytes(1 << 20))
    return data + packer.compress(END) + packer.flush()


def test_a_bomb_of_1_to_1000_is_refused_by_its_ratio_or_its_size(canary: Path) -> None:
    out = canary.with_name("out")
    assert refused(io.BytesIO(bomb(8)), out) == "ratio"
    assert refused(io.BytesIO(bomb(1024)), out) == "member-too-large"
    large = Caps(member_bytes=1 << 40, total_bytes=1 << 40)
    assert refused(io.BytesIO(bomb(64)), out, large) == "ratio"


def test_a_bomb_of_bombs_is_data_like_any_other(canary: Path) -> None:
    out = canary.with_name("out")
    inner = gzip.compress(bytes(1 << 20))
    extract(tar(file("inner.gz", inner)), str(out), CAPS)
    assert (out / "inner.gz").read_bytes() == inner


@pytest.mark.parametrize("names", [("a", "A"), ("straße", "STRASSE"), ("d/x", "D/y"), ("\u017f", "s")])
def test_names_that_differ_by_capitals_alone_are_refused(names: tuple[str, str], canary: Path) -> None:
    assert refused(tar(*map(file, names)), canary.with_name("out")) == "case-duplicate"


@pytest.mark.parametrize(
    "records",
    [{"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0"}, {"GNU.sparse.map": b"0,1"}, {"GNU.sparse.size": b"9"}],
)
def test_sparse_members_of_every_format_are_refused(records: dict[str, bytes], canary: Path) -> None:
    assert refused(tar(pax(records), file("a")), canary.with_name("out")) == "sparse"
    assert refused(tar(header("a", kind=b"S")), canary.with_name("out")) == "sparse"


@pytest.mark.parametrize(("kind", "reason"), [(b"3", "device"), (b"4", "device"), (b"6", "fifo"), (b"1", "hard-link")])
def test_no_special_file_is_made(kind: bytes, reason: str, canary: Path) -> None:
    assert refused(tar(header("a", kind=kind, link="canary")), canary.with_name("out")) == reason


def test_no_special_bit_and_no_owner_is_kept(canary: Path) -> None:
    out = canary.with_name("out")
    extract(tar(file("a", mode=0o7777)), str(out), CAPS)
    made = (out / "a").stat()
    assert (made.st_mode & 0o7777, made.st_uid) == (0o755, os.geteuid())


@pytest.mark.parametrize(
    "members",
    [
        [header("PaxHeader", kind=b"x", size=8 << 30)],
        [extended(b"x" * (1 << 17))],
        [header("long", kind=b"L", size=1 << 62)],
        [pax({"comment": b"x" * 60_000}, b"g")] * 100,
    ],
    ids=["of 8 GiB", "of 128 KiB", "a name of 4 EiB", "one after another"],
)
def test_a_huge_extended_header_is_refused_by_its_size(members: list[bytes], canary: Path) -> None:
    assert refused(tar(*members), canary.with_name("out")) == "header-too-large"


def test_a_pax_header_cannot_rename_what_was_judged(canary: Path) -> None:
    """Readers differ on which of two names counts: an archive with two is refused."""
    out = canary.with_name("out")
    twice = pax({"path": b"good"}) + pax({"path": b"../canary"})
    assert refused(tar(twice, file("a", b"dead")), out) == "ambiguous-header"
    assert refused(tar(extended(b"../canary\0", b"L"), pax({"path": b"good"}), file("a")), out) == "ambiguous-header"
    assert refused(tar(pax({"path": b"../canary"}), file("good", b"dead")), out) == "parent-path"


@pytest.mark.parametrize("garbage", [b"x" * 100_000, b"\x1f\x8b" * 5, b"\0" * 100_000 + b"x", b"####"])
def test_garbage_behind_the_gzip_data_is_refused(garbage: bytes, canary: Path) -> None:
    data = gzip.compress(tar(file("a")).getvalue()) + garbage
    assert refused(io.BytesIO(data), canary.with_name("out")) in ("trailing-garbage", "bad-gzip")


def test_endless_parts_of_gzip_that_hold_nothing_come_to_an_end(canary: Path) -> None:
    data = gzip.compress(tar(file("a")).getvalue()[:-100]) + gzip.compress(b"") * 1_000_000
    assert refused(io.BytesIO(data), canary.with_name("out")) == "bad-gzip"


def test_a_second_archive_behind_the_first_is_refused(canary: Path) -> None:
    data = tar(file("a")).getvalue() + tar(file("b")).getvalue()
    assert refused(io.BytesIO(data), canary.with_name("out")) == "trailing-garbage"


def test_a_swap_between_check_and_use_is_refused_however_often_it_is_tried(tmp_path: Path) -> None:
    """Ten thousand sources that show another archive to the second reader."""
    good, bad = tar(file("a", b"good")).getvalue(), tar(file("../canary", b"dead")).getvalue()

    class Swap(io.BytesIO):
        reads = 0

        def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
            if whence == os.SEEK_END:
                type(self).reads += 1
                super().seek(0)
                self.write(bad if self.reads % 2 == 0 else good)
            return super().seek(position, whence)

    for _ in range(10_000):
        with pytest.raises(BrokenSourceError, match=r"its path has '\.\.'"):
            extract(Swap(), str(tmp_path / "out"), CAPS)
        (tmp_path / "out").rmdir()


def test_every_cut_of_an_archive_is_refused(tmp_path: Path) -> None:
    whole = tar(pax({"comment": b"x"}), file("prolog.sh"), link("l", "prolog.sh"), folder("files")).getvalue()
    for packed in (whole[: -len(END)] + bytes(512), gzip.compress(whole)):
        for end in range(len(packed)):
            assert refused(io.BytesIO(packed[:end]), tmp_path / "out") in ("truncated", "not-a-tar")


def test_a_gibibyte_is_unpacked_in_constant_memory(tmp_path: Path) -> None:
    """In a process of its own; its `ru_maxrss` would be that of this one, from which it was forked."""
    script = (
        "import sys\n"
        "from contextagent.payloads.bundle import extract\n"
        "from contextagent.payloads.caps import Caps\n"
        "with open(sys.argv[1], 'rb') as source:\n"
        "    extract(source, sys.argv[2], Caps(member_bytes=1 << 31, total_bytes=1 << 31))\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])\n"
    )
    size = 1 << 30
    with (tmp_path / "large.tar").open("wb") as archive:
        archive.write(header("large", size=size))
        archive.truncate(archive.tell() + size + len(END))
    command = [sys.executable, "-c", script, str(tmp_path / "large.tar"), str(tmp_path / "out")]
    made = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert (tmp_path / "out/large").stat().st_size == size
    assert int(made.stdout) < 64 << 10


def well_formed(rng: random.Random) -> bytes:
    """Return an archive as attackers write them: right checksums, wrong everything else."""
    names = ["a", "A", "b/c", "../a", "/a", "l", "l/x", "", "a" * 200, "\udcff", "x\n", ".", "d/d/d"]
    members = []
    for _ in range(rng.randrange(1, 8)):
        match rng.randrange(4):
            case 0:
                members.append(file(rng.choice(names), rng.randbytes(rng.randrange(1200))))
            case 1:
                members.append(link(rng.choice(names), rng.choice([*names, "..", "l/..", "b/../../x"])))
            case 2:
                size = rng.choice([0, 0, 0, 1, 512, 1 << 35, -512])
                kind = rng.choice([b"0", b"\0", b"1", b"2", b"5", b"6", b"7", b"K", b"L", b"S", b"V", b"x", b"g"])
                members.append(header(rng.choice(names), kind=kind, size=size, link=rng.choice(names)))
            case _:
                key = rng.choice(["path", "linkpath", "size", "comment", "GNU.sparse.size"])
                members.append(pax({key: rng.choice([b"a", b"../a", b"-1", b"12", b""])}, rng.choice([b"x", b"g"])))
    return b"".join(members) + END


def test_no_mutant_raises_anything_unforeseen(tmp_path: Path) -> None:
    """F1: what is refused is refused by a rule, and what is taken stays in its folder."""
    rng = random.Random(SEED)
    taken = 0
    for number in range(MUTANTS):
        data = bytearray(well_formed(rng))
        for _ in range(rng.choice([0, 0, 1, 4])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        source = io.BytesIO(gzip.compress(data, 1) if number % 3 == 0 else bytes(data))
        try:
            check(source, CAPS)
        except BrokenSourceError:
            continue
        taken += 1
        out = tmp_path / f"out{number}"
        extract(source, str(out), CAPS)
        for path in out.rglob("*"):
            assert os.path.realpath(path).startswith(str(out))
        assert {path.name for path in tmp_path.iterdir()} == {out.name}
        shutil.rmtree(out)
    assert taken > MUTANTS // 100
