"""One boot in one page: `receipt`."""

from __future__ import annotations

from contextagent import jsontext
from contextagent.cli.streams import log_names
from contextagent.cli.text import NOTHING, add_format, brief, printable, table
from contextagent.errors import UnknownError
from contextagent.runner.journal import read_records, receipt_path
from contextagent.trace.receipt import make_receipt

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from typing import Any

    from contextagent.cli.text import Shell
    from contextagent.host import Host

_MAX_RECEIPT_BYTES = 64 << 20
_SCRIPT_COLUMNS = ("id", "sha512", "profile", "uid", "reason", "exit", "duration_s")


def add_receipt(parser: argparse.ArgumentParser) -> None:
    """Add the words of `receipt`."""
    parser.epilog = "example:\n  contextagent receipt --format json"
    parser.add_argument("--boot", metavar="ID", help="boot to tell of (default: this one)")
    add_format(parser)


def run_receipt(options: argparse.Namespace, shell: Shell) -> int:
    """Print a boot's receipt up to now: what was written of it, and what the trace says since.

    Raises:
        UnknownError: Nothing is known of that boot.
        RefusedError: The caller may not read the trace.
    """
    log_names(shell.host)
    boot_id = options.boot or shell.host.boot_id()
    receipt = make_receipt(read_records(shell.host, boot_id), _written(shell.host, boot_id))
    if receipt["last"] is None:
        message = f"cannot find the receipt of boot '{boot_id}': it has no trace here"
        raise UnknownError(message, hint="contextagent trace show")
    shell.emit(receipt, "\n".join(_receipt_lines(receipt)))
    return 0


def _written(host: Host, boot_id: str) -> dict[str, Any]:
    """Return what the receipt that the agent wrote knows beyond the trace; nothing where it can't be read."""
    try:
        found = jsontext.loads(host.files.read(receipt_path(boot_id), max_bytes=_MAX_RECEIPT_BYTES))
        return {"trust": found["trust"], "scripts": {script["id"]: script for script in found["scripts"]}}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _receipt_lines(receipt: Mapping[str, Any]) -> Iterator[str]:
    for key, value in receipt.items():
        if key == "scripts" and value:
            yield "scripts:"
            rows = [[_script_cell(script, column) for column in _SCRIPT_COLUMNS] for script in value]
            yield from (
                f"  {line}" for line in table([column.upper() for column in _SCRIPT_COLUMNS], rows).splitlines()
            )
        elif key in ("first", "last") and value:
            yield f"{key}: record {value['seq']}, hash {printable(str(value['hash']))}"  # whole: it serves as an anchor
        elif isinstance(value, list) and value:
            yield f"{key}:"
            yield from (f"  {_line(item)}" for item in value)
        elif value not in NOTHING:
            yield f"{key}: {_line(value)}"


def _script_cell(script: Mapping[str, Any], column: str) -> str:
    value = script.get(column)
    return "-" if value in NOTHING else brief(value)


def _line(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={printable(brief(item))}" for key, item in value.items() if item not in NOTHING)
    return printable(brief(value))
