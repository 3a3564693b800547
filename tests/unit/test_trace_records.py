"""One record as one line (docs/reference/trace.md)."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contextagent.trace.chain import GENESIS, Chain, line_hash
from contextagent.trace.records import COMMON, MAX_LINE_BYTES, RECORDS, decode, encode, rfc3339, shorten

PROJECT = Path(__file__).resolve().parents[2]
REFERENCE = PROJECT / "docs" / "reference" / "trace.md"
anything = st.text(st.characters())  # lone surrogates included: names of files are bytes
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | anything,
    lambda inner: st.lists(inner, max_size=60) | st.dictionaries(anything, inner, max_size=60),
    max_leaves=120,
)
NAMES = '\u202e\x1b[2J\n\r\0\x7f\x9b\udcff\U0001f600"\\'


def start(**fields: object) -> bytes:
    chain = Chain(boot="b", inst="i")
    return chain.line("start", {"id": "user/stop/x", "sha512": "ab" * 64, **fields}, utc_ns=0, mono_ns=1, sync=False)


@given(st.sampled_from(["argv", "caps", "profile", "wished"]), json_values)
@example("argv", ["x" * 5000] * 500)
@example("caps", "é" * 100_000)
@example("profile", {"k" * 3000: ["v"] * 3000})
@example("wished", NAMES * 1000)
def test_every_record_is_one_line_of_at_most_4000_bytes_of_ascii_json(key: str, value: object) -> None:
    line = start(**{key: value})
    assert len(line) <= MAX_LINE_BYTES
    assert line.endswith(b"}\n")
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    assert json.loads(line)["id"] == "user/stop/x"


@given(anything)
def test_a_name_that_fits_comes_back_as_it_was(name: str) -> None:
    chain = Chain(boot="b", inst="i")
    record = decode(chain.line("start", {"id": name, "sha512": ""}, utc_ns=0, mono_ns=1, sync=True)[:-1])
    if len(json.dumps(name)) < 3000:
        assert record is not None
        assert record["id"] == name


@given(anything, anything, anything)
def test_names_of_boot_instance_and_image_never_fill_the_line(boot: str, instance: str, image: str) -> None:
    chain = Chain(boot=boot * 50, inst=instance * 50, img=image * 50)
    line = chain.line("start", {"id": "user/stop/x", "sha512": "ab" * 64}, utc_ns=0, mono_ns=1, sync=False)
    assert json.loads(line)["sha512"] == "ab" * 64


def test_the_longest_strings_are_cut_first_and_say_how_much_is_gone() -> None:
    record = json.loads(start(argv=["short", "x" * 5000], caps="c" * 500))
    assert record["argv"] == ["short", "x" * 1024 + "[+3976 bytes]"]
    assert record["caps"] == "c" * 500


def test_a_long_list_is_cut_with_a_count() -> None:
    argv = json.loads(start(argv=["word"] * 1000))["argv"]
    assert argv[-1] == f"[+{1000 - (len(argv) - 1)} more]"


def test_a_large_table_is_cut_with_a_count() -> None:
    table = json.loads(start(caps={f"{number:050}": number for number in range(300)}))["caps"]
    assert f"[+{300 - (len(table) - 1)} more]" in table


def test_an_id_is_cut_only_when_nothing_else_is_left() -> None:
    record = json.loads(start(id="x" * 2000, argv=["y" * 2000]))
    assert record["id"] == "x" * 2000
    assert record["argv"][0].endswith(" bytes]")
    assert json.loads(start(id="x" * 4000))["id"].endswith(" bytes]")


def test_a_number_of_absurd_length_costs_the_record_its_own_keys_but_not_the_line() -> None:
    assert json.loads(start(bytes=10**4200))["ev"] == "start"


@given(anything, st.integers(0, 300))
def test_a_shortened_string_keeps_its_beginning_and_the_bound(text: str, max_bytes: int) -> None:
    kept, marker, _ = shorten(text * 20, max_bytes).rpartition("[+")
    if marker and shorten(text * 20, max_bytes) != text * 20:
        assert (text * 20).startswith(kept)
        assert len(json.dumps(kept)) - 2 <= max_bytes


def test_every_record_begins_with_the_common_keys_in_order() -> None:
    record = json.loads(start())
    assert tuple(record)[: len(COMMON)] == COMMON
    assert (record["v"], record["seq"], record["prev"], record["utc"]) == (1, 1, GENESIS, "1970-01-01T00:00:00.000Z")


@pytest.mark.parametrize(
    ("utc_ns", "text"),
    [
        (1_795_236_220_123_999_999, "2026-11-21T04:43:40.123Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (0, "1970-01-01T00:00:00.000Z"),
    ],
)
def test_times_are_utc_with_milliseconds(utc_ns: int, text: str) -> None:
    assert rfc3339(utc_ns) == text


def test_an_event_or_key_that_is_not_in_the_table_is_a_bug_and_says_so() -> None:
    with pytest.raises(ValueError, match="no event 'party'"):
        Chain(boot="b", inst="i").line("party", {}, utc_ns=0, mono_ns=0, sync=True)
    with pytest.raises(ValueError, match="'start' has no colour"):
        start(colour="red")


def test_each_line_names_the_hash_of_the_one_before() -> None:
    chain = Chain(boot="b", inst="i")
    first = chain.line("shutdown", {}, utc_ns=0, mono_ns=0, sync=True)
    chain.add(first)
    second = json.loads(chain.line("shutdown", {}, utc_ns=0, mono_ns=0, sync=True))
    assert (second["seq"], second["prev"]) == (2, line_hash(first))


@given(st.binary(max_size=300))
@example(b'{"v":1}')
@example(b"[1]")
@example(b'{"v":1,"seq":true,"prev":"","boot":"","inst":"","img":"","utc":"","ev":"boot"}')
@example(b'{"v":1,"seq":1,"prev":"","boot":"","inst":"","img":"","utc":"","ev":"start","id":7,"sha512":""}')
@example(b'{"v":1,"seq":1,"prev":"","boot":"","inst":"","img":"","utc":"","ev":[]}')
@example(b"[" * 100_000)
def test_what_is_no_record_is_none(line: bytes) -> None:
    assert decode(line) is None


def test_every_event_and_key_has_its_place_in_the_reference() -> None:
    rows = [line.split("|") for line in REFERENCE.read_text().splitlines() if line.startswith("| `")]
    documented: dict[str, list[str]] = {}
    for _, event, key, *_ in rows:
        documented.setdefault(event.strip(" `"), []).append(key.strip(" `"))
    told = {event: tuple(keys) for event, keys in documented.items() if event in RECORDS or event == "every"}
    assert told == {"every": COMMON, **RECORDS}


def test_whatever_the_agent_records_is_in_the_table() -> None:
    calls = 0
    for path in (PROJECT / "contextagent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "record"
                and node.args
            ):
                event = node.args[0]
                if isinstance(event, ast.Constant):
                    calls += 1
                    keys = {keyword.arg for keyword in node.keywords} - {None, "is_durable"}
                    assert keys <= set(RECORDS[str(event.value)]), f"{path}:{node.lineno}"
    assert calls


def test_encoding_is_shortened_by_its_own_keys_only() -> None:
    assert encode({"v": 1}, {"ev": "x" * 5000}).startswith(b'{"v":1,"ev":"xxx')
