"""Faults of the way to the metadata service (N1 to N5): what is played, what must come of it, and one case of a run.

A payload that must be refused holds scripts that leave a mark, so that it is seen if any of it ran.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.hold.arena import REFUSED_MARK, SITE_ONCE, SITE_SCRIPTS, USER_SCRIPTS, Arena, Run
from tests.hold.invariants import violations
from tests.machine import AGENT, TIMEOUT_S
from tests.servers import Server, answer
from tests.tars import file, tgz

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.servers import Play

BUNDLE = "/context/default.tgz"
DIALECTS = {
    "openstack": ("/openstack/latest/meta_data.json", "/openstack/latest/user_data"),
    "vac": ("/openstack/latest/meta-data.json", "/openstack/latest/user-data"),
    "ec2": ("/latest/meta-data/instance-id", "/latest/user-data"),
}
LIMIT = {"named": 3, "auto": 6}
"""Requests of a boot in which nothing is tried again."""
MAX_REQUESTS = 30
SLACK_S = 10
"""What a busy machine may need beyond a deadline; a deadline that does not hold is late without end."""
OUTAGES = ("unreachable", "timeout", "reset", "server-error", "rate-limited", "down", "cut-short")
"""Reasons of which the service's health is the cause: the last good context serves."""


class Fault(NamedTuple):
    """What goes wrong, and the verdict that it must get.

    Attributes:
        name: In a few words.
        plays: From a good body and one that must be refused to what is played, one play a request, the last for ever.
        verdict: On whoever's material is hit.
        reason: The first word of a bad verdict.
        targets: What it can hit.
        is_slow: Whether it passes, if it is waited for.
        is_retried: Whether it is asked for again.
        token: What a service wants to be shown by IMDSv2.
        imds: What the policy says of that.
    """

    name: str
    plays: Callable[[bytes, bytes], list[Play]]
    verdict: str = "broken"
    reason: str = ""
    targets: tuple[str, ...] = ("bundle", "bundle", "user", "meta", "all")
    is_slow: bool = False
    is_retried: bool = False
    token: str = ""
    imds: str = "auto"


class Case(NamedTuple):
    """One boot with one fault.

    Attributes:
        name: Family and number.
        target: `bundle`, `meta`, `user` or `all`.
        dialect: What the service speaks.
        is_named: Whether the policy says so, or the agent finds out.
        is_warm: Whether the instance has booted well before.
        fault: The fault.
    """

    name: str
    target: str
    dialect: str
    is_named: bool
    is_warm: bool
    fault: Fault

    def verdicts(self) -> dict[str, tuple[str, str]]:
        """Return each owner's verdict and reason."""
        bad = (self.fault.verdict, self.fault.reason)
        hit = {
            "bundle": ("site",),
            "user": ("user",),
            "all": ("site", "user"),
            # a dialect that the policy names is asked for user data whatever its meta data came to
            "meta": () if self.is_named else ("user",),
        }[self.target]
        return {owner: bad if owner in hit else ("found", "") for owner in ("site", "user")}


class Realm(Arena):
    """A machine whose context comes from a metadata service."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.bundle = tgz(
            file("prolog.sh", self.script("site/pre-network/prolog.sh").encode()),
            file("epilog.sh", self.script("site/post-network/epilog.sh").encode()),
            file("post-network.d/10-once", self.script(SITE_ONCE).encode()),
            file("files/etc/site.conf", b"of the site\n"),
            file("site.yaml", f"scripts:\n  {SITE_ONCE}:\n    frequency: once\n".encode()),
        ).getvalue()
        self.user_data = tgz(
            file("prolog.sh", self.script("user/pre-network/prolog.sh", "echo here > left-by-user").encode()),
            file("epilog.sh", self.script("user/post-network/epilog.sh").encode()),
        ).getvalue()
        mark = f"#!/bin/sh\necho '{REFUSED_MARK}' >> {self.effects}\n".encode()
        self.evil = tgz(file("prolog.sh", mark), file("epilog.sh", mark)).getvalue()

    def good(self, dialect: str) -> dict[str, bytes]:
        """Return what a service has that does all as it should: path to body."""
        meta, user = DIALECTS[dialect]
        ident = b"i-0123456789" if dialect == "ec2" else b'{"uuid": "0b0b0b0b-0000-4000-8000-000000000001"}'
        return {BUNDLE: self.bundle, meta: ident, user: self.user_data}

    def scripts(self, dialect: str) -> dict[str, Any]:
        """Return the same as scripts for a server."""
        return {path: answer(body) for path, body in self.good(dialect).items()}

    def ask(self, url: str | None, prefix: Sequence[str] = (), *, environment: Mapping[str, str] | None = None) -> Run:
        """Boot from a service; None: the one that the policy names."""
        self.note("run")
        words = ["--disk", "none", *(["--metadata", url] if url else [])]
        done = subprocess.run(
            [*prefix, *AGENT, "--root", str(self.root), "run", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
            cwd="/",
            env={**os.environ, **(environment or {})},
        )
        return Run(done.returncode, done.stdout.decode("utf-8", "replace"))

    def policy(self, **more: object) -> None:
        """Say how long the service is waited for, and what else of it."""
        words = {"connect_s": 5, "try_s": 1, "total_s": 2, **more}
        text = ", ".join(f"{key}: {value}" for key, value in words.items())
        self.put("etc/contextagent/policy.yaml", f"metadata: {{{text}}}\n")

    def last_lines(self) -> list[str]:
        """Return the effects of the last run."""
        lines = self.effect_lines()
        return lines[max(number for number, line in enumerate(lines) if line == "-- run") :]


def playing(realm: Realm, case: Case) -> dict[str, Any]:
    """Return the scripts of a server that has this case's fault."""
    good = realm.good(case.dialect)
    meta, user = DIALECTS[case.dialect]
    paths = {"bundle": (BUNDLE,), "meta": (meta,), "user": (user,), "all": (BUNDLE, meta, user)}[case.target]
    scripts = realm.scripts(case.dialect)
    for path in paths:
        scripts[path] = case.fault.plays(good[path], good[path] if path == meta else realm.evil)
    if case.fault.token:
        scripts = {path: _guarded(good[path], case.fault.token) for path in scripts}
        scripts["PUT /latest/api/token"] = answer(case.fault.token)
    return scripts


def _guarded(body: bytes, token: str) -> Any:
    return lambda request: [
        answer(body) if request.headers.get("x-aws-ec2-metadata-token") == token else answer("", 401)
    ]


def wrong(case: Case, folder: Path, clean: Mapping[str, str]) -> list[str]:
    """Run a case and the whole run after it; return everything that is not as it must be.

    Args:
        case: The case.
        folder: For its machine.
        clean: The tree of a machine that went the same way without a fault.
    """
    realm = Realm(folder)
    total_s = 8 if case.fault.is_slow else 3
    realm.policy(
        connect_s=5,
        total_s=total_s,
        try_s=2 if case.fault.is_slow else 1,
        imds=case.fault.imds,
        dialect=case.dialect if case.is_named else "auto",
    )
    with ExitStack() as stack:
        well = stack.enter_context(Server(realm.scripts(case.dialect)))
        if case.is_warm:
            realm.ask(well.url)
            realm.reboot()
        ill = stack.enter_context(Server(playing(realm, case)))
        start = time.monotonic()
        faulty = realm.ask(ill.url)
        took_s = time.monotonic() - start
        found = [*judged(realm, case.verdicts(), is_warm=case.is_warm), *_counted(case, ill)]
        if took_s > total_s + SLACK_S:
            found.append(f"it took {took_s:.1f} s")
        durable = realm.traces()
        realm.reboot()
        healed = realm.ask(well.url)
    said = faulty.output + healed.output
    return found + violations(realm, durable=durable, said=said, clean=clean, clean_result="ok")


def judged(realm: Realm, expected: Mapping[str, tuple[str, str]], *, is_warm: bool) -> Iterator[str]:
    """Yield what is not right right after the boot with the fault."""
    status = realm.status()
    lines = realm.last_lines()
    told = {each["owner"]: each for each in status["verdicts"] if each["source"].startswith("metadata")}
    for owner, (verdict, reason) in expected.items():
        words = told[owner]["reason"]
        if told[owner]["verdict"] != verdict or (reason and words.partition(":")[0] != reason):
            yield f"{owner}: {told[owner]['verdict']} ({words}), not {verdict} ({reason})"
    verdict, reason = expected["site"]
    is_had = verdict == "found" or (is_warm and reason in OUTAGES)
    for script_id in SITE_SCRIPTS:
        has_run = f"done {script_id}" in lines
        if has_run is not (is_had and not (is_warm and script_id == SITE_ONCE)):
            yield f"{script_id} {'ran' if has_run else 'did not run'}: {status['errors']} {status['warnings']}"
    is_users = expected["user"][0] == "found" and not is_warm
    for script_id in USER_SCRIPTS:
        if (f"done {script_id}" in lines) is not is_users:
            yield f"{script_id} {'did not run' if is_users else 'ran'}: {status['errors']} {status['warnings']}"
    is_failed = verdict == "broken" or (verdict == "unreachable" and is_warm)
    if (status["result"] == "failed") is not is_failed:
        yield f"result {status['result']} where the site's verdict is {verdict}: {status['errors']}"
    if status["pilot"] is not None:
        yield f"a pilot appeared: {status['pilot']}"


def _counted(case: Case, server: Server) -> Iterator[str]:
    """Yield what was asked too often."""
    limit = LIMIT["named" if case.is_named else "auto"] + 2 * bool(case.fault.token)
    if len(server.requests) > (MAX_REQUESTS if case.fault.is_retried else limit):
        yield f"{len(server.requests)} requests: {server.paths()}"
    known = {BUNDLE, "/latest/api/token", *(path for paths in DIALECTS.values() for path in paths)}
    if strange := set(server.paths()) - known:
        yield f"it asked for {strange}"


def clean_tree(folder: Path, dialect: str, *, is_warm: bool) -> dict[str, str]:
    """Return the tree of a machine after the same boots without a fault."""
    realm = Realm(folder)
    realm.policy()
    with Server(realm.scripts(dialect)) as server:
        for turn in range(3 if is_warm else 2):
            if turn:
                realm.reboot()
            realm.ask(server.url)
    assert realm.status()["result"] == "ok", realm.status()
    return realm.tree()
