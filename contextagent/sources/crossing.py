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
    from contextagent.host.confine import Channel, Child

_TIMEOUT_S = 60.0
"""For judging a bundle, which may be as large as the caps allow."""
_READING_S = 20.0
"""For reading user data, of which no more is held than one file may have."""
AMICONFIG = "/var/lib/amiconfig/"
"""Where a kept payload may be put: amiconfig looks for its user data there."""


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def asked(
    host: Host,
    work: Callable[[], dict[str, Any]],
    *,
    keep: Sequence[int] = (),
    prepare: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Return what `work` makes of foreign bytes in a confined child, which has them from this process's memory.

    Args:
        host: The machine.
        work: Its dict comes back as JSON.
        keep: Descriptors that it may read.
        prepare: Done in the child before its rights are dropped: imports.

    Raises:
        BrokenSourceError: `work` raised it; or the child died, or its time is over.
    """
    child = host.confined(lambda channel: _serve(channel, work), timeout_s=_TIMEOUT_S, keep=keep, prepare=prepare)
    try:
        return _answer(child)
    finally:
        child.close()


def reading_of(
    host: Host, data: bytes, read: Callable[[bytes], Reading], *, max_bytes: int, prepare: Callable[[], None]
) -> Reading:
    """Return what `read` makes of foreign bytes in a confined child.

    Bytes that it offers cross as they are, and what is the whole of `data` does not cross at all.

    Args:
        host: The machine.
        data: The bytes.
        read: Reads them, in the child.
        max_bytes: How much it may offer, `data` itself not counted.
        prepare: As for `asked`.

    Raises:
        BrokenSourceError: As `asked`; or it offers more.
    """

    def serve(channel: Channel) -> None:
        pieces: list[bytes] = []
        _serve(channel, lambda: packed(read(data), lambda each: _set_aside(each, data, pieces)))
        for piece in pieces:
            channel.send(piece)

    child = host.confined(serve, timeout_s=_READING_S, prepare=prepare)
    try:
        answer = _answer(child)
        left = max_bytes

        def heard(said: object) -> bytes:
            nonlocal left
            if said is True:
                return data
            piece = child.hear(max_bytes=left)
            left -= len(piece)
            return piece

        return unpacked(answer, heard)
    finally:
        child.close()


def _set_aside(each: bytes, data: bytes, pieces: list[bytes]) -> bool:
    """Return whether some bytes are all of the data; if not, they are to be sent after the reading, in its order."""
    if each == data:
        return True
    pieces.append(each)
    return False


def _serve(channel: Channel, work: Callable[[], dict[str, Any]]) -> None:
    try:
        said = work()
    except BrokenSourceError as error:
        problems = [each.as_dict() for each in error.problems]
        said = {"broken": str(error), "reason": error.reason, "problems": problems}
    channel.send(jsontext.dumps(said).encode())


def _answer(child: Child) -> dict[str, Any]:
    answer = jsontext.loads(child.hear())
    if not isinstance(answer, dict):
        raise _nonsense()
    if "broken" in answer:
        raise _broken(answer)
    return answer


def packed(reading: Reading, put: Callable[[bytes], object] = _text) -> dict[str, Any]:
    """Return a reading as JSON; what stands for bytes in it is `put`'s word, Latin-1 if nobody says otherwise."""
    return {
        **reading.as_dict(),
        "offers": [
            {**offer.as_dict(), "data": None if offer.data is None else put(offer.data)} for offer in reading.offers
        ],
        "user_data": None,
        "bundle": None if reading.bundle is None else put(reading.bundle),
        "warnings": [problem.as_dict() for problem in reading.warnings],
    }


def unpacked(answer: dict[str, Any], get: Callable[[Any], bytes] = _bytes) -> Reading:
    """Return the reading that `packed` made JSON of; `get` returns the bytes that a word of `put`'s stands for.

    Raises:
        BrokenSourceError: It is none, or names what no form names; the child was taken over.
    """
    try:
        reading = Reading(
            **{
                **answer,
                "offers": tuple(
                    Offer(**{**offer, "data": None if offer["data"] is None else get(offer["data"])})
                    for offer in answer["offers"]
                ),
                "bundle": None if answer["bundle"] is None else get(answer["bundle"]),
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
