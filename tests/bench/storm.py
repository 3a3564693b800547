"""A site's power comes back: a thousand machines ask one metadata service at once, well or not.

Each machine is an agent with a root of its own; it calls the service at an address of its own (127.1.X.Y), so that a
listener on the link can tell who asked what when.  All of it is in one network namespace.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.bench import forms, lab
from tests.bench.listener import Heard, heard
from tests.bench.measure import MEMORY
from tests.bench.network import started
from tests.bench.report import Report, aligned
from tests.machine import Machine
from tests.network import Namespace

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 80
BUNDLE = "/context/default.tgz"
"""The first that an agent asks for in each of its rounds."""
AT_WORK = 6
"""How many agents may be between their start and their first word: enough to keep two processors busy."""
_AGENT = (sys.executable, "-I", "-S", str(lab.AGENT / "__main__.py"))
_RIGHT = "contextagent: ok (1 user, 4 site scripts"
_SCRIPT = "#!/bin/sh\necho ran\n"
_BUCKET_S = 0.1
_STEP_S = 0.005


class Scene(NamedTuple):
    """What the service does while the agents come.

    Attributes:
        title: What it is, for the table.
        agents: How many come.
        faults: Fault of the service, and the seconds for which it has it; then the next. At last it is well.
    """

    title: str
    agents: int
    faults: Sequence[tuple[str, float]]


class Ended(NamedTuple):
    """An agent that has ended: when, whether it did all the work, and the CPU time that it and its scripts took."""

    began_s: float
    ended_s: float
    is_right: bool
    cpu_s: float


class Played(NamedTuple):
    """What a scene came to: how the agents ended, what was heard, and when the service was well."""

    ended: list[Ended]
    heard: list[Heard]
    well_s: float


SCENES = (
    Scene("healthy", 1000, ()),
    Scene("503 for its first 20 s", 1000, (("503", 20.0),)),
    Scene("hangs, cuts all off at once, 503 for 10 s", 150, (("hang", 8.0), ("503", 10.0))),
)


class Crowd:
    """Agents that are started as fast as the processors can follow, and waited for."""

    def __init__(self, folder: Path, place: Namespace, log: Path) -> None:
        self._folder = folder
        self._place = place
        self._log = log.open()
        self._rest = ""
        self._poll = select.epoll()
        self._running: dict[int, tuple[int, int, float]] = {}
        self._silent: set[str] = set()
        self.heard: list[Heard] = []
        self.ended: list[Ended] = []

    def start(self, number: int) -> None:
        """Start an agent."""
        address = f"127.1.{number >> 8}.{number & 255}"
        root = self._folder / f"machine-{number:04}"
        words = [*self._place.prefix, *_AGENT, "run", "--root", str(root), "--disk", "none"]
        words += ["--metadata", f"http://{address}:{PORT}"]
        output = os.open(root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        pid = os.posix_spawnp(words[0], words, {"PATH": os.environ["PATH"]}, file_actions=actions)
        os.close(output)
        watched = os.pidfd_open(pid)
        self._poll.register(watched, select.EPOLLIN)
        self._running[watched] = (pid, number, time.time())
        self._silent.add(address)

    def attend(self, seconds: float) -> None:
        """Listen, and take leave of those who have ended, for at most so long."""
        for watched, _ in self._poll.poll(seconds):
            pid, number, began_s = self._running.pop(watched)
            _, status, used = os.wait4(pid, 0)
            self._poll.unregister(watched)
            os.close(watched)
            self._silent.discard(f"127.1.{number >> 8}.{number & 255}")
            said = (self._folder / f"machine-{number:04}/output.txt").read_text()
            is_right = status == 0 and said.startswith(_RIGHT)
            self.ended.append(Ended(began_s, time.time(), is_right, used.ru_utime + used.ru_stime))
        *lines, self._rest = (self._rest + self._log.read()).split("\n")  # the last may be half written
        for line in lines:
            self.heard.append(heard(line))
            self._silent.discard(self.heard[-1].address)

    def is_busy(self) -> bool:
        """Return whether enough agents are under way to the service."""
        return len(self._silent) >= AT_WORK

    def is_gone(self) -> bool:
        """Return whether all have ended."""
        return not self._running

    def close(self) -> None:
        """End who is left."""
        for pid, _, _ in self._running.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._poll.close()
        self._log.close()


class Sick:
    """A service that is ill in one way after the other, and then well; each is a process of its own."""

    def __init__(self, folder: Path, place: Namespace, faults: Sequence[tuple[str, float]]) -> None:
        self._words = [*place.prefix, sys.executable, str(lab.AGENT / "__main__.py"), "serve", str(folder)]
        self._words += ["--quiet", "--bind", f"0.0.0.0:{PORT}"]
        self._left = list(faults)
        self._stack = ExitStack()
        self._until_s = 0.0
        self.well_s = 0.0
        self._turn()

    def attend(self) -> None:
        """Change to the next illness when it is time."""
        if self._until_s and time.time() >= self._until_s:
            self._turn()

    def _turn(self) -> None:
        fault, seconds = self._left.pop(0) if self._left else ("", 0.0)
        self._stack.close()
        self._stack.enter_context(started([*self._words, *(["--fault", fault] if fault else [])]))
        self._until_s = time.time() + seconds if fault else 0.0
        self.well_s = 0.0 if fault else time.time()

    def close(self) -> None:
        """Stop serving."""
        self._stack.close()


def storm(_rounds: int) -> Report:
    """Play each scene once, and count."""
    rows = [
        ["", "agents", "right", "CPU ms each", "last s", "after well s", "requests", "connections", "busiest 0.1 s"]
    ]
    parts, figures, is_right = [], {}, True
    for scene in SCENES:
        played = play(scene)
        rows.append(_summary(scene, played))
        if scene.faults:
            parts.append(f"tries again, {scene.title}:\n{_tries(played)}")
        is_right &= all(each.is_right for each in played.ended)
        figures[scene.title] = {
            "ended": [each._asdict() for each in played.ended],
            "heard": [list(each) for each in played.heard],
            "well_epoch_s": played.well_s,
        }
    title = "boot storm: agents that all ask one `contextagent serve`, on these processors"
    return Report("\n\n".join([f"{title}\n{aligned(rows)}", *parts]), figures, is_right)


def play(scene: Scene) -> Played:
    """Play a scene, and return what it came to."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
        log = folder / "heard"
        log.touch()
        for number in range(scene.agents):
            Machine(folder / f"machine-{number:04}")
        place = stack.enter_context(closing(Namespace()))
        listener = [*place.prefix, sys.executable, "-m", "tests.bench.listener", str(PORT), str(log)]
        stack.enter_context(started(listener))
        _serve_from(folder / "served")
        service = Sick(folder / "served", place, scene.faults)
        stack.callback(service.close)
        crowd = Crowd(folder, place, log)
        stack.callback(crowd.close)
        coming = list(range(scene.agents))
        while coming or not crowd.is_gone():
            service.attend()
            is_room = bool(coming) and not crowd.is_busy()
            if is_room:
                crowd.start(coming.pop())
            crowd.attend(0 if is_room else _STEP_S)
        crowd.attend(_STEP_S)
        return Played(crowd.ended, crowd.heard, service.well_s)


def _serve_from(folder: Path) -> None:
    """Make what the service serves: 4 scripts of the site's, and the user's one."""
    for phase in ("pre", "post"):
        for name in ("10-one", "20-two"):
            forms.put(folder / f"site/{phase}-network.d/{name}", _SCRIPT, 0o755)
    forms.put(folder / "user-data", _SCRIPT)


def _summary(scene: Scene, played: Played) -> list[str]:
    """Return a scene's row."""
    asked = [each for each in played.heard if each.kind == "request"]
    last_s = max(each.ended_s for each in played.ended)
    return [
        scene.title,
        str(scene.agents),
        str(sum(each.is_right for each in played.ended)),
        f"{statistics.median(each.cpu_s for each in played.ended) * 1e3:.0f}",
        f"{last_s - min(each.began_s for each in played.ended):.1f}",
        f"{last_s - played.well_s:.1f}" if scene.faults else "",
        str(len(asked)),
        str(sum(each.kind == "connection" for each in played.heard)),
        str(_busiest([each.epoch_s for each in asked])),
    ]


def _tries(played: Played) -> str:
    """Return how each further try of the agents is spread over time: together, they would all be in one bucket."""
    times: dict[str, list[float]] = defaultdict(list)
    for each in played.heard:
        if each.kind == "request" and each.word == BUNDLE:
            times[each.address].append(each.epoch_s)
    begin_s = min(each.epoch_s for each in played.heard)
    rows = [["try", "agents", "first s", "last s", "busiest 0.1 s", "if even", "a count each second"]]
    for number in range(1, max(map(len, times.values()))):
        when = sorted(each[number] - begin_s for each in times.values() if len(each) > number)
        even = max(1.0, len(when) * _BUCKET_S / max(when[-1] - when[0], _BUCKET_S))
        seconds = Counter(int(each) for each in when)
        counts = " ".join(str(seconds[each]) for each in range(int(when[0]), int(when[-1]) + 1))
        row = [str(number + 1), str(len(when)), f"{when[0]:.1f}", f"{when[-1]:.1f}", str(_busiest(when)), f"{even:.0f}"]
        rows.append([*row, counts])
    return aligned(rows)


def _busiest(times: Sequence[float]) -> int:
    """Return how many fall into the fullest bucket."""
    return max(Counter(int(each / _BUCKET_S) for each in times).values(), default=0)
