"""Which log daemons a machine has, and what they are told, is found out without changing anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contextagent.host import Host
from contextagent.model import Supply
from contextagent.policy.layer import Layer, Setting
from contextagent.policy.settings import merge
from contextagent.runner.logdaemons import find_targets, machine_of
from contextagent.runner.surroundings import old_log_servers

if TYPE_CHECKING:
    from contextagent.policy.settings import Settings
    from contextagent.runner.logdaemons import Found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(str(tmp_path))
    put(made, "/proc/sys/kernel/random/boot_id", "boot-1\n")
    return made


def put(host: Host, path: str, text: str, mode: int = 0o644) -> None:
    target = Path(host.files.real(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


def settings(**values: object) -> Settings:
    said = {f"logging.{name}": Setting(value=value) for name, value in values.items()}
    return merge(Layer(voice="image", values=said))


def found(host: Host, settings: Settings, *old: tuple[str, str]) -> Found:
    return find_targets(host, settings, old, boot_id="boot-1", instance_id="i")


TCP = settings(collectors=({"host": "collector", "protocol": "tcp"},))


def test_a_daemons_version_modules_and_configuration_are_what_the_machine_has(host: Host) -> None:
    put(host, "/usr/sbin/rsyslogd", "#!/bin/sh\necho 'rsyslogd 8.2302.0 (aka 2023.02) compiled with:'\n", 0o755)
    put(host, "/usr/sbin/syslog-ng", "#!/bin/sh\necho 'syslog-ng 3 (3.38.1)'\n", 0o755)
    put(host, "/usr/lib/x86_64-linux-gnu/rsyslog/omrelp.so", "")
    put(host, "/usr/lib64/rsyslog/imfile.so", "")
    put(host, "/usr/lib/syslog-ng/3.38/libdisk-buffer.so", "")
    put(host, "/usr/lib/syslog-ng/readme", "")
    put(host, "/etc/rsyslog.conf", "main\n")
    put(host, "/etc/rsyslog.d/50-a.conf", "a\n")
    put(host, "/etc/rsyslog.d/readme", "no\n")
    machine = machine_of(host)
    assert machine.programs["rsyslogd"] == host.files.real("/usr/sbin/rsyslogd")
    assert machine.versions == {"rsyslog": "8.2302.0", "syslog_ng": "3.38.1"}
    assert {"omrelp", "imfile", "libdisk-buffer"} <= set(machine.modules)
    assert machine.texts == {"/etc/rsyslog.conf": "main\n", "/etc/rsyslog.d/50-a.conf": "a\n"}
    assert machine.init == "sysv"
    put(host, "/run/systemd/system/x", "")
    assert machine_of(host).init == "systemd"


def test_on_the_machine_itself_only_its_own_programs_count(host: Host) -> None:
    host.is_caller = False
    assert not machine_of(host).programs


@pytest.mark.parametrize("said", ["", "no version", "word.with.dots 8"])
def test_a_daemon_that_says_no_version_has_none(host: Host, said: str) -> None:
    put(host, "/usr/sbin/rsyslogd", f"#!/bin/sh\necho '{said}'\n", 0o755)
    assert "rsyslog" not in machine_of(host).versions


def test_what_is_told_names_this_machines_traces_and_where_logs_are_wanted(host: Host) -> None:
    put(host, "/usr/sbin/rsyslogd", "#!/bin/sh\necho 'rsyslogd 8.2302.0'\n", 0o755)
    put(host, "/etc/rsyslog.conf", "$IncludeConfig /etc/rsyslog.d/*.conf\n")
    told = found(host, TCP)
    (target,) = (each for each in told.targets or () if each.daemon == "rsyslog")
    assert host.files.real("/var/log/contextagent/trace-*.jsonl") in target.files[0].text
    assert told.wanted == ("collector",)
    assert (told.warnings, told.errors) == ((), ())


def test_what_no_daemon_can_be_told_is_an_error_and_what_can_is_a_warning(host: Host) -> None:
    put(host, "/usr/sbin/rsyslogd", "#!/bin/sh\necho 'rsyslogd 8.2302.0'\n", 0o755)
    told = found(host, settings(collectors=({"host": "a;b"}, {"host": "c", "protocol": "relp"})))
    assert ([each.reason for each in told.errors], told.barred) == (["bad-collector"], "")
    assert told.warnings  # no RELP here, so plain TCP
    bad = found(host, settings(collectors=({"host": "a;b"}, {"host": ""})))
    assert bad.barred == "none of the collectors that are named can be used"
    assert bad.wanted == ("a;b", "?")


def test_a_mistake_in_the_settings_is_told_with_its_place(host: Host) -> None:
    put(host, "/usr/sbin/rsyslogd", "#!/bin/sh\necho 'rsyslogd 8.2302.0'\n", 0o755)
    said = {
        "logging.collectors": Setting(value=({"host": "c", "protocol": "tcp"},), path="p.yaml", line=2),
        "logging.facilities": Setting(value=("bad",), path="p.yaml", line=3),
    }
    (problem,) = found(host, merge(Layer(voice="image", values=said))).errors
    assert problem.text().startswith("p.yaml:3: cannot select 'bad'")


def test_what_earlier_boots_told_and_this_one_does_not_is_left_over(host: Host) -> None:
    put(
        host,
        "/var/lib/contextagent/logging.json",
        '{"other": {"files": [["/x", false]], "take_up": [], "process": "x"}}',
    )
    assert [each.daemon for each in found(host, settings()).leftovers] == ["other"]
    assert [each.daemon for each in found(host, TCP).leftovers] == ["other"]


def test_the_journals_place_is_told_without_a_password(host: Host) -> None:
    told = found(host, settings(journal_upload="https://me:secret@host:1/x?y"))
    assert told.wanted == ("https://host:1",)


def test_an_older_form_that_names_nothing_asks_for_nothing(host: Host) -> None:
    told = found(host, settings(), ("SYSLOG_SERVER", "two words"))
    assert (told.targets, told.wanted) == (None, ())
    assert [each.reason for each in told.warnings] == ["bad-collector"]


def test_a_machine_that_cannot_start_a_program_boots_without_its_log_daemons(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(host, "/usr/sbin/rsyslogd", "#!/bin/sh\n", 0o755)

    def refuse() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", refuse)
    told = found(host, TCP)
    assert [each.message for each in told.errors] == [
        "cannot look for the log daemons: Too many open files, going on without them"
    ]


def test_the_older_forms_are_looked_for_in_their_order(host: Host) -> None:
    put(host, "/features/syslog", "three\n")
    site = Supply(
        owner="site",
        source="disk",
        variables={"SYSLOG_SERVER": "one", "MACHINEFEATURES": "/features"},
        features={"machine/syslog": "two"},
    )
    assert old_log_servers(host, settings(), site) == (
        ("SYSLOG_SERVER", "one"),
        ("features/machine/syslog", "two"),
        ("/features/syslog", "three\n"),
    )
    assert old_log_servers(host, settings(), None) == ()
    put(host, "/etc/machinefeatures/syslog", "four")
    assert old_log_servers(host, settings(), None) == (("/etc/machinefeatures/syslog", "four"),)
    site = site.replace(variables={"MACHINEFEATURES": "http://169.254.169.254/machinefeatures"}, features={})
    assert old_log_servers(host, settings(), site) == (("/etc/machinefeatures/syslog", "four"),)


def test_a_folder_where_a_feature_should_be_names_no_server(host: Host) -> None:
    put(host, "/etc/machinefeatures/syslog/inside", "x")
    assert old_log_servers(host, settings(), None) == ()
    shutil.rmtree(host.files.real("/etc/machinefeatures"))


def test_of_two_syslog_daemons_the_better_one_is_told_or_the_one_that_systemd_starts(host: Host) -> None:
    put(host, "/usr/sbin/rsyslogd", "#!/bin/sh\necho 'rsyslogd 8.2302.0'\n", 0o755)
    put(host, "/usr/sbin/syslog-ng", "#!/bin/sh\necho 'syslog-ng 3 (3.38.1)'\n", 0o755)
    put(host, "/usr/sbin/syslogd", "#!/bin/sh\n", 0o755)
    put(host, "/etc/syslog.conf", "")
    assert [each.daemon for each in found(host, TCP).targets or ()] == ["rsyslog"]
    put(host, "/etc/systemd/system/x", "")
    os.symlink("/lib/systemd/system/syslog-ng.service", host.files.real("/etc/systemd/system/syslog.service"))
    assert [each.daemon for each in found(host, TCP).targets or ()] == ["syslog_ng"]
    os.unlink(host.files.real("/usr/sbin/syslog-ng"))
    assert "syslog_ng" not in [each.daemon for each in found(host, TCP).targets or ()]


def test_a_main_configuration_that_is_a_link_is_the_file_it_leads_to(host: Host) -> None:
    put(host, "/usr/sbin/rsyslogd", "#!/bin/sh\necho 'rsyslogd 8.2302.0'\n", 0o755)
    put(host, "/etc/real.conf", "nothing included\n")
    os.symlink("../../../../etc/second.conf", host.files.real("/etc/rsyslog.conf"))
    os.symlink("real.conf", host.files.real("/etc/second.conf"))
    (target,) = (each for each in found(host, TCP).targets or () if each.daemon == "rsyslog")
    assert [file.path for file in target.files if file.is_block] == ["/etc/real.conf"]
    os.unlink(host.files.real("/etc/second.conf"))
    os.symlink("second.conf", host.files.real("/etc/second.conf"))
    assert "/etc/rsyslog.conf" not in machine_of(host).texts
