"""One script: started, bounded, captured, ended with all that it started; nothing that it does raises here."""

from __future__ import annotations

import errno
import os

from contextagent.errors import CannotWriteError, ContextAgentError
from contextagent.host import supervised
from contextagent.host.files import NEW, random_name
from contextagent.model import Ending, Value
from contextagent.runner.capture import Capture
from contextagent.runner.state import LENT, digest_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.host.supervised import Supervised
    from contextagent.model import EndReason, Limits, Profile, ScriptState

KILL_S = 15.0
"""For the supervisor to kill the tree and say so; then it is killed itself."""
SHELL = "/bin/sh"
"""Where copies for the unprivileged account stand, since it can't read the agent's own state."""
_SHEBANG_BYTES = 256
"""What the kernel itself reads of a script since Linux 5.1."""
_MAX_SCRIPT_BYTES = 1 << 40
_SIGKILL, _SIGXCPU = 9, 24


class Job(Value):
    """A script to run.

    Attributes:
        script: The staged copy, a path of the guest.
        argument: `start` or `stop`.
        folder: Its working folder, a path of the guest.
        environment: All of its environment.
        profile: Which rights it gets.
        account: Whose, for `unprivileged`; None: the agent's own.
        limits: Its bounds.
        output: Where its output is kept, a path of the guest.
        keep_daemons: Whether what it leaves behind lives on after exit code 0.
        oom_kills: The kernel's count of out-of-memory kills before it.
        grace_s: Seconds between TERM and KILL, when its time is over (context, section 5).
    """

    script: str
    argument: str
    folder: str
    environment: Mapping[str, str]
    profile: Profile
    account: Account | None
    limits: Limits
    output: str
    keep_daemons: bool
    oom_kills: int = 0
    grace_s: float = 10.0


class _CannotRunError(ContextAgentError):
    """The script could not be started."""


def run_script(host: Host, job: Job) -> Ending:
    """Run a script to its end and return how it ended.

    Whatever goes wrong, also on the agent's own side, is an `Ending`: a script never ends a phase.
    """
    started_ns = host.mono_ns()
    try:
        ending = _run(host, job)
    except (ContextAgentError, OSError, ValueError) as error:
        detail = str(error) if isinstance(error, _CannotRunError) else f"cannot run '{job.script}': {_cause(error)}"
        ending = Ending(state="failed", reason="abort", exit_code=None, signal=None, wall_s=0.0, detail=detail)
    return ending.replace(wall_s=(host.mono_ns() - started_ns) / 1e9, sha512_after=digest_of(host, job.script))


def _run(host: Host, job: Job) -> Ending:
    if job.profile == "guarded":
        return _refused(job, "profile 'guarded' is not yet supported")
    if job.account is not None and job.account.uid == 0:
        return _refused(job, f"account '{job.account.name}' is root")
    words = interpreter(job.script, next(host.files.chunks(job.script, max_bytes=_MAX_SCRIPT_BYTES), b""))
    script = job.script if job.account is None else _lend(host, job.script, job.account)
    try:
        output, problem = _open_output(host, job)
        try:
            ending = _supervise(host, job, [*words, host.files.real(script), job.argument], output)
        finally:
            os.close(output)
        return ending.replace(detail=problem) if problem and not ending.detail else ending
    finally:
        if script != job.script:
            host.files.remove(os.path.dirname(script))


def _open_output(host: Host, job: Job) -> tuple[int, str]:
    """Return where the output goes, and why it can't be kept: a full disk must not stop the site's scripts."""
    try:
        return host.files.open_new(job.output), ""
    except CannotWriteError as error:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), f"{error}, keeping none of the output"


def _refused(job: Job, cause: str) -> Ending:
    detail = f"cannot run '{job.script}': {cause}"
    return Ending(state="refused", reason="abort", exit_code=None, signal=None, wall_s=0.0, detail=detail)


def _supervise(host: Host, job: Job, argv: list[str], output: int) -> Ending:
    """Start the script, and see to its bounds until nothing of it is left."""
    limits = job.limits
    capture = Capture(output, max_bytes=limits.output_bytes)
    end_s = host.mono_ns() / 1e9 + limits.wall_s
    child = supervised.start(
        argv,
        job.environment,
        host.files.real(job.folder),
        account=job.account,
        limits=limits,
        keep_daemons=job.keep_daemons,
    )
    try:
        is_timeout = not child.pump(end_s, capture.take) and not capture.is_over_limit
        if is_timeout:
            child.terminate()
            child.pump(host.mono_ns() / 1e9 + job.grace_s, capture.take)
        if not child.is_over:
            child.kill()
            child.pump(host.mono_ns() / 1e9 + KILL_S, _drop)
    finally:
        child.close()
    digest = capture.finish()
    ending = _ending(job, child, argv[0])
    if is_timeout:
        ending = ending.replace(state="timeout", reason="timeout")
    elif capture.is_over_limit:
        ending = ending.replace(
            state="failed", reason="limit", detail=f"it wrote more than {limits.output_bytes} bytes"
        )
    elif ending.signal == _SIGKILL and ending.reason == "exit" and host.oom_kills() > job.oom_kills:
        ending = ending.replace(reason="oom")
    if child.has_own_pids:
        ending = ending.replace(box="pid-namespace")
    if capture.problem and not ending.detail:
        ending = ending.replace(detail=f"cannot keep the output of '{job.script}': {capture.problem}")
    return ending.replace(out_bytes=capture.size_bytes, out_sha512=digest)


def _drop(_data: bytes) -> bool:
    """Read on, so that the script's processes do not wait for a reader while they are being killed."""
    return True


def _ending(job: Job, child: Supervised, program: str) -> Ending:
    """Return what the supervisor said, as an ending."""
    result = child.result
    if result is None:
        return Ending(
            state="failed",
            reason="abort",
            exit_code=None,
            signal=None,
            wall_s=0.0,
            detail=f"cannot say how '{job.script}' ended: its supervisor was killed",
        )
    if isinstance(result, supervised.Refusal):
        raise _CannotRunError(f"cannot run '{job.script}': {_refusal(job, result, program)}")
    code = os.waitstatus_to_exitcode(result.wait_status)
    state: ScriptState = "ok" if code == 0 else "failed"
    is_cpu = job.limits.cpu_s is not None and result.user_s + result.sys_s >= job.limits.cpu_s
    reason: EndReason = "limit" if code == -_SIGXCPU or (code == -_SIGKILL and is_cpu) else "exit"
    return Ending(
        state=state,
        reason=reason,
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        wall_s=0.0,
        user_s=result.user_s,
        sys_s=result.sys_s,
        maxrss_bytes=result.maxrss_bytes,
        killed=result.killed,
    )


def _refusal(job: Job, refusal: supervised.Refusal, program: str) -> str:
    """Return why the kernel did not start it, naming what it is about."""
    cause = os.strerror(refusal.errno)
    if refusal.step == "folder":
        return f"its folder '{job.folder}': {cause}"
    if refusal.step != "program":
        return f"{refusal.step}: {cause}"
    if refusal.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"its interpreter '{program}' is not there"
    return f"its interpreter '{program}': {cause}"


def interpreter(script: str, first: bytes) -> list[str]:
    """Return what runs a script, by its first line, as the kernel reads it; so `noexec` does not matter.

    Raises:
        ContextAgentError: The line can't be followed; the writer's fault.
    """
    if first.startswith(b"\x7fELF"):
        raise _CannotRunError(f"cannot run '{script}': it is a compiled program, not a script")
    if not first.startswith(b"#!"):
        return [SHELL]
    line, end, _ = first[2:_SHEBANG_BYTES].partition(b"\n")
    if not end and len(first) > _SHEBANG_BYTES:
        raise _CannotRunError(f"cannot run '{script}': its first line is longer than {_SHEBANG_BYTES} bytes")
    if line.endswith(b"\r"):
        raise _CannotRunError(f"cannot run '{script}': its first line ends in CR LF (Windows line ends)")
    words = line.split(None, 1)
    if not words:
        raise _CannotRunError(f"cannot run '{script}': its first line names no interpreter")
    # one argument at most, blanks inside and all: that is the kernel's rule
    return [os.fsdecode(word.strip(b" \t")) for word in words]


def _lend(host: Host, script: str, account: Account) -> str:
    """Copy a script to where its account can read it and not write it; return the copy's path.

    Raises:
        CannotWriteError: It could not be copied.
    """
    lent = f"{host.run_folder}/{LENT}"
    folder = f"{lent}/{random_name(NEW)}"  # so that the next run sweeps up what a killed one leaves
    copy = f"{folder}/{os.path.basename(script)}"
    host.files.make_folder(lent, 0o711)
    try:
        host.files.make_folder(folder, 0o710, gid=account.gid)
        host.files.create(copy, host.files.chunks(script, max_bytes=_MAX_SCRIPT_BYTES), mode=0o440, gid=account.gid)
    except ContextAgentError:
        host.files.remove(folder)
        raise
    return copy


def _cause(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
