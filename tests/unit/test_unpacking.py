"""A bundle from its packed bytes to what it offers: judged, unpacked in private, and gone when it is closed."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.host import Host
from contextagent.policy.layer import Layer
from contextagent.policy.settings import merge
from contextagent.sources.unpacking import PackedDigest, unpack
from tests.tars import file, folder, tar, tgz

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.sources.unpacking import Unpacked

DEFAULTS = merge(Layer(voice="image"))
SCRIPT = b"#!/bin/sh\necho hello\n"


def unpacked(tmp_path: Path, source: bytes | int) -> Unpacked:
    return unpack(Host(str(tmp_path)), source, DEFAULTS, owner="site", folder="/state", name="default.tgz")


def in_a_file(tmp_path: Path, data: bytes) -> int:
    """Return a nameless file that holds the data, its offset at the end."""
    fd = Host(str(tmp_path)).files.nameless("/state")
    os.write(fd, data)
    return fd


def left(tmp_path: Path) -> list[Path]:
    """Return what is left of a bundle in its place."""
    return list((tmp_path / "state").iterdir()) if (tmp_path / "state").exists() else []


@pytest.mark.parametrize("is_file", [False, True], ids=["bytes", "a nameless file"])
@pytest.mark.parametrize("top", ["", "./", "site-context-1.2/", "./site/"])
def test_a_bundle_offers_its_native_names_wherever_it_stands(tmp_path: Path, top: str, *, is_file: bool) -> None:
    packed = tgz(file(f"{top}prolog.sh", SCRIPT), file(f"{top}files/etc/motd", b"hello\n")).getvalue()
    source = in_a_file(tmp_path, packed) if is_file else packed
    found = unpacked(tmp_path, source)
    offers = {(offer.role, offer.name, offer.phase) for offer in found.reading.offers}
    assert {offer.owner for offer in found.reading.offers} == {"site"}
    assert {("script", "prolog.sh", "pre-network"), ("file", "/etc/motd", "post-network")} <= offers
    script = next(offer for offer in found.reading.offers if offer.role == "script")
    assert found.medium.read(script.path, max_bytes=100) == SCRIPT
    ours = found.medium.ours(script.path)
    assert ours
    assert (ours.sha512, ours.size_bytes) == (hashlib.sha512(SCRIPT).hexdigest(), len(SCRIPT))
    found.close()
    found.close()
    assert left(tmp_path) == []
    if is_file:
        os.close(int(source))


def test_a_trial_unpacks_below_tmp_and_leaves_nothing_there(tmp_path: Path) -> None:
    packed = tgz(file("prolog.sh", SCRIPT)).getvalue()
    found = unpack(Host(str(tmp_path)), packed, DEFAULTS, owner="site", folder="", name="default.tgz")
    assert found.medium.root.startswith("/tmp/")
    assert os.stat(found.medium.root).st_mode & 0o7777 == 0o700
    found.close()
    assert not os.path.exists(found.medium.root)
    assert left(tmp_path) == []


def test_a_refusal_names_member_and_rule_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        unpacked(tmp_path, tgz(file("prolog.sh"), file("../evil")).getvalue())
    assert str(caught.value) == "cannot unpack '../evil': its path has '..'"
    assert [(problem.path, problem.reason) for problem in caught.value.problems] == [("../evil", "parent-path")]
    assert left(tmp_path) == []


def test_what_no_native_folder_may_hold_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BrokenSourceError, match="it is a folder"):
        unpacked(tmp_path, tgz(folder("prolog.sh")).getvalue())
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("packed", "reasons"),
    [
        (gzip.compress(tar().getvalue()), []),
        (tar(folder("./")).getvalue(), []),
        (tar(file("setup.sh"), file("README")).getvalue(), ["nothing-native"]),
        (tar(file("a/b/prolog.sh")).getvalue(), ["nothing-native"]),
        (tar(file("context.sh", b"A=1\n")).getvalue(), []),
    ],
    ids=["an empty tar.gz", "the top alone", "no native names", "too deep", "variables alone"],
)
def test_a_bundle_without_material_says_so_once_if_there_is_anything_in_it(
    tmp_path: Path, packed: bytes, reasons: list[str]
) -> None:
    found = unpacked(tmp_path, packed)
    assert {offer.role for offer in found.reading.offers} <= {"companion"}
    assert [warning.reason for warning in found.reading.warnings] == reasons
    found.close()


def test_a_place_where_nothing_can_be_written_is_nobodys_fault_but_the_machines(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(CannotWriteError, match="cannot make '/state'"):
        unpacked(tmp_path, tgz(file("prolog.sh", SCRIPT)).getvalue())
    with pytest.raises(CannotWriteError, match="cannot make '/state'"):
        Host(str(tmp_path)).files.nameless("/state")


def test_a_nameless_file_has_no_name_and_is_nobody_elses(tmp_path: Path) -> None:
    fd = in_a_file(tmp_path, b"secret")
    assert left(tmp_path) == []
    assert (os.fstat(fd).st_mode & 0o7777, os.fstat(fd).st_nlink) == (0o600, 0)
    assert os.pread(fd, 10, 0) == b"secret"
    os.close(fd)


@pytest.mark.parametrize("top", ["", "top/"])
def test_a_bundle_has_one_owner_and_one_layout(tmp_path: Path, top: str) -> None:
    """Names that on a disk are another owner's, or another layout's, are files like any other."""
    names = ["epilog.sh", "user/epilog.sh", "site/helper", "user-data", "openstack/latest/user_data", "default.tgz"]
    found = unpacked(tmp_path, tgz(*(file(top + name) for name in names)).getvalue())
    assert {offer.name for offer in found.reading.offers if offer.role == "companion"} == set(names)
    assert {offer.name for offer in found.reading.offers if offer.role == "script"} == {"epilog.sh"}
    found.close()


@pytest.mark.parametrize("size_bytes", [0, 100_000, 10 << 20])
def test_the_packed_bytes_are_digested_while_they_are_read(tmp_path: Path, size_bytes: int) -> None:
    packed = gzip.compress(file("prolog.sh") + file("large", os.urandom(size_bytes)), 0)
    source = in_a_file(tmp_path, packed)
    digest = PackedDigest(Host(str(tmp_path)), source, len(packed))
    with pytest.raises(BrokenSourceError, match="ends too early"):
        unpacked(tmp_path, source)
    assert digest.hexdigest() == hashlib.sha512(packed).hexdigest()
    os.close(source)


def test_a_digest_whose_child_is_killed_is_taken_all_the_same(tmp_path: Path) -> None:
    packed = bytes(10 << 20)
    source = in_a_file(tmp_path, packed)
    digest = PackedDigest(Host(str(tmp_path)), source, len(packed))
    assert digest._child
    os.kill(digest._child._pid, signal.SIGKILL)
    assert digest.hexdigest() == hashlib.sha512(packed).hexdigest()
    os.close(source)
