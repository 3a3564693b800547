"""JSON without the standard library's module says the same as that module."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent import jsontext
from tests.machine import REPOSITORY, run

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=values)
def test_what_is_written_is_read_back_by_both(value: Any) -> None:
    for text in (jsontext.dumps(value), jsontext.dumps(value, indent=2)):
        assert text.isascii()
        assert jsontext.loads(text) == json.loads(text) == value


@given(text=st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\\u\x01é', max_size=40))
def test_a_text_is_refused_where_the_standard_module_refuses_it_and_where_a_key_stands_twice(text: str) -> None:
    try:
        expected = json.loads(text, object_pairs_hook=_once)
    except ValueError:
        with pytest.raises(ValueError, match=r"line|twice"):
            jsontext.loads(text)
    else:
        assert jsontext.loads(text) == expected


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


FAULTY = ('{"a":1,"a":2}', "NaN", "[" * 20_000, "[1] 2", "{,}", '"\n"', "", "\udcff")
_TRY = """
import sys
sys.path.insert(0, sys.argv[1])
from contextagent import jsontext
assert "json" not in sys.modules
for text in eval(sys.argv[2]):
    try:
        jsontext.loads(text)
    except ValueError as error:
        assert str(error)
    else:
        raise AssertionError(text)
"""


@pytest.mark.parametrize("text", [text.encode("utf-8", "surrogateescape") for text in FAULTY])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        jsontext.loads(text)


def test_what_is_no_json_is_a_value_error_also_where_the_standard_module_was_never_imported() -> None:
    for text in FAULTY[:-1]:
        done = run([sys.executable, "-I", "-S", "-c", _TRY, str(REPOSITORY), repr([text])])
        assert (done.code, done.err) == (0, "")


def test_what_is_no_json_is_a_value_error_also_where_nothing_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "json", None)
    for text in FAULTY:
        with pytest.raises(ValueError, match=r".+"):
            jsontext.loads(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_what_json_cannot_hold_is_a_bug_of_the_caller(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        jsontext.dumps(value)
