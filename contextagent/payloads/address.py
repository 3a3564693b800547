"""Where a metadata service is: `http://` and a literal address, so that no name service has a say in it."""

from __future__ import annotations

from contextagent.model import Value


class Address(Value):
    """A service's place.

    Attributes:
        host: An IPv4 or IPv6 address in its usual form, without brackets.
        port: TCP port.
        prefix: Path that every request's path follows; empty, or it begins with a slash and does not end with one.
    """

    host: str
    port: int
    prefix: str

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is of the sixth version."""
        return ":" in self.host

    @property
    def authority(self) -> str:
        """What a `Host` header says: the port only where it is not 80."""
        host = f"[{self.host}]" if self.is_ipv6 else self.host
        return host if self.port == _HTTP_PORT else f"{host}:{self.port}"

    def url(self, path: str) -> str:
        """Return the whole URL of a path."""
        return f"http://{self.authority}{self.prefix}{path}"


_HTTP_PORT = 80
_MAX_PORT = 65_535
_MAX_CHARS = 512
_HEX = frozenset("0123456789abcdefABCDEF")
_PATH = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/")


def parse_address(url: str) -> Address:
    """Return what a URL like `http://169.254.169.254` names.

    Raises:
        ValueError: It is no such URL; the message is the cause, in words.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() != "http":
        raise ValueError("it does not begin with http://")
    if len(url) > _MAX_CHARS:
        raise ValueError(f"it is longer than {_MAX_CHARS} characters")
    authority, slash, path = rest.partition("/")
    prefix = (slash + path).rstrip("/")
    if set(prefix) - _PATH or ".." in prefix.split("/"):
        raise ValueError("its path has characters that no path of a metadata service needs")
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        is_address = bool(bracket) and _is_ipv6(host) and port[:1] in ("", ":")
        port = port[1:] if port else str(_HTTP_PORT)
    else:
        host, colon, port = authority.partition(":")
        is_address = _is_ipv4(host)
        port = port if colon else str(_HTTP_PORT)
    if not is_address:
        raise ValueError("its host is no literal address, and names are not looked up")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= _MAX_PORT):
        raise ValueError(f"its port is no number from 1 to {_MAX_PORT}")
    return Address(host=host.lower(), port=int(port), prefix=prefix)


def _is_ipv4(host: str) -> bool:
    """Return whether a text is four decimal numbers; no other spelling, which two readers may read as two hosts."""
    numbers = host.split(".")
    return len(numbers) == 4 and all(  # noqa: PLR2004  # an IPv4 address has four
        number.isascii() and number.isdecimal() and str(int(number)) == number and int(number) <= 255  # noqa: PLR2004  # a byte
        for number in numbers
    )


def _is_ipv6(host: str) -> bool:
    """Return whether a text is an IPv6 address in hexadecimal groups, `::` once at most; no zone, no IPv4 tail."""
    if ":::" in host or host.count("::") > 1:
        return False
    head, gap, tail = host.partition("::")
    groups = [group for half in (head, tail) if half for group in half.split(":")]
    is_full = len(groups) < 8 if gap else len(groups) == 8  # noqa: PLR2004  # an IPv6 address has eight groups
    return is_full and all(0 < len(group) <= 4 and not set(group) - _HEX for group in groups)  # noqa: PLR2004  # of 16 bits
