"""Readings on their way out of a confined child: as JSON, and judged as foreign bytes when they arrive."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Offer, Problem, Reading
from contextagent.payloads.names import script_name_problem, target_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AMICONFIG = "/var/lib/amiconfig/"
"""Where a kept payload may be put: amiconfig looks for its user data there."""


def packed(reading: Reading) -> dict[str, Any]:
    """Return a reading as JSON, its bytes as Latin-1: the confined child has no other way out."""
    return {
        **reading.as_dict(),
        "offers": [{**offer.as_dict(), "data": _text(offer.data)} for offer in reading.offers],
        "user_data": None,
        "bundle": _text(reading.bundle),
        "warnings": [problem.as_dict() for problem in reading.warnings],
    }


def unpacked(answer: dict[str, Any]) -> Reading:
    """Return the reading that `packed` made JSON of.

    Raises:
        BrokenSourceError: It is none, or names what no form names; the child was taken over.
    """
    nonsense = BrokenSourceError("cannot read 'user data': its reader answered nonsense", reason="reader-died")
    try:
        reading = Reading(
            **{
                **answer,
                "offers": tuple(Offer(**{**offer, "data": _bytes(offer["data"])}) for offer in answer["offers"]),
                "bundle": _bytes(answer["bundle"]),
                "warnings": tuple(Problem(**problem) for problem in answer["warnings"]),
            }
        )
        is_harmless = all(_is_harmless(offer) for offer in reading.offers)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise nonsense from error
    if not is_harmless:
        raise nonsense
    return reading


def _is_harmless(offer: Offer) -> bool:
    """Whether an offer leads nowhere that the forms of user data don't: its names become paths of ours."""
    match offer.role:
        case "script":
            return not script_name_problem(offer.name)
        case "file":
            return not target_problem(offer.name)
        case "kept":
            is_place = offer.name.startswith(AMICONFIG) and not target_problem(offer.name)
            return is_place or "/" not in offer.name
        case role:
            return role == "key"


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("latin-1")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")
