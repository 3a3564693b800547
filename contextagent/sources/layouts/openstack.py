"""The `openstack` layout: Nova's config drive, `openstack/<version>/`, or its older `ec2/latest/`."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.errors import BrokenSourceError
from contextagent.sources import nova
from contextagent.sources.layouts import (
    SMALL_BYTES,
    USER_DATA_BYTES,
    LayoutReading,
    cause,
    is_file,
    json_object,
    not_run,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.model import Owner, Problem
    from contextagent.sources.media import NamedMedium

_EC2 = "ec2/latest"


def read(
    medium: NamedMedium,
    *,
    label: str,  # noqa: ARG001  # the usual label, config-2, is only a hint
    flat_owner: Owner,  # noqa: ARG001  # nothing here is a flat name
    is_site_trusted: bool,  # noqa: ARG001  # all of it is the user's
) -> tuple[LayoutReading, ...]:
    """Return the user's data, keys and meta map, and the instance's id; `ec2/` gives only what `openstack/` has not."""
    version = _version(medium)
    if version:
        return (_openstack(medium, f"openstack/{version}"),)
    if is_file(medium, f"{_EC2}/meta-data.json"):
        return (_ec2(medium),)
    return ()


def _version(medium: NamedMedium) -> str:
    """Return the folder to read: `latest`, else the highest dated version; empty where there is neither."""
    found = [
        entry.name
        for entry in medium.folder("openstack")
        if entry.kind == "folder"
        and any(is_file(medium, f"{entry.path}/{name}") for name in ("meta_data.json", "user_data"))
    ]
    if "latest" in found:
        return "latest"
    return max((name for name in found if name[:1].isdigit()), default="")


def _read(
    medium: NamedMedium, meta_path: str, user_data_path: str, *, has_meta: bool
) -> tuple[dict[str, object], bytes | None, dict[Owner, str]]:
    """Return meta data, user data, and whose part is broken by what can't be read.

    Without `has_meta` there may be no meta data: that has to be looked at first, and no file is no fault.
    """
    meta: dict[str, object] = {}
    try:
        if has_meta or is_file(medium, meta_path):
            meta = json_object(medium, meta_path)
        return meta, _user_data(medium, user_data_path), {}
    except BrokenSourceError as error:
        return meta, None, {"user": cause(error)}


def _openstack(medium: NamedMedium, folder: str) -> LayoutReading:
    meta, user_data, broken = _read(medium, f"{folder}/meta_data.json", f"{folder}/user_data", has_meta=False)
    uuid = meta.get("uuid")
    return LayoutReading(
        layout="openstack",
        offers=tuple(nova.keys(meta) + nova.meta_map(meta, "openstack-meta.json")),
        user_data=user_data,
        ids={"openstack-uuid": uuid} if isinstance(uuid, str) and uuid else {},
        warnings=_passed_over(medium, folder, meta),
        broken=broken,
    )


def _ec2(medium: NamedMedium) -> LayoutReading:
    meta, user_data, broken = _read(medium, f"{_EC2}/meta-data.json", f"{_EC2}/user-data", has_meta=True)
    instance_id = meta.get("instance-id")
    return LayoutReading(
        layout="openstack",
        offers=tuple(nova.keys(meta, "public-keys")),
        user_data=user_data,
        ids={"ec2-instance-id": instance_id} if isinstance(instance_id, str) and instance_id else {},
        broken=broken,
    )


def _user_data(medium: NamedMedium, path: str) -> bytes | None:
    return (medium.read(path, max_bytes=USER_DATA_BYTES) or None) if is_file(medium, path) else None


def _passed_over(medium: NamedMedium, folder: str, meta: dict[str, object]) -> tuple[Problem, ...]:
    problems = [
        not_run(medium, path, "vendor data")
        for path in (f"{folder}/vendor_data.json", f"{folder}/vendor_data2.json")
        if is_file(medium, path) and _says_something(medium, path)
    ]
    return (*problems, *nova.injected_files(meta, medium.name))


def _says_something(medium: NamedMedium, path: str) -> bool:
    """Return whether vendor data holds anything; Nova writes `{}` and `{"static": {}}` where there is none."""
    try:
        data = medium.read(path, max_bytes=SMALL_BYTES)
        value = jsontext.loads(data)
    except (BrokenSourceError, ValueError):
        return True
    return bool(any(value.values()) if isinstance(value, dict) else value)
