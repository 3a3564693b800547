"""What is written about the command line holds for real: bash completes, groff renders, a run has that status."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.machine import REPOSITORY, run
from tests.unit.test_cli_reference import marked

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

MANUAL = REPOSITORY / "docs/man/contextagent.8"
_COMPLETE = """
source "$1"; shift
[[ $(complete -p contextagent) == 'complete -F _contextagent contextagent' ]] || exit 9
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*"
_contextagent contextagent "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(line: str, cwd: Path | None = None) -> set[str]:
    """Return what bash offers at the end of a line."""
    script = str(REPOSITORY / "init/completion/contextagent.bash")
    words = line.replace("=", " = ").split(" ")
    done = run(["bash", "--norc", "-uc", _COMPLETE, "bash", script, *words], cwd=str(cwd or "/"))
    assert (done.code, done.err) == (0, "")
    return set(done.out.split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("contextagent st", "status"),
        ("contextagent --root /tmp/trial st", "status"),
        ("contextagent --root=/tmp/trial st", "status"),
        ("contextagent --debug p", "plan pilot pack"),
        ("contextagent run -", "--disk --metadata --force --resume --root --policy --debug --help"),
        ("contextagent run p", "pre-network post-network"),
        ("contextagent run --re", "--resume"),
        ("contextagent run --disk none po", "post-network"),
        ("contextagent plan --format ", "text json"),
        ("contextagent plan --format=", "text json"),
        ("contextagent plan --format=j", "json"),
        ("contextagent trace v", "verify"),
        ("contextagent trace --root / show --o", "--owner"),
        ("contextagent trace show --owner ", "site user"),
        ("contextagent trace show --event an", "anchor"),
        ("contextagent trace verify --", "--anchor --format --root --policy --debug --help"),
        ("contextagent trace verify --anchor ", ""),
        ("contextagent features c", "check"),
        ("contextagent features check --as gl", "glideinwms"),
        ("contextagent features show --", "--format --root --policy --debug --help"),
        ("contextagent bogus ", ""),
    ],
)
def test_bash_offers_what_may_stand_there(line: str, words: str, tmp_path: Path) -> None:
    assert completed(line, tmp_path) == set(words.split())


@pytest.mark.parametrize(
    "line",
    [
        "contextagent lint con",
        "contextagent pack con",
        "contextagent pack x -o con",
        "contextagent run --disk con",
        "contextagent plan --disk=con",
        "contextagent trace show con",
        "contextagent --root con",
    ],
)
def test_bash_offers_files_where_a_file_is_meant(line: str, tmp_path: Path) -> None:
    (tmp_path / "context.iso").touch()
    assert completed(line, tmp_path) == {"context.iso"}


def test_the_manual_renders_without_a_warning() -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    done = run(["groff", "-ww", "-mandoc", "-Tutf8", str(MANUAL)])
    assert (done.code, done.err) == (0, "")
    assert "CONTEXTAGENT(8)" in done.out


def test_a_real_status_has_the_keys_that_the_page_promises(machine: Machine, disk: Path) -> None:
    (disk / "epilog.sh").write_text("#!/bin/sh\nexit 0\n")
    assert machine.run("run", "--disk", str(disk)).code == 0
    status = machine.status()
    assert list(status) == marked("status")
    assert [list(script) for script in status["scripts"]] == [marked("script")]
    assert machine.facts("status") == status
