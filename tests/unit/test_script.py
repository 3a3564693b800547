"""One script, run for real: its first line, its bounds, its words, and what becomes of its output."""

from __future__ import annotations

import hashlib
import os
import resource
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.host import Host
from contextagent.runner.capture import KEPT_BYTES, Capture
from contextagent.runner.script import run_script
from tests.scripts import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing to another account needs root")


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


# ---- the first line ----


@pytest.mark.parametrize(
    ("first_line", "argv"),
    [
        (b"#!/bin/sh\n", b"/bin/sh SCRIPT start"),
        (b"#! /bin/sh\n", b"/bin/sh SCRIPT start"),
        (b"#!\t/bin/sh\t-e \n", b"/bin/sh -e SCRIPT start"),
        (b"#!/usr/bin/env sh\n", b"sh SCRIPT start"),
        (b"#!/usr/bin/env -S  sh -e\n", b"sh -e SCRIPT start"),  # one argument, as the kernel passes it
        (b"", b"/bin/sh SCRIPT start"),
        (b"# no shebang\n", b"/bin/sh SCRIPT start"),
    ],
)
def test_a_script_is_run_by_what_its_first_line_names(stage: Stage, first_line: bytes, argv: bytes) -> None:
    stage.run(first_line + b"tr '\\0' ' ' </proc/$$/cmdline")

    script = stage.host.files.real("/state/it.sh").encode()
    assert stage.output().replace(script, b"SCRIPT").strip() == argv


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (b"#!/bin/sh\r\necho\r\n", "its first line ends in CR LF (Windows line ends)"),
        (b"#!/bin/sh -e\r\necho\r\n", "its first line ends in CR LF (Windows line ends)"),
        (b"#!\necho\n", "its first line names no interpreter"),
        (b"#!  \t\necho\n", "its first line names no interpreter"),
        (b"#!/bin/" + b"x" * 300 + b"\n", "its first line is longer than 256 bytes"),
        (b"#!/nowhere/sh\necho\n", "its interpreter '/nowhere/sh' is not there"),
        (b"#!/bin/sh/sh\necho\n", "its interpreter '/bin/sh/sh' is not there"),
        (b"#!/tmp\necho\n", "its interpreter '/tmp': Permission denied"),
        (b"#!/bin/s\0h\necho\n", "embedded null byte"),
        (b"\x7fELF\x02\x01\x01", "it is a compiled program, not a script"),
    ],
)
def test_a_first_line_that_can_not_be_followed_is_one_clear_error(stage: Stage, script: bytes, cause: str) -> None:
    ending = stage.run(script)

    assert (ending.state, ending.reason, ending.exit_code) == ("failed", "abort", None)
    assert ending.detail == f"cannot run '/state/it.sh': {cause}"
    assert ending.sha512_after == hashlib.sha512(script).hexdigest()


def test_an_empty_script_is_ok(stage: Stage) -> None:
    ending = stage.run("")

    assert (ending.state, ending.exit_code, ending.out_bytes) == ("ok", 0, 0)
    assert ending.out_sha512 == hashlib.sha512().hexdigest()


def test_a_shebang_without_a_line_end_is_followed(stage: Stage) -> None:
    assert stage.run("#!/bin/true").state == "ok"


def test_a_script_runs_whether_its_exec_bit_is_set_or_not(stage: Stage) -> None:
    assert stage.run("#!/bin/sh\nexit 0").state == "ok"
    assert os.stat(stage.host.files.real("/state/it.sh")).st_mode & 0o111 == 0


# ---- what it sees ----


def test_a_script_gets_the_environment_that_it_is_given_and_no_more(stage: Stage) -> None:
    stage.run("cat /proc/$$/environ")

    name, _, value = stage.mark.partition("=")
    expected = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", name: value}
    assert dict(item.split("=", 1) for item in stage.output().decode().split("\0")[:-1]) == expected


def test_a_script_has_its_own_session_and_no_input(stage: Stage) -> None:
    stage.run("cut -d' ' -f6 /proc/$$/stat; echo $$; cat; umask; pwd; ulimit -c")

    session, pid, mask, folder, core = stage.output().decode().split()
    assert (session, mask, folder, core) == (pid, "0077", stage.host.files.real("/work"), "0")


# ---- what goes wrong before it starts ----


def test_a_guarded_script_is_refused_until_there_is_such_a_profile(stage: Stage) -> None:
    ending = stage.run("exit 0", profile="guarded")

    assert (ending.state, ending.reason) == ("refused", "abort")
    assert ending.detail == "cannot run '/state/it.sh': profile 'guarded' is not yet supported"


def test_root_is_no_unprivileged_account(stage: Stage) -> None:
    """A sweep of everything that runs as root would be the machine's end."""
    job = stage.job("exit 0", profile="unprivileged").replace(account=stage.account.replace(name="root", uid=0))

    assert run_script(stage.host, job).detail == "cannot run '/state/it.sh': account 'root' is root"


def test_a_script_that_has_vanished_is_an_ending(stage: Stage) -> None:
    job = stage.job("exit 0")
    stage.host.files.remove(job.script)

    ending = run_script(stage.host, job)

    assert (ending.state, ending.reason, ending.sha512_after) == ("failed", "abort", "")
    assert ending.detail == "cannot run '/state/it.sh': No such file or directory"


def test_a_folder_that_is_not_there_is_named(stage: Stage) -> None:
    ending = run_script(stage.host, stage.job("exit 0", folder="/nowhere"))

    assert ending.detail == "cannot run '/state/it.sh': its folder '/nowhere': No such file or directory"


def test_a_script_whose_output_can_not_be_kept_runs_all_the_same_and_says_so(stage: Stage) -> None:
    stage.host.files.create("/taken", ())
    job = stage.job("echo counted; exit 3").replace(output="/taken/output")
    ending = run_script(stage.host, job)

    assert (ending.state, ending.exit_code, ending.out_bytes) == ("failed", 3, len("counted\n"))
    assert ending.detail.startswith("cannot write '/taken/output': Not a directory")


@needs_root
def test_a_limit_that_the_kernel_refuses_is_named(stage: Stage) -> None:
    ending = stage.run("exit 0", limits={"files": 1 << 40})

    assert ending.detail == "cannot run '/state/it.sh': limits: Operation not permitted"


@needs_root
def test_an_unprivileged_script_is_lent_a_copy_that_is_taken_back(stage: Stage) -> None:
    ending = stage.run("id -u; cat $0", profile="unprivileged")

    assert (ending.state, stage.output()) == ("ok", b"%d\nid -u; cat $0" % stage.account.uid)
    assert stage.host.files.folder("/run/contextagent/scripts") == []


@needs_root
def test_a_copy_that_can_not_be_lent_leaves_nothing_behind(stage: Stage) -> None:
    job = stage.job("exit 0", profile="unprivileged")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, hard))
    try:
        ending = run_script(stage.host, job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (ending.state, ending.reason) == ("failed", "abort")
    assert "File too large" in ending.detail
    assert stage.host.files.folder("/run/contextagent/scripts") == []


def test_an_agent_without_descriptors_says_so_and_leaks_none(stage: Stage) -> None:
    job = stage.job("exit 0")
    before = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endings = []
    try:
        for limit in range(4, max(map(int, before)) + 16):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            endings.append(run_script(stage.host, job))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert {ending.state for ending in endings} == {"failed", "ok"}
    assert {ending.detail.rpartition(": ")[2] for ending in endings if ending.state == "failed"} == {
        "Too many open files"
    }
    assert len(os.listdir("/proc/self/fd")) == len(before)


@needs_root
def test_a_folder_is_entered_with_the_rights_of_the_script(stage: Stage) -> None:
    ending = run_script(stage.host, stage.job("exit 0", profile="unprivileged", folder="/state"))

    assert ending.detail == "cannot run '/state/it.sh': its folder '/state': Permission denied"


# ---- how it ends ----


def test_a_script_whose_time_is_over_gets_term_and_may_clean_up(stage: Stage) -> None:
    ending = stage.run("trap 'echo cleaned; exit 7' TERM; sleep 1000 & wait", limits={"wall_s": 0.3})

    assert (ending.state, ending.reason, ending.exit_code) == ("timeout", "timeout", 7)
    assert stage.output() == b"cleaned\n"


def test_a_script_deaf_to_term_is_killed(stage: Stage) -> None:
    ending = stage.run("trap '' TERM; while :; do sleep 1000; done", limits={"wall_s": 0.2})

    assert (ending.state, ending.reason, ending.signal) == ("timeout", "timeout", 9)
    assert ending.killed in (1, 2)  # the shell, and its sleep where it had come to it


def test_a_script_that_writes_too_much_is_killed(stage: Stage) -> None:
    ending = stage.run("yes", limits={"output_bytes": 1 << 20})

    assert (ending.state, ending.reason, ending.detail) == ("failed", "limit", "it wrote more than 1048576 bytes")


def test_a_script_that_wrote_too_much_and_ended_at_once_has_failed(stage: Stage) -> None:
    ending = stage.run("echo 123456789; exit 0", limits={"output_bytes": 5})

    assert (ending.state, ending.reason, ending.out_bytes) == ("failed", "limit", 10)


def test_cpu_beyond_the_limit_is_its_own_reason(stage: Stage) -> None:
    ending = stage.run("while :; do :; done", limits={"cpu_s": 1})

    assert (ending.state, ending.reason, ending.signal) == ("failed", "limit", 24)
    assert ending.user_s > 0


class StarvedHost(Host):
    """A host whose kernel kills something for want of memory each time one looks."""

    kills = 0

    def oom_kills(self) -> int:  # type: ignore[override]  # the real one needs no instance
        self.kills += 1
        return self.kills


def test_a_kill_for_want_of_memory_is_its_own_reason(stage: Stage) -> None:
    ending = run_script(StarvedHost(stage.host.root), stage.job("kill -9 $$"))

    assert (ending.state, ending.reason, ending.signal) == ("failed", "oom", 9)


def test_a_script_that_kills_its_supervisor_is_an_abort(stage: Stage) -> None:
    ending = stage.run("kill -9 $PPID; sleep 1000")

    assert (ending.state, ending.reason) == ("failed", "abort")
    assert ending.detail == "cannot say how '/state/it.sh' ended: its supervisor was killed"


@needs_root
def test_a_full_disk_costs_the_kept_output_and_nothing_else(stage: Stage) -> None:
    job = stage.job("head -c 100000 /dev/zero; exit 3")
    os.mknod(stage.host.files.real("/state/full"), 0o20600, os.makedev(1, 7))  # /dev/full

    ending = run_script(stage.host, job.replace(output="/state/full"))

    assert (ending.state, ending.exit_code, ending.out_bytes) == ("failed", 3, 100_000)
    assert ending.out_sha512 == hashlib.sha512(bytes(100_000)).hexdigest()
    assert ending.detail == "cannot keep the output of '/state/it.sh': No space left on device"


# ---- capture ----


@given(st.lists(st.tuples(st.integers(0, 3 * KEPT_BYTES), st.integers(0, 255)), max_size=6))
def test_what_is_kept_is_the_beginning_and_the_end(pieces: list[tuple[int, int]]) -> None:
    whole = b"".join(bytes([value]) * size for size, value in pieces)
    fd = os.memfd_create("capture")
    try:
        capture = Capture(fd, max_bytes=None)
        assert all(capture.take(bytes([value]) * size) for size, value in pieces)
        digest = capture.finish()
        kept = os.pread(fd, len(whole) + 100, 0)
    finally:
        os.close(fd)

    left_out = max(len(whole) - 2 * KEPT_BYTES, 0)
    marker = b"\n[contextagent: %d bytes left out here]\n" % left_out if left_out else b""
    assert kept == whole[:KEPT_BYTES] + marker + whole[max(KEPT_BYTES, len(whole) - KEPT_BYTES) :]
    assert digest == hashlib.sha512(whole).hexdigest()
    assert capture.size_bytes == len(whole)


def test_the_beginning_is_in_the_file_at_once(tmp_path: Path) -> None:
    """An agent that is killed leaves what its script had said so far."""
    with (tmp_path / "out").open("wb", buffering=0) as file:
        Capture(file.fileno(), max_bytes=None).take(b"so far\n")

        assert (tmp_path / "out").read_bytes() == b"so far\n"


def test_the_bound_counts_what_came_not_what_is_kept(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        capture = Capture(file.fileno(), max_bytes=4 * KEPT_BYTES)

        assert [capture.take(bytes(KEPT_BYTES)) for _ in range(5)] == [True, True, True, True, False]
