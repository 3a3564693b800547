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

    def as_plain(self) -> dict[str, Any]:
        """Return the layer as JSON, to be kept: parsing YAML costs a boot more than all of its scripts."""
        return {
            "voice": self.voice,
            "values": [[name, said.value, said.path, said.line] for name, said in self.values.items()],
            "warnings": [each.as_dict() for each in self.warnings],
            "sha512": self.sha512,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Layer:
        """Return the layer that `as_plain` made JSON of.

        Raises:
            KeyError: It is none.
            TypeError: Likewise.
            ValueError: Likewise.
        """
        return cls(
            voice=plain["voice"],
            values={
                name: Setting(value=_frozen(value), path=path, line=line) for name, value, path, line in plain["values"]
            },
            warnings=tuple(Problem(**each) for each in plain["warnings"]),
            sha512=plain["sha512"],
        )


def _frozen(value: Any) -> Any:  # noqa: ANN401  # JSON
    """Return a value as the reader made it: lists are tuples."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return value
