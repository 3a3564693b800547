"""What holds once every voice was heard: defaults, preset, image, site, user; nobody says more than it may."""

from __future__ import annotations

from contextagent import __version__
from contextagent.errors import InvalidInputError
from contextagent.jsontext import dumps
from contextagent.model import Limits, Problem, Value
from contextagent.policy.imagefile import load_image_policy
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.presets import PRESETS
from contextagent.policy.schema import OPEN_SECTIONS, ROWS, find, is_script_of, script_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from contextagent.model import Frequency, Owner, Supply, Voice
    from contextagent.policy.schema import Key

__all__ = ["Layer", "Setting", "Settings", "hear", "load_image_policy", "load_material", "merge", "shown"]

NOT_YET = (("user.profile", "guarded"), ("site.profile", "guarded"))
"""Values that have no effect yet, of keys that have one."""


def load_material(voice: Voice, name: str, data: bytes) -> Layer:
    """Return what a settings file of a site or user says (`site.yaml`, `user.json`).

    Raises:
        InvalidInputError: Something is wrong in what a person wrote; `problems` has all of it.
    """
    from contextagent.policy.loader import load  # noqa: PLC0415  # most contexts have no settings

    return load(voice, [(name, data)])


def hear(
    image: Layer, supplies: Mapping[Owner, Supply | None], kept: Mapping[str, Mapping[str, Any]] | None = None
) -> Heard:
    """Return what holds once the image and what each owner supplied were heard.

    A settings file that is invalid is left out.

    Args:
        image: The image's policy.
        supplies: What each owner supplied, if anything.
        kept: An earlier `Heard.layers` (by voice): what is unchanged in it is not parsed again.
    """
    layers: dict[Voice, Layer] = {}
    marks: dict[Voice, str] = {}
    problems: list[Problem] = []
    for owner, voice, digest, (name, text) in _spoken(supplies):
        marks[voice] = f"{__version__} {voice} {digest}"
        found = (kept or {}).get(voice)
        try:
            if found and digest and found.get("mark") == marks[voice]:
                layers[voice] = Layer.from_plain(found["layer"])
            else:
                layers[voice] = load_material(voice, name, text.encode("utf-8", "surrogateescape"))
        except InvalidInputError as error:
            problems += [each.replace(reason=f"invalid-{owner}-settings") for each in error.problems]
    return Heard(
        settings=merge(image, *(layers.get(voice) for voice in ("site-disk", "site", "user"))),
        layers={voice: {"mark": marks[voice], "layer": layer.as_plain()} for voice, layer in layers.items()},
        problems=tuple(problems),
    )


def _spoken(supplies: Mapping[Owner, Supply | None]) -> Iterator[tuple[Owner, Voice, str, tuple[str, str]]]:
    """Yield every settings file that was supplied: whose it is, with which voice it speaks, its digest, name and text.

    What a site-trusted disk said before a bundle was fetched by its word is heard beside the bundle's own.
    """
    for owner, supply in supplies.items():
        if supply and supply.directions:
            yield owner, "site-disk", supply.digest, supply.directions
        if supply and supply.settings:
            voice: Voice = "site-disk" if owner == "site" and supply.trust == "channel" else owner
            yield owner, voice, supply.digest, supply.settings


class Origin(Value):
    """Where a value comes from: `default`, or a voice with file and line; for `preset`, where that was chosen."""

    voice: str
    path: str = ""
    line: int = 0

    def text(self) -> str:
        """Return `voice`, or `voice path:line`."""
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{self.voice} {place}" if place else self.voice


class ScriptSettings(Value):
    """How one script is run; `frequency` None means by its owner's rule, `rerun` is `safe` or empty."""

    frequency: Frequency | None
    on_error: str
    rerun: str
    daemons: str
    limits: Limits


class Settings:
    """The effective value of every key: `settings["disk.eject"]`.

    Attributes:
        preset: The defaults that were started from.
        warnings: Everything that was passed over in any voice's words, and what happens next.
    """

    def __init__(
        self, preset: str, spoken: Mapping[str, tuple[Setting, str]], warnings: tuple[Problem, ...] = ()
    ) -> None:
        self.preset = preset
        self.warnings = warnings
        self._spoken = spoken
        self._preset = PRESETS[preset]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  # each key has its own type: policy.schema
        """Return a key's effective value; for an open section (`features.machine`), a dict of what is in it.

        Raises:
            KeyError: There is no such key: a bug of the caller.
        """
        if name in self._spoken:
            return self._spoken[name][0].value
        if name in self._preset:
            return self._preset[name]
        if f"{name}." in OPEN_SECTIONS:
            spoken = ((key, said) for key, (said, _) in self._spoken.items() if key.startswith(f"{name}."))
            return {key[len(name) + 1 :]: said.value for key, said in spoken}
        key = find(name)
        if key is None:
            raise KeyError(name)
        return key.default

    def section(self, name: str) -> dict[str, Any]:
        """Return the value of every key in a section, by the rest of its name: `stop.timeout_s` of `pilot`."""
        prefix = f"{name}."
        return {key[len(prefix) :]: self[key] for key, *_ in ROWS if key.startswith(prefix)}

    def origin(self, name: str) -> Origin:
        """Return who set a key, and where."""
        if name in self._spoken:
            said, voice = self._spoken[name]
            return Origin(voice=voice, path=said.path, line=said.line)
        return self.origin("preset").replace(voice="preset") if name in self._preset else Origin(voice="default")

    def names(self) -> Iterator[str]:
        """Yield the dotted key of every value, in the table's order; open sections only where something is in them."""
        for name, *_ in ROWS:
            section = next((each for each in OPEN_SECTIONS if name.startswith(each)), "")
            if not section:
                yield name
            elif name == "scripts.ID.wall_s" or section != OPEN_SECTIONS[0]:
                yield from sorted(key for key in self._spoken if key.startswith(section))

    def script(self, script_id: str, owner: Owner) -> ScriptSettings:
        """Return how the script of that id is run.

        A user's script never refuses the pilot, and leaves nothing running: for those two, the user has no say.
        """
        rerun = self[script_key(script_id, "rerun")]
        is_site = owner == "site"
        return ScriptSettings(
            frequency=self[script_key(script_id, "frequency")],
            on_error=self[script_key(script_id, "on_error")] if is_site else "continue",
            rerun="safe" if rerun == "safe" else "",
            daemons=self[script_key(script_id, "daemons")] if is_site else "kill",
            limits=self.script_limits(script_id, owner),
        )

    def script_limits(self, script_id: str, owner: Owner) -> Limits:
        """Return the bounds of the script of that id; its owner's own words are in them, where they may be."""
        del owner  # the id begins with it; callers name it, since a limit by owner is the next thing sites ask for
        return Limits(**{field: self[script_key(script_id, field)] for field in Limits._fields})


def pilot_problems(settings: Settings) -> Iterator[Problem]:
    """Yield what keeps the pilot of these settings from being started anywhere, at the place where it was asked for."""
    framework = settings["pilot.framework"]
    if framework is None:
        return
    from contextagent.pilots.frameworks import problems  # noqa: PLC0415  # most machines have no pilot

    origin = settings.origin("pilot.framework")
    for problem in problems(framework, settings.section("pilot")):
        message = f"{problem.message}, refusing the pilot"
        yield problem.replace(message=message, path=origin.path, line=origin.line)


def merge(image: Layer, *others: Layer | None) -> Settings:
    """Return the effective settings, each voice bounded by those above it: image, site by disk, site, user.

    A value that goes further than its voice may is ignored with a warning that names both; it never bounds anything.
    """
    preset = image.values["preset"].value if "preset" in image.values else "standard"
    merging = _Merging(preset)
    for layer in (image, *others):
        if layer is not None:
            merging.add(layer)
    return merging.settings()


class Heard(Value):
    """What holds, what to remember (voice to JSON, for the next `hear`), and what was wrong with the owners' files."""

    settings: Settings
    layers: Mapping[str, Mapping[str, Any]]
    problems: tuple[Problem, ...]


class _Merging:
    def __init__(self, preset: str) -> None:
        self._spoken: dict[str, tuple[Setting, str]] = {}
        self._warnings: list[Problem] = []
        self._view = Settings(preset, self._spoken)
        later = [name for name, value in PRESETS[preset].items() if _is_idle(name, value)]
        if later:
            message = f"preset '{preset}' also sets {', '.join(later)}: not yet supported, ignoring that"
            self._warnings.append(Problem(reason="not-yet-supported", message=message))

    def add(self, layer: Layer) -> None:
        """Take in what a voice says, as far as it may."""
        self._warnings += layer.warnings
        above = dict(self._spoken)
        told: set[str] = set()
        for name, said in layer.values.items():
            key = find(name)
            rule = key.rule(layer.voice) if key else None
            if key is None or rule is None:
                continue  # the reader has warned; a layer made otherwise says nothing here either
            why = self._refusal(key, rule, said, above, layer)
            if why and key.is_supported and not (rule == "?" and why in told):
                told.add(why)
                # a text of the writer's own may be a secret, and warnings go to everybody
                value = f" to {shown(said.value)}" if key.type[0] in ("words", "int", "flag", "bytes") else ""
                message = f"cannot set '{name}'{value}: {why}, ignoring it"
                reason = "not-yet-supported" if "not yet" in why else "looser"
                self._warnings.append(Problem(reason=reason, message=message, path=said.path, line=said.line))
            elif not why:
                self._spoken[name] = (said, layer.voice)
        if layer.voice == "image":
            self._lower_profile()

    def settings(self) -> Settings:
        """Return what came out."""
        return Settings(self._view.preset, self._spoken, (*self._warnings, *pilot_problems(self._view)))

    def _refusal(self, key: Key, rule: str, said: Setting, above: Mapping[str, Any], layer: Layer) -> str:
        """Return why a value does not hold, or nothing."""
        if (key.name, said.value) in NOT_YET:
            return "not yet supported"
        bound = self._view[key.name]
        origin = self._view.origin(key.name).text()
        match rule:
            case "<" if not _is_within(key, said.value, bound):
                return f"only tighter than {shown(bound)} ({origin}) is allowed"
            case ">" if not _is_within(key, bound, said.value):
                return f"only stricter than {shown(bound)} ({origin}) is allowed"
            case "^" if not _is_within(key, said.value, self._view["user.ceiling"]):
                return f"'user.ceiling' is {self._view['user.ceiling']} ({self._view.origin('user.ceiling').text()})"
            case "?":
                from contextagent.policy.userpilot import refusal  # noqa: PLC0415  # most users bring no pilot

                return refusal(key, said.value, self._view, above)
            case "/":
                return self._script_refusal(key, said, above, layer)
            case _:
                return ""

    def _script_refusal(self, key: Key, said: Setting, above: Mapping[str, Any], layer: Layer) -> str:
        owner: Owner = "user" if layer.voice == "user" else "site"
        if not is_script_of(key.name, owner):
            return f"it is not the {owner}'s script"
        is_limit = key.type[0] != "words"
        is_bounded = key.name in above or (owner == "user" and is_limit)
        bound = self._view[key.name]
        if is_bounded and not _is_within(key, said.value, bound):
            return f"only tighter than {shown(bound)} ({self._view.origin(key.name).text()}) is allowed"
        return ""

    def _lower_profile(self) -> None:
        """Keep the image's own `user.profile` below its ceiling: the two may stand in different files."""
        profile, ceiling = find("user.profile"), self._view["user.ceiling"]
        chosen = self._view["user.profile"]
        if profile is None or _is_within(profile, chosen, ceiling):
            return
        origin = self._view.origin("user.profile")
        lowered = "unprivileged" if ("user.profile", ceiling) in NOT_YET else ceiling
        self._spoken["user.profile"] = (Setting(value=lowered, path=origin.path, line=origin.line), "image")
        where = self._view.origin("user.ceiling").text()
        message = f"cannot set 'user.profile' to {chosen}: 'user.ceiling' is {ceiling} ({where}), using {lowered}"
        self._warnings.append(Problem(reason="looser", message=message, path=origin.path, line=origin.line))


def _is_idle(name: str, value: object) -> bool:
    """Whether a preset's value is another than the default, and has no effect yet."""
    key = find(name)
    return key is not None and not key.is_supported and value != key.default


def _is_within(key: Key, value: Any, bound: Any) -> bool:  # noqa: ANN401  # of the key's own type
    """Return whether a value is as tight as a bound: smaller, or earlier in the list of words; None is no bound."""
    if bound is None:
        return True
    if value is None:
        return False
    if key.type[0] == "words":
        words: tuple[str, ...] = key.type[1:]
        return words.index(value) <= words.index(bound)
    return bool(value <= bound)


def shown(value: object) -> str:
    """Return a value as a person writes it; records and maps as JSON."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple) and not any(isinstance(item, (tuple, dict)) for item in value):
        return f"[{', '.join(map(shown, value))}]"
    return dumps(value) if isinstance(value, (tuple, dict)) else str(value)
