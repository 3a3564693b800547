"""Who could change where a path leads: nobody is named who could not, and nobody is forgotten who could."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from contextagent.host.way import changeable, is_ours

if TYPE_CHECKING:
    from pathlib import Path

UID = 54_321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something to another account")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "end").write_text("")
    return tmp_path


def found(root: Path, path: str, *, may_link: bool = True) -> str:
    return changeable(f"{root}{path}", str(root), may_link=may_link).removeprefix(str(root))


@pytest.mark.parametrize("path", ["", "/", "/folder", "/folder/./below//end", "/folder/below/../below/end", "/none/x"])
def test_a_way_of_the_callers_own_is_nobody_elses(root: Path, path: str) -> None:
    assert found(root, path) == ""
    assert found(root, path, may_link=False) == ""


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o2775])
def test_a_folder_that_others_may_write_leads_where_they_like_and_its_own_name_does_not(root: Path, mode: int) -> None:
    (root / "folder").chmod(mode)
    assert not is_ours((root / "folder").stat())
    assert found(root, "/folder") == ""
    for path in ("/folder/below", "/folder/none", "/folder/none/x"):
        assert found(root, path) == "/folder"


def test_in_a_sticky_folder_only_what_is_not_there_yet_can_be_anothers(root: Path) -> None:
    (root / "folder").chmod(0o1777)
    assert found(root, "/folder/below/end") == ""
    assert found(root, "/folder/below/none") == ""
    assert found(root, "/folder/none") == "/folder"


@needs_root
def test_what_belongs_to_another_account_can_be_exchanged_by_it(root: Path) -> None:
    os.chown(root / "folder", UID, UID)
    assert not is_ours((root / "folder").stat())
    assert found(root, "/folder") == ""
    assert found(root, "/folder/below/end") == "/folder"
    root.chmod(0o1777)
    assert found(root, "/folder") == "/folder"
    assert changeable(f"{root}/folder/below/end", f"{root}/folder") == ""  # it is the root's owner, who is trusted


@needs_root
def test_a_link_is_as_good_as_the_folder_that_it_lies_in_and_what_it_leads_over(root: Path) -> None:
    (root / "relative").symlink_to("folder/below")
    (root / "absolute").symlink_to(root / "folder")
    (root / "back").symlink_to("absolute/../relative")
    assert is_ours((root / "absolute" / "below" / "end").stat())
    for path in ("/relative/end", "/absolute/below", "/back/end"):
        assert found(root, path) == ""
        assert found(root, path, may_link=False) == path[: path.rindex("/")]
    os.chown(root / "folder", UID, UID)
    for path in ("/relative/end", "/absolute/below", "/back/end"):
        assert found(root, path) == "/folder"


def test_links_without_an_end_are_an_error(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        found(root, "/a/x")
    with pytest.raises(NotADirectoryError):
        found(root, "/folder/below/end/x")
