"""The heartbeat: a file among the job outputs, written over and over, by which a host sees that its machine lives.

What becomes of one beat does not matter to the next: each is tried at its time, and never two at once.
"""

from __future__ import annotations

from contextagent.runner import joboutputs
from contextagent.trace.records import rfc3339
from contextagent.watch.once import LATE_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.features.lifetime import Now
    from contextagent.host import Host
    from contextagent.runner.joboutputs import Delivery
    from contextagent.watch.room import Watch

DEFAULT_S = 60
"""How often it beats where a file is named and no time."""
_MAX_LOAD_BYTES = 200
_NUMBERS = 3


def begin(watch: Watch) -> Heartbeat | None:
    """Return the part, None where nobody asked for a heartbeat."""
    return Heartbeat(watch) if watch.settings["pilot.heartbeat.file"] else None


def line(host: Host) -> bytes:
    """Return what a beat says: the time, and how busy the machine is."""
    words = [rfc3339(host.utc_ns())]
    try:
        load = host.files.read("/proc/loadavg", max_bytes=_MAX_LOAD_BYTES).decode("ascii", "replace").split()
        words += ["load", *load[:_NUMBERS]]
    except OSError:
        pass  # below another root there is none
    return " ".join(words).encode() + b"\n"


class Heartbeat:
    """What beats."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._file: str = watch.settings["pilot.heartbeat.file"]
        self._seconds: int = watch.settings["pilot.heartbeat.seconds"] or DEFAULT_S
        self._due_s = self._late_s = 0.0
        self._delivery: Delivery | None = None
        self._failure = ""

    def wake(self, now: Now) -> float | None:
        """Beat if it is time to; one that is still on its way is let come to its end."""
        if self._delivery is not None:
            if now.boot_s < self._late_s:
                return self._late_s
            self._end()  # whoever delivers it was stopped, maybe by the account that the outputs belong to
        if now.boot_s < self._due_s:
            return self._due_s
        self._due_s = now.boot_s + self._seconds
        outputs = joboutputs.outputs_of(self._watch.live, self._watch.settings)
        if not outputs.where:
            return self._due_s
        host = self._watch.host
        total_s = min(joboutputs.TOTAL_S, float(self._seconds))
        self._delivery = joboutputs.start_put(host, outputs, self._file, line(host), total_s=total_s)
        self._late_s = now.boot_s + total_s + LATE_S
        self._watch.at_readable(self._delivery.fd, self._end)
        return min(self._due_s, self._late_s)

    def _end(self) -> None:
        """Note how a beat ended, and say so where it ended otherwise than the one before."""
        delivery, self._delivery = self._delivery, None
        if delivery is None:
            return
        self._watch.at_readable(delivery.fd, None)
        problem = delivery.finish()
        failure = problem.message if problem else ""
        if failure != self._failure:
            self._watch.say(failure or f"the heartbeat '{self._file}' is delivered again")
        self._failure = failure
        self._watch.wake_by(self._due_s)

    def close(self) -> None:
        """Let go of a beat that is on its way."""
        if self._delivery is not None:
            self._watch.at_readable(self._delivery.fd, None)
            self._delivery.close()
            self._delivery = None
