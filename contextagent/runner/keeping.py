"""The keeper's own work: make everything ready for one pilot, start it, mind it, and say how it ended.

This is a process of its own (`host.kept`), so it may wait: for a slow home, a credential to be parsed, a folder of
certificates on a network file system.  What it holds is given back when it ends, however it ends, and the pilot's tree
dies with it: its supervisor hears of the keeper's death by the end of a pipe.
"""

from __future__ import annotations

import os

from contextagent import jsontext
from contextagent.errors import CannotWriteError, ContextAgentError
from contextagent.host import Host, kept, supervised
from contextagent.host.accounts import Account
from contextagent.model import Limits
from contextagent.pilots.signals import number_of
from contextagent.runner import keeper
from contextagent.runner.capture import Capture
from contextagent.runner.keeper import ENDED, KILL, ORDER, STARTED, STOP, STOPPING, TAKEN, Order
from contextagent.runner.readying import ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from contextagent.host.supervised import Supervised
    from contextagent.runner.readying import Ready

_UNLIMITED = Limits(wall_s=0, cpu_s=None, memory_bytes=None, processes=None, files=None, output_bytes=None)
_START_STEP_S = 0.01
_COMMAND_STEP_S = 0.1
_KILL_S = 15.0
"""For the supervisor to kill the tree and say so; then it is killed itself."""
_FOREVER_S = 1e9
_MAX_ORDER_BYTES = 16 << 20


def main(words: Sequence[str]) -> None:
    """Be the keeper of the pilot that the words name: the machine's root, and its number."""
    import signal  # noqa: PLC0415  # a keeper's process alone

    host, number = Host(words[0]), int(words[1])
    place = keeper.folder(host, number)
    for each in (signal.SIGHUP, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: kept.order(host.files, place, STOP + b" signal") and None)
    kept.adopt_orphans()
    keep(host, number)
    kept.kill_orphans()  # none, but where the pilot's supervisor was killed and had no namespace to take with it


def keep(host: Host, number: int) -> None:
    """Do what the order says, to its end; whatever goes wrong is in what is written then."""
    place = keeper.folder(host, number)
    control, news = kept.hear_orders(host.files, place), kept.tell_news(host.files, place)
    try:
        ended = _keep(host, place, control, news)
    except (ContextAgentError, OSError, ValueError, KeyError, TypeError) as error:
        reason = error.reason if isinstance(error, ContextAgentError) else "abort"
        cause = error.strerror or error if isinstance(error, OSError) else error
        detail = str(error) if isinstance(error, ContextAgentError) else f"cannot start the pilot: {cause}"
        ended = {"reason": reason, "detail": detail}
    try:
        _write(host, f"{place}/{ENDED}", ended)
    finally:
        os.close(control)
        os.close(news)


def _keep(host: Host, place: str, control: int, news: int) -> dict[str, Any]:
    order = Order(**jsontext.loads(host.files.read(f"{place}/{ORDER}", max_bytes=_MAX_ORDER_BYTES)))
    _write(host, f"{place}/{TAKEN}", {"keeper": os.getpid()})
    host.files.remove(f"{place}/{ORDER}")  # it may hold what nobody else is to read
    account = None if order.account is None else Account(**order.account)
    made = ready(host, order, account)
    output = _open_log(host, order.log)
    try:
        return _Minding(host, order, account, made, Capture(output, max_bytes=None)).mind(place, control, news)
    finally:
        os.close(output)
        made.close()


def _open_log(host: Host, path: str) -> int:
    """Return where the output goes; the log of the attempt before stays beside it."""
    if host.files.exists(path):
        host.files.rename(path, f"{path.removesuffix('.log')}.previous.log")
    try:
        return host.files.open_new(path)
    except ContextAgentError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # a full disk keeps no output, but pilots may work


def _write(host: Host, path: str, what: dict[str, Any]) -> None:
    host.files.write(path, jsontext.dumps(what).encode() + b"\n")


class _Minding:
    """One pilot from its start to its end."""

    def __init__(self, host: Host, order: Order, account: Account | None, made: Ready, capture: Capture) -> None:
        self._host = host
        self._order = order
        self._account = account
        self._made = made
        self._capture = capture
        self._began_s = self._now_s()
        self._stopped = ""
        self._kill_s = self._refresh_s = self._began_s + _FOREVER_S
        self._command: Supervised | None = None
        self._refusal = ""
        self._control = -1

    def _now_s(self) -> float:
        return self._host.mono_ns() / 1e9

    def mind(self, place: str, control: int, news: int) -> dict[str, Any]:
        """Start the pilot, and return how it ended, once nothing of it is left."""
        child = self._start()
        self._control = control
        try:
            child.listen(control)
            while not (child.is_started or child.is_over):
                child.pump(self._now_s() + _START_STEP_S, self._capture.take)
            if not isinstance(child.result, supervised.Refusal):  # also of one that has ended by now
                self._say_started(child, place, news)
            while not child.is_over:
                child.pump(self._next_s(), self._capture.take)
                for line in kept.take_orders(control):
                    self._obey(line, child, place, news)
                self._do_what_is_due(child)
            child.listen(control, is_on=False)
        finally:
            self._end_command()
            child.close()
        return self._ending(child)

    def _start(self) -> Supervised:
        pilot = self._order.pilot
        if self._made.refresh_s:
            self._refresh_s = self._began_s + self._made.refresh_s
        self._signal = number_of(pilot.get("stop.signal") or "TERM")
        return self._run(self._made.argv, is_command=False)

    def _run(self, argv: tuple[str, ...], *, is_command: bool) -> Supervised:
        return supervised.start(
            argv,
            self._made.environment,
            self._host.files.real(self._order.workdir),
            account=self._account,
            limits=_UNLIMITED,
            keep_daemons=False,
            may_gain=True,
            box="none" if is_command else "account" if self._order.is_alone else "pids",
        )

    def _say_started(self, child: Supervised, place: str, news: int) -> None:
        timeout_s = self._order.pilot["stop.timeout_s"]
        box = "pid-namespace" if child.has_own_pids else "tree"
        said = {"pid": child.main_pid or None, "supervisor": child.supervisor_pid, "box": box, "stop_s": timeout_s}
        whose: dict[str, Any] = {"workdir": self._order.workdir, "account": None, "uid": self._host.caller()[0]}
        if self._account:
            whose.update(account=self._account.name, uid=self._account.uid)
        _write(
            self._host, f"{place}/{STARTED}", {**said, **whose, "keeper": os.getpid(), "program": self._made.argv[0]}
        )
        _tell(news)

    def _next_s(self) -> float:
        next_s = min(self._kill_s, self._refresh_s)
        return min(next_s, self._now_s() + _COMMAND_STEP_S) if self._command else next_s

    def _obey(self, line: bytes, child: Supervised, place: str, news: int) -> None:
        word, _, why = line.partition(b" ")
        if word == KILL:
            self._stopped = self._stopped or "killed"
            self._kill_s = self._now_s()
        elif word == STOP and not self._stopped:
            self._stopped = why.decode("ascii", "replace") or "asked"
            self._kill_s = self._now_s() + self._order.pilot["stop.timeout_s"]
            try:
                _write(self._host, f"{place}/{STOPPING}", {"why": self._stopped})
            except CannotWriteError:
                pass  # a full disk keeps no pilot from being stopped in order
            _tell(news)
            self._begin_stop(child)

    def _begin_stop(self, child: Supervised) -> None:
        """Run the stop command where there is one, or send the signal."""
        if not self._made.stop_argv:
            child.signal(self._signal)
            return
        try:
            self._command = kept.inside(
                child.supervisor_pid if child.has_own_pids else 0,
                lambda: self._run(self._made.stop_argv, is_command=True),
            )
        except OSError:
            child.signal(self._signal)

    def _do_what_is_due(self, child: Supervised) -> None:
        if self._command and self._command.pump(self._now_s() + 0.001, lambda _: True):
            self._hear_command(self._command, child)
        if self._now_s() >= self._kill_s and not child.is_over:
            child.listen(self._control, is_on=False)  # whatever is still asked comes too late
            child.kill()
            child.pump(self._now_s() + _KILL_S, lambda _: True)
            self._kill_s = self._began_s + _FOREVER_S
            if not child.is_over:
                child.is_over = True  # `close` kills the supervisor, and with it the namespace or the session
        if self._now_s() >= self._refresh_s:
            self._refresh_s = self._now_s() + self._made.refresh_s
            self._refusal = self._made.refresh()

    def _hear_command(self, command: Supervised, child: Supervised) -> None:
        """Send the signal after all where the command failed; one that worked is given time to take effect."""
        report = command.result
        has_worked = isinstance(report, supervised.Report) and report.wait_status == 0
        self._end_command()
        if not has_worked and not child.is_over:
            child.signal(self._signal)

    def _end_command(self) -> None:
        if self._command:
            self._command.close()
            self._command = None

    def _ending(self, child: Supervised) -> dict[str, Any]:
        digest = self._capture.finish()
        ended: dict[str, Any] = {
            "stopped": self._stopped,
            "wall_s": round(self._now_s() - self._began_s, 3),
            "out_bytes": self._capture.size_bytes,
            "out_sha512": digest,
            "credential": self._refusal,
        }
        result = child.result
        if result is None:
            return {
                **ended,
                "reason": "abort",
                "detail": "its supervisor was killed",
                "exit_code": None,
                "signal": None,
            }
        if isinstance(result, supervised.Refusal):
            program, cause = self._made.argv[0], os.strerror(result.errno)
            what = f"its program '{program}'" if result.step == "program" else f"its {result.step}"
            return {"reason": "not-startable", "detail": f"cannot start the pilot: {what}: {cause}"}
        code = os.waitstatus_to_exitcode(result.wait_status)
        return {
            **ended,
            "reason": "exit",
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "user_s": round(result.user_s, 3),
            "sys_s": round(result.sys_s, 3),
            "maxrss_bytes": result.maxrss_bytes,
            "killed": result.killed,
        }


def _tell(news: int) -> None:
    """Say that there is something new; a pipe that is full of such has been heard of anyway."""
    try:
        os.write(news, b".")
    except BlockingIOError:
        return
