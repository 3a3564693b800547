"""Readings on their way out of a confined child: as JSON, and judged as foreign bytes when they arrive."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.model import Offer, Problem, Reading
from contextagent.payloads.names import script_name_problem, target_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from contextagent.host import Host
    from contextagent.host.confine import Channel

_TIMEOUT_S = 60.0
AMICONFIG = "/var/lib/amiconfig/"
"""Where a kept payload may be put: amiconfig looks for its user data there."""


def asked(
    host: Host,
    data: bytes,
    work: Callable[[bytes], dict[str, Any]],
    *,
    keep: Sequence[int] = (),
    prepare: Callable[[], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Return what `work` makes of foreign bytes in a confined child.

    Args:
        host: The machine.
        data: The bytes; without any, the child begins at once.
        work: Its dict comes back as JSON.
        keep: Descriptors that it may read beside them.
        prepare: Done in the child before its rights are dropped: imports.
        meanwhile: Done here while the child is at it.

    Raises:
        BrokenSourceError: `work` raised it; or the child died, or its time is over.
    """

    def serve(channel: Channel) -> None:
        foreign = (channel.receive(max_bytes=len(data)) or b"") if data else b""
        try:
            said = work(foreign)
        except BrokenSourceError as error:
            said = {
                "broken": str(error),
                "reason": error.reason,
                "problems": [each.as_dict() for each in error.problems],
            }
        channel.send(jsontext.dumps(said).encode())

    child = host.confined(serve, timeout_s=_TIMEOUT_S, keep=keep, prepare=prepare)
    try:
        if meanwhile is not None:
            meanwhile()
        answer = jsontext.loads(child.ask(data) if data else child.hear())
    finally:
        child.close()
    if not isinstance(answer, dict):
        raise _nonsense()
    if "broken" in answer:
        raise _broken(answer)
    return answer


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
    try:
        reading = Reading(
            **{
                **answer,
                "offers": tuple(Offer(**{**offer, "data": _bytes(offer["data"])}) for offer in answer["offers"]),
                "bundle": _bytes(answer["bundle"]),
                "warnings": tuple(Problem(**problem) for problem in answer["warnings"]),
            }
        )
        are_texts = all(map(_are_texts, (reading.variables, reading.ids, reading.requester)))
        is_harmless = are_texts and all(_is_harmless(offer) for offer in reading.offers)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _nonsense() from error
    if not is_harmless:
        raise _nonsense()
    return reading


def _are_texts(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(text, str) for pair in found.items() for text in pair)


def _broken(answer: dict[str, Any]) -> BrokenSourceError:
    """Return the error that a child told of."""
    try:
        problems = tuple(Problem(**each) for each in answer["problems"])
        return BrokenSourceError(str(answer["broken"]), reason=str(answer["reason"]), problems=problems)
    except (TypeError, KeyError, ValueError) as error:
        raise _nonsense() from error


def _nonsense() -> BrokenSourceError:
    return BrokenSourceError("cannot read 'user data': its reader answered nonsense", reason="reader-died")


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
