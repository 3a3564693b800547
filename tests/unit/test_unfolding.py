"""What a confined reader answers is as foreign as what it read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from contextagent.errors import BrokenSourceError
from contextagent.host import Host
from contextagent.model import Offer, Reading
from contextagent.policy.layer import Layer
from contextagent.policy.settings import merge
from contextagent.sources import crossing, unfolding
from contextagent.sources.unfolding import Unfolded

if TYPE_CHECKING:
    from pathlib import Path

DEFAULTS = merge(Layer(voice="image"))


def unfolded(tmp_path: Path, data: bytes) -> Unfolded:
    return Unfolded(Host(str(tmp_path)), data, DEFAULTS, "/state")


def test_a_reading_comes_out_of_the_child_as_it_went_in(tmp_path: Path) -> None:
    reading = unfolded(tmp_path, b"\xff\x00 no form that is known").reading
    assert [(offer.role, offer.data) for offer in reading.offers] == [("kept", b"\xff\x00 no form that is known")]


@pytest.mark.parametrize(
    "offer",
    [
        Offer(owner="user", role="script", name="../../../../etc/cron.d/evil", data=b""),
        Offer(owner="user", role="file", name="/home/../etc/shadow", data=b""),
        Offer(owner="user", role="kept", name="/etc/cron.d/evil", data=b""),
        Offer(owner="user", role="kept", name="/var/lib/amiconfig/../../../etc/shadow", data=b""),
        Offer(owner="user", role="kept", name="../evil", data=b""),
        Offer(owner="user", role="companion", name="../../state.json", data=b""),
        Offer(owner="user", role="settings", name="site.yaml", data=b""),
    ],
    ids=lambda offer: f"{offer.role} {offer.name}",
)
def test_a_reader_that_was_taken_over_names_no_path_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offer: Offer
) -> None:
    answer = Reading(layout="mime", offers=(offer,))
    monkeypatch.setattr(unfolding, "read_user_data", lambda *_, **__: answer)
    with pytest.raises(BrokenSourceError, match="answered nonsense"):
        unfolded(tmp_path, b"MIME-Version: 1.0\n")


@pytest.mark.parametrize("answer", [{}, {"offers": [{}]}, {"offers": 1}, {"offers": [{"role": "script"}]}])
def test_a_reader_that_answers_nonsense_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    monkeypatch.setattr(crossing, "packed", lambda *_: answer)
    with pytest.raises(BrokenSourceError, match="answered nonsense"):
        unfolded(tmp_path, b"MIME-Version: 1.0\n")
