"""The way to the C part: one place that knows what to say when it has not been built."""

from __future__ import annotations

from contextagent.errors import ContextAgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def guestos() -> ModuleType:
    """Return the C extension.

    Raises:
        ContextAgentError: It is not built for this interpreter; whoever installed the agent can act.
    """
    try:
        from contextagent.host import _guestos  # noqa: PLC0415  # a missing one must be told, not traced
    except ImportError as error:
        message = f"cannot load 'contextagent.host._guestos': {error}"
        raise ContextAgentError(message, reason="not-built", hint="build it with `make setup` or `pip install .`") from error
    return _guestos
