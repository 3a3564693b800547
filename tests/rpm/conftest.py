"""What is tested here: the program and the packages as they are built, and the ways in which a test starts them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine import REPOSITORY, Done, run
from tests.rpm.places import Bare

PACKAGING = REPOSITORY / "packaging" / "rpm"
HERE = Path(__file__).parent
PACKAGED = ("contextagent", "docs/man", "docs/reference", "init", "packaging")
"""What the packages are built of."""
NEWER = "999.1"


def _build(script: Path, *words: str) -> list[Path]:
    """Run a build, with this Python's pip, and return the paths that it prints."""
    cache = os.environ.get("CONTEXTAGENT_INTERPRETER_CACHE", str(REPOSITORY / ".cache/interpreter"))
    environment = os.environ | {"PYTHON": sys.executable, "CONTEXTAGENT_INTERPRETER_CACHE": cache}
    done = subprocess.run([script, *words], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def program() -> Path:
    """Return the program, built where that is not done yet."""
    return _build(PACKAGING / "interpreter" / "build.sh")[-1]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the package of each flavour."""
    return by_name(_build(PACKAGING / "build.sh", str(tmp_path_factory.mktemp("packages"))))


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the packages of a later version, whose policy says more than this one's."""
    tree = tmp_path_factory.mktemp("newer")
    for name in PACKAGED:
        shutil.copytree(REPOSITORY / name, tree / name)
    about = tree / "contextagent/__init__.py"
    about.write_text(re.sub('__version__ = ".*"', f'__version__ = "{NEWER}"', about.read_text()))
    with (tree / "packaging/rpm/policy.yaml").open("a") as file:
        file.write("# a later word\n")
    return by_name(_build(tree / "packaging/rpm/build.sh", str(tree / "out")))


def by_name(built: list[Path]) -> dict[str, Path]:
    """Return packages by flavour; `preset` is the one beside them."""
    return {"preset" if "-preset-" in path.name else path.name.split(".")[-3]: path for path in built}


@pytest.fixture(scope="session")
def plain(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program under a name by which it is a plain interpreter."""
    name = tmp_path_factory.mktemp("plain") / "python"
    shutil.copy(program, name)
    return name


@pytest.fixture(scope="session")
def oldkernel() -> Path:
    """Return the program that answers as an old kernel would; it lies where a view of this machine shows it as well."""
    if os.uname().machine != "x86_64":
        pytest.skip("the tables of old kernels are those of x86-64")
    out = REPOSITORY / ".cache" / "oldkernel"
    subprocess.run(
        ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", out, HERE / "oldkernel.c"], check=True
    )
    return out


@pytest.fixture(params=["this kernel", "2.6.32", "2.6.18"])
def kernel(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return what to put before a command, so that it runs under that kernel's table of system calls."""
    if request.param == "this kernel":
        return ()
    return (str(request.getfixturevalue("oldkernel")), request.param)


@pytest.fixture
def bare(program: Path, tmp_path: Path) -> Bare:
    """Return a root with the program in it, and no other."""
    if os.geteuid() != 0:
        pytest.skip("a root of its own needs root")
    return Bare(tmp_path / "bare", program)


def ask(argv: tuple[str, ...], code: str) -> Done:
    """Run a piece of Python in an interpreter that needs nothing; it must not fail."""
    done = run((*argv, "-c", code))
    assert (done.code, done.err) == (0, "")
    return done
