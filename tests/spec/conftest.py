"""What the contract's tests may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.spec.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def service() -> Iterator[Service]:
    """Return a metadata service that knows nothing yet."""
    with Service() as made:
        yield made
