"""The files of log daemons: what may stand in their place, what refuses them, and what a checker may do to a boot."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import AGENT, Done, run
from tests.spec.daemons import DROP_IN, RAN, TCP, boot_with, checker, give, rsyslog, told, written
from tests.spec.scenes import boot, lay, messages, reasons, reports

if TYPE_CHECKING:
    from tests.machine import Machine

UDP = "logging: {collectors: [{host: collector.example, protocol: udp}]}\n"
BEGIN = "# contextagent begin: written at each boot, changes are lost\n"
END = "# contextagent end\n"
ALL = (
    *("usr/sbin/auditctl", "usr/sbin/augenrules", "usr/sbin/auditd", "usr/bin/systemctl", "usr/sbin/rsyslogd"),
    *("usr/lib/systemd/systemd-journald", "usr/lib/systemd/systemd-journal-upload"),
)


def is_degraded_and_ran(machine: Machine, done: Done) -> None:
    """Assert that the boot went on without its logs, and said so."""
    assert done.code == 2, done
    assert told(machine) == {"targets": [], "delivered": "no"}
    assert [script["state"] for script in reports(machine).values()] == ["ok"]
    assert all(line.startswith("contextagent: cannot ") for line in done.err.splitlines()), done.err


@pytest.mark.parametrize("body", ["exit 1", "kill -SEGV $$", "kill -9 $$", "head -c 200000000 /dev/zero >&2; exit 1"])
def test_what_a_checker_does_not_pass_is_not_in_place_and_the_boot_goes_on(
    machine: Machine, disk: Path, body: str
) -> None:
    rsyslog(machine, body)
    is_degraded_and_ran(machine, boot_with(machine, disk))
    assert reasons(machine, "errors") == ["logging-refused"]
    assert written(machine) == []
    assert list((machine.root / "etc/rsyslog.d").iterdir()) == []


def test_what_a_checker_prints_can_move_no_cursor(machine: Machine, disk: Path) -> None:
    rsyslog(machine, r"printf 'error \033[2J \342\200\256bad\nsecond\000\n' >&2; exit 1")
    said = boot_with(machine, disk).err
    for command in ("status", "explain", "trace show", "receipt"):
        said += machine.run(command.split()[0], *command.split()[1:]).out
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "error" in said


def test_a_checker_that_prints_without_end_and_passes_is_no_more_than_passed(machine: Machine, disk: Path) -> None:
    rsyslog(machine, "head -c 200000000 /dev/zero; exit 0")
    assert boot_with(machine, disk).code == 0
    assert told(machine)["delivered"] == "configured"


def test_a_checker_that_hangs_leaves_nothing_behind(machine: Machine, disk: Path) -> None:
    rsyslog(machine, f"sleep 3600 & echo $! >>{machine.root}/left; sleep 3600")
    is_degraded_and_ran(machine, boot_with(machine, disk))
    for pid in machine.text("left").split():
        command = Path("/proc", pid, "cmdline")
        assert not (command.exists() and command.read_bytes()), "it runs"


def test_an_agent_that_its_checker_killed_goes_on_at_the_second_call(machine: Machine, disk: Path) -> None:
    rsyslog(machine, f"[ -e {machine.root}/once ] && exit 0; touch {machine.root}/once; kill -9 $PPID")
    assert boot_with(machine, disk).code == -signal.SIGKILL
    assert boot(machine, disk, "--resume").code == 0
    assert told(machine)["delivered"] == "configured"


@pytest.mark.parametrize("text", ["\x7fELFgarbage", "", "#!/nowhere\n"])
def test_a_program_that_cannot_run_is_no_daemon(machine: Machine, disk: Path, text: str) -> None:
    rsyslog(machine)
    machine.put("usr/sbin/rsyslogd", text, 0o755)
    boot_with(machine, disk)
    assert machine.status()["scripts"][0]["state"] == "ok"
    assert machine.run("trace", "verify").code == 2


def test_a_link_in_the_place_of_the_drop_in_is_replaced_and_not_followed(machine: Machine, disk: Path) -> None:
    rsyslog(machine)
    victim = machine.put("victim", "keep\n")
    (machine.root / "etc/rsyslog.d").mkdir()
    (machine.root / DROP_IN).symlink_to(victim)
    assert boot_with(machine, disk).code == 0
    assert victim.read_text() == "keep\n"
    assert not (machine.root / DROP_IN).is_symlink()


@pytest.mark.parametrize("kind", ["link out of the root", "link", "file", "drop-in is a folder", "drop-in is a fifo"])
def test_a_place_that_is_not_what_it_should_be_is_left_and_said(
    machine: Machine, disk: Path, tmp_path: Path, kind: str
) -> None:
    rsyslog(machine)
    folder, other = machine.root / "etc/rsyslog.d", tmp_path / "other"
    other.mkdir()
    if kind.startswith("link"):
        folder.symlink_to(other if "out" in kind else "../../../other")
    elif kind == "file":
        folder.write_text("x")
    elif "fifo" in kind:
        folder.mkdir()
        os.mkfifo(machine.root / DROP_IN)
    else:
        (machine.root / DROP_IN).mkdir(parents=True)
    is_degraded_and_ran(machine, boot_with(machine, disk))
    assert list(other.iterdir()) == []


@pytest.mark.parametrize(("what", "options"), [("Read-only file system", "ro"), ("No space left", "size=4k")])
def test_a_place_that_takes_nothing_is_said_and_keeps_nothing(
    machine: Machine, disk: Path, what: str, options: str
) -> None:
    rsyslog(machine)
    lay(disk, {"epilog.sh": RAN, "site.yaml": TCP})
    place = machine.root / "etc/rsyslog.d"
    place.mkdir()
    words = (*AGENT, "--root", str(machine.root), *machine.asking("run", "--disk", str(disk)))
    fill = "" if options == "ro" else f"head -c 99999 /dev/zero 2>/dev/null >{place}/fill;"
    script = f'mount -t tmpfs -o {options} tmpfs {place}; {fill} "$@"; code=$?; ls -A {place} >{disk}/left; exit $code'
    done = run(("unshare", "--mount", "sh", "-c", script, "boot", *words))
    is_degraded_and_ran(machine, done)
    assert what in messages(machine, "errors")
    assert (disk / "left").read_text().split() in ([], ["fill"])


@pytest.mark.parametrize("umask", ["000", "077"])
def test_modes_are_the_files_own_whatever_the_umask_is(machine: Machine, disk: Path, umask: str) -> None:
    rsyslog(machine)
    lay(disk, {"epilog.sh": RAN, "site.yaml": TCP})
    words = (*AGENT, "--root", str(machine.root), *machine.asking("run", "--disk", str(disk)))
    run(("sh", "-c", f'umask {umask}; exec "$@"', "boot", *words))
    assert stat.S_IMODE((machine.root / DROP_IN).stat().st_mode) in (0o600, 0o644)
    assert stat.S_IMODE((machine.root / DROP_IN).parent.stat().st_mode) == 0o755


@pytest.mark.parametrize("last", ["gone", "refused"])
def test_what_a_former_boot_was_told_is_not_sent_to_by_one_that_does_not_say_so(
    machine: Machine, disk: Path, last: str
) -> None:
    rsyslog(machine, 'exec grep -qsv refused.example "$3"' if last == "gone" else '! grep -qs refused.example "$3"')
    boot_with(machine, disk)
    assert "collector.example" in machine.text(DROP_IN)
    machine.reboot()
    boot_with(machine, disk, "{}\n" if last == "gone" else TCP.replace("collector.example", "refused.example"))
    assert told(machine)["targets"] == []
    assert not (machine.root / DROP_IN).exists() or "collector.example" not in machine.text(DROP_IN)


def test_a_trace_that_has_no_file_is_not_delivered_and_nothing_goes_through_the_link(
    machine: Machine, disk: Path
) -> None:
    rsyslog(machine)
    other = machine.root / "elsewhere"
    other.mkdir()
    (machine.root / "var/log").mkdir(parents=True)
    (machine.root / "var/log/contextagent").symlink_to(other)
    boot_with(machine, disk)
    assert list(other.iterdir()) == []
    assert "trace-full" in reasons(machine)


@pytest.mark.parametrize("text", ["", "*.* /x", "*.* /x\n", f"a\n{BEGIN}o\n{END}b\n", f"a\n{END}b\n"])
def test_lines_of_others_in_syslog_conf_stay_as_they_are(machine: Machine, disk: Path, text: str) -> None:
    give(machine, "usr/sbin/syslogd")
    machine.put("etc/syslog.conf", text, 0o640)
    assert boot_with(machine, disk, UDP).code == 0
    now = machine.text("etc/syslog.conf")
    block = now[now.index(BEGIN) : now.index(END, now.index(BEGIN)) + len(END)]
    assert block == f"{BEGIN}*.info;authpriv.*\t@collector.example\n{END}"
    assert now.replace(block, "").split() == text.replace(f"{BEGIN}o\n{END}", "").split()
    assert stat.S_IMODE((machine.root / "etc/syslog.conf").stat().st_mode) == 0o640
    machine.reboot()
    boot(machine, disk)
    assert machine.text("etc/syslog.conf") == now


def test_lines_of_others_stay_though_our_end_mark_is_gone(machine: Machine, disk: Path) -> None:
    give(machine, "usr/sbin/syslogd")
    machine.put("etc/syslog.conf", f"*.* /x\n{BEGIN}*.*\t@old.example\nmail.*\t/var/log/mail\n")
    boot_with(machine, disk, UDP)
    assert "mail.*\t/var/log/mail\n" in machine.text("etc/syslog.conf")


def test_journald_auditd_and_the_upload_are_told_in_files_of_their_own(machine: Machine, disk: Path) -> None:
    give(machine, *ALL, text=checker("exit 0"))
    machine.put("etc/rsyslog.conf", "$IncludeConfig /etc/rsyslog.d/*.conf\n")
    machine.put("etc/audit/rules.d/audit.rules", "-D\n")
    (machine.root / "run/systemd/system").mkdir(parents=True)
    boot_with(machine, disk, TCP.replace("]}", "], audit: yes, journal_upload: 'https://j.example:19532'}"))
    journald, upload, rules = (
        machine.text(f"etc/{path}")
        for path in (
            "systemd/journald.conf.d/10-contextagent.conf",
            "systemd/journal-upload.conf.d/10-contextagent.conf",
            "audit/rules.d/99-contextagent.rules",
        )
    )
    assert "Storage=persistent" in journald
    assert "ForwardToSyslog=yes" in journald
    assert "URL=https://j.example:19532" in upload
    assert "execve" in rules
    assert rules.split("\n")[-2] == "-e 2"
    assert machine.text("etc/audit/rules.d/audit.rules") == "-D\n"


def test_what_is_asked_of_daemons_that_are_not_there_is_degraded_by_name(machine: Machine, disk: Path) -> None:
    rsyslog(machine)
    settings = TCP.replace("]}", "], audit: yes, journal_upload: 'https://j.example/'}")
    assert boot_with(machine, disk, settings).code == 2
    assert "no-audit" in reasons(machine, "errors")
    assert "no-upload" in reasons(machine, "errors")
    assert told(machine) == {"targets": ["rsyslog tcp://collector.example:5140"], "delivered": "configured"}


def test_a_secret_in_the_uploads_address_is_told_to_nobody(machine: Machine, disk: Path) -> None:
    give(machine, *ALL, text=checker("exit 0"))
    boot_with(machine, disk, "logging: {journal_upload: 'https://me:h0shh0sh@j.example:19532'}\n")
    for path in machine.root.rglob("*"):
        if path.is_file() and b"h0shh0sh" in path.read_bytes():
            others = path.stat().st_mode & 0o077
            assert not others or "/var/lib/" in str(path), path
    for words in ("status", "status --format json", "explain", "receipt", "trace show", "plan"):
        assert "h0shh0sh" not in "".join(map(str, machine.run(*words.split()))), words
