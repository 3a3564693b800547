"""Rules for the names that a context may carry: scripts, targets of files, feature keys."""

from __future__ import annotations

MAX_NAME_BYTES = 255
MAX_TARGET_BYTES = 4095
MAX_KEY_BYTES = 64

_BACKUP_ENDINGS = ("~", ".bak", ".orig", ".swp", ".rpmsave", ".rpmnew", ".rpmorig")
_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def component_problem(name: str) -> str:
    """Return why `name` can't be one component of a path, or an empty string if it can.

    Bytes that are no UTF-8 stand in `name` as `os.fsdecode` gives them.
    """
    if not name:
        return "it is empty"
    if name in (".", ".."):
        return "it is no name of its own"
    if "/" in name:
        return "it has a slash"
    for char in name:
        if char < " " or "\x7f" <= char < "\xa0":
            return "it has a control character"
        if "\ud800" <= char <= "\udfff":
            return "it is not UTF-8"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    return ""


def script_name_problem(name: str) -> str:
    """Return why `name` can't be a script's name within its id, or an empty string if it can.

    A script's name is one component (`epilog.sh`), or a folder ending in `.d` and one component (`stop.d/10-x`).
    """
    folder, slash, last = name.rpartition("/")
    if slash and not folder.endswith(".d"):
        return "its folder does not end in '.d'"
    return (component_problem(folder) if slash else "") or component_problem(last)


def is_leftover(name: str) -> bool:
    """Return whether a file in a `*.d` folder is hidden, or what an editor or package manager left: not to be run."""
    return name.startswith((".", "#")) or name.endswith(_BACKUP_ENDINGS) or ".dpkg-" in name


def target_problem(target: str) -> str:
    """Return why `target` can't be the place of a file; empty if it is absolute and in its shortest form."""
    if not target.startswith("/"):
        return "it is not absolute"
    for component in target[1:].split("/"):
        if cause := component_problem(component):
            return "it is not in its shortest form" if component in ("", ".", "..") else cause
    if len(target.encode()) > MAX_TARGET_BYTES:
        return f"it is longer than {MAX_TARGET_BYTES} bytes"
    return ""


def inside(folder: str, target: str) -> str | None:
    """Return where a link that stands in `folder` points to, by its text alone; None if it leaves the tree.

    Args:
        folder: The link's folder, relative to the top of the tree; empty for the top itself.
        target: What the link says.
    """
    if not target or target.startswith("/") or len(target.encode("utf-8", "replace")) > MAX_TARGET_BYTES:
        return None
    found = folder.split("/") if folder else []
    for component in target.split("/"):
        if component == "..":
            if not found:
                return None
            found.pop()
        elif component not in ("", "."):
            if component_problem(component):
                return None
            found.append(component)
    return "/".join(found)


def is_feature_key(key: str) -> bool:
    """Return whether `key` can name a feature: `[a-z0-9_]`, and capitals as in the older `mem_limit_MB`."""
    return 0 < len(key) <= MAX_KEY_BYTES and _KEY_CHARACTERS.issuperset(key)


def is_variable(name: str) -> bool:
    """Return whether `name` can be a shell variable's."""
    return bool(name) and not name[0].isdigit() and _KEY_CHARACTERS.issuperset(name)
