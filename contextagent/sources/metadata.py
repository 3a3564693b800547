"""The metadata service as a source: what it gives to whom, and the verdict for each owner.

The rules are those of docs/reference/sources.md, "The metadata service".
"""

from __future__ import annotations

import os

from contextagent.digests import sha512_hex
from contextagent.errors import BrokenSourceError, CannotWriteError
from contextagent.model import OWNERS, Problem, Verdict
from contextagent.payloads.address import parse_address
from contextagent.runner.state import HOME
from contextagent.sources.asking import Asking, max_bundle_bytes
from contextagent.sources.dialects import AUTO, load
from contextagent.sources.found import Findings, Found
from contextagent.sources.service import Answer, Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from contextagent.host import Host
    from contextagent.model import Owner, Reading, VerdictName
    from contextagent.payloads.address import Address
    from contextagent.policy.settings import Settings
    from contextagent.sources.unpacking import Unpacked


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
    """A search under way."""

    def __init__(self, host: Host, settings: Settings, owners: Sequence[Owner], start_ns: int) -> None:
        is_named = settings["metadata.dialect"] != "auto"
        self._host = host
        self._settings = settings
        self._owners = owners
        self._start_ns = start_ns
        self._dialects = [load(name) for name in ((settings["metadata.dialect"],) if is_named else AUTO)]
        self._asking = Asking(settings, owners, self._dialects, is_named=is_named)
        self._service: Service | None = None
        self._sink_fd: int | None = None
        self._unpacked: Unpacked | None = None
        self._source = "metadata"
        self._found: dict[Owner, Found | None] = dict.fromkeys(OWNERS)
        self._verdicts: list[Verdict] = []
        self._warnings: list[Problem] = []

    def address(self, override: str | None) -> Address | None:
        """Return where the service is; None, with the verdicts given, where that can't be known."""
        if override is not None:
            return parse_address(override)
        try:
            return parse_address(self._dialects[0].address(self._host, self._settings))
        except BrokenSourceError as error:
            for owner in reversed(self._owners):
                self._judge(owner, "unreachable", f"unreachable: {error}")
            return None

    def ask(self, address: Address, *, is_trial: bool) -> None:
        """Ask for everything that is wanted, until it is had or the time is over, and judge it."""
        if refused := self._unverifiable():
            self._asking.bundle = Answer(outcome="broken", reason="unverified", message=refused)
        if self._asking.is_bundle_due:
            self._sink_fd = self._host.files.nameless("" if is_trial else HOME)
        self._service = Service(
            self._host,
            address,
            connect_s=self._settings["metadata.connect_s"],
            try_s=self._settings["metadata.try_s"],
            total_s=self._settings["metadata.total_s"],
            start_ns=self._start_ns,
            sink_fd=self._sink_fd,
            max_sink_bytes=max_bundle_bytes(self._settings),
            folder="" if is_trial else HOME,
            readers={dialect.NAME: dialect.read for dialect in self._dialects},
        )
        self._asking.rounds(self._service)
        self._service.close()
        self._conclude(is_trial=is_trial)

    def findings(self) -> Findings:
        """Return what was found."""
        meta = self._asking.meta.reading if self._asking.meta else None
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
        user_data, self._asking.user_data = self._asking.user_data, None
        for fd in (self._sink_fd, user_data.file_fd if user_data else None):
            if fd is not None:
                os.close(fd)
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

    def _conclude(self, *, is_trial: bool) -> None:
        """Say what each owner was given, and give the verdict."""
        is_spoken = any(
            answer is not None and answer.outcome == "found" for answer in (self._asking.meta, self._asking.user_data)
        )
        if is_spoken:
            self._source = f"metadata:{self._asking.dialect.NAME}"
        for owner in reversed(self._owners):  # in the order in which it was asked
            if owner == "site":
                self._conclude_site(is_trial=is_trial)
            else:
                self._conclude_user()

    def _conclude_site(self, *, is_trial: bool) -> None:
        answer = self._asking.bundle
        if answer is None or answer.outcome != "found" or self._sink_fd is None:
            self._judge_answer("site", self._asking.bundle_path, answer)
            return
        from contextagent.sources.unpacking import PackedDigest, unpack  # noqa: PLC0415  # only where there is a bundle

        digest = PackedDigest(self._host, self._sink_fd, answer.size_bytes)
        folder = "" if is_trial else HOME
        cause = ""
        try:
            self._unpacked = unpack(self._host, self._sink_fd, self._settings, owner="site", folder=folder)
        except (BrokenSourceError, CannotWriteError) as error:
            cause = f"{error.reason}: {error}"
        facts = {"bytes": answer.size_bytes, "sha512": digest.hexdigest()}
        if self._unpacked is None:
            self._judge("site", "broken", cause, self._asking.bundle_path, answer, facts)
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
        had = self._had(self._asking.bundle_path, answer)
        if found.is_material:
            self._found["site"] = found
            self._judge("site", "found", had, self._asking.bundle_path, answer, facts)
        else:
            self._judge(
                "site", "absent", f"{had}: it holds nothing of the site's", self._asking.bundle_path, answer, facts
            )

    def _conclude_user(self) -> None:
        meta: Reading | None = self._asking.meta.reading if self._asking.meta else None
        if meta is not None:
            self._warnings += meta.warnings
        elif (
            self._asking.is_named and self._asking.meta is not None and self._asking.meta.outcome in ("broken", "retry")
        ):
            message = f"{self._asking.meta.message}, going on without the instance's id and keys"
            self._warnings.append(Problem(reason=self._asking.meta.reason, message=message))
        answer = self._asking.user_data
        data: bytes | int | None = None
        if answer is not None and answer.outcome == "found":
            data = answer.body if answer.file_fd is None else answer.file_fd
        is_broken = answer is not None and answer.outcome in ("broken", "retry")
        found = Found(
            owner="user",
            source=self._source,
            trust="none",
            offers=meta.offers if meta else (),
            variables={},
            user_data=data,
            medium=None,
        )
        if (found.offers or data) and not is_broken:
            self._found["user"] = found
        requester = {"requester": _requester(meta)} if meta and _requester(meta) else {}
        path = self._asking.dialect.USER_DATA
        if data is not None and answer is not None:
            facts = {"bytes": answer.size_bytes, "sha512": self._digest(data, answer.size_bytes), **requester}
            self._judge("user", "found", self._had(path, answer), path, answer, facts)
        elif answer is not None:
            self._judge_answer("user", path, answer, requester)
        elif self._asking.meta:
            self._judge_answer("user", self._asking.dialect.META_DATA, self._asking.meta)
        else:
            self._judge_answer("user", self._asking.bundle_path, self._asking.bundle)

    def _digest(self, data: bytes | int, size_bytes: int) -> str:
        if not isinstance(data, int):
            return sha512_hex(data)
        from contextagent.sources.unpacking import PackedDigest  # noqa: PLC0415  # user data that large is rare

        return PackedDigest(self._host, data, size_bytes).hexdigest()

    def _had(self, path: str, answer: Answer) -> str:
        return f"'{self._url(path)}' ({answer.size_bytes} bytes)"

    def _url(self, path: str) -> str:
        return self._service.url(path) if self._service else path

    def _judge_answer(
        self, owner: Owner, path: str, answer: Answer | None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Give the verdict on something that was not had; what could be tried again until now is broken by now."""
        if answer is None:
            self._judge(owner, "absent", "not asked for")
            return
        verdict: VerdictName = "absent"
        if answer.outcome == "unreachable":
            verdict = "unreachable"
        elif answer.outcome in ("broken", "retry"):
            verdict = "broken"
        reason = f"{answer.reason}: {answer.message}" if verdict != "absent" else answer.message
        self._judge(owner, verdict, reason, path, answer, facts)

    def _judge(  # what the trace tells of it
        self,
        owner: Owner,
        verdict: VerdictName,
        reason: str,
        path: str = "",
        answer: Answer | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        asked = {"address": self._url(path), "tries": self._asking.tries.get(path, 0)} if path else {}
        if answer is not None and answer.status:
            asked["http"] = answer.status
        self._verdicts.append(
            Verdict(
                owner=owner,
                source=self._source,
                verdict=verdict,
                reason=reason,
                duration_s=(self._host.mono_ns() - self._start_ns) / 1e9,
                facts={**asked, **(facts or {})},
            )
        )


def _requester(meta: Reading) -> dict[str, Any]:
    """Return who asked for the machine: project, name, and the fingerprints of the keys that it is to have."""
    from contextagent.payloads.keys import fingerprint, read_keys  # noqa: PLC0415  # most services tell of no key

    texts = [
        offer.data.decode("utf-8", "surrogateescape") for offer in meta.offers if offer.role == "key" and offer.data
    ]
    lines = [line for text in texts for line in read_keys(text, "the user's keys")[0]]
    prints = {"fingerprints": [fingerprint(line) for line in lines]} if lines else {}
    return {**meta.requester, **prints}
