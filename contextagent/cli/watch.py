"""The verb of the one process that stays: `watch`."""

from __future__ import annotations

from contextagent.cli.line import is_beyond, off_switch
from contextagent.errors import RefusedError
from contextagent.host import Host
from contextagent.runner.live import load_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from contextagent.cli.text import Shell

_EXAMPLES = """examples:
  contextagent watch                what the unit behind post-network does
  contextagent watch --root /tmp/trial"""


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Add `watch`'s words: none of its own."""
    parser.epilog = _EXAMPLES


def run_watch(options: argparse.Namespace, shell: Shell) -> int:
    """Watch what the parser understood; raises as `watch`."""
    del options
    return watch(shell.host, shell.policy_override)


def watch_here() -> int:
    """Watch this machine, as init has it done, without the parser; raises as `watch`."""
    return watch(Host("/"), None)


def watch(host: Host, policy: str | None) -> int:
    """Watch until SIGTERM; return 0, at once where nothing was published in this boot.

    Raises:
        RefusedError: It is this machine, and the caller is not root.
        ContextAgentError: As `keep_watch` says.
    """
    if is_beyond(host):
        message = "cannot run 'watch': only root may watch this machine"
        raise RefusedError(message, hint="for a trial below a folder of your own: contextagent watch --root DIR")
    if off_switch(host) or load_live(host) is None:
        return 0
    from contextagent.watch.entry import keep_watch  # noqa: PLC0415  # a machine without a context pays for none of it

    keep_watch(host, policy)
    return 0
