"""Presets: other defaults to start from.  A preset speaks before the image's own keys, and with the image's voice."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "standard": {},
    "strict": {
        "trust.metadata": "enforce",
        "trust.disk": "enforce",
        "lockdown": True,
        "pilot.require_trace": "reachable",
        "environment.on_change": "no-pilot",
        "pilot.from_user": False,
    },
    "vacuum": {
        "user.profile": "root",
        "user.ceiling": "root",
        "metadata.dialect": "vac",
        "pilot.heartbeat.file": "vm-heartbeat",
        "pilot.heartbeat.seconds": 60,
        "pilot.from_user": True,
    },
    "hepix2012": {
        "disk.site_devices": ("rom", "xvdb", "vdb", "hdb", "sdb"),
        "user.profile": "root",
        "user.ceiling": "root",
        "pilot.from_user": True,
        "trust.metadata": "off",
        "trust.disk": "off",
    },
}
