"""Whole boots with a real rsyslogd, whose collector is another one: what arrives, what is known of it, what attacks do.

The agent acts as root on a throw-away view of this machine, with Debian's rsyslog over it, and a network of its own.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.certificates import Authority
from tests.collecting import ADDRESS, NAME, RELP_TLS, Site
from tests.daemons import packages, until
from tests.machine import AGENT, Guest, run
from tests.traces import verified

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine import Done

MAIN = """
$WorkDirectory /var/spool/rsyslog
module(load="imuxsock")
$IncludeConfig /etc/rsyslog.d/*.conf
*.* /var/log/local
"""
SERVICE = """#!/bin/sh
# what `service rsyslog condrestart` and `restart` do, without an init
pid=$(cat /run/rsyslogd.pid 2>/dev/null)
echo "$@" >>/asked
if [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null; then
    [ "$2" = restart ] || exit 0
else
    kill -CONT "$pid"; kill -TERM "$pid"
    while [ -e /run/rsyslogd.pid ]; do sleep 0.01; done
fi
rm -f /run/rsyslogd.pid
exec /usr/sbin/rsyslogd
"""
BOOT = """
set -u
{agent} run pre-network
rsyslogd
while ! [ -S /dev/log ]; do sleep 0.01; done
{agent} run post-network
cp /run/contextagent/status.json /status
{before_stop}
{agent} run stop
"""
OWN = {"ca": "/etc/tls/ca.pem", "cert": "/etc/tls/own.pem", "key": "/etc/tls/own.key"}
CANARY = "c4n4ry-0f-4-m4ch1n3"


class Station(Guest):
    """A view of this machine with rsyslog, in the network of a site."""

    def __init__(self, folder: Path, site: Site) -> None:
        super().__init__(folder)
        self._site = site
        shutil.copytree(packages("rsyslog") / "usr", self.root / "usr", symlinks=True, dirs_exist_ok=True)
        for path in ("var/spool/rsyslog", "var/log"):
            (self.root / path).mkdir(parents=True)
        self.put("etc/rsyslog.conf", MAIN)
        self.put("usr/sbin/service", SERVICE, 0o755)
        self.put("etc/hosts", f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
        self.put("disk/context.sh", f"VMID=7\nDB_PASSWORD={CANARY}\n")

    def collect_by(self, **words: Any) -> None:
        """Let the image's policy name the collector."""
        policy = {"logging": {"collectors": [{"host": NAME, **words}]}, "user": {"profile": "root", "ceiling": "root"}}
        self.put("etc/contextagent/policy.yaml", json.dumps(policy))

    def boot(self, *, before_stop: str = "") -> Done:
        """Boot and stop the machine, and return what all of it said."""
        agent = " ".join((*AGENT, "--disk", "/disk", "--metadata", "none"))
        enter = (
            *self._site.prefix,
            *self.words("sh", "-c", BOOT.format(agent=agent, before_stop=before_stop)),
        )
        return run(enter)

    def said(self) -> dict[str, Any]:
        """Return the status after the second phase."""
        return dict(json.loads(self.text("status")))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as made:
        yield made


@pytest.fixture
def station(tmp_path: Path, site: Site) -> Station:
    return Station(tmp_path / "guest", site)


def certify(site: Site, station: Station) -> None:
    """Give both sides certificates of one authority."""
    site.certify(is_mutual=True)
    for name in ("ca.pem", "own.pem", "own.key"):
        station.put(f"etc/tls/{name}", site.machine.text(f"etc/tls/{name}"), 0o600)


def until_intact(site: Site, *, boots: int = 1) -> None:
    """Wait until the collector has whole traces: it takes up what has arrived, though the machine has gone."""

    def are_intact() -> bool:
        return [boot.verdict for boot in verified(site.collected()).boots] == ["intact"] * boots

    until(are_intact, "the traces are intact")


def test_a_whole_boots_trace_arrives_and_verifies_as_intact_after_the_machine_has_gone(
    site: Site, station: Station
) -> None:
    certify(site, station)
    station.collect_by(port=RELP_TLS, protocol="relp", **OWN)
    station.put(
        "disk/epilog.sh", f"#!/bin/sh\necho marker $DB_PASSWORD\nprintf '\\033[2Jcontrol\\n'\necho token={CANARY}\n"
    )
    station.put("disk/user/epilog.sh", "#!/bin/sh\necho of the user\n")
    site.collect()
    done = station.boot()
    assert station.said()["logging"] == {
        "targets": [f"rsyslog relp+tls://{NAME}:{RELP_TLS}"],
        "delivered": "reachable",
    }, done
    assert station.said()["result"] == "ok", (done, station.said())
    until_intact(site)
    site.until_collected(b"marker [masked]", rb"\x1b[2Jcontrol")
    collected = b"".join(site.collected())
    assert CANARY.encode() not in collected
    assert b"of the user" not in collected
    assert b"contextagent-script" in collected
    assert CANARY not in station.text("var/log/local")


def test_a_site_whose_certificates_come_with_its_context_is_sent_everything_in_the_first_boot(
    site: Site, station: Station
) -> None:
    site.certify(is_mutual=True)
    for name in ("ca.pem", "own.pem", "own.key"):
        station.put(f"disk/files/etc/tls/{name}", site.machine.text(f"etc/tls/{name}"))
    collector = {"host": NAME, "port": RELP_TLS, "protocol": "relp", **OWN}
    station.put("disk/site.json", json.dumps({"logging": {"collectors": [collector]}}))
    station.put("disk/user/prolog.sh", "#!/bin/sh\nrm -f /etc/tls/ca.pem\n")
    station.put("disk/epilog.sh", "#!/bin/sh\nexit 0\n")
    site.collect()
    station.boot()
    assert station.said()["logging"]["delivered"] == "reachable", station.said()
    until_intact(site)


def test_a_collector_that_is_down_costs_a_boot_a_second_and_gets_everything_when_it_is_back(
    site: Site, station: Station
) -> None:
    station.collect_by(protocol="relp")
    station.boot()
    assert station.said()["logging"]["delivered"] == "configured"
    assert [each["reason"] for each in station.said()["errors"]] == ["collector-unreachable"]
    assert station.said()["result"] == "degraded"
    assert not site.collected()
    station.reboot()
    site.collect()
    station.boot()
    assert station.said()["result"] != "failed"
    until_intact(site, boots=2)


ATTACKS = {
    "kill -9 $(cat /run/rsyslogd.pid)": "'rsyslogd' was stopped",
    "kill -TERM $(cat /run/rsyslogd.pid)": "'rsyslogd' was stopped",
    "kill -STOP $(cat /run/rsyslogd.pid)": "'rsyslogd' was stopped",
    "echo '*.* @evil' >/etc/rsyslog.d/10-contextagent.conf": "'/etc/rsyslog.d/10-contextagent.conf' was changed",
    "rm /var/log/contextagent/trace-*": "",
    "rm -r /etc/rsyslog.d": "'/etc/rsyslog.d/10-contextagent.conf' was removed",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_the_users_root_does_to_rsyslog_is_said_and_mended_before_the_sites_scripts(
    attack: str, site: Site, station: Station
) -> None:
    station.collect_by(protocol="relp")
    station.put("disk/user/epilog.sh", f"#!/bin/sh\n{attack}\n")
    station.put("disk/epilog.sh", "#!/bin/sh\nlogger -p authpriv.info -t sshd 'in the sites script'\n")
    site.collect()
    station.boot()
    warnings = [each["message"] for each in station.said()["warnings"]]
    if "trace" in attack:
        assert [each["reason"] for each in station.said()["warnings"]] == ["trace-deleted"]
    else:
        assert any(ATTACKS[attack] in each for each in warnings), json.dumps(station.said(), indent=1)
        assert any(ATTACKS[attack] in record["reason"] for record in station.trace() if record["ev"] == "logging")
    site.until_collected(b"in the sites script")
    assert station.said()["logging"]["delivered"] == "reachable"
    until_intact(site)


def test_a_flood_of_dev_log_by_a_user_script_loses_nothing_of_the_trace(site: Site, station: Station) -> None:
    station.collect_by(protocol="relp")
    flood = 'yes \'forged {"v":1,"seq":1}\' | head -n 20000 | logger -t contextagent-trace\n'
    station.put("disk/user/epilog.sh", f"#!/bin/sh\n{flood}")
    station.put("disk/epilog.sh", "#!/bin/sh\nexit 0\n")
    site.collect()
    station.boot()
    assert station.said()["result"] == "ok"
    until_intact(site)


def test_a_wrong_certificate_is_refused_and_said(site: Site, station: Station, tmp_path: Path) -> None:
    certify(site, station)
    other = Authority(tmp_path / "other")
    station.put("etc/tls/ca.pem", other.cert.read_text())
    station.collect_by(port=RELP_TLS, protocol="relp", **OWN)
    site.collect()
    station.boot()
    assert station.said()["logging"]["delivered"] == "configured"
    assert "its certificate is refused" in station.said()["errors"][0]["message"]
    assert not site.records()


def test_a_configuration_that_rsyslog_refuses_is_never_in_place(station: Station) -> None:
    places = {name: path.replace("tls", "none") for name, path in OWN.items()}
    station.collect_by(port=RELP_TLS, protocol="relp", **places)
    station.boot()
    assert not (station.root / "etc/rsyslog.d/10-contextagent.conf").exists()
    assert station.said()["logging"] == {"targets": [], "delivered": "no"}
    assert [each["reason"] for each in station.said()["errors"]] == ["logging-refused"]
