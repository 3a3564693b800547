"""`contextagent lint`, as a site admin calls it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, REPOSITORY, Done, make_iso, run

if TYPE_CHECKING:
    from pathlib import Path

PLANTED = {
    "site/prolog.sh": "#!/bin/sh\r\necho hello\r\n",
    "site/init.sh": "#!/bin/sh\n",
    "site/epilog.sh": "#!/bin/sh\nset -eu\n. ./settings.sh\n",
    "site/pre-network.d/10-mount": "#!/bin/sh\n\nsystemctl start autofs\n",
    "site/pre-network.d/10-mount~": "#!/bin/sh\n",
    "site/site.yaml": "scripts:\n  site/stop/epilog.sh:\n    wall_sec: 10\ndisk:\n  eject: yes\n",
    "site/context.sh": "A='1'\nB=2; C=3\n",
    "user/prolog.sh": "#!/bin/sh\nif true; then\n  mount /dev/sdb /mnt\nfi\n",
    "user/post-network.d/10-job": "#!/bin/sh\nif true\necho\nfi\n",
    "user/user.yaml": "scripts:\n  user/stop/x:\n    wall_s: 10\n    wall_s: 20\n",
    "site/files/etc/grid-security/hostkey.pem": "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n",
    "default.tgz": "x",
}
EXPECTED = [
    ("site/prolog.sh", 1, "error", "shebang-crlf"),
    ("site/init.sh", None, "warning", "not-run"),
    ("site/epilog.sh", 3, "error", "source-missing"),
    ("site/pre-network.d/10-mount", 3, "warning", "blocking"),
    ("site/pre-network.d/10-mount~", None, "warning", "leftover"),
    ("site/site.yaml", 3, "warning", "unknown-key"),
    ("site/site.yaml", 5, "warning", "not-yours"),
    ("site/context.sh", 2, "error", "unquoted-operator"),
    ("user/prolog.sh", 3, "warning", "needs-root"),
    ("user/post-network.d/10-job", 4, "error", "syntax"),
    ("user/user.yaml", 4, "error", "syntax"),
    ("site/files/etc/grid-security/hostkey.pem", 1, "warning", "secret"),
    ("default.tgz", None, "warning", "bundle-on-disk"),
]


def _lint(tmp_path: Path, *words: object) -> Done:
    return run((*AGENT, "--root", str(tmp_path), "lint", *map(str, words)))


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    for name, text in PLANTED.items():
        path = tmp_path / "planted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return tmp_path / "planted"


@pytest.mark.parametrize("form", ["folder", "iso"])
def test_all_planted_mistakes_are_named_with_file_and_line_and_nothing_else_is(
    planted: Path, tmp_path: Path, form: str
) -> None:
    path = planted if form == "folder" else make_iso(planted, tmp_path / "x.iso")
    done = _lint(tmp_path, path, "--format", "json")
    assert done.code == 65, done.err
    found = [(each["path"], each["line"] or None, each["level"], each["rule"]) for each in json.loads(done.out)]
    assert sorted(found, key=str) == sorted(((f"{path}/{name}", *rest) for name, *rest in EXPECTED), key=str)


def test_text_is_one_line_a_mistake_as_compilers_print_it(planted: Path, tmp_path: Path) -> None:
    done = _lint(tmp_path, planted)
    assert len(done.out.splitlines()) == len(EXPECTED)
    assert f"{planted}/site/context.sh:2: error: unquoted ';' [unquoted-operator]\n" in done.out
    assert done.err == ""


def test_a_clean_context_ends_with_0_and_says_so(tmp_path: Path) -> None:
    done = _lint(tmp_path, REPOSITORY / "examples/site-and-user-disk")
    assert (done.code, done.out) == (0, f"{REPOSITORY}/examples/site-and-user-disk: no mistake found\n")


def test_warnings_alone_end_with_0(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/prolog.sh").write_text("echo hello\n")
    done = _lint(tmp_path, tmp_path / "in")
    assert (done.code, done.out.count("warning: ")) == (0, 1)


def test_nothing_there_is_a_misuse(tmp_path: Path) -> None:
    done = _lint(tmp_path, tmp_path / "nowhere")
    assert (done.code, done.out) == (64, "")
    assert "no such file or folder" in done.err


def test_linting_changes_nothing(planted: Path, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    _lint(tmp_path, planted)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []
