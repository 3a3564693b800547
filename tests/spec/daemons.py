"""Stand-ins for log daemons, for the contract's tests of logging: what is asked of them, and what they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.spec.scenes import boot, lay

if TYPE_CHECKING:
    from pathlib import Path

    from tests.machine import Done, Machine

DROP_IN = "etc/rsyslog.d/10-contextagent.conf"
HOST = "collector.example"
COLLECTOR = f"{{host: {HOST}, port: 5140, protocol: tcp}}"
TCP = f"logging: {{collectors: [{COLLECTOR}]}}\n"
RAN = "#!/bin/sh\nexit 0\n"


def checker(body: str) -> str:
    """Return a stand-in for rsyslogd that says its version, and does this when it is to check."""
    return f"#!/bin/sh\ncase $1 in -v) echo 'rsyslogd 8.2302.0 (aka 2023.02) compiled with:'; exit 0 ;; esac\n{body}\n"


def give(machine: Machine, *programs: str, text: str = RAN) -> None:
    """Put programs in place."""
    for name in programs:
        machine.put(name, text, 0o755)


def rsyslog(machine: Machine, body: str = "exit 0") -> None:
    """Put an rsyslog in place whose checker does this."""
    give(machine, "usr/sbin/rsyslogd", text=checker(body))
    machine.put("etc/rsyslog.conf", "$IncludeConfig /etc/rsyslog.d/*.conf\n")


def boot_with(machine: Machine, disk: Path, settings: str = TCP) -> Done:
    """Boot with a site's settings, and with one script of the site's."""
    lay(disk, {"epilog.sh": RAN, "site.yaml": settings})
    return boot(machine, disk)


def told(machine: Machine) -> dict[str, Any]:
    """Return what status.json says of the logging."""
    return dict(machine.status()["logging"])


def written(machine: Machine) -> list[str]:
    """Return the files below /etc that the agent wrote, or wrote in; what it hands over as job outputs is none."""
    files = sorted(path for path in (machine.root / "etc").rglob("*") if path.is_file())
    ours = [str(path.relative_to(machine.root)) for path in files if b"contextagent" in path.read_bytes()]
    return [path for path in ours if not path.startswith("etc/joboutputs/")]
