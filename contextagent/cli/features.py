"""The verbs about machine and job features: `features show`, `features check`."""

from __future__ import annotations

import time

from contextagent.cli.parser import add_action
from contextagent.cli.text import add_format, printable, table
from contextagent.errors import BrokenSourceError, InvalidInputError, UnknownError
from contextagent.features.pages import JOB_PATH, MACHINE_PATH
from contextagent.features.readers import FORMS, READERS, check
from contextagent.features.vocabulary import FEATURES
from contextagent.host.exchange import Exchange, Failed
from contextagent.payloads.address import parse_address
from contextagent.policy.settings import hear, load_image_policy
from contextagent.runner.live import load_live
from contextagent.runner.publish import FOLDERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from contextagent.cli.text import Shell
    from contextagent.features.readers import Form, Reader
    from contextagent.host import Host

FORM_OF: Mapping[Reader, Form] = {"panda": "path", "dirac": "url", "dirac-pilot": "url", "glideinwms": "path"}
"""The form that a pilot of each reader's framework is given, unless `pilot.features` says another."""
_PATHS = {"machine": MACHINE_PATH, "job": JOB_PATH}
_MAX_BYTES = 4096
_CONNECT_NS, _TOTAL_NS = 1_000_000_000, 5_000_000_000
_OK, _ABSENT = 200, (404, 410)
_SHOW_EXAMPLE = "example:\n  contextagent features show --format json"
_CHECK_EXAMPLES = """examples:
  contextagent features check --as panda
  contextagent features check --as dirac --form path     what it would make of the folder

Exit code: 0 if the reader reads everything that it looks at rightly, 1 if it does not, 3 where nothing is published."""


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add `features show` and `features check`."""
    parser.epilog = "examples:\n  contextagent features show\n  contextagent features check --as dirac"
    add_format(parser)
    actions = parser.add_subparsers(dest="action", metavar="show|check", required=True)
    add_action(actions, "show", "print what is published, and where each value comes from", _SHOW_EXAMPLE)
    checking = add_action(actions, "check", "tell what a program would read wrongly of it", _CHECK_EXAMPLES)
    checking.add_argument(
        "--as", dest="reader", choices=READERS, metavar="|".join(READERS), required=True, help="whose eyes to look with"
    )
    checking.add_argument(
        "--form",
        choices=FORMS,
        metavar="|".join(FORMS),
        help="the folder, or what the watch serves (default: what a pilot of that framework is given)",
    )


def run_features(options: argparse.Namespace, shell: Shell) -> int:
    """Show or check what is published; return 0, or 1 where a reader would go wrong.

    Raises:
        UnknownError: Nothing is published, or nothing is served.
        InvalidInputError: The image's policy is invalid, or what is served is no feature.
    """
    return _check(options, shell) if options.action == "check" else _show(shell)


def _show(shell: Shell) -> int:
    live = load_live(shell.host)
    if live is None or not live.features:
        raise _nothing("show")
    origins: Mapping[str, str] = getattr(live, "origins", {})
    rows = [(key, text, _origin(origins.get(key, ""))) for key, text in live.features.items()]
    facts: dict[str, Any] = {half: {} for half in FOLDERS}
    for key, text in live.features.items():
        half, _, name = key.partition("/")
        facts[half][name] = text
    shell.emit({**facts, "origins": dict(origins)}, table(("KEY", "VALUE", "WHERE IT COMES FROM"), rows))
    return 0


def _origin(word: str) -> str:
    """Return where a value comes from in words; what was converted names the key that it was converted from."""
    return f"as {word}" if "/" in word else word


def _check(options: argparse.Namespace, shell: Shell) -> int:
    reader: Reader = options.reader
    form: Form = options.form or FORM_OF[reader]
    if form == "path":
        values, place = _in_folders(shell.host), " and ".join(FOLDERS.values())
    else:
        place = _service(shell)
        values = _served(place)
    problems = check(reader, form, values, shell.host.utc_ns() / 1e9)
    facts = {
        "reader": reader,
        "form": form,
        "place": place,
        "problems": [{"reason": problem.reason, "message": problem.message} for problem in problems],
    }
    good = f"{reader} reads everything that it looks at rightly: {place}"
    shell.emit(facts, "\n".join(printable(problem.message) for problem in problems) or good)
    return 1 if problems else 0


def _nothing(verb: str) -> UnknownError:
    message = f"cannot {verb} 'features': nothing is published in this boot"
    return UnknownError(message, hint="who publishes what, and when: contextagent explain")


def _in_folders(host: Host) -> dict[str, str]:
    """Return what stands in the folders, as a reader that opens the files finds it.

    Raises:
        UnknownError: Nothing stands there.
        InvalidInputError: What stands there can't be read.
    """
    values = {}
    try:
        for half, folder in FOLDERS.items():
            for entry in host.files.folder(folder):
                if entry.kind == "file" and not entry.path.startswith("."):
                    data = host.files.read(f"{folder}/{entry.path}", max_bytes=_MAX_BYTES)
                    values[f"{half}/{entry.path}"] = data.decode("utf-8", "replace")
    except OSError as error:
        raise InvalidInputError(f"cannot read '{error.filename or 'features'}': {error.strerror}") from error
    if not values:
        raise _nothing("check")
    return values


def _service(shell: Shell) -> str:
    """Return the URL below which the watch serves features, by the image's policy."""
    served = hear(load_image_policy(shell.host, shell.policy_override, may_write=False), {}).settings["watch.http"]
    if served == "off":
        message = "cannot check 'features' by URL: nothing is served, since 'watch.http' is off"
        raise UnknownError(message, hint="the folder can be checked: --form path")
    return f"http://{served}"


def _served(url: str) -> dict[str, str]:
    """Return those features that are served, each as it comes.

    Raises:
        UnknownError: Nobody serves anything there.
        InvalidInputError: What is served is no feature.
    """
    exchange = Exchange(parse_address(url), lambda: None)
    end_ns = time.monotonic_ns() + _TOTAL_NS
    values = {}
    try:
        for key in FEATURES:
            half, _, name = key.partition("/")
            text = _asked(exchange, f"/{_PATHS[half]}/{name}", end_ns)
            if text is not None:
                values[key] = text
    except Failed as error:
        message = f"cannot read '{url}': {error.detail}"
        raise UnknownError(message, hint="'contextagent watch' serves it, once something is published") from error
    except (OSError, BrokenSourceError) as error:
        cause = getattr(error, "strerror", None) or str(error) or "it took too long"
        raise InvalidInputError(f"cannot read '{url}': {cause}") from error
    finally:
        exchange.drop()
    if not values:
        raise _nothing("check")
    return values


def _asked(exchange: Exchange, path: str, end_ns: int) -> str | None:
    """Return the body of one answer, None where there is no such thing."""
    connect_end_ns = min(end_ns, time.monotonic_ns() + _CONNECT_NS)
    question = {"method": "GET", "target": path, "headers": [], "connect_end_ns": connect_end_ns}
    head, rest, until_ns = exchange.ask({**question, "end_ns": end_ns, "try_ns": _TOTAL_NS})
    if head.status != _OK:
        exchange.drain(head, rest)
        if head.status in _ABSENT:
            return None
        raise InvalidInputError(f"cannot read '{path}' of the watch: it answers {head.status}")
    body = b""
    for piece in exchange.pieces(head, rest, until_ns):
        body += piece
        if len(body) > _MAX_BYTES:
            raise InvalidInputError(f"cannot read '{path}' of the watch: it is longer than {_MAX_BYTES} bytes")
    if not head.is_kept:
        exchange.drop()
    return body.decode("utf-8", "replace")
