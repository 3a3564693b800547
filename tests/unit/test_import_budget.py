"""What a boot imports is what it costs: the modules of both phases are counted by name, not by time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, Machine, run

if TYPE_CHECKING:
    from collections.abc import Sequence

BUDGET = Path(__file__).with_name("import_budget.txt")
FORBIDDEN = """
argparse ast asyncio base64 collections configparser contextlib copy ctypes dataclasses datetime email enum functools
gzip hashlib importlib inspect io json locale logging netifaces operator pathlib pickle pycdlib random re requests
shutil signal site socket ssl string struct subprocess tarfile tempfile textwrap threading traceback typing urllib
weakref yaml
""".split()


def modules(argv: Sequence[str]) -> set[str]:
    """Return what a whole process of the interpreter imports, by the interpreter's own account."""
    python, *rest = argv
    done = run([python, "-X", "importtime", *rest])
    assert done.code == 0, done.err
    return {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return what each phase of a boot from a small disk imports beyond an empty interpreter."""
    folder = tmp_path_factory.mktemp("budget")
    machine, disk = Machine(folder / "machine"), folder / "disk"
    for name in ("prolog.sh", "epilog.sh", "user/prolog.sh", "user/epilog.sh"):
        path = disk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\nexit 0\n")
    empty = modules([*AGENT[:-1], "-c", "pass"])
    words = ("--root", str(machine.root), "--disk", str(disk))
    found = {phase: modules([*AGENT, *words, "run", phase]) - empty for phase in ("pre-network", "post-network")}
    return found | {"again": modules([*AGENT, *words, "run", "post-network", "--resume"]) - empty}


def test_a_boot_imports_nothing_beyond_its_budget(boot: dict[str, set[str]]) -> None:
    allowed = set(BUDGET.read_text().split())
    assert boot["pre-network"] | boot["post-network"] | boot["again"] <= allowed


def test_the_budget_names_no_module_of_ours_that_a_boot_does_without(boot: dict[str, set[str]]) -> None:
    ours = {name for name in BUDGET.read_text().split() if name.startswith("contextagent")}
    assert ours <= boot["pre-network"] | boot["post-network"] | boot["again"]


def test_the_second_phase_does_not_look_for_the_context_again(boot: dict[str, set[str]]) -> None:
    assert not {name for name in boot["post-network"] if name.startswith("contextagent.sources.layouts.")}


def test_a_phase_that_is_complete_is_told_of_without_what_a_run_loads(boot: dict[str, set[str]]) -> None:
    ours = {name for name in boot["again"] if name.startswith("contextagent.")}
    rooms = {name.split(".")[1] for name in ours}
    assert rooms == {"cli", "errors", "host", "jsontext", "model", "runner", "trace"}
    assert {name for name in ours if name.startswith("contextagent.runner.")} == {"contextagent.runner.status"}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_boot_does_without(name: str, boot: dict[str, set[str]]) -> None:
    assert not {each for phase in boot.values() for each in phase if each == name or each.startswith(f"{name}.")}
