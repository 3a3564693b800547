"""`pack`: what a folder becomes, and what it refuses to become."""

from __future__ import annotations

import os
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextagent.errors import CannotWriteError, InvalidInputError, UsageError
from contextagent.kit.iso import _Names
from contextagent.kit.pack import form_of, pack, source_date_epoch
from contextagent.kit.tree import Item, read_tree

if TYPE_CHECKING:
    from pathlib import Path

EPOCH_S = 1_700_000_000


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "pre-network.d").mkdir(parents=True)
    (folder / "prolog.sh").write_text("#!/bin/sh\necho hello\n")
    (folder / "prolog.sh").chmod(0o700)
    (folder / "pre-network.d/10-mount").write_text("#!/bin/sh\n")
    (folder / "pre-network.d/10-mount").chmod(0o600)
    return folder


def _reasons(folder: Path) -> list[str]:
    return [problem.reason for problem in read_tree(str(folder)).problems]


def test_a_bundle_has_parents_first_c_locale_order_root_owners_and_two_modes(context: Path, tmp_path: Path) -> None:
    (context / "Z.txt").write_text("")
    pack(str(context), str(tmp_path / "x.tgz"), epoch_s=EPOCH_S)
    with tarfile.open(tmp_path / "x.tgz") as archive:
        members = archive.getmembers()
    assert [(member.name, oct(member.mode)) for member in members] == [
        ("Z.txt", "0o644"),
        ("pre-network.d", "0o755"),
        ("pre-network.d/10-mount", "0o644"),
        ("prolog.sh", "0o755"),
    ]
    assert {(member.uid, member.gid, member.uname, member.mtime) for member in members} == {(0, 0, "root", EPOCH_S)}


@pytest.mark.parametrize("name", ["x.iso", "x.tgz"])
def test_bytes_do_not_depend_on_the_moment_the_zone_the_umask_or_the_folders_own_times(
    context: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pack(str(context), str(tmp_path / f"1{name}"), epoch_s=EPOCH_S)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    os.utime(context / "pre-network.d", (1, 1))
    os.utime(context / "prolog.sh", (2, 2))
    before = os.umask(0)
    second = pack(str(context), str(tmp_path / f"2{name}"), epoch_s=EPOCH_S)
    os.umask(before)
    monkeypatch.undo()
    time.tzset()
    assert first.sha512 == second.sha512
    assert (tmp_path / f"1{name}").read_bytes() == (tmp_path / f"2{name}").read_bytes()


def test_without_a_given_time_the_newest_files_time_is_taken(context: Path, tmp_path: Path) -> None:
    os.utime(context / "prolog.sh", (1000, 1000))
    os.utime(context / "pre-network.d/10-mount", (2000, 2000))
    assert pack(str(context), str(tmp_path / "x.tgz")).epoch_s == 2000


def test_the_clock_of_the_library_runs_again_after_an_image_was_made(context: Path, tmp_path: Path) -> None:
    import pycdlib.pycdlib  # noqa: PLC0415  # what is looked at

    pack(str(context), str(tmp_path / "x.iso"), epoch_s=EPOCH_S)
    assert vars(pycdlib.pycdlib)["time"] is time


def test_a_link_that_stays_inside_is_replaced_and_named(context: Path, tmp_path: Path) -> None:
    (context / "epilog.sh").symlink_to("prolog.sh")
    (context / "post-network.d").symlink_to("pre-network.d")
    packed = pack(str(context), str(tmp_path / "x.tgz"), epoch_s=EPOCH_S)
    assert packed.dereferenced == (("epilog.sh", "prolog.sh"), ("post-network.d", "pre-network.d"))
    with tarfile.open(tmp_path / "x.tgz") as archive:
        assert archive.getmember("epilog.sh").isreg()
        assert archive.getmember("post-network.d/10-mount").isreg()


def test_every_problem_is_named_at_once(context: Path) -> None:
    os.mkfifo(context / "a-fifo")
    (context / "b-out").symlink_to("/etc/passwd")
    (context / "c-dangling").symlink_to("nowhere")
    (context / "d-circle").symlink_to(".")
    (context / "Prolog.sh").write_text("")
    (context / "line\nfeed").write_text("")
    (context / os.fsdecode(b"bad-\xff")).write_text("")
    (context / "pre-network.d/up").symlink_to("../..")
    with pytest.raises(InvalidInputError, match="8 problems") as caught:
        pack(str(context), str(context.parent / "x.iso"))
    assert sorted((os.path.relpath(problem.path, context), problem.reason) for problem in caught.value.problems) == [
        ("a-fifo", "special-file"),
        ("b-out", "link-leaves"),
        ("bad-\\xff", "name-refused"),
        ("c-dangling", "link-dangling"),
        ("d-circle", "link-circle"),
        ("line\\nfeed", "name-refused"),
        ("pre-network.d/up", "link-leaves"),
        ("prolog.sh", "name-twice"),
    ]
    assert not (context.parent / "x.iso").exists()


def test_a_folder_that_is_entered_through_a_link_may_not_lead_into_itself(context: Path) -> None:
    (context / "pre-network.d/again").symlink_to("../pre-network.d")
    assert _reasons(context) == ["link-circle"]


def test_a_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty/inner").mkdir(parents=True)
    with pytest.raises(InvalidInputError) as caught:
        pack(str(tmp_path / "empty"), str(tmp_path / "x.iso"))
    assert [problem.reason for problem in caught.value.problems] == ["empty"]


@pytest.mark.parametrize(
    ("folder", "output", "label", "message"),
    [
        ("nowhere", "x.iso", None, "no such folder"),
        ("context/prolog.sh", "x.iso", None, "not a folder"),
        ("context", "x.zip", None, "neither in .iso nor in .tgz"),
        ("context", "context/x.iso", None, "inside the folder"),
        ("context", "x.iso", "", "1 to 16 printable ASCII"),
        ("context", "x.iso", "SEVENTEEN-LETTERS", "1 to 16 printable ASCII"),
        ("context", "x.iso", "é", "1 to 16 printable ASCII"),
        ("context", "x.tgz", "CONTEXT", "a bundle has none"),
    ],
)
def test_what_the_caller_got_wrong_is_named(
    context: Path, folder: str, output: str, label: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        pack(str(context.parent / folder), str(context.parent / output), label=label)


def test_a_failed_write_leaves_what_was_there_and_no_temporary_file(context: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "x.iso"
    with pytest.raises(CannotWriteError, match="No such file or directory"):
        pack(str(context), str(output))
    output.parent.mkdir()
    output.write_text("before")

    def fail(_done: int, _total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CannotWriteError, match="No space left"):
        pack(str(context), str(output), progress=fail)
    assert [path.name for path in output.parent.iterdir()] == ["x.iso"]
    assert output.read_text() == "before"


def test_a_file_that_changes_while_it_is_packed_is_noticed(context: Path, tmp_path: Path) -> None:
    def change(_done: int, _total: int) -> None:
        os.utime(context / "prolog.sh", (5, 5))

    with pytest.raises(InvalidInputError, match=r"prolog\.sh': it changed while it was read"):
        pack(str(context), str(tmp_path / "x.tgz"), progress=change)


def test_a_new_file_is_the_callers_alone_and_a_replaced_one_keeps_its_mode(context: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.tgz"
    pack(str(context), str(output))
    assert output.stat().st_mode & 0o777 == 0o600
    output.chmod(0o644)
    pack(str(context), str(output))
    assert output.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("text", ["-1", "1.5", "now", "\uff15", "99999999999", ""])
def test_a_source_date_epoch_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        source_date_epoch(text)


def test_the_ending_says_the_form() -> None:
    assert [form_of(name) for name in ("a.iso", "a.tgz", "a.tar.gz")] == ["iso", "tgz", "tgz"]


@given(st.sets(st.text(min_size=1, max_size=90).filter(lambda name: "/" not in name), max_size=40))
def test_names_made_for_plain_iso_and_joliet_are_legal_and_never_meet(names: set[str]) -> None:
    made = _Names()
    paths = [made.of(Item(path=name, kind="file", real="")) for name in sorted(names)]
    isos, joliets = [iso.upper() for iso, _ in paths], [joliet.casefold() for _, joliet in paths]
    assert len(set(isos)) == len(set(joliets)) == len(names)
    assert all(len(iso) <= 1 + 30 and iso.count(".") == 1 for iso in isos)
    assert all(len(joliet) <= 1 + 64 and not set("*:;?\\") & set(joliet) for joliet in joliets)


@settings(max_examples=15, deadline=None)
@given(
    tree=st.dictionaries(
        st.lists(
            st.text(
                st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/"),
                min_size=1,
                max_size=30,
            ).filter(lambda name: name not in (".", "..")),
            min_size=1,
            max_size=9,
        ).map("/".join),
        st.binary(max_size=5000),
        min_size=1,
        max_size=6,
    )
)
def test_xorriso_extracts_every_name_and_byte_that_was_packed(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes]
) -> None:
    base = tmp_path_factory.mktemp("pack")
    for name, data in tree.items():
        path = base / "in" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError:
            continue  # one name is a folder of another's
    if read_tree(str(base / "in")).problems:
        return  # twins by letter case are refused, which is another test
    pack(str(base / "in"), str(base / "x.iso"), epoch_s=EPOCH_S)
    subprocess.run(
        ["xorriso", "-report_about", "FAILURE", "-osirrox", "on", "-indev", "x.iso", "-extract", "/", "out"],
        cwd=base,
        check=True,
        capture_output=True,
    )
    moved = base / "out/rr_moved"
    assert not (moved.is_dir() and list(moved.iterdir()))
    assert _contents(base / "out") == _contents(base / "in")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
