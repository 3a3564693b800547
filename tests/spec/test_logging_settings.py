"""`logging.*`: who may say it, what is refused and where, the older forms, and what the verbs tell of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.spec.daemons import DROP_IN, RAN, TCP, boot_with, rsyslog, told, written
from tests.spec.scenes import boot, lay, messages, reasons

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine

BAD = [
    "collectors: [{port: 5}]", "collectors: [{host: a, port: 0}]", "collectors: [{host: a, port: 65536}]",
    "collectors: [{host: a, port: x}]", "collectors: [{host: a, protocol: TLS}]", "collectors: [{host: a, prot: tls}]",
    "collectors: {host: a}", "collectors: [a]", 'collectors: [{host: "a\\nb"}]',
    'collectors: [{host: a, ca: "/x\\n$IncludeConfig /y"}]', "facilities: 5", 'facilities: ["*.*\\n$IncludeConfig /x"]',
    "script_output: yes", "script_output: Site", "audit: maybe", "journal_upload: ftp://x", "journal_upload: no",
    'journal_upload: "http://x\\nServerKeyFile=/etc/shadow"',
]  # fmt: skip
USERS = "logging:\n  facilities: ['*.*']\n  script_output: none\n  audit: yes\n  journal_upload: http://x/\n"


@pytest.fixture(autouse=True)
def _daemon(machine: Machine) -> None:
    rsyslog(machine)


@pytest.mark.parametrize("text", BAD)
def test_a_value_that_is_none_is_refused_with_file_and_line(machine: Machine, disk: Path, text: str) -> None:
    done = boot_with(machine, disk, f"# first\nlogging: {{{text}}}\n")
    assert done.code == 1
    assert reasons(machine, "errors") == ["invalid-site-settings"]
    assert messages(machine, "errors").startswith("site.yaml:2: ")
    assert written(machine) == []
    lint = machine.run("lint", str(disk))
    assert (lint.code, "site.yaml:2: " in lint.out) == (65, True)


@pytest.mark.parametrize("text", BAD)
def test_an_images_policy_with_such_a_value_starts_nothing(machine: Machine, disk: Path, text: str) -> None:
    machine.put("etc/contextagent/policy.yaml", f"# first\nlogging: {{{text}}}\n")
    lay(disk, {"epilog.sh": RAN})
    done = boot(machine, disk)
    assert done.code == 65
    assert "/etc/contextagent/policy.yaml:2: " in done.err


def test_a_user_who_sets_any_of_it_is_told_the_key_the_line_and_who_may(machine: Machine, disk: Path) -> None:
    lay(disk, {"user/user.yaml": USERS, "user/context.sh": "SYSLOG_SERVER=evil.example\n", "user/epilog.sh": RAN})
    assert boot(machine, disk).code == 0
    assert reasons(machine) == ["not-yours"] * 4
    for line, key in enumerate(("facilities", "script_output", "audit", "journal_upload"), 2):
        assert f"user.yaml:{line}: the user may not set 'logging.{key}', only the image" in messages(machine)
    assert (told(machine), written(machine)) == ({"targets": [], "delivered": "none"}, [])


@pytest.mark.parametrize(
    ("form", "target"),
    [
        ("old.example", "udp://old.example:514"),
        ("old.example:5514", "udp://old.example:5514"),
        ("192.0.2.7", "udp://192.0.2.7:514"),
        ("[2001:db8::1]:514", "udp://[2001:db8::1]:514"),
    ],
)
def test_an_older_form_is_a_collector_by_udp(machine: Machine, disk: Path, form: str, target: str) -> None:
    lay(disk, {"epilog.sh": RAN, "context.sh": f'SYSLOG_SERVER="{form}"\n'})
    assert boot(machine, disk).code == 0
    assert told(machine) == {"targets": [f"rsyslog {target}"], "delivered": "configured"}


@pytest.mark.parametrize("form", ["a b", "@@old.example:514", "x\n$IncludeConfig /y", 'x" port="1', "old.example:0"])
@pytest.mark.parametrize("name", ["context.sh", "feature"])
def test_an_older_form_that_names_no_host_is_said_and_writes_nothing(
    machine: Machine, disk: Path, name: str, form: str
) -> None:
    lay(disk, {"epilog.sh": RAN})
    if name == "feature":
        machine.put("etc/machinefeatures/syslog", form)
    else:
        lay(disk, {"context.sh": f"SYSLOG_SERVER='{form}'\n"})
    assert boot(machine, disk).code in (0, 2)
    assert "bad-collector" in reasons(machine) + reasons(machine, "errors")
    assert written(machine) == []


@pytest.mark.parametrize("data", [b"", b"\n", b"a" * 2_000_000, b"a\0b\xff"])
def test_a_feature_that_is_empty_huge_or_binary_is_no_collector(machine: Machine, disk: Path, data: bytes) -> None:
    machine.put("etc/machinefeatures/syslog", data)
    lay(disk, {"epilog.sh": RAN})
    assert boot(machine, disk).code == 0
    assert written(machine) == []


@pytest.mark.parametrize("voice", ["site", "image"])
def test_the_settings_outrank_the_older_forms(machine: Machine, disk: Path, voice: str) -> None:
    lay(disk, {"epilog.sh": RAN, "context.sh": "SYSLOG_SERVER=old.example\n"})
    if voice == "site":
        lay(disk, {"site.yaml": TCP})
    else:
        machine.put("etc/contextagent/policy.yaml", TCP)
    machine.put("etc/machinefeatures/syslog", "older.example\n")
    boot(machine, disk)
    assert told(machine)["targets"] == ["rsyslog tcp://collector.example:5140"]


def test_the_site_outranks_the_image(machine: Machine, disk: Path) -> None:
    machine.put("etc/contextagent/policy.yaml", TCP.replace("collector.example", "image.example"))
    boot_with(machine, disk)
    assert told(machine)["targets"] == ["rsyslog tcp://collector.example:5140"]


@pytest.mark.parametrize(
    "word",
    ["host: 'x\" port=\"1\") action(type=\"omfile\" file=\"/etc/passwd'", "host: '$(id)'", "host: 'a;b'", "host: '%x'",
     "host: -x", "host: a, ca: '/a\"b'", "host: a, ca: '/a b'", "host: a, ca: '/$IncludeConfig'", "host: a, ca: x.pem",
     "host: a, ca: /x, peer: 'x\")y'", "host: a, ca: /x, cert: /a, key: '/b;c'"],
)  # fmt: skip
def test_no_word_of_a_collector_becomes_a_line_of_a_daemons_configuration(
    machine: Machine, disk: Path, word: str
) -> None:
    machine.put("usr/lib/rsyslog/lmnsd_gtls.so", "")
    done = boot_with(machine, disk, f"logging: {{collectors: [{{{word}, protocol: tls}}]}}\n")
    assert (done.code, told(machine)["targets"]) == (2, [])
    assert "bad-collector" in reasons(machine, "errors")
    assert written(machine) == []
    assert [script["state"] for script in machine.status()["scripts"]] == ["ok"]


@pytest.mark.parametrize(
    "word", ["bad", "*", "", "*.* @evil", "$IncludeConfig /x", "*.* /etc/passwd", "*.* |/x", '*.*") then stop', "a.b\\"]
)
def test_no_facility_becomes_an_action_and_authpriv_is_there_whatever_is_said(
    machine: Machine, disk: Path, word: str
) -> None:
    quoted = word.replace("'", "''")
    boot_with(machine, disk, f"logging: {{collectors: [{{host: a, protocol: tcp}}], facilities: ['{quoted}']}}\n")
    (line,) = [line for line in machine.text(DROP_IN).splitlines() if "prifilt" in line]
    (selected,) = re.findall(r'prifilt\("([^"]*)"\)', line)
    assert selected.split(";")[-1] == "authpriv.*"
    assert not set(selected) & set("@$/|'() \\")
    assert f"cannot select '{word}': " in messages(machine) + messages(machine, "errors")


def test_the_steps_that_plan_names_are_before_every_script_and_again_before_the_sites(
    machine: Machine, disk: Path
) -> None:
    names = ("prolog.sh", "epilog.sh", "user/prolog.sh", "user/epilog.sh", "stop.d/x")
    lay(disk, {"site.yaml": TCP, **dict.fromkeys(names, RAN)})
    plan = machine.facts("--disk", str(disk), "plan")
    assert plan["phase"] is None
    for phase in ("pre-network", "post-network"):
        steps = [step for step in plan["steps"] if step["phase"] == phase]
        order = [(step["kind"], step["owner"]) for step in steps]
        reload, user, site = ("reload", "site"), ("script", "user"), ("script", "site")
        assert order == [reload, user, reload, site, reload], phase
    assert [step["kind"] for step in plan["steps"]][-1] == "reload", "the last thing at a stop is to flush"
    assert written(machine) == []
    boot(machine, disk)
    after = machine.facts("--disk", str(disk), "plan")["steps"]
    planned = [(step["id"], step["sha512"]) for step in plan["steps"] if step["kind"] == "reload"]
    assert [(step["id"], step["sha512"]) for step in after if step["kind"] == "reload"] == planned


def test_every_teller_says_the_same_of_the_logging(machine: Machine, disk: Path) -> None:
    boot_with(machine, disk)
    boot(machine, disk, "stop")
    records = [record for record in machine.trace() if record["ev"] == "logging"]
    assert records
    targets, delivered = told(machine)["targets"], told(machine)["delivered"]
    for record in records:
        assert {"targets", "delivered", "reason"} <= set(record)
        assert (record["targets"], record["delivered"]) == (targets, delivered)
    receipt = machine.facts("receipt")["logging"]
    assert (receipt["targets"], receipt["delivered"]) == (targets, delivered)
    assert "tcp://collector.example:5140" in machine.run("explain").out
    events = [record["ev"] for record in machine.trace()]
    assert events.index("logging") < events.index("start"), "the site's logs are set up before the first script"
    assert events[-1] == "shutdown"


def test_three_hundred_collectors_make_no_line_too_long(machine: Machine, disk: Path) -> None:
    every = ", ".join(f"{{host: h{number}.example, protocol: tcp}}" for number in range(300))
    assert boot_with(machine, disk, f"logging: {{collectors: [{every}]}}\n").code == 0
    assert len(told(machine)["targets"]) == 300
    (trace,) = (machine.root / "var/log/contextagent").glob("trace-*")
    assert max(map(len, trace.read_bytes().splitlines(keepends=True))) <= 4000
    assert machine.run("trace", "verify").code == 2
