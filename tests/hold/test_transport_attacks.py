"""Attacks on the way to the metadata service, one by one: the site's scripts run, or are refused; nothing else runs."""

from __future__ import annotations

import gzip
import itertools
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.hold.arena import REFUSED_MARK, SITE_SCRIPTS, USER_SCRIPTS
from tests.hold.transport import BUNDLE, DIALECTS, Realm
from tests.machine import AGENT
from tests.network import SERVICE, Network
from tests.servers import CLOSE, HANG, RESET, Drip, Server, answer, entered, head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Play, Request

META, USER_DATA = DIALECTS["ec2"]
MIB = 1 << 20
MAX_RESIDENT_MIB = 64


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = Realm(tmp_path)
    made.policy()
    return made


@pytest.fixture
def rogue(realm: Realm) -> Iterator[Server]:
    """A server that answers everything with scripts which must never run."""
    with Server({}) as server:
        server.scripts = Everything(answer(realm.evil))
        yield server


class Everything(dict[str, Any]):
    """The same script at every path."""

    def __init__(self, script: bytes) -> None:
        super().__init__()
        self._script = script

    def get(self, *_: object) -> Any:
        return self._script


def verdict(realm: Realm, owner: str) -> tuple[str, str]:
    """Return what the service got for an owner, and the reason's first word."""
    told = [each for each in realm.status()["verdicts"] if (each["owner"], each["source"][:8]) == (owner, "metadata")]
    return told[-1]["verdict"], told[-1]["reason"].partition(":")[0]


def ran(realm: Realm, *owners: str) -> bool:
    """Whether the scripts of these owners, and no others, came to their end in the last run."""
    lines = realm.last_lines()
    expected = [script_id for script_id in (*SITE_SCRIPTS, *USER_SCRIPTS) if script_id.split("/")[0] in owners]
    return sorted(line for line in lines if line.startswith("done ")) == sorted(f"done {each}" for each in expected)


def has_run_refused(realm: Realm) -> bool:
    return REFUSED_MARK in realm.effect_lines()


# -- a rogue in the service's place


@pytest.mark.parametrize("status", [302, 403, 200])
def test_a_rogue_that_answers_first_ends_the_search_and_the_true_service_is_not_waited_for(
    realm: Realm, status: int
) -> None:
    lie = answer(realm.evil, status, "Content-Type: text/html", "Location: http://127.0.0.1/")
    with Server({**realm.scripts("ec2"), BUNDLE: [[lie], [answer(realm.bundle)]]}) as server:
        realm.ask(server.url)
        assert server.paths().count(BUNDLE) == 1
    assert verdict(realm, "site")[0] == "broken"
    assert realm.status()["result"] == "failed"
    assert ran(realm, "user")
    assert not has_run_refused(realm)


@pytest.mark.parametrize("way", ["busy", "cut", "reset"])
def test_a_rogue_that_has_every_other_connection_costs_time_and_nothing_else(realm: Realm, way: str) -> None:
    realm.policy(total_s=10)
    lies: dict[str, Play] = {
        "busy": [answer(realm.evil, 503), CLOSE],
        "cut": [head(200, f"Content-Length: {len(realm.evil) + 1}") + realm.evil, RESET],
        "reset": [RESET],
    }
    good = realm.good("ec2")

    def play(request: Request) -> Play:
        if request.connection % 2:
            return lies[way]
        return [answer(good[request.path]) if request.path in good else answer("", 404), CLOSE]

    with Server(dict.fromkeys([*good, *(path for paths in DIALECTS.values() for path in paths)], play)) as server:
        realm.ask(server.url)
    assert ran(realm, "site", "user")
    assert not has_run_refused(realm)


def test_an_arp_rogue_on_a_second_link_is_never_asked(realm: Realm) -> None:
    """It has the service's address and shouts so on its link; the route to the service leads over the first one."""
    with Network(links=2) as network, Shouting(network) as shouting:
        well = Server(realm.scripts("ec2"), host=SERVICE, port=80, namespace=network.far)
        rogue = Server({}, host=SERVICE, port=80, namespace=network.sides[1].file)
        with well, rogue:
            rogue.scripts = Everything(answer(realm.evil))
            realm.ask(None, network.prefix)
            assert shouting.count
            assert rogue.connections == 0
    assert ran(realm, "site", "user")


class Shouting:
    """ARP answers that nobody asked for, all the time, from the other side of a second link."""

    def __init__(self, network: Network) -> None:
        self.count = 0
        self._is_over = threading.Event()
        self._socket = entered(network.sides[1].file, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self._thread = threading.Thread(target=self._shout)

    def _shout(self) -> None:
        ours, everybody = bytes.fromhex("02000000beef"), b"\xff" * 6
        address = socket.inet_aton(SERVICE)
        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + ours + address + everybody + address
        while not self._is_over.wait(0.01):
            self._socket.sendto(everybody + ours + b"\x08\x06" + arp, ("eth0", 0))
            self.count += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()


# -- what this machine says about the way


def test_poisoned_hosts_resolvers_and_leases_have_no_say(realm: Realm, tmp_path: Path) -> None:
    aliases = tmp_path / "aliases"
    aliases.write_text("169 rogue\n169.254.169.254 rogue\n")
    realm.put("etc/hosts", f"127.0.0.1 {SERVICE} 169.254.169.254\n127.0.0.1 localhost\n")
    realm.put("etc/resolv.conf", "nameserver 127.0.0.1\nsearch 127.0.0.1\n")
    realm.put("etc/nsswitch.conf", "hosts: files dns\n")
    lease = "lease {\n  option dhcp-server-identifier 127.0.0.1;\n  option routers 127.0.0.1;\n}\n"
    for path in (
        "var/lib/dhcp/dhclient.leases",
        "var/lib/dhclient/dhclient.leases",
        "var/lib/dhcp/dhclient.eth0.leases",
    ):
        realm.put(path, lease)
    realm.put("run/systemd/netif/leases/2", "SERVER_ADDRESS=127.0.0.1\nROUTER=127.0.0.1\n")
    with Network() as network:
        resolver = entered(network.near.file, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        resolver.bind(("127.0.0.1", 53))
        resolver.setblocking(False)  # noqa: FBT003  # the socket's own way to say it
        well = Server(realm.scripts("ec2"), host=SERVICE, port=80, namespace=network.far)
        rogue = Server({}, port=80, namespace=network.near.file)
        with resolver, well, rogue:
            environment = {"HOSTALIASES": str(aliases), "LOCALDOMAIN": "rogue", "RES_OPTIONS": "ndots:9"}
            realm.ask(None, network.prefix, environment=environment)
            with pytest.raises(BlockingIOError):
                resolver.recv(1)
            assert rogue.connections == 0
    assert ran(realm, "site", "user")


def test_proxy_variables_have_no_say(realm: Realm, rogue: Server) -> None:
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "ftp_proxy")
    with Server(realm.scripts("ec2")) as server:
        realm.ask(server.url, environment={**dict.fromkeys(names, rogue.url), "REQUEST_METHOD": "", "no_proxy": ""})
    assert rogue.connections == 0
    assert ran(realm, "site", "user")


def test_a_netrc_is_not_read(realm: Realm, tmp_path: Path) -> None:
    secret = "machine 127.0.0.1 login me password canary-of-the-netrc\ndefault login me password canary-of-the-netrc\n"
    for path in (tmp_path / ".netrc", realm.root / "root/.netrc"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(secret)
        path.chmod(0o600)
    with Server(realm.scripts("ec2")) as server:
        realm.ask(server.url, environment={"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc")})
        assert not [request for request in server.requests if {"authorization", "cookie"} & set(request.headers)]
    assert ran(realm, "site", "user")


@pytest.mark.parametrize("kind", ["loopback", "other", "file", "same"])
@pytest.mark.parametrize("path", [BUNDLE, META, USER_DATA])
def test_a_redirect_is_followed_nowhere(realm: Realm, rogue: Server, kind: str, path: str) -> None:
    target = realm.put("tmp/evil.tgz", realm.evil)
    location = {"loopback": rogue.url, "other": f"//localhost:{rogue.port}/x", "file": f"file://{target}", "same": "/x"}
    with Server({**realm.scripts("ec2"), path: answer("", 302, f"Location: {location[kind]}")}) as server:
        realm.ask(server.url)
        assert "/x" not in server.paths()
    assert rogue.connections == 0
    assert verdict(realm, "site" if path == BUNDLE else "user") == ("broken", "redirect")
    assert ran(realm, "user" if path == BUNDLE else "site")


# -- bombs and drips


def resident_mib(realm: Realm, url: str) -> int:
    """Boot, and return the most memory that any process of it had."""
    realm.note("run")
    words = [*AGENT, "--root", str(realm.root), "run", "--disk", "none", "--metadata", url]
    watch = (
        "import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", watch, *words], stdout=subprocess.PIPE, timeout=60, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("path", [BUNDLE, USER_DATA])
@pytest.mark.parametrize("is_told", [False, True])
def test_a_gzip_bomb_is_refused_in_little_memory_and_costs_the_other_owner_nothing(
    realm: Realm,
    path: str,
    is_told: bool,  # noqa: FBT001  # a column
) -> None:
    bomb = gzip.compress(bytes(300 * MIB), 9)
    script = answer(bomb, 200, *(["Content-Encoding: gzip"] if is_told else []))
    with Server({**realm.scripts("ec2"), path: script}) as server:
        peak_mib = resident_mib(realm, server.url)
    assert peak_mib <= MAX_RESIDENT_MIB
    assert verdict(realm, "site" if path == BUNDLE else "user")[0] == "broken"
    assert ran(realm, "user" if path == BUNDLE else "site")


@pytest.mark.parametrize("part", ["head", "body", "chunks"])
@pytest.mark.parametrize("path", [BUNDLE, META, USER_DATA])
def test_a_drip_without_end_is_broken_when_its_time_is_over(realm: Realm, part: str, path: str) -> None:
    drips: dict[str, Play] = {
        "head": [b"HTTP/1.1 200 OK\r\n", Drip(b"X: y\r\n", 0.05, is_endless=True)],
        "body": [head(200, "Content-Length: 100000"), Drip(b"x", 0.02, is_endless=True)],
        "chunks": [head(200, "Transfer-Encoding: chunked"), Drip(b"1\r\nx\r\n", 0.02, is_endless=True)],
    }
    with Server({**realm.scripts("ec2"), path: drips[part]}) as server:
        realm.ask(server.url)
    duration_s = max(each["duration_s"] for each in realm.status()["verdicts"])
    assert duration_s < 2 + 10
    assert verdict(realm, "site" if path == BUNDLE else "user") == ("broken", "timeout")
    assert ran(realm, "user" if path == BUNDLE else "site")


@pytest.mark.parametrize("path", [BUNDLE, USER_DATA])
def test_two_words_on_the_length_are_refused(realm: Realm, path: str) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(realm.evil), realm.evil)
    lines = ("Transfer-Encoding: chunked", f"Content-Length: {len(body)}")
    for order in (lines, lines[::-1]):
        with Server({**realm.scripts("ec2"), path: head(200, *order) + body}) as server:
            realm.ask(server.url)
        assert verdict(realm, "site" if path == BUNDLE else "user") == ("broken", "length-conflict")
        realm.reboot()
    assert not has_run_refused(realm)


@pytest.mark.parametrize("path", [BUNDLE, USER_DATA])
def test_a_login_page_is_no_script_and_no_bundle(realm: Realm, path: str) -> None:
    page = b"<html><body>Please log in</body></html>"
    for script in (answer(page, 200, "Content-Type: text/html"), answer(realm.evil, 200, "Content-Type: text/html")):
        with Server({**realm.scripts("ec2"), path: script}) as server:
            realm.ask(server.url)
        assert verdict(realm, "site" if path == BUNDLE else "user") == ("broken", "html")
        realm.reboot()
    assert not has_run_refused(realm)


@pytest.mark.parametrize("text", ["1000000000", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "-1"])
def test_a_server_cannot_make_the_boot_wait_beyond_its_time(realm: Realm, text: str) -> None:
    busy = answer(realm.evil, 503, f"Retry-After: {text}")
    with Server({**realm.scripts("ec2"), BUNDLE: busy}) as server:
        realm.ask(server.url)
    assert verdict(realm, "site") == ("broken", "server-error")
    assert max(each["duration_s"] for each in realm.status()["verdicts"]) < 2 + 10
    assert ran(realm, "user")


# -- what a user supplies, and what is gone


USER_DATA_OF_ALL_KINDS: dict[str, Any] = {
    "absent": answer("", 404),
    "empty": answer(""),
    "binary": answer(bytes(range(256)) * (16 * MIB // 256)),
    "html": answer(b"<html>", 200, "Content-Type: text/html"),
    "other bundle": answer("[amiconfig]\nplugins=hepix\n[hepix]\ncontext=/context/other.tgz\n"),
    "drip": [head(200, "Content-Length: 1000000"), Drip(b"x", 0.02, is_endless=True)],
    "reset": [RESET],
    "silence": [HANG],
}


@pytest.mark.parametrize(
    ("kind", "dialect"), list(zip(USER_DATA_OF_ALL_KINDS, itertools.cycle(DIALECTS), strict=False))
)
def test_whatever_the_user_supplies_the_site_gets_the_same_and_its_scripts_run(
    realm: Realm, kind: str, dialect: str
) -> None:
    scripts = {**realm.scripts(dialect), DIALECTS[dialect][1]: USER_DATA_OF_ALL_KINDS[kind]}
    with Server(scripts) as server:
        realm.ask(server.url)
        assert [path for path in server.paths() if path.startswith("/context/")] == [BUNDLE]
    assert ran(realm, "site")
    assert verdict(realm, "site")[0] == "found"


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("is_amid", [False, True])
def test_a_service_that_is_killed_amid_a_boot_gets_its_verdicts_and_makes_no_new_instance(
    realm: Realm,
    number: int,
    is_amid: bool,  # noqa: FBT001  # a column
) -> None:
    """At its n-th request, before or within its answer; `auto` asks for the bundle, three names and the user data."""
    good = realm.good("ec2")
    server = Server({})

    def play(request: Request) -> Play:
        whole = answer(good[request.path]) if request.path in good else answer("nothing", 404)
        if len(server.requests) < number:
            return [whole]
        server.stop_listening()
        return [whole[:-1] if is_amid else b"", CLOSE]

    server.scripts = dict.fromkeys([*good, *(path for paths in DIALECTS.values() for path in paths)], play)
    with server:
        realm.ask(server.url)
    is_had = number > 1
    assert verdict(realm, "site")[0] == ("found" if is_had else "broken")
    assert ran(realm, *(["site"] if is_had else []))
    assert verdict(realm, "user")[0] == "broken"
    before = realm.status()["instance_id"]
    realm.policy(connect_s=1)
    realm.reboot()
    realm.ask(server.url)
    assert realm.status()["instance_id"] == before
    if is_had:  # the last good context of the site serves
        assert realm.status()["sources"]["site"].startswith("cached:metadata")
        assert f"done {SITE_SCRIPTS[0]}" in realm.last_lines()
    assert verdict(realm, "site") == ("unreachable", "unreachable")
