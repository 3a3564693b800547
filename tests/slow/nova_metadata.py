"""What Nova's own code says of an instance, as a config drive or by its metadata service.

    python nova_metadata.py drive IMAGE
    python nova_metadata.py serve REQUESTS USER_DATA VENDOR_DATA

It is run by the interpreter of an environment that has Nova.  `serve` writes its port to its output and the path of
each request to the file REQUESTS, and looks at the file USER_DATA anew for each.  Nova is not among this project's
libraries, so its names are unknown to the type checker.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import eventlet
import eventlet.wsgi
from nova import conf, context, objects
from nova.api.metadata import base, handler
from nova.network import model, security_group_api
from nova.virt import configdrive
from oslo_log import log

UUID = "9f5c1a44-3f5e-4a9a-8d0f-5a8f2e0c7b11"
KEY = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 nova@example.org"
USER_DATA = b"#!/bin/sh\necho a user of Nova's\n"


def prepare(vendor_data: str = "") -> None:
    """Let Nova start without a configuration, a database and Neutron."""
    log.register_options(conf.CONF)
    conf.CONF([], project="nova", default_config_files=[])
    conf.CONF.set_override("metadata_cache_expiration", 0, "api")
    if vendor_data:
        conf.CONF.set_override("vendordata_providers", ["StaticJSON"], "api")
        conf.CONF.set_override("vendordata_jsonfile_path", vendor_data, "api")
    objects.register_all()
    # the two questions that would go to the database and to Neutron
    base._format_instance_mapping = lambda _instance: {}
    security_group_api.get_instance_security_groups = lambda *_arguments: []


def metadata(user_data: bytes) -> Any:  # Nova's own
    """Return what Nova says of an instance that no database knows."""
    # one piece: what Nova wants to know of an instance, and no more
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
        user_data=base64.b64encode(user_data).decode() or None,
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
    return base.InstanceMetadata(instance, network_info=model.NetworkInfo(), extra_md={"admin_pass": "secret"})


def drive(image: str) -> None:
    """Make a config drive."""
    prepare()
    with configdrive.ConfigDriveBuilder(instance_md=metadata(USER_DATA)) as builder:
        builder.make_drive(image)


def serve(requests: str, user_data: str, vendor_data: str) -> None:
    """Serve whoever asks, as nova-api-metadata does: its own handler in the server that Nova uses."""
    prepare(vendor_data)
    base.get_metadata_by_address = lambda _address: metadata(Path(user_data).read_bytes())
    application = handler.MetadataRequestHandler()

    def noted(environ: dict[str, Any], start_response: Any) -> Any:
        with Path(requests).open("a") as file:
            file.write(f"{environ['PATH_INFO']}\n")
        return application(environ, start_response)

    listener = eventlet.listen(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    eventlet.wsgi.server(listener, noted, log_output=False)


if sys.argv[1] == "drive":
    drive(sys.argv[2])
else:
    serve(*sys.argv[2:])
