"""What goes over the wire: the requests of each dialect, counted at the server, and what never is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, run
from tests.spec.clouds import (
    BUNDLE,
    DATA,
    ID,
    META,
    UUID,
    VAC_DATA,
    VAC_META,
    ec2,
    hear,
    openstack,
    policy,
    spoken,
    told,
    vac,
    verdicts,
)
from tests.spec.scenes import KEY, effects
from tests.spec.service import Page, Service

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.spec.service import Answer

BOTH = ["user-data start", "epilog.sh start"]


def pages_of(machine: Machine, dialect: str) -> dict[str, Answer]:
    """Return the pages of a service of this dialect, with a bundle."""
    bundle = spoken(machine, "epilog.sh")
    if dialect == "openstack":
        return openstack(told(machine), bundle=bundle)
    if dialect == "vac":
        return vac(told(machine), bundle=Page(bundle, old=True))
    pages = ec2(told(machine), bundle=bundle) | {"/latest/instance-id": "i-0123456789abcdef0"}
    for version in ("2007-12-15", "2007-01-19"):  # Nimbus knows these, too
        pages |= {path.replace("latest", version): pages[path] for path in (ID, DATA)}
    return pages


# ---- dialects ----


@pytest.mark.parametrize("dialect", ["openstack", "vac", "ec2", "cloudstack", "nimbus"])
def test_a_dialect_that_is_named_costs_three_requests_and_gives_both_owners_material(
    machine: Machine, service: Service, dialect: str
) -> None:
    policy(machine, dialect=dialect)
    service.pages = pages_of(machine, dialect)
    assert hear(machine, service).code == 0
    assert effects(machine) == BOTH
    assert machine.status()["sources"] == {"site": f"metadata:{dialect}", "user": f"metadata:{dialect}"}
    assert len(service.requests) <= 3, service.paths()
    assert len(set(service.paths())) == len(service.paths())


@pytest.mark.parametrize("dialect", ["openstack", "vac", "ec2"])
def test_auto_finds_out_the_dialect_within_six_requests(machine: Machine, service: Service, dialect: str) -> None:
    policy(machine, dialect="auto")
    service.pages = pages_of(machine, dialect)
    assert hear(machine, service).code == 0
    assert effects(machine) == BOTH
    assert set(machine.status()["sources"].values()) == {f"metadata:{dialect}"}
    assert len(service.requests) <= 6, service.paths()
    tried = [path for path in service.paths() if path in (META, VAC_META, ID)]
    assert tried == [META, VAC_META, ID][: ["openstack", "vac", "ec2"].index(dialect) + 1]


@pytest.mark.parametrize("dialect", ["openstack", "ec2", "auto"])
def test_a_service_that_knows_nothing_is_asked_no_more_than_that(
    machine: Machine, service: Service, dialect: str
) -> None:
    policy(machine, dialect=dialect)
    assert hear(machine, service).code == 0
    assert len(service.requests) <= (6 if dialect == "auto" else 3), service.paths()
    assert verdicts(machine) == {"site": "absent", "user": "absent"}


@pytest.mark.parametrize("dialect", ["openstack", "ec2", "auto"])
def test_one_connection_serves_where_the_server_keeps_it(machine: Machine, service: Service, dialect: str) -> None:
    policy(machine, dialect=dialect)
    service.pages = pages_of(machine, "ec2" if dialect == "auto" else dialect)
    hear(machine, service)
    assert effects(machine) == BOTH
    assert service.connections == 1


def test_a_server_that_closes_after_each_answer_costs_no_request_more(machine: Machine, service: Service) -> None:
    policy(machine)
    bundle = spoken(machine, "epilog.sh")
    closing = {"Connection": "close"}
    service.pages = {ID: Page(b"i-1", headers=closing), DATA: Page(told(machine).encode(), headers=closing)}
    service.pages[BUNDLE] = Page(bundle, headers=closing)
    assert hear(machine, service).code == 0
    assert effects(machine) == BOTH
    assert len(service.requests) <= 3


@pytest.mark.parametrize("dialect", ["vac", "auto"])
def test_vacs_own_answers_contextualise_without_an_index_page(machine: Machine, service: Service, dialect: str) -> None:
    policy(machine, dialect=dialect)
    service.pages = vac(told(machine))
    assert hear(machine, service).code == 0
    assert effects(machine) == ["user-data start"]
    assert machine.status()["sources"] == {"site": None, "user": "metadata:vac"}
    assert verdicts(machine) == {"site": "absent", "user": "found"}
    assert not [path for path in service.paths() if path.endswith("/")], "no crawling"
    assert VAC_META in service.paths()
    assert set(VAC_DATA) & set(service.paths())
    assert UUID in str(machine.facts("query", "context.ids"))


def test_no_dialect_crawls_the_tree(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto")
    service.pages = ec2(told(machine)) | {
        "/latest/meta-data/": "ami-id\ninstance-id\n",
        "/": "latest\n",
        "/latest/": "",
    }
    hear(machine, service)
    assert not [path for path in service.paths() if path.endswith("/")]


def test_nimbus_base_is_read_from_its_file(machine: Machine, service: Service) -> None:
    policy(machine, dialect="nimbus")
    machine.metadata = None
    service.pages = pages_of(machine, "nimbus")
    machine.put("var/nimbus-metadata-server-url", f"{service.url}\n")
    assert machine.run("run", "--disk", "none").code == 0
    assert effects(machine) == BOTH
    assert len(service.requests) <= 3


@pytest.mark.parametrize("text", ["", "http://somewhere.example/\n", "file:///etc/passwd\n", "http://[::1\n", "\0\n"])
def test_a_nimbus_file_that_names_no_literal_address_is_asked_for_nowhere(machine: Machine, text: str) -> None:
    policy(machine, dialect="nimbus")
    machine.metadata = None
    machine.put("var/nimbus-metadata-server-url", text)
    done = machine.run("run", "--disk", "none")
    assert done.code in (0, 1)
    assert "Traceback" not in done.err
    assert set(verdicts(machine).values()) <= {"broken", "absent", "unreachable"}


@pytest.mark.parametrize("kind", ["dhclient", "networkd"])
def test_the_cloudstack_service_is_the_leases_dhcp_server_at_port_80(machine: Machine, kind: str) -> None:
    policy(machine, dialect="cloudstack")
    machine.metadata = None
    server = "127.0.0.77"
    if kind == "dhclient":
        lease = 'lease {\n  interface "eth0";\n  fixed-address 127.0.0.5;\n  option dhcp-server-identifier '
        machine.put("var/lib/dhclient/dhclient-eth0.leases", lease + f"{server};\n  expire never;\n}}\n")
        machine.put("var/lib/dhcp/dhclient.eth0.leases", lease + f"{server};\n  expire never;\n}}\n")
    else:
        machine.put("run/systemd/netif/leases/2", f"ADDRESS=127.0.0.5\nSERVER_ADDRESS={server}\n")
    with Service(pages_of(machine, "cloudstack"), host=server, port=80) as service:
        assert machine.run("run", "--disk", "none").code == 0
        assert effects(machine) == BOTH
        assert len(service.requests) <= 3
    assert machine.status()["sources"]["user"] == "metadata:cloudstack"


def test_auto_never_asks_the_dhcp_server(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto")
    machine.put("run/systemd/netif/leases/2", "ADDRESS=127.0.0.5\nSERVER_ADDRESS=127.0.0.78\n")
    with Service(host="127.0.0.78", port=80) as other:
        hear(machine, service)
        assert other.connections == 0


def test_the_keys_of_openstack_are_the_users(machine: Machine, service: Service) -> None:
    policy(machine, dialect="openstack")
    service.pages = openstack(told(machine), meta={"public_keys": {"me": f"{KEY} me"}})
    assert hear(machine, service).code == 0
    assert f"{KEY} me" in machine.text("var/lib/contextuser/.ssh/authorized_keys")
    assert not (machine.root / "root/.ssh").exists()


# ---- headers, proxies, redirects ----


def test_a_request_says_nothing_but_what_it_needs_to(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto")
    service.pages = pages_of(machine, "ec2")
    service.pages[ID] = Page(b"i-1", headers={"Set-Cookie": "a=b; Path=/"})
    service.pages[META] = Page(b"", status=404, headers={"Set-Cookie": "c=d; Path=/"})
    hear(machine, service)
    assert effects(machine) == BOTH
    for each in service.requests:
        assert each.headers["host"] == service.url.removeprefix("http://")
        assert each.headers["accept-encoding"] == "identity"
        for name in ("cookie", "authorization", "proxy-authorization", "referer"):
            assert name not in each.headers
        assert each.path.startswith("/"), "no proxy's form"


def test_proxy_variables_and_a_netrc_change_nothing(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = pages_of(machine, "ec2")
    home = machine.root / "home"
    machine.put("home/.netrc", "machine 127.0.0.1 login canary password canary\ndefault login canary password canary\n")
    with Service() as proxy:
        names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy")
        environment = {
            **dict.fromkeys(names, proxy.url),
            "HOME": str(home),
            "NETRC": str(home / ".netrc"),
            "no_proxy": "",
        }
        machine.run("run", "--disk", "none", "--metadata", service.url, environment=environment)
        assert proxy.connections == 0
    assert effects(machine) == BOTH
    assert not [each for each in service.requests if "canary" in str(each.headers)]


@pytest.mark.parametrize(("path", "status"), [(BUNDLE, 301), (BUNDLE, 303), (BUNDLE, 308), (DATA, 302), (DATA, 307)])
def test_a_redirect_is_broken_and_not_followed(machine: Machine, service: Service, status: int, path: str) -> None:
    policy(machine)
    service.pages = pages_of(machine, "ec2")
    wanted = service.pages[path]
    with Service({"/there": wanted}) as other:
        service.pages["/there"] = wanted
        target = "/there" if status == 303 else f"{other.url}/there"
        service.pages[path] = Page(status=status, headers={"Location": target})
        hear(machine, service)
        assert other.connections == 0
    assert "/there" not in service.paths()
    assert verdicts(machine)["site" if path == BUNDLE else "user"] == "broken"


def test_an_address_with_a_name_is_refused_before_anything_is_sent(machine: Machine, service: Service) -> None:
    policy(machine)
    done = machine.run("run", "--disk", "none", "--metadata", f"http://localhost:{service.port}")
    assert (done.code, done.out, service.connections) == (64, "", 0)
    assert done.err.startswith("contextagent: cannot ")
    machine.metadata = None
    machine.put("etc/contextagent/policy.yaml", f"metadata: {{address: 'http://localhost:{service.port}'}}\n")
    assert machine.run("run", "--disk", "none").code == 65
    assert service.connections == 0


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1", "ftp://127.0.0.1", "file:///etc", "http://", "http://127.0.0.1:99999",
     "http://1.2.3", "http://0x7f.1", "http://127.0.0.1/?a=b", "http://127.0.0.1/#a", "http://127.0.0.1\r\nX: y"],
)  # fmt: skip
def test_an_address_that_is_none_is_a_usage_error(machine: Machine, url: str) -> None:
    done = machine.run("run", "--disk", "none", "--metadata", url)
    assert (done.code, done.out) == (64, "")
    assert "Traceback" not in done.err
    assert not (machine.root / "run/contextagent/status.json").exists()


def test_credentials_in_an_address_are_refused_and_not_repeated(machine: Machine, service: Service) -> None:
    done = machine.run("run", "--disk", "none", "--metadata", f"http://me:canary@127.0.0.1:{service.port}")
    assert (done.code, service.connections) == (64, 0)
    assert "canary" not in done.err + done.out


def test_an_address_of_ipv6_will_do(machine: Machine) -> None:
    policy(machine)
    try:
        service = Service(pages_of(machine, "ec2"), host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with service:
        assert hear(machine, service).code == 0
        assert service.requests[0].headers["host"] == f"[::1]:{service.port}"
    assert effects(machine) == BOTH


def test_the_default_is_the_real_address_and_never_the_misprint(machine: Machine, service: Service) -> None:
    assert machine.facts("query", "policy.metadata.address")["value"] == "http://169.254.169.254"
    log = machine.root / "calls"
    policy(machine)
    trace = ("unshare", "-n", "strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(log))
    run((*trace, *AGENT, "--root", str(machine.root), "run", "--disk", "none"))
    assert service.connections == 0
    assert "169.254.169.154" not in log.read_text()
    assert "169.254.169.254" in log.read_text()
    assert "htons(53)" not in log.read_text(), "no DNS"


def test_a_stop_asks_nothing_and_runs_what_was_fetched(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=spoken(machine, "epilog.sh", "stop.d/x"))
    hear(machine, service)
    service.forget()
    hear(machine, service, "stop")
    assert service.connections == 0
    assert effects(machine) == ["epilog.sh start", "stop.d/x stop", "epilog.sh stop"]


def test_everything_is_fetched_before_the_first_user_script_of_the_phase(machine: Machine, service: Service) -> None:
    policy(machine, dialect="auto")
    service.pages = ec2(told(machine), bundle=[503, spoken(machine, "epilog.sh")])
    service.look = lambda: tuple(effects(machine))
    hear(machine, service)
    assert effects(machine) == BOTH
    assert {each.seen for each in service.requests} == {()}
