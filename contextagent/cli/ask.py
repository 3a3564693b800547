"""The verb that tells one fact: `query`."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.cli.text import add_format, printable, table
from contextagent.errors import InvalidInputError, UnknownError
from contextagent.policy.schema import ROWS, find, script_key
from contextagent.policy.settings import hear, load_image_policy, shown
from contextagent.runner.state import load
from contextagent.runner.status import read_status, status_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from contextagent.cli.text import Shell
    from contextagent.host import Host
    from contextagent.model import Supply
    from contextagent.policy.settings import Settings

_EXAMPLES = """examples:
  contextagent query policy                every setting, and who set it where
  contextagent query policy.disk           the settings of one section
  contextagent query context.instance_id
  contextagent query status.phases.post-network.state"""
_SUPPLIED = ("source", "trust", "variables", "features", "user_data", "digest")


def add_query(parser: argparse.ArgumentParser) -> None:
    """Add `query`'s words."""
    parser.epilog = _EXAMPLES
    parser.add_argument("key", metavar="KEY", help="dotted: policy…, context… or status…")
    add_format(parser)


def run_query(options: argparse.Namespace, shell: Shell) -> int:
    """Print what the key stands for.

    Raises:
        UnknownError: It is not known, or nothing is there.
        InvalidInputError: The image's policy, or the published status, is invalid.
    """
    root, _, rest = options.key.partition(".")
    if root == "policy":
        _print_settings(rest, options.key, shell)
        return 0
    if root not in ("context", "status"):
        raise UnknownError(
            f"cannot tell '{options.key}': no such key", hint="keys begin with policy, context or status"
        )
    status = _status(shell.host)
    found = _lookup(_context(shell.host, status) if root == "context" else status, rest)
    if found is None:
        message = f"cannot tell '{options.key}': nothing is known of it"
        only_root = "" if shell.host.caller()[0] == 0 else "most of it is for root to read"
        raise UnknownError(message, hint=only_root if status else "the agent has not run in this boot")
    shell.emit(found, _text(found))
    return 0


def _print_settings(prefix: str, asked: str, shell: Shell) -> None:
    image = load_image_policy(shell.host, shell.policy_override, may_write=False)
    known = load(shell.host)
    heard = hear(image, known.supplies, known.layers) if known else hear(image, {})
    settings = heard.settings
    names = _names(settings, prefix)
    if not names:
        raise UnknownError(f"cannot tell '{asked}': no such key", hint="all keys: contextagent query policy")
    if not prefix:
        for problem in (*settings.warnings, *heard.problems):
            shell.warn(problem)
    facts = {name: _fact(settings, name) for name in names}
    rows = [(name, _where(settings, name), shown(settings[name])) for name in names]
    shell.emit(facts.get(prefix, facts), table(("KEY", "WHO SET IT", "VALUE"), rows))


def _names(settings: Settings, prefix: str) -> list[str]:
    """Return the keys that `prefix` stands for: itself, all below it, or all fields of a script that has none set."""
    names = [name for name in settings.names() if not prefix or name == prefix or name.startswith(f"{prefix}.")]
    if names:
        return names
    section, _, script_id = prefix.partition(".")
    if section != "scripts" or script_id.count("/") < len(("owner", "phase")):
        return []
    if find(prefix):
        return [prefix]
    fields = [row[0].rpartition(".")[2] for row in ROWS if row[0].startswith("scripts.")]
    return [script_key(script_id, field) for field in fields]


def _fact(settings: Settings, name: str) -> dict[str, Any]:
    origin = settings.origin(name)
    return {"value": settings[name], **origin.as_dict(), "supported": _is_supported(name)}


def _where(settings: Settings, name: str) -> str:
    origin = settings.origin(name)
    is_idle = origin.voice != "default" and not _is_supported(name)
    return origin.text() + (" (no effect yet)" if is_idle else "")


def _is_supported(name: str) -> bool:
    key = find(name)
    return key is not None and key.is_supported


def _status(host: Host) -> dict[str, Any]:
    """Return this boot's status; empty where the agent has not run in it."""
    try:
        status = read_status(host)
    except ValueError as error:
        raise InvalidInputError(f"cannot read '{status_path(host)}': {error}") from error
    return status if status and status.get("boot_id") == host.boot_id() else {}


def _context(host: Host, status: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of this boot's context; what only root may read is missing for everybody else."""
    if not status:
        return {}
    facts: dict[str, Any] = {key: status[key] for key in ("instance_id", "boot_id", "sources", "trust", "verdicts")}
    known = load(host)
    if known is None or known.instance_id != status["instance_id"]:
        return facts
    facts["ids"] = dict(known.ids)
    facts.update((owner, _supplied(supply)) for owner, supply in known.supplies.items() if supply)
    return facts


def _supplied(supply: Supply) -> dict[str, Any]:
    named = {"scripts": [script.id for script in supply.scripts], "files": [placed.target for placed in supply.files]}
    return {key: value for key, value in supply.fields() if key in _SUPPLIED} | named


def _lookup(found: Any, dotted: str) -> Any:  # noqa: ANN401  # JSON
    """Return what a dotted path leads to, or None; names may have dots in them, lists go by index."""
    if not dotted:
        return found or None
    words = dotted.split(".")
    for count in range(len(words), 0, -1):
        name, rest = ".".join(words[:count]), ".".join(words[count:])
        below = _item(found, name)
        if below is not None:
            return _lookup(below, rest) if rest else below
    return None


def _item(found: Any, name: str) -> Any:  # noqa: ANN401  # JSON
    if isinstance(found, dict):
        return found.get(name)
    is_index = isinstance(found, list) and name.isascii() and name.isdigit() and len(name) < len("1000000")
    return found[int(name)] if is_index and int(name) < len(found) else None


def _text(found: object) -> str:
    """Return a fact for people: a scalar as it is, all else as JSON."""
    if isinstance(found, (dict, list)):
        return jsontext.dumps(found, indent=2)
    return printable(shown(found))
