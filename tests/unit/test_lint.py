"""`lint`: each rule on the smallest context that breaks it, and silence on what is right."""

from __future__ import annotations

import gzip
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextagent.errors import InvalidInputError, UsageError
from contextagent.host import Host
from contextagent.kit.lint import lint
from contextagent.kit.lint_script import ScriptFile, check_script
from contextagent.kit.lint_secrets import find_secrets
from contextagent.kit.pack import pack
from tests.machine import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from contextagent.model import Owner, Phase

Found = list[tuple[str, str, int]]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(str(tmp_path_factory.mktemp("machine")))


def _make(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def _lint(host: Host, path: Path, base: Path | None = None) -> Found:
    """Return (rule, file below `base`, line) of every finding."""
    found = lint(host, str(path))
    return [(each.rule, each.path.removeprefix(f"{base or path}").lstrip("/"), each.line) for each in found]


def _script(
    host: Host,
    text: str | bytes,
    *,
    owner: Owner = "site",
    phase: Phase = "post-network",
    profile: str = "unprivileged",
) -> Found:
    data = text.encode() if isinstance(text, str) else text
    script = ScriptFile(
        path="x", data=data, owner=owner, phase=phase, profile=profile, neighbours=data.decode("utf-8", "replace"),
        names=frozenset({"lib.sh", "conf/env.sh"}),
    )  # fmt: skip
    return [(each.rule, each.level, each.line) for each in check_script(host, script)]


@pytest.mark.parametrize(
    "path",
    [
        "site-and-user-disk",
        "site-and-user-disk/site",
        "opennebula-context",
        "pilot",
        "metadata-service/site",
        "metadata-service/user-data",
        "user-data/script.sh",
        "user-data/cloud-config.yaml",
        "policy.yaml",
    ],
)
def test_nothing_is_wrong_with_the_examples(host: Host, path: str) -> None:
    assert lint(host, str(REPOSITORY / "examples" / path)) == ()


@pytest.mark.parametrize("name", ["x.iso", "x.tgz"])
def test_a_packed_example_is_as_clean_as_its_folder(host: Host, tmp_path: Path, name: str) -> None:
    folder = REPOSITORY / "examples/site-and-user-disk" / ("site" if name == "x.tgz" else "")
    pack(str(folder), str(tmp_path / name))
    assert lint(host, str(tmp_path / name)) == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"#!/bin/sh\r\necho\r\n", [("shebang-crlf", "error", 1)]),
        (b"#!/bin/sh\necho\r\n", [("crlf", "error", 2)]),
        ("echo hello\n", [("shebang-missing", "warning", 1)]),
        ("\n#!/bin/sh\n", [("shebang-missing", "warning", 1)]),
        ("\ufeff#!/bin/sh\n", [("byte-order-mark", "error", 1)]),
        ("#!\n", [("shebang-empty", "error", 1)]),
        ("#!sh\n", [("shebang-relative", "error", 1)]),
        ("#!/bin/sh " + "x" * 300 + "\n", [("shebang-long", "error", 1)]),
        ("#!/usr/bin/env bash -e\n", [("shebang-form", "error", 1)]),
        ("#!/usr/bin/env -S bash -e\n", []),
        ("#!/usr/bin/env python3\nnot (shell\n", []),
        ("#!/usr/local/bin/zsh\n", [("shebang-unknown", "warning", 1)]),
        ("#!/usr/bin/python\nprint 1\n", [("shebang-unknown", "warning", 1)]),
        ("#!/bin/bash -e\nif true; then\n  x=(1 2)\nfi\n", []),
        (" \n", [("empty", "warning", 0)]),
        (b"\x7fELF\x02\x01", [("compiled", "error", 0)]),
        ("#!/bin/sh\nif true; then\n", [("syntax", "error", 2)]),
        ("#!/bin/sh\necho a\necho (b\n", [("syntax", "error", 3)]),
        ("#!/bin/bash\necho a\necho (b\n", [("syntax", "error", 3)]),
        ("#!/bin/sh\necho a\nexit 0\n)payload(\n", []),
        ("#!/bin/sh\n. ./lib.sh\n. ./conf/env.sh\n", []),
        ('#!/bin/sh\n. "$CONTEXTAGENT_CONTEXT_DIR/lib.sh"\n', []),
        ("#!/bin/sh\n. ./libs.sh\n", [("source-missing", "error", 2)]),
        ('#!/bin/bash\nsource "${CONTEXTAGENT_CONTEXT_DIR}/no.sh" || exit\n', [("source-missing", "error", 2)]),
        ("#!/bin/sh\necho A=1 >env.sh\n. ./env.sh\n", []),
        ("#!/bin/sh\n[ -f ./extra.sh ] && . ./extra.sh\n", []),
        ("#!/bin/sh\n. lib.sh\n", [("source-by-path", "error", 2)]),
        ("#!/bin/sh\n. /etc/profile\n", []),
    ],
)
def test_each_mistake_of_a_scripts_form_is_named_with_its_line(host: Host, text: str | bytes, found: Found) -> None:
    assert _script(host, text) == found


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("systemctl start autofs", ["blocking"]),
        ("/usr/bin/systemctl -q restart autofs", ["blocking"]),
        ("systemctl --no-block start autofs", []),
        ("systemctl start autofs --no-block", []),
        ("systemctl start autofs; systemctl --no-block start nginx", ["blocking"]),
        ("systemctl start autofs && systemctl start nginx", ["blocking", "blocking"]),
        ("systemctl reload-or-restart autofs", ["blocking"]),
        ("systemctl try-reload-or-restart autofs", ["blocking"]),
        ("systemctl enable autofs", []),
        ("systemctl enable --now autofs", ["blocking"]),
        ("systemctl --now enable autofs", ["blocking"]),
        ("systemctl --no-block --now enable autofs", []),
        ("systemctl start autofs >/dev/null 2>&1 &", []),
        ("systemctl start autofs && echo done", ["blocking"]),
        ("sh -c 'systemctl start autofs'", ["blocking"]),
        ("x=$(systemctl start autofs)", ["blocking"]),
        ("timeout 5 systemctl start autofs", []),
        ("systemctl is-active autofs", []),
        ("systemctl daemon-reload", []),
        ("systemctl stop firewalld", ["blocking"]),
        ("systemd-run /usr/sbin/pilot", ["blocking"]),
        ("systemd-run --no-block /usr/sbin/pilot", []),
        ("systemd-run --scope /usr/sbin/pilot", []),
        ("service autofs start", ["blocking"]),
        ("/sbin/service autofs restart", ["blocking"]),
        ("service autofs status", []),
        ("/etc/init.d/autofs start", ["blocking"]),
        ("/etc/rc.d/init.d/autofs force-reload", ["blocking"]),
        ("dhclient eth0", ["blocking"]),
        ("nmcli connection up eth0", ["blocking"]),
        ("nmcli --offline connection add type ethernet", []),
        ("if true; then ifup eth0; fi", ["blocking"]),
        ("sleep 31", ["blocking"]),
        ("sleep 1m", ["blocking"]),
        ("sleep 30", []),
        ("yum -y install condor", ["blocking"]),
        ("DEBIAN_FRONTEND=noninteractive apt-get install x", ["blocking"]),
        ("curl -sf http://example.org/ >x", ["blocking"]),
        ("# curl http://example.org/", []),
        ("echo curl is nice", []),
        ("cat <<END\ncurl http://example.org/\nEND", []),
        ("cat <<-'END'\n\tcurl x\n\tEND\nwget x", ["blocking"]),
    ],
)
def test_what_would_hold_up_the_boot_is_warned_of_before_the_network_only(
    host: Host, line: str, rules: list[str]
) -> None:
    text = f"#!/bin/sh\n{line}\n"
    assert [rule for rule, _, _ in _script(host, text, phase="pre-network")] == rules
    assert _script(host, text, phase="post-network") == []


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("systemctl is-system-running --wait", ["blocking"]),
        ("systemctl --wait is-system-running || true", ["blocking"]),
        ("systemctl is-system-running", []),
        ("systemctl isolate graphical.target", ["blocking"]),
        ("systemctl --no-block isolate graphical.target", []),
        ("systemctl set-default graphical.target", []),
        ("systemctl default", ["blocking"]),
    ],
)
def test_what_waits_for_the_boot_that_waits_for_it_is_warned_of_after_the_network_as_well(
    host: Host, line: str, rules: list[str]
) -> None:
    text = f"#!/bin/sh\n{line}\n"
    for phase in ("pre-network", "post-network"):
        assert [rule for rule, _, _ in _script(host, text, phase=phase)] == rules
    assert _script(host, text, phase="stop") == []


def test_a_warning_of_what_holds_up_the_boot_says_what_to_do_instead(host: Host) -> None:
    lines = ["systemctl start a", "service a start", "ifup eth0", "curl x", "yum install x", "x-wait-online"]
    script = ScriptFile(path="x", data="\n".join(["#!/bin/sh", *lines]).encode(), owner="site", phase="pre-network")
    said = [each.message for each in check_script(host, script)]
    assert len(said) == len(lines)
    assert all("--no-block" in message or "post-network.d" in message for message in said)


@pytest.mark.parametrize(
    "line", ["mount -t nfs x:/y /mnt", "sudo ls", "x=1 useradd joe", "echo x >/etc/motd", "[ x ] && yum install y"]
)
def test_a_users_script_that_wants_root_is_warned_of_unless_it_has_it(host: Host, line: str) -> None:
    text = f"#!/bin/sh\n{line}\n"
    assert [(rule, number) for rule, _, number in _script(host, text, owner="user")] == [("needs-root", 2)]
    assert _script(host, text, owner="user", profile="root") == []
    assert _script(host, text, owner="site") == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"prolog.sh": "#!/bin/sh\n", "init.sh": "#!/bin/sh\n"}, [("not-run", "init.sh", 0)]),
        ({"epilog.sh": "#!/bin/sh\n", "default.tgz": "x"}, [("bundle-on-disk", "default.tgz", 0)]),
        ({"stop.d/10-x~": "#!/bin/sh\n", "stop.d/20-x": "#!/bin/sh\n"}, [("leftover", "stop.d/10-x~", 0)]),
        ({"epilog.sh": "#!/bin/sh\n", "prologue.sh": "#!/bin/sh\n"}, [("near-name", "prologue.sh", 0)]),
        ({"epilog.sh": "#!/bin/sh\n", "site.yml": ""}, [("near-name", "site.yml", 0)]),
        ({"epilog.sh": "#!/bin/sh\n", "pre-network/x": "#!/bin/sh\n"}, [("near-name", "pre-network", 0)]),
        ({"epilog.sh": "#!/bin/sh\n", "post_network.d/x": ""}, [("near-name", "post_network.d", 0)]),
        ({"readme.txt": "hello"}, [("no-context", "", 0)]),
        ({"site.yaml": "", "site.json": "{}"}, [("settings-twice", "site.yaml", 0)]),
        ({"site.yaml": "scripts:\n  site/stop/x.sh:\n    wal_s: 1\n"}, [
            ("unknown-key", "site.yaml", 3),
        ]),
        ({"site.yaml": "access:\n  root_keys: []\ndisk:\n  eject: yes\n"}, [("not-yours", "site.yaml", 4)]),
        ({"site.yaml": "access:\n  root_keys: []\naccess:\n"}, [("syntax", "site.yaml", 3)]),
        ({"epilog.sh": "#!/bin/sh\n", "site.yaml": "scripts:\n  site/post-network/epilogue.sh:\n    wall_s: 5\n"}, [
            ("unknown-script", "site.yaml", 3),
        ]),
        ({"context.sh": "A='1'\nB=1;C=2\n"}, [("unquoted-operator", "context.sh", 2)]),
        ({"context.sh": "A='1'\n", "site/context.sh": "B=$(x)\n", "site/prolog.sh": "#!/bin/sh\n"}, [
            ("unquoted-operator", "site/context.sh", 1),
        ]),
        ({"user/prolog.sh": "#!/bin/sh\n", "user/files/etc/motd": "x"}, [("target-refused", "user/files/etc/motd", 0)]),
        ({"user-data": "#!/bin/sh\necho (\n", "meta-data": "instance-id: i\n"}, [("syntax", "user-data", 2)]),
        ({"features/machine/total_cpu": "four\n", "features/job/total_cpu": "4\n", "features/machine/syslog": "host"}, [
            ("bad-feature", "features/machine/total_cpu", 0),
            ("near-name", "features/job/total_cpu", 0),
        ]),
        ({"prolog.sh": "#!/bin/sh\n", "features/job/wall_limit_secs": "3600", "features/job/run_limit": "61"}, [
            ("contradiction", "features/job/run_limit", 0),
        ]),
        ({"user/prolog.sh": "#!/bin/sh\n", "site/site.yaml": "user:\n  profile: root\n"}, [
            ("root-before-site", "user/prolog.sh", 0),
            ("looser", "site/site.yaml", 2),
        ]),
    ],
)  # fmt: skip
def test_each_mistake_of_a_context_is_named_with_its_file_and_line(
    host: Host, tmp_path: Path, files: dict[str, str], found: Found
) -> None:
    got = _lint(host, _make(tmp_path / "in", files))
    assert sorted(got) == sorted(found)


def test_a_mistake_in_the_features_of_a_settings_file_is_named_with_its_line(host: Host, tmp_path: Path) -> None:
    said = "features:\n  job:\n    wall_limit_secs: 3600\n    run_limit: 61\n    walllimit_secs: 1\n    job_id: ''\n"
    found = _lint(host, _make(tmp_path / "in", {"site.yaml": said}))
    expected = {("contradiction", "site.yaml", 4), ("near-name", "site.yaml", 5), ("bad-feature", "site.yaml", 6)}
    assert set(found) >= expected


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("pilot:\n  framework: slurm\n", [("not-yet-supported", 2)]),
        ("pilot:\n  args: [x]\n  framework: command\n", [("pilot-incomplete", 3)]),
        ("pilot:\n  framework: command\n  command: run | it\n  args: [x]\n", [("pilot-incomplete", 2)]),
        ("pilot:\n  workdir: /srv\n", [("pilot-incomplete", 2)]),
        ("pilot:\n  framework: command\n  command: x\n  heartbeat: {seconds: 9}\n", [("pilot-incomplete", 4)]),
        ("pilot:\n  framework: command\n  command: x\n  credential:\n    env: X\n", [("pilot-incomplete", 5)]),
        ("pilot:\n  framework: command\n  command: [run, it]\n  args: [x]\n", []),
    ],
)
def test_what_a_pilot_can_not_be_started_with_is_named_with_its_line(
    host: Host, tmp_path: Path, said: str, found: list[tuple[str, int]]
) -> None:
    place = _make(tmp_path / "in", {"site.yaml": said})
    every = [each for each in lint(host, str(place)) if "ignoring it" not in each.message]
    assert [(each.rule, each.line) for each in every] == found


def test_what_a_policy_leaves_open_of_a_pilot_the_site_may_say(host: Host, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("pilot:\n  framework: command\n")
    levels = {each.level for each in lint(host, str(tmp_path / "policy.yaml")) if each.rule == "pilot-incomplete"}
    assert levels == {"warning"}
    folder = _make(tmp_path / "in", {"site.yaml": "pilot:\n  command: [/bin/true]\n"})
    found = lint(host, str(folder), policy_override=str(tmp_path / "policy.yaml"))
    assert [each for each in found if each.rule == "pilot-incomplete"] == []


def test_every_refused_name_is_named_and_not_only_the_first(host: Host, tmp_path: Path) -> None:
    folder = _make(tmp_path / "in", {"site/context.sh": "A=(\n", "site/epilog.sh": "#!/bin/sh\n", "site/site.yaml": ""})
    (folder / "site/prolog.sh").mkdir()
    (folder / "site/site.json").mkdir()
    assert [rule for rule, _, _ in _lint(host, folder)] == ["unquoted-operator", "folder", "folder", "settings-twice"]


def test_a_link_that_leaves_is_an_error_and_one_that_stays_a_warning(host: Host, tmp_path: Path) -> None:
    folder = _make(tmp_path / "in", {"prolog.sh": "#!/bin/sh\n"})
    (folder / "epilog.sh").symlink_to("prolog.sh")
    (folder / "motd").symlink_to("/etc/motd")
    found = lint(host, str(folder))
    assert [(each.level, each.rule, each.path) for each in found] == [
        ("warning", "link", f"{folder}/epilog.sh"),
        ("error", "link-leaves", f"{folder}/motd"),
    ]


def test_caps_are_those_of_the_policy_that_is_named(host: Host, tmp_path: Path) -> None:
    folder = _make(tmp_path / "in", {"prolog.sh": "#!/bin/sh\n", "files/opt/big": "x" * 2000, "files/opt/small": "x"})
    (tmp_path / "policy.yaml").write_text("caps:\n  members: 2\n  member_bytes: 1000\n  total_bytes: 1500\n")
    found = lint(host, str(folder), policy_override=str(tmp_path / "policy.yaml"))
    assert {each.rule for each in found} == {"member-too-large", "too-many-members", "total-too-large"}


def test_a_refused_bundle_names_member_and_rule(host: Host, tmp_path: Path) -> None:
    folder = _make(tmp_path / "in", {"prolog.sh": "#!/bin/sh\n"})
    subprocess.run(
        ["tar", "-czf", tmp_path / "x.tgz", "-C", folder, "--transform=s,^,../,", "prolog.sh", "-P"], check=True
    )
    assert _lint(host, tmp_path / "x.tgz") == [("parent-path", "../prolog.sh", 0)]


def test_site_and_user_folders_in_a_bundle_are_not_read(host: Host, tmp_path: Path) -> None:
    folder = _make(tmp_path / "in", {"prolog.sh": "#!/bin/sh\n", "user/prolog.sh": "#!/bin/sh\n"})
    pack(str(folder), str(tmp_path / "x.tgz"))
    assert _lint(host, tmp_path / "x.tgz") == [("folder-in-bundle", "user", 0)]


def test_what_only_a_disk_may_say_is_named_in_a_bundle(host: Host, tmp_path: Path) -> None:
    folder = _make(tmp_path / "in", {"site.yaml": "user:\n  profile: unprivileged\n"})
    pack(str(folder), str(tmp_path / "x.tgz"))
    pack(str(folder), str(tmp_path / "x.iso"))
    assert _lint(host, tmp_path / "x.tgz") == [("not-yours", "site.yaml", 2)]
    assert _lint(host, tmp_path / "x.iso") == []


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("policy.yaml", b"disk:\n  ejekt: yes\n", [("unknown-key", 2)]),
        ("site.yaml", b"user:\n  profile: root\nx: 1\n", [("unknown-key", 3)]),
        ("user.json", b'{"disk": {"eject": true}}', [("not-yours", 1)]),
        ("site.json", b'{"preset": nope}', [("syntax", 1)]),
        ("context.sh", b"A='x'\nrm -rf /\n", [("no-assignment", 2)]),
        ("context.sh", b"A='x'\nB=`x` | c\n", [("unquoted-operator", 2)]),
        ("user-data", b"", [("empty", 0)]),
        ("x.iso", b"no disk", [("not-a-disk", 0)]),
        ("x.tgz", b"no tar", [("not-a-tar", 0)]),
        ("user-data", gzip.compress(b"#!/bin/sh\r\n"), [("shebang-crlf", 1)]),
    ],
)
def test_single_files_are_known_by_name_and_content(
    host: Host, tmp_path: Path, name: str, data: bytes, found: list[tuple[str, int]]
) -> None:
    (tmp_path / name).write_bytes(data)
    assert [(rule, line) for rule, _, line in _lint(host, tmp_path / name)] == found


def test_an_image_s_policy_folder_is_checked_file_by_file(host: Host, tmp_path: Path) -> None:
    folder = _make(
        tmp_path / "in", {"policy.yaml": "x: 1\n", "policy.d/10-site.yaml": "\ny: 1\n", "policy.d/old": "z: 1"}
    )
    assert _lint(host, folder) == [("unknown-key", "policy.d/10-site.yaml", 2), ("unknown-key", "policy.yaml", 1)]


def test_a_lone_script_is_looked_at_as_what_its_place_makes_it(host: Host, tmp_path: Path) -> None:
    text = "#!/bin/sh\nmount /dev/sdb /mnt\n. ./lib.sh\ncurl http://x/\n"
    folder = _make(
        tmp_path / "in",
        {f"{owner}/{name}": text for owner in ("site", "user") for name in ("epilog.sh", "pre-network.d/1")},
    )
    (folder / "site/lib.sh").write_text("")
    assert _lint(host, folder / "site/epilog.sh") == []
    assert _lint(host, folder / "site/pre-network.d/1") == [("blocking", "", 4)]
    assert _lint(host, folder / "user/epilog.sh") == [("needs-root", "", 2), ("source-missing", "", 3)]


def test_a_mistake_in_a_command_of_a_cloud_config_has_its_line_there(host: Host, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("#cloud-config\nruncmd:\n  - [sh, -c, 'true']\n  - mount /dev/sdb /mnt\n")
    assert _lint(host, tmp_path / "x") == [("needs-root", "", 4)]


def test_user_data_of_no_known_form_is_said_not_to_run(host: Host, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello\n")
    assert _lint(host, tmp_path / "x") == [("unknown-form", "", 0)]


def test_a_line_in_a_part_of_user_data_is_that_of_the_whole_file(host: Host, tmp_path: Path) -> None:
    mail = (REPOSITORY / "examples/user-data/mail.mime").read_text()
    (tmp_path / "mail").write_text(mail.replace("mkdir -p work", "mkdir -p (work"))
    line = mail.splitlines().index("mkdir -p work") + 1
    assert ("syntax", "", line) in _lint(host, tmp_path / "mail")


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("-----BEGIN RSA PRIVATE KEY-----", 1),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----", 1),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", 1),
        ("-----BEGIN CERTIFICATE-----", 0),
        ("DB_PASSWORD='s3cr3t-w0rd'", 1),
        ("token: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc", 1),
        ("curl https://joe:s3cr3t@example.org/", 1),
        ("PASSWORD=$1", 0),
        ("PASSWORD_FILE=/etc/secret/password1", 0),
        ("password: xxxxxxxx", 0),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ joe@example.org", 0),
        ("ONEGATE_TOKEN='abc/def+123'", 0),
    ],
)
def test_secrets_are_told_from_their_names(line: str, count: int) -> None:
    found = find_secrets("x", f"first\n{line}\n".encode())
    assert [(each.rule, each.line) for each in found] == [("secret", 2)] * count


def test_a_secret_is_in_no_message() -> None:
    (found,) = find_secrets("x", b"password=Tr0ub4dor&3")
    assert "Tr0ub" not in found.text()


@pytest.mark.parametrize("path", ["nowhere", "/dev/null"])
def test_what_is_neither_file_nor_folder_is_a_misuse(host: Host, path: str) -> None:
    with pytest.raises(UsageError, match="cannot check"):
        lint(host, path)


def test_an_invalid_policy_to_judge_by_ends_the_command(host: Host, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("nonsense: 1\n")
    folder = _make(tmp_path / "in", {"prolog.sh": "#!/bin/sh\n"})
    with pytest.raises(InvalidInputError):
        lint(host, str(folder), policy_override=str(tmp_path / "bad.yaml"))


@given(st.binary(max_size=300), st.sampled_from(["pre-network", "post-network"]))
def test_no_bytes_of_a_script_make_lint_fail(host: Host, data: bytes, phase: Phase) -> None:
    _script(host, b"#!/bin/sh\n" + data, owner="user", phase=phase)


@settings(max_examples=60)
@given(
    st.sampled_from(
        ["user-data", "x.iso", "x.tgz", "site.yaml", "user.json", "policy.yaml", "context.sh", "prolog.sh"]
    ),
    st.sampled_from([b"", b"#!/bin/sh\n", b"#cloud-config\n", b"\x1f\x8b", b"MIME-Version: 1.0\n", b"[amiconfig]\n"]),
    st.binary(max_size=600),
)
def test_no_bytes_of_a_file_make_lint_fail(
    host: Host, tmp_path_factory: pytest.TempPathFactory, name: str, start: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(start + rest)
    lint(host, str(path))


def test_a_collector_that_no_log_daemon_could_be_told_of_is_found_before_it_is_asked_for(
    host: Host, tmp_path: Path
) -> None:
    collectors = "[{host: good}, {host: 'a b'}, {host: c, protocol: tls}]"
    text = f"logging:\n  collectors: {collectors}\n  facilities: [mail, '*.info']\n"
    folder = _make(tmp_path / "disk", {"site.yaml": text, "epilog.sh": "#!/bin/sh\nexit 0\n"})
    found = [each for each in _lint(host, folder) if each[0].startswith("bad-")]
    assert found == [
        ("bad-collector", "site.yaml", 2),
        ("bad-collector", "site.yaml", 2),
        ("bad-selector", "site.yaml", 3),
    ]
