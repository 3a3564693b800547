"""A machine whose power was cut while its own useradd ran: the locks that were left keep nobody from an account."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machine import Guest

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a view of this machine needs root"),
    pytest.mark.skipif(shutil.which("useradd") is None, reason="useradd is not installed here"),
]


@pytest.fixture
def fresh(guest: Guest) -> Guest:
    """A view of this machine without the user's account, and a disk with one script of the user."""
    for name in ("passwd", "group"):
        lines = guest.text(f"etc/{name}").splitlines(keepends=True)
        guest.put(f"etc/{name}", "".join(line for line in lines if not line.startswith("contextuser:")))
    guest.put("disk/user/prolog.sh", "#!/bin/sh\nid -un\n")
    return guest


@pytest.mark.parametrize("content", ["", "1"], ids=["empty", "of a process that has that number now"])
def test_a_lock_of_a_boot_before_does_not_keep_the_user_out(fresh: Guest, content: str) -> None:
    os.utime(fresh.put("etc/passwd.lock", content, 0o600), (1, 1))
    done = fresh.run("run", "pre-network", "--disk", "/disk")
    assert done.code == 0, done.err
    assert [each["state"] for each in fresh.status()["scripts"]] == ["ok"]
    assert not (fresh.root / "etc/passwd.lock").is_file()


def test_a_lock_of_this_boot_is_left_alone(fresh: Guest) -> None:
    fresh.put("etc/passwd.lock", "1", 0o600)
    assert fresh.run("run", "pre-network", "--disk", "/disk").code == 2
    assert fresh.text("etc/passwd.lock") == "1"
