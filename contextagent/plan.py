"""The plan: what a phase will do to the machine, as a value that `plan` prints and `run` executes.

The order is the contract's (docs/reference/context.md, "Order"): user before site in each group, because the site's
word is the last one before the payload starts; site before user when the machine stops.
"""

from __future__ import annotations

from contextagent.digests import sha512_hex
from contextagent.model import OWNERS, PHASES, PlacedFile, Plan, Step, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from contextagent.collectors import Target
    from contextagent.features.values import Standing
    from contextagent.model import Frequency, Kept, LoginKey, Owner, Phase, Profile, Script, Supply
    from contextagent.policy.settings import Settings


class Situation(Value):
    """Everything a plan depends on beside what the owners supplied.

    Attributes:
        settings: Effective settings.
        is_caller: Scripts run with the caller's rights (`--root`).
        once: What is known of `once` steps of this instance: id to (SHA-512, outcome).
        is_forced: Once-markers are ignored (`--force`).
        is_cloud_init: cloud-init is enabled in the image and executes user data itself.
        late: Owners whose pre-network scripts were not known, or not run, before the network came up.
        is_user_withheld: The trace is full and policy is `strict`: nothing of the user's runs.
        begun: Ids of scripts that an agent began in this boot before it was killed, with the outcome (`done`,
            `interrupted`); they are not begun again, unless they were interrupted and their settings say `rerun: safe`.
        log_targets: What each log daemon of the machine is told; None where the site asks for no logging.
        logs_wanted: Where the site wants logs sent.
        logs_barred: Why they can't be sent there at all; empty as a rule.
        log_leftovers: What daemons were told by an earlier boot, and are not any more.
        features: What is to be published, or taken back where it is empty; None where there is neither.
        has_pilot: There has been a pilot in this boot, whatever the settings say of it by now.
        features_ours: Keys of a site's own that the boot before left published.
    """

    settings: Settings
    is_caller: bool = False
    once: Mapping[str, tuple[str, str]] = {}
    is_forced: bool = False
    is_cloud_init: bool = False
    late: tuple[Owner, ...] = ()
    is_user_withheld: bool = False
    begun: Mapping[str, str] = {}
    log_targets: tuple[Target, ...] | None = None
    logs_wanted: tuple[str, ...] = ()
    logs_barred: str = ""
    log_leftovers: tuple[Target, ...] = ()
    features: Standing | None = None
    has_pilot: bool = False
    features_ours: tuple[str, ...] = ()


def make_plan(phase: Phase | None, supplies: Mapping[Owner, Supply | None], situation: Situation) -> Plan:
    """Return the steps of one phase in the order in which they are taken, or of all phases where `phase` is None."""
    steps: list[Step] = []
    for each in PHASES if phase is None else (phase,):
        steps += _pilot(each, supplies, situation) if each == "stop" else _features(each, situation)
        steps += _logs_before(each, supplies.get("site"), situation)
        for owner, group, is_late in _groups(each, situation.late):
            supply = supplies.get(owner)
            if supply is None:
                continue
            if _is_first_group(each, owner, situation.late, is_late=is_late):
                steps += _placements(each, supply, situation)
            scripts = [_script_step(script, situation, is_late=is_late) for script in _ranked(supply, group)]
            steps += scripts
            if scripts and owner == "user":
                is_root = profile_of("user", situation.settings, is_caller=situation.is_caller) == "root"
                steps += _logs(each, situation, "again-after-root" if is_root else "again", is_late=is_late)
        steps += _logs_after(each, situation)
        steps += _pilot(each, supplies, situation) if each == "post-network" else ()
    return Plan(phase=phase, steps=tuple(steps))


def is_logging_asked(settings: Settings) -> bool:
    """Return whether the settings ask for anything that the agent would have to set up a log daemon for."""
    return bool(settings["logging.collectors"] or settings["logging.audit"] or settings["logging.journal_upload"])


def _pilot(phase: Phase, supplies: Mapping[Owner, Supply | None], situation: Situation) -> Iterable[Step]:
    """Return the step for the pilot: the last one before the machine works, and the first one when it stops."""
    settings = situation.settings
    if not (settings["pilot.framework"] or settings["pilot.from_user"] or situation.has_pilot):
        return ()
    from contextagent.pilots.steps import pilot_steps  # noqa: PLC0415  # most machines have no pilot

    user = supplies.get("user")
    return pilot_steps(phase, user, settings, is_caller=situation.is_caller, is_there=situation.has_pilot)


def _features(phase: Phase, situation: Situation) -> Iterable[Step]:
    """Return the step that publishes features before anybody's script looks for them."""
    told = situation.features
    if told is not None and phase != "stop":
        text = "".join(f"{key}={value}\n" for key, value in told.values.items())
        yield Step(
            id=f"site/{phase}/features",
            kind="file",
            owner="site",
            phase=phase,
            sha512=sha512_hex(text.encode("utf-8", "surrogateescape")),
            profile="caller" if situation.is_caller else "root",
            limits=None,
            frequency="every-boot",
            skip=None,
            late=False,
            target=situation.settings["pilot.user"] or situation.settings["user.account"],
            lines=situation.features_ours,
            argument="features",
            told=(told,),
        )


def _logs_before(phase: Phase, site: Supply | None, situation: Situation) -> Iterable[Step]:
    """Return the steps that set logging up before anybody's script, with those of the site's files that they need."""
    for told in situation.log_leftovers if phase != "stop" else ():
        yield _log_step(f"site/{phase}/logging:{told.daemon}:withdraw", phase, situation, "withdraw", (told,))
    if not situation.log_targets or phase == "stop":
        return
    ends = [end for told in situation.log_targets for end in told.connect]
    needed = {path for end in ends for path in (end.ca, end.cert, end.key)}
    if site and phase == ("post-network" if "site" in situation.late else "pre-network"):
        profile = profile_of("site", situation.settings, is_caller=situation.is_caller)
        yield from (_file_step(placed, phase, profile, situation) for placed in site.files if placed.target in needed)
    yield from _logs(phase, situation, "first")


def _logs_after(phase: Phase, situation: Situation) -> Iterable[Step]:
    """Return the step that finds out, after everybody's scripts, how far the logs go; at a stop, that sends them."""
    if situation.log_targets is not None:
        argument = "flush" if phase == "stop" else "delivered"
        step = _log_step(f"site/{phase}/logging:{argument}", phase, situation, argument, situation.log_targets)
        yield step.replace(lines=situation.logs_wanted, content=situation.logs_barred)


def _logs(phase: Phase, situation: Situation, argument: str, *, is_late: bool = False) -> Iterable[Step]:
    """Return a step for each log daemon: told at `first`, and `again…` after the user's scripts."""
    mark = "" if argument == "first" else ":again-late" if is_late else ":again"
    for told in situation.log_targets or ():
        step_id = f"site/{phase}/logging:{told.daemon}{mark}"
        yield _log_step(step_id, phase, situation, argument, (told,))


def _told_sha512(told: Sequence[Target]) -> str:
    """Return one digest over the files that log daemons are told by."""
    texts = (f"{file.path}\0{file.text}\0" for each in told for file in each.files)
    return sha512_hex("".join(texts).encode("utf-8", "surrogateescape"))


def _log_step(step_id: str, phase: Phase, situation: Situation, argument: str, told: tuple[Target, ...]) -> Step:
    return Step(
        id=step_id,
        kind="reload",
        owner="site",
        phase=phase,
        sha512=_told_sha512(told),
        profile="caller" if situation.is_caller else "root",
        limits=None,
        frequency="every-boot",
        skip=None,
        late=False,
        target=" ".join(each.daemon for each in told),
        argument=argument,
        told=told,
    )


def _groups(phase: Phase, late: Sequence[Owner]) -> list[tuple[Owner, Phase, bool]]:
    """Return (owner, whose scripts of which phase, late) in order; in `stop` the site comes first."""
    if phase == "stop":
        return [(owner, phase, False) for owner in reversed(OWNERS)]
    groups: list[tuple[Owner, Phase, bool]] = [(owner, phase, False) for owner in OWNERS]
    if phase == "post-network":
        return [(owner, "pre-network", True) for owner in OWNERS if owner in late] + groups
    return [group for group in groups if group[0] not in late]


def _is_first_group(phase: Phase, owner: Owner, late: Sequence[Owner], *, is_late: bool) -> bool:
    """Whether files and keys go before this group: they precede the owner's first script of the boot."""
    return is_late if owner in late else phase == "pre-network"


def _ranked(supply: Supply, phase: Phase) -> list[Script]:
    """Return the scripts of a phase by rank, and as supplied within one (sorting is stable)."""
    return sorted((script for script in supply.scripts if script.phase == phase), key=lambda script: script.rank)


def profile_of(owner: Owner, settings: Settings, *, is_caller: bool) -> Profile:
    """Return the rights that an owner's scripts get (docs/reference/rights.md)."""
    if is_caller:
        return "caller"
    profile: Profile = settings["user.profile" if owner == "user" else "site.profile"]
    return profile


def _script_step(script: Script, situation: Situation, *, is_late: bool) -> Step:
    chosen = situation.settings.script(script.id, script.owner)
    frequency: Frequency = chosen.frequency or ("once" if script.owner == "user" else "every-boot")
    if script.phase == "stop":
        frequency = "every-boot"
    return Step(
        id=script.id,
        kind="script",
        owner=script.owner,
        phase=script.phase,
        sha512=script.sha512,
        profile=profile_of(script.owner, situation.settings, is_caller=situation.is_caller),
        limits=chosen.limits,
        frequency=frequency,
        skip=_skip(
            script.id,
            script.sha512,
            script.owner,
            frequency,
            situation,
            rerun=chosen.rerun,
            is_user_data=script.is_user_data,
        ),
        late=is_late,
        content=script.content,
        argument="stop" if script.phase == "stop" else "start",
        daemons=chosen.daemons,
        on_error=chosen.on_error,
        rerun=chosen.rerun,
    )


def _skip(  # each argument is one ground for skipping
    step_id: str,
    sha512: str,
    owner: Owner,
    frequency: Frequency,
    situation: Situation,
    *,
    rerun: str = "",
    is_user_data: bool = False,
) -> str | None:
    """Return the fixed reason why a step is not taken, or None."""
    if owner == "user" and situation.is_user_withheld:
        return "trace-full"
    if is_user_data and situation.is_cloud_init:
        return "cloud-init"
    known_sha512, outcome = (sha512, situation.begun[step_id]) if step_id in situation.begun else ("", "")
    if not outcome and frequency == "once" and not situation.is_forced:
        known_sha512, outcome = situation.once.get(step_id, ("", ""))
    if not outcome or known_sha512 != sha512:
        return None
    if outcome == "done":
        return "done" if step_id in situation.begun else "once-done"
    return None if rerun == "safe" else "interrupted"


def _placements(phase: Phase, supply: Supply, situation: Situation) -> Iterable[Step]:
    """Return the steps that put an owner's files and keys in place, before its first script of the boot."""
    profile = profile_of(supply.owner, situation.settings, is_caller=situation.is_caller)
    for placed in (*supply.files, *(_place_of(kept, supply.owner) for kept in supply.kept if kept.name[0] == "/")):
        yield _file_step(placed, phase, profile, situation)
    for account, lines, argument in _logins(supply, situation.settings):
        sha512 = sha512_hex("\n".join((argument, *lines)).encode("utf-8", "surrogateescape"))
        yield Step(
            id=f"{supply.owner}/{phase}/account:{account}",
            kind="account",
            owner=supply.owner,
            phase=phase,
            sha512=sha512,
            profile=profile,
            limits=None,
            frequency="every-boot",
            skip=_skip("", sha512, supply.owner, "every-boot", situation),
            late=False,
            target=account,
            lines=lines,
            argument=argument,
        )


def _place_of(kept: Kept, owner: Owner) -> PlacedFile:
    """Return a kept payload that another program (amiconfig) looks for at a place of its own, as a file to place."""
    return PlacedFile(
        owner=owner,
        target=kept.name,
        sha512=kept.sha512,
        size_bytes=kept.size_bytes,
        mode=0o600,
        content=kept.content,
    )


def _file_step(placed: PlacedFile, phase: Phase, profile: Profile, situation: Situation) -> Step:
    step_id = f"{placed.owner}/{phase}/files{placed.target}"
    frequency: Frequency = "once" if placed.owner == "user" else "every-boot"
    return Step(
        id=step_id,
        kind="file",
        owner=placed.owner,
        phase=phase,
        sha512=placed.sha512,
        profile=profile,
        limits=None,
        frequency=frequency,
        skip=_skip(step_id, placed.sha512, placed.owner, frequency, situation, is_user_data=placed.is_user_data),
        late=False,
        content=placed.content,
        target=placed.target,
        mode=placed.mode,
        link=placed.link,
    )


def _logins(supply: Supply, settings: Settings) -> list[tuple[str, tuple[str, ...], str]]:
    """Return (account, its login keys, how it is had), in the order first named.

    A user's keys go to the user's account only. How: `there` (it must be), `make`, or `sudo` (made; may become root).
    """
    users_own: str = settings["user.account"]
    keys: dict[str, list[str]] = {}
    how: dict[str, str] = {}
    for key in supply.keys:
        keys.setdefault(_account_of(key, users_own), []).append(key.line)
    if supply.owner == "site":
        for line in settings["access.root_keys"] or ():
            keys.setdefault("root", []).append(line)
        for account in settings["access.accounts"] or ():
            keys.setdefault(account["name"], []).extend(account.get("keys") or ())
            how[account["name"]] = "sudo" if account.get("sudo") else "make"
    return [(account, tuple(dict.fromkeys(lines)), how.get(account, "there")) for account, lines in keys.items()]


def _account_of(key: LoginKey, users_own: str) -> str:
    return users_own if key.owner == "user" else key.account or "root"
