"""The watch from its start to its end: one process a machine, that leaves at once where there is nothing to watch."""

from __future__ import annotations

from contextagent.errors import ContextAgentError, InvalidInputError, TryLaterError
from contextagent.policy.settings import hear, load_image_policy
from contextagent.runner import wishes
from contextagent.runner.live import load_live
from contextagent.runner.state import State, load
from contextagent.watch.loop import Loop, Signals, begin_parts
from contextagent.watch.room import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.host.locks import Lock
    from contextagent.policy.settings import Settings
    from contextagent.runner.live import Live

LOCK = "watch.lock"
"""Below `Host.run_folder`: what the one watch holds."""


def keep_watch(host: Host, policy: str | None = None) -> None:
    """Watch until SIGTERM; SIGHUP makes it hear the policy and the context's settings again.

    Args:
        host: The machine; something was published in this boot.
        policy: `--policy`: a file instead of the image's own.

    Raises:
        TryLaterError: Another watch is there.
        InvalidInputError: The image's policy is invalid.
        CannotWriteError: The folder for the state of this boot can't be written.
    """
    lock = _lock(host)
    mark = wishes.Mark(host)
    signals = Signals()
    try:
        watch = _watch(host, policy)
        while watch is not None and Loop(watch, begin_parts(watch), signals).run(mark.put) == "again":
            watch = _again(watch, policy)
    finally:
        signals.close()
        mark.remove()
        lock.release()


def _lock(host: Host) -> Lock:
    try:
        return host.lock(f"{host.run_folder}/{LOCK}")
    except TryLaterError as error:
        message = f"cannot run 'watch': another one is watching this machine ('{host.run_folder}/{LOCK}')"
        raise TryLaterError(message) from error


def gather(host: Host, policy: str | None, live: Live) -> Watch:
    """Return what is known of this boot, as the watch begins with it.

    Args:
        host: The machine.
        policy: As in `keep_watch`.
        live: What was published.

    Raises:
        InvalidInputError: The image's policy is invalid.
    """
    state = load(host)
    if state is None or state.boot_id != host.boot_id():
        if state is not None and live.features:
            Watch.say("cannot read what is remembered of this boot, going on with what was published in it")
        state = State(instance_id=state.instance_id if state else "", boot_id=host.boot_id())
    return Watch(host, _settings(host, policy, state), state, live)


def _watch(host: Host, policy: str | None) -> Watch | None:
    """Return what to begin with; None where nothing was published in this boot."""
    live = load_live(host)
    return None if live is None else gather(host, policy, live)


def _settings(host: Host, policy: str | None, state: State) -> Settings:
    image = load_image_policy(host, policy)
    return hear(image, state.supplies, state.layers).settings


def _again(before: Watch, policy: str | None) -> Watch | None:
    """Return what to go on with after a SIGHUP; a policy that is invalid now changes nothing."""
    try:
        return _watch(before.host, policy)
    except InvalidInputError as error:
        for line in (*(problem.text() for problem in error.problems), str(error)):
            before.say(line)
    except ContextAgentError as error:
        before.say(str(error))
    before.say("going on with the settings as they were")
    return Watch(before.host, before.settings, before.state, load_live(before.host) or before.live)
