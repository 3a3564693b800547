"""The way to the C part: one place that knows what to say when it has not been built."""

from __future__ import annotations

from contextagent.errors import ContextAgentError

try:
    from contextagent.host import _guestos as native
except ImportError as error:
    _MESSAGE = f"cannot load 'contextagent.host._guestos': {error}"
    raise ContextAgentError(
        _MESSAGE, reason="not-built", hint="build it with `make setup` or `pip install .`"
    ) from error

__all__ = ["native"]
