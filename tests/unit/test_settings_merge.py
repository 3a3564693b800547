"""What holds once every voice was heard: nobody says more than it may, and who is passed over is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.model import Supply
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.presets import PRESETS
from contextagent.policy.schema import ROWS, Key, find
from contextagent.policy.settings import Settings, hear, load_material, merge, shown

if TYPE_CHECKING:
    from contextagent.model import Voice
    from contextagent.policy.schema import Type

SITE = "site/stop/x.sh"
USER = "user/stop/x.sh"


def said(voice: Voice, text: str) -> Layer:
    return load_material(voice, voice[0], text.encode())


def merged(image: str = "", site: str = "", user: str = "", *, voice: Voice = "site-disk") -> Settings:
    return merge(said("image", image), said(voice, site), said("user", user))


def told(settings: Settings) -> list[str]:
    return [problem.text() for problem in settings.warnings if problem.reason != "not-yet-supported"]


def test_without_any_file_every_key_has_its_default() -> None:
    settings = merge(Layer(voice="image"))
    assert {name: settings[name] for name in settings.names()} == {
        row[0]: row[2] for row in ROWS if "ID" not in row[0] and "KEY" not in row[0]
    }
    assert {settings.origin(name).text() for name in settings.names()} == {"default"}
    assert settings.warnings == ()


def test_a_key_that_does_not_exist_is_a_bug_of_the_caller() -> None:
    with pytest.raises(KeyError, match=r"disk\.ejct"):
        merge(Layer(voice="image"))["disk.ejct"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_where_the_defaults_come_from_and_every_key_can_be_set_beside_it(preset: str) -> None:
    settings = merged(f"\npreset: {preset}")
    assert {name: settings[name] for name in PRESETS[preset]} == PRESETS[preset]
    assert {settings.origin(name).text() for name in PRESETS[preset]} <= {"preset i:2"}
    assert merged(f"preset: {preset}\nuser: {{profile: unprivileged}}")["user.profile"] == "unprivileged"


def test_a_preset_tells_which_of_its_keys_have_no_effect_yet() -> None:
    (warning,) = merged("preset: strict").warnings
    assert warning.text() == (
        "preset 'strict' also sets trust.disk, lockdown, environment.on_change: not yet supported, ignoring that"
    )


def test_a_site_may_only_tighten_the_caps() -> None:
    settings = merged("caps: {members: 100}", "caps: {members: 99, ratio: 200}")
    assert (settings["caps.members"], settings["caps.ratio"], told(settings)) == (99, 200, [])
    settings = merged("caps: {members: 100}", "\ncaps: {members: 101, ratio: 201}")
    assert (settings["caps.members"], settings["caps.ratio"]) == (100, 200)
    assert told(settings) == [
        "s:2: cannot set 'caps.members' to 101: only tighter than 100 (image i:1) is allowed, ignoring it",
        "s:2: cannot set 'caps.ratio' to 201: only tighter than 200 (default) is allowed, ignoring it",
    ]


def test_an_end_may_only_come_earlier_voice_by_voice() -> None:
    settings = merged("", "lifetime: {shutdowntime: 2000}", "lifetime: {shutdowntime: 1000}")
    assert settings["lifetime.shutdowntime"] == 1000
    assert settings.origin("lifetime.shutdowntime").text() == "user u:1"
    assert (
        merged("", "lifetime: {shutdowntime: 2000}", "lifetime: {shutdowntime: 3000}")["lifetime.shutdowntime"] == 2000
    )
    assert merged("lifetime: {shutdowntime: 9}", "lifetime: {shutdowntime: none}")["lifetime.shutdowntime"] == 9
    assert merged("", "lifetime: {shutdowntime: none}")["lifetime.shutdowntime"] is None


def test_a_site_by_disk_may_only_be_stricter_about_signatures() -> None:
    assert merged("", "trust: {metadata: enforce, disk: prefer}")["trust.metadata"] == "enforce"
    assert merged("trust: {disk: enforce}", "trust: {disk: off}")["trust.disk"] == "enforce"


@pytest.mark.parametrize(
    ("image", "site", "profile", "warning"),
    [
        ("user: {ceiling: root}", "user: {profile: root}", "root", ""),
        (
            "",
            "user: {profile: root}",
            "unprivileged",
            "s:1: cannot set 'user.profile' to root: 'user.ceiling' is unprivileged (default), ignoring it",
        ),
        ("preset: vacuum", "user: {profile: unprivileged}", "unprivileged", ""),
        (
            "user: {profile: root}",
            "",
            "unprivileged",
            "i:1: cannot set 'user.profile' to root: 'user.ceiling' is unprivileged (default), using unprivileged",
        ),
        (
            "user: {profile: root, ceiling: guarded}",
            "",
            "unprivileged",
            "i:1: cannot set 'user.profile' to root: 'user.ceiling' is guarded (image i:1), using unprivileged",
        ),
        ("user: {profile: root, ceiling: root}", "", "root", ""),
    ],
)
def test_nobody_raises_the_users_rights_above_the_images_ceiling(
    image: str, site: str, profile: str, warning: str
) -> None:
    settings = merged(image, site)
    assert settings["user.profile"] == profile
    assert told(settings) == [warning] * bool(warning)


def test_a_site_over_the_network_can_not_raise_the_users_rights() -> None:
    settings = merged("preset: vacuum\nuser: {profile: unprivileged}", "user: {profile: root}", voice="site")
    assert settings["user.profile"] == "unprivileged"
    assert any("may not set 'user.profile'" in text for text in told(settings))


def test_guarded_is_not_yet_supported_and_leaves_what_held_before() -> None:
    settings = merged("user: {ceiling: root, profile: guarded}\nsite: {profile: guarded}")
    assert (settings["user.profile"], settings["site.profile"]) == ("unprivileged", "root")
    assert [problem.text() for problem in settings.warnings] == [
        "i:1: cannot set 'user.profile' to guarded: not yet supported, ignoring it",
        "i:2: cannot set 'site.profile' to guarded: not yet supported, ignoring it",
    ]


def test_pilot_keys_are_the_users_only_where_the_policy_lets_it_bring_a_pilot() -> None:
    assert merged("", "", "pilot: {framework: dirac}")["pilot.framework"] is None
    assert merged("pilot: {from_user: yes}", "", "pilot: {framework: dirac}")["pilot.framework"] == "dirac"


def test_a_script_runs_by_the_defaults_where_nobody_says_anything() -> None:
    settings = merged()
    site, user = settings.script(SITE, "site"), settings.script(USER, "user")
    assert (site.frequency, site.on_error, site.rerun, site.daemons) == (None, "no-pilot", "", "keep")
    assert (user.frequency, user.on_error, user.rerun, user.daemons) == (None, "continue", "", "kill")
    assert site.limits.as_dict() == {
        "wall_s": 600,
        "cpu_s": None,
        "memory_bytes": None,
        "processes": 4096,
        "files": 1024,
        "output_bytes": 16 << 30,
    }
    assert settings.script_limits(USER, "user") == site.limits


def test_a_site_is_free_with_its_own_script_unless_the_image_bounds_it() -> None:
    words = f"scripts: {{{SITE}: {{wall_s: 3600, frequency: once, on_error: continue, rerun: safe, daemons: kill}}}}"
    script = merged("", words).script(SITE, "site")
    assert (script.frequency, script.on_error, script.rerun, script.daemons) == ("once", "continue", "safe", "kill")
    assert script.limits.wall_s == 3600
    bounded = merged(f"scripts: {{{SITE}: {{wall_s: 700, on_error: no-pilot}}}}", words)
    assert (bounded.script(SITE, "site").limits.wall_s, bounded.script(SITE, "site").on_error) == (700, "no-pilot")
    assert told(bounded) == [
        f"s:1: cannot set 'scripts.{SITE}.wall_s' to 3600: only tighter than 700 (image i:1) is allowed, ignoring it",
        (
            f"s:1: cannot set 'scripts.{SITE}.on_error' to continue: "
            "only tighter than no-pilot (image i:1) is allowed, ignoring it"
        ),
    ]


def test_a_user_may_only_tighten_the_limits_but_chooses_how_often_its_script_runs() -> None:
    script = merged("", "", f"scripts: {{{USER}: {{wall_s: 60, cpu_s: 5, frequency: every-boot, rerun: safe}}}}")
    assert script.script(USER, "user").limits.wall_s == 60
    assert script.script(USER, "user").limits.cpu_s == 5
    assert (script.script(USER, "user").frequency, script.script(USER, "user").rerun) == ("every-boot", "safe")
    greedy = merged("", "", f"scripts: {{{USER}: {{wall_s: 601, memory_bytes: none}}}}")
    assert greedy.script_limits(USER, "user").wall_s == 600
    assert told(greedy) == [
        f"u:1: cannot set 'scripts.{USER}.wall_s' to 601: only tighter than 600 (default) is allowed, ignoring it"
    ]
    bounded = merged(f"scripts: {{{USER}: {{cpu_s: 9}}}}", "", f"scripts: {{{USER}: {{cpu_s: none}}}}")
    assert bounded.script_limits(USER, "user").cpu_s == 9
    assert told(bounded) == [
        f"u:1: cannot set 'scripts.{USER}.cpu_s' to none: only tighter than 9 (image i:1) is allowed, ignoring it"
    ]
    raised = merged(f"scripts: {{{USER}: {{wall_s: 9000}}}}", "", f"scripts: {{{USER}: {{wall_s: 8000}}}}")
    assert raised.script_limits(USER, "user").wall_s == 8000


def test_features_are_gathered_from_both_voices_and_asked_for_as_a_whole() -> None:
    settings = merged("features: {machine: {hs06: 10, total_cpu: 8}}", "features: {machine: {hs06: 12}}")
    assert settings["features.machine"] == {"hs06": "12", "total_cpu": "8"}
    assert settings["features.job"] == {}
    assert [name for name in settings.names() if name.startswith("features.")] == [
        "features.machine.hs06",
        "features.machine.total_cpu",
    ]


def test_settings_of_scripts_stand_where_the_table_has_them_and_once() -> None:
    names = list(merged(f"scripts: {{{SITE}: {{files: 9, wall_s: 1}}}}").names())
    assert names[names.index("lockdown") + 1 : names.index("phase_budget_s")] == [
        f"scripts.{SITE}.files",
        f"scripts.{SITE}.wall_s",
    ]


IMAGE = "preset: hepix2012\nuser: {profile: unprivileged}"


def site_supply(text: str, **more: Any) -> Supply:
    return Supply(owner="site", source="disk:hepix", settings=("site.yaml", text), digest="d", **more)


def test_what_owners_supplied_is_heard_with_their_own_voices() -> None:
    by_disk = site_supply("user: {profile: root}", trust="channel")
    user = Supply(owner="user", source="disk:hepix", settings=("user.yaml", "disk: {eject: yes}"))
    heard = hear(said("image", IMAGE), {"site": by_disk, "user": user})
    assert (heard.settings["user.profile"], heard.settings["disk.eject"], heard.problems) == ("root", False, ())
    by_network = hear(said("image", IMAGE), {"site": by_disk.replace(trust="signed"), "user": None}, heard.layers)
    assert by_network.settings["user.profile"] == "unprivileged"


def test_what_was_heard_before_is_not_parsed_again() -> None:
    supply = site_supply("caps: {ratio: 7}\naccess: {root_keys: [x]}")
    first = hear(said("image", ""), {"site": supply})
    again = hear(said("image", ""), {"site": supply.replace(settings=("site.yaml", "not parsed: ["))}, first.layers)
    assert (again.settings["caps.ratio"], again.settings["access.root_keys"]) == (7, ("x",))
    assert again.layers == first.layers
    other = hear(said("image", ""), {"site": site_supply("caps: {ratio: 6}").replace(digest="e")}, first.layers)
    assert other.settings["caps.ratio"] == 6


def test_a_settings_file_that_is_invalid_is_left_out_and_all_of_it_is_told() -> None:
    text = "caps: {members: x, ratio: 1}\naccess: {root_keys: 7}"
    heard = hear(Layer(voice="image"), {"site": site_supply(text)})
    assert (heard.settings["caps.ratio"], heard.layers) == (200, {})
    assert [(each.reason, each.path, each.line) for each in heard.problems] == [
        ("invalid-site-settings", "site.yaml", 1),
        ("invalid-site-settings", "site.yaml", 2),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "yes"),
        (7, "7"),
        (("a", 1), "[a, 1]"),
        (({"name": "x"},), '[{"name":"x"}]'),
        ({}, "{}"),
    ],
)
def test_a_value_is_shown_as_a_person_writes_it(value: object, text: str) -> None:
    assert shown(value) == text


def values_of(kind: Type) -> st.SearchStrategy[Any]:
    """Return values as the reader makes them."""
    match kind[0]:
        case "words":
            return st.sampled_from(kind[1:])
        case "int":
            return st.none() | st.integers(kind[2], kind[3])
        case "bytes":
            return st.none() | st.integers(kind[1], kind[2])
        case "flag":
            return st.booleans()
        case "list":
            return st.lists(said_of(kind[1]), max_size=2).map(tuple)
        case "map":
            return st.dictionaries(st.sampled_from(["1", "2"]), said_of(kind[1]), max_size=2)
        case "record":
            return st.fixed_dictionaries({name: said_of(field) for name, field, _ in kind[1:]})
        case _:
            return st.sampled_from(["a", "b"])


def said_of(kind: Type) -> st.SearchStrategy[Any]:
    return values_of(kind).filter(lambda value: value is not None)


NAMES = [row[0].replace("ID", each).replace("KEY", "hs06") for row in ROWS for each in (SITE, USER)]
VALUES = st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), values_of(key_of(name).type)))


def key_of(name: str) -> Key:
    key = find(name)
    assert key is not None
    return key


def layers(voice: Voice) -> st.SearchStrategy[Layer]:
    """Return layers that say anything at all, also what the reader would have kept from the voice."""
    return st.lists(VALUES, max_size=12).map(
        lambda pairs: Layer(
            voice=voice, values={name: Setting(value=value, path=f"{voice}.yaml") for name, value in pairs}
        )
    )


def is_looser(key: Key, value: Any, bound: Any) -> bool:
    if bound is None or value == bound:
        return False
    if key.type[0] == "words":
        words = key.type[1:]
        return bool(words.index(value) > words.index(bound))
    return value is None or bool(value > bound)


SITES = st.sampled_from(["site", "site-disk"]).flatmap(layers)  # type: ignore[arg-type]  # both are voices


@given(image=layers("image"), site=SITES, user=layers("user"))
def test_no_voice_makes_a_bounded_key_looser_than_the_image_left_it(image: Layer, site: Layer, user: Layer) -> None:
    alone, settings = merge(image), merge(image, site, user)
    for name in NAMES:
        key = key_of(name)
        if "<" in key.who or (name.startswith(f"scripts.{USER}") and key.type[0] != "words"):
            assert not is_looser(key, settings[name], alone[name])
        if ">" in key.who:
            assert not is_looser(key, alone[name], settings[name])
    assert not is_looser(key_of("user.profile"), settings["user.profile"], alone["user.ceiling"])


@given(image=layers("image"), site=SITES, user=layers("user"))
def test_a_user_changes_no_key_that_is_not_the_users(image: Layer, site: Layer, user: Layer) -> None:
    without, settings = merge(image, site), merge(image, site, user)
    for name in NAMES:
        rule = key_of(name).rule("user")
        is_own = rule == "<" or (rule == "?" and without["pilot.from_user"]) or (rule == "/" and f".{USER}." in name)
        if not is_own:
            assert settings[name] == without[name]
            assert settings.origin(name) == without.origin(name)


@given(image=layers("image"), site=SITES, user=layers("user"))
def test_only_the_image_speaks_where_only_the_image_may(image: Layer, site: Layer, user: Layer) -> None:
    settings = merge(image, site, user)
    for name in NAMES:
        origin = settings.origin(name).voice
        if key_of(name).who == "I":
            assert origin in ("default", "preset", "image")
        if key_of(name).who == "S":
            assert origin in ("default", site.voice)


@pytest.mark.parametrize(
    ("site", "warning"),
    [
        ("\npilot: {framework: slurm}", "s:2: cannot start the pilot: 'pilot.framework' slurm is not yet supported"),
        ("pilot: {framework: command}", "s:1: cannot start the pilot: 'pilot.command' is missing, which framework"),
        (
            "pilot: {framework: panda, args: [-j, x]}",
            "s:1: cannot start the pilot: 'pilot.args' has no -q (the queue's",
        ),
        (
            "pilot: {framework: dirac, command: x; y}",
            "s:1: cannot start the pilot: 'pilot.args' can't be given to a line",
        ),
    ],
)
def test_a_pilot_that_could_be_started_nowhere_is_told_where_it_was_asked_for(site: str, warning: str) -> None:
    told = merged(site=site).warnings[-1].text()
    assert told.startswith(warning)
    assert told.endswith(", refusing the pilot")


def test_what_one_voice_leaves_out_of_a_pilot_another_may_have_said() -> None:
    settings = merged("pilot: {args: [-q, CLOUD]}", "pilot: {framework: panda}")
    assert told(settings) == []


BRINGS = "pilot: {from_user: yes}"


@pytest.mark.parametrize(
    ("image", "site", "user", "key", "holds", "cause"),
    [
        (BRINGS, "", "pilot: {user: root}", "pilot.user", None, "only contextuser is allowed"),
        (BRINGS, "", "pilot: {user: daemon}", "pilot.user", None, "only contextuser is allowed"),
        (BRINGS, "", "pilot: {user: contextuser}", "pilot.user", "contextuser", ""),
        ("preset: vacuum", "", "pilot: {user: root}", "pilot.user", "root", ""),
        (BRINGS, "pilot: {user: grid}", "pilot: {user: contextuser}", "pilot.user", "grid", "only grid is allowed"),
        (BRINGS, "pilot: {user: grid}", "pilot: {framework: dirac}", "pilot.framework", "dirac", ""),
        (
            BRINGS,
            "pilot: {framework: panda}",
            "pilot: {framework: dirac}",
            "pilot.framework",
            "panda",
            "'pilot.framework'",
        ),
        (BRINGS, "pilot: {command: x}", "pilot: {command: y}", "pilot.command", "x", "not the user's to bring"),
        (
            BRINGS,
            "pilot: {credential: {path: /x}}",
            "pilot: {command: y}",
            "pilot.command",
            None,
            "'pilot.credential.path'",
        ),
        (
            BRINGS,
            "pilot: {require_trace: configured}",
            "pilot: {require_trace: no}",
            "pilot.require_trace",
            "configured",
            "stricter",
        ),
        (
            BRINGS,
            "pilot: {require_trace: configured}",
            "pilot: {require_trace: reachable}",
            "pilot.require_trace",
            "reachable",
            "",
        ),
        (
            BRINGS,
            "pilot: {min_lifetime_s: 60}",
            "pilot: {min_lifetime_s: 59}",
            "pilot.min_lifetime_s",
            60,
            "not less than 60",
        ),
        (
            BRINGS,
            "pilot: {min_lifetime_s: 60}",
            "pilot: {min_lifetime_s: none}",
            "pilot.min_lifetime_s",
            60,
            "not less than 60",
        ),
        (BRINGS, "", "pilot: {min_lifetime_s: 59}", "pilot.min_lifetime_s", 59, ""),
        (BRINGS, "", "pilot: {result: {exit_codes: {0: 500}}}", "pilot.result.exit_codes", {}, "5xx are the host's"),
        (BRINGS, "", "pilot: {result: {exit_codes: {0: 300}}}", "pilot.result.exit_codes", {"0": 300}, ""),
        (
            BRINGS,
            "",
            "pilot: {result: {log_patterns: [{pattern: x, code: 100}]}}",
            "pilot.result.log_patterns",
            (),
            "codes 1xx",
        ),
        (BRINGS, "", "pilot: {stop: {timeout_s: 61}}", "pilot.stop.timeout_s", 60, "not more than 60"),
        (BRINGS, "pilot: {stop: {timeout_s: 600}}", "pilot: {stop: {timeout_s: 300}}", "pilot.stop.timeout_s", 300, ""),
    ],
)
def test_a_user_brings_a_pilot_of_its_own_and_loosens_nothing(
    image: str, site: str, user: str, key: str, holds: object, cause: str
) -> None:
    settings = merged(image, site, user)
    assert settings[key] == holds
    warnings = [each.message for each in settings.warnings if each.path == "u"]
    assert bool(warnings) == bool(cause)
    assert all(cause in each for each in warnings)


def test_a_user_who_may_bring_no_pilot_is_told_once() -> None:
    settings = merged(
        BRINGS, "pilot: {framework: panda, args: [-q, x]}", "pilot: {framework: command, command: y, args: [z]}"
    )
    (warning,) = settings.warnings
    assert warning.text() == (
        "u:1: cannot set 'pilot.framework' to command: the pilot is not the user's to bring, 'pilot.framework' is said "
        "(site-disk s:1), ignoring it"
    )
    assert (settings["pilot.command"], settings["pilot.args"]) == (None, ("-q", "x"))
