"""The image's policy: which files are it, what is kept of them, and what a damaged or refused memory costs: a parse."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contextagent.digests import sha256_hex, sha512_hex
from contextagent.errors import InvalidInputError, UsageError
from contextagent.host import Host
from contextagent.policy.imagefile import load_image_policy, parse_name
from contextagent.policy.layer import Layer
from contextagent.policy.loader import check
from contextagent.policy.schema import ROWS

ETC = "etc/contextagent"
VAR = "var/lib/contextagent"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ETC / "policy.d").mkdir(parents=True)
    return tmp_path


def put(root: Path, name: str, text: str) -> Path:
    path = root / ETC / name
    path.write_text(text)
    return path


def kept(root: Path) -> list[Path]:
    return sorted((root / VAR).glob("*")) if (root / VAR).exists() else []


def values(layer: Layer) -> dict[str, object]:
    return {name: said.value for name, said in layer.values.items()}


def forge(path: Path, old: str, new: str) -> None:
    """Change what is kept, with a digest that fits: whoever then hears the new word has not parsed the files."""
    text = path.read_bytes().partition(b"\n")[2].replace(old.encode(), new.encode())
    path.write_bytes(sha256_hex(text).encode() + b"\n" + text)


def test_an_image_without_a_policy_says_nothing_and_nothing_is_written(root: Path) -> None:
    assert load_image_policy(Host(str(root))) == Layer(voice="image")
    assert kept(root) == []


@pytest.mark.parametrize("text", [None, "", "# nothing is set here\n\n  # preset: strict\n"])
def test_a_policy_that_says_nothing_costs_no_yaml(root: Path, text: str | None) -> None:
    if text is not None:
        put(root, "policy.yaml", text)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from contextagent.host import Host\n"
        "from contextagent.policy.settings import load_image_policy, merge\n"
        "assert merge(load_image_policy(Host(sys.argv[2])))['disk.eject'] is False\n"
        "print([name for name in sys.modules if name.endswith(('yaml', 'loader', 'kinds', 'yamltext'))])"
    )
    repository = str(Path(__file__).parents[2])
    argv = [sys.executable, "-I", "-S", "-c", code, repository, str(root)]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "[]\n"


@given(text=st.text("# \t\r\n:a-\x85\u2028\xa0é\a\ufeff\0"))
@example(text="# a\r\n  # b\n")
@example(text="# a\rpreset: strict")
@example(text="# a\u2028preset: strict")
@example(text="# a\x85b: c")
def test_what_looks_like_nothing_but_comments_says_what_the_parser_reads(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / ETC).mkdir(parents=True)
    (root / ETC / "policy.yaml").write_bytes(text.encode())
    files = [(f"/{ETC}/policy.yaml", text.encode())]
    layer, errors = check("image", files)
    if errors:
        with pytest.raises(InvalidInputError) as raised:
            load_image_policy(Host(str(root)))
        assert raised.value.problems == errors
    else:
        assert load_image_policy(Host(str(root))) == layer.replace(sha512=sha512_hex(text.encode()))


def test_files_are_read_in_order_and_the_later_word_counts(root: Path) -> None:
    put(root, "policy.d/20-b.yaml", "disk: {eject: no}")
    put(root, "policy.d/10-a.yaml", "disk: {eject: yes, expected: yes}")
    put(root, "policy.yaml", "disk: {expected: no, reader: library}")
    put(root, "policy.d/.30-hidden.yaml", "nonsense: 1")
    put(root, "policy.d/README", "nonsense")
    layer = load_image_policy(Host(str(root)))
    assert values(layer) == {"disk.expected": True, "disk.reader": "library", "disk.eject": False}
    assert layer.values["disk.eject"].path == "/etc/contextagent/policy.d/20-b.yaml"
    assert layer.warnings == ()


def test_the_layers_digest_is_that_of_all_files_one_after_another(root: Path) -> None:
    put(root, "policy.yaml", "preset: strict\n")
    put(root, "policy.d/a.yaml", "lockdown: no\n")
    assert load_image_policy(Host(str(root))).sha512 == sha512_hex(b"preset: strict\nlockdown: no\n")


@pytest.mark.parametrize("is_warned_again", [False, True])
def test_a_file_that_looks_like_a_policy_but_is_none_is_told(root: Path, *, is_warned_again: bool) -> None:
    put(root, "policy.d/a.yml", "disk: {eject: yes}")
    put(root, "policy.yaml", "preset: standard" if is_warned_again else "")
    load_image_policy(Host(str(root)))
    layer = load_image_policy(Host(str(root)))
    assert [problem.text() for problem in layer.warnings] == [
        "/etc/contextagent/policy.d/a.yml: only names that end in .yaml are read here, ignoring it"
    ]
    assert "disk.eject" not in values(layer)


def test_what_is_kept_says_the_same_as_the_files_and_is_for_root_alone(root: Path) -> None:
    put(root, "policy.yaml", "pilot: {args: [a, b]}\ntrust: {signers: [{subject: x, issuer: y}]}\nlockdown: yes\n")
    first = load_image_policy(Host(str(root)))
    assert load_image_policy(Host(str(root))) == first
    (path,) = kept(root)
    assert path.name.startswith("policy-")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_policy_is_parsed_only_once(root: Path) -> None:
    put(root, "policy.yaml", "disk: {reader: library}")
    load_image_policy(Host(str(root)))
    forge(kept(root)[0], "library", "mount")
    assert values(load_image_policy(Host(str(root)))) == {"disk.reader": "mount"}


def test_a_changed_policy_is_parsed_again_and_the_old_parse_alone_is_forgotten(root: Path) -> None:
    put(root, "policy.yaml", "disk: {eject: yes}")
    load_image_policy(Host(str(root)))
    (old,) = kept(root)
    put(root, "policy.yaml", "disk: {eject: no}")
    (root / VAR / "instance").symlink_to("instances/x")
    assert values(load_image_policy(Host(str(root)))) == {"disk.eject": False}
    instance, new = kept(root)
    assert instance.name == "instance"
    assert new.name not in ("instance", old.name)


def test_another_agent_or_table_does_not_take_an_older_ones_parse() -> None:
    files = [("/etc/contextagent/policy.yaml", b"disk: {eject: yes}")]
    assert parse_name(files) == parse_name(files)
    assert len({parse_name(files), parse_name(files, version="999"), parse_name(files, table=ROWS[:-1])}) == 3


@given(data=st.data())
def test_a_damaged_parse_is_ignored_and_made_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / ETC).mkdir(parents=True)
    put(root, "policy.yaml", "disk: {eject: yes}\nlockdown: yes")
    expected = load_image_policy(Host(str(root)))
    (path,) = kept(root)
    whole = path.read_bytes()
    damaged = data.draw(
        st.binary(max_size=300)
        | st.integers(0, len(whole) - 1).map(lambda end: whole[:end])
        | st.integers(0, 8 * len(whole) - 1).map(
            lambda bit: bytes(byte ^ (1 << bit % 8) * (at == bit // 8) for at, byte in enumerate(whole))
        )
    )
    path.write_bytes(damaged)
    assert load_image_policy(Host(str(root))) == expected
    assert path.read_bytes() == whole


def test_a_parse_that_is_whole_but_of_another_shape_is_ignored(root: Path) -> None:
    put(root, "policy.yaml", "disk: {eject: yes}")
    expected = load_image_policy(Host(str(root)))
    (path,) = kept(root)
    for text in (b"[]", b'{"values": [[1]], "warnings": [], "sha512": ""}', b'{"values": [], "warnings": [{"x": 1}]}'):
        path.write_bytes(sha256_hex(text).encode() + b"\n" + text)
        assert load_image_policy(Host(str(root))) == expected


def test_nothing_is_written_where_only_a_plan_is_asked_for(root: Path) -> None:
    put(root, "policy.yaml", "disk: {eject: yes}")
    assert values(load_image_policy(Host(str(root)), may_write=False)) == {"disk.eject": True}
    assert kept(root) == []


def test_a_medium_that_refuses_the_parse_costs_nothing_but_another_parse(root: Path) -> None:
    put(root, "policy.yaml", "disk: {eject: yes}")
    (root / "var/lib").mkdir(parents=True)
    (root / VAR).write_text("no folder")
    assert values(load_image_policy(Host(str(root)))) == {"disk.eject": True}


def test_every_problem_of_every_file_is_told_and_nothing_is_kept(root: Path) -> None:
    put(root, "policy.yaml", "nonsense: 1\ndisk: {eject: maybe}")
    put(root, "policy.d/a.yaml", "- a list")
    with pytest.raises(InvalidInputError) as raised:
        load_image_policy(Host(str(root)))
    assert raised.value.exit_code == 65
    assert [problem.text() for problem in raised.value.problems] == [
        "/etc/contextagent/policy.yaml:1: unknown key 'nonsense'",
        "/etc/contextagent/policy.yaml:2: cannot set 'disk.eject': 'maybe' is not yes or no",
        "/etc/contextagent/policy.d/a.yaml:1: a settings file holds keys, not a list",
    ]
    assert kept(root) == []


@pytest.mark.parametrize("name", ["policy.yaml", "policy.d/a.yaml"])
def test_a_link_is_refused_rather_than_taken_for_an_absent_policy(root: Path, name: str) -> None:
    (root / ETC / name).symlink_to("/etc/passwd")
    with pytest.raises(InvalidInputError, match=f"cannot read '/{ETC}/{name}': a link is not followed"):
        load_image_policy(Host(str(root)))


def test_a_policy_that_is_no_file_or_too_large_is_refused(root: Path) -> None:
    (root / ETC / "policy.yaml").mkdir()
    with pytest.raises(InvalidInputError, match="no regular file"):
        load_image_policy(Host(str(root)))
    (root / ETC / "policy.yaml").rmdir()
    put(root, "policy.yaml", "#" * (1 << 17))
    with pytest.raises(InvalidInputError, match=r"larger than 65536 bytes"):
        load_image_policy(Host(str(root)))


def test_the_callers_file_stands_for_all_of_the_images_and_is_not_kept(root: Path) -> None:
    put(root, "policy.yaml", "disk: {eject: yes}")
    mine = root / "mine.yaml"
    mine.write_text("disk: {reader: library}")
    layer = load_image_policy(Host(str(root)), str(mine))
    assert {name: said.path for name, said in layer.values.items()} == {"disk.reader": str(mine)}
    assert layer.sha512 == sha512_hex(mine.read_bytes())
    assert kept(root) == []


def test_a_callers_file_that_is_not_there_is_the_callers_mistake(root: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read '.*missing': No such file or directory") as raised:
        load_image_policy(Host(str(root)), str(root / "missing"))
    assert raised.value.exit_code == 64
    with pytest.raises(UsageError, match="Is a directory"):
        load_image_policy(Host(str(root)), str(root))
    with pytest.raises(UsageError, match="null"):
        load_image_policy(Host(str(root)), "a\0b")


def test_a_callers_file_that_is_invalid_is_named_as_the_caller_wrote_it(root: Path) -> None:
    mine = root / "mine.yaml"
    mine.write_text("x" * (1 << 17))
    with pytest.raises(InvalidInputError, match=r"cannot read '.*mine\.yaml': it is larger than 65536 bytes"):
        load_image_policy(Host(str(root)), os.fspath(mine))
