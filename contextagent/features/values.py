"""What a machine publishes, and what may end it, from what everybody said: one value in, one value out, no clock.

Of several voices the nearest one counts: what the machine knows itself, the user's, what the service gave, the site's,
the settings'.  An end is no such value: every end that anybody announced counts, and the first of them is published in
`shutdowntime` and `shutdowntime_job` both, since no reader looks at all (docs/reference/features.md).
"""

from __future__ import annotations

from contextagent.features.lifetime import End, lifetime
from contextagent.features.vocabulary import OLDER, is_extra, published
from contextagent.model import Problem, Value
from contextagent.payloads.names import is_feature_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from contextagent.features.lifetime import Clock, Lifetime, Now
    from contextagent.model import Owner, Supply
    from contextagent.policy.settings import Settings

MACHINE_FEATURES = "/etc/machinefeatures"
JOB_FEATURES = "/etc/jobfeatures"
JOB_OUTPUTS = "/etc/joboutputs"

_SHUTDOWN, _SHUTDOWN_JOB = "machine/shutdowntime", "job/shutdowntime_job"
_START, _WALL, _CPU = "job/jobstart_secs", "job/wall_limit_secs", "job/cpu_limit_secs"
_GRACE, _GRACE_JOB = "machine/grace_secs", "job/grace_secs_job"
_NOT_THE_USERS = (_START, "job/jobstart", _GRACE, _GRACE_JOB, "machine/shutdown_command")
"""What would move an end that others set, or is run by root; a site's own of the machine is not the user's, either."""
_MOST_EXTRAS = 64
"""Of one voice: what is known of the machine is one file of bounded size, and must never become too large for it."""
_HOUR_S = 3600
_MAX_HOURS = 87_600
_URL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:/?#[]@!$&()*+,;=%")


class Facts(Value):
    """What a machine knows of itself.

    Attributes:
        cpus: That it may use; at least 1.
        memory_bytes: All of it; 0 where nobody says.
        swap_bytes: Likewise.
        uuid: Of the machine, or its name where nobody tells its UUID.
        now: This moment; its two clocks differ by whole seconds, which are the same until one of them is set.
        first_s: When the instance was first seen, by `first_clock`.
        first_clock: `boot` where that was in this boot, else `wall`.
        seen_s: When it was first seen in this boot, since boot.
    """

    cpus: int
    memory_bytes: int
    swap_bytes: int
    uuid: str
    now: Now
    first_s: float = 0.0
    first_clock: Clock = "boot"
    seen_s: float = 0.0

    @property
    def boot_epoch_s(self) -> int:
        """When this boot began, on the wall clock as it stands now."""
        return round(self.now.utc_s - self.now.boot_s)


class Voices(Value):
    """What everybody said.

    Attributes:
        settings: What holds of all voices' settings.
        supplies: What each owner supplied.
        read: `machine/KEY` and `job/KEY` to text, as addresses or folders that the context names gave them.
        is_read_sites: Whether the site named those; else they say what a user may say.
        outputs: Where the metadata says that job outputs go; empty where it does not.
        drain: The end that was asked for.
        notice: The end that the machine's host gave notice of.
    """

    settings: Settings
    supplies: Mapping[Owner, Supply | None]
    read: Mapping[str, str] = {}
    is_read_sites: bool = True
    outputs: str = ""
    drain: End | None = None
    notice: End | None = None


class Standing(Value):
    """What is to be published: nothing where `values` is empty.

    Attributes:
        values: `machine/KEY` or `job/KEY` to text, both vocabularies, sorted.
        ends: Everything that may end the machine.
        problems: What was passed over.
        outputs: Where job outputs go: a URL, or a folder of the guest; no slash at its end.
        is_outputs_given: Whether somebody named that place, or it is only the default folder.
        grace_s: Least notice of an end that the agent chooses.
        boot_epoch_s: When the boot began, as the values count it.
        lifetime: The end that comes first; None where none is known.
        is_said: Whether anybody said any of it, or the machine alone knows all there is.
        origins: Key to who said it: `settings`, `context`, `service`, `machine`, `lifetime` (the end that comes first),
            or the key that it was converted from.
    """

    values: Mapping[str, str] = {}
    ends: tuple[End, ...] = ()
    problems: tuple[Problem, ...] = ()
    outputs: str = JOB_OUTPUTS
    is_outputs_given: bool = False
    grace_s: int = 0
    boot_epoch_s: int = 0
    lifetime: Lifetime | None = None
    is_said: bool = False
    origins: Mapping[str, str] = {}


def standing(facts: Facts, voices: Voices) -> Standing:
    """Return what is to be published now; `values` is empty where nobody said anything at all."""
    if not _is_anything(voices):
        return Standing()
    problems: list[Problem] = []
    ends: list[End] = []
    said: dict[str, str] = {}
    origins: dict[str, str] = {}
    for origin, each in _said(voices, problems):
        if not each:
            continue
        values, troubles = published(each)
        problems += troubles
        ends += _announced(values)
        said |= values
        origins |= {key: origin if key in each else _source_of(key, each) for key in values}
    ends += _counted(facts, voices, said, problems)
    first = lifetime(ends, facts.now)
    present = {key: text for key, text in said.items() if key not in OLDER}
    outputs = _outputs(voices, problems)
    present.setdefault(_GRACE, str(voices.settings["lifetime.grace_s"]))
    origins.setdefault(_GRACE, "settings")
    values = published(_completed(present, facts, first))[0]
    if first:
        origins |= {_SHUTDOWN: "lifetime", _SHUTDOWN_JOB: "lifetime"}
    return Standing(
        values=values,
        ends=tuple(dict.fromkeys(ends)),
        problems=tuple(dict.fromkeys(problems)),
        outputs=outputs or JOB_OUTPUTS,
        is_outputs_given=bool(outputs),
        grace_s=int(present[_GRACE]),
        boot_epoch_s=facts.boot_epoch_s,
        lifetime=first,
        is_said=bool(said or ends or outputs),
        origins={key: origins.get(key) or (OLDER[key][0] if key in OLDER else "machine") for key in values},
    )


def _source_of(key: str, said: Mapping[str, str]) -> str:
    """Return which of the said keys another one was converted from."""
    if key in OLDER and OLDER[key][0] in said:
        return OLDER[key][0]
    meant = OLDER[key][0] if key in OLDER else key
    return next(older for older, (present, _) in OLDER.items() if present == meant and older in said)


def _is_anything(voices: Voices) -> bool:
    """Whether there is a context, or the policy says anything of features, lifetime or pilot."""
    settings = voices.settings
    return bool(
        any(voices.supplies.values())
        or voices.read
        or voices.outputs
        or voices.drain
        or voices.notice
        or settings["lifetime.max_s"] is not None
        or settings["lifetime.shutdowntime"] is not None
        or settings["pilot.framework"]
        or settings["features.machine"]
        or settings["features.job"]
    )


def _said(voices: Voices, problems: list[Problem]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each voice's name and what it said, the nearest last."""
    site, user = voices.supplies.get("site"), voices.supplies.get("user")
    yield "context", _named(_of_user(user.features, problems) if user else {}, problems)
    read = voices.read if voices.is_read_sites else _of_user(voices.read, problems)
    yield "service", _named(read, problems)
    yield "context", _named(site.features if site else {}, problems)
    settings = {f"machine/{key}": text for key, text in voices.settings["features.machine"].items()}
    settings |= {f"job/{key}": text for key, text in voices.settings["features.job"].items()}
    yield "settings", _named(settings, problems)


def _named(said: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    """Return what was said of keys that can be files, and of a voice's own no more than any reader looks for."""
    fine = {}
    extras: list[str] = []
    for key, text in said.items():
        folder, _, name = key.partition("/")
        if not (folder in ("machine", "job") and is_feature_key(name)):
            message = f"cannot publish '{ascii(key)[1:-1]}': it is not named in letters, digits and '_', ignoring it"
            problems.append(Problem(reason="bad-feature", message=message))
            continue
        extras += [key] if is_extra(key) else []
        if len(extras) <= _MOST_EXTRAS or not is_extra(key):
            fine[key] = text
    if len(extras) > _MOST_EXTRAS:
        cause = f"of {len(extras)} features with names of their own only {_MOST_EXTRAS} count"
        message = f"cannot publish '{extras[_MOST_EXTRAS]}': {cause}, ignoring it and those behind it"
        problems.append(Problem(reason="bad-feature", message=message))
    return fine


def _of_user(said: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    """Return what a user may say: nothing that ends later than others want it, nothing that root acts on."""
    fine = {}
    for key, text in said.items():
        if key in _NOT_THE_USERS or (is_extra(key) and not key.startswith("job/")):
            message = f"cannot publish '{ascii(key)[1:-1]}' as the user says it: it is the site's to say, ignoring it"
            problems.append(Problem(reason="not-the-users", message=message))
        else:
            fine[key] = text
    return fine


def _announced(values: Mapping[str, str]) -> Iterator[End]:
    """Yield the ends that one voice announces."""
    if _SHUTDOWN in values:
        yield End(by="shutdowntime", clock="wall", at_s=float(values[_SHUTDOWN]))
    if _SHUTDOWN_JOB in values:
        yield End(by="shutdowntime_job", clock="wall", at_s=float(values[_SHUTDOWN_JOB]))


def _counted(facts: Facts, voices: Voices, said: Mapping[str, str], problems: list[Problem]) -> Iterator[End]:
    """Yield the ends that are counted from a beginning, and those that somebody else has chosen."""
    settings = voices.settings
    if settings["lifetime.shutdowntime"] is not None:
        yield End(by="shutdowntime", clock="wall", at_s=float(settings["lifetime.shutdowntime"]))
    if _WALL in said and _START in said:
        yield End(by="wall_limit", clock="wall", at_s=float(said[_START]) + float(said[_WALL]))
    elif _WALL in said:
        yield End(by="wall_limit", clock="boot", at_s=float(said[_WALL]))
    for hours in _lives_h(voices, problems):
        yield End(by="ttl", clock="boot", at_s=hours * _HOUR_S)
    max_s = settings["lifetime.max_s"]
    if max_s is not None:
        yield End(by="policy", clock=facts.first_clock, at_s=facts.first_s + max_s)
        if facts.first_clock == "wall":  # a clock that was set back, or stands in 1970, makes no life longer
            yield End(by="policy", clock="boot", at_s=facts.seen_s + max_s)
    yield from (end for end in (voices.notice, voices.drain) if end is not None)


def _lives_h(voices: Voices, problems: list[Problem]) -> Iterator[float]:
    """Yield the hours to live that a `context.sh` gives."""
    for supply in voices.supplies.values():
        text = supply.variables.get("TTL", "").strip() if supply else ""
        whole, _, fraction = text.partition(".")
        is_number = text.isascii() and whole.isdigit() and (fraction.isdigit() or "." not in text)
        if is_number and len(text) <= len(str(_MAX_HOURS)) + 6 and 0 < float(text) <= _MAX_HOURS:
            yield float(text)
        elif text:
            said = ascii(text)[1:-1][:64]
            message = f"cannot use 'TTL' of context.sh: it is no number of hours: '{said}', ignoring it"
            problems.append(Problem(reason="bad-feature", message=message))


def _outputs(voices: Voices, problems: list[Problem]) -> str:
    """Return where somebody wants job outputs to go; empty where nobody does.

    A folder is the site's to name: what a pilot leaves is put there with the rights of its owner, maybe root.
    """
    user = voices.supplies.get("user")
    site_says = sites_variables(voices.supplies).get("JOBOUTPUTS", "").strip()
    user_says = user.variables.get("JOBOUTPUTS", "").strip() if user else ""
    for text, is_sites in ((site_says, True), (user_says, False), (voices.outputs, False)):
        place = text.rstrip("/")
        if place and (is_address(place) or (is_sites and is_folder(place))):
            return place
        if text:
            cause = "it is no http(s) address" + (
                " and no folder" if is_sites else ", and only the site names a folder"
            )
            message = f"cannot send outputs to '{ascii(text)[1:-1][:64]}': {cause}, ignoring it"
            problems.append(Problem(reason="bad-feature", message=message))
    return ""


def sites_variables(supplies: Mapping[Owner, Supply | None]) -> dict[str, str]:
    """Return the variables that the site itself says: its scripts see those of a disk that is the user's as well."""
    site, user = supplies.get("site"), supplies.get("user")
    theirs = user.variables if user else {}
    return {name: text for name, text in (site.variables if site else {}).items() if theirs.get(name) != text}


def is_address(text: str) -> bool:
    """Return whether a text is an address by HTTP, with nothing in it that a shell would change, or none should see."""
    from contextagent.payloads.weburl import parse_web_url  # noqa: PLC0415  # most contexts name none

    try:
        parse_web_url(text)
    except ValueError:
        return False
    return _URL_CHARACTERS.issuperset(text)


def is_folder(text: str) -> bool:
    """Return whether a text is the plain path of a folder."""
    is_plain = text.startswith("/") and _URL_CHARACTERS.issuperset(text) and len(text) <= 1 << 10
    return is_plain and not {"", ".", ".."}.intersection(text[1:].split("/"))


def _completed(present: dict[str, str], facts: Facts, first: Lifetime | None) -> dict[str, str]:
    """Return the values with what the machine knows itself, and with the first end in each place that is looked at."""
    present.setdefault("machine/total_cpu", str(facts.cpus))
    present.setdefault("job/allocated_cpu", present["machine/total_cpu"])
    present.setdefault(_GRACE_JOB, present[_GRACE])
    present.setdefault(_START, str(max(facts.boot_epoch_s, 0)))
    if facts.uuid:
        present.setdefault("job/job_id", facts.uuid)
    if facts.memory_bytes:
        present.setdefault("job/max_rss_bytes", str(facts.memory_bytes))
        present.setdefault("job/max_swap_bytes", str(facts.swap_bytes))
    if first:
        present[_SHUTDOWN] = present[_SHUTDOWN_JOB] = str(first.shutdown_epoch_s)
        present.setdefault(_WALL, str(max(first.shutdown_epoch_s - int(present[_START]), 0)))
    if _WALL in present:
        present.setdefault(_CPU, str(int(present[_WALL]) * int(present["job/allocated_cpu"])))
    return present
