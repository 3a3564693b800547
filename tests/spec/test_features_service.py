"""Machine and job features that a service has: who names its address, and what is taken from it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.spec.living import features
from tests.spec.scenes import output

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.spec.service import Service

SOON = int(time.time()) + 50_000


@pytest.mark.parametrize("form", ["openstack", "vac"])
def test_the_addresses_in_the_meta_map_of_a_metadata_service_are_read(
    machine: Machine, service: Service, form: str
) -> None:
    name = "meta_data" if form == "openstack" else "meta-data"
    addresses = ", ".join(f'"{key}": "{service.url}/{key}"' for key in ("machinefeatures", "jobfeatures", "joboutputs"))
    service.pages[f"/openstack/latest/{name}.json"] = f'{{"uuid": "u-1", "meta": {{{addresses}}}}}'
    service.pages["/openstack/latest/user_data"] = "#!/bin/sh\necho $JOBOUTPUTS\n"
    service.pages["/openstack/latest/user-data"] = "#!/bin/sh\necho $JOBOUTPUTS\n"
    service.pages |= {"/machinefeatures/total_cpu": "7", "/jobfeatures/wall_limit_secs": "50000"}
    service.pages["/machinefeatures/shutdowntime"] = str(SOON)
    machine.put("etc/contextagent/policy.yaml", f"metadata: {{dialect: {form}}}\n")
    machine.metadata = service.url
    machine.run("run", "--disk", "none")
    found = features(machine)
    assert found["machine/total_cpu"] == "7", machine.status()
    assert found["job/wall_limit_secs"] == "50000"
    assert int(found["machine/shutdowntime"]) <= SOON
    assert output(machine, "user/post-network/user-data").strip() == f"{service.url}/joboutputs"
