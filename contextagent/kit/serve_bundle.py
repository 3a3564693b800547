"""A folder as a bundle that is packed when it is first wanted, and again when something in it has changed."""

from __future__ import annotations

import os
import tempfile

from contextagent.errors import ContextAgentError, InvalidInputError
from contextagent.kit.pack import write_bundle
from contextagent.kit.tree import read_tree
from contextagent.payloads.native import FILE_NAMES, FOLDER_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import BinaryIO

    from contextagent.kit.tree import Tree

FLAT = (*(name for name in FILE_NAMES if not name.startswith("user.")), *FOLDER_NAMES, "context.sh")
"""What of a folder without `site/` is the site's: the native names alone, since anything else may be anybody's."""


class FolderBundle:
    """One folder as a bundle.

    Args:
        folder: What is packed, as a person named it.
        names: The names directly in it that are taken; None for all.
    """

    def __init__(self, folder: str, names: Collection[str] | None = None) -> None:
        self._folder = folder
        self._names = names
        self._packed: BinaryIO | None = None
        self._signature: object = None
        self.warning = ""
        """Why the folder as it stands can't be packed, where the bundle before it is still had."""

    @property
    def is_fresh(self) -> bool:
        """Whether the bundle is that of the folder as it stands."""
        return self._packed is not None and _signature(self._tree()) == self._signature

    def open(self) -> BinaryIO:
        """Return the bundle, packed anew if need be, as a file of the caller's own.

        Where the folder has something in it that can't be packed, this is the bundle as it was before, and `warning`
        says so: a file that is half written now should cost no machine its boot.

        Raises:
            InvalidInputError: The folder can't be packed, and never could.
        """
        tree = self._tree()
        signature = _signature(tree)
        if self._packed is None or signature != self._signature:
            try:
                self._pack(tree)
                self.warning = ""
            except ContextAgentError as error:
                if self._packed is None:
                    raise
                shown = error.problems[0].text() if error.problems else str(error)
                self.warning = f"{shown}; serving the bundle as it was before"
            self._signature = signature
        assert self._packed is not None  # noqa: S101  # packed above, or raised
        # by the path, not as a duplicate: that would share its position with every other client's
        return open(f"/proc/self/fd/{self._packed.fileno()}", "rb", buffering=0)

    def _tree(self) -> Tree:
        tree = read_tree(self._folder)
        if self._names is None:
            return tree
        names = self._names

        def is_taken(path: str) -> bool:
            return path.partition("/")[0] in names

        return tree.replace(
            items=tuple(item for item in tree.items if is_taken(item.path)),
            problems=tuple(
                problem for problem in tree.problems if is_taken(os.path.relpath(problem.path, self._folder))
            ),
        )

    def _pack(self, tree: Tree) -> None:
        packed = tempfile.TemporaryFile(prefix="contextagent-")  # noqa: SIM115  # as long as the server lives
        try:
            write_bundle(packed, self._folder, tree)
            packed.flush()
        except OSError as error:
            packed.close()
            raise InvalidInputError(f"cannot pack '{self._folder}': {error.strerror or error}") from error
        except BaseException:
            packed.close()
            raise
        if self._packed is not None:
            self._packed.close()
        self._packed = packed


def _signature(tree: Tree) -> object:
    """Return what is another value when a bundle of the tree would be another."""
    return (
        tuple((item.path, item.kind, item.mode, item.size_bytes, item.mtime_ns) for item in tree.items),
        tree.dereferenced,
        tree.problems,
    )
