"""Staging: what a source offers is copied and digested; what the agent itself has unpacked is moved."""

from __future__ import annotations

import hashlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import BrokenSourceError
from contextagent.host import Host
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import merge
from contextagent.sources.found import Found
from contextagent.sources.media import FolderMedium
from contextagent.sources.staging import stage
from contextagent.sources.unpacking import unpack
from tests.tars import file, link, tgz

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contextagent.model import Reading
    from contextagent.policy.settings import Settings
    from contextagent.sources.media import NamedMedium
    from contextagent.sources.staging import Staged
    from contextagent.sources.unpacking import Unpacked

DEFAULTS = merge(Layer(voice="image"))
MEMBERS = {
    "epilog.sh": b"#!/bin/sh\necho $1\n",
    "files/etc/motd": b"hello\n",
    "lib/helper": b"#!/bin/sh\n",
    "lib/large": random.Random(1).randbytes(100_000),
}
BUNDLE = tgz(
    *(file(name, data, mode=0o755 if "helper" in name else 0o644) for name, data in MEMBERS.items()),
    link("l", "lib/large"),
).getvalue()


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Unpacked]:
    """Yield the bundle, unpacked in the place of a boot."""
    made = unpack(Host(str(tmp_path)), BUNDLE, DEFAULTS, owner="site", folder="/state")
    yield made
    made.close()


def found(reading: Reading, medium: NamedMedium) -> Found:
    return Found(
        owner="site",
        source="metadata",
        trust="none",
        offers=reading.offers,
        variables={},
        user_data=None,
        medium=medium,
    )


def staged(tmp_path: Path, bundle: Unpacked, settings: Settings = DEFAULTS, *, is_trial: bool = False) -> Staged:
    folder = "" if is_trial else "/state"
    return stage(Host(str(tmp_path)), found(bundle.reading, bundle.medium), settings, folder=folder)


def sha512(data: bytes) -> str:
    return hashlib.sha512(data).hexdigest()


def test_a_bundles_files_are_moved_and_not_copied(tmp_path: Path, bundle: Unpacked) -> None:
    numbers = {name: os.stat(f"{bundle.medium.root}/{name}").st_ino for name in MEMBERS}
    made = staged(tmp_path, bundle)
    top = f"{tmp_path}{made.folder}"
    assert os.stat(f"{top}/context/lib/large").st_ino == numbers["lib/large"]
    assert os.stat(f"{top}/scripts/files/etc/motd").st_ino == numbers["files/etc/motd"]
    assert numbers["epilog.sh"] in {
        os.stat(f"{top}/scripts/{phase}/epilog.sh").st_ino for phase in ("post-network", "stop")
    }


def test_a_script_and_its_copy_in_the_working_folder_are_two_files(tmp_path: Path, bundle: Unpacked) -> None:
    top = f"{tmp_path}{staged(tmp_path, bundle).folder}"
    places = ["scripts/post-network/epilog.sh", "scripts/stop/epilog.sh", "context/epilog.sh"]
    assert len({os.stat(f"{top}/{place}").st_ino for place in places}) == 3
    for place in places:
        with open(f"{top}/{place}", "rb") as script:
            assert script.read() == MEMBERS["epilog.sh"]


def test_what_is_moved_is_as_if_it_were_copied(tmp_path: Path, bundle: Unpacked) -> None:
    """The same bundle from a folder, which is read, copied and digested: the same supply, the same files."""
    foreign = FolderMedium(bundle.medium.root, "folder")
    host = Host(str(tmp_path))
    copied = stage(host, found(bundle.reading, foreign), DEFAULTS, folder="/copied")
    foreign.close()
    trial = staged(tmp_path, bundle, is_trial=True)
    moved = staged(tmp_path, bundle)
    assert moved.supply == copied.supply == trial.supply
    assert [(script.id, script.sha512) for script in moved.supply.scripts] == [
        ("site/post-network/epilog.sh", sha512(MEMBERS["epilog.sh"])),
        ("site/stop/epilog.sh", sha512(MEMBERS["epilog.sh"])),
    ]
    assert ("lib/large", sha512(MEMBERS["lib/large"]), 100_000) in moved.supply.companions
    assert tree(f"{tmp_path}{moved.folder}") == tree(f"{tmp_path}{copied.folder}")


def tree(top: str) -> dict[str, tuple[int, bytes | str]]:
    """Return mode and contents, or a link's target, of everything below a folder."""
    made: dict[str, tuple[int, bytes | str]] = {}
    for folder, _, names in os.walk(top):
        made[os.path.relpath(folder, top)] = os.stat(folder).st_mode, ""
        for name in names:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if os.path.islink(path):
                made[os.path.relpath(path, top)] = mode, os.readlink(path)
                continue
            with open(path, "rb") as each:
                made[os.path.relpath(path, top)] = mode, each.read()
    return made


def test_only_what_can_be_executed_can_be_executed_in_the_working_folder(tmp_path: Path, bundle: Unpacked) -> None:
    top = f"{tmp_path}{staged(tmp_path, bundle).folder}/context"
    modes = {name: os.stat(f"{top}/{name}").st_mode & 0o7777 for name in ("lib/helper", "lib/large", "epilog.sh")}
    assert modes == {"lib/helper": 0o700, "lib/large": 0o600, "epilog.sh": 0o600}


@pytest.mark.parametrize("is_trial", [False, True], ids=["for good", "a trial"])
@pytest.mark.parametrize(
    ("cap", "value", "reason"),
    [
        ("members", 3, "too-many-members"),
        ("member_bytes", 99_999, "member-too-large"),
        ("total_bytes", 100_010, "total-too-large"),
    ],
)
def test_what_is_moved_is_bounded_as_what_is_copied(
    tmp_path: Path, bundle: Unpacked, cap: str, value: int, reason: str, *, is_trial: bool
) -> None:
    layer = Layer(voice="image", values={f"caps.{cap}": Setting(value=value, path="policy.yaml", line=1)})
    before = set(os.listdir(tmp_path / "state"))
    with pytest.raises(BrokenSourceError) as caught:
        staged(tmp_path, bundle, merge(layer), is_trial=is_trial)
    assert caught.value.reason == reason
    assert set(os.listdir(tmp_path / "state")) == before


def test_a_trial_leaves_everything_where_it_is(tmp_path: Path, bundle: Unpacked) -> None:
    before = tree(str(tmp_path))
    assert staged(tmp_path, bundle, is_trial=True).folder == ""
    assert tree(str(tmp_path)) == before
