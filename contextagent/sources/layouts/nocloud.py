"""The `nocloud` layout: `user-data` and `meta-data` in the root, as cloud-init's NoCloud source has them."""

from __future__ import annotations

from contextagent.errors import BrokenSourceError
from contextagent.model import Problem
from contextagent.sources import nova
from contextagent.sources.layouts import SMALL_BYTES, USER_DATA_BYTES, LayoutReading, cause, is_file, not_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.model import Owner
    from contextagent.sources.media import NamedMedium

_KEY = "instance-id"


def read(
    medium: NamedMedium,
    *,
    label: str,  # noqa: ARG001  # the usual label, cidata, is only a hint
    flat_owner: Owner,  # noqa: ARG001  # nothing here is a flat name
    is_site_trusted: bool,  # noqa: ARG001  # all of it is the user's
) -> tuple[LayoutReading, ...]:
    """Return the user data and the instance's id."""
    if not (is_file(medium, "user-data") and is_file(medium, "meta-data")):
        return ()
    try:
        user_data = medium.read("user-data", max_bytes=USER_DATA_BYTES)
        instance_id = _instance_id(medium.read("meta-data", max_bytes=SMALL_BYTES))
    except BrokenSourceError as error:
        return (LayoutReading(layout="nocloud", broken={"user": cause(error)}),)
    warnings: list[Problem] = []
    if not instance_id:
        message = f"no '{_KEY}' in meta-data: known by the machine's own id instead, ignoring it"
        warnings.append(Problem(reason="no-instance-id", message=message, path=medium.name))
    if is_file(medium, "vendor-data"):
        warnings.append(not_run(medium, "vendor-data", "vendor data"))
    return (
        LayoutReading(
            layout="nocloud",
            user_data=user_data or None,
            ids={"nocloud-instance-id": instance_id} if instance_id else {},
            warnings=tuple(warnings),
        ),
    )


def _instance_id(data: bytes) -> str:
    """Return the instance's id; empty where none is said.

    The file is YAML, of which one plain line matters: reading just that keeps a YAML parser away from foreign bytes,
    and its import out of the boot.
    """
    text = data.decode("utf-8", "replace").removeprefix("\ufeff").strip()
    if text.startswith("{"):
        try:
            return str(nova.parsed(text.encode()).get(_KEY) or "")
        except ValueError:
            return ""
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip("\"' ") == _KEY and not name.startswith((" ", "\t")):
            value = value.strip()
            if value[:1] in ("'", '"'):
                return value[1:].partition(value[0])[0]
            return value.partition(" #")[0].strip()
    return ""
