"""Scripts that mean harm, as real processes: they end, nothing of them lives on, and the next one runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contextagent.host import supervised
from tests.scripts import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contextagent.model import Profile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing to another account needs root")

MIB = 1 << 20


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Return a stage where unprivileged scripts get a PID namespace; nothing hostile starts without one."""
    with Stage() as made:
        assert made.run("echo $$ $PPID", profile="unprivileged").state == "ok"
        assert made.output() == b"2 1\n", "the kernel gave no PID namespace"
        yield made


def hostile(name: str, script: str, state: str, reason: str, **limits: float) -> object:
    return pytest.param(script, state, reason, limits, id=name)


BOTH: tuple[Profile, ...] = ("unprivileged", "root")
ENDLESS = [
    hostile("hangs", "sleep 1000", "timeout", "timeout", wall_s=0.2),
    hostile("ignores-term", "trap '' TERM; while :; do sleep 1000; done", "timeout", "timeout", wall_s=0.2),
    hostile("ignores-all-it-can", "trap '' HUP INT QUIT TERM; sleep 1000 & wait", "timeout", "timeout", wall_s=0.2),
    hostile("stops-itself", "kill -STOP $$", "timeout", "timeout", wall_s=0.2),
    hostile("stops-its-supervisor", "kill -STOP $PPID; sleep 1000", "timeout", "timeout", wall_s=0.2),
    hostile("closes-its-descriptors", "exec 0<&- 1>&- 2>&-; sleep 1000", "timeout", "timeout", wall_s=0.2),
    hostile("burns-cpu", "while :; do :; done", "failed", "limit", cpu_s=1),
    hostile("burns-cpu-for-ever", "while :; do :; done", "timeout", "timeout", wall_s=0.2, cpu_s=3600),
    hostile("writes-for-ever", "yes", "failed", "limit", output_bytes=MIB),
    hostile("floods-while-ignoring-term", "trap '' TERM; while :; do yes; done", "timeout", "timeout", wall_s=0.2),
]
LEAVING = [
    hostile("leaves-a-child", "sleep 1000 & exit 0", "ok", "exit"),
    hostile("leaves-a-daemon", "(setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 &) ; exit 0", "ok", "exit"),
    hostile("leaves-a-stopped-daemon", "(setsid sh -c 'kill -STOP $$' &) ; sleep 0.1; exit 0", "ok", "exit"),
    hostile("leaves-a-daemon-deaf-to-signals", "(trap '' HUP TERM; setsid sleep 1000 &) ; exit 0", "ok", "exit"),
    hostile("holds-the-pipe-open", "(setsid sleep 1000 &) ; echo said; exit 0", "ok", "exit"),
    hostile("leaves-a-writer", "(setsid yes &) ; exit 0", "ok", "exit"),
    hostile("fails-and-leaves-a-daemon", "(setsid sleep 1000 &) ; exit 3", "failed", "exit"),
    hostile("crashes-and-leaves-a-daemon", "(setsid sleep 1000 &) ; kill -SEGV $$", "failed", "exit"),
    hostile("forks-a-while", "i=0; while [ $i -lt 50 ]; do i=$((i+1)); setsid sleep 1000 & done; exit 0", "ok", "exit"),
]


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize(("script", "state", "reason", "limits"), [*ENDLESS, *LEAVING])
def test_a_hostile_script_ends_with_its_whole_tree(
    stage: Stage, script: str, state: str, reason: str, limits: dict[str, float], profile: Profile
) -> None:
    ending = stage.run(script, profile=profile, limits=limits)

    assert (ending.state, ending.reason) == (state, reason), ending
    assert stage.survivors() == []
    assert stage.run("echo next").state == "ok"


UNPRIVILEGED = [
    hostile("kills-everything", "kill -9 -1; exit 5", "failed", "exit"),
    hostile("kills-its-parent", "kill -9 $PPID; kill -TERM $PPID; exit 0", "ok", "exit"),
    hostile("forks-without-end", "f() { f | f & }; f; sleep 1000", "timeout", "timeout", wall_s=0.5, processes=64),
    hostile("unshares", "unshare -Ur sleep 1000 & exit 0", "ok", "exit"),
]


@pytest.mark.parametrize(("script", "state", "reason", "limits"), UNPRIVILEGED)
def test_an_unprivileged_script_reaches_nothing_but_itself(
    stage: Stage, script: str, state: str, reason: str, limits: dict[str, float]
) -> None:
    ending = stage.run(script, profile="unprivileged", limits=limits)

    assert ending.reason == reason, ending
    assert ending.state == state, ending
    assert stage.survivors() == []


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -o remount,rw /",
        "mount -t tmpfs none /mnt",
        "umount /proc",
        "mknod node b 1 1",
        "head -c 1 /proc/1/mem",
        "head -c 1 /proc/1/environ",
        "dd if=/dev/zero of=$(awk '$2 == \"/\" {print $1}' /proc/mounts) bs=512 count=1 conv=notrunc",
        "cat /etc/shadow",
        "touch /run/planted",
        "touch /var/lib/planted",
        "echo x >>$0",
        "rm -f $0",
        "chmod 777 $0",
        "ls ${0%/*}",
        "ls ${0%/*/*}",
        "touch ../planted",
        "ls ../state",
        "su -c id root </dev/null",
        "setpriv --reuid 0 id",
        "hostname planted",
        "sysctl -w kernel.panic=1",
        "ulimit -n 100000",
    ],
)
def test_an_unprivileged_script_may_not(stage: Stage, attempt: str) -> None:
    ending = stage.run(f"if {attempt}; then exit 0; fi; exit 42", profile="unprivileged")

    assert ending.exit_code == 42, stage.output()


def test_an_unprivileged_script_has_no_rights_left(stage: Stage) -> None:
    stage.run(
        "id -u; id -g; id -G; grep -E '^(Cap|NoNewPrivs)' /proc/self/status; umask; ls /proc/self/fd",
        profile="unprivileged",
    )

    uid = str(stage.account.uid).encode()
    lines = stage.output().split(b"\n")
    assert lines[:3] == [uid] * 3
    assert {line.split()[1].strip(b"0") for line in lines[3:8]} == {b""}
    assert lines[8].split() == [b"NoNewPrivs:", b"1"]
    assert lines[9:] == [b"0077", b"0", b"1", b"2", b"3", b""]  # 3: the listing's own


def test_an_unprivileged_script_sees_no_process_but_its_own(stage: Stage) -> None:
    stage.run("cd /proc; echo [0-9]*", profile="unprivileged")

    assert stage.output() == b"1 2\n"


def test_a_user_who_kills_everything_does_not_keep_the_site_from_its_turn(stage: Stage) -> None:
    stage.run("(setsid sleep 1000 &); kill -9 -1", profile="unprivileged")

    assert stage.run("echo site").state == "ok"
    assert stage.output() == b"site\n"


# Without subreapers, no_new_privs, bounding sets and close_range, as on Linux 2.6.18
OLD = ("strace", "-f", "-o", "/dev/null", "-einject=prctl:error=EINVAL", "-einject=close_range:error=ENOSYS")


@pytest.mark.parametrize("kernel", [(), OLD], ids=["no-namespaces", "old-kernel"])
def test_without_a_pid_namespace_the_account_is_swept(kernel: tuple[str, ...]) -> None:
    """A root without CAP_SYS_ADMIN gets no namespace."""
    program = (
        "from tests.scripts import Stage\n"
        "with Stage() as stage:\n"
        "    script = '(setsid sleep 1000 &); setsid sh -c \"sleep 1000 & sleep 1000\" & echo $PPID'\n"
        "    ending = stage.run(script, profile='unprivileged')\n"
        "    print(ending.state, stage.output() != b'1\\n')\n"
        "    while stage.survivors():\n"
        "        pass  # killed, but where orphans are init's, nobody waits for them\n"
    )

    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", *kernel, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stdout == "ok True\n", done.stderr


def test_a_site_script_that_kills_its_supervisor_is_an_abort(stage: Stage) -> None:
    ending = stage.run("kill -9 $PPID; sleep 1000 & sleep 1000")

    assert (ending.state, ending.reason) == ("failed", "abort")
    assert "supervisor" in ending.detail
    assert stage.survivors() == []


def test_the_tree_dies_with_the_agent(stage: Stage) -> None:
    """A resumed agent must not run beside what its killed forerunner started."""
    job = stage.job("echo ready; trap '' TERM; (setsid sleep 1000 &); sleep 1000", keep_daemons=True)
    pid = os.fork()
    if pid == 0:
        try:
            supervised.start(
                ["/bin/sh", stage.host.files.real(job.script)],
                job.environment,
                "/",
                account=None,
                limits=job.limits,
                keep_daemons=True,
            ).pump(time.monotonic() + 30, _die)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 9

    _eventually(lambda: stage.survivors() == [])


# ---- daemons of the site ----


def test_a_daemon_of_the_site_lives_on_after_exit_0(stage: Stage) -> None:
    ending = stage.run("(setsid sleep 1000 &); exit 0", keep_daemons=True)

    assert (ending.state, ending.killed) == ("ok", 0)
    assert len(stage.survivors()) == 1


@pytest.mark.parametrize("end", ["exit 1", "kill -SEGV $$"])
def test_a_daemon_of_a_failed_site_script_dies_with_it(stage: Stage, end: str) -> None:
    ending = stage.run(f"(setsid sleep 1000 &); {end}", keep_daemons=True)

    assert (ending.state, ending.killed) == ("failed", 1)
    assert stage.survivors() == []


def test_a_daemon_that_keeps_writing_neither_blocks_nor_dies(stage: Stage) -> None:
    """Nobody reads its inherited stdout any more, and more than any pipe holds goes there."""
    daemon = "while [ ! -e over ]; do sleep 0.01; done; head -c 3000000 /dev/zero; echo lives >mark"
    ending = stage.run(f"(setsid sh -c '{daemon}' &); exit 0", keep_daemons=True)
    assert ending.state == "ok"
    work = Path(stage.host.files.real("/work"))
    (work / "over").touch()

    _eventually((work / "mark").exists)


# ---- output ----


@pytest.mark.parametrize("size", [100 * 1000 * 1000, 1 << 30])
def test_output_of_any_size_is_counted_and_digested_in_little_memory(size: int) -> None:
    """In a process of its own: its peak is the agent's."""
    program = (
        "from tests.scripts import Stage\n"
        "with Stage() as stage:\n"
        f"    ending = stage.run('head -c {size} /dev/zero', profile='unprivileged')\n"
        "    print(ending.out_bytes, len(stage.output()), ending.out_sha512)\n"
        "    print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    digest = hashlib.sha512()
    for _ in range(size // MIB):
        digest.update(bytes(MIB))
    digest.update(bytes(size % MIB))
    out_bytes, kept_bytes, out_sha512, peak_kib = done.stdout.split()
    assert (int(out_bytes), out_sha512) == (size, digest.hexdigest())
    assert MIB < int(kept_bytes) < MIB + 100
    assert int(peak_kib) < 40 << 10


def test_a_very_long_line_is_kept_at_both_ends(stage: Stage) -> None:
    ending = stage.run("printf begin; head -c 20000000 /dev/zero | tr '\\0' x; printf end")

    kept = stage.output()
    assert ending.out_bytes == 20_000_008
    assert kept.startswith(b"beginx")
    assert kept.endswith(b"xend")
    assert b"\n[contextagent: %d bytes left out here]\n" % (20_000_008 - MIB) in kept


def test_binary_output_is_kept_byte_for_byte(stage: Stage) -> None:
    data = bytes(range(256)) * 100 + b"\x1b[2J\x1b]0;owned\x07\r\n\x00"
    stage.host.files.write("/work/data", data, mode=0o644)

    ending = stage.run("cat data", profile="unprivileged")

    assert stage.output() == data
    assert ending.out_sha512 == hashlib.sha512(data).hexdigest()
    assert os.stat(stage.host.files.real("/state/output")).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("profile", BOTH)
def test_a_script_may_open_its_own_stdout(stage: Stage, profile: Profile) -> None:
    stage.run("echo out >/dev/stdout; echo err >/dev/stderr", profile=profile)

    assert stage.output() == b"out\nerr\n"


# ---- ends ----


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("code", [0, 1, 2, 77, 125, 126, 127, 128, 137, 255])
def test_an_exit_code_is_told_as_it_is(stage: Stage, code: int, profile: Profile) -> None:
    ending = stage.run(f"exit {code}", profile=profile)

    assert (ending.exit_code, ending.signal, ending.state) == (code, None, "failed" if code else "ok")


@pytest.mark.parametrize("profile", BOTH)
@pytest.mark.parametrize("signal", [1, 2, 3, 4, 6, 7, 8, 9, 11, 13, 14, 15, 25, 31, 34, 64])
def test_a_signal_is_told_as_it_is(stage: Stage, signal: int, profile: Profile) -> None:
    ending = stage.run(f"kill -{signal} $$", profile=profile)

    assert (ending.exit_code, ending.signal, ending.state, ending.reason) == (None, signal, "failed", "exit")


def test_memory_beyond_the_limit_is_not_had(stage: Stage) -> None:
    ending = stage.run(
        "x=$(head -c 300000000 /dev/zero | tr '\\0' x); exit 0",
        profile="unprivileged",
        limits={"memory_bytes": 64 * MIB},
    )

    assert ending.state == "failed"


def test_descriptors_beyond_the_limit_are_not_had(stage: Stage) -> None:
    script = 'perl -e \'while (open my $f, "<", "/dev/null") { push @f, $f } exit(@f < 100 ? 42 : 0)\''

    assert stage.run(script, profile="unprivileged", limits={"files": 64}).exit_code == 42


# ---- files ----


def test_a_root_script_that_deletes_itself_is_seen(stage: Stage) -> None:
    ending = stage.run('rm "$0"; exit 0')

    assert (ending.state, ending.sha512_after) == ("ok", "")


def test_a_root_script_that_rewrites_itself_is_seen(stage: Stage) -> None:
    ending = stage.run('echo changed >"$0"')

    assert ending.sha512_after == hashlib.sha512(b"changed\n").hexdigest()


def test_a_lent_copy_is_gone_afterwards(stage: Stage) -> None:
    stage.run('echo "$0"', profile="unprivileged")

    assert stage.output().startswith(stage.host.root.encode() + b"/run/contextagent/scripts/")
    assert stage.host.files.folder("/run/contextagent/scripts") == []


@pytest.mark.parametrize("profile", BOTH)
def test_a_script_of_16_mib_runs(stage: Stage, profile: Profile) -> None:
    ending = stage.run(b"#!/bin/sh\n" + (b"#" * 1023 + b"\n") * (16 << 10) + b"echo done\n", profile=profile)

    assert (ending.state, stage.output()) == ("ok", b"done\n")


def _die(_data: bytes) -> bool:
    os.kill(os.getpid(), 9)
    return False


def _eventually(is_so: object) -> None:
    """Wait for another process to have its effect; only a fault makes this wait for long."""
    assert callable(is_so)
    end_s = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.01)
