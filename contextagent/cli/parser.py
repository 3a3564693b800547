"""The parser of everything but a boot's own words: verbs, options, help with examples."""

from __future__ import annotations

import argparse
from importlib import import_module

from contextagent import __version__
from contextagent.cli import FLAGS, VERBS, WITH_VALUE
from contextagent.cli.text import Shell
from contextagent.errors import UsageError
from contextagent.host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_GLOBAL = ("--root", "--policy", "--debug")
_EXAMPLES = """examples:
  contextagent plan --disk context.iso            what a boot with this disk would do
  contextagent run --disk context.iso --root /tmp/trial   a trial below a folder
  contextagent explain                            why this boot went as it did
  contextagent lint my-context/                   every mistake at once"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are the agent's: exit code 64, and what to do about it."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong."""
        verb = self.prog.removeprefix("contextagent").strip() or "contextagent"
        text = f"cannot understand '{verb}': {message}"
        raise UsageError(text, hint=f"see: {self.prog} --help")


def make_parser(chosen: str = "") -> argparse.ArgumentParser:
    """Return the program's parser; the words of the `chosen` verb alone are in it, since each verb is a module."""
    parser = _Parser(
        prog="contextagent",
        description="Contextualise a virtual machine: site and user scripts in order, confined, traced, explained.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"contextagent {__version__}")
    _add_global(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", parser_class=_Parser)
    for verb, (module, summary) in VERBS.items():
        sub = verbs.add_parser(
            verb,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if verb == chosen:
            getattr(import_module(f"contextagent.cli.{module}"), f"add_{verb}")(sub)
            _add_global(sub)
    return parser


def _add_global(parser: argparse.ArgumentParser) -> None:
    """Add the options that may stand before or after the verb; suppressed defaults let either one count."""
    for name in _GLOBAL:
        if name in WITH_VALUE:
            parser.add_argument(name, help=WITH_VALUE[name], default=argparse.SUPPRESS, metavar=name[2:].upper())
        else:
            parser.add_argument(name, help=FLAGS[name], action="store_true", default=argparse.SUPPRESS)


def parse_and_run(argv: Sequence[str]) -> int:
    """Parse the words, run the verb, and return its exit code.

    Raises:
        UsageError: The words are off.
    """
    parser = make_parser(next((word for word in argv if word in VERBS), ""))
    options = parser.parse_args(argv)
    if options.verb is None:
        message = "cannot do 'nothing': a verb is missing"
        raise UsageError(message, hint="see: contextagent --help")
    module, _ = VERBS[options.verb]
    shell = Shell(
        Host(getattr(options, "root", "/")),
        policy_override=getattr(options, "policy", None),
        is_json=getattr(options, "format", "text") == "json",
    )
    run = getattr(import_module(f"contextagent.cli.{module}"), f"run_{options.verb}")
    code: int = run(options, shell)
    return code
