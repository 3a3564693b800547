"""URLs that a context names: where features are read, and where outputs go."""

from __future__ import annotations

from contextagent.model import Value
from contextagent.payloads.address import parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.payloads.address import Address

SCHEMES = ("http", "https")
_MAX_CHARS = 512
_MAX_HOST_CHARS = 253
_MAX_PORT = 65_535
_PATH = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/!$&'()*+,;=:@%")
_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._")
_IPV6 = frozenset("abcdef0123456789:")


class WebUrl(Value):
    """A URL without a query, a fragment or a password, so that it can be shown.

    Attributes:
        scheme: `http` or `https`.
        authority: Host and port as they stand in a URL; the host in lower case.
        path: Empty, or it begins with a slash and does not end with one.
        address: Where it is, if that is known without a name service; None for a name.
    """

    scheme: str
    authority: str
    path: str
    address: Address | None

    @property
    def is_plain(self) -> bool:
        """Whether it is had by a plain connection to a literal address: no TLS, and no name to look up."""
        return self.scheme == "http" and self.address is not None

    def below(self, name: str) -> str:
        """Return the URL of what is called `name` below it."""
        return f"{self.scheme}://{self.authority}{self.target(name)}"

    def target(self, name: str) -> str:
        """Return what a request for that asks for."""
        return f"{self.path}/{_quoted(name)}"


def parse_web_url(text: str) -> WebUrl:
    """Return what a URL names; slashes at its end don't count.

    Raises:
        ValueError: It is no such URL; the message is the cause, in words that don't show it.
    """
    scheme, mark, rest = text.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in SCHEMES:
        raise ValueError("it begins neither with http:// nor with https://")
    if len(text) > _MAX_CHARS:
        raise ValueError(f"it is longer than {_MAX_CHARS} characters")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ValueError("it has a name or a password in it")
    if "?" in rest or "#" in rest:
        raise ValueError("it has a query or a fragment")
    path = (slash + path).rstrip("/")
    if not _PATH.issuperset(path) or ".." in path.split("/"):
        raise ValueError("its path has characters that no path should have")
    authority = authority.lower()
    _check_authority(authority)
    return WebUrl(scheme=scheme, authority=authority, path=path, address=_address(authority))


def _check_authority(authority: str) -> None:
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        is_host = bool(host and bracket) and _IPV6.issuperset(host) and rest[:1] in ("", ":")
        port = rest[1:] if rest else "1"
    else:
        host, colon, port = authority.partition(":")
        is_host = 0 < len(host) <= _MAX_HOST_CHARS and _HOST.issuperset(host) and host[0] not in "-."
        port = port if colon else "1"
    if not is_host:
        raise ValueError("its host is none")
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= _MAX_PORT):
        raise ValueError(f"its port is no number from 1 to {_MAX_PORT}")


def _address(authority: str) -> Address | None:
    try:
        return parse_address(f"http://{authority}")
    except ValueError:
        return None


def _quoted(name: str) -> str:
    return "".join(
        chr(byte) if byte < 128 and chr(byte) in _UNQUOTED else f"%{byte:02X}"  # noqa: PLR2004  # ASCII
        for byte in name.encode("utf-8", "surrogateescape")
    )


_UNQUOTED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
