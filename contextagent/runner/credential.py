"""A pilot's credential: is it there, is it the pilot's alone, and is it good for long enough?  And its renewal.

`pilot.credential.path` names a file of this machine: whatever the site's or the user's files, scripts or cron jobs put
there.  One that belongs to the pilot's account is used where it stands, and whoever renews it does so there.  One that
belongs to root, which only the image or the site may name, is copied to where the account can read it, and again
whenever it has changed (`pilot.credential.refresh_s`).

What is in it is foreign, so it is parsed by the libraries of others (OpenSSL's, for certificates) in a confined child.
Nothing is verified here: whoever is shown the credential does that.
"""

from __future__ import annotations

import errno
import os
import stat

from contextagent import jsontext
from contextagent.digests import sha512_hex
from contextagent.errors import BrokenSourceError, ContextAgentError
from contextagent.host import way
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from contextagent.host import Host
    from contextagent.host.accounts import Account
    from contextagent.host.confine import Channel

LEAST_S = 600
"""What a credential must still be good for when a pilot starts: less would end it in the middle of its first job."""
PROXIES = ("proxy", "x509")
TOKENS = ("token", "jwt")
COPIES = "credentials"
"""Below `Host.run_folder`, in memory as a rule: where the copies stand, each in a folder of its account's own."""
_MAX_BYTES = 1 << 20
_PIPE_BYTES = 1 << 16
_PARSE_S = 10.0
_PR_SET_DUMPABLE = 4
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


class Credential(Value):
    """One that was looked at.

    Attributes:
        data: All of it: a secret.
        is_roots: Whether it belongs to root and the pilot does not run as root, so that the pilot needs a copy.
        sha512: Of the data.
        from_s: The second since 1970 from which it is good; None where it does not say.
        until_s: The same, until.
    """

    data: bytes
    is_roots: bool
    sha512: str
    from_s: float | None = None
    until_s: float | None = None


class CredentialError(ContextAgentError):
    """A credential that no pilot should be started with."""

    reason = "credential"


def read(host: Host, path: str, kind: str, *, account: Account | None, may_be_roots: bool) -> Credential:
    """Return the credential at a path.

    Args:
        host: The machine.
        path: A file of the guest; a link in its place is not followed.
        kind: The setting `pilot.credential.kind`; of an unknown one only the file is looked at.
        account: Whose it must be; None for the caller's.
        may_be_roots: Whether it may be root's: its path was not the user's to choose.

    Raises:
        CredentialError: It is not there, others can read it, it is somebody else's, or it holds no such thing.
    """
    try:
        data, uid = _open(host, path, account, may_be_roots=may_be_roots)
    except OSError as error:
        cause = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
        raise _unusable(path, cause) from error
    until = _parse(host, path, kind, data)
    mine = host.caller()[0] if account is None else account.uid
    return Credential(
        data=data, is_roots=uid != mine, sha512=sha512_hex(data), from_s=until["from"], until_s=until["until"]
    )


def check(credential: Credential, path: str, *, now_s: float, least_s: float) -> None:
    """Find fault with a credential that is not good now, or not for long enough.

    Raises:
        CredentialError: It is not.
    """
    if credential.from_s is not None and credential.from_s > now_s + LEAST_S:
        raise _unusable(path, f"it is not valid yet, for another {int(credential.from_s - now_s)} s by this clock")
    if credential.until_s is None:
        return
    left_s = credential.until_s - now_s
    if left_s <= 0:
        raise _unusable(path, f"it expired {int(-left_s)} s ago")
    if left_s < least_s:
        raise _unusable(path, f"it expires in {int(left_s)} s, and must be good for {int(least_s)} s")


def copy_path(host: Host, number: int) -> str:
    """Return where the copy for a pilot stands, as the guest sees it."""
    return f"{host.run_folder}/{COPIES}/{number}/credential"


def put_copy(host: Host, number: int, account: Account, data: bytes) -> str:
    """Put a copy where the account alone can read it, by rename, and return its path.

    Raises:
        CannotWriteError: It could not be written.
        OSError: The folder could not be handed over.
    """
    from contextagent.host.rights import as_account  # noqa: PLC0415  # most pilots bring none, or one of their own

    path = copy_path(host, number)
    folder = os.path.dirname(path)
    host.files.make_folder(os.path.dirname(folder), 0o711)
    host.files.make_folder(folder)
    # the folder alone: what the account has put into it since the last copy may be another's by a hard link
    os.chown(host.files.real(folder), account.uid, account.gid, follow_symlinks=False)
    as_account(account, lambda: host.files.write(path, data))
    return path


def _open(host: Host, path: str, account: Account | None, *, may_be_roots: bool) -> tuple[bytes, int]:
    """Return a file's bytes and its owner, once nobody else can read it.

    Raises:
        OSError: As the kernel says it.
        CredentialError: It is not a file for one reader alone.
    """
    real = host.files.real(path)
    fd = os.open(real, _OPEN)
    try:
        found = os.fstat(fd)
        mine = host.caller()[0] if account is None else account.uid
        if not stat.S_ISREG(found.st_mode):
            raise _unusable(path, "it is no regular file")
        if found.st_uid != mine and not (found.st_uid == 0 and may_be_roots):
            raise _unusable(path, f"it belongs to uid {found.st_uid}, not to the pilot's account (uid {mine})")
        if found.st_mode & 0o077:
            raise _unusable(path, f"others can read it (mode {found.st_mode & 0o7777:04o}, it must be 0600)")
        if found.st_uid != mine and found.st_nlink != 1:
            raise _unusable(path, "it has several names, and the pilot's account could have made one of them")
        if found.st_uid != mine and (where := way.changeable(os.path.dirname(real), host.root)):
            raise _unusable(path, f"it is root's, and '{where}' on its way is not root's alone to write")
        data = os.read(fd, _MAX_BYTES + 1)
    finally:
        os.close(fd)
    if not data.strip():
        raise _unusable(path, "it is empty")
    if len(data) > _MAX_BYTES:
        raise _unusable(path, f"it is larger than {_MAX_BYTES} bytes")
    return data, found.st_uid


def _parse(host: Host, path: str, kind: str, data: bytes) -> dict[str, Any]:
    """Return from when and until when (`from`, `until`) it is good, each None where it does not say."""
    if kind not in (*PROXIES, *TOKENS):
        return {"from": None, "until": None}
    child = host.confined(_proxies if kind in PROXIES else _tokens, timeout_s=_PARSE_S, prepare=_load)
    try:
        answer: dict[str, Any] = jsontext.loads(child.ask(data, max_bytes=1 << 12))
    except (BrokenSourceError, ValueError) as error:
        raise _unusable(path, f"it can't be parsed: {error}") from error
    finally:
        child.close()
    if answer.get("cause") == "opaque" and kind == "token":
        return {"from": None, "until": None}  # not every token says what it is
    if "cause" in answer:
        raise _unusable(path, "it is no JSON web token" if answer["cause"] == "opaque" else str(answer["cause"]))
    return answer


def _load() -> None:
    """Import what the child needs, while it still can."""
    import base64  # noqa: F401, PLC0415  # see above
    import ssl  # noqa: PLC0415  # see above

    ssl.cert_time_to_seconds("Jan  1 00:00:00 1970 GMT")  # which itself imports what it needs


def _proxies(channel: Channel) -> None:
    """Answer how long a chain of certificates is good: no longer than any of them."""
    channel.send(jsontext.dumps(validity_of_chain(channel.receive() or b"")).encode())


def _tokens(channel: Channel) -> None:
    channel.send(jsontext.dumps(validity_of_token(channel.receive() or b"")).encode())


def validity_of_chain(data: bytes) -> dict[str, Any]:
    """Return `from` and `until` of a PEM file with certificates and a key, or its fault (`cause`).

    OpenSSL reads a certificate from a file alone, by what Python offers; a pipe is one.
    """
    import ssl  # noqa: PLC0415  # see `_load`

    from contextagent.host.guestos import native  # noqa: PLC0415  # as above

    native.prctl(_PR_SET_DUMPABLE, 1)  # a process that changed its account has no /proc/self of its own without
    blocks = [_BEGIN + each.partition(_END)[0] + _END + b"\n" for each in data.split(_BEGIN)[1:]]
    if not blocks:
        return {"cause": "it holds no certificate"}
    if b"PRIVATE KEY-----" not in data:
        return {"cause": "it holds no private key"}
    found = []
    for block in blocks:
        try:
            found.append(_decode(block))
        except (OSError, ValueError, ssl.SSLError):
            return {"cause": "it holds a certificate that can't be read"}
    return {
        "from": max(ssl.cert_time_to_seconds(each["notBefore"]) for each in found),
        "until": min(ssl.cert_time_to_seconds(each["notAfter"]) for each in found),
    }


def _decode(block: bytes) -> dict[str, Any]:
    import _ssl  # noqa: PLC0415  # see `_load`; `ssl` does not hand this on

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.write(write_end, block[:_PIPE_BYTES])
    os.close(write_end)
    try:
        decoded: dict[str, Any] = getattr(_ssl, "_test_decode_cert")(  # noqa: B009  # it has no public name, nor a type
            f"/proc/self/fd/{read_end}"
        )
        return decoded
    finally:
        os.close(read_end)


def validity_of_token(data: bytes) -> dict[str, Any]:
    """Return `from` and `until` of a JSON web token, None where it does not say; or its fault (`cause`)."""
    import base64  # noqa: PLC0415  # in the child alone

    parts = data.strip().split(b".")
    if len(parts) != 3:  # noqa: PLR2004  # head, claims, signature
        return {"cause": "opaque"}
    try:
        claims = jsontext.loads(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {"cause": "opaque"}
    if not isinstance(claims, dict):
        return {"cause": "opaque"}
    said = {"from": claims.get("nbf"), "until": claims.get("exp")}
    if any(isinstance(each, bool) or not isinstance(each, (int, float, type(None))) for each in said.values()):
        return {"cause": "its times are no numbers"}
    return said


def _unusable(path: str, cause: str) -> CredentialError:
    return CredentialError(f"cannot use '{path}' as the pilot's credential: {cause}")
