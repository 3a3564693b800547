"""The metadata service as a source: what is asked for in which order, how often, and the verdict for each owner.

The rules are those of docs/reference/context.md, "Metadata service".  The site's bundle is asked for first, so that
nothing which a user supplies can cost the site its own; what failed in a way that may pass is tried again in a further
round, after a back-off that no two machines share.
"""

from __future__ import annotations

import os
import time

from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.model import OWNERS, Problem, Verdict
from contextagent.payloads.address import parse_address
from contextagent.runner.state import HOME
from contextagent.sources.dialects import AUTO, load
from contextagent.sources.found import Findings, Found
from contextagent.sources.service import Answer, Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from contextagent.host import Host
    from contextagent.model import Owner, Reading, VerdictName
    from contextagent.payloads.address import Address
    from contextagent.policy.settings import Settings
    from contextagent.sources.dialects import Dialect
    from contextagent.sources.unpacking import Unpacked

_TOKEN_PATH = "/latest/api/token"  # noqa: S105  # where one is had, none itself
_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105  # its name
_TOKEN_SECONDS = 300
_TOKEN_BYTES = 1 << 10
_META_BYTES = 1 << 20
_PACKING_BYTES = 1 << 20
"""How much larger than its contents a packed bundle may be, for its headers."""
_FIRST_DELAY_S = 0.2
_LAST_DELAY_S = 5.0


def search_service(
    host: Host, settings: Settings, *, owners: Sequence[Owner], override: str | None, start_ns: int, is_trial: bool
) -> Findings:
    """Return what the metadata service gives to each of the owners.

    Args:
        host: The machine.
        settings: The image's, and what a site-trusted disk added; keys `metadata.*`, `caps.*` and `trust.*` matter.
        owners: Whose search has not ended yet.
        override: `--metadata`: another address, checked by `legs`.
        start_ns: When the phase began, as `host.mono_ns()`.
        is_trial: Nothing lasting is written (`plan`).

    Raises:
        CannotWriteError: There is no room for a bundle, not even for a moment.
    """
    search = _Search(host, settings, owners, start_ns)
    try:
        address = search.address(override)
        if address is not None:
            search.ask(address, is_trial=is_trial)
        return search.findings()
    except BaseException:
        search.close()
        raise


class _Search:
    """A search under way.

    Each of the three things that can be wanted has its last answer: None while it was not asked for.
    """

    def __init__(self, host: Host, settings: Settings, owners: Sequence[Owner], start_ns: int) -> None:
        self._host = host
        self._settings = settings
        self._owners = owners
        self._start_ns = start_ns
        self._service: Service | None = None
        self._sink_fd: int | None = None
        self._unpacked: Unpacked | None = None
        self._token: dict[str, str] = {}
        self._dialects: list[Dialect] = []
        self._is_named = settings["metadata.dialect"] != "auto"
        self._source = "metadata"
        self._bundle_path = f"/context/{settings['metadata.bundle']}"
        self._bundle: Answer | None = None
        self._meta: Answer | None = None
        self._user_data: Answer | None = None
        self._found: dict[Owner, Found | None] = dict.fromkeys(OWNERS)
        self._verdicts: list[Verdict] = []
        self._warnings: list[Problem] = []

    def address(self, override: str | None) -> Address | None:
        """Return where the service is; None, with the verdicts given, where that can't be known."""
        names = (self._settings["metadata.dialect"],) if self._is_named else AUTO
        self._dialects = [load(name) for name in names]
        if override is not None:
            return parse_address(override)
        try:
            return parse_address(self._dialects[0].address(self._host, self._settings))
        except (BrokenSourceError, ValueError) as error:
            reason = error.reason if isinstance(error, BrokenSourceError) else "no-address"
            for owner in self._owners:
                self._judge(owner, "broken", f"{reason}: {error}")
            return None

    def ask(self, address: Address, *, is_trial: bool) -> None:
        """Ask for everything that is wanted, until it is had or the time is over, and judge it."""
        if refused := self._unverifiable():
            self._bundle = Answer(outcome="broken", reason="unverified", message=refused)
        sink_bytes = 0
        if self._is_bundle_due():
            self._sink_fd = self._host.files.nameless("" if is_trial else HOME)
            sink_bytes = self._settings["caps.total_bytes"] + _PACKING_BYTES
        self._service = Service(
            self._host,
            address,
            connect_s=self._settings["metadata.connect_s"],
            try_s=self._settings["metadata.try_s"],
            total_s=self._settings["metadata.total_s"],
            start_ns=self._start_ns,
            sink_fd=self._sink_fd,
            max_sink_bytes=sink_bytes,
            readers={dialect.NAME: dialect.read for dialect in self._dialects},
        )
        self._rounds(self._service)
        self._service.close()
        self._conclude(is_trial=is_trial)

    def findings(self) -> Findings:
        """Return what was found."""
        meta = self._meta.reading if self._meta else None
        return Findings(
            found=self._found,
            verdicts=tuple(self._verdicts),
            warnings=tuple(self._warnings),
            ids=meta.ids if meta else {},
            close=self.close,
            eject=lambda: None,
        )

    def close(self) -> None:
        """Let go of everything; a second call does nothing."""
        if self._service is not None:
            self._service.close()
        if self._unpacked is not None:
            self._unpacked.close()
        if self._sink_fd is not None:
            os.close(self._sink_fd)
            self._sink_fd = None

    def _unverifiable(self) -> str:
        """Return why no bundle may be taken; this version can't verify a signature, so it must not do without one."""
        mode = self._settings["trust.metadata"]
        if "site" not in self._owners or not (
            mode == "enforce" or (mode == "prefer" and self._settings["trust.signers"])
        ):
            return ""
        key = "trust.metadata" if mode == "enforce" else "trust.signers"
        return (
            f"cannot take '{self._settings['metadata.bundle']}': '{key}' asks for a signature, "
            "and signatures are not yet supported"
        )

    # -- asking

    def _rounds(self, service: Service) -> None:
        delay_s = _FIRST_DELAY_S
        if self._settings["metadata.imds"] == "v2" and self._dialects[-1].NAME == "ec2":
            self._take_token(service)
        while True:
            answers = self._round(service)
            waits = [answer.retry_after_s for answer in answers if answer.outcome == "retry"]
            if not waits:
                return
            # each machine waits for a time of its own, or a thousand that were refused together come again together
            wait_s = max(waits) + delay_s * (0.5 + int.from_bytes(os.urandom(2), "big") / 65536)
            if wait_s >= service.left_s():
                return
            time.sleep(wait_s)
            delay_s = min(delay_s * 2, _LAST_DELAY_S)

    def _round(self, service: Service) -> list[Answer]:
        """Ask once for each thing that is still due, and return the answers to what is worth another try."""
        if self._is_bundle_due():
            self._bundle = self._get(service, self._bundle_path, is_bundle=True)
        if _is_due(self._meta) and not _is_unreachable(self._bundle):
            self._ask_meta(service)
        if _is_unreachable(self._bundle) or _is_unreachable(self._meta):
            return []
        is_known = self._is_named or (self._meta is not None and self._meta.outcome != "retry")
        if "user" in self._owners and is_known and self._is_readable() and _is_due(self._user_data):
            self._user_data = self._get(service, self._dialects[0].USER_DATA)
        due = [self._bundle, self._user_data, self._meta if "user" in self._owners else None]
        return [answer for answer in due if answer is not None]

    def _is_bundle_due(self) -> bool:
        return "site" in self._owners and _is_due(self._bundle)

    def _is_readable(self) -> bool:
        """Whether the dialect is one in which there can be user data, as far as the meta data tells."""
        return self._is_named or self._meta is None or self._meta.outcome in ("found", "absent")

    def _ask_meta(self, service: Service) -> None:
        """Ask for the meta data, dialect by dialect: the first that the service knows is the one it speaks."""
        while True:
            self._meta = self._get(service, self._dialects[0].META_DATA, reader=self._dialects[0].NAME)
            if self._meta.outcome != "absent" or len(self._dialects) == 1:
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
        return service.get(
            path,
            max_bytes=self._max_bytes(is_meta=bool(reader), is_bundle=is_bundle),
            headers=self._token,
            reader=reader,
            to_sink=is_bundle,
            refuse_html=not reader,
        )

    def _max_bytes(self, *, is_meta: bool, is_bundle: bool) -> int:
        total_bytes: int = self._settings["caps.total_bytes"]
        return _META_BYTES if is_meta else total_bytes + _PACKING_BYTES if is_bundle else total_bytes

    def _take_token(self, service: Service) -> None:
        """Ask for a session token (IMDSv2), and keep it for all that follows."""
        seconds = {f"{_TOKEN_HEADER}-ttl-seconds": str(_TOKEN_SECONDS)}
        answer = service.put(_TOKEN_PATH, headers=seconds, max_bytes=_TOKEN_BYTES)
        token = answer.body.decode("latin-1").strip()
        if answer.outcome == "found" and token.isascii() and token.isprintable():
            self._token = {_TOKEN_HEADER: token}

    # -- judging

    def _conclude(self, *, is_trial: bool) -> None:
        """Say what each owner was given, and give the verdict."""
        is_spoken = any(answer is not None and answer.outcome == "found" for answer in (self._meta, self._user_data))
        if is_spoken:
            self._source = f"metadata:{self._dialects[0].NAME}"
        for owner in reversed(self._owners):  # in the order in which it was asked
            if owner == "site":
                self._conclude_site(is_trial=is_trial)
            else:
                self._conclude_user()

    def _conclude_site(self, *, is_trial: bool) -> None:
        answer = self._bundle
        if answer is None or answer.outcome != "found" or self._sink_fd is None:
            self._judge_answer("site", answer)
            return
        from contextagent.sources.unpacking import unpack  # noqa: PLC0415  # only where there is a bundle

        try:
            self._unpacked = unpack(
                self._host, self._sink_fd, self._settings, owner="site", folder="" if is_trial else HOME
            )
        except (BrokenSourceError, CannotWriteError) as error:
            self._judge("site", "broken", f"{error.reason}: {error}")
            return
        reading = self._unpacked.reading
        self._warnings += reading.warnings
        found = Found(
            owner="site",
            source=self._source,
            trust="none",
            offers=reading.offers,
            variables=reading.variables,
            user_data=None,
            medium=self._unpacked.medium,
        )
        if found.is_material:
            self._found["site"] = found
            self._judge("site", "found", self._had(self._bundle_path, answer))
        else:
            self._judge("site", "absent", f"{self._had(self._bundle_path, answer)}: it holds nothing of the site's")

    def _conclude_user(self) -> None:
        meta: Reading | None = self._meta.reading if self._meta else None
        if meta is not None:
            self._warnings += meta.warnings
        elif self._is_named and self._meta is not None and self._meta.outcome in ("broken", "retry"):
            message = f"{self._meta.message}, going on without the instance's id and keys"
            self._warnings.append(Problem(reason=self._meta.reason, message=message))
        data, is_broken = None, self._user_data is not None and self._user_data.outcome in ("broken", "retry")
        if self._user_data is not None and self._user_data.outcome == "found":
            data = self._user_data.body
        found = Found(
            owner="user",
            source=self._source,
            trust="none",
            offers=meta.offers if meta else (),
            variables={},
            user_data=data or None,
            medium=None,
        )
        if (found.offers or found.user_data) and not is_broken:
            self._found["user"] = found
        if found.is_material and self._user_data:
            self._judge("user", "found", self._had(self._dialects[0].USER_DATA, self._user_data))
        else:
            self._judge_answer("user", self._user_data or self._meta or self._bundle)

    def _had(self, path: str, answer: Answer) -> str:
        return f"'{self._service.url(path) if self._service else path}' ({answer.size_bytes} bytes)"

    def _judge_answer(self, owner: Owner, answer: Answer | None) -> None:
        """Give the verdict on something that was not had; what could be tried again until now is broken by now."""
        if answer is None:
            self._judge(owner, "absent", "not asked for")
            return
        verdict: VerdictName = "absent"
        if answer.outcome == "unreachable":
            verdict = "unreachable"
        elif answer.outcome in ("broken", "retry"):
            verdict = "broken"
        self._judge(owner, verdict, f"{answer.reason}: {answer.message}" if verdict != "absent" else answer.message)

    def _judge(self, owner: Owner, verdict: VerdictName, reason: str) -> None:
        duration_s = (self._host.mono_ns() - self._start_ns) / 1e9
        self._verdicts.append(
            Verdict(owner=owner, source=self._source, verdict=verdict, reason=reason, duration_s=duration_s)
        )


def _is_unreachable(answer: Answer | None) -> bool:
    return answer is not None and answer.outcome == "unreachable"


def _is_due(answer: Answer | None) -> bool:
    return answer is None or answer.outcome == "retry"
