"""Multiparts made by other people's programs: each comes by network, is taken apart, and its scripts run byte by byte.

The programs are those that a user would reach for: cloud-init's own, Debian's cloud-image-utils, and mailers in batch
mode, which send to a script instead of a mail server.
"""

from __future__ import annotations

import email.message
import email.policy
import gzip
import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.bench import lab
from tests.servers import Server, answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.machine import Machine

NASTY = 'From () { echo "said by $1"; }\n'
"""A line that old mail boxes can't hold as it is."""
SCRIPT = f"#!/bin/sh\n# café: a blank at the end \n{NASTY}.\t/dev/null\necho {'x' * 1200}=3D\nFrom part\n".encode()
CONFIG = "#cloud-config\nruncmd:\n- [echo, 'said by runcmd: héllo']\n".encode()
HOOK = b"#!/bin/sh\necho said by boothook\n"

SAID = {"part": "said by part", "runcmd": "said by runcmd: héllo", "boothook": "said by boothook"}

SEND = '#!/bin/sh\ncat >"{}/sent"\n'
TYPES = "text/x-shellscript sh\ntext/cloud-config cfg\ntext/cloud-boothook hook\n"
_CHROOT = 'mount --bind "$1" "$2/mnt" && exec chroot "$2" sh -c "cd /mnt && exec cloud-init devel make-mime $3"'


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder with a user's files, and what a mailer needs to send nothing anywhere."""
    desk = tmp_path / "desk"
    desk.mkdir()
    for name, data in {"a.sh": SCRIPT, "b.cfg": CONFIG, "c.hook": HOOK}.items():
        (desk / name).write_bytes(data)
    (desk / ".mime.types").write_text(TYPES)
    (desk / "send").write_text(SEND.format(desk))
    (desk / "send").chmod(0o755)
    return desk


def do(desk: Path, *words: str, stdin: bytes = b"") -> bytes:
    """Run a user's program at the desk, and return what it wrote."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(desk), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=desk, input=stdin, capture_output=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def cloud_init(desk: Path) -> bytes:
    lab.prepare()
    parts = "-a a.sh:x-shellscript -a b.cfg:cloud-config -a c.hook:cloud-boothook"
    return do(desk, "unshare", "--mount", "sh", "-c", _CHROOT, "sh", str(desk), str(lab.ROOT), parts)


def write_mime_multipart(desk: Path) -> bytes:
    parts = ("a.sh:text/x-shellscript", "b.cfg", "c.hook:text/cloud-boothook")
    do(desk, "write-mime-multipart", "--output", "sent", *parts)
    return (desk / "sent").read_bytes()


def write_mime_multipart_gzip(desk: Path) -> bytes:
    parts = ("a.sh:text/x-shellscript", "b.cfg", "c.hook:text/cloud-boothook")
    do(desk, "write-mime-multipart", "-z", "--output", "sent", *parts)
    assert (desk / "sent").read_bytes().startswith(b"\x1f\x8b")
    return (desk / "sent").read_bytes()


def mutt(desk: Path) -> bytes:
    settings = f"set sendmail='{desk}/send' copy=no from=a@example.org send_charset=utf-8"
    do(desk, "mutt", "-n", "-F", "/dev/null", "-e", settings, "-a", "a.sh", "b.cfg", "c.hook", "--", "b@example.org")
    data = (desk / "sent").read_bytes()
    assert b"=46rom () { echo" in data, "mutt no longer sends a script as quoted-printable"
    return data


def s_nail(desk: Path) -> bytes:
    parts = ("-a", "a.sh", "-a", "b.cfg", "-a", "c.hook")
    do(desk, *s_nail_sends(desk, *parts))
    return (desk / "sent").read_bytes()


def s_nail_body(desk: Path) -> bytes:
    do(desk, *s_nail_sends(desk, "-S", "mime-encoding=base64", "-M", "text/plain"), stdin=SCRIPT)
    return (desk / "sent").read_bytes()


def s_nail_sends(desk: Path, *words: str) -> tuple[str, ...]:
    keys = ("v15-compat=yes", "ttycharset=utf-8", "from=a@example.org", "sendwait")
    settings = (
        word
        for key in (*keys, f"mta={desk}/send", f"mimetypes-load-control=f={desk}/.mime.types")
        for word in ("-S", key)
    )
    return ("s-nail", "-:/", *settings, *words, "-.", "b@example.org")


def mpack(desk: Path) -> bytes:
    do(desk, "mpack", "-s", "boot", "-o", "sent", "a.sh")
    return (desk / "sent").read_bytes()


def python_nested_with_crlf(desk: Path) -> bytes:
    """Return the three files in two multiparts inside each other, as Python sends mail: with CRLF."""
    inner = email.message.EmailMessage(policy=email.policy.SMTP)
    inner.set_content((desk / "a.sh").read_text(), subtype="x-shellscript", cte="quoted-printable")
    inner.add_attachment((desk / "b.cfg").read_text(), subtype="cloud-config", cte="base64")
    outer = email.message.EmailMessage(policy=email.policy.SMTP)
    outer["Subject"] = "boot"
    outer.add_attachment(gzip.compress(inner.as_bytes()), maintype="application", subtype="octet-stream")
    outer.add_attachment((desk / "c.hook").read_text(), subtype="cloud-boothook", cte="8bit")
    data = outer.as_bytes()
    assert b"\r\n" in data
    assert b"\n" not in data.replace(b"\r\n", b"")
    return data


ALL = ["user/pre-network/boothook-003", "user/post-network/part-001", "user/post-network/runcmd-002"]
LATER = ["user/pre-network/boothook-004", "user/post-network/part-002", "user/post-network/runcmd-003"]
"""The same after a text of the mailer's own."""
MAILERS: dict[Callable[[Path], bytes], list[str]] = {
    cloud_init: ALL,
    write_mime_multipart: ALL,
    write_mime_multipart_gzip: ALL,
    mutt: LATER,
    s_nail: ALL,
    s_nail_body: ALL[1:2],
    mpack: ALL[1:2],
    python_nested_with_crlf: ALL,
}


@pytest.mark.parametrize("mailer", MAILERS)
def test_a_multipart_of_somebody_elses_program_runs_as_it_was_meant(
    mailer: Callable[[Path], bytes], desk: Path, machine: Machine
) -> None:
    data = mailer(desk)
    with Server({"/latest/meta-data/instance-id": answer("i-1"), "/latest/user-data": answer(data)}) as server:
        machine.put("etc/contextagent/policy.yaml", "metadata: {dialect: ec2, total_s: 5}\n")
        machine.metadata = server.url
        machine.run("run", "--disk", "none")
    status = machine.status()
    assert [(each["id"], each["state"]) for each in status["scripts"]] == [(name, "ok") for name in MAILERS[mailer]]
    assert status["sources"]["user"] == "metadata:ec2"
    part = next(each for each in status["scripts"] if "/part-" in each["id"])
    assert part["sha512"] == hashlib.sha512(SCRIPT).hexdigest()
    for each in status["scripts"]:
        kind = next(kind for kind in SAID if f"/{kind}-" in each["id"])
        assert machine.text(each["output"].lstrip("/")).splitlines()[-1] == SAID[kind]
