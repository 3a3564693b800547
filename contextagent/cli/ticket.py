"""What a site admin sends in a ticket: `collect-logs`."""

from __future__ import annotations

from contextagent.cli.report import explained, shown_status
from contextagent.cli.text import add_format, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from contextagent.cli.text import Shell
    from contextagent.kit.ticket import Ticket


def add_collect_logs(parser: argparse.ArgumentParser) -> None:
    """Add the words of `collect-logs`."""
    parser.description = (
        "Write one archive for a bug report: status, settings, traces, receipts, versions, the units' state, and\n"
        "which files there are. No script, output, user data, context.sh or key is in it; a free text of a setting is\n"
        "told by its length, and what looks like a secret is masked. The file is yours alone (0600); one that is\n"
        "there already is left alone. What can't be had, as on a machine where half of it is broken, is named; the\n"
        "rest is kept."
    )
    parser.epilog = "example:\n  contextagent collect-logs /tmp/ticket-4711.tar.gz"
    parser.add_argument("file", metavar="FILE.tar.gz", help="where to; nothing may be there")
    add_format(parser)


def run_collect_logs(options: argparse.Namespace, shell: Shell) -> int:
    """Write the archive; print what is in it, and what could not be had.

    Raises:
        ContextAgentError: As `kit.ticket.collect` does.
    """
    from contextagent.kit.ticket import collect  # noqa: PLC0415  # one module a verb

    say = {
        "status.txt": lambda: shown_status(shell.host),
        "explain.txt": lambda: explained(shell.host),
    }
    ticket = collect(shell.host, options.file, say, policy_override=shell.policy_override)
    shell.emit(
        {
            "path": ticket.path,
            "bytes": ticket.size_bytes,
            "sha512": ticket.sha512,
            "pieces": list(ticket.pieces),
            "missing": list(ticket.missing),
        },
        "\n".join(_lines(ticket)),
    )
    return 0


def _lines(ticket: Ticket) -> Iterator[str]:
    yield from (f"  {printable(name)}" for name in ticket.pieces)
    yield from (f"  not to be had: {printable(why)}" for why in ticket.missing)
    size = f"{len(ticket.pieces)} pieces, {ticket.size_bytes} bytes"
    yield f"{printable(ticket.path)}: {size}; look through it before you send it"
    yield f"sha512 {ticket.sha512}"
