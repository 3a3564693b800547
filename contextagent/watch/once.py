"""What the watch delivers once in a boot, after the phase after the network: tried again until it is taken."""

from __future__ import annotations

from contextagent.errors import CannotWriteError
from contextagent.runner.joboutputs import TOTAL_S
from contextagent.runner.state import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from contextagent.features.lifetime import Now
    from contextagent.runner.joboutputs import Delivery
    from contextagent.runner.state import State
    from contextagent.watch.room import Watch

PHASE = "post-network"
_FIRST_S = 60.0
_LAST_S = 900.0
"""Before the second try, doubled for each of the next ones, and the longest that is waited."""
_MOST_TRIES = 20
LATE_S = 10.0
"""How long after its time whoever delivers something is let be: then it was stopped, and does not end by itself."""


class Once:
    """One thing to deliver.

    Args:
        watch: What all parts share.
        name: Of what is delivered, in one word; a file of that name below `Host.run_folder` says that it has been.
        states: Of the phase after the network, in which it is.
        start: Starts to deliver it; None where there is nothing to deliver yet.
    """

    def __init__(self, watch: Watch, name: str, states: Collection[str], start: Callable[[], Delivery | None]) -> None:
        self._watch = watch
        self._name = name
        self._mark = f"{watch.host.run_folder}/{name}.sent"
        self._states = states
        self._start = start
        self._tries = 0
        self._due_s = self._late_s = 0.0
        self._delivery: Delivery | None = None
        self._is_over = watch.host.files.exists(self._mark)

    def wake(self, now: Now) -> float | None:
        """Deliver it, if it is time to."""
        if self._delivery is not None:
            if now.boot_s < self._late_s:
                return self._late_s
            self._end()
        if self._is_over:
            return None
        if now.boot_s < self._due_s:
            return self._due_s
        if not self._has_ended():
            return None  # it is looked at again with the next tick
        self._delivery = self._start()
        if self._delivery is None:
            return None  # as above
        self._tries += 1
        self._late_s = now.boot_s + TOTAL_S + LATE_S
        self._due_s = now.boot_s + min(_FIRST_S * 2 ** (self._tries - 1), _LAST_S)
        self._watch.at_readable(self._delivery.fd, self._end)
        return min(self._due_s, self._late_s)

    def _has_ended(self) -> bool:
        """Return whether the phase has ended as it should."""
        state: State | None = self._watch.state
        if _phase(state) in ("", "running", "pending"):
            state = load(self._watch.host)
        is_this_boot = state is not None and state.boot_id == self._watch.host.boot_id()
        return is_this_boot and _phase(state) in self._states

    def _end(self) -> None:
        delivery, self._delivery = self._delivery, None
        if delivery is None:
            return
        self._watch.at_readable(delivery.fd, None)
        problem = delivery.finish()
        if problem is None:
            self._is_over = True
            self._remember()
            return
        self._is_over = self._tries >= _MOST_TRIES
        if self._tries == 1 or self._is_over:
            then = "giving up" if self._is_over else "trying again later"
            self._watch.say(f"{problem.message.rpartition(', ')[0]}, {then}")
        self._watch.wake_by(self._due_s)

    def _remember(self) -> None:
        try:
            self._watch.host.files.write(self._mark, b"", mode=0o644)
        except CannotWriteError as error:
            self._watch.say(f"{error}, going on without it")

    def close(self) -> None:
        """Let go of what is on its way; the next watch begins anew."""
        if self._delivery is not None:
            self._watch.at_readable(self._delivery.fd, None)
            self._delivery.close()
            self._delivery = None


def _phase(state: State | None) -> str:
    return str(state.phases.get(PHASE, {}).get("state", "")) if state else ""
