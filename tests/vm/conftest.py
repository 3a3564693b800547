"""Guests ask for programs that not every machine has; `make vm` installs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.parts import missing_tools

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = missing_tools()
    for item in items:
        if missing and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"not installed here: {', '.join(missing)}"))
