"""The `openstack` dialect: Nova's own tree, `/openstack/latest/`."""

from __future__ import annotations

from contextagent.model import Problem, Reading
from contextagent.sources import nova
from contextagent.sources.dialects import is_id, json_meta, known_address

NAME = "openstack"
META_DATA = "/openstack/latest/meta_data.json"
USER_DATA = "/openstack/latest/user_data"

address = known_address


def read(meta: bytes) -> Reading:
    """Return the user's keys and meta map, and the instance's id; vendor data is not even asked for.

    Raises:
        BrokenSourceError: It is no JSON object.
    """
    found = json_meta(meta, META_DATA)
    return said(found, NAME, META_DATA)


def said(found: dict[str, object], name: str, path: str) -> Reading:
    """Return what meta data in Nova's words says, in the dialect of that name."""
    uuid = found.get("uuid")
    uuid = uuid.strip() if isinstance(uuid, str) else uuid
    warnings = nova.injected_files(found, path)
    if not is_id(uuid):
        message = "no 'uuid' that could be one: known by the machine's own id instead, ignoring it"
        warnings.append(Problem(reason="no-instance-id", message=message, path=path))
    return Reading(
        layout=name,
        offers=tuple(nova.keys(found) + nova.meta_map(found, f"{name}-meta.json")),
        variables_owner="user",
        ids={f"{name}-uuid": str(uuid)} if is_id(uuid) else {},
        requester=nova.requester(found),
        warnings=tuple(warnings),
    )
