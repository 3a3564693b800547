"""`context.sh` as data: what a shell would have assigned, and nothing ever run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent.errors import BrokenSourceError
from contextagent.payloads.environment import (
    MAX_TOTAL_BYTES,
    MAX_VALUE_BYTES,
    base_environment,
    script_environment,
)
from contextagent.payloads.variables import MAX_BYTES, parse_variables

ACCEPTED = {
    "plain": ("A=1\n", {"A": "1"}),
    "no value": ("A=\nB=2\n", {"A": "", "B": "2"}),
    "no last line end": ("A=1", {"A": "1"}),
    "comments": ("# first\nA=1 # second\n  # third\nB=a#b\n", {"A": "1", "B": "a#b"}),
    "export": ("export A=1 B='2'\nexport C=3\n", {"A": "1", "B": "2", "C": "3"}),
    "export of a name alone": ("A=1\nexport A\nexport\nB=2", {"A": "1", "B": "2"}),
    "a variable named export": ("export=1", {"export": "1"}),
    "the last one stands": ("A=1\nB=2\nA=3\n", {"A": "3", "B": "2"}),
    "single quotes over lines": ("A='x\n $y `z` \\n'\n", {"A": "x\n $y `z` \\n"}),
    "double quotes": (r'A="\"\\\$\`\n$x `y` ;&|<>()"', {"A": '"\\$`\\n$x `y` ;&|<>()'}),
    "a line that goes on": ('A="x\\\ny"\nB=x\\\ny\nC=1 \\\nD=2', {"A": "xy", "B": "xy", "C": "1", "D": "2"}),
    "a single quote as OpenNebula writes it": (r"A='it'\''s'", {"A": "it's"}),
    "parts side by side": ("A=a'b'\"c\"$'d'\\e", {"A": "abcde"}),
    "ANSI-C": (r"A=$'\a\b\e\E\f\n\r\t\v\\\'\"\?\x41\101\u00e4\U0001f600\cA\c?\q\xzz'",
               {"A": "\a\b\x1b\x1b\f\n\r\t\v\\'\"?AA\xe4\U0001f600\x01\x7f\\q\\xzz"}),
    "bytes of one character": (r"A=$'\303\244\xc3\xa4'", {"A": "ää"}),
    "bytes of none": (r"A=$'\377'", {"A": "\udcff"}),
    "a dollar sign": ("A=$x\nB=$\nC=a$b", {"A": "$x", "B": "$", "C": "a$b"}),
    "a backtick": ("A=`x`", {"A": "`x`"}),
    "other special characters": ("A=~/*?[a]{b}!", {"A": "~/*?[a]{b}!"}),
    "line ends of Windows": ("A=1\r\nB='x'\r\n\r\n# c\r\nexport C\r\n", {"A": "1", "B": "x"}),
    "a byte order mark": ("\ufeffA=1", {"A": "1"}),
    "a backslash at the end": ("A=1\\", {"A": "1"}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "variables"), ACCEPTED.values(), ids=ACCEPTED)
def test_assignments_are_read_as_the_shell_would(text: str, variables: dict[str, str]) -> None:
    assert parse_variables(text.encode()) == variables


REFUSED = {
    "a command after it": ("A=1;reboot", "unquoted-operator", "line 1: unquoted ';'"),
    "in the background": ("A=1\nB=2&", "unquoted-operator", "line 2: unquoted '&'"),
    "a pipe": ("A=1|sh", "unquoted-operator", "line 1: unquoted '|'"),
    "a redirection": ("A=1 B=<x", "unquoted-operator", "line 1: unquoted '<'"),
    "output": ("A=>x", "unquoted-operator", "line 1: unquoted '>'"),
    "an array": ("A=(1 2)", "unquoted-operator", "line 1: unquoted '('"),
    "a command substitution": ("\n\nA=$(reboot)", "unquoted-operator", "line 3: unquoted '('"),
    "a closing one": ("A=)", "unquoted-operator", "line 1: unquoted ')'"),
    "a function": ("f() { :; }", "unquoted-operator", "line 1: unquoted '('"),
    "a command": ("A=1\nreboot\n", "no-assignment", "line 2: a word that is no assignment"),
    "a command with a variable": ("A=1 reboot", "no-assignment", "line 1: a word that is no assignment"),
    "a name on the line after export": ("export\nreboot", "no-assignment", "line 2: a word that is no assignment"),
    "a name that starts with a digit": ("1A=1", "bad-name", "line 1: a name that is no variable's"),
    "a name with a dash": ("A-B=1", "bad-name", "line 1: a name that is no variable's"),
    "an addition": ("A+=1", "bad-name", "line 1: a name that is no variable's"),
    "no name": ("=1", "bad-name", "line 1: a name that is no variable's"),
    "an open single quote": ("A=1\nB='x\ny\n", "unterminated-quote", "line 2: a quote that is never closed"),
    "an open double quote": ('A="x\\"', "unterminated-quote", "line 1: a quote that is never closed"),
    "an open ANSI-C quote": ("A=$'x\\'", "unterminated-quote", "line 1: a quote that is never closed"),
    "a NUL byte": ("A=1\nB=\0", "nul", "line 2: a NUL byte"),
    "an octal NUL": (r"A=$'\0'", "nul", "line 1: an escape that stands for NUL"),
    "a hexadecimal NUL": (r"A=$'\x00'", "nul", "line 1: an escape that stands for NUL"),
    "no such character": (r"A=$'\Uffffffff'", "bad-escape", "line 1: an escape beyond the last character"),
}


@pytest.mark.parametrize(("text", "reason", "message"), REFUSED.values(), ids=REFUSED)
def test_anything_but_data_is_refused_with_file_and_line(text: str, reason: str, message: str) -> None:
    with pytest.raises(BrokenSourceError) as caught:
        parse_variables(text.encode(), "site/context.sh")
    assert caught.value.reason == reason
    assert str(caught.value) == f"cannot read 'site/context.sh': {message}"
    assert caught.value.problems[0].text().startswith("site/context.sh:")


def test_a_file_past_its_cap_is_refused() -> None:
    assert parse_variables(b"A=" + b"x" * (MAX_BYTES - 2))
    with pytest.raises(BrokenSourceError, match="larger than 256 KiB"):
        parse_variables(b"A=" + b"x" * (MAX_BYTES - 1))


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
VALUES = st.binary(max_size=60).filter(lambda value: b"\0" not in value)


@given(
    values=st.dictionaries(NAMES, st.text().filter(lambda value: "\0" not in value)),
    word=st.sampled_from(["", "export "]),
)
def test_what_shlex_quotes_is_given_back(values: dict[str, str], word: str) -> None:
    text = "".join(f"{word}{name}={shlex.quote(value)}\n" for name, value in values.items())
    data = text.encode("utf-8", "surrogatepass")
    wanted = {name: value.encode("utf-8", "surrogatepass") for name, value in values.items()}
    assert {name: os.fsencode(value) for name, value in parse_variables(data).items()} == wanted


@given(values=st.dictionaries(NAMES, VALUES, max_size=20), locale=st.sampled_from(["C", "C.UTF-8"]))
def test_what_bash_quotes_is_given_back(values: dict[str, bytes], locale: str) -> None:
    bash = shutil.which("bash")
    assert bash
    pairs = [word for name, value in values.items() for word in (name.encode(), value)]
    script = 'while [ $# -gt 0 ]; do printf "%s=%q\\n" "$1" "$2"; shift 2; done'
    made = subprocess.run([bash, "-c", script, "bash", *pairs], env={"LC_ALL": locale}, capture_output=True, check=True)
    assert {name: os.fsencode(value) for name, value in parse_variables(made.stdout).items()} == values


@given(data=st.one_of(st.binary(), st.text("A=1'\"\\$`x\n\t ;#\0(äué0\r").map(str.encode)))
def test_no_bytes_raise_anything_but_a_broken_source(data: bytes) -> None:
    try:
        found = parse_variables(data)
    except BrokenSourceError:
        return
    assert all("\0" not in value for value in found.values())


@given(text=st.text("Ab1='\"\\$\n\t #xé", max_size=40))
def test_where_bash_assigns_alike_the_values_are_the_same(text: str) -> None:
    """Held against the real shell, for texts in which nothing would be expanded or run; `_` is the shell's own."""
    try:
        found = parse_variables(text.encode())
    except BrokenSourceError:
        return
    if any(char in text for char in "$`") or "export" in text:
        return
    bash = shutil.which("bash")
    assert bash
    script = text + "\n" + "".join(f"printf '%s\\0' \"${name}\"\n" for name in found)
    made = subprocess.run([bash, "--norc", "-c", script], env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=False)
    if not made.stderr:
        assert made.stdout == b"".join(os.fsencode(value) + b"\0" for value in found.values())


def test_scripts_start_with_a_path_a_locale_and_a_home() -> None:
    assert base_environment(home="/root") == {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    """PATH LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT BASH_ENV ENV IFS PYTHONPATH PYTHONSTARTUP PYTHONHOME SHELLOPTS BASHOPTS
    PERL5LIB PERL5OPT RUBYLIB RUBYOPT GLIBC_TUNABLES NODE_OPTIONS PS4 PROMPT_COMMAND HOME CDPATH GCONV_PATH LOCPATH
    BASH_FUNC_ls BASH_XTRACEFD CONTEXTAGENT_OWNER LC_ALL TMPDIR SSL_CERT_FILE GIT_SSH_COMMAND JAVA_TOOL_OPTIONS
    MALLOC_CHECK_ RES_OPTIONS HOSTALIASES LESSOPEN PAGER MAKEFLAGS OPENSSL_CONF DYLD_INSERT_LIBRARIES""".split(),
)
def test_a_variable_that_changes_how_programs_run_is_refused(name: str) -> None:
    allowed, problems = script_environment({name: "/tmp/evil", "SITE": "x"})
    assert allowed == {"SITE": "x"}
    assert [problem.reason for problem in problems] == ["dangerous-variable"]
    assert name in problems[0].message


@pytest.mark.parametrize(
    "name",
    [
        "USER_DATA",
        "USERDATA",
        "EC2_USER_DATA",
        "USER_DATA_ENCODING",
        "ONEGATE_TOKEN",
        "api_token",
        "START_SCRIPT_BASE64",
    ],
)
def test_payloads_and_tokens_are_kept_from_scripts(name: str) -> None:
    allowed, problems = script_environment({name: "secret"})
    assert allowed == {}
    assert [problem.reason for problem in problems] == ["withheld-variable"]
    assert "secret" not in problems[0].message


@pytest.mark.parametrize("value", ["() { :; }; reboot", "  () { :; }"])
def test_function_bodies_are_refused(value: str) -> None:
    assert [problem.reason for problem in script_environment({"F": value})[1]] == ["function-variable"]


def test_the_published_names_are_left_to_the_agent_without_a_word() -> None:
    assert script_environment({"MACHINEFEATURES": "http://x", "JOBOUTPUTS": "y"}) == ({}, ())


def test_sizes_are_bounded_one_by_one_and_together() -> None:
    largest = "x" * MAX_VALUE_BYTES
    allowed, problems = script_environment(
        {"BIG": largest + "x", **{f"V{number}": largest for number in range(9)}, "S": "1"}
    )
    assert set(allowed) == {*(f"V{number}" for number in range(7)), "S"}
    assert sum(len(f"{name}={value}") + 1 for name, value in allowed.items()) <= MAX_TOTAL_BYTES
    assert [problem.reason for problem in problems] == ["large-variable"]
    assert problems[0].message.endswith(": BIG, V7, V8")


def test_many_refusals_are_one_problem_that_stays_short() -> None:
    _, problems = script_environment({f"LD_{number}": "x" for number in range(1000)})
    assert len(problems) == 1
    assert problems[0].message.endswith(" and 980 more")
