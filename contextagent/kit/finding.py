"""One mistake that `lint` found."""

from __future__ import annotations

from contextagent.model import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Level = Literal["error", "warning"]


class Finding(Value):
    """Something that a person wrote and that will not do what they meant.

    Attributes:
        level: `error`: the agent refuses it, or it can't work; `warning`: it is passed over, or probably not meant.
        rule: A fixed kebab-case word.
        message: The sentence.
        path: The file, as the caller named it, followed by the name in it.
        line: From 1; 0 where no line is meant.
    """

    level: Level
    rule: str
    message: str
    path: str
    line: int = 0

    def text(self) -> str:
        """Return `path:line: level: message [rule]`."""
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.level}: {self.message} [{self.rule}]"
