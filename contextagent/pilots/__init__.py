"""What starting a pilot means, framework by framework: values alone; starting it and minding it are elsewhere."""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Setting(Value):
    """What a framework is told of the machine that its pilot starts on.

    Attributes:
        pilot: The settings `pilot.*`, less that word: `command`, `args`, `env`, `files`, `stop.timeout_s` …
        instance_id: Of this instance.
        boot_id: Of this boot.
        number: Which of the pilots on this machine, from 1.
        remaining_s: Seconds until its end must be over; None where no end is known.
        features: `machine/KEY` and `job/KEY` to text, as published.
        machine_features: What `MACHINEFEATURES` is for it: a folder or a URL, by the form its framework takes.
        job_features: What `JOBFEATURES` is for it.
        job_outputs: What `JOBOUTPUTS` is for it.
        workdir: Folder it runs in, as the guest sees it.
        account: Name of its account.
        home: That account's home.
        hostname: The machine's name.
    """

    pilot: Mapping[str, Any]
    instance_id: str
    boot_id: str
    number: int
    remaining_s: int | None
    features: Mapping[str, str]
    machine_features: str
    job_features: str
    job_outputs: str
    workdir: str
    account: str
    home: str
    hostname: str


class Launch(Value):
    """How one pilot is started: program and arguments, variables its framework adds, files (0600) below its folder."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    files: Mapping[str, bytes] = {}
