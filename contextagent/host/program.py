"""What the agent itself is here: files that a Python runs, or modules that are frozen into a program of its own."""

from __future__ import annotations

import _imp
import os
import sys

from contextagent.digests import new_sha512

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE = "contextagent"
_NOT_BOOT = "kit"
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def is_one() -> bool:
    """Return whether interpreter and agent are one program, as in the packages."""
    return _imp.is_frozen(_PACKAGE)


def sha512() -> str:
    """Return one digest over all that can be part of a boot, names and bytes: every module but `kit`.

    One program has it linked in: whoever could change a part of that could change what digests it as well, and a boot
    would spend a tenth of its time on reading what it does not need.
    """
    if is_one():
        from contextagent import _linked  # type: ignore[attr-defined]  # noqa: PLC0415  # made when a program is built

        return str(_linked.DIGEST)
    digest = new_sha512()
    for name, data in _files():
        digest.update(f"{name}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _files() -> Iterator[tuple[str, bytes]]:
    for folder, folders, names in os.walk(_FOLDER):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", _NOT_BOOT))
        for name in sorted(name for name in names if name.endswith((".py", ".so"))):
            with open(f"{folder}/{name}", "rb", buffering=0) as file:
                yield f"{folder[len(_FOLDER) :]}/{name}", file.readall()


def agent() -> tuple[str, ...]:
    """Return the words that start the agent as a boot does, by real paths."""
    return (_real(),) if is_one() else (*python(), f"{os.path.realpath(_FOLDER)}/__main__.py")


def python() -> tuple[str, ...]:
    """Return the words that start this Python as a boot does; it leaves no compiled files.

    The first is the program's real path; one of our own is a plain Python under a name that begins with `python`.
    """
    return (_real(), "-I", "-S", "-B")


def path() -> str:
    """Return the folder that has to be in the search path of such a Python; a program of our own needs none."""
    return os.path.realpath(os.path.dirname(_FOLDER))


def places() -> tuple[str, ...]:
    """Return the real paths of what the agent is made of on this machine: itself, Python, and Python's libraries."""
    if is_one():
        return (_real(),)
    programs = os.path.dirname(sys.executable)
    found = [_FOLDER, sys.prefix, sys.base_prefix, programs]
    if os.path.exists(f"{programs}/../pyvenv.cfg"):  # an isolated start does not know that it is one of these
        found.append(os.path.dirname(programs))
    return tuple(dict.fromkeys(os.path.realpath(place) for place in found if os.path.exists(place)))


def _real() -> str:
    """Return this program by its real folder; its own name stays, since a virtual environment is known by that."""
    folder, name = os.path.split(sys.executable)
    return os.path.join(os.path.realpath(folder), name)
