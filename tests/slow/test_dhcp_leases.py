"""CloudStack's router is found by the lease that a real DHCP client left: ISC's, dhcpcd's, systemd's; dnsmasq gives it.

Server and clients run in network namespaces of their own; a client's folders are the machine's, by a bind mount.
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dialects import answers
from tests.machine import AGENT, Machine, run
from tests.network import Network
from tests.servers import Server, answer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTER, ADDRESS = "10.1.1.1", "10.1.1.57"
NETWORKD = Path("/lib/systemd/systemd-networkd")

DHCLIENT = """
mkdir -p "$1/var/lib/dhcp"
exec dhclient -4 -1 -d --no-pid -sf /bin/true -lf "$1/var/lib/dhcp/dhclient.eth0.leases" eth0
"""
DHCPCD = """
mkdir -p "$1/var/lib/dhcpcd" /var/lib/dhcpcd
mount --bind "$1/var/lib/dhcpcd" /var/lib/dhcpcd
mount -t tmpfs tmpfs /run
exec dhcpcd -4 -B -A --script /bin/true --config /dev/null eth0
"""
SYSTEMD = f"""
mkdir -p "$1/run/systemd/netif"
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t sysfs -o ro sysfs /sys # as in a container: no udev is waited for
mkdir -p /run/systemd/network /run/systemd/netif
mount --bind "$1/run/systemd/netif" /run/systemd/netif
mkdir -p /run/systemd/netif/leases /run/systemd/netif/links /run/systemd/netif/lldp
chown -R systemd-network /run/systemd/netif
cat >/run/systemd/network/10.network <<'END'
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
[DHCPv4]
UseHostname=no
UseTimezone=no
END
SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console exec {NETWORKD}
"""
CLIENTS = {
    "dhclient": (DHCLIENT, "var/lib/dhcp/dhclient.eth0.leases"),
    "dhcpcd": (DHCPCD, "var/lib/dhcpcd/eth0.lease"),
    "systemd": (SYSTEMD, "run/systemd/netif/leases/2"),
}


@contextmanager
def speaking(words: tuple[str, ...], sign: str, file: Path | None = None) -> Iterator[None]:
    """Run a program that says a sign, or has made a file by the time it says something, as long as it is needed."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        said = ""
        for line in process.stdout:
            said += line
            if sign in line or (file is not None and file.exists()):
                break
        else:
            pytest.fail(f"{words[-1]} ended: {said}")
        try:
            yield
        finally:
            process.terminate()


@pytest.mark.parametrize("client", CLIENTS)
def test_the_router_that_gave_the_lease_is_asked(client: str, machine: Machine, tmp_path: Path) -> None:
    if client == "systemd" and not NETWORKD.exists():
        pytest.skip("systemd-networkd is not there")
    script, lease = CLIENTS[client]
    machine.put("etc/contextagent/policy.yaml", "metadata: {dialect: cloudstack, total_s: 5}\n")
    with Network() as network:
        network.sides[0].ip(f"address add {ROUTER}/24 dev eth0")
        serve = ("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces")
        leases = (
            f"--dhcp-leasefile={tmp_path}/given",
            f"--dhcp-range={ADDRESS},{ADDRESS},255.255.255.0,1h",
            "--no-ping",
        )
        enter = ("nsenter", f"--net={network.far}", "--")
        start = (*network.prefix, "unshare", "--mount", "--uts", "sh", "-euc", script, client, str(machine.root))
        scripts = {path: answer(body) for path, body in answers("cloudstack").items()}
        with (
            speaking((*enter, *serve, *leases), "sockets bound"),
            speaking(start, "forked to background", machine.root / lease),
            Server(scripts, host=ROUTER, port=80, namespace=network.far) as router,
        ):
            network.near.ip(f"address replace {ADDRESS}/24 dev eth0")
            run((*network.prefix, *AGENT, "--root", str(machine.root), "run", "--disk", "none"))
    assert "/latest/user-data" in router.paths()
    assert machine.status()["sources"]["user"] == "metadata:cloudstack"
    assert [each["state"] for each in machine.status()["scripts"]] == ["ok"]
