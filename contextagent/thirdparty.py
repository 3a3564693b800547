"""The way to libraries that are not the standard library's: found beside the agent, or in site-packages."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def load(name: str) -> ModuleType:
    """Return the third-party module `name`, imported now.

    The boot starts the interpreter isolated and without `site` (which costs more than the rest of the agent), so
    site-packages come in only when a library is wanted that does not lie beside the agent.

    Raises:
        ImportError: It is not installed.
    """
    from importlib import import_module  # noqa: PLC0415  # a boot that needs no library pays for no machinery

    try:
        return import_module(name)
    except ImportError:
        if not sys.flags.no_site:
            raise
        import site  # noqa: PLC0415  # see above

        site.main()
        return import_module(name)
