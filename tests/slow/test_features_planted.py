"""`features check` finds a mistake planted in any key that a reader looks at, in the form that its pilot is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contextagent.cli.features import FORM_OF
from contextagent.features.readers import READERS, USES
from tests.blackbox.test_features_cli import FOLDERS, good, lay
from tests.serving import Serving

if TYPE_CHECKING:
    from pathlib import Path

    from contextagent.features.readers import Reader
    from tests.machine import Machine


def keys_of(reader: Reader) -> list[str]:
    return sorted({use.key for use in USES[reader, FORM_OF[reader]]})


@pytest.mark.parametrize(("reader", "key"), [(reader, key) for reader in READERS for key in keys_of(reader)])
def test_a_planted_mistake_is_found_by_its_key(machine: Machine, tmp_path: Path, reader: Reader, key: str) -> None:
    half, _, name = key.partition("/")
    planted = {**good(), f"{FOLDERS[half]}/{name}": "4\t2"}
    with Serving(lay(tmp_path / "served", planted)) as service:
        machine.put("etc/contextagent/policy.yaml", f"watch: {{http: '127.0.0.1:{service.port}'}}")
        lay(machine.root / "etc", planted)
        done = machine.run("features", "check", "--as", reader)
    assert done.code == 1, done
    assert f"'{key}'" in done.out
