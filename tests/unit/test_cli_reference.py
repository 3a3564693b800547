"""The reference page, the manual page and the completion of bash say what the parser and the code say."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contextagent import errors
from contextagent.cli import VERBS
from contextagent.cli.boot import plan_facts
from contextagent.cli.parser import LATER, make_parser
from contextagent.kit.finding import Finding
from contextagent.kit.simulate import RUN
from contextagent.model import PHASES, Limits, Plan, Step
from contextagent.runner.folders import WORKING
from contextagent.runner.journal import LOGS
from contextagent.runner.state import HOME, LENT, LOCK, State
from contextagent.runner.status import EXIT_CODES, STATUS, make_status
from contextagent.runner.surroundings import USERS_HOME
from contextagent.trace.records import RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/reference/cli.md").read_text()
MANUAL = (REPOSITORY / "docs/man/contextagent.8").read_text()
COMPLETION = (REPOSITORY / "init/completion/contextagent.bash").read_text()
EVERY = ("--debug", "--help", "--policy", "--root")
ACTIONS = {"trace": ("show", "verify"), "features": ("show", "check"), "pilot": ("status", "stop")}
COMMANDS = tuple(
    command for verb in VERBS for command in ([f"{verb} {action}" for action in ACTIONS.get(verb, ())] or [verb])
)


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of one verb, or of one of its actions."""
    parser: argparse.ArgumentParser = make_parser(command.split(maxsplit=1)[0])
    for word in command.split():
        (subs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = subs.choices[word]
    return parser


def shown_actions(command: str) -> Iterator[argparse.Action]:
    """Yield what a command's help shows beyond the options of every verb."""
    for action in parser_of(command)._actions:
        if action.help != argparse.SUPPRESS and not set(EVERY) & set(action.option_strings):
            yield action


def spelled(action: argparse.Action) -> str:
    """Return an option or a word as the page spells it."""
    value = str(action.metavar or action.dest.upper()).replace("|", "\\|") if action.nargs != 0 else ""
    if action.option_strings:
        return ", ".join(f"`{option} {value}".rstrip() + "`" for option in action.option_strings)
    return {"?": f"`[{value}]`", "*": f"`[{value} ...]`"}.get(str(action.nargs), f"`{value}`")


def table(text: str) -> list[str]:
    """Return the first cells of the first table in a text."""
    lines = text[text.index("\n|---") + 1 :].splitlines()[1:]
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append(re.split(r"(?<!\\)\|", line)[1].strip())
    return cells


def section(command: str) -> str:
    """Return what stands under a command's heading."""
    return PAGE.partition(f"\n### {command}\n")[2].partition("\n## ")[0].partition("\n### ")[0]


def marked(marker: str) -> list[str]:
    """Return the first cells of a marked table, without their marks of code."""
    text = PAGE.partition(f"<!-- {marker} -->")[2].partition("<!-- end -->")[0]
    return [cell.strip("`") for cell in table(text)]


def long_options(actions: Iterable[argparse.Action]) -> set[str]:
    return {option for action in actions for option in action.option_strings if option.startswith("--")}


def test_the_page_has_every_command_and_no_other() -> None:
    assert sorted(re.findall(r"^### (.*)$", PAGE, re.MULTILINE)) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_every_word_and_option_of_a_command(command: str) -> None:
    assert sorted(table(section(command))) == sorted(map(spelled, shown_actions(command)))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_an_example_that_the_parser_understands(command: str) -> None:
    (block,) = re.findall(r"^```\n(.*?)^```$", section(command), re.MULTILINE | re.DOTALL)
    examples = [shlex.split(re.sub(r"^.*\| |\s+#.*$", "", line)) for line in block.splitlines()]
    assert all(words[0] == "contextagent" for words in examples)
    for words in examples:
        given = ["0" * 64 if word == "HASH" else word for word in words[1:]]
        assert make_parser(command.split(maxsplit=1)[0]).parse_args(given).verb == command.split(maxsplit=1)[0]


def test_the_page_has_the_options_of_every_verb() -> None:
    options = {option for cell in marked("global") for option in re.findall(r"--[a-z]+", cell)}
    assert options == set(EVERY)
    for command in COMMANDS:
        assert long_options(parser_of(command)._actions) >= options


def test_the_page_has_every_verb_of_a_later_version() -> None:
    text = PAGE.partition("<!-- later -->")[2].partition("<!-- end -->")[0]
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", text, re.MULTILINE)) == LATER
    assert not set(LATER) & set(VERBS)


def test_the_page_has_every_exit_code() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    codes = {each.exit_code for each in classes if issubclass(each, errors.ContextAgentError)}
    assert {int(cell) for cell in marked("codes")} == codes | set(EXIT_CODES.values())


def test_the_page_has_the_agents_files() -> None:
    paths = {path for cell in marked("files") for path in re.findall(r"/[^`, ]+", cell)}
    assert paths >= {f"{folder}/" for folder in (RUN, HOME, LOGS, f"{RUN}/{LENT}", WORKING, USERS_HOME)}
    assert paths >= {f"{RUN}/{name}" for name in (STATUS, LOCK)}


def test_the_page_has_the_keys_of_the_status() -> None:
    status = make_status(State(instance_id="", boot_id=""), order=PHASES)
    assert marked("status") == list(status)
    text = PAGE.partition("<!-- status -->")[2]
    for key in ("state", "started", "finished", "duration_s"):
        assert f"`{key}`" in text.partition("| `phases` |")[2].partition("\n")[0]
        assert key in status["phases"]["stop"]


def test_the_page_has_the_keys_of_a_plan() -> None:
    empty = dict.fromkeys(("id", "kind", "owner", "phase", "sha512", "profile", "frequency", "skip"), "")
    step = Step(**empty, limits=None, late=False)  # type: ignore[arg-type]  # names are what counts
    facts = plan_facts(Plan(phase=None, steps=(step,)))
    assert list(facts) == ["phase", "steps"]
    steps = facts["steps"]
    assert isinstance(steps, list)
    assert marked("step") == list(steps[0])
    limits = PAGE.partition("| `limits` |")[2].partition("\n")[0]
    assert re.findall("`([a-z_]+)`", limits) == list(Limits._fields)


def test_the_page_has_the_fields_of_a_mistake() -> None:
    assert ", ".join(f"`{name}`" for name in Finding._fields) in section("lint")


def test_the_manual_has_every_verb_and_exit_code() -> None:
    synopsis = MANUAL.partition(".Sh SYNOPSIS")[2].partition(".Sh")[0]
    listed = re.findall(r"^\.It Cm ([a-z-]+)$", MANUAL, re.MULTILINE)
    assert tuple(listed) == tuple(VERBS)
    assert all(re.search(rf"^\.Cm (\w+ \| )?{command}\b", synopsis, re.MULTILINE) for command in COMMANDS)
    codes = re.findall(r"^\.It (\d+)$", MANUAL, re.MULTILINE)
    assert codes == marked("codes")


def test_the_manual_names_no_option_that_there_is_not() -> None:
    options = {f"-{name}" for name in re.findall(r"\bFl (-[a-z0-9-]+)", MANUAL)}
    assert options <= set.union(*(long_options(parser_of(command)._actions) for command in COMMANDS))


def offered(command: str) -> set[str]:
    """Return the words that the completion offers behind a command."""
    verb, _, action = command.partition(" ")
    arms = COMPLETION.partition("case $verb in")[2]
    if action:
        arms = arms.partition(f"        {verb})\n")[2].partition("esac")[0]
    indent = " +" if action else " {8}"
    arm = rf"^{indent}(?:\*' )?(?:[a-z]+ \| )?{action or verb}(?: \| [a-z]+)?(?: '\*)?\) offered=\"(.*)\" ;;$"
    (words,) = re.findall(arm, arms, re.MULTILINE)
    return set(words.replace("$every", " ".join(EVERY)).split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_completion_offers_every_option_of_a_command_and_no_other(command: str) -> None:
    shown = set(EVERY) | long_options(shown_actions(command))
    assert {word for word in offered(command) if word.startswith("--")} == shown
    choices = [set(action.choices) for action in shown_actions(command) if action.choices and not action.option_strings]
    assert choices in ([], [offered(command) - shown])


def test_the_completion_offers_every_verb() -> None:
    assert f"'') offered=\"{' '.join(VERBS)} $every --version\" ;;" in COMPLETION


@pytest.mark.parametrize(
    ("option", "command"),
    [
        *(("format", "plan"), ("owner", "trace show"), ("phase", "trace show"), ("event", "trace show")),
        *(("dialect", "serve"), ("imds", "serve")),
    ],
)
def test_the_completion_offers_every_value_of_an_option(option: str, command: str) -> None:
    (found,) = re.findall(rf"--{option}\)\s+offered='([^']*)'", COMPLETION)
    (action,) = (each for each in shown_actions(command) if each.dest == option)
    assert found.split() == list(action.choices or ())
    assert option != "event" or found.split() == list(RECORDS)
