"""User data as tests read it."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from contextagent.errors import BrokenSourceError
from contextagent.payloads.caps import Caps
from contextagent.payloads.userdata import read_user_data
from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from contextagent.model import Offer, Reading

CAPS = Caps()
FIXTURES = REPOSITORY / "tests/fixtures/userdata"


def packed(form: str) -> list[bytes]:
    """Return a form's fixture as a source may hand it over: as it lies there, or packed."""
    folder = FIXTURES / form
    if form == "tar":
        program = shutil.which("tar")
        assert program
        made = subprocess.run([program, "-c", "-C", folder / "context", "."], check=True, capture_output=True).stdout
        return [made, gzip.compress(made)]
    data = (folder / "user-data").read_bytes()
    return [gzip.compress(data), gzip.compress(gzip.compress(data))] if form == "gzip" else [data]


def read(data: bytes | str, *, caps: Caps = CAPS, encoding: str = "") -> Reading:
    """Return what user data offers."""
    return read_user_data(data if isinstance(data, bytes) else data.encode(), caps=caps, encoding=encoding)


def said(offer: Offer) -> str:
    """Return an offer in words."""
    return f"script {offer.phase} {offer.name}" if offer.role == "script" else f"{offer.role} {offer.name}"


def reason_of(data: bytes | str, *, caps: Caps = CAPS, encoding: str = "") -> str:
    """Return why user data is refused."""
    with pytest.raises(BrokenSourceError) as caught:
        read(data, caps=caps, encoding=encoding)
    assert str(caught.value).startswith("cannot ")
    return caught.value.reason
