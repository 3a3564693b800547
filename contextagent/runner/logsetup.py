"""Logging set up for the site: told to the daemons before anybody's scripts, and again after the user's.

Nothing here waits for a daemon or a collector longer than a boot would bear: a log daemon that hangs, is absent or is
being restarted costs seconds at most, and the site's scripts run whatever becomes of it (docs/reference/logging.md).
"""

from __future__ import annotations

import time

from contextagent.collectors import DAEMONS, load
from contextagent.errors import ContextAgentError
from contextagent.host import daemons
from contextagent.model import Problem
from contextagent.runner import logfiles, logpositions
from contextagent.runner.logdelivery import Delivery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from contextagent.collectors import Target
    from contextagent.host import Host
    from contextagent.model import Step
    from contextagent.runner.journal import Journal

COMMAND_S = 10
"""For a command that only asks for a restart; then it is killed, and the boot goes on."""
COME_UP_S = 3.0
"""For a daemon to be there after it was asked to restart."""
POLL_S = 0.02
PASSING_S = 0.1
"""For a daemon that was asked to end by who has root's rights: it takes its time, and is to be seen to be gone."""
_RESTARTS = frozenset(("restart", "try-restart", "condrestart", "start"))
"""Words of a command by which a daemon begins anew."""


class LogSetup:
    """The log daemons of one phase, told by steps: `first` before anybody's scripts, `again` after the user's.

    `again-after-root` follows scripts that could do anything, `delivered` ends a phase, `flush` the stop phase.

    Args:
        host: The machine.
        journal: Where everything is recorded.
        known: `State.logging`, as the phase before left it.

    Attributes:
        known: The same, as this phase leaves it.
        problems: What went wrong: the result is not `ok`.
        warnings: What was noticed and mended.
    """

    def __init__(self, host: Host, journal: Journal, known: Mapping[str, Any]) -> None:
        self._host = host
        self._journal = journal
        self._delivery: Delivery | None = None
        mine = {name: {**each, "asked_ns": 0} for name, each in known.get("daemons", {}).items()}
        self.known: dict[str, Any] = {"targets": [], "delivered": "none", **known, "daemons": mine}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def take(self, step: Step) -> None:
        """Take one step of kind `reload`; whatever comes of it, the next one is taken."""
        if step.argument not in ("delivered", "flush"):
            tell = {"first": self._tell, "withdraw": self._withdraw}.get(step.argument, self._tell_again)
            if step.argument == "again-after-root" and not self._host.is_caller:
                time.sleep(PASSING_S)
            for told in step.told:
                try:
                    tell(told, step)
                except (OSError, ContextAgentError) as error:
                    self._fail(told, error)
                    self._try_to_forget(told, step)
            return
        try:
            self._end(step)
        except (OSError, ContextAgentError) as error:  # such as a machine that has no process left to give
            message = f"cannot find out where the logs go: {getattr(error, 'strerror', None) or error}, going on"
            self.problems.append(Problem(reason="logging-failed", message=message))

    def _end(self, step: Step) -> None:
        """Find out, after everybody's scripts, how far the logs go; at a stop, wait for them."""
        self._settle(step.told)
        self._look_again(step.told)
        delivery = self._delivery = Delivery(self._host, self._journal, self.known, step.told)
        try:
            if step.argument == "flush":
                if delivery.is_tls_mended():
                    self._send_again(step.told)
                delivery.flush()
            else:
                delivery.find_out(wanted=step.lines, barred=step.content, is_network=step.phase != "pre-network")
        finally:
            self.problems += delivery.problems

    def flush_rest(self) -> str:
        """Return, once the trace has its last record, how far it got on its way; empty where nothing is to be said."""
        try:
            return self._delivery.flush_rest() if self._delivery else ""
        except OSError as error:
            return f"cannot find out where it is: {error.strerror or error}"

    def _tell(self, told: Target, step: Step) -> None:
        """Tell a daemon before anybody's scripts run."""
        mine = self._mine(told)
        if mine.get("refused") == step.sha512:  # it was said already
            self._try_to_forget(told, step)
            return
        mine["wanted"] = step.sha512
        mine["ran"] = bool(self._running(told))
        if not mine["ran"] and not self._host.is_caller:
            logpositions.forget_positions(self._host, told)
        if logfiles.is_in_place(self._host, told):
            reason = f"{told.daemon}: as it was"
        else:
            self._install(told)
            reason = f"{told.daemon}: written"
        mine["sha512"], mine["marks"] = step.sha512, logfiles.marks_of(self._host, told)
        mine["others"] = self._others(told)
        logfiles.remember(self._host, told, is_placed=True)
        if step.phase != "pre-network" and self._is_due(told):
            self._command(told, told.take_up)
            mine["ran"] = True
            reason += ", taken up"
        self._record(told, reason)

    def _withdraw(self, told: Target, step: Step) -> None:
        """Take back what an earlier boot told a daemon, since nobody asks for it any more."""
        mine = self._mine(told)
        if logfiles.take_back(self._host, told):
            mine["written_ns"] = self._host.mono_ns()
            self._journal.record("logging", targets=[], delivered="none", reason=f"{told.daemon}: withdrawn")
        self._forget(told, step)

    def _try_to_forget(self, told: Target, step: Step) -> None:
        """Do as `_forget`, as far as the disk lets it."""
        try:
            self._forget(told, step)
        except ContextAgentError:
            return  # the next boot finds the same, and tries again

    def _forget(self, told: Target, step: Step) -> None:
        """Let a daemon that runs with what is not in place any more begin anew; before the network it is left alone.

        Raises:
            CannotWriteError: It can't be written down that this was done.
        """
        if step.phase == "pre-network" or told.daemon not in logfiles.placed(self._host):
            return
        found = self._running(told)
        if found and all(each.start_ns < self._mine(told).get("written_ns", 0) for each in found):
            self._command(told, told.take_up)
        logfiles.remember(self._host, told, is_placed=False)

    def _tell_again(self, told: Target, step: Step) -> None:
        """Compare after the user's scripts, and put back what they took away, before the site's run."""
        mine = self._mine(told)
        if mine.get("sha512") != step.sha512:
            return  # it was refused, or could not be written
        self._wait_for(told, since_ns=mine.get("asked_ns", 0))
        self._tell_of_others(told)
        found = logfiles.differences(self._host, told, mine["marks"])
        if mine["ran"] and not self._running(told):
            found.append(f"'{told.process}' was stopped")
        if not found:
            return
        reason = f"{', '.join(found)} while the user's scripts ran"
        self.warnings.append(Problem(reason="logging-changed", message=f"{reason}, putting it back"))
        self._record(told, f"{told.daemon}: {reason}")
        logfiles.clear(self._host, told)
        self._install(told)
        mine["marks"] = logfiles.marks_of(self._host, told)
        if mine["ran"]:
            self._command(told, told.bring_back or told.take_up)
            if not self._wait_for(told, since_ns=mine.get("asked_ns", 0)):
                mine["asked_ns"], mine["ran"] = 0, False  # and not because of what it was told
                message = f"cannot start '{told.process}' again: it is not there after {COME_UP_S:g} s"
                self.problems.append(Problem(reason="logging-failed", message=f"{message}, going on without it"))

    def _look_again(self, every: Sequence[Target]) -> None:
        """Bring back, once more, what ran before anybody's scripts and does not now, unless the site's own ended it.

        The user's could have ended it slowly; which it was, nobody knows, and the site can say so in its settings.
        """
        for told in every:
            mine = self._mine(told)
            if mine.get("sha512") and mine["ran"] and told.sends and not self._running(told) and not mine["asked_ns"]:
                reason = f"'{told.process}' was stopped"
                message = f"{reason} while scripts ran, starting it again"
                self.warnings.append(Problem(reason="logging-changed", message=message))
                self._record(told, f"{told.daemon}: {reason}")
                self._command(told, told.bring_back or told.take_up)
                self._wait_for(told, since_ns=mine.get("asked_ns", 0))

    def _others(self, told: Target) -> dict[str, list[int]]:
        """Return the marks of the rest of a daemon's configuration, and of the program that runs."""
        watched = load(told.daemon).ASKED if told.daemon in DAEMONS else ()
        marks = logfiles.neighbours(self._host, told, watched)
        gone = [each.pid for each in self._running(told) if daemons.is_program_gone(each.pid)]
        return {**marks, f"the program of {told.process}": gone}

    def _tell_of_others(self, told: Target) -> None:
        """Say what the user's scripts did to the rest of a daemon's configuration; it is not ours to put back."""
        now = self._others(told)
        found = logfiles.strangers(self._mine(told).get("others", {}), now)
        self._mine(told)["others"] = now
        if found:
            reason = f"{', '.join(found)} while the user's scripts ran"
            self.warnings.append(Problem(reason="logging-changed", message=f"{reason}, leaving it as it is"))
            self._record(told, f"{told.daemon}: {reason}")

    def _send_again(self, every: Sequence[Target]) -> None:
        """Let each daemon that keeps positions begin anew without them; ending in order, it would write them again."""
        for told in (each for each in every if each.positions and self._mine(each).get("sha512")):
            daemons.kill(self._running(told))
            self._command(told, told.bring_back)
            self._wait_for(told, since_ns=self._mine(told)["asked_ns"])

    def _install(self, told: Target) -> None:
        """Write a daemon's files.

        Raises:
            ContextAgentError: They are not taken, or can't be written.
        """
        mine = self._mine(told)
        foreign = logfiles.install(self._host, told)
        mine["written_ns"] = self._host.mono_ns()
        if foreign:
            message = (
                f"'{told.daemon}' does not accept the image's own configuration: {foreign}, adding ours all the same"
            )
            self.warnings.append(Problem(reason="logging-image", message=message))

    def _settle(self, every: Sequence[Target]) -> None:
        """See that each daemon that was asked to restart is there again; else it gets its own configuration back."""
        for told in every:
            mine = self._mine(told)
            is_there, mine["asked_ns"] = self._wait_for(told, since_ns=mine.get("asked_ns", 0)), 0
            if is_there:
                continue
            if self._running(told):
                message = f"'{told.process}' was not restarted within {COME_UP_S:g} s, what it is told waits for that"
                self.warnings.append(Problem(reason="logging-command", message=message))
                continue
            logfiles.take_back(self._host, told)
            self._command(told, told.bring_back or told.take_up)
            message = f"cannot set up '{told.daemon}': it does not come up with what it is told"
            self._fail(told, logfiles.RefusedFilesError(message))

    def _fail(self, told: Target, error: OSError | ContextAgentError) -> None:
        """Say that a daemon is not told."""
        mine = self._mine(told)
        if isinstance(error, OSError):
            error = logfiles.failed(told, error)
        if error.reason == logfiles.RefusedFilesError.reason:
            mine["refused"] = mine["wanted"]
        mine.pop("sha512", None)
        mine["written_ns"] = self._host.mono_ns()
        self._record(told, str(error))
        self.problems.append(Problem(reason=error.reason, message=f"{error}, going on without its logs"))

    def _is_due(self, told: Target) -> bool:
        """Return whether the daemon has yet to take its files up: it runs since before they were last written.

        One that does not run will read them when it starts, unless nobody but the site starts it.
        """
        mine = self._mine(told)
        written_ns = mine.get("written_ns") or logfiles.changed_ns(self._host, told)
        if self._host.is_caller or mine.get("taken_ns", 0) > written_ns:
            return False
        found = self._running(told)
        return all(each.start_ns < written_ns for each in found) if found else told.take_up == told.bring_back

    def _command(self, told: Target, argv: Sequence[str]) -> None:
        """Run a command that makes a daemon take its files up; it is not waited for longer than it takes to ask."""
        mine = self._mine(told)
        mine["taken_ns"] = self._host.mono_ns()
        if not argv or self._host.is_caller:
            return
        # whoever only reads its files again does not begin anew
        mine["asked_ns"] = mine["taken_ns"] if _RESTARTS & set(argv) else 0
        logpositions.forget_positions(self._host, told)
        done = self._host.run(argv, timeout_s=COMMAND_S)
        if not done.is_ok:
            said = " ".join(done.text().split())[-200:] or (
                "it took too long" if done.is_timeout else "it says nothing"
            )
            message = f"cannot run '{' '.join(argv)}': {said}, going on"
            self.warnings.append(Problem(reason="logging-command", message=message))

    def _wait_for(self, told: Target, *, since_ns: int) -> bool:
        """Return whether the daemon runs and began after a moment, waiting at most until `COME_UP_S` after that."""
        if not since_ns or self._host.is_caller:
            return True
        end_ns = since_ns + int(COME_UP_S * 1e9)
        grain_ns = 10**7  # of /proc: a daemon looks up to this much older than it is
        while not any(each.start_ns + grain_ns >= since_ns for each in self._running(told)):
            if self._host.mono_ns() >= end_ns:
                return False
            time.sleep(POLL_S)
        return True

    def _running(self, told: Target) -> tuple[daemons.Running, ...]:
        return () if self._host.is_caller else daemons.running(told.process)

    def _mine(self, told: Target) -> dict[str, Any]:
        """Return what is known of one daemon, to be changed in place."""
        mine: dict[str, Any] = self.known["daemons"].setdefault(told.daemon, {})
        return mine

    def _record(self, told: Target, reason: str) -> None:
        delivered = "configured" if self._mine(told).get("sha512") and told.sends else "no"
        targets = [f"{told.daemon} {place}" for place in told.sends]
        self._journal.record("logging", targets=targets, delivered=delivered, reason=reason)
