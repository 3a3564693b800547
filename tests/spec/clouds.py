"""What metadata services say in each dialect, and what a boot made of it."""

from __future__ import annotations

import concurrent.futures
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from tests.machine import Machine
from tests.spec.scenes import says
from tests.spec.service import Page, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from tests.machine import Done
    from tests.spec.service import Answer

BUNDLE = "/context/default.tgz"
ID, DATA, TOKENS = "/latest/meta-data/instance-id", "/latest/user-data", "/latest/api/token"
META, OPENSTACK_DATA = "/openstack/latest/meta_data.json", "/openstack/latest/user_data"
VAC_META = "/openstack/latest/meta-data.json"
VAC_DATA = ("/openstack/latest/user-data", "/latest/user-data")
UUID = "83679162-1378-4288-a2d4-70e13ec132aa"
QUICK = {"connect_s": "1", "try_s": "1", "total_s": "2"}


def policy(machine: Machine, *lines: str, **metadata: str) -> None:
    """Write the image's policy: short times, the dialect ec2, and what else is said."""
    keys = {**QUICK, "dialect": "ec2", **metadata}
    text = "metadata:\n" + "".join(f"  {key}: {value}\n" for key, value in keys.items() if value)
    machine.put("etc/contextagent/policy.yaml", text + "".join(f"{line}\n" for line in lines))


def tgz(files: Mapping[str, str | bytes]) -> bytes:
    """Return a gzip'd tar with these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            content = data.encode() if isinstance(data, str) else data
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def spoken(machine: Machine, *names: str, body: str = "") -> bytes:
    """Return a bundle with scripts that tell their names."""
    return tgz(says(machine, *names, body=body))


def told(machine: Machine, word: str = "user-data") -> str:
    """Return user data: one script that tells its name."""
    return f'#!/bin/sh\necho "{word} $1" >> {machine.root}/effects\n'


def ec2(user_data: Answer = 404, instance: Answer = "i-0123456789abcdef0", bundle: Answer = 404) -> dict[str, Answer]:
    """Return an EC2 service's pages."""
    return {ID: instance, DATA: user_data, BUNDLE: bundle}


def openstack(
    user_data: Answer = 404, uuid: str = UUID, bundle: Answer = 404, meta: Mapping[str, Any] | None = None
) -> dict[str, Answer]:
    """Return an OpenStack service's pages."""
    text = json.dumps({"uuid": uuid, "name": "node", "meta": {}, **(meta or {})})
    return {META: Page(text.encode(), headers={"Content-Type": "application/json"}), OPENSTACK_DATA: user_data,
            BUNDLE: bundle}  # fmt: skip


def vac(user_data: str, uuid: str = UUID, bundle: Answer | None = None) -> dict[str, Answer]:
    """Return Vac's pages as its own server sends them: HTTP/1.0, no lengths, 404 without a body for the rest."""
    meta = {"availability_zone": "factory", "uuid": uuid, "hostname": "node", "name": "node",
            "meta": {"machinefeatures": "http://169.254.169.253/machinefeatures", "machinetype": "x"}}  # fmt: skip
    nothing = Page(status=404, old=True, headers={"Content-Type": ""})
    pages: dict[str, Answer] = {META: nothing, BUNDLE: bundle or nothing, "/": nothing, "/latest/": nothing}
    pages[OPENSTACK_DATA] = nothing
    pages[VAC_META] = Page(json.dumps(meta).encode(), old=True)
    pages |= dict.fromkeys(VAC_DATA, Page(user_data.encode(), old=True))
    pages[ID] = Page(uuid.encode(), old=True)
    return pages


def hear(machine: Machine, service: Service | str, *words: str, disk: Path | None = None) -> Done:
    """Run with the service, and with a disk or none."""
    url = service if isinstance(service, str) else service.url
    return machine.run("run", *words, "--metadata", url, "--disk", str(disk) if disk else "none")


def verdicts(machine: Machine, source: str = "metadata") -> dict[str, str]:
    """Return the verdicts on one kind of source by owner."""
    found = machine.status()["verdicts"]
    return {each["owner"]: each["verdict"] for each in found if each["source"].partition(":")[0] == source}


def verdict(machine: Machine, owner: str, source: str = "metadata") -> dict[str, Any]:
    """Return the whole verdict on one kind of source for an owner."""
    found = machine.status()["verdicts"]
    return next(each for each in found if each["owner"] == owner and each["source"].partition(":")[0] == source)


def records(machine: Machine, owner: str, source: str = "metadata") -> list[dict[str, Any]]:
    """Return the trace's records of one kind of source for an owner."""
    return [
        each
        for each in machine.trace()
        if each["ev"] == "source" and each["owner"] == owner and source in str(each["source"])
    ]


def at_once(folder: Path, boot: Callable[..., None], cases: Iterable[tuple[object, ...]]) -> None:
    """Try each case with a machine and a service of its own, all at the same time: most of it is waiting."""

    def one(number: int, case: tuple[object, ...]) -> None:
        with Service() as service:
            boot(Machine(folder / f"machine-{number}"), service, *case)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = {pool.submit(one, number, case): case for number, case in enumerate(cases)}
        for each, case in running.items():
            error = each.exception()
            assert error is None, (case, error)
