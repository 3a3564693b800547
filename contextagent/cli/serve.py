"""The metadata service that a site admin or a test starts: `serve`."""

from __future__ import annotations

import sys

from contextagent.cli.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from contextagent.cli.text import Shell

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # warned about, not bound to
_DESCRIPTION = """\
Serve a folder as a metadata service, until SIGTERM or Ctrl-C. A file that stands at a URL's own path
(DIR/latest/user-data, DIR/context/default.tgz) is served as it is. Else user-data, meta-data (JSON or YAML), NAME.tgz,
site/ and user/ in DIR make the trees; vms/ADDRESS/ goes before DIR for the client of that address. A changed file is
served changed. Everyone who reaches the address can read it all: never serve to a network that is not yours."""
_EXAMPLES = """\
examples:
  contextagent serve examples/site-and-user-disk
  contextagent serve DIR --bind 127.0.0.1:0 --dialect ec2 --imds v2 --quiet
  contextagent serve DIR --fault '503:/latest/*@2' --fault hang:/context/default.tgz
  ip addr add 169.254.169.254/32 dev virbr0 && contextagent serve DIR --bind 169.254.169.254"""


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    from contextagent.kit.serve import CHOICES, DEFAULT_BIND, IMDS  # noqa: PLC0415  # one module a verb
    from contextagent.kit.serve_faults import FAULTS  # noqa: PLC0415  # see above

    parser.description = _DESCRIPTION
    parser.epilog = "".join(["faults:\n", *(f"  {name:9} {what}\n" for name, what in FAULTS.items()), "\n", _EXAMPLES])
    parser.add_argument("folder", metavar="DIR", help="the folder")
    parser.add_argument(
        "--bind", metavar="ADDR[:PORT]", default=DEFAULT_BIND, help=f"where (default: {DEFAULT_BIND}; without PORT: 80)"
    )
    dialects = "|".join(CHOICES)
    parser.add_argument(
        "--dialect",
        choices=CHOICES,
        metavar=dialects,
        default="auto",
        help="whose tree (default: all there is data for)",
    )
    parser.add_argument(
        "--imds", choices=IMDS, metavar="|".join(IMDS), default="both", help="versions of EC2's protocol"
    )
    parser.add_argument(
        "--fault",
        metavar="NAME[:PATH][@N]",
        action="append",
        default=[],
        help="what goes wrong, for PATH alone (ending in *: all that begin so), the first N times; may be given again",
    )
    parser.add_argument("--quiet", action="store_true", help="no line on stderr for each request")


def run_serve(options: argparse.Namespace, shell: Shell) -> int:
    """Serve until told to stop.

    Raises:
        ContextAgentError: As `kit.serve.Site` and `host.serving.listen` do.
    """
    from contextagent.host.serving import listen, serve  # noqa: PLC0415  # asyncio alone costs more than a boot
    from contextagent.kit.serve import Site, read_bind  # noqa: PLC0415  # as above
    from contextagent.kit.serve_faults import read_fault  # noqa: PLC0415  # as above

    address, port = read_bind(options.bind)
    faults = [read_fault(text) for text in options.fault]
    site = Site(options.folder, dialect=options.dialect, imds=options.imds, faults=faults)
    listening = listen(address, port)
    port = listening.getsockname()[1]
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if address in _EVERYWHERE:
        shell.warn(f"{place} is reached by every network of this machine, and everyone there can read it all")

    def ready() -> None:
        sys.stdout.write(f"serving {printable(options.folder)} at http://{place} (dialect {options.dialect})\n")
        sys.stdout.flush()

    serve(listening, site.respond, ready=ready, is_quiet=options.quiet)
    return 0
