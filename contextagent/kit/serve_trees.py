"""What the metadata services of clouds say of one machine, each in its own tree of paths."""

from __future__ import annotations

import uuid

from contextagent import jsontext
from contextagent.host.serving import Reply
from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any, Literal

    Leaves = dict[str, "str | Leaves"]
    TreeName = Literal["openstack", "vac", "ec2", "nimbus", "cloudstack"]

OPENSTACK_VERSIONS = (
    "2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27",
    "latest",
)  # fmt: skip
"""Nova's own list, up to the newest that changes nothing here."""
EC2_VERSIONS = (
    "1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01",
    "2009-04-04", "latest",
)  # fmt: skip
"""As Nova has them: of a newer version, clients expect interfaces, which a folder knows nothing of."""
OPENSTACK_NAMES = (
    "uuid", "name", "launch_index", "availability_zone", "public_keys", "meta", "keys", "files", "devices",
    "project_id", "random_seed", "admin_pass",
)  # fmt: skip
"""Of meta data, what is OpenStack's alone; what has a hyphen in its name is EC2's; `hostname` is both's."""
_KEYS = ("public_keys", "public-keys", "ssh_authorized_keys")


class Machine(Value):
    """What is known of the machine that asks.

    Attributes:
        uuid: As OpenStack has it.
        instance_id: As EC2 has it.
        hostname: Its name.
        address: Its address.
        keys: Login keys: name and line.
        meta: All of its meta data, as written.
    """

    uuid: str
    instance_id: str
    hostname: str
    address: str
    keys: tuple[tuple[str, str], ...]
    meta: Mapping[str, Any]


def machine_of(meta: Mapping[str, Any], *, top: str, address: str) -> Machine:
    """Return what meta data says of a machine, completed by what follows from where the folder is and who asks.

    Args:
        meta: Names as OpenStack (`uuid`, `public_keys`) or as EC2 and NoCloud have them (`instance-id`).
        top: The folder's real path.
        address: The machine's address.
    """
    said = str(meta.get("instance-id") or meta.get("instance_id") or "")
    own = str(meta.get("uuid") or _as_uuid(said) or uuid.uuid5(uuid.NAMESPACE_URL, said or f"file://{top}#{address}"))
    names = (meta.get(name) for name in ("hostname", "local-hostname", "name"))
    hostname = next((str(name) for name in names if name), "vm-" + address.translate(str.maketrans(".:%", "---")))
    return Machine(
        uuid=own,
        instance_id=said or "i-" + own.replace("-", "")[:17],
        hostname=hostname,
        address=address,
        keys=tuple(_keys(meta)),
        meta=meta,
    )


def openstack_meta(machine: Machine) -> dict[str, object]:
    """Return OpenStack's `meta_data.json`, which Vac calls `meta-data.json`."""
    said = {name: value for name, value in machine.meta.items() if "-" not in name and name not in _KEYS}
    made: dict[str, object] = {
        "uuid": machine.uuid,
        "name": machine.hostname,
        "hostname": machine.hostname,
        "launch_index": 0,
        "availability_zone": "nova",
        "public_keys": dict(machine.keys),
    }
    return {**made, **said}


def ec2_meta(machine: Machine) -> Leaves:
    """Return EC2's `meta-data/` as a tree of texts."""
    host = machine.hostname
    made: Leaves = {
        "ami-id": "ami-00000000",
        "ami-launch-index": "0",
        "ami-manifest-path": "FIXME",
        "block-device-mapping": {"ami": "vda", "root": "/dev/vda"},
        "hostname": host,
        "instance-action": "none",
        "instance-id": machine.instance_id,
        "instance-type": "none",
        "local-hostname": host,
        "local-ipv4": machine.address if ":" not in machine.address else "",
        "placement": {"availability-zone": str(machine.meta.get("availability_zone", "nova"))},
        "public-hostname": host,
        "public-ipv4": "",
        "reservation-id": "r-" + machine.uuid.replace("-", "")[:8],
        "security-groups": "default",
    }
    for name, value in machine.meta.items():
        if name not in (*OPENSTACK_NAMES, *_KEYS) and "/" not in name:
            made[name] = _leaves(value)
    if machine.keys:
        made["public-keys"] = {str(index): {"openssh-key": line} for index, (_, line) in enumerate(machine.keys)}
    return made


def ec2_reply(
    leaves: Leaves, path: Sequence[str], keys: Sequence[tuple[str, str]], more: Collection[str]
) -> Reply | None:
    """Return what stands at a path below `meta-data/`: a value, or a folder's index; None where nothing is.

    Args:
        leaves: The tree.
        path: The path's components.
        keys: Login keys, whose index has their names.
        more: Other names to be listed in the index.
    """
    at: str | Leaves = leaves
    for name in path:
        if not isinstance(at, dict) or name not in at:
            return index_reply(more) if more else None
        at = at[name]
    if isinstance(at, str):
        return Reply(status=200, body=at.encode())
    if list(path) == ["public-keys"]:
        return index_reply(f"{index}={name}" for index, (name, _) in enumerate(keys))
    return index_reply({*(name + "/" if isinstance(value, dict) else name for name, value in at.items()), *more})


def cloudstack_meta(machine: Machine) -> dict[str, str]:
    """Return CloudStack's names, whose keys are one text."""
    made = {
        "service-offering": "none",
        "availability-zone": str(machine.meta.get("availability_zone", "zone")),
        "local-ipv4": machine.address,
        "local-hostname": machine.hostname,
        "public-ipv4": machine.address,
        "public-hostname": machine.hostname,
        "instance-id": machine.instance_id,
        "vm-id": machine.uuid,
        "public-keys": "".join(f"{line}\n" for _, line in machine.keys),
    }
    return {name: str(machine.meta.get(name, value)) if name not in _KEYS else value for name, value in made.items()}


def index_reply(names: Collection[str] | Any) -> Reply:  # noqa: ANN401  # any iterable of names
    """Return an index, as EC2 has them: one name a line, none after the last."""
    return Reply(status=200, body="\n".join(sorted(names)).encode())


def json_reply(value: object) -> Reply:
    """Return a value as JSON."""
    return Reply(status=200, body=jsontext.dumps(value).encode(), content_type="application/json")


def _as_uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text)) if text else ""
    except ValueError:
        return ""


def _keys(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return login keys from any form: a list, a text of lines, name to line, or index to {`openssh-key`: line}."""
    found: list[tuple[str, str]] = []
    for field in _KEYS:
        value = meta.get(field)
        if isinstance(value, str):
            value = [line for line in value.splitlines() if line.strip()]
        if isinstance(value, list):
            value = {f"key-{index}": line for index, line in enumerate(value)}
        for name, line in value.items() if isinstance(value, dict) else ():
            text = line.get("openssh-key") if isinstance(line, dict) else line
            if isinstance(text, str) and text.strip():
                found.append((str(name), text.strip()))
    return found


def _leaves(value: object) -> str | Leaves:
    if isinstance(value, dict):
        return {str(name): _leaves(inner) for name, inner in value.items() if "/" not in str(name)}
    if isinstance(value, list):
        return "\n".join(str(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
