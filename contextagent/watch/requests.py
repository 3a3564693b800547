"""The end of the machine, as the watch brings it about: asked for by a request, or due since its lifetime is over.

Whatever was said of the end before this watch began (`runner.ending`) is gone on with.  The slow part, telling the job
outputs and asking for the power to go, is a child's.
"""

from __future__ import annotations

from contextagent import jsontext
from contextagent.errors import CannotWriteError
from contextagent.features.lifetime import lifetime
from contextagent.host import aside
from contextagent.pilots.course import BUSY
from contextagent.runner import ending, wishes
from contextagent.runner.wishes import Wish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.features.lifetime import End, Now
    from contextagent.host.aside import Aside
    from contextagent.host.dropbox import Dropped
    from contextagent.runner.ending import Word
    from contextagent.watch.room import Watch

_RETRY_S = 60.0
_MOST_TRIES = 5
"""How often an end that did not come about is tried again: each try costs a message, or a command of the site's."""
_PILOT_SHARE = 0.75
"""Of the time for the stop phase: until then a pilot that was told to end may still say with which code it did."""
_SETTLED_S = 120.0
"""Until then after a boot nobody believes that its end was past, unless a time service keeps the clock already.

A machine whose clock came up in another year would else be gone before it could be set.
"""


def begin(watch: Watch) -> Requests:
    """Return the part; the folder for requests is there from now on."""
    for problem in wishes.open_folder(watch.host, watch.settings):
        watch.say(problem.text())
    watch.at_change(wishes.folder(watch.host))
    return Requests(watch)


class Requests:
    """What is asked of this machine, and its end."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._word = ending.word(watch.host)
        self._child: Aside | None = None
        self._tries = 0
        self._next_s = 0.0
        self._stuck: set[str] = set()
        if self._word and watch.live.finish is None:
            watch.change(finish=self._word.shown())

    def wake(self, now: Now) -> float | None:
        """Act on what was dropped, on an end that has come, and on what is not done yet of one that was said."""
        waiting = wishes.waiting(self._watch.host, self._watch.settings, self._stuck)
        for dropped, wish in waiting:
            self._answer(dropped, wish)
        if waiting:
            self._watch.poke()  # more may lie there
        due_s = self._end(now)
        retry_s = self._go_on(now)
        return min((each for each in (due_s, retry_s) if each is not None), default=None)

    def close(self) -> None:
        """Leave a child that is at work alone: it ends by itself, and the next watch goes on from what it did."""
        if self._child is not None:
            self._watch.at_readable(self._child.fd, None)
            self._child.leave()
            self._child = None

    def _answer(self, dropped: Dropped, wish: Wish | str) -> None:
        """Do what one request asks, and only then remove it: whoever is killed in between does it again."""
        if isinstance(wish, Wish):
            self._grant(wish)
        else:
            self._watch.say(f"cannot use request '{dropped.name}': {wish}, removing it")
        try:
            wishes.done(self._watch.host, dropped)
        except CannotWriteError as error:
            self._stuck.add(dropped.name)
            self._watch.say(f"{error}, ignoring it")

    def _grant(self, wish: Wish) -> None:
        is_root = wish.uid in (0, self._watch.host.caller()[0])
        if wish.ask == "finish":
            self._finish(wish, is_root=is_root)
        elif not is_root:
            self._watch.say(
                f"cannot use the request of uid {wish.uid}: '{wish.ask[:32]}' is root's to ask, ignoring it"
            )
        elif answer := self._watch.answers.get(wish.ask):
            answer(wish.words, wish.uid)
        else:
            self._watch.say(f"cannot use the request of uid {wish.uid}: nobody knows '{wish.ask[:32]}', ignoring it")

    def _finish(self, wish: Wish, *, is_root: bool) -> None:
        code, text = wish.words.get("code"), wish.words.get("text")
        if type(code) is not int or code not in ending.CODES or not isinstance(text, str) or not wishes.one_line(text):
            cause = "it has no code of three digits and no text"
        elif ending.is_ours(code) and not is_root:
            cause = f"code {code} is root's"
        else:
            self._say(code, text, by=wish.uid)
            return
        self._watch.say(f"cannot finish this machine for uid {wish.uid}: {cause}, ignoring it")

    def _say(self, code: int, text: str, *, by: int, goes_off: bool = True) -> None:
        """Say how the machine ends, once."""
        record = self._watch.record
        try:
            said, is_news = ending.say(self._watch.host, code=code, text=text, by=by, record=record, goes_off=goes_off)
        except CannotWriteError as error:  # whoever fills the folder for the state of this boot must not stay for it
            self._watch.say(f"{error}, ending this machine without it")
            if self._word and self._word.goes_off:
                return
            said, is_news = ending.made(self._watch.host, code=code, text=text, by=by, goes_off=goes_off), True
            record("finish", code=code, text=said.text, uid=by)
        self._word = said
        if is_news:
            self._tries, self._next_s = 0, 0.0
            self._watch.change(finish=said.shown())
            self._watch.say(f"finishing this machine: {said.line()}")
        else:
            self._watch.say(f"this machine is finished already ({said.line()}), ignoring {code} of uid {by}")

    def _end(self, now: Now) -> float | None:
        """Finish a machine whose lifetime is over, and return when it will be."""
        live, settings = self._watch.live, self._watch.settings
        left = lifetime(live.ends, now)
        if left is None:
            return None
        first = min(live.ends, key=lambda end: end.left_s(now))
        is_asked = live.is_outputs_given or ending.has_pilot(live, settings)
        goes_off = is_asked or not _was_past(first, now)
        if self._word and (self._word.goes_off or not goes_off):
            return None
        is_busy = (live.pilot or {}).get("state") in BUSY
        stop_s: float = settings["stop_budget_s"] * (_PILOT_SHARE if is_busy else 1.0)
        due_s = now.boot_s + first.left_s(now) - stop_s
        if now.boot_s < due_s:
            return due_s
        if _was_past(first, now) and now.boot_s < _SETTLED_S and not self._watch.host.is_clock_synchronised():
            return _SETTLED_S
        if first.clock == "wall" and not self._watch.is_clock_steady(now):
            return None  # with the next tick
        self._say(ending.BY_HOST, f"end of the lifetime ({left.bound_by})", by=0, goes_off=goes_off)
        return None

    def _go_on(self, now: Now) -> float | None:
        """Have done what is not done of the end that was said, and return when that is tried again."""
        if self._child is not None or not _is_open(self._word) or self._tries >= _MOST_TRIES:
            return None
        if now.boot_s < self._next_s:
            return self._next_s
        self._next_s = now.boot_s + _RETRY_S
        host, live, settings = self._watch.host, self._watch.live, self._watch.settings
        said = self._word

        def work() -> str:
            after, problems = ending.act(host, live, settings, said)
            return jsontext.dumps([after.is_handed_over, [problem.text() for problem in problems]])

        self._child = child = aside.start(work)
        self._tries += 1  # not before: a machine that has no process to spare just now must end all the same
        self._watch.at_readable(child.fd, self._done)
        return None

    def _done(self) -> None:
        """Hear what a child did."""
        child, self._child = self._child, None
        if child is None:
            return
        self._watch.at_readable(child.fd, None)
        said = child.result()
        try:
            is_handed_over, problems = jsontext.loads(said)
        except (ValueError, TypeError):
            is_handed_over, problems = False, [f"cannot end this machine: {said or 'killed'}, trying again"]
        for problem in problems:
            self._watch.say(problem)
        self._word = ending.word(self._watch.host) or self._word
        if self._watch.host.is_caller:
            self._tries = _MOST_TRIES  # below another root nothing more can come of it
        if is_handed_over:
            self._watch.change(is_handed_over=True)
        self._watch.poke()


def _is_open(word: Word | None) -> bool:
    return word is not None and not (word.is_told and (word.is_off or not word.goes_off))


def _was_past(end: End, now: Now) -> bool:
    """Return whether an end on the wall clock was over when the machine came up: it was wrong, or for another boot."""
    return end.clock == "wall" and end.left_s(now) < -now.boot_s
