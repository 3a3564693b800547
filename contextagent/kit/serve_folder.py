"""The folder that a metadata service serves: its files, never what is outside it, and one client's own before all's.

Everything is read afresh for each request, so a changed file is served changed.
"""

from __future__ import annotations

import errno
import os
import stat

from contextagent import jsontext
from contextagent.errors import InvalidInputError, UsageError
from contextagent.model import Problem
from contextagent.payloads.names import component_problem
from contextagent.policy.yamltext import read_yaml
from contextagent.sources.media import FILE, open_beneath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from contextagent.policy.yamltext import Node

PER_CLIENT = "vms"
"""Folder of the folders that are named by a client's address, and are looked into before the whole."""
META_NAMES = ("meta_data.json", "meta-data.json", "meta-data")
MAX_META_BYTES = 1 << 20
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_PLAIN: dict[str, object] = {"true": True, "false": False, "null": None, "~": None, "": None}


class Folder:
    """A folder as one client sees it.

    Args:
        top: The folder.
        client: The client's address; empty for what all clients see.

    Attributes:
        top: As given.
        real: Where that is when all links are followed.
        client: As given.

    Raises:
        UsageError: There is no such folder.
    """

    def __init__(self, top: str, client: str = "") -> None:
        if not os.path.isdir(top):
            cause = "not a folder" if os.path.lexists(top) else "no such folder"
            raise UsageError(f"cannot serve '{top}': {cause}")
        self.top = top
        self.real = os.path.realpath(top)
        self.client = client
        own = f"{PER_CLIENT}/{client}"
        is_name = bool(client) and not component_problem(client)
        self._prefixes = (f"{own}/", "") if is_name and self._kind(own) == "folder" else ("",)

    def open(self, *paths: str) -> BinaryIO | None:
        """Return the first regular file that there is, opened; a client's own before all clients'.

        Args:
            paths: Relative to the folder, in the order wanted, in their shortest form.

        Raises:
            InvalidInputError: It is there, but can't be read.
        """
        for prefix in self._prefixes:
            for path in paths:
                found = self._open(prefix + path)
                if found is not None:
                    return found
        return None

    def has(self, *paths: str) -> bool:
        """Return whether one of these is there, whatever it is."""
        return any(self._kind(prefix + path) for prefix in self._prefixes for path in paths)

    def has_folder(self, path: str) -> bool:
        """Return whether this is there, and a folder."""
        return any(self._kind(prefix + path) == "folder" for prefix in self._prefixes)

    def names(self, path: str = "") -> frozenset[str]:
        """Return the names in a folder; empty where there is none."""
        found: set[str] = set()
        for prefix in self._prefixes:
            real = self._inside(prefix + path) if prefix + path else self.real
            try:
                found.update(os.listdir(real) if real else ())
            except OSError:
                continue
        return frozenset(found)

    def meta(self) -> dict[str, Any]:
        """Return the meta data, JSON or YAML: what all clients have, overlaid by the client's own.

        Raises:
            InvalidInputError: A file of it is no mapping, or can't be read; its writer's fault.
        """
        merged: dict[str, Any] = {}
        for prefix in reversed(self._prefixes):
            for name in META_NAMES:
                file = self._open(prefix + name)
                if file is not None:
                    with file:
                        merged.update(_mapping(file.read(MAX_META_BYTES + 1), self.shown(prefix + name)))
                    break
        return merged

    def shown(self, path: str) -> str:
        """Return a path of this folder as a person knows it."""
        return os.path.join(self.top, path)

    def _kind(self, path: str) -> str:
        """Return `file`, `folder`, `other`, or nothing for what is not there or leads out of the folder."""
        real = self._inside(path)
        if real is None:
            return ""
        try:
            mode = os.lstat(real).st_mode
        except OSError:
            return ""
        return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"

    def _inside(self, path: str) -> str | None:
        """Return where a path is when all links are followed; None where nothing is, or outside of the folder."""
        named = os.path.join(self.real, path)
        if not os.path.lexists(named):  # most names that are looked for are not there, and a real path takes its time
            return None
        real = os.path.realpath(named)
        return real if os.path.lexists(real) and real.startswith(self.real.rstrip("/") + "/") else None

    def _open(self, path: str) -> BinaryIO | None:
        real = self._inside(path)
        if real is None:
            return None
        try:
            *folders, last = os.path.relpath(real, self.real).split("/")
            top = os.open(self.real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fd = open_beneath(top, folders, last, FILE)  # nothing may have changed since it was looked up
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                return None
            return open(fd, "rb", buffering=0, closefd=True)  # whoever asked closes it
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise InvalidInputError(f"cannot read '{self.shown(path)}': {error.strerror}") from error


def _mapping(data: bytes, path: str) -> dict[str, Any]:
    if len(data) > MAX_META_BYTES:
        raise InvalidInputError(f"cannot read '{path}': it is larger than {MAX_META_BYTES} bytes")
    value: object = None
    if data.lstrip()[:1] == b"{":
        try:
            value = jsontext.loads(data)
        except ValueError as error:
            raise InvalidInputError(f"cannot read '{path}': {error}") from error
    else:
        node, faults = read_yaml(data)
        if faults:
            problems = [Problem(reason="invalid", message=fault.cause, path=path, line=fault.line) for fault in faults]
            raise InvalidInputError(f"cannot read '{path}': no YAML as it is taken here", problems=problems)
        value = {} if node is None else _plain(node)
    if not isinstance(value, dict):
        raise InvalidInputError(f"cannot read '{path}': it is no mapping")
    return value


def _plain(node: Node) -> Any:  # noqa: ANN401  # a mapping, a list, or a scalar
    """Return a tree of YAML as JSON has it; a number stays the text that was written, so `007` stays one."""
    if node.kind == "map":
        return {name.text: _plain(value) for name, value in node.pairs}
    if node.kind == "list":
        return [_plain(item) for item in node.items]
    return _PLAIN.get(node.text, node.text) if node.is_plain else node.text
