"""A whole boot on a throw-away view of this machine: the real agent, a disk, a metadata service, and what changed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

from contextagent import jsontext
from contextagent.errors import ContextAgentError, InvalidInputError
from contextagent.features.values import JOB_FEATURES, JOB_OUTPUTS, MACHINE_FEATURES
from contextagent.host import layers, program
from contextagent.host.served import served
from contextagent.host.serving import listen
from contextagent.host.view import View
from contextagent.kit.changes import find_changes
from contextagent.kit.pack import pack
from contextagent.kit.serve import Site
from contextagent.model import Value
from contextagent.runner.folders import WORKING
from contextagent.runner.journal import LOGS
from contextagent.runner.state import HOME
from contextagent.runner.status import EXIT_CODES, STATUS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from contextagent.host.served import Asked
    from contextagent.kit.changes import Change
    from contextagent.kit.trial import Trial
    from contextagent.model import Phase

ADDRESS = "169.254.169.254"
RUN = "/run/contextagent"
"""In the view `/run` is always one of its own, in memory, whatever this machine has."""
PUBLISHED = ("/etc/profile.d/mjf.sh", "/etc/profile.d/mjf.csh", "/run/shutdown_time", "/var/run/shutdown_time")
"""Files of the agent in folders of others."""
OWN = (RUN, "/var/run/contextagent", HOME, LOGS, WORKING)
"""What the agent remembers of this machine's boots; a simulated one begins without, as a new machine does."""
MOST_RESTARTS = 3
"""How often the agent is started again in a phase, as an init would, when a script of root's has killed it."""
TAIL_BYTES = 2000
_MAX_STATUS_BYTES = 64 << 20
_LITTLE = 20
"""Of the view's room, the part of it that should be left at the end."""


class PhaseRun(Value):
    """How one phase went.

    Attributes:
        phase: Which.
        exit_code: The agent's.
        restarts: How often it had been killed, and was started again.
        messages: What it said.
        scripts: As in `status.json`, those that ran in it.
        tails: Script id to the end of its output.
        requests: What the metadata service was asked meanwhile.
    """

    phase: Phase
    exit_code: int
    restarts: int
    messages: tuple[str, ...]
    scripts: tuple[Mapping[str, Any], ...]
    tails: Mapping[str, str]
    requests: tuple[Asked, ...]


class Simulation(Value):
    """What came out.

    Attributes:
        plan: As `plan --format json`.
        phases: In order.
        status: The last `status.json`; None where the agent wrote none.
        changes: What would have changed on this machine.
        own: The same, in the agent's own places.
        users: The view's accounts, uid to name.
        groups: Its groups, gid to name.
        warnings: What was not as on this machine, in words.
    """

    plan: Mapping[str, Any]
    phases: tuple[PhaseRun, ...]
    status: Mapping[str, Any] | None
    changes: tuple[Change, ...]
    own: tuple[Change, ...]
    users: Mapping[int, str]
    groups: Mapping[int, str]
    warnings: tuple[str, ...]


def open_view(trial: Trial) -> View:
    """Return a view of this machine with the trial's disk in it.

    Raises:
        RefusedError: None can be had here.
    """
    lent = [trial.disk] if trial.disk != "none" else []
    return View(lent=lent, needed=(*program.places(), *([trial.policy] if trial.policy else [])), without=OWN)


@contextlib.contextmanager
def service_nearby(trial: Trial) -> Iterator[str]:
    """Serve the trial's material to this user alone, for a plan without a view; yield `--metadata`'s value.

    Raises:
        ContextAgentError: The material can't be served.
    """
    if not trial.has_service:
        yield "none"
        return
    with tempfile.TemporaryDirectory(prefix="contextagent-") as folder:
        site = _site(trial, folder)
        secret = os.urandom(16).hex()  # other users of this machine reach its loopback link, too

        def respond(request: Any) -> Any:  # noqa: ANN401  # as `Site.respond`
            is_ours = request.parts[:1] == (secret,)
            return site.respond(request.replace(parts=request.parts[1:] if is_ours else ("",)))

        listening = listen("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/{secret}"
        with served(listening, respond):
            yield url


def _site(trial: Trial, folder: str) -> Site:
    """Return the metadata service of a trial, after copying its material into a folder of its own.

    Raises:
        ContextAgentError: The bundle can't be packed.
    """
    os.mkdir(f"{folder}/context")
    try:
        if trial.user_data:
            shutil.copyfile(trial.user_data, f"{folder}/user-data")
        for name in {trial.bundle_name, os.path.basename(trial.bundle)} if trial.bundle else ():
            place = f"{folder}/context/{name}"
            if os.path.isdir(trial.bundle):
                pack(trial.bundle, place if place.endswith((".tgz", ".tar.gz")) else f"{place}.tgz")
            else:
                shutil.copyfile(trial.bundle, place)
    except OSError as error:
        raise InvalidInputError(f"cannot serve '{error.filename}': {error.strerror}") from error
    return Site(folder, dialect=trial.dialect)


def simulate(
    view: View,
    trial: Trial,
    *,
    on_plan: Callable[[Mapping[str, Any]], None],
    on_phase: Callable[[PhaseRun], None],
) -> Simulation:
    """Boot in the view, from the plan to the end, and return what came out; the view is closed then.

    Args:
        view: A new one.
        trial: What is tried.
        on_plan: Called with the plan before anything runs.
        on_phase: Called with each phase that is over.

    Raises:
        ContextAgentError: The agent could not begin, or the view died.
    """
    story = _Story(view, trial)
    plan = story.plan()
    on_plan(plan)
    phases = []
    for phase in ("pre-network", "post-network", *(("stop",) if trial.has_stop else ())):
        phases.append(story.phase(phase))
        on_phase(phases[-1])
    total, left = view.room()
    warnings = list(view.warnings)
    if left * _LITTLE < total:
        warnings.append(f"the view ran out of room: its writes are held in memory, {total >> 20} MiB at most")
    users, groups = _names(view, "/etc/passwd"), _names(view, "/etc/group")
    view.close()
    changes = [
        change for layer in view.layers for change in find_changes(layer, made=view.made, anew={*OWN, *view.hidden})
    ]
    return Simulation(
        plan=plan,
        phases=tuple(phases),
        status=story.status,
        changes=tuple(change for change in changes if not is_own(change.path)),
        own=tuple(change for change in changes if is_own(change.path)),
        users=users,
        groups=groups,
        warnings=tuple(warnings),
    )


def _names(view: View, path: str) -> dict[int, str]:
    """Return the view's accounts or groups."""
    lines = (view.read(path, max_bytes=1 << 20) or b"").decode("utf-8", "replace").splitlines()
    rows = (line.split(":") for line in reversed(lines))
    return {int(row[2]): row[0] for row in rows if len(row) > 2 and row[2].isdecimal()}  # noqa: PLR2004  # the number


def is_own(path: str) -> bool:
    """Return whether a path is one of the agent's own places, or below one."""
    if path == JOB_OUTPUTS or path in PUBLISHED:
        return True
    return any(path == place or path.startswith(f"{place}/") for place in (*OWN, MACHINE_FEATURES, JOB_FEATURES))


def _is_status(found: object) -> bool:
    """Return whether a value has the form of a status: the view's root may write what it likes."""
    if not isinstance(found, dict) or found.get("result") not in tuple(EXIT_CODES):
        return False
    wanted = {
        "scripts": ("id", "state", "profile", "reason", "output", "late"),
        "verdicts": ("owner", "source", "verdict"),
    }
    return isinstance(found.get("boot_id"), str) and all(
        isinstance(found.get(key), list)
        and all(isinstance(each, dict) and set(each) >= {*names, "reason", "duration_s"} for each in found[key])
        for key, names in wanted.items()
    )


class _Story:
    """A boot under way."""

    def __init__(self, view: View, trial: Trial) -> None:
        self._view = view
        self._trial = trial
        self._site: Site | None = None
        if trial.has_service:
            folder = f"{layers.WORK}/service"
            os.mkdir(folder)
            self._site = _site(trial, folder)
        self.status: Mapping[str, Any] | None = None

    @contextlib.contextmanager
    def _service(self, *, is_up: bool = True) -> Iterator[list[Asked]]:
        """Have the metadata service at its address while the context lasts, if it is to be up."""
        if self._site is None or not is_up:
            yield []
            return
        with self._view.address(ADDRESS):
            with self._view.network():
                listening = listen(ADDRESS, 80)
            with served(listening, self._site.respond) as asked:
                yield asked

    def _words(self, *words: str) -> list[str]:
        policy = ("--policy", self._trial.policy) if self._trial.policy else ()
        return [*program.agent(), *words, *policy]

    def _sources(self) -> tuple[str, ...]:
        return ("--disk", self._trial.disk, "--metadata", f"http://{ADDRESS}" if self._site else "none")

    def plan(self) -> Mapping[str, Any]:
        """Return what the boot is going to do.

        Raises:
            ContextAgentError: The agent can't tell.
        """
        with self._service():
            ended = self._view.run(self._words("plan", *self._sources(), "--format", "json"))
        if ended.exit_code:
            said = [line.removeprefix("contextagent: ") for line in ended.err.splitlines()]
            error = ContextAgentError("\n".join(said) or f"cannot plan: exit code {ended.exit_code}", reason="no-plan")
            error.exit_code = ended.exit_code if ended.exit_code > 0 else 1
            raise error
        plan: Mapping[str, Any] = jsontext.loads(ended.out)
        return plan

    def phase(self, phase: Phase) -> PhaseRun:
        """Run one phase, going on where the agent was killed, and return how it went."""
        done = len(self.status["scripts"]) if self.status else 0
        messages: list[str] = []
        ended, restarts = None, -1
        with self._service(is_up=phase != "pre-network") as asked:
            while ended is None or (ended.exit_code < 0 and restarts < MOST_RESTARTS):
                restarts += 1
                resume = ("--resume",) if restarts else ()
                ended = self._view.run(self._words("run", phase, *self._sources(), *resume))
                messages += (ended.err + ended.out).splitlines()
        self._read_status()
        scripts = self.status["scripts"][done:] if self.status else []
        return PhaseRun(
            phase=phase,
            exit_code=ended.exit_code,
            restarts=restarts,
            messages=tuple(messages),
            scripts=tuple(scripts),
            tails={script["id"]: self._tail(script) for script in scripts if script["output"]},
            requests=tuple(asked),
        )

    def _read_status(self) -> None:
        """Read `status.json`; one that a script has spoiled is as good as none."""
        data = self._view.read(f"{RUN}/{STATUS}", max_bytes=_MAX_STATUS_BYTES)
        try:
            found = jsontext.loads(data or b"null")
        except ValueError:
            return
        if _is_status(found):
            self.status = found

    def _tail(self, script: Mapping[str, Any]) -> str:
        data = self._view.read(str(script["output"]), max_bytes=TAIL_BYTES) or b""
        return data.decode("utf-8", "backslashreplace")
