"""How far the logs go, found out and never guessed; and, when the machine stops, the last of them sent."""

from __future__ import annotations

import time

from contextagent.collectors import SCRIPT_TAG
from contextagent.host import daemons
from contextagent.model import Problem
from contextagent.runner.journal import trace_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from contextagent.collectors import Endpoint, Target
    from contextagent.host import Host
    from contextagent.runner.journal import Journal

REACH_S = 0.8
"""For all collectors together: with the start of the children that try them it is a second of the boot."""
FLUSH_S = 5.0
POLL_S = 0.02


class Delivery:
    """What is known of the delivery of one boot's logs.

    Args:
        host: The machine.
        journal: The trace.
        known: `State.logging`, changed in place.
        told: What the daemons were told in this phase, or would be.
    """

    def __init__(self, host: Host, journal: Journal, known: dict[str, Any], told: Sequence[Target]) -> None:
        self._host = host
        self._journal = journal
        self._known = known
        self._told = [each for each in told if known["daemons"].get(each.daemon, {}).get("sha512")]
        self._is_any_able = any(each.sends for each in told)
        self.problems: list[Problem] = []

    def find_out(self, *, wanted: Sequence[str], barred: str = "", is_network: bool) -> None:
        """Find out how far the logs go, and put it into the trace and into what is known.

        Args:
            wanted: Where the site wants logs sent; empty where it only wants more of them.
            barred: Why they can't be sent there whatever the daemons do; said already.
            is_network: Whether there is a network by now.
        """
        sending = [each for each in self._told if each.sends]
        delivered, reason = "configured", ""
        if not wanted:
            delivered, reason = "none", "no collector is named"
        elif not sending:
            reason = barred or "no log daemon of this machine can send them"
            delivered = "no"
            if self._is_any_able:
                reason = "no log daemon has taken what it is to be told"  # which was said already
            elif not barred:
                message = f"cannot send logs to '{' '.join(wanted)}': {reason}, going on without"
                self.problems.append(Problem(reason="logging-none", message=message))
        elif self._journal.is_full:
            delivered, reason = "no", "the trace can't be written here"
            self.problems.append(Problem(reason="logging-none", message=f"cannot send the trace: {reason}, going on"))
        elif self._host.is_caller:
            reason = "below another root no daemon is asked, and no collector tried"
        elif not is_network:
            reason = "there is no network yet"
        else:
            delivered, reason = self._tried(sending)
        self._known["targets"] = [f"{each.daemon} {place}" for each in sending for place in each.sends]
        self._known["delivered"] = delivered
        self._journal.record("logging", targets=self._known["targets"], delivered=delivered, reason=reason)
        if is_network:
            self._summarise()

    def _tried(self, sending: list[Target]) -> tuple[str, str]:
        """Return `reachable` where a running daemon carries the trace to a collector in reach; and what fails."""
        alive = [each for each in sending if daemons.running(each.process)]
        dead = [f"'{each.process}' does not run" for each in sending if each not in alive]
        ends = list(dict.fromkeys(end for each in alive for end in each.connect))
        if not ends:
            return "configured", "; ".join(dead) or "by UDP nothing comes back"
        from contextagent.host.reach import is_tls_failure, reach  # noqa: PLC0415  # only with a network, a daemon and a collector

        causes = dict(zip(ends, reach(ends, timeout_s=REACH_S), strict=True))
        failed = [f"{_name(end)}: {cause}" for end, cause in causes.items() if cause]
        # by experiment: omrelp gives up for good after one handshake that failed, and lines are dropped from then on
        self._known["has_tls_failed"] = any(end.ca and is_tls_failure(cause) for end, cause in causes.items())
        for each in failed:
            message = f"cannot reach the collector {each}, the log daemon goes on trying"
            self.problems.append(Problem(reason="collector-unreachable", message=message))
        is_reached = any(not causes[end] for each in alive if each.carries_trace for end in each.connect)
        return "reachable" if is_reached else "configured", "; ".join((*dead, *failed))

    def is_tls_mended(self) -> bool:
        """Return whether TLS with a collector failed in an earlier phase, and every collector can be reached now."""
        if not self._known.pop("has_tls_failed", False) or self._host.is_caller:
            return False
        from contextagent.host.reach import reach  # noqa: PLC0415  # after a failure alone

        return not any(reach([end for each in self._told for end in each.connect], timeout_s=REACH_S))

    def flush(self) -> None:
        """Wait until the daemons have taken and sent the whole trace, but no longer than `FLUSH_S`; say how it went."""
        self._known["flush_end_ns"] = self._host.mono_ns() + int(FLUSH_S * 1e9)
        reason = self._sent()
        self._summarise()
        targets, delivered = self._known["targets"], self._known["delivered"]
        self._journal.record("logging", targets=targets, delivered=delivered, reason=reason)

    def flush_rest(self) -> str:
        """Return how far the trace's last records got, which nothing can record any more."""
        reason = self._sent()
        self._summarise()
        return reason

    def _sent(self) -> str:
        """Return, in words, whether each daemon has read the whole trace and sent what it had."""
        carrying = [each for each in self._told if each.carries_trace]
        if self._host.is_caller or not carrying:
            return ""
        path = self._host.files.real(trace_path(self._host.boot_id()))
        ports = [end.port for each in carrying for end in each.connect]
        said = "its last records were not waited for"
        while self._host.mono_ns() < self._known["flush_end_ns"]:
            said = self._waits_for(carrying, path, ports)
            if not said:
                return "the whole trace was read and sent"
            if said.endswith("does not run"):
                break
            time.sleep(POLL_S)
        return said

    @staticmethod
    def _waits_for(carrying: list[Target], path: str, ports: list[int]) -> str:
        for each in carrying:
            pids = [found.pid for found in daemons.running(each.process)]
            if not pids:
                return f"'{each.process}' does not run"
            is_read = daemons.has_read(pids, path)
            if is_read is None:
                return f"'{each.process}' does not have the trace open"
            if not is_read:
                return f"'{each.process}' has not read the whole trace"
        return "" if daemons.is_sent(ports) else "not everything that was sent has arrived"

    def _summarise(self) -> None:
        """Send a line a record to the daemons that can't carry the trace itself, each record once."""
        if self._host.is_caller or not any(each.sends and not each.carries_trace for each in self._told):
            return
        from contextagent.host.syslog import SOCKET, Syslog  # noqa: PLC0415  # only for daemons that read no file

        syslog, after = Syslog(self._host.files.real(SOCKET)), self._known.get("summarised", 0)
        for record in self._journal.events():
            if record["seq"] > after:
                syslog.send(SCRIPT_TAG, [summary(record)])
                self._known["summarised"] = record["seq"]
        syslog.close()


def summary(record: Mapping[str, Any]) -> str:
    """Return a record in one short line: where it stands in the chain, and what it is about."""
    words = [f"trace {record['boot']} {record['seq']} {record['prev'][:16]} {record['ev']}", *_words(record)]
    return " ".join(words)[:400]


def _words(record: Mapping[str, Any]) -> Iterator[str]:
    for key in ("id", "owner", "source", "verdict", "result", "state", "path", "account", "exit", "signal", "reason"):
        value = record.get(key)
        if value not in (None, ""):
            yield f"{key}={str(value)[:120]!a}" if isinstance(value, str) else f"{key}={value}"
    if digest := record.get("sha512"):
        yield f"sha512={str(digest)[:16]}"


def _name(end: Endpoint) -> str:
    return f"'[{end.host}]:{end.port}'" if ":" in end.host else f"'{end.host}:{end.port}'"
