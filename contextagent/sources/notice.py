"""The notice that a machine's host gives before it takes the machine away; of the metadata services, EC2's has one."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.model import Value
from contextagent.payloads.address import parse_address
from contextagent.payloads.notice import ACTION, instance_action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host
    from contextagent.host.aside import Aside
    from contextagent.policy.settings import Settings
    from contextagent.runner.state import State
    from contextagent.sources.service import Answer, Service

_SOURCE = "metadata:ec2"
_PATHS = ("/latest/", "/context/")
"""What follows the service's address in a URL that was asked for."""
_CONNECT_S, _TRY_S, _TOTAL_S = 2.0, 3.0, 8.0
_MAX_BYTES = 4096


class Notice(Value):
    """What the service said: when the machine ends (seconds since 1970), None where it gave no notice.

    `problem` says why that is not known; what was known before then still holds.
    """

    at_s: int | None = None
    problem: str = ""


def where(state: State) -> str:
    """Return the address of a service that may give notice to this machine; empty where there is none."""
    for verdict in state.verdicts:
        asked = str(verdict.facts.get("address", ""))
        if verdict.source == _SOURCE and asked and verdict.verdict != "unreachable":
            return min((asked.partition(path)[0] for path in _PATHS), key=len)
    return ""


def start_asking(host: Host, settings: Settings, address: str) -> Aside:
    """Have the service asked by a child; `heard` understands its result.

    Raises:
        OSError: There is no process to be had.
    """
    from contextagent.host import aside  # noqa: PLC0415  # only where there is such a service

    return aside.start(lambda: jsontext.dumps(_ask(host, settings, address).as_dict()))


def heard(result: str) -> Notice:
    """Return what a child brought."""
    try:
        return Notice(**jsontext.loads(result))
    except (ValueError, TypeError):
        return Notice(problem=f"cannot read '{ACTION}': {result or 'it took too long'}")


def _ask(host: Host, settings: Settings, address: str) -> Notice:
    from contextagent.sources.service import Service  # noqa: PLC0415  # a child's alone

    try:
        place = parse_address(address)
    except ValueError as error:
        return Notice(problem=f"cannot ask '{address}': {error}")
    service = Service(host, place, connect_s=_CONNECT_S, try_s=_TRY_S, total_s=_TOTAL_S, start_ns=host.mono_ns())
    try:
        return _judged(_answer(service, imds=settings["metadata.imds"]))
    finally:
        service.close()


def _answer(service: Service, *, imds: str) -> Answer:
    from contextagent.sources.asking import session_token  # noqa: PLC0415  # as above

    token = session_token(service) if imds == "v2" else {}
    answer = service.get(ACTION, max_bytes=_MAX_BYTES, headers=token, refuse_html=True)
    if answer.outcome == "unauthorised" and imds == "auto":
        answer = service.get(ACTION, max_bytes=_MAX_BYTES, headers=session_token(service), refuse_html=True)
    return answer


def _judged(answer: Answer) -> Notice:
    if answer.outcome == "absent":
        return Notice()
    if answer.outcome != "found":
        return Notice(problem=answer.message or f"cannot read '{ACTION}': {answer.reason}")
    try:
        return Notice(at_s=instance_action(answer.body))
    except BrokenSourceError as error:
        return Notice(problem=str(error))
