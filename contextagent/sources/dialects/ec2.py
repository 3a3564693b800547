"""The `ec2` dialect: `/latest/`, of which two names are asked for.

Login keys would take a request for their list and one for each, and are left alone.
"""

from __future__ import annotations

from contextagent.model import Reading
from contextagent.sources.dialects import instance_id, known_address

NAME = "ec2"
META_DATA = "/latest/meta-data/instance-id"
USER_DATA = "/latest/user-data"

address = known_address


def read(meta: bytes) -> Reading:
    """Return the instance's id.

    Raises:
        BrokenSourceError: It is none.
    """
    return said(meta, NAME)


def said(meta: bytes, name: str) -> Reading:
    """Return the id that a service of EC2's kind gives, in the dialect of that name."""
    ids = {f"{name}-instance-id": instance_id(meta, META_DATA)}
    return Reading(layout=name, variables_owner="user", ids=ids)
