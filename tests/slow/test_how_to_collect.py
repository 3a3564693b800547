"""The how-to about a collector does what it shows: every command and every file of the page, with a real rsyslogd.

The collector and a machine are views of this one, with Debian's packages laid over it, in a network of their own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from contextagent.trace.chain import line_hash
from tests.daemons import packages, until
from tests.machine import REPOSITORY
from tests.network import Namespace
from tests.pages import Shell, commands, is_shown
from tests.traces import BOOT, RSYSLOG, trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (REPOSITORY / "docs/how-to/collect-traces.md").read_text()
PIECES = re.compile(
    r"^In `(?P<path>/[^`]+)`:\n\n```\w*\n(?P<text>.*?)^```$|^```console\n(?P<console>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MAIN = 'module(load="imuxsock")\n$WorkDirectory /var/spool/rsyslog\n$IncludeConfig /etc/rsyslog.d/*.conf\n'
RSYSLOGD = "rsyslogd -n -i NONE >/run/said 2>&1 &"
NOT_HERE = ("apt-get install",)
_ENTER = """
set -eu
folder=$1 packages=$2 repository=$3; shift 3
mkdir -p "$folder/upper" "$folder/work" "$folder/view"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/view"
cd "$folder/view"
mount -t overlay overlay -o "lowerdir=$packages/usr:/usr" usr
mount -t proc proc proc
for name in tmp run dev; do mount -t tmpfs -o mode=0755 tmpfs $name; done
for name in null zero full random urandom; do : >dev/$name; mount --bind "/dev/$name" dev/$name; done
ln -s /proc/self/fd dev/fd
mkdir -p ".$repository"
mount --bind "$repository" ".$repository"
exec chroot . "$@"
"""


class Place:
    """A machine with a person at it."""

    def __init__(self, folder: Path, namespace: Namespace) -> None:
        self.files = folder / "upper"
        for path in ("etc/rsyslog.d", "root", "var/spool/rsyslog"):
            (self.files / path).mkdir(parents=True)
        (self.files / "etc/rsyslog.conf").write_text(MAIN)
        (self.files / "etc/hosts").write_text("127.0.0.1 localhost collector.site.example\n")
        unshare = ("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
        enter = (*unshare, "sh", "-c", _ENTER, "enter", str(folder), str(packages("rsyslog")), str(REPOSITORY))
        self.shell = Shell(folder, (*namespace.prefix, "setpriv", "--pdeathsig", "KILL", *enter))

    def put(self, path: str, text: str) -> None:
        """Put a file in place, as a person does who is logged in there."""
        assert (
            self.shell.run(f"mkdir -p $(dirname {path}); cat >{path} <<'its end of text'\n{text}its end of text") == []
        )


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


@pytest.fixture
def places(tmp_path: Path, namespace: Namespace) -> Iterator[dict[str, Place]]:
    made = {"# ": Place(tmp_path / "collector", namespace), "guest# ": Place(tmp_path / "guest", namespace)}
    yield made
    for place in made.values():
        place.shell.close()


def traces(collector: Place) -> bytes:
    """Return all that the collector has of traces."""
    return b"".join(path.read_bytes() for path in (collector.files / "srv/traces").rglob("*.log"))


def boot(places: dict[str, Place]) -> None:
    """Boot the machine with the context that was made on the collector, and wait for its trace."""
    (packed,) = places["# "].shell.run("tar -c -C /root context | base64 -w 0; echo")
    shell = places["guest# "].shell
    assert shell.run(f"echo {packed} | base64 -d | tar -x -C /root") == []
    agent = "contextagent run --disk /root/context --metadata none"
    said = shell.run(f"{agent} pre-network")
    shell.run(RSYSLOGD)
    said += shell.run(f"{agent} post-network")
    assert "ok (0 user, 1 site scripts" in said[-1], "\n".join(said)
    until_whole(places)


def console(guest: Place) -> str:
    """Return what the machine's console showed, as the hypervisor keeps it: the hash of each anchor, and of the end."""
    lines = [line.encode() for line in guest.shell.run("cat /var/log/contextagent/trace-*.jsonl")]
    records = [(json.loads(line), line_hash(line)) for line in lines]
    ended = [(record, mine) for record, mine in records if record["ev"] in ("anchor", "shutdown")]
    anchors = [f"trace: anchor {each['boot']} {each['seq']} {mine}" for each, mine in ended]
    assert len(anchors) == 4
    return "Booting\n" + "".join(f"[   17.1] contextagent: {anchor}\n" for anchor in anchors)


def until_whole(places: dict[str, Place]) -> None:
    """Wait until the collector has every record that the machine has."""
    lines = places["guest# "].shell.run("cat /var/log/contextagent/trace-*.jsonl")
    until(lambda: all(line.encode() in traces(places["# "]) for line in lines), "the trace is at the collector")


def test_every_step_of_the_page_does_what_it_shows(places: dict[str, Place]) -> None:
    collector, guest = places["# "], places["guest# "]
    ran: list[str] = []
    for piece in PIECES.finditer(PAGE):
        if piece["path"]:
            collector.put(piece["path"], piece["text"])
            continue
        for prompt, command, shown in commands([piece["console"]]):
            if command.startswith(NOT_HERE):
                continue
            if prompt == "guest# ":
                boot(places)
            if ran and ran[-1].endswith("echo $?"):
                assert guest.shell.run("contextagent run stop")[-1].startswith("contextagent: ok")
                until_whole(places)
            if "/srv/consoles" in command:
                collector.put("/srv/consoles/vm-17.log", console(guest))
            found = places[prompt].shell.run(RSYSLOGD if command == "systemctl restart rsyslog" else command)
            assert is_shown(found, shown), (command, found)
            ran.append(command)
    assert len(ran) > 20


def test_what_the_page_runs_each_day_packs_yesterday_and_lets_go_of_what_is_old_and_tells_of_what_is_broken(
    places: dict[str, Place],
) -> None:
    collector = places["# "]
    (daily,) = (piece for piece in PIECES.finditer(PAGE) if piece["path"] == "/etc/cron.daily/traces")
    collector.put(daily["path"], daily["text"])
    lines = [line.decode() for line in trace(ends=("shutdown",))]
    days = {0: lines[6:], 1: lines[:2], 3: lines[2:6], 120: lines}
    for age, part in days.items():
        folder = f"/srv/traces/$(date -d '-{age} days' +%F)"
        collector.put(f"{folder}/192.0.2.1.log", "".join(f"{RSYSLOG.decode()}{line}" for line in part))
        collector.shell.run(f"touch -d '-{age} days' {folder}/*.log {folder}")
    assert collector.shell.run(f"sh {daily['path']}") == []
    assert len(collector.shell.run("ls -d /srv/traces/20*")) == 3
    assert len(collector.shell.run("ls /srv/traces/*/*.log")) == 2
    assert len(collector.shell.run("ls /srv/traces/*/*.log.gz")) == 1
    collector.shell.run("sed -i '$d' /srv/traces/$(date +%F)/*.log /srv/traces/$(date -d '-1 days' +%F)/*.log")
    said = collector.shell.run(f"sh {daily['path']}")
    assert f"{BOOT}: record 2: found none" in said
