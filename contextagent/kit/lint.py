"""Every mistake in a context, user data or policy at once: what kind of thing a path is, and who looks through it."""

from __future__ import annotations

import os

from contextagent.errors import BrokenSourceError, InvalidInputError, UsageError
from contextagent.kit.finding import Finding
from contextagent.kit.lint_context import Context
from contextagent.kit.lint_pilot import check_pilot
from contextagent.kit.lint_settings import as_findings, check_settings
from contextagent.kit.tree import TreeMedium, read_tree
from contextagent.policy.settings import load_image_policy, merge
from contextagent.sources.devices import is_vfat, probe
from contextagent.sources.library import LibraryMedium
from contextagent.sources.media import FolderMedium

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from contextagent.host import Host
    from contextagent.model import Phase, Voice
    from contextagent.policy.layer import Layer

    Kind = Literal["folder", "disk", "bundle", "settings", "variables", "script", "user-data"]

MAX_BYTES = 64 << 20
_SECTOR = 2048
_SETTINGS_ENDINGS = (".yaml", ".yml", ".json")
_SCRIPTS: dict[str, Phase] = {"prolog.sh": "pre-network", "init.sh": "pre-network", "epilog.sh": "post-network"}
_PHASES: dict[str, Phase] = {"pre-network.d": "pre-network", "post-network.d": "post-network", "stop.d": "stop"}
_VOICES: dict[str, Voice] = {"site": "site-disk", "user": "user"}


def lint(host: Host, path: str, *, policy_override: str | None = None) -> tuple[Finding, ...]:
    """Return every mistake in what stands at `path`, ordered by file and line; empty when there is none.

    Args:
        host: The machine: its shells read scripts without running them, and its confined readers foreign formats.
        path: A folder, a disk image, a bundle, user data, or a policy or settings file.
        policy_override: The image's policy by which the context is judged, instead of the machine's own.

    Raises:
        UsageError: There is nothing at `path`, or no file or folder.
        InvalidInputError: It can't be read at all, or the policy to judge by is invalid.
    """
    kind, head = _kind(path)
    if kind == "settings":
        findings = _check_settings(path)
    else:
        policy = load_image_policy(host, policy_override, may_write=False)
        findings = _check(host, path, kind, policy, head)
    return tuple(sorted(set(findings), key=lambda each: (each.path, each.line, each.level, each.rule, each.message)))


def _check_settings(path: str) -> list[Finding]:
    layer, findings = check_settings(_voice(path), path, _read(path))
    if layer.voice != "image":
        return findings
    settings = merge(layer)
    more = [each for each in settings.warnings if each not in layer.warnings]
    return [*findings, *as_findings("warning", more, path), *check_pilot(settings)]


def _is_policy(path: str) -> bool:
    return path == "policy.yaml" or (path.startswith("policy.d/") and path.endswith(".yaml"))


def _check(host: Host, path: str, kind: Kind, policy: Layer, head: bytes) -> list[Finding]:
    context = Context(host, path.rstrip("/") or "/", policy, is_bundle=kind == "bundle")
    match kind:
        case "folder":
            tree = read_tree(path)
            if policies := [item.real for item in tree.files if _is_policy(item.path)]:
                return [finding for each in policies for finding in _check_settings(each)]
            context.check_medium(TreeMedium(path.rstrip("/") or "/", tree))
            return [*as_findings("error", tree.problems), *_links(path, tree.dereferenced), *context.findings]
        case "disk":
            _check_disk(host, path, context)
        case "bundle":
            _check_bundle(path, context)
        case "variables":
            context.check_variables(_read(path))
        case "script":
            _check_script(path, context)
        case _:
            if head.strip():
                context.check_user_data(_read(path))
            else:
                context.findings.append(
                    Finding(level="error", rule="empty", message="there is nothing in it", path=path)
                )
    return context.findings


def _kind(path: str) -> tuple[Kind, bytes]:
    """Return what kind of thing stands at `path`, by its content first and its name second, and its first bytes."""
    if os.path.isdir(path):
        return "folder", b""
    if not os.path.isfile(path):
        cause = "no such file or folder" if not os.path.lexists(path) else "neither a file nor a folder"
        raise UsageError(f"cannot check '{path}': {cause}")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            file.seek(16 * _SECTOR)
            volume = file.read(6)
    except OSError as error:
        raise InvalidInputError(f"cannot read '{path}': {error.strerror}") from error
    name = os.path.basename(path)
    if volume[1:6] == b"CD001" or is_vfat(head) or name.endswith(".iso"):
        return "disk", head
    if name.endswith((".tgz", ".tar.gz", ".tar")):
        return "bundle", head
    if name.endswith(_SETTINGS_ENDINGS) and not head.startswith(b"#cloud-config"):
        return "settings", head
    if name == "context.sh" and not head.startswith(b"#!"):
        return "variables", head
    return ("script" if name in _SCRIPTS or _folder_of(path) in _PHASES else "user-data"), head


def _folder_of(path: str) -> str:
    return os.path.basename(os.path.dirname(os.path.abspath(path)))


def _voice(path: str) -> Voice:
    return _VOICES.get(os.path.basename(path).rpartition(".")[0], "image")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(f"cannot read '{path}': {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InvalidInputError(f"cannot read '{path}': it is larger than {MAX_BYTES} bytes")
    return data


def _links(path: str, dereferenced: tuple[tuple[str, str], ...]) -> list[Finding]:
    message = "a link: pack replaces it by what it points to, but a folder used as it is may have no link for a script"
    return [
        Finding(level="warning", rule="link", message=message, path=os.path.join(path, link))
        for link, _ in dereferenced
    ]


def _check_script(path: str, context: Context) -> None:
    """Look through one script of a context; its folder says whose it is and when it runs."""
    folder = os.path.dirname(os.path.abspath(path))
    phase = _PHASES.get(os.path.basename(folder)) or _SCRIPTS[os.path.basename(path)]
    top = os.path.dirname(folder) if os.path.basename(folder) in _PHASES else folder
    names = [item.path for item in read_tree(top).items]
    context.check_script(_read(path), "user" if os.path.basename(top) == "user" else "site", phase, names)


def _check_disk(host: Host, path: str, context: Context) -> None:
    disk = probe(path, path, is_rom=True)
    if disk is None:
        message = "it is no ISO9660 or VFAT disk"
        context.findings.append(Finding(level="error", rule="not-a-disk", message=message, path=path))
        return
    if disk.fault:
        reason, _, message = disk.fault.partition(": ")
        context.findings.append(Finding(level="error", rule=reason, message=message, path=path))
        return
    try:
        medium = LibraryMedium(host, disk)
        try:
            context.check_medium(medium, disk.label)
        finally:
            medium.close()
    except BrokenSourceError as error:
        context.findings.append(Finding(level="error", rule=error.reason, message=str(error), path=path))


def _check_bundle(path: str, context: Context) -> None:
    """Unpack a bundle by the agent's rules, and look through it; a refused one has no more to look at."""
    from tempfile import TemporaryDirectory  # noqa: PLC0415  # only bundles come here

    from contextagent.payloads.bundle import extract  # noqa: PLC0415  # see above

    with TemporaryDirectory(prefix="contextagent-lint-") as private:
        folder = f"{private}/bundle"
        try:
            with open(path, "rb") as file:
                extract(file, folder, context.caps)
        except BrokenSourceError as error:
            for each in error.problems:
                place = path if each.path in ("", "bundle") else f"{path}/{each.path}"
                context.findings.append(Finding(level="error", rule=each.reason, message=each.message, path=place))
            if not error.problems:
                context.findings.append(Finding(level="error", rule=error.reason, message=str(error), path=path))
            return
        medium = FolderMedium(folder, path)
        medium.are_links_inside = True  # the bundle was judged as a whole
        try:
            context.check_medium(medium)
        finally:
            medium.close()
