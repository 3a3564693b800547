"""Make a config drive with Nova's own code: run by the interpreter of an environment that has Nova.

    python nova_drive.py IMAGE

Nova is not among this project's libraries, so its names are unknown to the type checker.
"""

from __future__ import annotations

import base64
import sys

from nova import conf, context, objects
from nova.api.metadata import base
from nova.network import model, security_group_api
from nova.virt import configdrive

UUID = "9f5c1a44-3f5e-4a9a-8d0f-5a8f2e0c7b11"
KEY = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 nova@example.org"
USER_DATA = b"#!/bin/sh\necho a user of Nova's\n"


def main(image: str) -> None:
    """Make the drive of an instance that no database knows."""
    # one piece: what Nova wants to know of an instance, and no more
    conf.CONF([], project="nova", default_config_files=[])
    objects.register_all()
    admin = context.get_admin_context()
    key = objects.KeyPair(admin, name="mykey", user_id="user", public_key=KEY, type="ssh")
    instance = objects.Instance(
        admin,
        id=42,
        uuid=UUID,
        hostname="worker-1",
        display_name="worker-1",
        project_id="project",
        user_id="user",
        image_ref="",
        kernel_id="",
        ramdisk_id="",
        launch_index=0,
        reservation_id="r-1",
        availability_zone="nova",
        host="node",
        node="node",
        root_device_name="/dev/vda",
        default_ephemeral_device=None,
        default_swap_device=None,
        key_name="mykey",
        key_data=KEY,
        user_data=base64.b64encode(USER_DATA).decode(),
        metadata={"role": "worker"},
        system_metadata={},
        flavor=objects.Flavor(
            admin, name="small", flavorid="1", memory_mb=1, vcpus=1, root_gb=1, ephemeral_gb=0, swap=0
        ),
        info_cache=objects.InstanceInfoCache(admin, instance_uuid=UUID, network_info=model.NetworkInfo()),
        keypairs=objects.KeyPairList(objects=[key]),
        ec2_ids=objects.EC2Ids(admin, instance_id="i-0000002a", ami_id="ami-1", kernel_id=None, ramdisk_id=None),
        device_metadata=None,
        numa_topology=None,
        security_groups=objects.SecurityGroupList(objects=[]),
    )
    # the two questions that would go to the database and to Neutron
    base._format_instance_mapping = lambda _instance: {}
    security_group_api.get_instance_security_groups = lambda *_arguments: []
    metadata = base.InstanceMetadata(instance, network_info=model.NetworkInfo(), extra_md={"admin_pass": "secret"})
    with configdrive.ConfigDriveBuilder(instance_md=metadata) as builder:
        builder.make_drive(image)


main(sys.argv[1])
