"""Every mistake that can be made on the command line is one clear error with its own exit code, never a traceback."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, REPOSITORY, Done, Machine, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERBS = (
    *(
        "run",
        "plan",
        "status",
        "explain",
        "analyze",
        "query",
        "watch",
        "remaining",
        "features",
        "pilot",
        "finish",
        "drain",
    ),
    *("trace", "receipt", "lint", "pack", "simulate", "serve"),
)
LATER = ("image",)
ERROR = re.compile(r"contextagent: cannot [a-z]+ ('[^']*'.*|.* '[^']*'.*): \S.*")
NOBODY = 65534


def said(done: Done) -> tuple[int, str]:
    """Return the exit code and the first line of an error, which is in the one form, with nothing printed as a fact."""
    assert done.out == ""
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    assert all(line.startswith("contextagent: ") for line in lines), done.err
    assert ERROR.fullmatch(lines[0]), done.err
    return done.code, lines[0].removeprefix("contextagent: ")


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("", 64, "cannot run 'contextagent': missing a verb"),
        ("statsu", 64, "cannot run 'statsu': no such verb"),
        ("-- status", 64, "cannot run '--': no such verb"),
        ("--bogus", 64, "cannot understand '--bogus': no such option"),
        ("--bogus status", 64, "cannot understand '--bogus': no such option"),
        ("status --bogus", 64, "cannot understand '--bogus': no such option"),
        ("run -x", 64, "cannot understand '-x': no such option"),
        ("plan --dis x", 64, "cannot understand '--dis': no such option"),
        ("trace show --anchor x", 64, "cannot understand '--anchor': no such option"),
        ("run pre-netwrok", 64, "cannot understand 'pre-netwrok': PHASE is one of pre-network, post-network, stop"),
        ("run pre-network post-network", 64, "cannot understand 'post-network': one word too many"),
        ("run --disk", 64, "cannot understand '--disk': its value is missing"),
        ("run --disk --force", 64, "cannot understand '--disk': its value is missing"),
        ("run --disk=", 64, "cannot understand '--disk': its value is empty"),
        ("run --disk /not/there", 64, "cannot use '/not/there' as a disk: No such file or directory"),
        ("plan --disk /not/there", 64, "cannot use '/not/there' as a disk: No such file or directory"),
        (
            "run --metadata http://x",
            64,
            "cannot ask 'http://x': its host is no literal address, and names are not looked up",
        ),
        ("plan --policy /not/there", 64, "cannot read '/not/there': No such file or directory"),
        ("run --policy /not/there", 64, "cannot read '/not/there': No such file or directory"),
        ("plan --format xml", 64, "cannot understand 'xml': --format is one of text, json"),
        ("run --format json", 64, "cannot understand '--format': no such option"),
        ("status --timeout 1", 64, "cannot understand '--timeout': it goes with --wait"),
        (
            "status --wait --timeout nan",
            64,
            "cannot understand '--timeout': 'nan' is no number of seconds from 0 to 315360000",
        ),
        (
            "status --wait --timeout 0",
            75,
            "cannot wait for 'status' any longer: not done within 0 s",
        ),
        ("status", 3, "cannot tell 'status': the agent has not run in this boot"),
        ("explain", 3, "cannot tell 'status': the agent has not run in this boot"),
        ("analyze", 3, "cannot tell 'status': the agent has not run in this boot"),
        ("trace", 64, "cannot run 'trace': missing show|verify"),
        ("trace shwo", 64, "cannot understand 'shwo': show|verify is one of show, verify"),
        ("trace show", 3, "cannot read '/var/log/contextagent': there is no trace"),
        ("trace verify /not/there", 64, "cannot read '/not/there': No such file or directory"),
        ("trace verify --anchor x", 64, "cannot understand '--anchor': 'x' is not 64 hex digits"),
        ("receipt --boot x", 3, "cannot find the receipt of boot 'x': it has no trace here"),
        ("query", 64, "cannot run 'query': missing KEY"),
        ("query bogus", 3, "cannot tell 'bogus': no such key"),
        ("lint", 64, "cannot run 'lint': missing PATH"),
        ("lint /not/there", 64, "cannot check '/not/there': no such file or folder"),
        ("pack", 64, "cannot run 'pack': missing DIR, -o/--output"),
        ("pack /not/there -o /tmp/x.iso", 64, "cannot read '/not/there': no such folder"),
        ("pack /etc -o /tmp/x.zip", 64, "cannot pack '/tmp/x.zip': the name ends neither in .iso nor in .tgz"),
    ],
)
def test_a_mistake_is_named_with_its_object_and_cause(machine: Machine, words: str, code: int, error: str) -> None:
    assert said(machine.run(*words.split())) == (code, error)


@pytest.mark.parametrize("verb", LATER)
def test_a_verb_of_a_later_version_is_refused_by_name(machine: Machine, verb: str) -> None:
    assert said(machine.run(verb, "--any", "thing")) == (64, f"cannot run '{verb}': not yet supported")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("statsu", "status"),
        ("runn", "run"),
        ("simulte", "simulate"),
        ("run post-netwrok", "post-network"),
        ("plan --dsk x", "--disk"),
        ("trace verfy", "verify"),
        ("trace show --evnt end", "--event"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_what_was_meant(machine: Machine, words: str, meant: str) -> None:
    assert f"did you mean '{meant}'?" in machine.run(*words.split()).err


@pytest.mark.parametrize("words", [*((verb,) for verb in VERBS), ("trace", "show"), ("trace", "verify")])
def test_every_verb_has_help_with_an_example(machine: Machine, words: Sequence[str]) -> None:
    done = machine.run(*words, "--help")
    assert (done.code, done.err) == (0, "")
    assert re.search(rf"^examples?:\n  contextagent {words[0]}", done.out, re.MULTILINE)
    assert machine.run("--help", *words).out in (done.out, machine.run(words[0], "--help").out)


def test_help_lists_every_verb_and_version_tells_the_version(machine: Machine) -> None:
    listed = re.findall(r"^    ([a-z]+) ", machine.run("--help").out, re.MULTILINE)
    assert tuple(listed) == VERBS
    assert re.fullmatch(r"contextagent \d+\.\d+\.\d+\n", machine.run("--version").out)


def test_an_option_may_stand_before_the_verb_or_behind_it(machine: Machine, disk: Path) -> None:
    (disk / "epilog.sh").write_text("#!/bin/sh\nexit 0\n")
    root = ("--root", str(machine.root))
    plan = ("--disk", str(disk), "--metadata", "none", "--format", "json")
    assert run([*AGENT, *root, *plan, "plan"]).out == run([*AGENT, "plan", *root, *plan]).out != ""
    assert machine.run("--disk", str(disk), "run").code == 0
    shown = {
        run([*AGENT, *words]).out
        for words in (
            (*root, "--format", "json", "trace", "show"),
            ("trace", *root, "--format", "json", "show"),
            ("trace", "show", *root, "--format", "json"),
        )
    }
    assert len(shown) == 1
    assert shown.pop().startswith("[\n{")


@pytest.mark.parametrize("verb", ["run", "plan", "status", "explain", "query policy", "trace show", "receipt"])
def test_a_root_that_is_a_file_is_refused(verb: str, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    done = run([*AGENT, *verb.split(), "--root", str(tmp_path / "root")])
    assert said(done) == (64, f"cannot use '{tmp_path}/root' as the root: not a folder")


@pytest.mark.parametrize("verb", ["status", "explain", "analyze", "query policy", "trace show", "receipt"])
def test_a_verb_that_reads_refuses_a_root_that_is_not_there(verb: str, tmp_path: Path) -> None:
    done = run([*AGENT, *verb.split(), "--root", str(tmp_path / "root")])
    assert said(done) == (64, f"cannot use '{tmp_path}/root' as the root: no such folder")


def test_a_run_makes_its_root_and_a_plan_does_without(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert run([*AGENT, "plan", "--root", str(root), "--disk", "none", "--metadata", "none"]).code == 0
    assert not root.exists()
    assert run([*AGENT, "run", "--root", str(root), "--disk", "none", "--metadata", "none"]).code == 0
    assert root.is_dir()


@pytest.mark.parametrize("words", ["run --root=", "run --root= --disk none", "plan --root="])
def test_an_empty_root_is_never_taken_for_the_machine_itself(words: str) -> None:
    assert said(run([*AGENT, *words.split()])) == (64, "cannot understand '--root': its value is empty")


def test_an_option_is_never_taken_for_the_value_of_another(tmp_path: Path) -> None:
    done = run([*AGENT, "run", "--root", "--force"], cwd=str(tmp_path))
    assert said(done) == (64, "cannot understand '--root': its value is missing")
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_for_debug_alone_and_changes_no_exit_code(machine: Machine) -> None:
    done = machine.run("status", "--debug")
    assert done.code == 3
    assert "Traceback (most recent call last):" in done.err
    assert done.err.splitlines()[-2] == "contextagent: cannot tell 'status': the agent has not run in this boot"


def test_an_empty_word_is_no_verb(machine: Machine) -> None:
    assert said(machine.run("")) == (64, "cannot run '': no such verb")


def test_a_name_on_the_command_line_moves_no_terminals_cursor(machine: Machine) -> None:
    assert said(machine.run("\x1b[2J")) == (64, r"cannot run '\x1b[2J': no such verb")
    assert said(machine.run("\udcff")) == (64, r"cannot run '\udcff': no such verb")


def shell(command: str, machine: Machine) -> Done:
    """Run one line of sh; `agent` in it is the program on this machine."""
    agent = " ".join(f"'{word}'" for word in (*AGENT, "--root", str(machine.root)))
    return run(["bash", "-c", f'agent() {{ {agent} "$@"; }}; {command}'])


@pytest.mark.parametrize(
    "words", ["--help", "query policy", "query policy --format json", "run --disk none --metadata none"]
)
def test_a_reader_that_has_had_enough_hears_no_complaint(words: str, machine: Machine) -> None:
    assert shell(f"agent {words} | true; echo ${{PIPESTATUS[0]}}", machine) == (0, "0\n", "")
    assert shell(f"agent {words} 2>&1 | head -n 1 >/dev/null; echo ${{PIPESTATUS[0]}}", machine) == (0, "0\n", "")


def test_an_output_that_can_not_be_written_is_said_once(machine: Machine) -> None:
    done = shell("agent query policy >/dev/full", machine)
    assert said(done) == (73, "cannot write 'standard output': No space left on device")


def test_a_console_that_is_full_or_closed_changes_nothing_of_a_boots_result(machine: Machine, disk: Path) -> None:
    (disk / "epilog.sh").write_text("#!/bin/sh\nexit 5\n")
    for console in (">/dev/full", ">/dev/full 2>&1", "<&- >&- 2>&-"):
        assert shell(f"agent run --metadata none --disk '{disk}' {console}", machine).code == 1
    assert shell("agent bogus 2>/dev/full", machine).code == 64
    assert shell("agent bogus 2>&-", machine).code == 64


@pytest.mark.parametrize("words", ["run --disk none", "plan --disk none", "query policy", "lint /etc/hostname"])
def test_an_invalid_policy_is_named_by_file_and_line_and_nothing_is_run(machine: Machine, words: str) -> None:
    machine.put("etc/contextagent/policy.yaml", "disk:\n  ejct: yes\n")
    done = machine.run(*words.split())
    assert (done.code, done.out) == (65, "")
    assert done.err.startswith("contextagent: /etc/contextagent/policy.yaml:2: ")
    assert not (machine.root / "run/contextagent/status.json").exists()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("not JSON", "line 1: expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "not a status of schema 1"),
        ('{"schema": 1}', "not a whole status"),
    ],
)
@pytest.mark.parametrize("verb", ["status", "status --wait", "explain", "analyze"])
def test_a_damaged_status_is_named(machine: Machine, verb: str, text: str, cause: str) -> None:
    machine.put("run/contextagent/status.json", text)
    assert said(machine.run(*verb.split())) == (65, f"cannot read '/run/contextagent/status.json': {cause}")


def test_a_second_run_is_told_to_try_later(machine: Machine) -> None:
    with machine.put("run/contextagent/lock", "").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, error = said(machine.run("run", "--disk", "none"))
    assert (code, error) == (75, "cannot lock '/run/contextagent/lock': another run holds it")


def test_a_pack_that_can_not_be_written_says_where(machine: Machine, disk: Path) -> None:
    (disk / "epilog.sh").write_text("#!/bin/sh\nexit 0\n")
    done = machine.run("pack", str(disk), "-o", "/not/there/x.iso")
    assert said(done) == (73, "cannot write '/not/there/x.iso': No such file or directory")


@pytest.fixture(scope="module")
def public_copy() -> Iterator[Path]:
    """Return a copy of the program that every account can read, wherever this repository stands."""
    if os.geteuid() != 0:
        pytest.skip("to become another account needs root")
    folder = Path(tempfile.mkdtemp(prefix="contextagent-", dir="/tmp"))
    shutil.copytree(REPOSITORY / "contextagent", folder / "contextagent", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(copy: Path, *words: str) -> Done:
    python = os.path.realpath(sys.executable)
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return run(["setpriv", *ids, python, "-I", "-S", str(copy / "contextagent/__main__.py"), *words])


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("run", 77, "cannot run 'run': only root may contextualise this machine"),
        ("run post-network --resume", 77, "cannot run 'run': only root may contextualise this machine"),
        ("plan", 77, "cannot plan 'this machine': only root may read its disks, and what is remembered of its boots"),
        ("run --root /etc", 73, "cannot make '/run/contextagent': Permission denied"),
        ("run --root /root/x", 64, "cannot use '/root/x' as the root: Permission denied"),
        ("lint /etc/shadow", 65, "cannot read '/etc/shadow': Permission denied"),
        ("trace verify /etc/shadow", 64, "cannot read '/etc/shadow': Permission denied"),
        ("plan --policy /etc/shadow --disk none", 64, "cannot read '/etc/shadow': Permission denied"),
        ("pack /root -o /tmp/x.iso", 65, "cannot read '/root': Permission denied"),
    ],
)
def test_what_is_roots_is_refused_to_others(public_copy: Path, words: str, code: int, error: str) -> None:
    assert said(as_nobody(public_copy, *words.split())) == (code, error)


def test_everybody_may_know_how_a_boot_went_but_the_trace_is_roots(public_copy: Path, disk: Path) -> None:
    (disk / "epilog.sh").write_text("#!/bin/sh\nexit 0\n")
    machine = Machine(public_copy / "machine")
    assert machine.run("run", "--disk", str(disk)).code == 0
    root = ("--root", str(machine.root))
    assert as_nobody(public_copy, "status", *root).out.startswith("result    ok\n")
    for words in (("trace", "show"), ("trace", "verify"), ("receipt",)):
        refused = (77, "cannot read '/var/log/contextagent': Permission denied")
        assert said(as_nobody(public_copy, *words, *root)) == refused
