"""Whether cloud-init in the same image would run the user data itself (docs/reference/context.md, "cloud-init")."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.host import Host

_PROGRAMS = ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init")
_CONFIG = "/etc/cloud"
_MAX_BYTES = 1 << 20


def is_enabled(host: Host) -> bool:
    """Return whether cloud-init is installed below the root, not switched off, and has a data source to look at."""
    if not any(host.files.exists(program) for program in _PROGRAMS):
        return False
    if host.files.exists(f"{_CONFIG}/cloud-init.disabled") or "cloud-init=disabled" in host.kernel_words():
        return False
    return _data_sources(host) != ["None"]


def _data_sources(host: Host) -> object:
    """Return cloud-init's `datasource_list`: the last one named, in the order in which it reads its files."""
    from contextagent.thirdparty import load  # noqa: PLC0415  # only images with cloud-init pay for YAML

    yaml = load("yaml")
    drop_ins = [f"{_CONFIG}/cloud.cfg.d/{entry.name}" for entry in host.files.folder(f"{_CONFIG}/cloud.cfg.d")]
    found: object = None
    for path in (f"{_CONFIG}/cloud.cfg", *(path for path in drop_ins if path.endswith(".cfg"))):
        try:
            config = yaml.safe_load(host.files.read(path, max_bytes=_MAX_BYTES))
        except (OSError, yaml.YAMLError):
            continue  # cloud-init passes over such a file, too
        if isinstance(config, dict) and "datasource_list" in config:
            found = [str(name) for name in config["datasource_list"] or ()]
    return found
