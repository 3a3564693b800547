"""What the metadata service is asked for, in which order and how often; each answer is kept for `metadata` to judge.

The site's bundle is asked for first, so that nothing which a user supplies can cost the site its own; what failed in a
way that may pass is tried again in a further round, after a back-off that no two machines share.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from contextagent.model import Owner
    from contextagent.policy.settings import Settings
    from contextagent.sources.dialects import Dialect
    from contextagent.sources.service import Answer, Service

_TOKEN_PATH = "/latest/api/token"  # noqa: S105  # where one is had, none itself
_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105  # its name
_TOKEN_SECONDS = 300
_TOKEN_BYTES = 1 << 10
_META_BYTES = 1 << 20
_HELD_BYTES = 16 << 20
"""User data beyond this goes to a file, whatever the caps."""
_PACKING_BYTES = 1 << 20
"""How much larger than its contents a packed bundle may be, for its headers."""
_FIRST_DELAY_S = 0.2
_LAST_DELAY_S = 5.0


def max_bundle_bytes(settings: Settings) -> int:
    """Return how large a packed bundle may be."""
    total_bytes: int = settings["caps.total_bytes"]
    return total_bytes + _PACKING_BYTES


class Asking:
    """The three things that can be wanted, each with its last answer: None while it was not asked for.

    Args:
        settings: For `metadata.*` and the caps.
        owners: Who wants something.
        dialects: Those to try, in order; the first is the one that is spoken as far as is known.
        is_named: The policy names the only one.

    Attributes:
        is_named: As given.
        bundle: The answer to the request for the site's bundle; set beforehand where that is not to be sent.
        meta: The answer to the request for the meta data.
        user_data: The answer to the request for the user data.
        tries: Path to how often it was asked for.
    """

    def __init__(
        self, settings: Settings, owners: Sequence[Owner], dialects: Sequence[Dialect], *, is_named: bool
    ) -> None:
        self._settings = settings
        self._owners = owners
        self._dialects = list(dialects)
        self.is_named = is_named
        self._token: dict[str, str] = {}
        self.bundle_path = f"/context/{settings['metadata.bundle']}"
        self.bundle: Answer | None = None
        self.meta: Answer | None = None
        self.user_data: Answer | None = None
        self.tries: dict[str, int] = {}

    @property
    def dialect(self) -> Dialect:
        """The dialect that is spoken, as far as is known."""
        return self._dialects[0]

    @property
    def is_bundle_due(self) -> bool:
        """Whether the bundle is still to be had."""
        return "site" in self._owners and _is_due(self.bundle)

    def rounds(self, service: Service) -> None:
        """Ask for everything that is wanted, until it is had, can't be had, or the time is over."""
        delay_s = _FIRST_DELAY_S
        if self._settings["metadata.imds"] == "v2" and self._dialects[-1].NAME == "ec2":
            self._take_token(service)
        while True:
            answers = self._round(service)
            waits = [answer.retry_after_s for answer in answers if answer.outcome == "retry"]
            if not waits:
                return
            # each machine waits for a time of its own, or a thousand that were refused together come again together
            chance = int.from_bytes(os.urandom(2), "big") / 65536
            wait_s = max(waits) * (1 + chance / 2) + delay_s * (0.25 + 1.5 * chance)
            if wait_s >= service.left_s():
                return
            time.sleep(wait_s)
            delay_s = min(delay_s * 2, _LAST_DELAY_S)

    def _round(self, service: Service) -> list[Answer]:
        """Ask once for each thing that is still due, and return the answers to what is worth another try."""
        if self.is_bundle_due and (self.bundle is None or service.left_s() > 0):
            self.bundle = self._get(service, self.bundle_path, is_bundle=True)
        if self._is_wanted(service, self.meta) and not _is_unreachable(self.bundle):
            self._ask_meta(service)
        if _is_unreachable(self.bundle) or _is_unreachable(self.meta):
            return []
        is_known = self.is_named or (self.meta is not None and self.meta.outcome != "retry")
        is_readable = "user" in self._owners and is_known and self._is_readable()
        if is_readable and self._is_wanted(service, self.user_data):
            self.user_data = self._get(service, self._dialects[0].USER_DATA)
        due = [self.bundle, self.user_data, self.meta if "user" in self._owners else None]
        return [answer for answer in due if answer is not None]

    def _is_wanted(self, service: Service, answer: Answer | None) -> bool:
        """Whether to ask now for something beside the bundle.

        What has taken all the time of a try waits until the bundle is settled: a user's data that never ends must not
        eat the time of the site's.  When the time is over, the last answer says more than that it is.
        """
        if answer is None:
            return True
        is_slow = answer.reason == "timeout"
        return _is_due(answer) and not (is_slow and self.is_bundle_due) and service.left_s() > 0

    def _is_readable(self) -> bool:
        """Whether the dialect is one in which there can be user data, as far as the meta data tells."""
        return self.is_named or self.meta is None or self.meta.outcome in ("found", "absent")

    def _ask_meta(self, service: Service) -> None:
        """Ask for the meta data, dialect by dialect: the first that the service knows is the one it speaks."""
        while True:
            self.meta = self._get(service, self._dialects[0].META_DATA, reader=self._dialects[0].NAME)
            if self.meta.outcome != "absent" or len(self._dialects) == 1:
                return
            del self._dialects[0]

    def _get(self, service: Service, path: str, *, reader: str = "", is_bundle: bool = False) -> Answer:
        """Ask once; a service that wants a token is given one."""
        answer = self._try(service, path, reader=reader, is_bundle=is_bundle)
        if answer.outcome == "unauthorised" and not self._token and self._settings["metadata.imds"] != "v1":
            self._take_token(service)
            if self._token:
                answer = self._try(service, path, reader=reader, is_bundle=is_bundle)
        return answer.replace(outcome="broken") if answer.outcome == "unauthorised" else answer

    def _try(self, service: Service, path: str, *, reader: str, is_bundle: bool) -> Answer:
        self.tries[path] = self.tries.get(path, 0) + 1
        return service.get(
            path,
            max_bytes=self._max_bytes(is_meta=bool(reader), is_bundle=is_bundle),
            headers=self._token,
            reader=reader,
            to_sink=is_bundle,
            refuse_html=not reader,
            max_held_bytes=min(self._settings["caps.member_bytes"], _HELD_BYTES),
        )

    def _max_bytes(self, *, is_meta: bool, is_bundle: bool) -> int:
        if is_meta:
            return _META_BYTES
        total_bytes: int = self._settings["caps.total_bytes"]
        return max_bundle_bytes(self._settings) if is_bundle else total_bytes

    def _take_token(self, service: Service) -> None:
        """Ask for a session token (IMDSv2), and keep it for all that follows."""
        self._token = session_token(service) or self._token


def session_token(service: Service) -> dict[str, str]:
    """Return the header with a session token (IMDSv2) that was asked for now; empty where none is given."""
    seconds = {f"{_TOKEN_HEADER}-ttl-seconds": str(_TOKEN_SECONDS)}
    answer = service.put(_TOKEN_PATH, headers=seconds, max_bytes=_TOKEN_BYTES)
    token = answer.body.decode("latin-1").strip()
    is_token = answer.outcome == "found" and token.isascii() and token.isprintable()
    return {_TOKEN_HEADER: token} if is_token else {}


def _is_unreachable(answer: Answer | None) -> bool:
    return answer is not None and answer.outcome == "unreachable"


def _is_due(answer: Answer | None) -> bool:
    return answer is None or answer.outcome == "retry"
