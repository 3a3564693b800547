"""What a boot leaves for a test to read: `REPORT` is the test's text that leaves it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.vm.guest import Boot

REPORT = """
cd /run/lab/out
contextagent status --format json > status.json; echo $? > status.exit
contextagent explain > explain 2>&1; echo $? > explain.exit
contextagent trace verify > verify 2>&1; echo $? > verify.exit
contextagent receipt > receipt 2>&1; echo $? > receipt.exit
rpm -V contextagent > rpm-V 2>&1; echo $? >> rpm-V
cp /var/log/contextagent/* .; cp /root/order . 2>/dev/null
for process in /proc/[0-9]*; do echo $(tr '\\0' ' ' < $process/cmdline); done > processes 2> /dev/null
dmesg > dmesg; cat /proc/[0-9]*/mounts 2>/dev/null | sort -u > mounts
"""
"""Works with any init; the text of a test goes on from there, in /run/lab/out."""


def status(boot: Boot) -> dict[str, Any]:
    """Return `contextagent status --format json`."""
    return dict(json.loads(boot.read("status.json")))


def records(boot: Boot) -> list[dict[str, Any]]:
    """Return the records of the boot's own trace, first to last."""
    return [json.loads(line) for line in boot.read(f"trace-{status(boot)['boot_id']}.jsonl").splitlines()]


def started(boot: Boot) -> list[str]:
    """Return the ids of the scripts started in this boot so far, in order."""
    return [str(record["id"]) for record in records(boot) if record["ev"] == "start"]
