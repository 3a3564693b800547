"""What an account drops for root is judged once it is open, and the site's command before it is run."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from contextagent.host import Host, aside, poweroff
from contextagent.host.dropbox import drop, look
from contextagent.host.files import NEW

if TYPE_CHECKING:
    from pathlib import Path

BOX = "/box"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's own programs are run")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "box").mkdir()
    return Host(str(tmp_path))


def seen(host: Host, *, most: int = 10) -> dict[str, str]:
    """Return what lies in the box: name to its problem, or what it holds."""
    found = look(host.files, BOX, max_bytes=100, most=most)
    return {each.name: each.problem or each.data.decode() for each in found}


def test_only_a_whole_small_file_with_one_name_counts(host: Host, tmp_path: Path) -> None:
    box = tmp_path / "box"
    (box / "fine").write_text("fine")
    (box / "large").write_bytes(b"x" * 101)
    (box / "link").symlink_to("/etc/passwd")
    (box / "folder").mkdir()
    os.mkfifo(box / "pipe")
    (tmp_path / "elsewhere").write_text("root's")
    os.link(tmp_path / "elsewhere", box / "second")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(box / "socket"))
    (box / f"{NEW}writing").write_text("wri")
    (box / f"{NEW}flood").write_bytes(b"x" * 101)
    assert seen(host) == {
        "fine": "fine",
        "large": "it is larger than 100 bytes",
        "link": "it is a link",
        "folder": "it is no regular file",
        "pipe": "it is no regular file",
        "second": "it has another name elsewhere",
        "socket": "No such device or address",
        f"{NEW}flood": "it was never finished",
    }


def test_a_file_that_is_written_for_too_long_was_never_finished(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "box" / f"{NEW}x").write_text("")
    assert seen(host) == {}
    monkeypatch.setattr("contextagent.host.dropbox._WRITING_NS", -1)
    assert seen(host) == {f"{NEW}x": "it was never finished"}


def test_of_a_flood_only_some_are_looked_at_and_they_are_in_order(host: Host) -> None:
    assert look(host.files, "/none", max_bytes=1, most=1) == ()
    for number in range(20):
        drop(host.files, BOX, b"%d" % number)
    assert len(seen(host, most=5)) == 5
    assert list(seen(host, most=99).values()) == [str(number) for number in range(20)]


def test_work_aside_says_what_came_out_and_lets_its_parent_be(tmp_path: Path) -> None:
    (tmp_path / "held").write_text("")
    with (tmp_path / "held").open() as held:

        def work() -> str:
            try:
                os.fstat(held.fileno())
            except OSError:
                return f"{os.getsid(0) == os.getpid()}"
            return "it holds its parent's files open"

        assert aside.start(work).result() == "True"


def test_work_aside_that_fails_says_so_and_never_goes_on_as_its_parent() -> None:
    def work() -> str:
        message = "not today"
        raise ValueError(message)

    assert aside.start(work).result() == "ValueError: not today"

    def end() -> str:
        raise SystemExit(3)

    assert aside.start(end).result() == "SystemExit: 3"


def test_a_child_that_is_left_goes_on_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def work() -> str:
        (tmp_path / "pipe").write_text("done")
        return ""

    child = aside.start(work)
    child.leave()
    child.leave()
    assert (tmp_path / "pipe").read_text() == "done"
    os.waitpid(-1, 0)


def command(tmp_path: Path, text: str = "exit 0\n") -> Path:
    """Return a script in a folder that is root's alone, with all above it."""
    path = tmp_path / "command"
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


@needs_root
def test_a_program_that_is_roots_alone_may_be_run_also_by_a_link_that_is(tmp_path: Path) -> None:
    path = command(tmp_path)
    link = tmp_path / "link"
    link.symlink_to("command")
    for each in ("/bin/true", "/usr/bin/env", str(path), str(link)):
        assert poweroff.command_problem(each) == ""


@needs_root
@pytest.mark.parametrize("what", ["owner", "group", "others", "folder", "folder-of-target"])
def test_what_others_could_exchange_is_never_run(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = command(folder)
    match what:
        case "owner":
            os.chown(path, 990, 0)
        case "group":
            path.chmod(0o775)
        case "others":
            path.chmod(0o757)
        case _:
            folder.chmod(0o777)
    if what == "folder-of-target":
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    where = f"'{folder}'" if what.startswith("folder") else "it"
    assert poweroff.command_problem(str(path)) == f"{where} is not root's alone to write"


@needs_root
@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("true", "it is no absolute path"),
        ("/bin/true\0x", "it is no absolute path"),
        ("/bin/true -f", "No such file or directory"),
        ("/usr/bin", "it is no regular file"),
        ("/etc/passwd", "it can't be executed"),
    ],
)
def test_what_is_no_program_is_named_as_what_it_is(path: str, cause: str) -> None:
    assert poweroff.command_problem(path) == cause


@needs_root
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("test $# = 0", ""),
        ("echo first; echo why; exit 3", "it ended with exit code 3 (why)"),
        ("kill -9 $$", "signal 9 ended it"),
        ("sleep 60", "it took longer than 0.5 s"),
    ],
)
def test_the_sites_command_is_run_without_words_and_bounded(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    if "sleep" in text:
        monkeypatch.setattr(poweroff, "COMMAND_S", 0.5)
    assert poweroff.run_command(host, str(command(tmp_path, text))) == said
