"""Forged headers beside two other readers: what the agent takes, they take for the same, or not at all."""

from __future__ import annotations

import io
import os
import posixpath
import random
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

from contextagent.errors import BrokenSourceError
from contextagent.payloads.bundle import check, extract
from contextagent.payloads.caps import Caps
from tests.tars import BLOCK, END, extended, file, folder, header, link, padded, pax, summed, trees

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.payloads.bundle import Member

SEED = 4517
MUTANTS = 20_000 * (20 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 1)
PROGRAM = shutil.which("tar") or "tar"
UNPACKED_BY_THE_PROGRAM = 40
"""One in so many: starting a program takes as long as judging a hundred archives."""
FIELDS = {
    0: [b"b\0", b"a/", b"../x\0", b"x" * 100, b"\0", b"b\0c\0", b"\xc3\xbc\0"],
    100: [b"0000755\0", b"755    \0", b"        ", b"9999999\0", b"0000755 ", b"\x80\0\0\0\0\0\x01\xed"],
    108: [b"0001750\0", b"root\0\0\0\0", b"\0" * 8, b"-000001\0", b"\xff" * 8],
    124: [
        b"00000000005\0",
        b"          5\0",
        b"5          \0",
        b"00000000005 ",
        b"\x80" + bytes(10) + b"\5",
        b"\xff" * 12,
        b"5\0005\0005\0",
        b"0x000000005\0",
        b"000000_0005\0",
        b"\0" * 12,
        b"\x81" + bytes(10) + b"\5",
        b"00000001000\0",
    ],
    136: [b"00000000000\0", b"\xff" * 12, b"time\0", b"\0" * 12],
    156: [b"0", b"\0", b"1", b"2", b"5", b"7", b"x", b"g", b"L", b"K", b"S", b"V", b"D", b"M", b"X", b"A", b"Z"],
    157: [b"a\0", b"../x\0", b"x" * 100, b"\0"],
    257: [b"ustar\x0000", b"ustar  \0", bytes(8), b"ustar\x00  ", b"USTAR\x0000", b"ustar 00"],
    329: [b"0000000\0", b"\0" * 16, b"x" * 8],
    345: [b"folder\0", b"\0" * 155, b"00000000001\x0000000000001\0", b"x" * 155, b"/\0", b"..\0"],
    500: [bytes(12), b"x" * 12, bytes(8) + b"tar\0"],
}


def forged(rng: random.Random) -> bytes:
    """Return an archive of members as programs write them, with some fields of some headers changed, sums and all."""
    made = []
    for number in range(rng.randrange(1, 4)):
        name = rng.choice(["a", "b/c", "b", "long" * 30, "d/"]) + rng.choice(["", str(number)])
        data = rng.randbytes(rng.choice([0, 5, 600]))
        size = rng.choice([b"5", b"600"])
        members = [
            file(name, data),
            folder(name),
            link(name, "z"),
            header(name, kind=b"\0", size=len(data)) + padded(data),
        ]
        before = [
            b"",
            b"",
            b"",
            pax({"path": b"p"}),
            pax({"size": size}),
            extended(b"l\0", b"L"),
            extended(b"k\0", b"K"),
        ]
        made.append(rng.choice(before) + rng.choice(members))
    blocks = bytearray(b"".join(made) + END)
    for at in range(0, len(blocks) - len(END), BLOCK):
        block = blocks[at : at + BLOCK]
        if block[257:262] != b"ustar" or rng.random() < 0.4:
            continue
        for place in rng.sample(sorted(FIELDS), rng.choice([1, 1, 1, 2, 3])):
            value = rng.choice(FIELDS[place])[: BLOCK - place]
            block[place : place + len(value)] = value
        blocks[at : at + BLOCK] = summed(bytes(block))
    return bytes(blocks)


def by_tarfile(data: bytes) -> list[tuple[str, str, int, str]] | None:
    """Return what `tarfile` reads; None where it stops before the end, which it mostly keeps to itself."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = archive.getmembers()
            is_whole = not data[archive.offset - BLOCK : archive.offset + BLOCK].strip(b"\0")
    except (tarfile.TarError, ValueError, OverflowError, EOFError):
        return None
    kinds = {tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link"}
    found = [
        (
            posixpath.normpath(each.name),
            kinds.get(each.type, "file"),
            0 if each.issym() else each.size,
            each.linkname if each.issym() else "",
        )
        for each in members
    ]
    return found if is_whole else None


def said(members: tuple[Member, ...]) -> list[tuple[str, str, int, str]]:
    return [(each.path, each.kind, each.size_bytes, each.target) for each in members]


def test_no_forged_header_is_another_member_to_another_reader(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    taken = compared = 0
    for number in range(MUTANTS):
        data = forged(rng)
        try:
            found = check(io.BytesIO(data), Caps())
        except BrokenSourceError:
            continue
        taken += 1
        others = by_tarfile(data)
        assert others in (None, said(found)), f"mutant {number}"
        if taken % UNPACKED_BY_THE_PROGRAM == 0:
            compared += compare_with_the_program(data, tmp_path / str(number), number)
    assert taken > MUTANTS // 20
    assert compared > taken // UNPACKED_BY_THE_PROGRAM // 2


def compare_with_the_program(data: bytes, place: Path, number: int) -> bool:
    """Unpack with both, in places of their own; return whether the program took the archive, and so had a say."""
    (place / "theirs").mkdir(parents=True)
    extract(io.BytesIO(data), str(place / "ours"), Caps())
    done = subprocess.run([PROGRAM, "-x", "-C", str(place / "theirs")], input=data, capture_output=True, check=False)
    if done.returncode == 0:
        assert trees(place / "ours") == trees(place / "theirs"), f"mutant {number}"
    shutil.rmtree(place)
    return done.returncode == 0
