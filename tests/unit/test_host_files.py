"""Files below a root: whole or not at all, and never where a link leads."""

from __future__ import annotations

import os
import resource
import threading
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import CannotWriteError
from contextagent.host.files import Files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path))


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Leave this process no more than a handful of descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 6, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def deep(root: Path, levels: int) -> None:
    """Make a tree deeper than any path can say: each level is made below the one before it."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 200, dir_fd=fd)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_paths_are_below_the_root(tmp_path: Path) -> None:
    assert Files(str(tmp_path)).real("/etc/passwd") == f"{tmp_path}/etc/passwd"
    assert Files("/").real("/etc/passwd") == "/etc/passwd"


@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_deeper_than_any_path_and_any_stack_is_removed_with_few_descriptors(
    tmp_path: Path, files: Files
) -> None:
    (tmp_path / "tree").mkdir()
    deep(tmp_path / "tree", 1500)

    files.remove("/tree")

    assert os.listdir(tmp_path) == []


def test_a_wide_and_mixed_tree_is_removed_and_nothing_that_it_links_to(tmp_path: Path, files: Files) -> None:
    (tmp_path / "kept" / "inner").mkdir(parents=True)
    for folder in ("tree", "tree/a", "tree/a/b", "tree/c", "tree/.hidden"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").touch()
        (tmp_path / folder / "link").symlink_to(tmp_path / "kept")
        os.mkfifo(tmp_path / folder / "pipe")

    files.remove("/tree")

    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(tmp_path / "kept") == ["inner"]


def test_a_tree_that_grows_while_it_is_removed_goes_too(tmp_path: Path, files: Files) -> None:
    (tmp_path / "tree" / "a").mkdir(parents=True)
    is_over = threading.Event()

    def grow() -> None:
        for number in range(300):
            try:
                (tmp_path / "tree" / "a" / str(number)).mkdir()
                (tmp_path / "tree" / f"file{number}").touch()
            except OSError:
                continue  # its folder has gone already
        is_over.set()

    thread = threading.Thread(target=grow)
    thread.start()
    while not is_over.is_set():
        try:
            files.remove("/tree")
        except CannotWriteError:
            continue  # it was faster; the next call goes on where this one ended
    thread.join()
    files.remove("/tree")

    assert os.listdir(tmp_path) == []


def test_removing_what_is_not_there_is_fine(files: Files) -> None:
    files.remove("/nothing")
    files.remove("/nowhere/nothing")


def test_a_link_in_the_place_of_the_parent_is_not_followed(tmp_path: Path, files: Files) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to("kept")

    with pytest.raises(CannotWriteError, match="cannot remove '/link/file'"):
        files.remove("/link/file")

    assert (tmp_path / "kept" / "file").exists()


def test_a_link_is_removed_and_not_what_it_names(tmp_path: Path, files: Files) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")

    files.remove("/link")

    assert os.listdir(tmp_path) == ["kept"]


def test_a_link_is_never_read(tmp_path: Path, files: Files) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "link").symlink_to("secret")

    with pytest.raises(FileNotFoundError):
        files.read("/link", max_bytes=10)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_is_whole_and_of_its_mode_whatever_the_umask(tmp_path: Path, files: Files, mode: int) -> None:
    before = os.umask(0o777)
    try:
        files.write("/file", b"data", mode=mode, durable=True)
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o7777 == mode
    assert os.listdir(tmp_path) == ["file"]
    assert files.read("/file", max_bytes=4) == b"data"


def test_a_larger_file_than_wanted_is_an_error(files: Files) -> None:
    files.write("/file", b"12345")

    with pytest.raises(OSError, match="larger than 4 bytes"):
        files.read("/file", max_bytes=4)


def test_a_fifo_is_an_error_and_no_wait(tmp_path: Path, files: Files) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="no regular file"):
        files.read("/pipe", max_bytes=4)


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path, files: Files) -> None:
    (tmp_path / "file").mkdir()

    with pytest.raises(CannotWriteError, match="cannot write '/file'"):
        files.write("/file", b"data")

    assert os.listdir(tmp_path) == ["file"]


def test_a_name_that_is_taken_is_not_created_again(files: Files) -> None:
    files.create("/a/file", [b"one"])

    with pytest.raises(CannotWriteError, match="File exists"):
        files.create("/a/file", [b"two"])


def test_a_folder_lists_its_entries_in_c_order_and_nothing_where_there_is_none(tmp_path: Path, files: Files) -> None:
    for name in ("b", "a", "Z", "ä"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("nowhere")

    assert [(entry.name, entry.kind, entry.target) for entry in files.folder("/")] == [
        ("Z", "file", ""),
        ("a", "file", ""),
        ("b", "file", ""),
        ("link", "link", "nowhere"),
        ("ä", "file", ""),
    ]
    assert files.folder("/nowhere") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to a group needs root")
def test_a_group_may_be_let_in(tmp_path: Path, files: Files) -> None:
    files.make_folder("/lent", 0o710, gid=4321)
    files.create("/lent/file", [b"data"], mode=0o440, gid=4321)

    for path, mode in (("lent", 0o710), ("lent/file", 0o440)):
        found = (tmp_path / path).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 4321, mode)


def test_a_new_output_is_empty_and_private(tmp_path: Path, files: Files) -> None:
    (tmp_path / "output").write_bytes(b"old")

    os.close(files.open_new("/output"))
    os.close(files.open_new("/another"))

    assert files.size("/output") == 0
    assert (tmp_path / "another").stat().st_mode & 0o777 == 0o600


def test_an_output_is_not_written_through_a_link(tmp_path: Path, files: Files) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    (tmp_path / "output").symlink_to("kept")

    with pytest.raises(CannotWriteError):
        files.open_new("/output")

    assert (tmp_path / "kept").read_bytes() == b"kept"
