"""One tree of expected failures, each with a fixed reason and the exit code that the command line gives it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from contextagent.model import Problem


class ContextAgentError(Exception):
    """An expected failure: `cannot <verb> '<object>': <cause>`, with a hint when it names an action.

    Attributes:
        reason: A fixed kebab-case word; it goes to trace, status and JSON.
        exit_code: What the process ends with when the failure ends the command (cli.md, frozen).
        hint: What to do about it; empty when there is nothing to name.
        problems: Every single finding, when more than one thing is wrong with the same object.
    """

    reason = "failed"
    exit_code = 1

    def __init__(self, message: str, *, reason: str = "", hint: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.reason = reason or type(self).reason
        self.hint = hint
        self.problems = tuple(problems)


class UsageError(ContextAgentError):
    """The caller's words are off: exit 64."""

    reason = "usage"
    exit_code = 64


class InvalidInputError(ContextAgentError):
    """A policy, settings file or context that a person wrote is invalid: exit 65."""

    reason = "invalid"
    exit_code = 65


class BrokenSourceError(ContextAgentError):
    """A source is there but unusable, or what it gave is refused: the verdict `broken` (docs/reference/context.md)."""

    reason = "broken"
    exit_code = 65


class RefusedError(ContextAgentError):
    """This command is refused to this caller: exit 77."""

    reason = "refused"
    exit_code = 77


class CannotWriteError(ContextAgentError):
    """The agent could not write what it must: exit 73."""

    reason = "cannot-write"
    exit_code = 73


class TryLaterError(ContextAgentError):
    """Another run holds the lock, or waiting timed out: exit 75."""

    reason = "try-later"
    exit_code = 75


class UnknownError(ContextAgentError):
    """What was asked for is not known, or not there: exit 3."""

    reason = "unknown"
    exit_code = 3
