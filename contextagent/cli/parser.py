"""The parser of everything but a boot's own words: verbs, options, help with examples."""

from __future__ import annotations

import argparse
import difflib
import io
import re
import sys
from importlib import import_module

from contextagent import __version__
from contextagent.cli import FLAGS, VERBS, WITH_VALUE, check_root
from contextagent.cli.text import Shell, add_format
from contextagent.errors import UsageError
from contextagent.host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

LATER = {
    "image": "describe, check, seal and compare images",
}
"""Verbs of later versions, refused by name."""
_GLOBAL = ("--root", "--policy", "--debug")
_MAKES_ROOT = ("run", "plan")
_EXAMPLES = """examples:
  contextagent plan --disk context.iso            what a boot with this disk would do
  contextagent run --disk context.iso --root /tmp/trial   a trial below a folder
  contextagent explain                            why this boot went as it did
  contextagent lint my-context/                   every mistake at once"""
_MISSING = "the following arguments are required: "
_CHOICE = re.compile(r"argument (?P<name>.+?): invalid choice: '(?P<word>.*)' \(choose from (?P<words>.*)\)", re.DOTALL)
_ARGUMENT = re.compile(r"argument (?P<name>.+?): (?P<cause>.*)", re.DOTALL)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are the agent's: exit code 64, and what to do about it."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong, named as the agent names things."""
        choice, argument = _CHOICE.fullmatch(message), _ARGUMENT.fullmatch(message)
        if choice:
            words = choice["words"].replace("'", "").split(", ")
            raise _misunderstood(self.prog, choice["word"], f"{choice['name']} is one of {', '.join(words)}", words)
        if message.startswith(_MISSING):
            text = f"cannot run '{self.prog.removeprefix('contextagent ')}': missing {message.removeprefix(_MISSING)}"
            raise UsageError(text, hint=f"see: {self.prog} --help")
        if argument:
            raise _misunderstood(
                self.prog, argument["name"], argument["cause"].replace("expected one argument", "its value is missing")
            )
        raise _misunderstood(self.prog, self.prog, message)

    def spellings(self) -> set[str]:
        """Return every option of this parser, and of those below it."""
        below = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001  # it has no other name
        parsers = [parser for action in below for parser in action.choices.values()]
        return set(self._option_string_actions).union(*(parser.spellings() for parser in parsers))


def _misunderstood(prog: str, word: str, cause: str, like: Iterable[str] = ()) -> UsageError:
    """Return the error about one word, with the words that may have been meant."""
    meant = difflib.get_close_matches(word, sorted(like), n=1)
    guess = f"did you mean '{meant[0]}'? " if meant else ""
    return UsageError(f"cannot understand '{word}': {cause}", hint=f"{guess}see: {prog} --help")


def make_parser(chosen: str = "") -> _Parser:
    """Return the program's parser; the words of the `chosen` verb alone are in it, since each verb is a module."""
    parser = _Parser(
        prog="contextagent",
        description="Contextualise a virtual machine: site and user scripts in order, confined, traced, explained.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"contextagent {__version__}")
    add_global(parser)
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
            getattr(import_module(f"contextagent.cli.{module}"), f"add_{_spelled(verb)}")(sub)
            add_global(sub)
    return parser


def _spelled(verb: str) -> str:
    """Return a verb as it stands in the names of its functions."""
    return verb.replace("-", "_")


def add_global(parser: argparse.ArgumentParser) -> None:
    """Add the options that may stand before or after the verb; suppressed defaults let either one count."""
    for name in _GLOBAL:
        if name in WITH_VALUE:
            add_valued(parser, name, default=argparse.SUPPRESS)
        else:
            parser.add_argument(name, help=FLAGS[name], action="store_true", default=argparse.SUPPRESS)


def add_action(actions: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:  # noqa: ANN401  # private type
    """Add and return one action of a verb, which prints facts."""
    action: argparse.ArgumentParser = actions.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_format(action)
    add_global(action)
    return action


def add_valued(parser: argparse.ArgumentParser, name: str, *, default: str | None) -> None:
    """Add an option with a value, as `WITH_VALUE` has it; an empty one is refused, since it would mean the default."""
    metavar, summary = WITH_VALUE[name]
    parser.add_argument(name, help=summary, default=default, metavar=metavar, type=_filled)


def _filled(text: str) -> str:
    if not text:
        message = "its value is empty"
        raise argparse.ArgumentTypeError(message)
    return text


def parse_and_run(argv: Sequence[str]) -> int:
    """Parse the words, run the verb, and return its exit code.

    Raises:
        UsageError: The words are off.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that can't show a letter is no reason to stop
    verb, words = _verb_first(argv)
    try:
        options = _parse(verb, words)
    except SystemExit:  # --help or --version was printed: every error is raised as one
        return 0
    verb, root = str(options.verb), getattr(options, "root", None)
    if root is not None:
        check_root(root, is_made=verb in _MAKES_ROOT)
    shell = Shell(
        Host(root or "/"),
        policy_override=getattr(options, "policy", None),
        is_json=getattr(options, "format", "text") == "json",
    )
    module, _ = VERBS[verb]
    run = getattr(import_module(f"contextagent.cli.{module}"), f"run_{_spelled(verb)}")
    code: int = run(options, shell)
    return code


def _verb_first(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the verb, None without one, and the words with the verb in front: any option may stand before it."""
    index = 0
    while index < len(argv) and argv[index].startswith("-") and argv[index] != "--":
        index += 2 if argv[index] in (*WITH_VALUE, "--format") else 1
    if index >= len(argv):
        return None, list(argv)
    return argv[index], [argv[index], *argv[:index], *argv[index + 1 :]]


def _parse(verb: str | None, words: Sequence[str]) -> argparse.Namespace:
    """Return the words of a verb that there is, as `verb` and options."""
    if verb in LATER:
        message = f"cannot run '{verb}': not yet supported"
        raise UsageError(message, hint="verbs of this version: contextagent --help")
    if verb is not None and verb not in VERBS:
        meant = difflib.get_close_matches(verb, [*VERBS, *LATER], n=1)
        guess = f"did you mean '{meant[0]}'? " if meant else ""
        message = f"cannot run '{verb}': no such verb"
        raise UsageError(message, hint=f"{guess}all verbs: contextagent --help")
    command = ["contextagent", *([verb] if verb else [])]
    parser = make_parser(verb or "")
    known = parser.spellings()
    options = words[: words.index("--")] if "--" in words else words
    for name in (word.partition("=")[0] for word in options):
        if name.startswith("--") and name not in known:
            raise _misunderstood(" ".join(command), name, "no such option", known)
    parsed, rest = parser.parse_known_args(words)
    if rest:
        command += [parsed.action] if hasattr(parsed, "action") else []
        cause = "no such option" if rest[0].startswith("-") else "one word too many"
        raise _misunderstood(" ".join(command), rest[0], cause)
    if verb is None:
        message = "cannot run 'contextagent': missing a verb"
        raise UsageError(message, hint="all verbs: contextagent --help")
    return parsed
