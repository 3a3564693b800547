"""One phase, step by step: what the plan says is done, timed, traced and reported.

Nothing that a step does ends the phase: a script that fails, hangs or is refused is one line of the report, and the
next step is taken.  The site's steps do not depend on the user's.
"""

from __future__ import annotations

from contextagent.digests import sha512_hex
from contextagent.errors import ContextAgentError
from contextagent.model import Problem
from contextagent.runner.folders import WORKING, parked
from contextagent.runner.script import Job, run_script
from contextagent.runner.state import digest_of, instance_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from contextagent.host import Host
    from contextagent.model import Ending, Owner, Plan, ScriptState, Step
    from contextagent.runner.folders import Folders
    from contextagent.runner.journal import Journal
    from contextagent.runner.logsetup import LogSetup
    from contextagent.runner.outputs import Outputs
    from contextagent.runner.surroundings import Surroundings

VETO_EXIT = 100
"""A site script that ends so vetoes the pilot, and is `ok` (cli reference, exit codes)."""
EPILOG = "epilog.sh"
"""What a user's script leaves in its folder to have it started as a pilot; one that came by that name is a script."""
OWN_NAMES = ("CONTEXTAGENT_PHASE", "CONTEXTAGENT_OWNER", "CONTEXTAGENT_CONTEXT_DIR")
"""Variables that a script has beside its owner's."""


class PhaseRun:
    """The execution of one phase's plan.

    Args:
        host: The machine.
        journal: Where everything is recorded before and after it happens.
        folders: The owners' working folders.
        around: What it runs with.
        begun: What an agent that was killed in this phase had begun: how it ended, by id; None where it did not.
        remember: Called with a step when its `start` could not be made durable in the trace; returns whether it is
            remembered otherwise. A `once` step that nobody could remember does not run.
        tell: Called with the reports so far after each script, to publish progress.
        logging: What is known of the log daemons (`State.logging`).
    """

    def __init__(  # the phase's whole surroundings, by keyword
        self,
        *,
        host: Host,
        journal: Journal,
        folders: Folders,
        around: Surroundings,
        begun: Mapping[str, Ending | None],
        remember: Callable[[Step], bool],
        tell: Callable[[list[dict[str, Any]]], None],
        logging: Mapping[str, Any] | None = None,
    ) -> None:
        self._host = host
        self._journal = journal
        self._folders = folders
        self._around = around
        self._begun = begun
        self._remember = remember
        self._tell = tell
        self._oom_kills = host.oom_kills()
        self.reports: list[dict[str, Any]] = []
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.logging = logging or {}
        self.logs: LogSetup | None = None
        self._outputs: Outputs | None = None
        self.once: dict[str, tuple[str, str]] = {}

    def run(self, plan: Plan) -> None:
        """Take every step of the plan; what happened is in `reports`, `problems` and `once` afterwards."""
        deadline_ns = self._host.mono_ns() + int(self._around.budget_s * 1e9)
        for step in plan.steps:
            skip = step.skip or ("budget" if self._host.mono_ns() >= deadline_ns else None)
            if step.kind == "pilot":
                deadline_ns += self._mind_pilot(step)
            elif step.argument == "features":
                self._publish(step)
            elif step.kind == "reload":
                self._log_setup().take(step)
            elif step.kind != "script":
                self._place(step, skip)
            elif skip == "done" and (ending := self._begun.get(step.id)):
                self._report_ending(step, ending)
            elif skip:
                self.report(step, "interrupted" if skip == "interrupted" else "skipped", reason=skip)
            else:
                self._run_script(step, deadline_ns)
                self._tell(self.reports)
        if plan.phase == "post-network":
            self._look_for_pilot(plan)
        self._close()

    def _close(self) -> None:
        """Let go of what only some phases need, and keep what it knows."""
        if self._outputs:
            self._outputs.close()
        if self.logs:
            self.logging = self.logs.known
            self.problems += self.logs.problems
            self.warnings += self.logs.warnings

    def _mind_pilot(self, step: Step) -> int:
        """Mark the pilot as wanted, or stop it; return how long that took, which is not the scripts' time."""
        from contextagent.runner import pilotsteps  # noqa: PLC0415  # most machines have no pilot

        began_ns = self._host.mono_ns()
        try:
            if step.argument == "stop":
                self.problems += pilotsteps.stop(self._host, self._journal)
            else:
                pilotsteps.mark(self._host, step, self._folders)
        except ContextAgentError as error:
            self.problems.append(Problem(reason=error.reason, message=f"{error}, going on without the pilot"))
        return self._host.mono_ns() - began_ns

    def _look_for_pilot(self, plan: Plan) -> None:
        """Say so where the user's scripts left what would be a pilot, and nothing lets it be one."""
        names = {step.name for step in plan.steps if step.kind == "script" and step.owner == "user"}
        if not names or EPILOG in names or any(step.kind == "pilot" and step.owner == "user" for step in plan.steps):
            return
        if self._host.files.exists(f"{self._folders.place('user')}/{EPILOG}"):
            from contextagent.runner import pilotsteps  # noqa: PLC0415  # see above

            self.warnings += pilotsteps.left_alone(self._host, self._folders)

    def _publish(self, step: Step) -> None:
        """Publish features, and say what was not as it had been left; what can't be written ends nothing else."""
        from contextagent.runner import publishing  # noqa: PLC0415  # a boot without a context publishes nothing

        done = publishing.take(self._host, self._journal, step)
        self.problems += done.problems
        self.warnings += done.warnings

    def _log_setup(self) -> LogSetup:
        """Return what sets the log daemons up; most boots do without."""
        if self.logs is None:
            from contextagent.runner.logsetup import LogSetup  # noqa: PLC0415  # see above

            self.logs = LogSetup(self._host, self._journal, self.logging)
        return self.logs

    def report(self, step: Step, state: ScriptState, *, reason: str = "", ending: Ending | None = None) -> None:
        """Add one script's line to the reports (keys as in status.json)."""
        self.reports.append(
            {
                "id": step.id,
                "owner": step.owner,
                "phase": step.phase,
                "name": step.name,
                "sha512": step.sha512,
                "profile": step.profile,
                "state": state,
                "exit_code": ending.exit_code if ending else None,
                "signal": ending.signal if ending else None,
                "duration_s": round(ending.wall_s, 3) if ending else None,
                "late": step.late,
                "output": self._output(step) if ending else None,
                "reason": reason or None,
                "on_error": step.on_error,
            }
        )

    def _output(self, step: Step) -> str:
        return f"{instance_folder(self._around.instance_id)}/output/{step.id}.log"

    def _place(self, step: Step, skip: str | None) -> None:
        """Put a file or an account's keys in place; a failure is named and ends nothing else."""
        if skip:
            return
        from contextagent.runner import place  # noqa: PLC0415  # most boots place nothing

        try:
            placed = place.take(self._host, step, self._around.instance_id, self._around.accounts[step.owner])
        except ContextAgentError as error:
            self._refuse(step, error.reason, str(error))
            return
        except OSError as error:  # such as a folder or a loop of links where the owner wants a file
            self._refuse(step, "cannot-write", f"cannot write '{step.target}': {error.strerror or error}")
            return
        self._journal.record(placed.event, id=step.id, **placed.facts)
        if step.frequency == "once":
            self.once[step.id] = (step.sha512, "done")

    def _refuse(self, step: Step, reason: str, message: str) -> None:
        self._journal.record("refuse", id=step.id, owner=step.owner, result="refused", reason=reason)
        self.problems.append(Problem(reason=reason, message=f"{message}, going on without it"))

    def _run_script(self, step: Step, deadline_ns: int) -> None:
        try:
            folder = self._enter(step.owner)
        except ContextAgentError as error:
            self.problems.append(Problem(reason=error.reason, message=str(error)))
            self.report(step, "refused", reason=error.reason)
            return
        job = self._job(step, folder, deadline_ns)
        if step.profile == "unprivileged" and job.account is None:
            self.report(step, "refused", reason="no-account")
            return
        if self._is_changed(step, job):
            self._refuse(step, "changed", f"cannot run '{step.id}': it is not what was staged")
            self.report(step, "refused", reason="changed")
            return
        is_durable = self._journal.record("start", **self._start_facts(step, job))
        if not is_durable and step.frequency == "once" and not self._remember(step):
            self.report(step, "skipped", reason="not-recordable")
            return
        ending = run_script(self._host, job)
        # durable with the next record, which is durable before anything else runs
        self._journal.record("end", is_durable=False, **_end_facts(step, ending))
        if ending.reason == "oom":
            self._oom_kills = self._host.oom_kills()
        self._report_ending(step, ending)
        if ending.out_bytes and step.owner in self._around.in_syslog:
            self._copy_output(step)
        if step.frequency == "once" and ending.has_run:
            self.once[step.id] = (step.sha512, "done")

    def _copy_output(self, step: Step) -> None:
        """Send the end of a script's output to syslog, where there is one."""
        if not self._host.files.exists("/dev/log"):
            return
        if self._outputs is None:
            from contextagent.runner.outputs import Outputs  # noqa: PLC0415  # most boots have nothing to send

            self._outputs = Outputs(self._host, self._around.environment.values())
        self._outputs.copy(step.id, self._output(step))

    def _is_changed(self, step: Step, job: Job) -> bool:
        """Whether a script is not what was staged: whoever runs with root's rights, or the caller's, could reach it."""
        is_in_reach = self._around.accounts["user"] is None
        return is_in_reach and digest_of(self._host, job.script) not in ("", step.sha512)

    def _report_ending(self, step: Step, ending: Ending) -> None:
        self.report(step, "ok" if _is_veto(step, ending) else ending.state, reason=_reason(step, ending), ending=ending)

    def _enter(self, owner: Owner) -> str:
        """Return the folder that the owner's scripts run in, now that it is theirs.

        Raises:
            CannotWriteError: It can't be had; root's own scripts then run in the parked one instead.
        """
        try:
            self._folders.enter(owner)
        except ContextAgentError as error:
            if self._around.accounts[owner] is not None:
                raise
            self.problems.append(
                Problem(reason=error.reason, message=f"{error}, running the scripts where it is parked")
            )
            return parked(self._around.instance_id, owner)
        return WORKING

    def _job(self, step: Step, folder: str, deadline_ns: int) -> Job:
        limits = step.limits
        if limits is None:
            message = f"{step.id} has no limits"
            raise TypeError(message)
        left_s = max((deadline_ns - self._host.mono_ns()) / 1e9, 0.001)
        return Job(
            script=f"{instance_folder(self._around.instance_id)}/{step.content}",
            argument=step.argument,
            folder=folder,
            environment={
                **self._around.environment[step.owner],
                **dict(zip(OWN_NAMES, (step.phase, step.owner, self._host.files.real(folder)), strict=True)),
            },
            profile=step.profile,
            account=self._around.accounts[step.owner],
            limits=limits.replace(wall_s=min(limits.wall_s, left_s)),
            output=self._output(step),
            oom_kills=self._oom_kills,
            keep_daemons=step.owner == "site" and step.daemons == "keep",
        )

    def _size(self, script: str) -> int:
        try:
            return self._host.files.size(script)
        except OSError:
            return 0  # a script with root's rights took it away; the attempt to run it says so

    def _start_facts(self, step: Step, job: Job) -> dict[str, Any]:
        uid, gid = self._host.caller() if job.account is None else (job.account.uid, job.account.gid)
        environment = "".join(f"{name}={value}\0" for name, value in sorted(job.environment.items()))
        return {
            "id": step.id,
            "sha512": step.sha512,
            "bytes": self._size(job.script),
            "uid": uid,
            "gid": gid,
            "caps": "all" if uid == 0 else "none",
            "profile": step.profile,
            "wished": step.profile,
            "argv": [job.script, job.argument],
            "env_sha512": sha512_hex(environment.encode("utf-8", "surrogateescape")),
            "late": step.late,
        }


def _end_facts(step: Step, ending: Ending) -> dict[str, Any]:
    return {
        "id": step.id,
        "exit": ending.exit_code,
        "signal": ending.signal,
        "reason": ending.reason,
        "wall_s": round(ending.wall_s, 3),
        "user_s": round(ending.user_s, 3),
        "sys_s": round(ending.sys_s, 3),
        "maxrss_bytes": ending.maxrss_bytes,
        "out_bytes": ending.out_bytes,
        "out_sha512": ending.out_sha512,
        "killed": ending.killed,
        "sha512_after": ending.sha512_after,
        "box": ending.box,
    }


def _is_veto(step: Step, ending: Ending) -> bool:
    return step.owner == "site" and ending.exit_code == VETO_EXIT


def _reason(step: Step, ending: Ending) -> str:
    """Return why a script is not simply `ok`, in words that name what to change."""
    if _is_veto(step, ending):
        return "vetoes the pilot"
    if ending.state == "ok":
        return ""
    said = ending.detail or (ending.reason if ending.reason != "exit" else "")
    if step.profile == "unprivileged" and ending.state == "failed":
        hint = "ran without root's rights: profile 'unprivileged', set by 'user.profile' in the image's policy"
        return f"{said}; {hint}" if said else hint
    return said
