"""What one voice said, read and checked on its own: every value with the place where it was written."""

from __future__ import annotations

from contextagent.model import Problem, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from contextagent.model import Voice


class Setting(Value):
    """One value, and where a person wrote it; `line` is 0 where it can't be told."""

    value: Any
    path: str = ""
    line: int = 0


class Layer(Value):
    """All that one voice may say and said.

    Attributes:
        voice: Who speaks; `site-disk` is the site by a disk it may be heard on.
        values: Dotted key to what was written; only keys that this voice may set.
        warnings: What was passed over, and what happens next.
        sha512: Of the bytes of all files read, one after another; empty when there was none.
    """

    voice: Voice
    values: Mapping[str, Setting] = {}
    warnings: tuple[Problem, ...] = ()
    sha512: str = ""
