"""What happened, for people and for collectors: `trace show`, `trace verify`, `receipt`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from datetime import UTC, datetime

from contextagent import jsontext
from contextagent.cli.parser import add_global
from contextagent.cli.text import add_format, printable, table
from contextagent.errors import RefusedError, UnknownError, UsageError
from contextagent.runner.journal import LOGS, read_records, receipt_path
from contextagent.trace.receipt import make_receipt
from contextagent.trace.records import RECORDS, decode, rfc3339
from contextagent.trace.syslog import lines_of, record_bytes
from contextagent.trace.verify import Verifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from contextagent.cli.text import Shell
    from contextagent.host import Host
    from contextagent.trace.verify import Report

_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2
_MAX_RECEIPT_BYTES = 64 << 20
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_AGE = re.compile(r"(\d{1,9})([smhd])")
_NOTHING: tuple[object, ...] = (None, "", [], {})
_SCRIPT_COLUMNS = ("id", "sha512", "profile", "uid", "reason", "exit", "duration_s")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ROW = "{utc:24} {inst:36} {boot:8} {seq:>5} {ev:11} {what}"
_SHOW_EXAMPLES = """examples:
  contextagent trace show --event end
  contextagent trace show --sha512 2c26b46b /var/log/remote/*.log    which machines ran this
  contextagent trace show --since 24h --owner user --format json

Without FILE: this machine's own traces. A FILE holds records as they are, or behind a syslog header; - is stdin."""
_VERIFY_EXAMPLES = """examples:
  contextagent trace verify
  contextagent trace verify --anchor HASH /var/log/remote/*.log
  zcat messages-*.gz | contextagent trace verify -

Per boot: intact (the end is vouched for by a shutdown, an anchor or the next boot), open (the chain is good; the
machine died, or the tail was cut), broken. Exit code: 0 all intact, 2 some open, 1 any broken or an anchor that no
record has, 3 no record at all. With an anchor given, only that vouches for a boot's end."""


def add_trace(parser: argparse.ArgumentParser) -> None:
    """Add `trace show` and `trace verify`."""
    parser.epilog = "example:\n  contextagent trace verify && contextagent trace show --event end"
    add_format(parser)
    actions = parser.add_subparsers(dest="action", metavar="show|verify", required=True)
    show = _action(actions, "show", "print the records, all or those that fit", _SHOW_EXAMPLES)
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
    verify = _action(actions, "verify", "tell whether traces are whole", _VERIFY_EXAMPLES)
    verify.add_argument(
        "--anchor",
        metavar="HASH",
        type=_anchor,
        action="append",
        default=[],
        help="a record's hash known from the console, a receipt or the next boot; may be given again",
    )


def _action(actions: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:  # noqa: ANN401  # private type
    action: argparse.ArgumentParser = actions.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    action.add_argument("files", nargs="*", metavar="FILE", help="instead of this machine's own traces")
    add_format(action)
    add_global(action)
    return action


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
    return _verify(options, shell) if options.action == "verify" else _show(options, shell)


def _sources(files: Sequence[str], host: Host) -> list[str]:
    """Return the files to read: those named, or the machine's own, oldest first.

    Raises:
        UnknownError: There is none.
        RefusedError: The caller may not read the machine's own.
    """
    if files:
        return list(files)
    names = [name for name in _log_names(host) if name.startswith("trace-") and name.endswith(".jsonl")]
    own = [host.files.real(f"{LOGS}/{name}") for name in names]
    if not own:
        message = f"cannot read '{LOGS}': there is no trace"
        raise UnknownError(message, hint="the agent writes one at boot; a collector's file can be named")
    return sorted(own, key=os.path.getmtime)


def _log_names(host: Host) -> list[str]:
    """Return the names of the agent's logs; none where it has not run.

    Raises:
        RefusedError: The caller may not read them.
    """
    try:
        return [entry.name for entry in host.files.folder(LOGS) if entry.kind == "file"]
    except PermissionError as error:
        message = f"cannot read '{LOGS}': {error.strerror}"
        raise RefusedError(message, hint="what ran on a machine is for root to read") from error


def _open(path: str) -> int:
    """Return a descriptor of a file to read.

    Raises:
        UsageError: It can't be opened.
    """
    if path == "-":
        return sys.stdin.fileno()
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        message = f"cannot read '{path}': {error.strerror}"
        raise UsageError(message) from error


def _chunks(path: str) -> Iterator[bytes]:
    """Yield a file's bytes.

    Raises:
        UsageError: It can't be read.
    """
    fd = _open(path)
    try:
        while data := _read(fd, path):
            yield data
    finally:
        os.close(fd)


def _read(fd: int, path: str) -> bytes:
    try:
        return os.read(fd, _CHUNK_BYTES)
    except OSError as error:
        message = f"cannot read '{path}': {error.strerror}"
        raise UsageError(message) from error


def _followed(paths: Sequence[str]) -> Iterator[bytes]:
    """Yield the lines of files that grow, for as long as somebody listens."""
    rests = [(path, _open(path), bytearray()) for path in paths]
    while True:
        for path, fd, rest in rests:
            while data := _read(fd, path):
                rest.extend(data)
                *lines, last = bytes(rest).split(b"\n")
                rest[:] = last
                yield from lines
        sys.stdout.flush()
        time.sleep(_POLL_S)


def _show(options: argparse.Namespace, shell: Shell) -> int:
    paths = _sources(options.files, shell.host)
    since = _since(options.since, shell.host.utc_ns())
    lines = _followed(paths) if options.follow else (line for path in paths for line in lines_of(_chunks(path)))
    records = (decode(data) for data in map(record_bytes, lines) if data)
    chosen = (record for record in records if record and _fits(record, options, since))
    if not shell.is_json:
        _print_rows(chosen)
    elif options.follow:
        for record in chosen:
            sys.stdout.write(jsontext.dumps(record) + "\n")
    else:
        _print_list(chosen)
    return 0


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
            return " ".join(f"{key}={_brief(value)}" for key, value in own.items() if value not in _NOTHING)


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else jsontext.dumps(value)
    return text[:16] if re.fullmatch("[0-9a-f]{64,128}", text) else text


def _print_list(records: Iterator[dict[str, Any]]) -> None:
    """Print a JSON list, a record at a time: a collector's file is larger than memory."""
    separator = "["
    for record in records:
        sys.stdout.write(f"{separator}\n{jsontext.dumps(record)}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def _verify(options: argparse.Namespace, shell: Shell) -> int:
    verifier = Verifier(options.anchor)
    for path in _sources(options.files, shell.host):
        verifier.feed(_chunks(path))
    report = verifier.report()
    shell.emit(_plain(report), "\n".join(_report_lines(report)))
    return report.exit_code


def _plain(report: Report) -> dict[str, object]:
    return {
        "boots": [{**boot.as_dict(), "fault": boot.fault and boot.fault.as_dict()} for boot in report.boots],
        "foreign": report.foreign,
        "damaged": report.damaged,
        "missing_anchors": list(report.missing_anchors),
    }


def _report_lines(report: Report) -> Iterator[str]:
    if report.boots:
        rows = [
            (boot.boot, boot.inst or "-", boot.verdict, boot.records, boot.duplicates, boot.because)
            for boot in report.boots
        ]
        yield table(("BOOT", "INSTANCE", "VERDICT", "RECORDS", "AGAIN", "BECAUSE"), rows)
    else:
        yield "no record at all"
    for boot in report.boots:
        if boot.fault:
            yield f"{printable(boot.boot)}: record {boot.fault.seq}: expected {boot.fault.expected or 'one record'}"
            yield f"{printable(boot.boot)}: record {boot.fault.seq}: found {boot.fault.found or 'none'}"
    yield from (f"no record has the anchor {anchor}" for anchor in report.missing_anchors)
    for count, what in ((report.foreign, "no trace records"), (report.damaged, "damaged")):
        if count:
            yield f"{count} lines are {what}"


def add_receipt(parser: argparse.ArgumentParser) -> None:
    """Add the words of `receipt`."""
    parser.epilog = "example:\n  contextagent receipt --format json"
    parser.add_argument("--boot", metavar="ID", help="boot to tell of (default: this one)")
    add_format(parser)


def run_receipt(options: argparse.Namespace, shell: Shell) -> int:
    """Print a boot's receipt up to now: what was written of it, and what the trace says since.

    Raises:
        UnknownError: Nothing is known of that boot.
        RefusedError: The caller may not read the trace.
    """
    _log_names(shell.host)
    boot_id = options.boot or shell.host.boot_id()
    receipt = make_receipt(read_records(shell.host, boot_id), _written(shell.host, boot_id))
    if receipt["last"] is None:
        message = f"cannot find the receipt of boot '{boot_id}': it has no trace here"
        raise UnknownError(message, hint="contextagent trace show")
    shell.emit(receipt, "\n".join(_receipt_lines(receipt)))
    return 0


def _written(host: Host, boot_id: str) -> dict[str, Any]:
    """Return what the receipt that the agent wrote knows beyond the trace; nothing where it can't be read."""
    try:
        found = jsontext.loads(host.files.read(receipt_path(boot_id), max_bytes=_MAX_RECEIPT_BYTES))
        return {"trust": found["trust"], "scripts": {script["id"]: script for script in found["scripts"]}}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _receipt_lines(receipt: Mapping[str, Any]) -> Iterator[str]:
    for key, value in receipt.items():
        if key == "scripts" and value:
            yield "scripts:"
            rows = [[_script_cell(script, column) for column in _SCRIPT_COLUMNS] for script in value]
            yield from (
                f"  {line}" for line in table([column.upper() for column in _SCRIPT_COLUMNS], rows).splitlines()
            )
        elif key in ("first", "last") and value:
            yield f"{key}: record {value['seq']}, hash {printable(str(value['hash']))}"  # whole: it serves as an anchor
        elif isinstance(value, list) and value:
            yield f"{key}:"
            yield from (f"  {_line(item)}" for item in value)
        elif value not in _NOTHING:
            yield f"{key}: {_line(value)}"


def _script_cell(script: Mapping[str, Any], column: str) -> str:
    value = script.get(column)
    return "-" if value in _NOTHING else _brief(value)


def _line(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={printable(_brief(item))}" for key, item in value.items() if item not in _NOTHING)
    return printable(_brief(value))
