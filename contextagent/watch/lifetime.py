"""What can change about a machine's features and its ends, looked at once a minute and published where it moved.

What a boot published holds until something else is known: an address that does not answer just now changes nothing.
How the machine ends when its time is over is another part's (`requests`), and so is the pilot.
"""

from __future__ import annotations

from contextagent.features.lifetime import End, Now, lifetime
from contextagent.features.values import standing
from contextagent.features.vocabulary import kind_of
from contextagent.runner import publish
from contextagent.sources import features, notice
from contextagent.watch.room import TICK_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from contextagent.features.lifetime import BoundBy
    from contextagent.host.aside import Aside
    from contextagent.runner.live import Live
    from contextagent.watch.room import Watch

_MOST_SAID = 200
_MOVING = ("epoch", "seconds")
"""Kinds of features that follow a clock, or an end; the record `lifetime` tells of those."""


def begin(watch: Watch) -> Lifetimes:
    """Return the part; every machine that publishes anything has it."""
    part = Lifetimes(watch)
    watch.answers["drain"] = part.drain
    return part


class Lifetimes:
    """The features and ends of this machine, followed."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._urls, problems = features.urls(watch.host, watch.state)
        self._service = notice.where(watch.state)
        self._read: Mapping[str, str] = watch.live.read or watch.state.read
        self._notice = next((end for end in watch.live.ends if end.by == "notice"), None)
        self._said: set[str] = {problem.text() for problem in (*problems, *watch.state.warnings)}
        self._reading: features.Reading | None = None
        self._asking: Aside | None = None
        self._next_s = float("-inf")

    def wake(self, now: Now) -> float:
        """Once a minute, begin to read what others say, and publish what is known."""
        if now.boot_s >= self._next_s:
            self._next_s = now.boot_s + TICK_S
            self._begin_reading()
            self._publish()
        return self._next_s

    def close(self) -> None:
        """Give up what is being read; the next watch reads it again."""
        if self._reading is not None:
            self._watch.at_readable(self._reading.fd, None)
            self._reading.close()
            self._reading = None
        if self._asking is not None:
            self._watch.at_readable(self._asking.fd, None)
            self._asking.close()
            self._asking = None

    def drain(self, _words: Mapping[str, Any], _uid: int) -> None:
        """Follow the drain that was stored just now (`runner.drain`)."""
        self._publish()

    def _begin_reading(self) -> None:
        """Have addresses read and the service asked by children; a machine without either starts none."""
        watch = self._watch
        if self._reading is None and (self._urls.machine or self._urls.job):
            self._reading = features.start_reading(watch.host, self._urls, previous=self._read)
            watch.at_readable(self._reading.fd, self._take_features)
        if self._asking is None and self._service:
            self._asking = notice.start_asking(watch.host, watch.settings, self._service)
            watch.at_readable(self._asking.fd, self._take_notice)

    def _take_features(self) -> None:
        reading, self._reading = self._reading, None
        if reading is None:
            return
        self._watch.at_readable(reading.fd, None)
        read = reading.finish()
        self._say(problem.text() for problem in read.problems)
        if read.values != self._read:
            self._read = read.values
            self._publish()

    def _take_notice(self) -> None:
        asking, self._asking = self._asking, None
        if asking is None:
            return
        self._watch.at_readable(asking.fd, None)
        heard = notice.heard(asking.result())
        if heard.problem:
            self._say([f"{heard.problem}, going on with what was known before"])
            return
        end = None if heard.at_s is None else End(by="notice", clock="wall", at_s=float(heard.at_s))
        if end != self._notice:
            self._notice = end
            self._publish()

    def _publish(self) -> None:
        """Publish what is known now, and tell the trace of what is news in it."""
        watch = self._watch
        watch.reread()
        if watch.is_stale:
            watch.poke()
            return
        before = watch.live
        voices = publish.voices(
            watch.host,
            watch.state,
            watch.settings,
            read=self._read,
            is_read_sites=self._urls.is_sites,
            outputs=self._urls.outputs,
            notice=self._notice,
        )
        stand = standing(publish.facts(watch.host, watch.state, before), voices)
        if not stand.values:
            return  # the boot knew of something that is remembered no more: what it published stays
        live, problems = publish.publish(watch.host, stand, before=before.replace(read=dict(self._read)))
        watch.adopt(live)
        if live != before:
            watch.poke()  # others may be due sooner now
        self._say(problem.text() for problem in (*stand.problems, *problems))
        self._tell(before, live, is_mended=any(each.reason == publish.CHANGED for each in problems))

    def _tell(self, before: Live, live: Live, *, is_mended: bool) -> None:
        """Record an end that moved, or is another, and the features where something else changed, or was changed."""
        end = _announced(live)
        if end != _announced(before):
            self._watch.record("lifetime", shutdown_epoch_s=end[0], bound_by=end[1])
        if is_mended or _lasting(before) != _lasting(live):
            self._watch.record("features", **publish.traced(live.features))

    def _say(self, lines: Iterable[str]) -> None:
        """Say each thing once; a service that says another nonsense each minute fills no memory."""
        for line in lines:
            if line not in self._said:
                if len(self._said) >= _MOST_SAID:
                    self._said.clear()
                self._said.add(line)
                self._watch.say(line)


def _announced(live: Live) -> tuple[int | None, BoundBy | None]:
    """Return the end that is published, and what set it."""
    text = live.features.get("machine/shutdowntime")
    first = lifetime(live.ends, Now(utc_s=float(live.boot_epoch_s), boot_s=0.0))
    return (int(text), first.bound_by) if text and first else (None, None)


def _lasting(live: Live) -> dict[str, str]:
    """Return the features that follow neither a clock nor an end."""
    return {key: text for key, text in live.features.items() if kind_of(key) not in _MOVING}
