"""The site's bundle: its name, its rules, its caps, its settings; refused whole, or run whole."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from tests import tars
from tests.spec.clouds import BUNDLE, ec2, hear, policy, records, spoken, tgz, told, verdict, verdicts
from tests.spec.scenes import KEY, effects, ids, lay, messages, output, reports, says
from tests.spec.service import Page

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Guest, Machine
    from tests.spec.service import Service

BAD = {
    "above": lambda: tars.file("../evil", b"x"),
    "deep above": lambda: tars.file("a/../../evil", b"x"),
    "absolute": lambda: tars.file("/tmp/contextagent-evil", b"x"),
    "hard link": lambda: tars.header("x", kind=b"1", link="epilog.sh"),
    "device": lambda: tars.header("x", kind=b"3"),
    "block device": lambda: tars.header("x", kind=b"4"),
    "fifo": lambda: tars.header("x", kind=b"6"),
    "sparse": lambda: tars.header("x", kind=b"S"),
    "absolute link": lambda: tars.link("x", "/etc/passwd"),
    "link outside": lambda: tars.link("d/x", "../../outside"),
    "through a link": lambda: tars.folder("d") + tars.link("l", "d") + tars.file("l/x", b"x"),
    "through a link made later": lambda: tars.file("l/x", b"x") + tars.link("l", "d"),
    "twice": lambda: tars.file("a", b"x") + tars.file("a", b"y"),
    "twice by dots": lambda: tars.file("a", b"x") + tars.file("./a", b"y"),
    "case": lambda: tars.file("README", b"x") + tars.file("readme", b"y"),
    "case of a script": lambda: tars.file("EPILOG.SH", b"x"),
    "name with a line end": lambda: tars.file("a\nb", b"x"),
    "many": lambda: b"".join(tars.file(f"n{number}", b"") for number in range(1025)),
    "large": lambda: tars.file("big", bytes((16 << 20) + 1)),
    "ratio": lambda: tars.file("files/z", bytes(15 << 20)),
}


def attacked(machine: Machine, *members: bytes) -> bytes:
    """Return a bundle with a good script and these members."""
    script = says(machine, "epilog.sh")["epilog.sh"].encode()
    return tars.tgz(tars.file("epilog.sh", script), *members).getvalue()


# ---- the rules ----


@pytest.mark.parametrize("rule", sorted(BAD))
def test_a_member_that_breaks_a_rule_refuses_the_whole_bundle_and_the_users_part_runs(
    machine: Machine, service: Service, rule: str
) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=attacked(machine, BAD[rule]()))
    done = hear(machine, service)
    assert done.code == 1, done.err
    assert effects(machine) == ["user-data start"]
    assert verdicts(machine) == {"site": "broken", "user": "found"}
    assert machine.status()["result"] == "failed"
    assert machine.status()["sources"]["site"] is None
    assert ids(machine) == ["user/post-network/user-data"]
    assert not list(machine.root.rglob("*evil*"))
    assert "Traceback" not in done.err


def test_a_refusal_names_the_member_and_the_rule(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=attacked(machine, BAD["above"]()))
    done = hear(machine, service)
    for text in (verdict(machine, "site")["reason"], machine.run("explain").out, done.err):
        assert "../evil" in text
        assert "path" in text


@pytest.mark.parametrize(
    "data",
    [b"#!/bin/sh\necho no\n", b"\x1f\x8b" + b"\0" * 100, b"no tar at all", b"\xff" * 4096],
    ids=["script", "bad gzip", "words", "ones"],
)
def test_a_bundle_that_is_none_is_broken(machine: Machine, service: Service, data: bytes) -> None:
    policy(machine)
    service.pages = ec2(told(machine), bundle=data)
    assert hear(machine, service).code == 1
    assert verdicts(machine)["site"] == "broken"
    assert effects(machine) == ["user-data start"]


def test_a_bundle_that_is_cut_short_is_broken_at_every_place(machine: Machine, service: Service) -> None:
    policy(machine)
    whole = spoken(machine, "epilog.sh")
    for length in (1, 10, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        service.pages = ec2(bundle=whole[:length])
        assert hear(machine, service).code == 1, length
        machine.reboot()
    assert effects(machine) == []


def test_links_that_stay_inside_and_dots_and_pax_headers_are_fine(machine: Machine, service: Service) -> None:
    policy(machine)
    members = (
        tars.folder("./"),
        tars.pax({"comment": b"made by a site"}, b"g"),
        tars.pax({"mtime": b"1.5"}) + tars.file("./epilog.sh", b"cat current/words data/v1/other\n"),
        tars.folder("./data/v1") + tars.file("./data/v1/words", b"by a link\n") + tars.link("./current", "data/v1"),
        tars.link("./data/v1/other", "../v1/words"),
    )
    service.pages = ec2(bundle=tars.tgz(*members).getvalue())
    assert hear(machine, service).code == 0
    assert output(machine, "site/post-network/epilog.sh") == "by a link\n" * 2


def test_a_script_of_a_bundle_may_be_a_relative_link_to_a_file_inside(machine: Machine, service: Service) -> None:
    policy(machine)
    script = says(machine, "epilog.sh")["epilog.sh"].encode()
    service.pages = ec2(bundle=tars.tgz(tars.file("real.sh", script), tars.link("epilog.sh", "real.sh")).getvalue())
    assert hear(machine, service).code == 0
    assert effects(machine) == ["epilog.sh start"]


def test_a_bundle_with_nothing_that_is_known_is_absent(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=tgz({"README": "hello", "epilog": "true"}))
    assert hear(machine, service).code == 0
    assert verdicts(machine)["site"] == "absent"
    assert machine.status()["sources"]["site"] is None


@pytest.mark.parametrize("top", ["", "./", "site-context/", "./site-context/"])
def test_a_bundle_may_be_flat_or_under_one_top_folder(machine: Machine, service: Service, top: str) -> None:
    policy(machine)
    files = says(machine, "prolog.sh", "epilog.sh", "pre-network.d/10-a", "post-network.d/10-a")
    service.pages = ec2(bundle=tgz({top + name: text for name, text in files.items()}))
    assert hear(machine, service).code == 0
    assert effects(machine) == [
        "prolog.sh start", "pre-network.d/10-a start", "epilog.sh start", "post-network.d/10-a start",
    ]  # fmt: skip
    assert ids(machine)[0] == "site/pre-network/prolog.sh"


def test_an_init_script_counts_where_there_is_no_prolog(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=spoken(machine, "init.sh", "epilog.sh"))
    hear(machine, service)
    assert effects(machine) == ["init.sh start", "epilog.sh start"]


@pytest.mark.parametrize(
    ("cap", "fits"),
    [("total_bytes: 100", False), ("member_bytes: 20", False), ("members: 1", False),
     ("total_bytes: 1000000", True)],
)  # fmt: skip
def test_the_policys_caps_bound_the_bundle(machine: Machine, service: Service, cap: str, *, fits: bool) -> None:
    policy(machine, f"caps: {{{cap}}}")
    service.pages = ec2(bundle=spoken(machine, "prolog.sh", "epilog.sh"))
    assert hear(machine, service).code == (0 if fits else 1)
    assert len(effects(machine)) == (2 if fits else 0)


@pytest.mark.parametrize(("ratio", "code"), [(200, 0), (20, 1)])
def test_the_policys_ratio_bounds_what_is_packed_densely(
    machine: Machine, service: Service, ratio: int, code: int
) -> None:
    policy(machine, f"caps: {{ratio: {ratio}}}", try_s="10", total_s="20")
    dense = b"".join(os.urandom(300) + bytes(30000) for _ in range(200))
    service.pages = ec2(bundle=tgz({"data": dense, **says(machine, "epilog.sh")}))
    assert hear(machine, service).code == code
    assert len(effects(machine)) == 1 - code


def test_the_policy_may_raise_the_caps(machine: Machine, service: Service) -> None:
    policy(machine, "caps: {members: 3000}", try_s="10", total_s="20")
    many = b"".join(tars.file(f"n{number}", b"") for number in range(2000))
    service.pages = ec2(bundle=attacked(machine, many))
    assert hear(machine, service).code == 0
    assert effects(machine) == ["epilog.sh start"]


def test_a_bundle_cannot_raise_its_own_caps(machine: Machine, service: Service) -> None:
    policy(machine, "caps: {members: 10}")
    many = b"".join(tars.file(f"n{number}", b"") for number in range(20))
    service.pages = ec2(bundle=attacked(machine, tars.file("site.yaml", b"caps: {members: 5000}\n"), many))
    assert hear(machine, service).code == 1
    assert effects(machine) == []


# ---- with and without user data ----


@pytest.mark.parametrize("data", [404, Page(b""), 403, 410, Page(fault="reset"), b"\x00\x01\x02" * 1000])
def test_the_bundle_is_fetched_and_run_whatever_the_user_data_is(
    machine: Machine, service: Service, data: int | bytes | Page
) -> None:
    policy(machine)
    service.pages = ec2(data, bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    assert effects(machine) == ["epilog.sh start"]
    assert service.paths("/context") == [BUNDLE]


def test_the_trace_tells_the_size_and_digest_of_what_came(machine: Machine, service: Service) -> None:
    policy(machine)
    bundle, data = spoken(machine, "epilog.sh"), told(machine).encode()
    service.pages = ec2(data, bundle=bundle)
    hear(machine, service)
    for owner, what in (("site", bundle), ("user", data)):
        found = records(machine, owner)[-1]
        assert (found["bytes"], found["sha512"]) == (len(what), hashlib.sha512(what).hexdigest())
        assert (found["source"], found["verdict"], found["tries"], found["http"]) == ("metadata:ec2", "found", 1, 200)


# ---- what is in it ----


def test_the_settings_of_a_bundle_are_heard(machine: Machine, service: Service) -> None:
    policy(machine)
    settings = "scripts: {site/post-network/epilog.sh: {on_error: continue, wall_s: 7}}\n"
    service.pages = ec2(bundle=tgz({"site.yaml": settings, **says(machine, "epilog.sh", body="exit 1")}))
    assert hear(machine, service).code == 2
    assert machine.status()["result"] == "degraded"
    steps = machine.facts("plan", "post-network", "--metadata", service.url, "--disk", "none")["steps"]
    limits = {each["id"]: each["limits"] for each in steps if each["kind"] == "script"}
    assert not limits or limits["site/post-network/epilog.sh"]["wall_s"] == 7


def test_two_settings_files_in_a_bundle_are_an_error(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=tgz({"site.yaml": "{}", "site.json": "{}", **says(machine, "epilog.sh")}))
    assert hear(machine, service).code == 1
    assert effects(machine) == []


def test_a_key_for_disks_only_is_ignored_from_a_bundle_with_a_warning(machine: Machine, service: Service) -> None:
    policy(machine)
    text = "lockdown: yes\ntrust:\n  metadata: enforce\nuser:\n  profile: root\nsite:\n  profile: guarded\n"
    service.pages = ec2(bundle=tgz({"site.yaml": text, **says(machine, "epilog.sh")}))
    assert hear(machine, service).code == 0
    assert effects(machine) == ["epilog.sh start"]
    for key in ("lockdown", "trust.metadata", "user.profile", "site.profile"):
        assert key in messages(machine)


def test_the_files_of_a_bundle_are_placed_and_its_folder_is_the_scripts(machine: Machine, service: Service) -> None:
    policy(machine)
    script = f"cat {machine.root}/etc/site.conf side/note; pwd; ls\n"
    service.pages = ec2(bundle=tgz({"files/etc/site.conf": "placed\n", "side/note": "beside\n", "epilog.sh": script}))
    assert hear(machine, service).code == 0
    text = output(machine, "site/post-network/epilog.sh")
    assert text.startswith("placed\nbeside\n"), text
    assert "/var/lib/hepix/context\n" in text


def test_keys_of_the_site_in_a_bundle_go_to_root(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=tgz({"site.yaml": f"access: {{root_keys: ['{KEY} site']}}\n", "epilog.sh": "true"}))
    assert hear(machine, service).code == 0
    assert KEY in machine.text("root/.ssh/authorized_keys")


def test_a_sites_files_by_network_are_roots_whatever_the_tar_says(guest: Guest) -> None:
    """The service is in the guest's own network: the host's."""
    from tests.spec.service import Service as Other  # noqa: PLC0415  # the fixture is no use: it is the machine's

    member = tars.header("files/etc/x.conf", size=1, mode=0o6777) + tars.padded(b"x")
    script = tars.file("epilog.sh", b"#!/bin/sh\nid -u > /etc/who\n")
    policy(guest)
    with Other(ec2(bundle=tars.tgz(member, script).getvalue())) as service:
        assert guest.run("run", "--disk", "none", "--metadata", service.url).code == 0
    found = (guest.root / "etc/x.conf").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0o755)
    assert (guest.root / "etc/who").read_text() == "0\n"


def test_variables_of_a_disk_without_material_reach_the_bundles_scripts(
    machine: Machine, service: Service, disk: Path
) -> None:
    policy(machine)
    lay(disk, {"context.sh": "CLOUD_NAME='the cloud'\nONEGATE_TOKEN=canary\nLD_PRELOAD=/x\n"})
    script = 'echo "[$CLOUD_NAME] [$ONEGATE_TOKEN] [$LD_PRELOAD]"\n'
    service.pages = ec2(told(machine) + "env > seen-by-user\ncat seen-by-user\n", bundle=tgz({"epilog.sh": script}))
    hear(machine, service, disk=disk)
    assert output(machine, "site/post-network/epilog.sh") == "[the cloud] [] []\n"
    assert "CLOUD_NAME" not in output(machine, "user/post-network/user-data")


def test_the_bundle_names_its_source_to_its_scripts(machine: Machine, service: Service) -> None:
    policy(machine)
    service.pages = ec2(bundle=tgz({"epilog.sh": 'echo "$CONTEXTAGENT_SOURCE $CONTEXTAGENT_OWNER"\n'}))
    hear(machine, service)
    assert output(machine, "site/post-network/epilog.sh") == "metadata:ec2 site\n"


def test_a_script_of_a_bundle_runs_every_boot_and_a_new_bundle_is_heard_at_the_next(
    machine: Machine, service: Service
) -> None:
    policy(machine)
    service.pages = ec2(bundle=spoken(machine, "epilog.sh", "prolog.sh"))
    hear(machine, service)
    machine.reboot()
    service.pages = ec2(bundle=spoken(machine, "epilog.sh"))
    hear(machine, service)
    assert effects(machine) == ["prolog.sh start", "epilog.sh start", "epilog.sh start"]
    assert list(reports(machine)) == ["site/post-network/epilog.sh"]
