"""The `vac` dialect: Nova's words under names with hyphens, as a Vac factory answers them.

Vac shows no index: `/`, `/latest/` and `/openstack/` are 404 there.  Its features and outputs are on another address,
169.254.169.253, which the `meta` map names.
"""

from __future__ import annotations

from contextagent.sources.dialects import json_meta, known_address, openstack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.model import Reading

NAME = "vac"
META_DATA = "/openstack/latest/meta-data.json"
USER_DATA = "/openstack/latest/user-data"

address = known_address


def read(meta: bytes) -> Reading:
    """Return the keys, the meta map, and the instance's id, which is the factory's job id.

    Raises:
        BrokenSourceError: It is no JSON object.
    """
    return openstack.said(json_meta(meta, META_DATA), NAME, META_DATA)
