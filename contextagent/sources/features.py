"""Machine and job features that a service has: where the context says that they are, and what stands there.

Vac answers them at 169.254.169.253, which its `meta` map names.  Every known key of both vocabularies is asked for
below either URL, over one connection where the server keeps it.  A child does it, whose word is judged like any
stranger's: it brings texts, of which each is looked at before it counts.
"""

from __future__ import annotations

import time

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.features.values import sites_variables
from contextagent.features.vocabulary import FEATURES, MAX_VALUE_BYTES, OLDER, OLDER_ALONE, value_problem
from contextagent.host.sent import Sent
from contextagent.model import Problem, Value
from contextagent.payloads.weburl import parse_web_url
from contextagent.runner.state import instance_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from contextagent.host import Host
    from contextagent.host.confine import Child
    from contextagent.host.leaving import Client
    from contextagent.model import Kept
    from contextagent.payloads.weburl import WebUrl
    from contextagent.runner.state import State

_CA_DIR = "/etc/grid-security/certificates"
"""Authorities that count for `https` beside those that the machine trusts."""
BOOT_S = 5.0
"""What a boot spends on reading them at most."""
WATCH_S = 10.0
_NS = 10**9
_CONTEXT = "context.sh"
_META = "-meta.json"
_SITES_META = "vac-meta.json"
"""A factory writes it itself; what stands in Nova's map is whatever the instance's user gave with it."""
_VARIABLES = (("machinefeatures", "MACHINEFEATURES"), ("jobfeatures", "JOBFEATURES"))
_NAMES = ("machinefeatures", "jobfeatures", "joboutputs")
_EXTRAS = ("machine/syslog",)
"""Sites' own that the agent itself knows what to do with."""
_SITES_ALONE = ("machine/shutdown_command", "machine/syslog")
"""What a machine does by: nobody but the site may say it."""
_FIRST = ("shutdowntime", "shutdowntime_job", "wall_limit_secs", "jobstart_secs")
_MAX_META_BYTES = 1 << 20
_MAX_BODY_BYTES = MAX_VALUE_BYTES + 64
"""A value, and the blanks around it."""
_MAX_SAID_BYTES = 1 << 18
_MAX_TIMEOUTS = 2
_TRY_SHARE = 4
"""Of the whole time, the part of it that one request may take."""
_OK, _NO_CONTENT = 200, 204
_ABSENT = (404, 410)
_HTML = ("text/html", "application/xhtml+xml")


class Urls(Value):
    """Where features are read, and where the metadata sends outputs; empty where nobody said so by a URL.

    Attributes:
        is_sites: Whether the site says where features are, in its context.sh or by Vac's factory; else the user does.
        is_offered: Whether a metadata service offers them, and no context asks for them: to go without is no fault.
    """

    machine: str = ""
    job: str = ""
    outputs: str = ""
    is_sites: bool = False
    is_offered: bool = False

    @property
    def unread(self) -> str:
        """The reason of a problem with what can't be read."""
        return "offer-not-read" if self.is_offered else "feature-not-read"


class Read(Value):
    """What was read.

    Attributes:
        values: `machine/KEY` and `job/KEY` to text, none of which its key can't have.
        problems: What could not be had, one for each URL and cause.
        is_complete: Whether every key was answered.
    """

    values: Mapping[str, str] = {}
    problems: tuple[Problem, ...] = ()
    is_complete: bool = True


def urls(host: Host, state: State) -> tuple[Urls, tuple[Problem, ...]]:
    """Return where the context says that features are, where the metadata sends outputs, and what was no URL.

    For features the site's context.sh is listened to first, then the meta map that the metadata service or a config
    drive gave, and the user's context.sh at last.
    """
    problems: list[Problem] = []
    features = Urls()
    outputs = ""
    for texts, is_sites, where in _said(host, state):
        machine, job, place = (_url(texts.get(name, ""), name, where, problems) for name in _NAMES)
        if not (features.machine or features.job):
            is_any = bool(machine or job)
            is_offered = is_any and where != _CONTEXT
            features = Urls(machine=machine, job=job, is_sites=is_sites and is_any, is_offered=is_offered)
        outputs = outputs or place
    return features.replace(outputs=outputs), tuple(problems)


def _said(host: Host, state: State) -> Iterator[tuple[Mapping[str, Any], bool, str]]:
    """Yield what each voice says under the names of a meta map, whether it is the site's, and its name.

    Where a `context.sh` wants outputs to go is nothing to be read here: `features.values` judges it.
    """
    user = state.supplies.get("user")
    variables = sites_variables(state.supplies)
    yield {lower: variables.get(upper, "") for lower, upper in _VARIABLES}, True, _CONTEXT
    yield from _meta_maps(host, state)
    if user:
        yield {lower: user.variables.get(upper, "") for lower, upper in _VARIABLES}, False, _CONTEXT


def _meta_maps(host: Host, state: State) -> Iterator[tuple[Mapping[str, Any], bool, str]]:
    """Yield each kept meta map, whether the site speaks in it, and its name."""
    for supply in state.supplies.values():
        for kept in supply.kept if supply else ():
            if kept.reason == "meta-map" and kept.name.endswith(_META):
                yield _meta_map(host, state.instance_id, kept), kept.name == _SITES_META, kept.name


def _meta_map(host: Host, instance_id: str, kept: Kept) -> Mapping[str, Any]:
    try:
        path = f"{instance_folder(instance_id)}/{kept.content}"
        found = jsontext.loads(host.files.read(path, max_bytes=_MAX_META_BYTES))
    except (OSError, ValueError):
        return {}  # the state is damaged; without it there are no URLs
    return found if isinstance(found, dict) else {}


def _url(text: object, name: str, where: str, problems: list[Problem]) -> str:
    """Return the URL that a text is; a folder is none, and is what nobody needs to be told."""
    if not isinstance(text, str) or not text.strip() or text.strip().startswith("/"):
        return ""
    text = text.strip()
    try:
        parse_web_url(text)
    except ValueError as error:
        message = f"cannot use '{name}' of '{where}': {error}, ignoring it"
        problems.append(Problem(reason="bad-url", message=message))
        return ""
    return text.rstrip("/")


def keys() -> tuple[str, ...]:
    """Return every key that is asked for, the ends of the machine first."""
    known = [*FEATURES, *OLDER, *OLDER_ALONE, *_EXTRAS]
    return tuple(sorted(known, key=lambda key: key.partition("/")[2] not in _FIRST))


class Reading(Sent):
    """Features that are being read.

    Args:
        child: Who reads them; None where there is nothing to read.
        urls: Where.
        previous: What counts for a key that can't be had.
        problem: Why it could not be begun.
    """

    def __init__(
        self, child: Child | None, urls: Urls, previous: Mapping[str, str], problem: Problem | None = None
    ) -> None:
        super().__init__(child)
        self._urls = urls
        self._previous = previous
        self._problem = problem

    def finish(self) -> Read:
        """Return what was read; whoever reads is ended if it does not say so now."""
        if self._child is None:
            self.close()
            problems = (self._problem,) if self._problem else ()
            return Read(values=self._kept(keys()) if problems else {}, problems=problems, is_complete=not problems)
        from contextagent.host.outgoing import TOO_LONG  # noqa: PLC0415  # only where there is a URL

        return self._judged(self._heard(_MAX_SAID_BYTES), TOO_LONG)

    def _judged(self, said: bytes | None, too_long: str) -> Read:
        """Return what counts of a child's word, after a look at every part of it."""
        answer: Any = None
        try:
            answer = jsontext.loads(said) if said is not None else None
        except ValueError:
            pass  # it was taken over, and is not listened to
        values: Any = answer.get("values") if isinstance(answer, dict) else None
        causes: Any = answer.get("causes") if isinstance(answer, dict) else None
        if not (_are_texts(values) and _are_texts(causes)):
            values, causes = {}, dict.fromkeys(keys(), too_long)
        problems: list[Problem] = []
        good: dict[str, str] = {}
        for key in keys():
            if key not in values or not self._url_of(key):
                continue
            if not self._urls.is_sites and key in _SITES_ALONE:
                problems.append(self._said(key, "only the site may say it", "not-the-sites"))
            elif cause := value_problem(key, values[key]):
                problems.append(self._said(key, f"{cause}: '{ascii(values[key])[1:-1][:64]}'", "bad-feature"))
            else:
                good[key] = values[key]
        failed = {key: causes[key] for key in keys() if key in causes and self._url_of(key)}
        return Read(
            values={**self._kept(failed), **good},
            problems=(*problems, *self._failures(failed)),
            is_complete=not failed,
        )

    def _kept(self, keys: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
        return {key: self._previous[key] for key in keys if key in self._previous}

    def _url_of(self, key: str) -> str:
        return self._urls.machine if key.startswith("machine/") else self._urls.job

    def _said(self, key: str, cause: str, reason: str) -> Problem:
        url = f"{self._url_of(key)}/{key.partition('/')[2]}"
        return Problem(reason=reason, message=f"cannot use '{url}': {cause}, going on without it")

    def _failures(self, failed: Mapping[str, str]) -> Iterator[Problem]:
        """Yield one problem for each URL and cause."""
        groups: dict[tuple[str, str], list[str]] = {}
        for key, cause in failed.items():
            groups.setdefault((self._url_of(key), cause), []).append(key.partition("/")[2])
        for (url, cause), names in groups.items():
            what = f"{url}/{names[0]}" if len(names) == 1 else url
            is_known = self._kept(failed)
            then = "keeping what was read before" if is_known else "going on without it"
            message = f"cannot read '{what}': {ascii(cause)[1:-1][:200]}, {then}"
            yield Problem(reason=self._urls.unread, message=message)


def _are_texts(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(text, str) for pair in found.items() for text in pair)


def read_features(
    host: Host, urls: Urls, *, total_s: float = BOOT_S, previous: Mapping[str, str] | None = None
) -> Read:
    """Return what the service says; it takes no longer than `total_s`, and a moment for a machine that is busy.

    Args:
        host: The machine.
        urls: Where it is said.
        total_s: For all of it.
        previous: What counts for a key that can't be had; a key that is not there (404) is not there any more.
    """
    reading = start_reading(host, urls, total_s=total_s, previous=previous)
    reading.wait(total_s)
    return reading.finish()


def start_reading(
    host: Host,
    urls: Urls,
    *,
    total_s: float = WATCH_S,
    previous: Mapping[str, str] | None = None,
) -> Reading:
    """Start to read what the service says; the arguments are those of `read_features`."""
    before = previous or {}
    if not (urls.machine or urls.job):
        return Reading(None, urls, before)
    from contextagent.host import leaving  # noqa: PLC0415  # only where there is a URL

    try:
        wanted = [(key, parse_web_url(url)) for key, url in _wanted(urls)]
        child = leaving.send_out(
            lambda client: _asked(client, wanted, total_s),
            list({url.authority: url for _, url in wanted}.values()),
            leaving.Means(ca_dirs=(host.files.real(_CA_DIR),)),
            total_s=total_s,
            failed=lambda cause: jsontext.dumps({"values": {}, "causes": dict.fromkeys(keys(), cause)}).encode(),
        )
    except (OSError, ValueError) as error:
        message = f"cannot read '{urls.machine or urls.job}': {error}, going on without it"
        return Reading(None, urls, before, Problem(reason=urls.unread, message=message))
    return Reading(child, urls, before)


def _wanted(urls: Urls) -> Iterator[tuple[str, str]]:
    for key in keys():
        url = urls.machine if key.startswith("machine/") else urls.job
        if url:
            yield key, url


def _asked(client: Client, wanted: Sequence[tuple[str, WebUrl]], total_s: float) -> bytes:
    """Ask for everything, in the child, and return what came and what did not."""
    end_ns = time.monotonic_ns() + int(total_s * 0.95 * _NS)
    values: dict[str, str] = {}
    causes: dict[str, str] = {}
    lost: dict[str, list[str]] = {}
    for key, url in wanted:
        tried = lost.setdefault(url.authority, [])
        if len(tried) >= _MAX_TIMEOUTS or time.monotonic_ns() >= end_ns:
            causes[key] = tried[-1] if tried else "the time was over before it was asked for"
            continue
        try_ns = int(total_s / _TRY_SHARE * _NS)
        try:
            text = _one(client, url, key, min(end_ns, time.monotonic_ns() + try_ns))
        except BrokenSourceError as error:
            causes[key] = str(error)
            if error.reason == "lost":
                tried.append(str(error))
            continue
        if text:
            values[key] = text
    return jsontext.dumps({"values": values, "causes": causes}).encode()


def _one(client: Client, url: WebUrl, key: str, end_ns: int) -> str:
    """Return a feature's text; empty where there is none.

    Raises:
        BrokenSourceError: It can't be had; reason `lost` where the server itself may be gone.
    """
    from contextagent.host.outgoing import Unanswered  # noqa: PLC0415  # the child has it

    name = key.partition("/")[2]
    try:
        reply = client.ask("GET", url, name, end_ns=end_ns, max_bytes=_MAX_BODY_BYTES)
    except Unanswered as unanswered:
        raise BrokenSourceError(unanswered.cause, reason="lost" if unanswered.may_pass else "broken") from None
    if reply.status in (*_ABSENT, _NO_CONTENT):
        return ""
    if reply.status != _OK:
        raise BrokenSourceError(f"its status is {reply.status}")
    if reply.kind in _HTML:
        raise BrokenSourceError("it is a web page, no feature")
    return reply.body.decode("utf-8", "replace").strip()
