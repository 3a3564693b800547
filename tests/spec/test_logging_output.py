"""`logging.script_output`, on a view of this machine with a /dev/log: whose output, how much, what is hidden."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT

if TYPE_CHECKING:
    from tests.machine import Guest

SECRET = "S3cr3tS3cr3tS3cr3tABCDEFGHIJKLMNOP"
LISTENER = r"""
import select, socket, subprocess, sys
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
log.setblocking(False)
if sys.argv[1] == "blocked":
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.setblocking(False)
    try:
        while True:
            other.sendto(b"x", "/dev/log")
    except BlockingIOError:
        pass
    sys.exit(subprocess.call(sys.argv[2:]))
child = subprocess.Popen(sys.argv[2:])
with open("/got", "w") as file:
    while True:
        code = child.poll()
        while select.select([log], [], [], 0.01)[0]:
            print(repr(log.recv(65536)), file=file)
        if code is not None:
            break
sys.exit(code)
"""


def logged(guest: Guest, settings: str, script: str, *, state: str = "open") -> list[bytes]:
    """Boot with a script of the site's beside a failing one of the user's; return what came to /dev/log."""
    guest.put("listener.py", LISTENER)
    guest.put("disk/epilog.sh", f"#!/bin/sh\n{script}\n")
    guest.put("disk/user/epilog.sh", "#!/bin/sh\necho from the user\nexit 4\n")
    guest.put("disk/context.sh", f"SITE_PASSWORD='{SECRET}'\n")
    if settings:
        guest.put("disk/site.yaml", f"logging: {{{settings}}}\n")
    words = (*AGENT, "--disk", "/disk", "--metadata", "none", "run")
    done = guest.shell("python3", "-I", "/listener.py", state, *words)
    assert "user/post-network/epilog.sh failed (exit 4)" in done.err, done
    assert all(report["state"] in ("ok", "failed") for report in guest.status()["scripts"])
    if state == "blocked":
        return []
    lines = [ast.literal_eval(line) for line in guest.text("got").splitlines()]
    return [line for line in lines if b"contextagent-script" in line]


@pytest.mark.parametrize(
    ("settings", "owners"),
    [("", {"site"}), ("script_output: site", {"site"}), ("script_output: all", {"site", "user"}),
     ("script_output: none", set())],
)  # fmt: skip
def test_whose_output_goes_to_syslog_is_as_set(guest: Guest, settings: str, owners: set[str]) -> None:
    text = b"\n".join(logged(guest, settings, "echo from the site"))
    assert {
        owner for owner in ("site", "user") if f"{owner}/post-network/epilog.sh: from the".encode() in text
    } == owners


def test_the_last_4_kib_go_a_line_each_and_no_line_can_be_another_record(guest: Guest) -> None:
    script = (
        r"for i in $(seq 2000); do echo line $i 0123456789; done; printf '\033[2J \342\200\256 \000\n<0>kernel: x\n'"
    )
    lines = logged(guest, "script_output: site", script)
    said = [line.partition(b"epilog.sh: ")[2] for line in lines]
    assert sum(len(line) + 1 for line in said[:-2]) <= 4096
    assert b"line 2000 0123456789" in said
    assert b"line 1 0123456789" not in said
    assert said[-1] == b"<0>kernel: x"
    for line in lines:
        assert line.startswith(b"<29>")
        assert not any(byte < 32 or byte > 126 for byte in line)


@pytest.mark.parametrize("behind", [4096 - 10, 4096 - 20, 4096 - 30, 0])
def test_a_secret_that_is_cut_by_the_limit_is_hidden_all_the_same(guest: Guest, behind: int) -> None:
    lines = logged(guest, "", f"echo {SECRET}; head -c {behind} /dev/zero | tr '\\0' x")
    text = b"".join(lines)
    assert lines
    for start in range(len(SECRET) - 8):
        assert SECRET[start : start + 8].encode() not in text


@pytest.mark.parametrize("before", [799, 790, 780, 767])
def test_a_secret_across_two_lines_of_syslog_is_hidden(guest: Guest, before: int) -> None:
    lines = logged(guest, "", f"printf %{before}s x; echo {SECRET}")
    text = b"".join(line.partition(b"epilog.sh: ")[2] for line in lines)
    assert b"[masked]" in text
    for start in range(len(SECRET) - 8):
        assert SECRET[start : start + 8].encode() not in text


def test_a_private_key_is_hidden_though_its_beginning_is_beyond_the_limit(guest: Guest) -> None:
    script = (
        "echo '-----BEGIN RSA PRIVATE KEY-----'; for i in $(seq 200); do echo MIIEvQIBADANBgkqhkiG9w0BAQEF$i; done;"
        " echo '-----END RSA PRIVATE KEY-----'; echo behind"
    )
    text = b"\n".join(logged(guest, "", script))
    assert b"MIIEvQIBADANBgkqhkiG9w0BAQEF" not in text
    assert b"behind" in text


def test_a_daemon_that_takes_nothing_stops_no_boot(guest: Guest) -> None:
    logged(guest, "script_output: all", "seq 2000", state="blocked")
    assert guest.status()["phases"]["post-network"]["state"] in ("ok", "degraded")
