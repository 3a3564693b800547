"""Reading settings files: a key's type decides, everything wrong is said at once, nothing foreign gets through."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import InvalidInputError
from contextagent.policy.loader import check, load
from contextagent.policy.schema import ROWS, find, row_name
from contextagent.policy.yamltext import MAX_BYTES, read_json, read_yaml

if TYPE_CHECKING:
    from contextagent.model import Voice
    from contextagent.policy.yamltext import Node

VOICES: tuple[Voice, ...] = ("image", "site-disk", "site", "user")


def value(text: str, key: str, *, voice: Voice = "image") -> Any:
    return load(voice, [("policy.yaml", text.encode())]).values[key].value


def errors(text: str | bytes, *, voice: Voice = "image", name: str = "policy.yaml") -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [problem.text() for problem in check(voice, [(name, data)])[1]]


def warnings(text: str, *, voice: Voice, name: str = "site.yaml") -> list[str]:
    return [problem.text() for problem in check(voice, [(name, text.encode())])[0].warnings]


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("disk: {eject: no}", "disk.eject", False),
        ("disk: {eject: yes}", "disk.eject", True),
        ("disk: {eject: 'yes'}", "disk.eject", True),
        ("disk: {eject: true}", "disk.eject", True),
        ("user: {account: no}", "user.account", "no"),
        ("user: {account: 'no'}", "user.account", "no"),
        ("metadata: {required: yes}", "metadata.required", "yes"),
        ("metadata: {bundle: 012}", "metadata.bundle", "012"),
        ("metadata: {bundle: 1e3}", "metadata.bundle", "1e3"),
        ("trust: {site: 1:30}", "trust.site", "1:30"),
        ("features: {machine: {hs06: 12.50}}", "features.machine.hs06", "12.50"),
        ("phase_budget_s: 1800", "phase_budget_s", 1800),
        ("phase_budget_s: '1800'", "phase_budget_s", 1800),
        ("caps: {member_bytes: 16777216}", "caps.member_bytes", 16 << 20),
        ("caps: {member_bytes: 16 MiB}", "caps.member_bytes", 16 << 20),
        ("caps: {member_bytes: 1GiB}", "caps.member_bytes", 1 << 30),
        ("sources: [disk]", "sources", ("disk",)),
        ("sources: []", "sources", ()),
        ("disk: {site_devices: [rom, xvdb]}", "disk.site_devices", ("rom", "xvdb")),
        ("trust: {ca_dir: /etc/pki}", "trust.ca_dir", "/etc/pki"),
        ("metadata: {address: 'http://[fd00::1]:80/x'}", "metadata.address", "http://[fd00::1]:80/x"),
        ("lifetime: {max_s: none}", "lifetime.max_s", None),
        ("logging: {script_output: none}", "logging.script_output", "none"),
        ("watch: {http: off}", "watch.http", "off"),
        ("watch: {http: 127.0.0.1:8253}", "watch.http", "127.0.0.1:8253"),
        ("watch: {http: 127.0.0.1:38253}", "watch.http", "127.0.0.1:38253"),
        ("pilot: {restart: {max: 0}}", "pilot.restart.max", 0),
        ("pilot: {args: ['-N', no, 012]}", "pilot.args", ("-N", "no", "012")),
        ("pilot: {env: {TTL: 012}}", "pilot.env", {"TTL": "012"}),
        ("pilot: {command: /opt/pilot.sh}", "pilot.command", "/opt/pilot.sh"),
        ("pilot: {command: [/opt/pilot.sh, -x, no]}", "pilot.command", ("/opt/pilot.sh", "-x", "no")),
        ("pilot: {command: 'exec ./pilot -x'}", "pilot.command", "exec ./pilot -x"),
        ("pilot: {files: {pilot.json: '{}'}}", "pilot.files", {"pilot.json": "{}"}),
        ("pilot: {stop: {signal: SIGINT}}", "pilot.stop.signal", "INT"),
        ("pilot: {stop: {signal: USR1}}", "pilot.stop.signal", "USR1"),
        ("pilot: {stop: {signal: 2}}", "pilot.stop.signal", "INT"),
        ("pilot: {stop: {command: [/opt/stop, now]}}", "pilot.stop.command", ("/opt/stop", "now")),
        ("pilot: {result: {exit_codes: {0: 200, 255: 600}}}", "pilot.result.exit_codes", {"0": 200, "255": 600}),
        (
            "pilot: {result: {log_patterns: [{pattern: no work, code: 300}]}}",
            "pilot.result.log_patterns",
            ({"pattern": "no work", "code": 300},),
        ),
        ("pilot: {result: {empty_file: spool/history}}", "pilot.result.empty_file", "spool/history"),
        ("pilot: {outputs: [log/a.txt, /var/log/b]}", "pilot.outputs", ("log/a.txt", "/var/log/b")),
        (
            "trust: {signers: [{subject: /CN=a, issuer: /CN=b}]}",
            "trust.signers",
            ({"subject": "/CN=a", "issuer": "/CN=b"},),
        ),
    ],
)
def test_the_type_of_its_key_decides_what_a_word_means(text: str, key: str, expected: object) -> None:
    assert value(text, key) == expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("disk: {broken: no}", "cannot set 'disk.broken': 'no' is not one of stop, next"),
        ("disk: {eject: maybe}", "cannot set 'disk.eject': 'maybe' is not yes or no"),
        ("phase_budget_s: 012", "write 12: a leading zero is read as octal elsewhere"),
        ("phase_budget_s: 1:30", "'1:30' is not a whole number of seconds from 1 to 315360000"),
        ("phase_budget_s: 1e3", "'1e3' is not a whole number of seconds"),
        ("phase_budget_s: -1", "'-1' is not a whole number of seconds"),
        ("phase_budget_s: 0", "'0' is not a whole number of seconds from 1"),
        ("phase_budget_s: ٣", "'٣' is not a whole number of seconds"),
        ("phase_budget_s: 9" + 70 * "9", "9…' is not a whole number of seconds"),
        ("phase_budget_s:", "it has no value: a whole number of seconds"),
        ("trust: {site: ~}", "'~' is no value; quote it if it is meant: a text is wanted"),
        ("trust: {site: {name}}", "a map is not a text; quote it if the braces belong to the text"),
        ("trust: {site: {{ name }}}", "not a list or a map; quote it if the braces belong to the text"),
        ("preset: a: b", "there is a second ': ' in the line; quote it if it belongs to the value"),
        ("trust: {site: @x}", "quote it if it belongs to the value"),
        ('trust: {site: "a\\0b"}', "the control character U+0000"),
        ('trust: {site: "a\\nb"}', "the control character U+000A"),
        ('trust: {site: "\\ud800"}', "half a character"),
        ("caps: {member_bytes: 16 MB}", "'16 MB' is not a whole number of bytes, or of KiB, MiB or GiB"),
        ("caps: {member_bytes: 0}", "'0' is not a whole number of bytes"),
        ("sources: disk", "'disk' is not a list, each one of disk, metadata; write [disk]"),
        ("sources: [disk, disk]", "'disk' stands twice"),
        ("sources: {disk: yes}", "a map is not a list"),
        ("disk: {site_devices: [/dev/vdb]}", "write vdb"),
        ("disk: {site_devices: [../vdb]}", "'../vdb' is not rom, or a device's name"),
        ("disk: yes", "'disk' holds keys, not 'yes'"),
        ("user: {account: root}", "'root' is not the name of an account without root's rights"),
        ("user: {account: 0day}", "'0day' is not the name of an account"),
        ("metadata: {address: 169.254.169.254}", "address; it does not begin with http://"),
        ("metadata: {address: 'http://cloud.example'}", "its host is no literal address, and names are not looked up"),
        ("logging: {journal_upload: 'http://a b'}", "is not an http or https URL"),
        ("metadata: {bundle: ../x}", "is not a file name"),
        ('metadata: {bundle: ""}', "is not a file name"),
        ("trust: {ca_dir: relative}", "is not an absolute path"),
        ("trust: {ca_dir: /a/../b}", "is not an absolute path"),
        ("trust: {signers: [{subject: x}]}", "'issuer' is missing in a map of subject, issuer"),
        ("trust: {signers: [{subject: x, issuer: y, z: 1}]}", "unknown field 'z'"),
        ("trust: {signers: [{subject: x, issuer: [y]}]}", "'issuer': a list is not a text"),
        ("trust: {signers: [x]}", "'x' is not a map of subject, issuer"),
        ("pilot: {framework: slurmd}", "'slurmd' is not one of dirac, panda, htcondor"),
        ("pilot: {command: []}", "no program stands in the list"),
        ("pilot: {command: [[a]]}", "a list is not a text"),
        ("pilot: {command: {a: b}}", "a map is not a text, or a list of texts"),
        ("pilot: {command: ' '}", "' ' is not a text, or a list of texts"),
        ("pilot: {env: {A-B: x}}", "'A-B' is not a variable's name"),
        ("pilot: {files: {../x: y}}", "'../x' is not a file name without a slash"),
        ("pilot: {stop: {signal: STOP}}", "'STOP' is not a signal's name; write one of HUP, INT"),
        ("pilot: {result: {exit_codes: {256: 200}}}", "'256' is not an exit code from 0 to 255"),
        ("pilot: {result: {exit_codes: {0: done}}}", "'0': 'done' is not a whole number from 100 to 799"),
        ("pilot: {result: {log_patterns: [{pattern: '*', code: 300}]}}", "this one is in every line"),
        ("pilot: {result: {log_patterns: [{pattern: x}]}}", "'code' is missing in a map of pattern, code"),
        ("pilot: {outputs: [../x]}", "'../x' is not a path, absolute or below the pilot's folder"),
        ("pilot: {outputs: [/var/log/]}", "'/var/log/' is not a path"),
        ("watch: {http: 0.0.0.0:80}", "is not 127.0.0.1:PORT, or off"),
        ("watch: {http: 127.0.0.1:65536}", "is not 127.0.0.1:PORT, or off"),
        ("[a]", "a settings file holds keys, not a list"),
        ("text", "a settings file holds keys, not 'text'"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_that_says_what_is_wanted(text: str, cause: str) -> None:
    (problem,) = errors(f"# first line\n{text}")
    assert cause in problem
    assert problem.startswith("policy.yaml:2: ")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"preset: &a strict", "policy.yaml:1: the anchor '&a' is not allowed"),
        (b"preset: !!str strict", "policy.yaml:1: the tag '!!str' is not allowed"),
        (b"preset: ! strict", "policy.yaml:1: the tag '!' is not allowed"),
        (b"%TAG ! tag:x,2000:\n--- {}", "policy.yaml:1: tags are not allowed"),
        (b"preset: strict\n---\npreset: strict", "policy.yaml:2: there is a second document"),
        (b"preset: strict\npreset: vacuum", "policy.yaml:2: 'preset' stands twice (first in line 1)"),
        (b"disk: {eject: no, eject: no}", "policy.yaml:1: 'eject' stands twice (first in line 1)"),
        (
            b"? [a]\n: b",
            "policy.yaml:1: a name is a plain word, not a list or a map; quote it if the braces belong to the text",
        ),
        (b"a: " + b"[" * 21 + b"]" * 21, "policy.yaml:1: it is nested deeper than 20"),
        (b"[" * 60_000, "policy.yaml:1: it is nested deeper than 20"),
        (b"a: b\n\xff", "policy.yaml:2: it is not UTF-8"),
        ("preset: strict".encode("utf-16"), "policy.yaml:1: it is not UTF-8"),
        (b"a: b\nc: \0", "policy.yaml:2: there is a NUL byte in it"),
        (b"#" * (MAX_BYTES + 1), "policy.yaml: it is larger than 65536 bytes"),
        (b"a: 'b", "policy.yaml:1: found unexpected end of stream"),
        (b"a: \x07", "policy.yaml:1: special characters are not allowed"),
        (b'a: "\\UFFFFFFFF"', "policy.yaml: there is an escape or a number that stands for nothing"),
        (b"%YAML 1." + b"9" * 5000, "policy.yaml: there is an escape or a number that stands for nothing"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(data: bytes, cause: str) -> None:
    assert errors(data) == [cause]


def test_an_alias_is_refused_wherever_it_stands() -> None:
    assert errors("a: &x [b]\nc: *x") == [
        "policy.yaml:1: the anchor '&x' is not allowed",
        "policy.yaml:2: the alias '*x' is not allowed",
    ]


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "---\n", "\ufeffpreset: strict", "disk:\n  # nothing yet\n"]
)
def test_a_file_may_say_little_or_nothing(text: str) -> None:
    assert errors(text) == []


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("disk: {ejct: yes}", "unknown key 'disk.ejct': did you mean 'disk.eject'?"),
        ("eject: yes", "unknown key 'eject': did you mean 'disk.eject'?"),
        ("disks: {eject: yes}", "unknown key 'disks': did you mean 'disk'?"),
        ("zzzzzz: yes", "unknown key 'zzzzzz'"),
        ("disk.eject: yes", "unknown key 'disk.eject': a dot is nesting, write 'eject' below 'disk:'"),
        ("foo.bar: yes", "unknown key 'foo.bar': a dot in a name is no nesting here"),
        ("scripts: {epilog.sh: {wall_s: 1}}", "unknown key 'scripts.epilog.sh': a script's id is OWNER/PHASE/NAME"),
        (
            "scripts: {site/stop/x.sh: {wal_s: 1}}",
            "unknown key 'scripts.site/stop/x.sh.wal_s': did you mean 'scripts.site/stop/x.sh.wall_s'?",
        ),
        ("features: {machine: {a-b: 1}}", "unknown key 'features.machine.a-b': a feature's name has only letters"),
    ],
)
def test_an_unknown_key_is_an_error_in_the_policy_and_a_warning_elsewhere(text: str, cause: str) -> None:
    (error,) = errors(text)
    (warning,) = warnings(text, voice="site")
    assert error.startswith(f"policy.yaml:1: {cause}")
    assert warning.startswith(f"site.yaml:1: {cause}")
    assert warning.endswith(", ignoring it")
    assert errors(text, voice="site") == []


def test_all_problems_of_all_files_are_told_at_once_in_the_order_of_lines() -> None:
    files = [("a.yaml", b"x: 1\ndisk: {eject: 2}\ny: 3"), ("b.yaml", b"sources: 4")]
    with pytest.raises(
        InvalidInputError, match=r"^cannot read 'a.yaml': line 1: unknown key 'x'.* \(and 3 more\)$"
    ) as raised:
        load("image", files)
    assert [(problem.path, problem.line) for problem in raised.value.problems] == [
        ("a.yaml", 1),
        ("a.yaml", 2),
        ("a.yaml", 3),
        ("b.yaml", 1),
    ]
    assert raised.value.exit_code == 65


def test_a_hostile_file_of_mistakes_is_told_in_a_hundred_lines_and_one() -> None:
    text = "".join(f"k{number}: 1\n" for number in range(5000))
    found = warnings(text, voice="user", name="user.yaml")
    assert len(found) == 101
    assert found[-1] == "user.yaml:101: 4900 more like these, not telling them"
    assert len(errors(text)) == 101


def test_the_later_file_of_a_voice_counts() -> None:
    layer = load("image", [("a.yaml", b"disk: {eject: yes, reader: library}"), ("b.yaml", b"disk:\n  eject: no")])
    assert {key: (said.value, said.path, said.line) for key, said in layer.values.items()} == {
        "disk.eject": (False, "b.yaml", 2),
        "disk.reader": ("library", "a.yaml", 1),
    }


@pytest.mark.parametrize(
    ("voice", "text", "message"),
    [
        ("user", "disk: {eject: yes}", "the user may not set 'disk.eject', only the image's policy may, ignoring it"),
        (
            "site",
            "lockdown: maybe",
            "the site may not set 'lockdown', only the image's policy or the site by disk may, ignoring it",
        ),
        (
            "image",
            "access: {root_keys: []}",
            "the image's policy may not set 'access.root_keys', only the site may, ignoring it",
        ),
        ("user", "scripts: {site/stop/x: {wall_s: 1}}", "the user may not set 'scripts.site/stop/x.wall_s'"),
        ("site", "scripts: {user/stop/x: {wall_s: 1}}", "the site may not set 'scripts.user/stop/x.wall_s'"),
        ("user", "scripts: {user/stop/x: {daemons: keep}}", "the user may not set 'scripts.user/stop/x.daemons'"),
    ],
)
def test_a_key_that_is_not_the_voices_to_set_is_passed_over_and_named(voice: Voice, text: str, message: str) -> None:
    (warning,) = warnings(f"\n{text}", voice=voice)
    assert warning.startswith(f"site.yaml:2: {message}")
    assert load(voice, [("site.yaml", text.encode())]).values == {}


def test_keys_of_later_versions_are_told_once_a_file_and_checked_all_the_same() -> None:
    text = "lockdown: yes\nimage:\n  max_age_days: 3\n"
    assert warnings(text, voice="image", name="policy.yaml") == [
        "policy.yaml:1: 'lockdown' is not yet supported, ignoring it",
        "policy.yaml:3: 'image.max_age_days' is not yet supported, ignoring it",
    ]
    assert errors("lockdown: perhaps") == ["policy.yaml:1: cannot set 'lockdown': 'perhaps' is not yes or no"]


def test_json_says_the_same_as_yaml_with_the_same_lines() -> None:
    text = """{
      "access": {"root_keys": ["ssh-ed25519 AAAA \\"x\\" \\u00e9"],
                 "accounts": [{"name": "ops", "sudo": true, "keys": []}]},
      "caps": {"members": 10}
    }"""
    from_json = load("site", [("site.json", text.encode())])
    from_yaml = load("site", [("site.yaml", text.encode())])
    assert {key: (said.value, said.line) for key, said in from_json.values.items()} == {
        key: (said.value, said.line) for key, said in from_yaml.values.items()
    }
    assert from_json.values["access.accounts"].value == ({"name": "ops", "sudo": True, "keys": ()},)
    assert from_json.values["caps.members"].line == 4


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('{"caps":\n {"members": 1e3}}', "site.json:2: cannot set 'caps.members': '1e3' is not a whole number"),
        ('{"caps": {"members": null}}', "site.json:1: cannot set 'caps.members': 'null' is no value"),
        ('{"caps": 1,\n}', "site.json:2: "),
        ('{"caps": 1, "caps": 2}', "site.json: a key stands twice"),
        ("[" * 30 + "]" * 30, "site.json:1: it is nested deeper than 20"),
        ("[" * 60_000 + "]" * 60_000, "site.json: it is larger than 65536 bytes"),
        ("[1]", "site.json:1: a settings file holds keys, not a list"),
        ("", "site.json:1: "),
        ('{"caps": {"members": "\\ud800"}}', "site.json:1: cannot set 'caps.members'"),
    ],
)
def test_a_broken_json_file_is_one_clear_error(text: str, cause: str) -> None:
    (problem,) = errors(text, voice="site", name="site.json")
    assert problem.startswith(cause)


WORDS = st.sampled_from(
    [
        *{part for row in ROWS for part in row[0].split(".")},
        "site/stop/x",
        "user/post-network/user-data",
        "yes",
        "012",
        "~",
    ]
)
TREES = st.recursive(
    WORDS | st.text(max_size=8) | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
YAMLISH = st.lists(
    WORDS
    | st.sampled_from(
        [*":-[]{},&*!|>'\"%@`#?~\n\t ", ": ", "\n  ", "- ", "<<: ", "---\n", "\\U", "\\x", "\\ud8", "%YAML "]
    )
).map("".join)


@given(
    voice=st.sampled_from(VOICES),
    name=st.sampled_from(["x.yaml", "x.json"]),
    data=st.binary() | YAMLISH.map(str.encode),
)
def test_no_bytes_make_the_reader_fail_in_an_undocumented_way(voice: Voice, name: str, data: bytes) -> None:
    try:
        load(voice, [(name, data)])
    except InvalidInputError as error:
        assert error.problems  # noqa: PT017  # either is right, but an error has to say something


@given(voice=st.sampled_from(VOICES), tree=TREES)
def test_a_voice_sets_only_what_is_its_own_and_of_the_keys_type(voice: Voice, tree: object) -> None:
    layer, _ = check(voice, [("x.json", json.dumps(tree).encode())])
    for name in layer.values:
        key = find(name)
        assert key is not None
        assert key.rule(voice) is not None
        assert row_name(name) in {row[0] for row in ROWS}


def plain(node: Node) -> Any:
    if node.kind == "map":
        return {name.text: plain(child) for name, child in node.pairs}
    return [plain(item) for item in node.items] if node.kind == "list" else node.text


def texts(tree: object) -> Any:
    if isinstance(tree, dict):
        return {name: texts(item) for name, item in tree.items()}
    return (
        [texts(item) for item in tree]
        if isinstance(tree, list)
        else tree
        if isinstance(tree, str)
        else json.dumps(tree)
    )


@given(tree=TREES, indent=st.sampled_from([None, 1]))
def test_every_json_text_is_read_as_what_it_says(tree: object, indent: int | None) -> None:
    node, faults = read_json(json.dumps(tree, indent=indent).encode())
    assert faults == ()
    assert node is not None
    assert plain(node) == texts(tree)


@given(tree=st.dictionaries(WORDS, WORDS | st.lists(WORDS), max_size=5))
def test_json_and_yaml_agree_on_plain_trees_and_their_lines(tree: object) -> None:
    data = json.dumps(tree, indent=1).encode()

    def lines(node: Node | None) -> list[tuple[str, int]]:
        assert node is not None
        below = [*node.items, *(each for pair in node.pairs for each in pair)]
        return [(node.text, node.line), *(line for each in below for line in lines(each))]

    assert lines(read_json(data)[0]) == lines(read_yaml(data)[0])
