"""Job outputs: what a machine hands over to whoever started it, by PUT to a URL or into a folder.

`$JOBOUTPUTS` is one or the other.  Nothing here blocks unless its name says `put`: a child makes the delivery, and
whoever sent it polls a descriptor.
"""

from __future__ import annotations

import os
import time

from contextagent.host import leaving, outgoing
from contextagent.host.leaving import Means
from contextagent.host.outgoing import Body, Source, Unanswered
from contextagent.host.sent import Sent
from contextagent.model import Problem, Value
from contextagent.payloads.names import component_problem
from contextagent.payloads.weburl import parse_web_url
from contextagent.runner.journal import receipt_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.host.confine import Child
    from contextagent.host.leaving import Client
    from contextagent.payloads.weburl import WebUrl
    from contextagent.policy.settings import Settings
    from contextagent.runner.live import Live

TOTAL_S = 30.0
MAX_BYTES = 1 << 30
"""Of one file: what is behind is left out."""
RECEIPT = "receipt.json"
_MAX_RECEIPT_BYTES = 16 << 20
_MAX_SAID_BYTES = 4 << 10
_NS = 10**9
_CERTIFICATES = (None, "proxy", "x509")
"""Kinds of a credential that is one; a token is the pilot's alone."""
_TAKEN, _ELSEWHERE, _BUSY = 2, 3, 5
_TOO_MANY = 429
"""Hundreds of an HTTP status, and one that is as busy as a 5xx."""
_RETRY_S = 0.5
"""Before the second try, ± a half by chance: a thousand machines that end together must not come again together."""
_FIRST_SHARE = 0.6
"""Of the time, what the first try may take, so that the second has some."""


class Outputs(Value):
    """Where outputs go, and what is shown there of who we are.

    Attributes:
        where: An `http://` or `https://` URL, or a folder of the guest; empty for nowhere.
        credential: File of the guest with a certificate and its key, for TLS; empty for none.
        account: Name of the account with whose rights that is read; empty for the agent's own.
        ca_dirs: Folders of the guest with authorities, beside those that the machine trusts.
    """

    where: str
    credential: str = ""
    account: str = ""
    ca_dirs: tuple[str, ...] = ()


def outputs_of(live: Live | None, settings: Settings) -> Outputs:
    """Return where this machine's outputs go.

    The certificate is the pilot's (`pilot.credential.path`), as in the user data of the field, which uploads with
    the pilot's proxy.  A user who names the file must not have root read it.
    """
    is_certificate = settings["pilot.credential.kind"] in _CERTIFICATES
    is_users = settings.origin("pilot.credential.path").voice == "user"
    folders = (settings["pilot.ca_dir"], settings["trust.ca_dir"])
    return Outputs(
        where=live.outputs if live else "",
        credential=(settings["pilot.credential.path"] or "") if is_certificate else "",
        account=settings["user.account"] if is_users else "",
        ca_dirs=tuple(dict.fromkeys(folder for folder in folders if folder)),
    )


class Delivery(Sent):
    """Something on its way.

    Args:
        child: Who delivers it; None where it can't even be begun.
        what: Its place, as it is shown.
        cause: Why it could not be begun.
    """

    def __init__(self, child: Child | None, what: str, cause: str = "") -> None:
        super().__init__(child)
        self._what = what
        self._cause = cause

    def finish(self) -> Problem | None:
        """Return what went wrong, None when it was delivered; whoever delivers is ended if it does not say so now."""
        if self._child is not None:
            said = self._heard(_MAX_SAID_BYTES)
            self._cause = outgoing.TOO_LONG if said is None else said.decode("utf-8", "replace")
        self.close()
        if not self._cause:
            return None
        message = f"cannot put '{self._what}': {self._cause}, going on without it"
        return Problem(reason="output-not-delivered", message=message)


def start_put(
    host: Host,
    outputs: Outputs,
    name: str,
    body: bytes | str,
    *,
    total_s: float = TOTAL_S,
    mode: int = 0o644,
    account: Account | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> Delivery:
    """Start to deliver one output.

    Args:
        host: The machine.
        outputs: Where to.
        name: What it is called there; one component.
        body: All of it, or the path of a file of the guest; a link in that place is not followed.
        total_s: How long it may take.
        mode: Of the file, where outputs go to a folder.
        account: With whose rights a file is opened; None for the agent's own.
        headers: Beside the usual ones, where outputs go to a URL; they may be secret.
    """
    what = f"{outputs.where}/{name}" if outputs.where.startswith("/") else name
    if cause := component_problem(name) or ("" if outputs.where else "there is no place for job outputs"):
        return Delivery(None, what, cause)
    source: Source | None = None
    try:
        if isinstance(body, str):
            source = Source(host.files.real(body), (account.uid, account.gid) if account else None)
        content = body if isinstance(body, bytes) else source or b""
        if outputs.where.startswith("/"):
            folder = host.files.real(outputs.where)
            child = outgoing.put_into(
                folder, name, content, mode=mode, total_s=total_s, failed=str.encode, root=host.root
            )
            return Delivery(child, what)
        url = parse_web_url(outputs.where)
        means = means_of(host, outputs)
        errand = Put(url, name, b"" if isinstance(body, str) else body, source, total_s=total_s, headers=headers)
        child = leaving.send_out(errand.made, (url,), means, total_s=total_s, failed=str.encode, source=source)
        return Delivery(child, url.below(name))
    except (OSError, ValueError) as error:
        return Delivery(None, what, getattr(error, "strerror", None) or str(error))


def put(
    host: Host,
    outputs: Outputs,
    name: str,
    body: bytes | str,
    *,
    total_s: float = TOTAL_S,
    mode: int = 0o644,
    account: Account | None = None,
) -> Problem | None:
    """Deliver one output, and return what went wrong; the arguments are those of `start_put`."""
    delivery = start_put(host, outputs, name, body, total_s=total_s, mode=mode, account=account)
    delivery.wait(total_s + 2 * outgoing.GRACE_S)
    return delivery.finish()


def means_of(host: Host, outputs: Outputs) -> Means:
    """Return what a child is given for TLS.

    Raises:
        ValueError: There is no account of the name.
    """
    account = host.account(outputs.account) if outputs.account and not host.is_caller else None
    if outputs.account and account is None and not host.is_caller:
        message = f"there is no account '{outputs.account}' to read '{outputs.credential}' with"
        raise ValueError(message)
    return Means(
        credential=host.files.real(outputs.credential) if outputs.credential else "",
        account=(account.uid, account.gid) if account else None,
        ca_dirs=tuple(host.files.real(folder) for folder in outputs.ca_dirs),
    )


class Put:
    """One PUT with one more try, as a child makes it.

    Args:
        url: Below what.
        name: What is put there.
        body: What is sent, where it is no file.
        source: The file that is sent.
        total_s: How long both tries may take.
        headers: Beside the usual ones.
    """

    def __init__(  # what a request is made of
        self,
        url: WebUrl,
        name: str,
        body: bytes,
        source: Source | None = None,
        *,
        total_s: float = TOTAL_S,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._url = url
        self._name = name
        self._body = body
        self._source = source
        self._total_s = total_s
        self._headers = headers

    def made(self, client: Client) -> bytes:
        """Do it, and return why it was not taken; nothing when it was."""
        end_ns = time.monotonic_ns() + int(self._total_s * _NS)
        cause, may_pass = self._tried(client, end_ns - int(self._total_s * (1 - _FIRST_SHARE) * _NS))
        if cause and may_pass:
            wait_s = _RETRY_S / 2 + _RETRY_S * int.from_bytes(os.urandom(2), "big") / 65536
            time.sleep(max(0.0, min(wait_s, (end_ns - time.monotonic_ns()) / _NS)))
            cause, _ = self._tried(client, end_ns)
        return cause.encode("utf-8", "replace")[:_MAX_SAID_BYTES]

    def _tried(self, client: Client, end_ns: int) -> tuple[str, bool]:
        """Return why it was not taken, nothing when it was; and whether it may be, a moment later."""
        body = Body(self._source.fd, MAX_BYTES) if self._source else Body(self._body)
        try:
            reply = client.ask("PUT", self._url, self._name, end_ns=end_ns, headers=self._headers, body=body)
        except Unanswered as unanswered:
            return unanswered.cause, unanswered.may_pass
        kind = reply.status // 100
        if kind == _TAKEN:
            return "", False
        words = "it sends us elsewhere, with status" if kind == _ELSEWHERE else "its status is"
        return f"{words} {reply.status}", kind == _BUSY or reply.status == _TOO_MANY


def receipt(host: Host) -> bytes | None:
    """Return this boot's receipt as far as it is written; None where there is none yet."""
    try:
        return host.files.read(receipt_path(host.boot_id()), max_bytes=_MAX_RECEIPT_BYTES)
    except OSError:
        return None


def start_receipt(host: Host, outputs: Outputs, *, total_s: float = TOTAL_S) -> Delivery | None:
    """Start to deliver this boot's receipt; None where there is none yet."""
    text = receipt(host)
    return None if text is None else start_put(host, outputs, RECEIPT, text, total_s=total_s, mode=0o600)


def put_receipt(host: Host, outputs: Outputs, *, total_s: float = TOTAL_S) -> Problem | None:
    """Deliver this boot's receipt, if there is one, and return what went wrong."""
    text = receipt(host)
    return None if text is None else put(host, outputs, RECEIPT, text, total_s=total_s, mode=0o600)
