"""The working folder is one owner's at a time, and what was left in it stays that owner's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import CannotWriteError
from contextagent.host import Host
from contextagent.runner.folders import WORKING, Folders, parked

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.model import Owner


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


def leave(host: Host, name: str) -> None:
    host.files.write(f"{WORKING}/{name}", b"")


def names(host: Host, folder: str = WORKING) -> list[str]:
    return [entry.name for entry in host.files.folder(folder)]


def test_each_owner_finds_what_its_own_scripts_left_and_nothing_of_the_other(host: Host) -> None:
    folders = Folders(host, "i", {})
    folders.enter("user")
    leave(host, "users")
    folders.enter("site")
    assert names(host) == []
    leave(host, "sites")
    folders.enter("user")
    assert names(host) == ["users"]
    Folders(host, "i", {}).enter("site")
    assert names(host) == ["sites"]


def test_a_folder_is_where_it_is_said_to_be(host: Host) -> None:
    folders = Folders(host, "i", {})
    folders.enter("site")
    assert (folders.place("site"), folders.place("user")) == (WORKING, parked("i", "user"))


def test_a_replaced_folder_is_the_new_one_wherever_the_old_one_stood(host: Host) -> None:
    folders = Folders(host, "i", {})
    for place in ("parked", "in use"):
        if place == "in use":
            folders.enter("site")
        host.files.create(f"/built/{place}", ())
        folders.replace("site", "/built")
        folders.enter("site")
        assert names(host) == [place]


def test_a_folder_that_another_program_left_there_is_set_aside_and_not_lost(host: Host) -> None:
    host.files.create(f"{WORKING}/epilog.sh", (b"#!/bin/sh\n",))
    folders = Folders(host, "i", {})
    assert names(host, parked("i", "found")) == ["epilog.sh"]
    folders.enter("user")
    assert names(host) == []


def test_a_folder_of_an_instance_before_is_not_this_ones(host: Host) -> None:
    Folders(host, "old", {}).enter("user")
    leave(host, "old")
    Folders(host, "new", {}).enter("user")
    assert names(host) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_the_users_folder_belongs_to_its_account_and_all_in_it(host: Host) -> None:
    folders = Folders(host, "i", {"user": (990, 991)})
    host.files.create("/built/sub/file", (b"x",))
    folders.replace("user", "/built")
    folders.enter("user")
    for path in ("", "/sub", "/sub/file"):
        found = os.stat(host.files.real(WORKING + path))
        assert (found.st_uid, found.st_gid) == (990, 991)


def test_a_move_that_the_medium_refuses_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = Folders(host, "i", {})

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(host.files, "rename", refuse)
    with pytest.raises(CannotWriteError, match="Invalid cross-device link"):
        folders.enter("site")


@given(moves=st.lists(st.tuples(st.sampled_from(["site", "user"]), st.booleans()), max_size=12))
def test_whoever_enters_in_whatever_order_both_folders_exist_and_hold_their_own(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[Owner, bool]]
) -> None:
    host = Host(str(tmp_path_factory.mktemp("root")))
    left: dict[str, set[str]] = {"site": set(), "user": set()}
    folders = Folders(host, "i", {})
    for number, (owner, is_new_run) in enumerate(moves):
        if is_new_run:
            folders = Folders(host, "i", {})
        folders.enter(owner)
        leave(host, f"{owner}-{number}")
        left[owner].add(f"{owner}-{number}")
        assert set(names(host)) == left[owner]
        other = "user" if owner == "site" else "site"
        assert set(names(host, parked("i", other))) == left[other]
