"""A secret put into every input of a machine, and how to find it again, whatever it was made into."""

from __future__ import annotations

import base64
import gzip
import io
import os
import re
import tarfile
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from tests.spec.scenes import lay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine import Machine

CANARY = "canary/4f1d0c9e+7a=b"
"""As a password may be: its forms in base64, hexadecimal and in a URL are all different from it."""


def forms(canary: str = CANARY) -> list[bytes]:
    """Return every form in which the canary is looked for; in the base64 of a longer text it has one of three."""
    data = canary.encode()
    shifted = [base64.b64encode(b"x" * lead + data)[(0, 2, 3)[lead] : -4].decode() for lead in range(3)]
    quoted = urllib.parse.quote(canary, safe="")
    lower = re.sub("%..", lambda code: code[0].lower(), quoted)
    words = [canary, *shifted, data.hex(), data.hex().upper(), quoted, lower, urllib.parse.quote(canary)]
    return [word.encode() for word in words]


def has_canary(data: bytes) -> bool:
    """Return whether the canary is in some bytes in any form, also where they are a gzip'd tar."""
    if any(form in data for form in forms()):
        return True
    if not data.startswith(b"\x1f\x8b"):
        return False
    try:
        plain = gzip.decompress(data)
    except (OSError, EOFError):
        return False
    return has_canary(plain)


def holders(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the files below a root that hold the canary, with the rights that others than their owner have to them.

    Those are the file's own, and none where a folder above it lets nobody in.
    """
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            if path.is_symlink() or not path.is_file() or not has_canary(path.read_bytes()):
                continue
            inner = [each for each in path.parents if each.is_relative_to(root)]
            is_open = all(each.stat().st_mode & 0o011 for each in inner)
            yield str(path.relative_to(root)), path.stat().st_mode & 0o077 if is_open else 0


def printed(canary: str = CANARY) -> list[str]:
    """Return what a program may print of it, also where it is a part of what was coded."""
    data, quoted = canary.encode(), urllib.parse.quote(canary, safe="")
    coded = [
        base64.b64encode(before + data + behind).decode() for before in (b"", b"x", b"xy") for behind in (b"", b"\n")
    ]
    mixed = quoted.replace("%2F", "%2f")
    return [canary, *coded, data.hex(), data.hex().upper(), quoted, mixed, urllib.parse.quote(canary), f"x={canary};"]


def shouts(word: str) -> str:
    """Return a script that prints the canary in every form, on both streams."""
    return f"#!/bin/sh\n# {CANARY}\necho {word}\n" + "".join(
        f"echo '{text}'{to}\n" for text in printed() for to in ("", " >&2")
    )


SITE_YAML = f"""
features:
  machine: {{hs06: 10.5}}
  job: {{jobid: 'secret {CANARY}'}}
logging:
  collectors:
    - {{host: 127.0.0.1, protocol: tls, ca: '{CANARY}', cert: '{CANARY}', key: '{CANARY}'}}
  journal_upload: 'http://me:{urllib.parse.quote(CANARY, safe="")}@127.0.0.1:9/upload'
pilot: {{framework: command, command: 'run {CANARY}'}}
access: {{root_keys: ['{CANARY}']}}
unknown: '{CANARY}'
"""
USER_YAML = f"features: {{job: {{x: '{CANARY}'}}}}\npilot: {{command: '{CANARY}'}}\nuser: {{profile: '{CANARY}'}}\n"
CONTEXT_SH = f"""
VMID="17"
SITE_PASSWORD='{CANARY}'
SOMETHING='before {CANARY} behind'
SSH_PUBLIC_KEY='ssh-ed25519 AAAA {CANARY}'
EC2_USER_DATA='{base64.b64encode(shouts("user data").encode()).decode()}'
"""
POLICY = f"trust: {{site: '{CANARY}'}}\n# {CANARY}\n"


def disk(folder: Path) -> Path:
    """Return a folder that stands for a disk with the canary in everything that a disk can bring."""
    scripts = {f"{owner}/{name}": shouts(name) for owner in ("site", "user") for name in ("prolog.sh", "epilog.sh")}
    return lay(
        folder,
        {
            **scripts,
            "site/post-network.d/10-fails": shouts("fails") + "exit 3\n",
            "site/stop.d/10-stops": shouts("stops"),
            "site/secret.key": CANARY,
            "user/notes": CANARY,
            "site/site.yaml": SITE_YAML,
            "user/user.yaml": USER_YAML,
            "context.sh": CONTEXT_SH,
        },
    )


def bundle() -> bytes:
    """Return a site's bundle with the canary in it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, text in {"epilog.sh": shouts("bundle"), "secret": CANARY, "site.yaml": SITE_YAML}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


def told(machine: Machine) -> dict[str, str]:
    """Return all that the agent tells of a boot, command by command; root may ask for the settings themselves."""
    words = ["status", "explain", "analyze", "receipt", "trace show", "trace verify", "plan --disk none"]
    commands = [*words, *(f"{command} --format json" for command in words)]
    return {command: "\n".join(machine.run(*command.split())[1:]) for command in commands}
