"""Features that a service has are read in time and in bounds, and what can't be had is never taken for absent."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextagent import jsontext
from contextagent.features.vocabulary import FEATURES, OLDER, OLDER_ALONE, value_problem
from contextagent.host import Host
from contextagent.model import Kept, Supply
from contextagent.runner.state import State, instance_folder
from contextagent.sources import features
from contextagent.sources.features import Read, Urls, read_features, start_reading, urls
from tests.certificates import Authority
from tests.puts import Puts
from tests.servers import CLOSE, HANG, RESET, Drip, Server, answer, chunked, head

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_KEYS = st.sampled_from(features.keys())
INSTANCE = "i-1"
SHORT_S = 1.5
VALUES = {
    "/machinefeatures/total_cpu": "8",
    "/machinefeatures/shutdowntime": "1900000000\n",
    "/machinefeatures/shutdown_command": "/usr/sbin/poweroff",
    "/jobfeatures/allocated_CPU": "4\n",
    "/jobfeatures/job_id": "  a-1 ",
}
READ = {
    "machine/total_cpu": "8",
    "machine/shutdowntime": "1900000000",
    "machine/shutdown_command": "/usr/sbin/poweroff",
    "job/allocated_CPU": "4",
    "job/job_id": "a-1",
}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


def served(values: Mapping[str, str] = VALUES, more: Mapping[str, Any] | None = None) -> Server:
    plays = {path: answer(text) for path, text in values.items()}
    return Server({**plays, **(more or {})})


def of(server: Server, host: str = "127.0.0.1", *, is_sites: bool = True) -> Urls:
    base = f"http://{host}:{server.port}"
    return Urls(machine=f"{base}/machinefeatures", job=f"{base}/jobfeatures", is_sites=is_sites)


def one(play: Any, **words: Any) -> Read:
    """Return what is read where one key answers so, and the others not at all."""
    with Server({"/m/total_cpu": play}) as server:
        return read_features(Host(), Urls(machine=f"{server.url}/m", is_sites=True), **words)


def test_every_known_key_is_asked_for_over_one_connection(host: Host) -> None:
    with served() as server:
        assert read_features(host, of(server)) == Read(values=READ)
        assert server.connections == 1
        asked = {path.replace("features", "", 1)[1:] for path in server.paths()}
    assert {*FEATURES, *OLDER, *OLDER_ALONE} <= asked
    assert len(server.paths()) == len(asked)
    assert server.paths()[0] == "/machinefeatures/shutdowntime"


def test_a_name_and_a_server_that_keeps_no_connection_are_read_as_well(host: Host) -> None:
    plays = {path: [b"HTTP/1.0 200 OK\r\n\r\n" + text.encode(), CLOSE] for path, text in VALUES.items()}
    with Server(plays) as server:
        assert read_features(host, of(server)).values == READ
    with served() as server:
        assert read_features(host, of(server, "localhost")).values == READ


def test_over_tls_the_authorities_of_the_grid_count(host: Host, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    with Puts(certificate=authority.issue("localhost")) as server:
        there = Urls(machine=server.url("/m", host="localhost"), is_sites=True)
        (problem,) = read_features(host, there).problems
        assert "its certificate is refused" in problem.message
        assert server.asked == 0
        folder = tmp_path / "etc/grid-security/certificates"
        folder.mkdir(parents=True)
        (folder / f"{authority.hash()}.0").write_bytes(authority.cert.read_bytes())
        (problem,) = read_features(host, there).problems
        assert problem.message.endswith("its status is 405, going on without it")
        assert server.asked == len([key for key in (*FEATURES, *OLDER, *OLDER_ALONE) if key.startswith("machine/")]) + 1


@pytest.mark.parametrize(
    "play",
    [answer("", 404), answer("", 410), head(204), answer(""), answer(" \n")],
    ids=["404", "410", "204", "empty", "blank"],
)
def test_what_is_not_there_is_absent_whatever_was_there_before(play: bytes) -> None:
    assert one(play, previous={"machine/total_cpu": "7"}) == Read()


@pytest.mark.parametrize(
    "play",
    [
        answer("", 302, "Location: /m/hs06"),
        answer("", 403),
        answer("", 500),
        answer("<html>", 200, "Content-Type: text/html; charset=utf-8"),
        answer("9" * 5000),
        chunked(*[b"9" * 100] * 50),
        answer("8", 200, "Content-Encoding: gzip"),
        [head(200, "Content-Length: 10"), b"8", CLOSE],
        [head(200, "Content-Length: 1", "Content-Length: 2"), b"8", CLOSE],
        [b"8\n", CLOSE],
        [[RESET]],
    ],
    ids=["redirect", "403", "500", "html", "huge", "chunks", "gzip", "cut", "two-lengths", "no-http", "reset"],
)
def test_what_can_not_be_had_is_said_and_what_was_read_before_stands(play: Any) -> None:
    read = one(play, previous={"machine/total_cpu": "7", "machine/hs06": "1"})
    assert read.values == {"machine/total_cpu": "7"}
    (problem,) = read.problems
    assert problem.reason == "feature-not-read"
    assert "/m/total_cpu': " in problem.message
    assert problem.message.endswith(", keeping what was read before")
    assert not read.is_complete
    (problem,) = one(play).problems
    assert problem.message.endswith(", going on without it")


@pytest.mark.parametrize("text", ["0", "-1", "8 CPUs", "8\n9", "\0", "\x7f", "ä" * 530])
def test_a_value_that_its_key_can_not_have_is_left_out(text: str) -> None:
    read = one(answer(text))
    assert read.values == {}
    assert [problem.reason for problem in read.problems] == ["bad-feature"]
    assert read.problems[0].message.isascii()
    assert read.is_complete


def test_no_redirect_is_followed(host: Host) -> None:
    with served(more={"/machinefeatures/total_cpu": answer("", 302, "Location: /machinefeatures/other")}) as server:
        read_features(host, of(server))
        read_features(host, of(server, "localhost"))
        assert "/machinefeatures/other" not in server.paths()


def test_what_a_machine_does_by_counts_only_from_a_url_of_the_site(host: Host) -> None:
    with served(VALUES | {"/machinefeatures/syslog": "10.0.0.1"}) as server:
        read = read_features(host, of(server, is_sites=False))
        assert read_features(host, of(server)).values["machine/syslog"] == "10.0.0.1"
    assert {"machine/shutdown_command", "machine/syslog"}.isdisjoint(read.values)
    assert {problem.reason for problem in read.problems} == {"not-the-sites"}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize(
    "play",
    [HANG, Drip(head(200, "Content-Length: 100") + b"1", is_endless=True), Drip(b"HTTP/1.1 200", 0.3)],
    ids=["hang", "drip", "slow-head"],
)
def test_one_key_that_never_comes_costs_only_itself_or_the_time(host: Host, play: Any, name: str) -> None:
    with served(more={"/machinefeatures/hs06": [play]}) as server:
        began = time.monotonic()
        read = read_features(host, of(server, name), total_s=4, previous={"machine/hs06": "10", "job/job_id": "x"})
        assert time.monotonic() - began < 30
    assert read.values["machine/hs06"] == "10"
    assert not read.is_complete
    if name == "127.0.0.1":  # the library is killed when its time is over, and what it had is gone with it
        assert read.values == {**READ, "machine/hs06": "10"}


def test_a_service_that_is_not_there_is_left_after_two_tries(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with served() as server:
        there = of(server).replace(machine=f"http://127.0.0.1:{port}/m")
        read = read_features(host, there, total_s=4, previous={"machine/total_cpu": "7", "job/job_id": "old"})
    assert read.values == {"machine/total_cpu": "7", "job/allocated_CPU": "4", "job/job_id": "a-1"}
    assert [problem.reason for problem in read.problems] == ["feature-not-read"]
    assert f"'http://127.0.0.1:{port}/m'" in read.problems[0].message


def test_whoever_reads_in_the_background_does_not_wait(host: Host) -> None:
    with Server({}) as server:
        server.scripts["/machinefeatures/shutdowntime"] = [HANG]
        reading = start_reading(host, of(server), previous={"machine/total_cpu": "7"})
        assert not select.select([reading.fd], [], [], 0)[0]
        read = reading.finish()
        assert read.values == {"machine/total_cpu": "7"}
        assert not read.is_complete
        again = start_reading(host, of(server))
        again.close()
        again.close()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def test_where_there_is_no_url_nothing_is_asked_and_nothing_started(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fork")
    reading = start_reading(host, Urls(), previous={"machine/total_cpu": "7"})
    assert select.select([reading.fd], [], [], 0)[0]
    assert reading.finish() == Read()


def test_no_process_to_be_had_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    read = read_features(host, Urls(machine="http://127.0.0.1:1/m"), previous={"machine/total_cpu": "7"})
    assert read.values == {"machine/total_cpu": "7"}
    assert [problem.reason for problem in read.problems] == ["feature-not-read"]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"values": {"machine/total_cpu": 8}, "causes": {}}',
        b'{"values": [], "causes": {}}',
        b'{"values": {}}',
        b'{"values": {"machine/../../x": "8", "job/job_id": "not asked"}, "causes": {"else": "x"}}',
    ],
)
def test_a_child_that_was_taken_over_is_not_believed(said: bytes) -> None:
    reading = features.Reading(None, Urls(machine="http://127.0.0.1/m", is_sites=True), {"machine/hs06": "7"})
    read = reading._judged(said, "it took too long")
    reading.close()
    assert set(read.values) <= {"machine/hs06"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(features.keys()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | _KEYS, inner, max_size=6),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["values", "causes", "else"]), _JSON) | _JSON)
def test_whatever_a_child_says_only_what_a_key_can_have_counts(said: object) -> None:
    reading = features.Reading(None, Urls(machine="http://127.0.0.1/m"), {"machine/hs06": "7"})
    read = reading._judged(jsontext.dumps(said).encode(), "it took too long")
    reading.close()
    assert all(key.startswith("machine/") and not value_problem(key, text) for key, text in read.values.items())
    assert {"machine/shutdown_command", "machine/syslog"}.isdisjoint(read.values)
    assert all(problem.message.isascii() and "\n" not in problem.message for problem in read.problems)


def state(meta: Mapping[str, Any] | None = None, name: str = "vac-meta.json", **supplies: Mapping[str, str]) -> State:
    kept = (Kept(name=name, sha512="", size_bytes=0, content="context/kept-user/000", reason="meta-map"),)
    made: dict[Any, Supply | None] = {
        owner: Supply(owner="site" if owner == "site" else "user", source="disk", variables=variables)
        for owner, variables in supplies.items()
    }
    if meta is not None:
        user = made.get("user") or Supply(owner="user", source="metadata:vac")
        made["user"] = user.replace(kept=kept)
    return State(instance_id=INSTANCE, supplies=made)


def told(host: Host, known: State, meta: object = None) -> tuple[Urls, list[str]]:
    folder = f"{instance_folder(INSTANCE)}/context/kept-user"
    host.files.make_folder(folder)
    host.files.write(f"{folder}/000", meta if isinstance(meta, bytes) else jsontext.dumps(meta).encode())
    found, problems = urls(host, known)
    return found, [problem.reason for problem in problems]


META = {
    "machinefeatures": "http://169.254.169.253/machinefeatures/",
    "jobfeatures": "http://169.254.169.253/jobfeatures",
    "joboutputs": "http://169.254.169.253/joboutputs",
}


def test_what_is_only_offered_and_not_there_is_another_matter_than_what_was_asked_for() -> None:
    for is_offered, reason in ((True, "offer-not-read"), (False, "feature-not-read")):
        urls = Urls(machine="http://127.0.0.1:1/machinefeatures", is_offered=is_offered)
        assert {problem.reason for problem in read_features(Host(), urls).problems} == {reason}


def test_the_meta_map_says_where_features_are_and_vacs_is_the_sites(host: Host) -> None:
    found, problems = told(host, state(META), META)
    assert found == Urls(
        machine="http://169.254.169.253/machinefeatures",
        job="http://169.254.169.253/jobfeatures",
        outputs="http://169.254.169.253/joboutputs",
        is_sites=True,
        is_offered=True,
    )
    assert problems == []
    found, _ = told(host, state(META, "openstack-meta.json"), META)
    assert not found.is_sites


def test_the_sites_context_sh_is_listened_to_first_and_the_users_last(host: Host) -> None:
    site, user = {"MACHINEFEATURES": "http://10.0.0.1/m"}, {"JOBFEATURES": "http://10.0.0.9/j"}
    found, _ = told(host, state(META, site=site, user=user), META)
    assert (found.machine, found.job, found.is_sites) == ("http://10.0.0.1/m", "", True)
    assert found.outputs == META["joboutputs"]
    found, _ = told(host, state(user=user))
    assert (found.machine, found.job, found.is_sites) == ("", "http://10.0.0.9/j", False)


@pytest.mark.parametrize(
    "meta", [b"nonsense", [], {}, {"machinefeatures": 7, "jobfeatures": ["x"]}, {"joboutputs": "/x"}]
)
def test_a_meta_map_without_urls_says_nothing(host: Host, meta: object) -> None:
    assert told(host, state({}), meta) == (Urls(), [])


def test_a_url_that_is_none_is_said_without_its_password(host: Host) -> None:
    site = {"MACHINEFEATURES": "http://me:secret@10.0.0.1/m", "JOBFEATURES": "ftp://x"}
    found, problems = urls(host, state(site=site))
    assert found == Urls()
    assert [problem.reason for problem in problems] == ["bad-url", "bad-url"]
    assert "secret" not in str(problems)
