"""The image's policy: its files, parsed once and kept by digest, so that a boot does not pay for a YAML parser."""

from __future__ import annotations

from contextagent import __version__, jsontext
from contextagent.digests import sha256_hex, sha512_hex
from contextagent.errors import CannotWriteError, InvalidInputError, UsageError
from contextagent.model import Problem
from contextagent.policy.layer import Layer
from contextagent.policy.schema import ROWS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from contextagent.host import Host
    from contextagent.host.files import Files

ETC = "/etc/contextagent"
VAR = "/var/lib/contextagent"
MAX_BYTES = 1 << 16
MAX_KEPT_BYTES = 1 << 26


def load_image_policy(host: Host, override: str | None = None, *, may_write: bool = True) -> Layer:
    """Return the image's policy: `policy.yaml`, then `policy.d/*.yaml` in C-locale order, the later file's word counts.

    Args:
        host: The machine.
        override: A file of the caller's own (`--policy`) instead of the image's; its parse is not kept.
        may_write: Whether the parse may be kept in `/var/lib/contextagent`; failing to is no error.

    Returns:
        The layer; an empty one where the image has no policy.

    Raises:
        UsageError: `override` names no file.
        InvalidInputError: A file can't be read, or says something that it can't; `problems` has all of it.
    """
    if override is not None:
        return _parse([(override, _caller_file(override))])
    files, strays = _policy_files(host.files)
    if not files:
        return Layer(voice="image", warnings=strays)
    if _is_silent(files):
        return Layer(voice="image", warnings=strays, sha512=_sha512(files))
    path = f"{VAR}/{parse_name(files)}"
    kept = _kept(host.files, path)
    if kept is None:
        kept = _parse(files)
        if may_write:
            _keep(host.files, path, kept)
    return kept.replace(warnings=(*strays, *kept.warnings)) if strays else kept


def _parse(files: Sequence[tuple[str, bytes]]) -> Layer:
    from contextagent.policy import loader  # noqa: PLC0415  # only where there is a policy that was not parsed before

    layer = loader.load("image", files)
    return layer.replace(sha512=_sha512(files))


def _sha512(files: Sequence[tuple[str, bytes]]) -> str:
    return sha512_hex(b"".join(data for _, data in files))


def _is_silent(files: Sequence[tuple[str, bytes]]) -> bool:
    """Whether all lines are blank or comments, as in the file that the packages bring: no parser has to be asked.

    What a parser might see otherwise (a control character, another kind of line end) is left to it.
    """
    try:
        lines = b"\n".join(data for _, data in files).decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        return False
    return all(line.lstrip(" ")[:1] in ("", "#") and line.isprintable() for line in lines)


def _caller_file(path: str) -> bytes:
    """Return the bytes of a file that the caller named, links followed: it is the caller's own."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"cannot read '{path}': {error.strerror}"
        raise UsageError(message, reason="no-such-file", hint="--policy takes the name of a YAML file") from error
    except (OSError, ValueError) as error:
        message = f"cannot read '{path}': {getattr(error, 'strerror', None) or error}"
        raise UsageError(message, reason="unreadable") from error


def _policy_files(files: Files) -> tuple[list[tuple[str, bytes]], tuple[Problem, ...]]:
    """Return the policy's files in order, and a warning for each file beside them that is none."""
    found, strays = [], []
    if files.exists(f"{ETC}/policy.yaml"):
        found.append(f"{ETC}/policy.yaml")
    for entry in files.folder(f"{ETC}/policy.d"):
        path = f"{ETC}/policy.d/{entry.name}"
        if entry.name.endswith(".yaml") and not entry.name.startswith("."):
            found.append(path)
        elif entry.name.endswith((".yml", ".json")):
            message = "only names that end in .yaml are read here, ignoring it"
            strays.append(Problem(reason="not-a-policy", message=message, path=path))
    return [(path, _image_file(files, path)) for path in found], tuple(strays)


def _image_file(files: Files, path: str) -> bytes:
    try:
        return files.read(path, max_bytes=MAX_BYTES)
    except OSError as error:
        cause = "a link is not followed" if isinstance(error, FileNotFoundError) else error.strerror
        message = f"cannot read '{path}': {cause}"
        raise InvalidInputError(message, reason="unreadable") from error


def parse_name(
    files: Iterable[tuple[str, bytes]], *, version: str = __version__, table: tuple[object, ...] = ROWS
) -> str:
    """Return the name of a parse: by content, by place, and by the agent and the table that it was read with."""
    parts = [version.encode(), repr(table).encode()]
    for path, data in files:
        parts += [path.encode("utf-8", "surrogateescape"), data]
    return f"policy-{sha256_hex(b''.join(b'%d:%s' % (len(part), part) for part in parts))}.json"


def _kept(files: Files, path: str) -> Layer | None:
    """Return the parse that is kept there; None where there is none, or one that is damaged."""
    try:
        digest, _, text = files.read(path, max_bytes=MAX_KEPT_BYTES).partition(b"\n")
        if digest.decode("ascii") != sha256_hex(text):
            return None
        return Layer.from_plain(jsontext.loads(text))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(files: Files, path: str, layer: Layer) -> None:
    """Keep a parse, and forget older ones; a medium that refuses costs the next boot a parse, nothing else."""
    text = jsontext.dumps(layer.as_plain()).encode()
    try:
        files.make_folder(VAR)
        files.write(path, sha256_hex(text).encode() + b"\n" + text)
        for entry in files.folder(VAR):
            if entry.name.startswith("policy-") and f"{VAR}/{entry.name}" != path:
                files.remove(f"{VAR}/{entry.name}")
    except (CannotWriteError, OSError):
        return
