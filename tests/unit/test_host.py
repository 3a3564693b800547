"""What the host says of a machine, and how it starts tools and confined children."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import BrokenSourceError, CannotWriteError, TryLaterError
from contextagent.host import Host
from contextagent.host.accounts import Account

if TYPE_CHECKING:
    from contextagent.host.confine import Channel

PASSWD = """root:x:0:0:root:/root:/bin/bash
broken
short:x:1:1:/bin/sh
words:x:one:1::/:/bin/sh
contextuser:x:990:991::/var/lib/contextuser:/usr/sbin/nologin
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


def put(host: Host, path: str, text: str) -> None:
    host.files.create(path, [text.encode()])


# ---- facts ----


def test_a_boot_id_below_the_root_goes_before_this_machines(host: Host) -> None:
    real = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    assert host.boot_id() == real

    put(host, "/proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n")
    assert host.boot_id() == "11111111-2222-3333-4444-555555555555"


def test_kernel_words_below_the_root_go_before_this_machines(host: Host) -> None:
    assert host.kernel_words() == tuple(Path("/proc/cmdline").read_text(encoding="ascii").split())

    put(host, "/proc/cmdline", "ro contextagent=off\n")
    assert host.kernel_words() == ("ro", "contextagent=off")


def test_another_roots_product_uuid_is_its_own_or_unknown(host: Host) -> None:
    assert host.product_uuid() == ""

    put(host, "/sys/class/dmi/id/product_uuid", "4C4C4544-ABCD\n")
    assert host.product_uuid() == "4c4c4544-abcd"


def test_the_monotonic_clock_does_not_go_back(host: Host) -> None:
    assert host.mono_ns() <= host.mono_ns()
    assert host.utc_ns() > 0
    assert host.is_clock_synchronised() in (True, False)
    assert host.kernel_release() == os.uname().release
    assert host.caller() == (os.geteuid(), os.getegid())
    assert host.oom_kills() >= 0


def test_a_root_other_than_this_machines_makes_scripts_the_callers(host: Host) -> None:
    assert host.is_caller
    assert not Host().is_caller
    host.announce("nobody hears this")


# ---- accounts ----


def test_an_account_is_read_from_the_roots_own_passwd(host: Host) -> None:
    assert host.account("root") is None

    put(host, "/etc/passwd", PASSWD)
    assert host.account("contextuser") == Account(
        name="contextuser", uid=990, gid=991, home="/var/lib/contextuser", shell="/usr/sbin/nologin"
    )
    assert [host.account(name) for name in ("broken", "short", "words", "nobody", "")] == [None] * 5


def test_no_account_is_made_below_another_root(host: Host) -> None:
    with pytest.raises(CannotWriteError, match="cannot make account 'contextuser'"):
        host.make_account("contextuser", "/var/lib/contextuser")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a home away needs root")
def test_an_account_that_is_there_gets_the_home_that_is_missing(host: Host) -> None:
    put(host, "/etc/passwd", PASSWD)

    host.make_account("contextuser", "/elsewhere")

    home = os.stat(host.files.real("/var/lib/contextuser"))
    assert (home.st_uid, home.st_gid, home.st_mode & 0o7777) == (990, 991, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a home away needs root")
def test_a_home_of_somebody_elses_is_given_to_the_account_only_where_the_agent_chose_it(host: Host) -> None:
    put(host, "/etc/passwd", PASSWD)
    put(host, "/var/lib/contextuser/work", "")
    for asked, uid in (("/elsewhere", 0), ("/var/lib/contextuser", 990)):
        host.make_account("contextuser", asked)
        assert os.stat(host.files.real("/var/lib/contextuser")).st_uid == uid


# ---- locks ----


def test_a_lock_is_held_once_and_given_back(host: Host) -> None:
    with host.lock("/lock"), pytest.raises(TryLaterError, match="another run holds it"):
        host.lock("/lock")

    lock = host.lock("/lock")
    lock.release()
    lock.release()
    assert os.stat(host.files.real("/lock")).st_mode & 0o777 == 0o600


def test_a_lock_that_can_not_be_made_is_no_lock_that_is_held(host: Host) -> None:
    with pytest.raises(CannotWriteError, match="cannot lock '/nowhere/lock'"):
        host.lock("/nowhere/lock")


def test_a_lock_dies_with_its_holder(host: Host) -> None:
    pid = os.fork()
    if pid == 0:
        host.lock("/lock")
        os._exit(0)
    os.waitpid(pid, 0)

    host.lock("/lock").release()


# ---- tools ----


def test_a_tool_gets_only_its_own_environment_and_input(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nowhere")
    finished = host.run(["sh", "-c", "cat; env; exit 3"], timeout_s=30, environment={"A": "b"}, stdin=b"said\n")

    lines = finished.text().splitlines()
    assert (finished.exit_code, finished.is_ok, lines[0]) == (3, False, "said")
    assert {line.partition("=")[0] for line in lines[1:]} - {"PWD", "OLDPWD", "SHLVL", "_"} == {"A", "LC_ALL", "PATH"}


def test_a_tool_that_is_not_there_is_127(host: Host) -> None:
    assert host.run(["no-such-tool"], timeout_s=30).exit_code == 127
    assert host.run(["/no/such/tool"], timeout_s=30).exit_code == 127


def test_a_tool_that_takes_too_long_is_killed_with_its_session(host: Host) -> None:
    finished = host.run(["sh", "-c", "echo begun; sleep 1000 & sleep 1000"], timeout_s=0.3)

    assert (finished.exit_code, finished.signal, finished.is_timeout, finished.output) == (None, 9, True, b"begun\n")


def test_a_tool_whose_child_keeps_the_pipe_open_is_not_waited_for(host: Host) -> None:
    finished = host.run(["sh", "-c", "sleep 3 & echo done"], timeout_s=60)

    assert (finished.exit_code, finished.output, finished.is_timeout) == (0, b"done\n", False)


def test_a_tool_that_closes_its_output_is_waited_for(host: Host) -> None:
    assert host.run(["sh", "-c", "exec >&- 2>&-; sleep 0.1; exit 4"], timeout_s=60).exit_code == 4


def test_only_the_beginning_of_a_tools_output_is_kept(host: Host) -> None:
    finished = host.run(["sh", "-c", "printf begin; head -c 1000000 /dev/zero"], timeout_s=60, max_output_bytes=5)

    assert (finished.exit_code, finished.output) == (0, b"begin")


# ---- confined children ----


def echo(channel: Channel) -> None:
    while (message := channel.receive()) is not None:
        channel.send(message)


def test_a_confined_child_answers_whole_messages(host: Host) -> None:
    child = host.confined(echo, timeout_s=60)

    for message in (b"", b"x", bytes(3 << 20)):
        assert child.ask(message) == message
    child.close()
    child.close()


def attempt(channel: Channel) -> None:
    channel.receive()
    said = []
    for act in (os.fork, grow_a_file, lambda: os.open("/etc/shadow", os.O_RDONLY)):
        try:
            act()
        except OSError:
            said.append("refused")
        else:
            said.append("done")
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    words = [line.split()[1] for line in status if line.startswith(("CapEff", "NoNewPrivs", "Uid"))]
    channel.send(" ".join([*words, *said, *sorted(os.listdir("/proc/self/fd"), key=int)]).encode())


def grow_a_file() -> None:
    fd = os.open("/tmp", os.O_TMPFILE | os.O_WRONLY)
    os.write(fd, b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving rights up needs root")
def test_a_confined_child_has_no_rights_and_no_descriptors_but_its_own(host: Host) -> None:
    leaked = os.open("/etc/shadow", os.O_RDONLY)
    child = host.confined(attempt, timeout_s=60)
    try:
        uid, caps, no_new_privs, *said = child.ask(b"").decode().split()
    finally:
        child.close()
        os.close(leaked)

    assert (uid, int(caps, 16), no_new_privs) == ("65534", 0, "1")
    assert said[:3] == ["refused"] * 3
    assert str(leaked) not in said[3:]


def test_a_confined_child_may_keep_a_descriptor_that_it_is_handed(host: Host, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"content")
    fd = os.open(tmp_path / "disk", os.O_RDONLY)
    child = host.confined(lambda channel: channel.send(os.pread(fd, 100, 0)), timeout_s=60, keep=(fd,))
    os.close(fd)

    assert child.ask(b"") == b"content"
    child.close()


def bomb(channel: Channel) -> None:
    channel.receive()
    channel.send(bytes(1 << 30))


def die(_channel: Channel) -> None:
    raise RuntimeError


def drip(channel: Channel) -> None:
    while True:
        channel.receive()
        time.sleep(1000)


def babble(channel: Channel) -> None:
    channel.receive()
    channel.send(bytes(1000))


def half(channel: Channel) -> None:
    channel.receive()
    os.write(channel._write_fd, b"\0" * 7)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (bomb, "reader-died"),
        (die, "reader-died"),
        (drip, "reader-timeout"),
        (babble, "reader-too-much"),
        (half, "reader-died"),
    ],
)
def test_whatever_becomes_of_a_confined_child_is_one_error(host: Host, work: object, reason: str) -> None:
    assert callable(work)
    child = host.confined(work, timeout_s=0.5 if work is drip else 60)

    with pytest.raises(BrokenSourceError) as caught:
        child.ask(b"go", max_bytes=100)

    assert caught.value.reason == reason
    child.close()


def test_a_child_that_does_not_listen_is_given_up_in_time(host: Host) -> None:
    child = host.confined(lambda _channel: time.sleep(1000), timeout_s=0.3)

    with pytest.raises(BrokenSourceError, match="took too long"):
        child.ask(bytes(10 << 20))


# ---- mounts and drives ----


def test_what_is_no_drive_says_nothing(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert host.drive_status(str(tmp_path / "file")) == "unknown"
    assert host.drive_status(str(tmp_path / "none")) == "unknown"
    with pytest.raises(OSError, match="ioctl"):
        host.eject(str(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_that_the_kernel_refuses_says_why(host: Host, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(1 << 16))
    host.files.make_folder("/mnt")

    with pytest.raises(OSError, match=r"No such device|Block device required|Invalid argument"):
        host.mount(str(tmp_path / "image"), "/mnt", "iso9660")
    host.unmount("/mnt")
    host.unmount("/nowhere")
    assert host.supports_filesystem("iso9660") in (True, False)
