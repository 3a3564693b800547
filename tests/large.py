"""Bundles of any size that no packer can make smaller, made as fast as they can be written."""

from __future__ import annotations

import gzip
import hashlib
import random
from typing import TYPE_CHECKING

from tests.tars import END, file, header, padded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MIB = 1 << 20
_PART_BYTES = 16 * MIB
POLICY = (
    "caps: {members: 1100, member_bytes: 2 GiB, total_bytes: 2 GiB}\n"
    "metadata: {dialect: ec2, try_s: 60, total_s: 60}\n"  # a busy machine's disk may need more than the usual 10 s
)
"""What an image says whose site has such bundles."""


def make_large_bundle(
    path: Path, scripts: Mapping[str, str], *, companion_bytes: int, placed_bytes: int, place: str = "opt/site"
) -> None:
    """Write a bundle: scripts, companions `lib/part-NN` of 16 MiB, a file `large` for a place, and `sums` of both.

    `sums` is what `sha512sum -c` reads in the working folder.
    """
    random_bytes = random.Random(companion_bytes).randbytes(_PART_BYTES + companion_bytes // _PART_BYTES + 1)
    parts = {
        f"lib/part-{at // _PART_BYTES:02}": min(_PART_BYTES, companion_bytes - at)
        for at in range(0, companion_bytes, _PART_BYTES)
    }
    sums = ""
    with gzip.open(path, "wb", compresslevel=0) as packed:  # as any level leaves it; only much faster
        for name, text in scripts.items():
            packed.write(file(name, text.encode(), mode=0o755))
        for number, (name, size) in enumerate({**parts, f"files/{place}/large": placed_bytes}.items()):
            digest = hashlib.sha512()
            packed.write(header(name, size=size))
            left = size
            while left:  # each part begins elsewhere in the same bytes, so that no two are alike
                data = random_bytes[number : number + min(left, _PART_BYTES)]
                digest.update(data)
                packed.write(data)
                left -= len(data)
            packed.write(padded(bytes(size % 512))[size % 512 :])
            sums += f"{digest.hexdigest()}  {name}\n"
        packed.write(file("sums", sums.encode()) + END)
