"""User data by network: every form of it, and that none of it has a say in what is fetched and run for the site."""

from __future__ import annotations

import base64
import email.encoders
import email.mime.base
import email.mime.multipart
import email.mime.text
import gzip
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.spec.clouds import BUNDLE, DATA, ec2, hear, policy, spoken, tgz, told, verdict, verdicts
from tests.spec.scenes import KEY, effects, ids, messages, reasons, reports, says
from tests.spec.service import Page

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Machine
    from tests.spec.service import Answer, Service

HOME = "var/lib/contextuser"


def take(machine: Machine, service: Service, data: Answer) -> int:
    """Boot with this user data and a bundle with an epilog."""
    policy(machine)
    service.pages = ec2(data, bundle=spoken(machine, "epilog.sh"))
    code = hear(machine, service).code
    assert effects(machine)[-1:] == ["epilog.sh start"]
    assert verdicts(machine)["site"] == "found"
    return code


def kept(machine: Machine, data: bytes) -> list[Path]:
    """Return the files below the machine that are this data."""
    return [path for path in machine.root.rglob("*") if path.is_file() and path.read_bytes() == data]


# ---- the forms ----


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_script_runs_as_user_data_also_behind_two_layers_of_gzip(
    machine: Machine, service: Service, layers: int
) -> None:
    data = told(machine).encode()
    for _ in range(layers):
        data = gzip.compress(data)
    assert take(machine, service, data) == 0
    assert ids(machine) == ["user/post-network/user-data", "site/post-network/epilog.sh"]


def test_a_third_layer_of_gzip_is_not_run(machine: Machine, service: Service) -> None:
    data = gzip.compress(gzip.compress(gzip.compress(told(machine).encode())))
    take(machine, service, data)
    assert effects(machine) == ["epilog.sh start"]


def test_base64_is_not_undone_where_the_source_defines_none(machine: Machine, service: Service) -> None:
    data = base64.b64encode(told(machine).encode())
    assert take(machine, service, data) == 0
    assert effects(machine) == ["epilog.sh start"]


def test_amiconfig_sections_by_network_are_late_before_and_after(machine: Machine, service: Service) -> None:
    file = f"{machine.root}/effects"
    take(machine, service, f"#!/bin/sh before\necho before >> {file}\nexit\n#!/bin/sh after\necho after >> {file}\n")
    assert effects(machine) == ["before", "after", "epilog.sh start"]
    assert ids(machine)[:2] == ["user/pre-network/user-data-before", "user/post-network/user-data"]
    assert reports(machine)["user/pre-network/user-data-before"]["late"] is True
    assert reports(machine)["user/post-network/user-data"]["late"] is False


def test_a_multipart_of_a_mailer_gives_its_parts_by_their_place_among_all(machine: Machine, service: Service) -> None:
    mail = email.mime.multipart.MIMEMultipart()
    inner = email.mime.multipart.MIMEMultipart()
    inner.attach(email.mime.text.MIMEText(told(machine, "two"), "x-shellscript"))
    inner.attach(email.mime.text.MIMEText(told(machine, "boot"), "cloud-boothook"))
    mail.attach(email.mime.text.MIMEText(told(machine, "one"), "x-shellscript"))
    mail.attach(inner)
    cloud = f"#cloud-config\nruncmd: ['echo run >> {machine.root}/effects']\n"
    cloud += f"bootcmd: ['echo bootcmd >> {machine.root}/effects']\n"
    mail.attach(email.mime.text.MIMEText(cloud, "cloud-config"))
    packed = email.mime.base.MIMEBase("application", "octet-stream")
    packed.set_payload(gzip.compress(told(machine, "five").encode()))
    email.encoders.encode_base64(packed)
    mail.attach(packed)
    take(machine, service, mail.as_bytes())
    assert ids(machine) == [
        "user/pre-network/boothook-003",
        "user/pre-network/bootcmd-004",
        "user/post-network/part-001",
        "user/post-network/part-002",
        "user/post-network/runcmd-004",
        "user/post-network/part-005",
        "site/post-network/epilog.sh",
    ]
    assert effects(machine) == [
        "boot start", "bootcmd", "one start", "two start", "run", "five start", "epilog.sh start",
    ]  # fmt: skip


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_tar_is_a_native_layout_of_the_users_alone(machine: Machine, service: Service, *, is_packed: bool) -> None:
    files = says(machine, "prolog.sh", "epilog.sh", "stop.d/x", "site/epilog.sh", "site/post-network.d/x")
    files |= {"site.yaml": "ban: {pilot: yes}\n", "user.yaml": "scripts: {user/post-network/epilog.sh: {wall_s: 9}}\n"}
    data = tgz(files)
    assert take(machine, service, data if is_packed else gzip.decompress(data)) in (0, 2)
    assert effects(machine) == ["prolog.sh start", "epilog.sh start", "epilog.sh start"]
    assert [each for each in ids(machine) if each.startswith("site/")] == ["site/post-network/epilog.sh"]


def test_a_cloud_config_by_network_does_its_four_keys_and_names_the_rest_once(
    machine: Machine, service: Service
) -> None:
    file = f"{machine.root}/effects"
    text = f"#cloud-config\nbootcmd: ['echo boot >> {file}']\nruncmd: ['echo run >> {file}']\npackages: [vim]\n"
    text += f"write_files: [{{path: /var/lib/contextuser/x, content: hello}}]\nssh_authorized_keys: ['{KEY} me']\n"
    take(machine, service, text)
    assert effects(machine) == ["boot", "run", "epilog.sh start"]
    assert ids(machine)[:2] == ["user/pre-network/bootcmd", "user/post-network/runcmd"]
    assert machine.text(f"{HOME}/x") == "hello"
    assert KEY in machine.text(f"{HOME}/.ssh/authorized_keys")
    assert len([line for line in messages(machine).splitlines() if "packages" in line]) == 1


def test_an_ini_that_names_a_bundle_is_kept_and_its_choice_is_ignored_with_a_warning(
    machine: Machine, service: Service
) -> None:
    service.pages["/context/evil.tgz"] = spoken(machine, "prolog.sh")
    data = "[amiconfig]\nplugins = cernvm hepix\n[hepix]\ncontext = evil.tgz\n"
    assert take(machine, service, data) == 0
    assert service.paths("/context") == [BUNDLE]
    assert len([line for line in messages(machine).splitlines() if "context" in line]) == 1
    found = list((machine.root / "var/lib/amiconfig").rglob("*"))
    assert data in [path.read_text() for path in found if path.is_file()]


def test_filewrite_of_nimbus_writes_where_a_user_may(machine: Machine, service: Service) -> None:
    parts = "".join(
        f"<filewrite><content>hello</content><pathOnVMM>/{path}</pathOnVMM></filewrite>"
        for path in (f"{HOME}/nimbus", "etc/nimbus")
    )
    assert take(machine, service, f"<NIMBUS_CTX>{parts}</NIMBUS_CTX>") == 2
    assert machine.text(f"{HOME}/nimbus").strip() == "hello"
    assert not (machine.root / "etc/nimbus").exists()
    assert "/etc/nimbus" in messages(machine, "errors")


LEFTOVERS = {
    "vac": b"proxy=##user_data_option_cvmfs_proxy##\nuuid=##user_data_uuid##\n",
    "glideinwms": base64.b64encode(tgz({"glidein": "x"})) + b"\n####\n-a b\n",
    "words": b"just some words\n",
    "binary": bytes(range(256)) * 10,
    "html": b"<html><body>hello</body></html>",
    "json": b'{"a": 1}',
}


@pytest.mark.parametrize("form", sorted(LEFTOVERS))
def test_what_is_not_to_be_run_is_kept_private_and_traced_and_explained(
    machine: Machine, service: Service, form: str
) -> None:
    data = LEFTOVERS[form]
    assert take(machine, service, data) == 0
    assert ids(machine) == ["site/post-network/epilog.sh"]
    found = kept(machine, data)
    assert found, "it is kept"
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert hashlib.sha512(data).hexdigest() in str(machine.trace())
    assert "not run" in machine.run("explain").out or "kept" in machine.run("explain").out


# ---- and the site ----


def hostile(machine: Machine) -> dict[str, Answer]:
    """Return user data that would have a say in the site's part, if it could."""
    evil = "evil.tgz"
    return {
        "ini": f"[amiconfig]\nplugins=hepix\n[hepix]\ncontext={evil}\n",
        "variables": f"CONTEXT={evil}\nMETADATA_BUNDLE={evil}\ncontext={evil}\n",
        "tar with context.sh": tgz({"context.sh": f"BUNDLE={evil}\nVMID=99\n", **says(machine, "prolog.sh")}),
        "tar with settings": tgz(
            {"user.yaml": f"metadata: {{bundle: {evil}, address: 'http://[::1]:9'}}\n", **says(machine, "prolog.sh")}
        ),
        "tar with the site's": tgz(
            {
                "site/site.yaml": f"metadata: {{bundle: {evil}}}\n",
                "site.yaml": "{}",
                "site.json": "{}",
                **says(machine, "prolog.sh"),
            }
        ),
        "tar with a bundle": tgz({"default.tgz": spoken(machine, "prolog.sh"), "context/default.tgz": "x"}),
        "query": f"http://169.254.169.254/context/{evil}?name={evil}&bundle={evil}\n",
        "cloud-config": f"#cloud-config\nhepix: {{context: {evil}}}\nmetadata: {{bundle: {evil}}}\n",
        "script": told(machine) + f"exit 0\n[hepix]\ncontext={evil}\n",
        "headers": f"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nLocation: /context/{evil}\r\n\r\nabc",
        "absent": 404,
        "empty": Page(b""),
        "blank": b" \n",
        "huge binary": Page(os.urandom(1 << 20) * 16),
        "html": Page(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        "redirect": Page(status=302, headers={"Location": f"/context/{evil}"}),
        "broken tar": tgz({"../evil": "x"}),
        "bomb": gzip.compress(bytes(30_000_000)),
        "drip": Page(b"#!/bin/sh\n" * 100, fault="drip"),
        "hang": Page(fault="hang"),
        "reset": Page(fault="reset"),
        "overlong": Page(b"x", headers={"Content-Length": str(1 << 50)}, fault="stall"),
        "mime bomb": b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n\nx\n" * 5000,
        "yaml bomb": b"#cloud-config\na: " + b"[" * 5000,
        "shebang only": b"#!",
        "nul": b"#!/bin/sh\0\n",
    }


HOSTILE = [
    "absent", "blank", "bomb", "broken tar", "cloud-config", "drip", "empty", "hang", "headers", "html", "huge binary",
    "ini", "mime bomb", "nul", "overlong", "query", "redirect", "reset", "script", "shebang only", "tar with a bundle",
    "tar with context.sh", "tar with settings", "tar with the site's", "variables", "yaml bomb",
]  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_of_user_data_changes_what_is_fetched_and_run_for_the_site(
    machine: Machine, service: Service, kind: str
) -> None:
    policy(machine, total_s="1")
    data = hostile(machine)
    assert sorted(data) == HOSTILE
    bundle = spoken(machine, "init.sh", "epilog.sh")
    service.pages = ec2(data[kind], bundle=bundle) | {"/context/evil.tgz": spoken(machine, "pre-network.d/evil")}
    done = hear(machine, service)
    assert "Traceback" not in done.err
    asked = [each for each in service.requests if each.path != DATA and "instance-id" not in each.path]
    assert [(each.method, each.path) for each in asked] == [("GET", BUNDLE)]
    said = [line for line in effects(machine) if line in ("init.sh start", "epilog.sh start")]
    assert said == ["init.sh start", "epilog.sh start"]
    assert "pre-network.d/evil start" not in effects(machine)
    states = {key: value["state"] for key, value in reports(machine).items() if key.startswith("site/")}
    assert states == {"site/pre-network/init.sh": "ok", "site/post-network/epilog.sh": "ok"}
    assert verdict(machine, "site")["verdict"] == "found"
    assert machine.status()["result"] in ("ok", "degraded")


def test_the_requests_for_the_site_are_the_same_bytes_whatever_the_user_supplies(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    seen = set()
    for kind in ("absent", "ini", "script", "tar with settings", "huge binary", "html"):
        service.forget()
        service.pages = ec2(hostile(machine)[kind], bundle=spoken(machine, "epilog.sh"))
        hear(machine, service)
        seen |= {(each.method, each.path, str(each.headers)) for each in service.requests if each.path == BUNDLE}
        machine.reboot()
    assert len(seen) == 1


def test_user_data_that_is_bad_is_the_users_verdict_alone(machine: Machine, service: Service) -> None:
    assert take(machine, service, tgz({"../evil": "x", **says(machine, "epilog.sh")})) == 2
    assert verdict(machine, "user")["verdict"] == "broken"
    assert "../evil" in verdict(machine, "user")["reason"]
    assert effects(machine) == ["epilog.sh start"]


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$", "rm -rf ../context ./*"])
def test_whatever_the_users_script_does_the_bundles_runs(machine: Machine, service: Service, end: str) -> None:
    take(machine, service, told(machine) + f"{end}\n")
    assert effects(machine) == ["user-data start", "epilog.sh start"]


def test_a_cloud_init_that_is_enabled_has_user_data_by_network_and_the_agent_runs_the_bundle(
    machine: Machine, service: Service
) -> None:
    machine.put("usr/bin/cloud-init", "")
    assert take(machine, service, told(machine)) == 2
    assert effects(machine) == ["epilog.sh start"]
    assert machine.status()["sources"]["user"] == "cloud-init"
    assert "cloud-init" in reasons(machine)


def test_the_same_user_script_runs_once_per_instance_by_network(machine: Machine, service: Service) -> None:
    for _ in range(2):
        take(machine, service, told(machine))
        machine.reboot()
    take(machine, service, told(machine) + "# changed\n")
    assert effects(machine).count("user-data start") == 2
    assert effects(machine).count("epilog.sh start") == 3
