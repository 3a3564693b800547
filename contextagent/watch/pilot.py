"""The pilots: started when every condition holds, told to stop in time, and heard of when they end.

The watch only decides.  What takes time is done by a keeper (`runner.keeping`), one a pilot, which goes on when this
process ends; the next watch finds it by its folder, and `course.json` there says how often its pilot was started.
"""

from __future__ import annotations

import os

from contextagent.errors import CannotWriteError, ContextAgentError
from contextagent.features.lifetime import lifetime
from contextagent.host import kept as keepers
from contextagent.pilots.conditions import NO_PILOT, Standing, refusal
from contextagent.pilots.course import ENDINGS, FAILED, ORDER, SITE, Slot, ended, last_word
from contextagent.pilots.frameworks import code_of
from contextagent.pilots.steps import account_of, is_asked, settings_of, summary
from contextagent.policy.settings import hear, load_image_policy
from contextagent.runner import keeper, wishes
from contextagent.runner.state import load
from contextagent.runner.status import result_of
from contextagent.watch.pilotorder import make_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.features.lifetime import Now
    from contextagent.model import Problem
    from contextagent.runner.keeper import Kept
    from contextagent.runner.state import State
    from contextagent.watch.room import Watch

_PHASE = "post-network"
_SOON_S = 1.0
"""How soon a boot's last phase is looked at again that has marked the pilot, but is not over."""
_BREATH_S = 0.02
_PUT_OFF_S = 5.0
"""How soon a start is tried again that could not even be begun."""
_AGAIN_S = 60.0
"""How soon a condition that did not hold is looked at again; those that the watch sees itself cost nothing."""


def begin(watch: Watch) -> Pilots | None:
    """Return the part; None where this machine is to have no pilot."""
    if not is_asked(watch.settings, watch.state.supplies.get("user")) and not keeper.look(watch.host):
        return None
    return Pilots(watch)


class Pilots:
    """All pilots of this machine."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        settings = watch.settings
        self._is_left = not settings["pilot.framework"]
        self._framework: str = settings["pilot.framework"] or "command"
        self._pilot = settings_of(settings)
        self._is_max_said = settings.origin("pilot.restart.max").voice != "default"
        count = 1 if self._is_left else self._pilot["instances"] or 1
        known = keeper.load_course(watch.host)
        self._slots = {number: known.get(number, Slot(number=number)) for number in range(1, count + 1)}
        for each in keeper.look(watch.host):
            self._slots[each.number] = _taken_up(each, known.get(each.number))
        self._states = {each.number: "ended" if each.is_over else "waiting" for each in self._slots.values()}
        self._pids: dict[int, int | None] = {}
        self._news: dict[int, int] = {}
        self._going: set[int] = set()
        self._ask_s = 0.0
        self._state = watch.state
        self._state_ns = 0
        self._is_banned: bool = settings["ban.pilot"]
        watch.at_change(f"{watch.host.run_folder}/{keeper.FOLDER}")

    def wake(self, now: Now) -> float | None:
        """Start, stop and hear of pilots, whatever is due."""
        if self._watch.live.pilot is None:
            return None
        before = dict(self._slots)
        due = [self._look_after(slot, now) for slot in self._slots.values()]
        if self._slots != before:
            self._remember()
        self._finish(now)
        self._show()
        return min((each for each in due if each is not None), default=None)

    def close(self) -> None:
        """Let go of the pilots, which live on."""
        for number in tuple(self._news):
            self._deafen(number)

    # ---- one pilot ----

    def _look_after(self, slot: Slot, now: Now) -> float | None:
        """Do what one pilot needs now; return when it may need something again."""
        if slot.is_kept:
            found = keeper.look_at(self._watch.host, slot.number)
            if found.is_alive:
                return self._mind(slot, found, now)
            slot = self._hear_end(slot, found, now)
        if slot.is_over:
            return None
        if now.boot_s < slot.retry_s:
            return slot.retry_s
        if not self._has_booted():
            return now.boot_s + _SOON_S
        if "stop" in self._state.phases:
            return None  # this machine is going down, and its pilots were stopped first
        problem = refusal(self._standing(now))
        if problem:
            self._refuse(slot, problem.reason, problem.message)
            return None  # looked at again with every tick
        return self._start(slot, now)

    def _start(self, slot: Slot, now: Now) -> float:
        """Have a keeper start it; what that does not bring about is a refusal like any other."""
        self._slots[slot.number] = slot.replace(is_kept=True, is_told=False, starts=slot.starts + 1, stopped="")
        if not self._remember():  # before: a watch that is killed here must not start one more each time
            return self._put_off(slot, "its start can't be remembered", now)
        try:
            keeper.start(self._watch.host, make_order(self._watch, slot.number, now, is_left=self._is_left))
        except (ContextAgentError, OSError) as error:
            return self._put_off(slot, error.strerror or error if isinstance(error, OSError) else error, now)
        self._say_starting(slot.number)
        self._listen(slot.number)
        return now.boot_s + _AGAIN_S

    def _put_off(self, slot: Slot, cause: object, now: Now) -> float:
        """Note why it could not be started just now; not tried again at once, since each try wakes the watch."""
        slot = slot.replace(retry_s=now.boot_s + _PUT_OFF_S)
        self._refuse(slot, "not-startable", f"cannot start the pilot: {cause}")
        return slot.retry_s

    def _mind(self, slot: Slot, found: Kept, now: Now) -> float | None:
        """Tell of its start, and tell it to stop in time."""
        if slot.number in self._going:
            return now.boot_s + _BREATH_S
        is_heard = slot.number in self._news
        self._listen(slot.number)
        if not is_heard and slot.number in self._news:  # who went before that is seen only by another look
            self._watch.wake_by(now.boot_s + _SOON_S)
        self._pids[slot.number] = found.pid
        if found.state == "starting":
            self._say_starting(slot.number)
        else:
            self._states[slot.number] = found.state
        self._tell_start(slot, found)
        left = lifetime(self._watch.live.ends, now)
        if left is None or found.state == "stopping":
            return None
        first = min(self._watch.live.ends, key=lambda end: end.left_s(now))
        stop_s = now.boot_s + first.left_s(now) - self._stop_s()
        if now.boot_s >= stop_s and first.clock == "wall" and not self._watch.is_clock_steady(now):
            return None  # somebody may have set the clock for a moment; the next tick knows better
        if now.boot_s >= stop_s and keeper.ask_stop(self._watch.host, slot.number, why="lifetime"):
            self._watch.say(
                f"stopping pilot {slot.number}: this machine ends in {left.remaining_s} s ({left.bound_by})"
            )
            self._record("stopping", "lifetime", found, slot)
            return now.boot_s + _SOON_S
        return max(stop_s, now.boot_s + _SOON_S)

    def _say_starting(self, number: int) -> None:
        """Show that it is about to start; one that was refused stays so until it runs, since it may be once more."""
        if self._states[number] != "refused":
            self._states[number] = "waiting"

    def _tell_start(self, slot: Slot, found: Kept) -> None:
        """Put its start into the trace, once."""
        if found.started and not slot.is_told:
            facts = {"uid": found.started.get("uid"), "argv0": str(found.started.get("program", ""))}
            self._record("running", "", found, slot, **facts)
            self._slots[slot.number] = slot.replace(is_told=True, reason="", message="")

    def _hear_end(self, slot: Slot, found: Kept, now: Now) -> Slot:
        """Take in that a keeper has gone, and what it said."""
        self._deafen(slot.number)
        self._going.discard(slot.number)
        self._pids.pop(slot.number, None)
        self._tell_start(slot, found)
        slot = self._slots[slot.number]
        if found.state == "lost" and not keeper.is_taken_up(self._watch.host, slot.number):
            self._slots[slot.number] = slot = slot.replace(is_kept=False, starts=slot.starts - 1)
            return slot  # whoever ordered it was killed before there was a keeper
        said = found.ended
        reason = str(said.get("reason", "lost"))
        if said and reason not in ENDINGS:
            slot = slot.replace(is_kept=False, starts=slot.starts - 1, retry_s=now.boot_s + _AGAIN_S)
            return self._refuse(slot, reason, str(said.get("detail", "")))
        slot = slot.replace(stopped=str(said.get("stopped", "")))
        code, text = self._meaning(found, reason)
        slot = ended(slot, self._pilot, (code, text), is_max_said=self._is_max_said, now_s=now.boot_s)
        why = slot.stopped or _why(reason, said.get("signal"))
        slot = slot.replace(reason=why, message=str(said.get("detail") or text))
        self._slots[slot.number] = slot
        self._states[slot.number] = "ended" if slot.is_over else "waiting"
        facts = {name: said[key] for key, name in keeper.TRACED.items() if key in said}
        self._record("ended", why, found, slot, **facts)
        if said.get("credential"):
            self._watch.say(str(said["credential"]))
        self._watch.say(f"pilot {slot.number} has ended: {text} ({code})")
        return slot

    def _meaning(self, found: Kept, reason: str) -> tuple[int, str]:
        """Return the code of an end, and words."""
        said = found.ended
        if reason == "lost":
            return FAILED, "the pilot's keeper was killed"
        if reason == "abort":
            return FAILED, str(said.get("detail"))
        if reason == "not-startable":
            return SITE, str(said.get("detail"))
        name = self._pilot["result.empty_file"]
        is_empty = None if name is None else keeper.is_empty(self._watch.host, found, name)
        tail = keeper.log_tail(self._watch.host, keeper.log_path(self._watch.state.instance_id, found.number))
        return code_of(self._framework, self._pilot, said.get("exit_code"), said.get("signal"), tail, is_empty)

    def _refuse(self, slot: Slot, reason: str, message: str) -> Slot:
        """Note why it does not start, and say so where that is new."""
        is_news = (slot.reason, _shape(slot.message)) != (reason, _shape(message))
        slot = slot.replace(reason=reason, message=message)
        self._slots[slot.number] = slot
        self._states[slot.number] = "refused"
        if is_news:
            self._watch.record("pilot", framework=self._framework, state="refused", reason=reason, number=slot.number)
            self._watch.say(f"{message}, looking again every minute")
        return slot

    # ---- what it hangs on ----

    def _has_booted(self) -> bool:
        """Return whether the phase that the pilot comes after is over, with its state at hand."""
        host = self._watch.host
        path_ns = keeper.state_changed_ns(host, self._state.instance_id)
        if path_ns != self._state_ns:
            self._state_ns = path_ns
            state = load(host)
            if state is not None and state.boot_id == host.boot_id():
                self._state = state
                self._is_banned = self._hear_ban(state)
        return self._state.phases.get(_PHASE, {}).get("state") in ("ok", "degraded", "failed")

    def _hear_ban(self, state: State) -> bool:
        """Return whether the site bans pilots by what it says now: a `run` by hand may have brought its new word."""
        try:
            image = load_image_policy(self._watch.host, None, may_write=False)
        except ContextAgentError:
            return self._is_banned
        return bool(hear(image, state.supplies, state.layers).settings["ban.pilot"])

    def _standing(self, now: Now) -> Standing:
        settings, live, state = self._watch.settings, self._watch.live, self._state
        left = lifetime(live.ends, now)
        return Standing(
            result=result_of(state),
            reports=state.reports,
            missing=_missing(state),
            is_banned=self._is_banned,
            has_no_pilot_file=self._watch.host.files.exists(NO_PILOT),
            required=settings["pilot.require_trace"],
            delivered=state.logging.get("delivered", "none"),
            is_trace_full=self._watch.is_trace_full or any(each.reason == "trace-full" for each in state.warnings),
            on_full=settings["trace.on_full"],
            remaining_s=left.remaining_s if left else None,
            min_lifetime_s=self._pilot["min_lifetime_s"],
            stop_s=self._stop_s(),
            is_finished=live.finish is not None,
            account=self._lacks_account(),
        )

    def _stop_s(self) -> float:
        """Return how long before the machine's end a pilot is told to stop."""
        return float(self._pilot["stop.timeout_s"] + self._watch.settings["stop_budget_s"])

    def _lacks_account(self) -> str:
        name = account_of(self._watch.settings)
        if self._watch.host.is_caller or self._watch.host.account(name):
            return ""
        return f"this machine has no account '{name}'"

    # ---- what is told of them ----

    def _listen(self, number: int) -> None:
        """Be woken by what the keeper has to tell, and by its end."""
        if number in self._news:
            return
        try:
            fd = keepers.hear_news(self._watch.host.files, keeper.folder(self._watch.host, number))
        except OSError:
            return  # looked at with every tick all the same
        self._news[number] = fd
        self._watch.at_readable(fd, lambda: self._hear_news(number))

    def _hear_news(self, number: int) -> None:
        if not keepers.take_news(self._news[number]):
            self._deafen(number)
            self._going.add(number)  # the kernel may take its lock back a moment later
        self._watch.poke()

    def _deafen(self, number: int) -> None:
        fd = self._news.pop(number, -1)
        if fd >= 0:
            self._watch.at_readable(fd, None)
            os.close(fd)

    def _record(self, state: str, reason: str, found: Kept, slot: Slot, **more: object) -> None:
        facts = {"reason": reason or None, "pid": found.started.get("pid"), "code": slot.code, "number": slot.number}
        self._watch.record("pilot", framework=self._framework, state=state, **facts, **more)

    def _remember(self) -> bool:
        try:
            keeper.store_course(self._watch.host, self._slots)
        except CannotWriteError as error:
            self._watch.say(f"{error}, going on without it")
            return False
        return True

    def _finish(self, now: Now) -> None:
        """Ask for the machine's end once the last pilot is over, if that is what its end does.

        A watch that was killed before it could ask leaves that to the next one.
        """
        word = last_word(self._slots.values(), self._pilot["on_exit"])
        if word is None or self._watch.live.finish is not None or now.boot_s < self._ask_s:
            return
        code, text = word
        self._ask_s = float("inf")
        try:
            wishes.ask(self._watch.host, "finish", code=code, text=wishes.one_line(text))
        except CannotWriteError as error:
            self._ask_s = now.boot_s + _AGAIN_S
            self._watch.say(f"{error}, finishing this machine later")
        self._watch.poke()

    def _show(self) -> None:
        """Put the one that matters most into the status."""
        number = min(self._slots, key=lambda each: ORDER.index(self._states[each]))
        slot, state = self._slots[number], self._states[number]
        shown = summary(
            None, self._framework, state, reason=slot.reason or None, pid=self._pids.get(number), code=slot.code
        )
        if shown != self._watch.live.pilot:
            self._watch.change(pilot=shown)


def _shape(message: str) -> str:
    """Return a message less its numbers: that a minute has passed is no news."""
    return "".join(character for character in message if not character.isdigit())


def _taken_up(found: Kept, known: Slot | None) -> Slot:
    """Return a pilot of which there is a keeper's folder, as its course says; where that is lost, as it looks."""
    if known is None:
        return Slot(number=found.number, starts=1, is_kept=True, is_told=bool(found.started))
    return known.replace(is_kept=True) if found.is_alive else known


def _why(reason: str, signal: int | None) -> str:
    """Return one word for an end that nobody asked for."""
    return "signal" if reason == "exit" and signal is not None else reason


def _missing(state: State) -> str:
    """Return why the site's part could not be had; empty where it was."""
    said = [each for each in state.verdicts if each.owner == "site" and each.verdict in ("broken", "unreachable")]
    problems: tuple[Problem, ...] = tuple(each for each in state.errors if each.reason == "invalid-site-settings")
    if problems:
        return problems[0].message
    return f"'{said[-1].source}' is {said[-1].verdict} for the site ({said[-1].reason})" if said else ""
