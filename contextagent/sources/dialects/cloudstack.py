"""The `cloudstack` dialect: EC2's names, answered by the virtual router that gave the machine its DHCP lease.

Whoever answers DHCP first on the local network would be believed, so this is never guessed: the policy has to name it.
"""

from __future__ import annotations

from contextagent.payloads.address import parse_address
from contextagent.sources.dialects import ec2, no_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contextagent.host import Host
    from contextagent.model import Reading
    from contextagent.policy.settings import Settings

NAME = "cloudstack"
META_DATA = ec2.META_DATA
USER_DATA = ec2.USER_DATA

_MAX_BYTES = 1 << 20
_MAX_FILES = 64
"""Leases that are looked at: a machine has one or two, an image that was booted often has more."""
_BOOTP_BYTES = 236
"""Where a DHCP message's options begin, with the magic cookie (RFC 2131)."""
_COOKIE = b"\x63\x82\x53\x63"
_PAD, _END, _SERVER_ID = 0, 255, 54
_IPV4_BYTES = 4


def read(meta: bytes) -> Reading:
    """Return the instance's id.

    Raises:
        BrokenSourceError: It is none.
    """
    return ec2.said(meta, NAME)


def address(host: Host, settings: Settings) -> str:  # noqa: ARG001  # the lease's word stands
    """Return the URL of the server that the newest lease came from.

    Raises:
        BrokenSourceError: No lease names its server, or the newest one that does names it by something else than IPv4.
    """
    for path, server_of in sorted(_leases(host), key=lambda lease: host.files.changed_ns(lease[0]), reverse=True):
        try:
            server = server_of(host.files.read(path, max_bytes=_MAX_BYTES))
        except OSError:
            continue  # it went away, or is no lease: too large, or no file
        if server:
            return _url(server, path)
    raise no_address("no DHCP lease of this machine names the server that it came from")


def _url(server: str, path: str) -> str:
    url = f"http://{server}"
    try:
        is_usable = parse_address(url).host == server and ":" not in server
    except ValueError:
        is_usable = False
    if not is_usable:
        raise no_address(f"'{ascii(server)[1:-1]}', the server that '{path}' names, is no IPv4 address")
    return url


def _leases(host: Host) -> Iterator[tuple[str, Callable[[bytes], str]]]:
    """Yield each lease that a DHCP client of this machine has left, with what finds the server in it."""
    for folder, endings, server_of in _PLACES:
        names = [entry.path for entry in host.files.folder(folder) if entry.kind == "file"]
        for name in [name for name in names if name.endswith(endings)][:_MAX_FILES]:
            yield f"{folder}/{name}", server_of


def _of_dhclient(data: bytes) -> str:
    """Return the server of the last lease in a file of ISC's client: it adds each new one at the end."""
    found = ""
    for line in data.decode("utf-8", "replace").splitlines():
        words = line.strip().rstrip(";").split()
        if words[:2] == ["option", "dhcp-server-identifier"]:
            found = " ".join(words[2:])
    return found


def _of_variables(data: bytes) -> str:
    """Return the server in a file of `NAME=value` lines."""
    for line in data.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        if name == "SERVER_ADDRESS":
            return value.strip()
    return ""


def _of_message(data: bytes) -> str:
    """Return the server in a DHCP message as it came by network, which is what dhcpcd keeps."""
    at = _BOOTP_BYTES + len(_COOKIE)
    if data[_BOOTP_BYTES:at] != _COOKIE:
        return ""
    while at + 1 < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        value = data[at + 2 : at + 2 + data[at + 1]]
        if data[at] == _SERVER_ID and len(value) == _IPV4_BYTES:
            return ".".join(str(byte) for byte in value)
        at += 2 + data[at + 1]
    return ""


def _of_network_manager(data: bytes) -> str:
    """Return the server in a lease of NetworkManager's, which has run either of the other clients or its own."""
    return _of_dhclient(data) or _of_variables(data)


_PLACES: tuple[tuple[str, tuple[str, ...], Callable[[bytes], str]], ...] = (
    ("/var/lib/dhcp", (".leases", ".lease"), _of_dhclient),
    ("/var/lib/dhcp3", (".leases", ".lease"), _of_dhclient),
    ("/var/lib/dhclient", (".leases", ".lease"), _of_dhclient),
    ("/var/lib/NetworkManager", (".lease", ".leases"), _of_network_manager),
    ("/run/systemd/netif/leases", ("",), _of_variables),
    ("/var/lib/dhcpcd", (".lease",), _of_message),
    ("/var/lib/dhcpcd5", (".lease",), _of_message),
)
"""Where the DHCP clients of the distributions keep their leases, and how their names end."""
