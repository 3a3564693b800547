"""How a guest ends without a factory: by itself where its site's part failed, and by its power, with a word in time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.vm.contexts import burn
from tests.vm.guest import Guest, Setup
from tests.vm.systemd import SYSTEMD
from tests.vm.sysv import SYSV
from tests.vm.vac import POLICY, RESTS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.image import Kind

LOGS = "/var/log/contextagent"
STOP = '#!/bin/sh\n[ "$1" = stop ] || exit 7\necho "stopped" >>/root/stopped\n'
LIVES = {"features": {"machine": {"hs06": "10"}}}
WAITED_FOR = {"pilot": {"framework": "command", "command": ["/bin/sleep", "4711"]}}


def ended(kind: Kind, factory: pytest.TempPathFactory, *, fails: bool) -> tuple[Guest, str]:
    """Return a guest that has ended, and what its console said: by itself where its site's part fails."""
    guest = Guest(factory.mktemp("ends"), kind)
    guest.put({POLICY: json.dumps({**LIVES, **(WAITED_FOR if fails else {})})})
    disk: Path = factory.mktemp("disk")
    (disk / "prolog.sh").write_text(STOP if fails else STOP.replace("exit 7", "exit 0"))
    return guest, guest.boot(RESTS if fails else "true\n", Setup(cd=burn(disk))).console


def records(guest: Guest) -> list[dict[str, Any]]:
    """Return the trace of the guest's only boot."""
    (name,) = [name for name in guest.names(LOGS) if name.startswith("trace-")]
    return [json.loads(line) for line in guest.get(f"{LOGS}/{name}").splitlines()]


@pytest.mark.parametrize("kind", [SYSTEMD, SYSV], ids=["systemd", "sysv"])
def test_a_guest_whose_site_part_failed_says_500_and_powers_itself_off(
    kind: Kind, tmp_path_factory: pytest.TempPathFactory
) -> None:
    guest, console = ended(kind, tmp_path_factory, fails=True)
    text = "500 site contextualisation failed: site/pre-network/prolog.sh: exit code 7"
    assert guest.get("/etc/joboutputs/shutdown_message") == text, console
    assert f"finish: {text}" in console
    assert "contextagent: failed (" in console, "the boot's own line came before"
    kinds = [record["ev"] for record in records(guest)]
    assert (kinds.count("finish"), kinds.count("shutdown")) == (1, 1)
    assert guest.get("/root/stopped") == "stopped\n", "the stop phase ran, once"


@pytest.mark.parametrize("kind", [SYSTEMD, SYSV], ids=["systemd", "sysv"])
def test_a_guest_that_is_shut_down_says_100(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> None:
    guest, console = ended(kind, tmp_path_factory, fails=False)
    assert guest.get("/etc/joboutputs/shutdown_message") == "100 shutdown as requested by the machine's host", console
    finish, anchor, shutdown = records(guest)[-3:]
    assert (finish["ev"], anchor["ev"], shutdown["ev"]) == ("finish", "anchor", "shutdown")
    assert json.loads(guest.get("/etc/joboutputs/receipt.json"))["boot"] == finish["boot"]
