"""What a site admin makes and checks contexts with: `pack`, `lint`."""

from __future__ import annotations

import argparse
import os

from contextagent.cli.text import Progress, add_format, printable
from contextagent.errors import InvalidInputError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextagent.cli.text import Shell
    from contextagent.kit.pack import Packed

_SIGNING = ("sign", "cert", "expires", "role", "version", "site", "image")


def add_pack(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pack`."""
    parser.description = (
        "Make a context disk (.iso) or a bundle (.tgz) of a folder. The same folder gives the same bytes: every time\n"
        "in it is SOURCE_DATE_EPOCH, or that of the newest file; owners are root, modes 0755 and 0644. A link that\n"
        "stays in the folder is replaced by what it points to; what no context may hold is refused. A new file is\n"
        "yours alone (0600), one that is replaced keeps its mode."
    )
    parser.epilog = (
        "example:\n  contextagent pack examples/site-and-user-disk -o context.iso\n\nsigning: not yet supported"
    )
    parser.add_argument("folder", metavar="DIR", help="the folder")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="X.iso or X.tgz; replaced if it is there")
    parser.add_argument("--label", metavar="L", help="label of the disk, at most 16 characters (default: CONTEXT)")
    for name in _SIGNING:
        parser.add_argument(f"--{name}", dest=f"signing_{name}", help=argparse.SUPPRESS)
    add_format(parser)


def run_pack(options: argparse.Namespace, shell: Shell) -> int:
    """Pack a folder; print what was made and which links were followed.

    Raises:
        ContextAgentError: As `kit.pack.pack` does.
    """
    from contextagent.kit.pack import pack, source_date_epoch  # noqa: PLC0415  # every verb's parser imports this module

    if any(getattr(options, f"signing_{name}") is not None for name in _SIGNING):
        message = f"cannot sign '{options.output}': signing is not yet supported"
        raise UsageError(message)
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    epoch_s = source_date_epoch(said) if said else None
    progress = Progress(shell, "packing", is_for_logs=True)
    try:
        packed = pack(options.folder, options.output, label=options.label, epoch_s=epoch_s, progress=progress.show)
    finally:
        progress.end()
    shell.emit(
        {
            "path": packed.path,
            "form": packed.form,
            "label": packed.label or None,
            "files": packed.files,
            "bytes": packed.size_bytes,
            "sha512": packed.sha512,
            "epoch_s": packed.epoch_s,
            "dereferenced": [{"path": path, "target": target} for path, target in packed.dereferenced],
        },
        _packed_text(packed),
    )
    return 0


def _packed_text(packed: Packed) -> str:
    what = f"disk '{packed.label}'" if packed.form == "iso" else "bundle"
    lines = [f"dereferenced {path} -> {target}" for path, target in packed.dereferenced]
    lines += [f"{packed.path}: {what}, {packed.files} files, {packed.size_bytes} bytes", f"sha512 {packed.sha512}"]
    return "\n".join(printable(line) for line in lines)


def add_lint(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lint`."""
    parser.description = (
        "Check a context: a folder, a disk image, a bundle, user data, a context.sh, or a policy or settings file.\n"
        "Every mistake is one line, `file:line: level: what [rule]`; nothing is run or changed. Exit code 65 if the\n"
        "agent would refuse something (an error), 0 if not. --policy names the image's policy to judge by."
    )
    parser.epilog = "example:\n  contextagent lint examples/site-and-user-disk"
    parser.add_argument("path", metavar="PATH", help="what to check")
    add_format(parser)


def run_lint(options: argparse.Namespace, shell: Shell) -> int:
    """Print every mistake; return 65 if there is an error among them.

    Raises:
        ContextAgentError: As `kit.lint.lint` does.
    """
    from contextagent.kit.lint import lint  # noqa: PLC0415  # as in run_pack

    findings = lint(shell.host, options.path, policy_override=shell.policy_override)
    text = (
        "\n".join(printable(finding.text()) for finding in findings) or f"{printable(options.path)}: no mistake found"
    )
    shell.emit([finding.as_dict() for finding in findings], text)
    return InvalidInputError.exit_code if any(finding.level == "error" for finding in findings) else 0
