"""What happened, for people and for collectors: `trace show`, `trace verify`."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime

from contextagent import jsontext
from contextagent.cli import verdicts
from contextagent.cli.parser import add_action
from contextagent.cli.streams import chunks, follow, sources
from contextagent.cli.text import NOTHING, add_format, brief, printable
from contextagent.errors import UsageError
from contextagent.trace.records import RECORDS, decode, rfc3339
from contextagent.trace.syslog import lines_of, record_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from contextagent.cli.text import Shell

_HASH = re.compile(r"[0-9a-fA-F]{64}")
_AGE = re.compile(r"(\d{1,9})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ROW = "{utc:24} {inst:36} {boot:8} {seq:>5} {ev:11} {what}"
_SHOW_EXAMPLES = """examples:
  contextagent trace show --event end
  contextagent trace show --sha512 2c26b46b /var/log/remote/*.log    which machines ran this
  contextagent trace show --since 24h --owner user --format json

Without FILE: this machine's own traces. A FILE holds records as they are, or behind a syslog header; it may be packed
by gzip, bzip2 or xz; a folder stands for all files in it and below; - is stdin."""
_VERIFY_EXAMPLES = """examples:
  contextagent trace verify
  contextagent trace verify --anchor HASH /var/log/remote/*.log
  contextagent trace verify /var/log/remote/ messages-*.gz

Per boot: intact (the end is vouched for by a shutdown, an anchor or the next boot), open (the chain is good; the
machine died, or the tail was cut), broken. Exit code: 0 all intact, 2 some open, 1 any broken or an anchor that no
record has, 3 no record at all. With an anchor given, only that vouches for a boot's end. Of more than 20 boots, only
those that are not intact are listed."""


def add_trace(parser: argparse.ArgumentParser) -> None:
    """Add `trace show` and `trace verify`."""
    parser.epilog = "example:\n  contextagent trace verify && contextagent trace show --event end"
    add_format(parser)
    actions = parser.add_subparsers(dest="action", metavar="show|verify", required=True)
    show = add_action(actions, "show", "print the records, all or those that fit", _SHOW_EXAMPLES)
    show.add_argument(
        "--follow", action="store_true", help="go on with what is appended; JSON is then one record a line"
    )
    show.add_argument("--owner", choices=("site", "user"), help="records of this owner")
    show.add_argument(
        "--phase", choices=("pre-network", "post-network", "stop"), help="records of this phase's scripts"
    )
    show.add_argument("--event", choices=tuple(RECORDS), help="records of this event")
    show.add_argument(
        "--sha512", metavar="X", type=_digest, help="records with this digest, or one beginning so (8 digits)"
    )
    show.add_argument("--instance", metavar="ID", help="records of this instance")
    show.add_argument(
        "--since", metavar="T", help="from this time on (RFC 3339), or of this age at most (30m, 24h, 90d)"
    )
    verify = add_action(actions, "verify", "tell whether traces are whole", _VERIFY_EXAMPLES)
    verify.add_argument(
        "--anchor",
        metavar="HASH",
        type=_anchor,
        action="append",
        default=[],
        help="a record's hash known from the console, a receipt or the next boot; may be given again",
    )
    for action in (show, verify):
        action.add_argument("files", nargs="*", metavar="FILE", help="instead of this machine's own traces")


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8,128}", text):
        message = f"'{text}' is not 8 to 128 hex digits"
        raise argparse.ArgumentTypeError(message)
    return text.lower()


def _anchor(text: str) -> str:
    if not _HASH.fullmatch(text):
        message = f"'{text}' is not 64 hex digits"
        raise argparse.ArgumentTypeError(message)
    return text


def run_trace(options: argparse.Namespace, shell: Shell) -> int:
    """Show or verify records; return 0, or what `trace verify` found.

    Raises:
        UsageError: A FILE can't be read, or `--since` is no time.
        UnknownError: No FILE was given, and this machine has no trace.
    """
    return (
        verdicts.verify(options.files, options.anchor, shell) if options.action == "verify" else _show(options, shell)
    )


def _show(options: argparse.Namespace, shell: Shell) -> int:
    paths = sources(options.files, shell.host)
    since = _since(options.since, shell.host.utc_ns())
    lines = follow(options.files or paths) if options.follow else _lines(paths)
    needles = _needles(options)
    promising = (line for line in lines if all(needle in line for needle in needles))
    records = (decode(data) for data in map(record_bytes, promising) if data)
    chosen = (record for record in records if record and _fits(record, options, since))
    if not shell.is_json:
        _print_rows(chosen)
    elif options.follow:
        for record in chosen:
            sys.stdout.write(jsontext.dumps(record) + "\n")
    else:
        _print_list(chosen)
    return 0


def _lines(paths: list[str]) -> Iterator[bytes]:
    return (line for path in paths for line in lines_of(chunks(path)))


def _needles(options: argparse.Namespace) -> list[bytes]:
    """Return what stands in the line of every record that is wanted: the others are not parsed."""
    words = [options.sha512, options.event and f'"ev":"{options.event}"']
    words += [options.instance and f'"inst":{jsontext.dumps(options.instance)}']
    return [word.encode() for word in words if word]


def _since(text: str | None, now_ns: int) -> str:
    """Return the time from which on records are wanted, in the form that they have; empty for all.

    Raises:
        UsageError: It is neither a time nor an age.
    """
    if text is None:
        return ""
    age = _AGE.fullmatch(text)
    if age:
        return rfc3339(now_ns - int(age[1]) * _UNIT_S[age[2]] * 1_000_000_000)
    try:
        moment = datetime.fromisoformat(text)
        return rfc3339(int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000) * 1_000_000)
    except (ValueError, OverflowError) as error:
        message = f"cannot understand '{text}': no time such as 2026-11-21T04:00:00Z and no age such as 24h"
        raise UsageError(message) from error


def _fits(record: Mapping[str, Any], options: argparse.Namespace, since: str) -> bool:
    owner, _, rest = str(record.get("id", "")).partition("/")
    return (
        options.owner in (None, record.get("owner", owner))
        and options.phase in (None, rest.partition("/")[0])
        and options.event in (None, record["ev"])
        and options.instance in (None, record["inst"])
        and record["utc"] >= since
        and (options.sha512 is None or _has_digest(record, options.sha512))
    )


def _has_digest(record: Mapping[str, Any], digest: str) -> bool:
    return any("sha512" in key and str(value).startswith(digest) for key, value in record.items())


def _print_rows(records: Iterator[dict[str, Any]]) -> None:
    """Print one line a record, as it comes, under one line of headings."""
    headings = _ROW.format(utc="TIME", inst="INSTANCE", boot="BOOT", seq="SEQ", ev="EVENT", what="WHAT")
    sys.stdout.write(headings + "\n")
    for record in records:
        shown = {**record, "boot": record["boot"][:8], "inst": record["inst"] or "-", "what": _what(record)}
        sys.stdout.write(printable(_ROW.format(**shown)).rstrip() + "\n")


def _what(record: Mapping[str, Any]) -> str:
    """Return what a record says, in a few words."""
    match record["ev"]:
        case "start":
            return f"{record['id']} sha512 {record['sha512'][:16]} as {record.get('profile')}"
        case "end":
            signal = f" signal {record['signal']}" if record.get("signal") is not None else ""
            took = f" after {record['wall_s']} s" if record.get("wall_s") is not None else ""
            return f"{record['id']} {record.get('reason')} {record.get('exit', '')}{signal}{took}"
        case _:
            keys = list(record)
            own = {key: record[key] for key in keys[keys.index("ev") + 1 :]}
            return " ".join(f"{key}={brief(value)}" for key, value in own.items() if value not in NOTHING)


def _print_list(records: Iterator[dict[str, Any]]) -> None:
    """Print a JSON list, a record at a time: a collector's file is larger than memory."""
    separator = "["
    for record in records:
        sys.stdout.write(f"{separator}\n{jsontext.dumps(record)}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")
