"""F2: mutants of disk images: each ends the reader in time and within its memory, whatever it then says."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from contextagent.sources import iso9660, vfat
from tests.machine import REPOSITORY, make_iso, make_vfat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.sources.library import Tree

SEED = 20090905
MUTANTS = 5_000 * (50 if os.environ.get("CONTEXTAGENT_CAMPAIGN") else 1)
LONGEST_S = 10
"""A sixth of what a confined child gets; an honest image of this size takes some milliseconds."""
DISK = REPOSITORY / "tests/fixtures/layouts/hepix/disk"
KINDS = ("rock-ridge", "deep", "joliet", "vfat")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("images")
    deep = folder / "deep/1/2/3/4/5/6/7/8/9"
    deep.mkdir(parents=True)
    (deep / ("long-" + "x" * 200)).write_text("moved by Rock Ridge, with a continued name")
    (deep / "link").symlink_to("../" * 40 + "etc/passwd")
    made = {
        "rock-ridge": make_iso(DISK, folder / "r.iso", "-R", "-no-pad", tool="genisoimage"),
        "deep": make_iso(folder / "deep", folder / "d.iso", "-R", "-J", "-joliet-long", tool="genisoimage"),
        "joliet": make_iso(DISK, folder / "j.iso", "-J", "-no-pad", tool="genisoimage"),
        "vfat": make_vfat(DISK, folder / "v.img", size_kib=160),
    }
    return {kind: path.read_bytes() for kind, path in made.items()}


def _mutant(rng: random.Random, image: bytes, places: list[int]) -> bytes:
    """Return the image with a few of its bytes that mean something changed, or a sector in another's place."""
    made = bytearray(image)
    for _ in range(rng.randrange(1, 6)):
        made[rng.choice(places)] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    if rng.random() < 0.1:
        source, target = rng.choice(places) & ~0x7FF, rng.choice(places) & ~0x7FF
        made[target : target + 2048] = image[source : source + 2048]
    return bytes(made)


def _read_all(tree: Tree, folder: str = "", depth: int = 0) -> None:
    for name, kind, _size, _mode, _target in tree.entries(folder):
        path = f"{folder}/{name}" if folder else name
        if kind == "folder" and depth < 12:
            _read_all(tree, path, depth + 1)
        elif kind == "file":
            tree.piece(path, 0, 1 << 20)


@pytest.fixture
def alarm() -> Iterator[None]:
    """Let an alarm end a reader that does not end by itself, in a way that no reader takes for a broken disk."""

    def give_up(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, give_up)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("alarm")
def test_no_mutant_of_a_disk_holds_its_reader_up(images: dict[str, bytes], kind: str) -> None:
    iso9660.prepare()
    rng = random.Random(f"{SEED}{kind}")
    start = 0 if kind == "vfat" else 16 * 2048
    places = [at for at in range(start, len(images[kind])) if images[kind][at]]
    fd = os.memfd_create("disk")
    ended = {"read": 0, "broken": 0}
    for number in range(MUTANTS):
        os.ftruncate(fd, 0)
        os.pwrite(fd, _mutant(rng, images[kind], places), 0)
        signal.alarm(LONGEST_S)
        try:
            _read_all(vfat.VfatTree(fd) if kind == "vfat" else iso9660.IsoTree(fd))
        except KeyboardInterrupt:
            pytest.fail(f"mutant {number} of {kind} took longer than {LONGEST_S} s")
        except Exception:  # noqa: BLE001  # in a confined child every one of them is the verdict `broken`
            ended["broken"] += 1
        else:
            ended["read"] += 1
    os.close(fd)
    assert min(ended.values()) > MUTANTS // 100, f"the mutants are all alike: {ended}"
